//! A router with a back end that writes down every byte it gets, and the three questions that
//! are asked of them: what is refused, what reaches the back end, what reaches the client.
//!
//! Messages are written with `|` for a line end. What differs from run to run is replaced by a
//! word: `ID`, `ME` (the router in `Via`), `PORT`, `DATE`.

use std::sync::{Arc, Mutex};

use portolan_router::Config;

use super::instance::Instance;
use super::peer::Peer;
use super::rig::{Rig, until, web};

/// What is added to a request for `web.test`.
pub const ASKED: &str = "Via: 1.1 ME|X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: web.test|\
    X-Forwarded-Proto: http|X-Forwarded-Port: PORT|X-Request-Id: ID";
/// What is added to a response without a `Date` on a connection that closes.
pub const ANSWERED: &str = "Via: 1.1 ME|Date: DATE|X-Request-Id: ID|Connection: close";

/// An answer of the back end.
pub struct Answer {
    bytes: Vec<u8>,
    close: bool,
}

/// These lines, and the connection stays.
pub fn keep(text: &str) -> Answer {
    Answer { bytes: lines(text), close: false }
}

/// These lines, and then the connection ends.
pub fn close(text: &str) -> Answer {
    Answer { close: true, ..keep(text) }
}

/// A message written with `|`.
pub fn lines(text: &str) -> Vec<u8> {
    text.replace('|', "\r\n").into_bytes()
}

/// The back end.
pub struct Recorder {
    pub instance: Instance,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    /// Answers each whole request with what `answer` makes of it.
    pub async fn new<F>(answer: F) -> Self
    where
        F: Fn(&str) -> Answer + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let record = Arc::clone(&seen);
        let instance = Instance::raw(move |mut peer, _| {
            let (answer, record) = (Arc::clone(&answer), Arc::clone(&record));
            async move {
                let mut pending = Vec::new();
                loop {
                    let bytes = peer.some().await;
                    if bytes.is_empty() {
                        return;
                    }
                    record.lock().unwrap().extend_from_slice(&bytes);
                    pending.extend(bytes);
                    while let Some(len) = whole(&pending) {
                        let request = String::from_utf8_lossy(&pending[..len]).into_owned();
                        pending.drain(..len);
                        let answer = answer(&request);
                        if !peer.try_send(&answer.bytes).await || answer.close {
                            return;
                        }
                    }
                }
            }
        })
        .await;
        Self { instance, seen }
    }

    /// Everything that came since the last call.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// Waits until `text` has come.
    pub async fn sees(&self, text: &str) {
        let seen = || String::from_utf8_lossy(&self.seen.lock().unwrap()).contains(text);
        until(text, seen).await;
    }
}

/// The bytes of the first request, if it is whole; good enough for what the router sends.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let body = &bytes[head..];
    let length = if text.contains("\r\ntransfer-encoding:") {
        let mut at = 0;
        loop {
            let line = at + find(&body[at..], b"\r\n")?;
            let size = std::str::from_utf8(&body[at..line]).unwrap().split(';').next().unwrap();
            match usize::from_str_radix(size, 16).unwrap() {
                0 => break line + find(&body[line..], b"\r\n\r\n")? + 4,
                size => at = line + 2 + size + 2,
            }
            body.get(at)?;
        }
    } else if let Some((_, rest)) = text.split_once("\r\ncontent-length: ") {
        rest.split("\r\n").next().unwrap().parse().unwrap()
    } else {
        0
    };
    (body.len() >= length).then_some(head + length)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Both of them.
pub struct Stage {
    pub rig: Rig,
    pub backend: Recorder,
}

impl Stage {
    /// A back end that says "ok".
    pub async fn new() -> Self {
        Self::answering(|_| keep("HTTP/1.1 200 OK|Content-Length: 2||ok")).await
    }

    pub async fn answering<F>(answer: F) -> Self
    where
        F: Fn(&str) -> Answer + Send + Sync + 'static,
    {
        Self::with(answer, |_| {}).await
    }

    pub async fn with<F>(answer: F, configure: impl FnOnce(&mut Config)) -> Self
    where
        F: Fn(&str) -> Answer + Send + Sync + 'static,
    {
        let backend = Recorder::new(answer).await;
        let rig = Rig::with(&web(&[backend.instance.addr]), configure);
        Self { rig, backend }
    }

    /// Sends these bytes on a connection of their own: this status and reason, a closed
    /// connection, and not one byte at the back end.
    pub async fn refuses(&self, rule: u8, what: &str, bytes: &[u8], status: u16, reason: &str) {
        let mut client = self.rig.client().await;
        client.try_send(bytes).await;
        self.refused(&mut client, &format!("rule {rule}, {what}"), status, reason).await;
        let seen = self.backend.take();
        assert!(seen.is_empty(), "rule {rule}, {what}: {:?}", String::from_utf8_lossy(&seen));
    }

    /// The refusal on a connection.
    pub async fn refused(&self, client: &mut Peer, what: &str, status: u16, reason: &str) {
        let before = self.rig.ended(reason);
        let response = client.response().await;
        let text = response.text();
        assert_eq!(response.status(), status, "{what}: {text}");
        assert_eq!(text.lines().next(), Some(reason), "{what}");
        assert_eq!(response.field("connection").as_deref(), Some("close"), "{what}");
        let proxy_status = response.field("proxy-status").expect(what);
        assert!(proxy_status.ends_with(&format!(" {reason}\"")), "{what}: {proxy_status}");
        assert_eq!(client.rest().await, b"", "{what}: nothing follows");
        assert!(before > 0.0 || self.rig.ended(reason) > 0.0, "{what} is counted");
    }

    /// Every request of a table is refused; after it the router serves others.
    pub async fn refuses_all(&self, cases: &[(u8, &str, &str, u16, &str)]) {
        for (rule, what, text, status, reason) in cases {
            self.refuses(*rule, what, &lines(text), *status, reason).await;
        }
        assert_eq!(self.rig.client().await.get("/good").await.status(), 200);
        assert!(self.backend.take().starts_with(b"GET /good "));
    }

    /// What the back end gets when a client sends this.
    pub async fn passed(&self, request: &str) -> String {
        let mut client = self.rig.client().await;
        let response = client.ask(lines(request)).await;
        assert_eq!(response.status(), 200, "{request}: {}", response.text());
        self.normal(&self.backend.take())
    }

    /// Every request of a table reaches the back end in this form, byte for byte.
    pub async fn passes_all(&self, cases: &[(u8, &str, &str, &str)]) {
        for (rule, what, sent, expected) in cases {
            let expected = expected.replace("ASKED", ASKED);
            assert_eq!(self.passed(sent).await, expected, "rule {rule}, {what}");
        }
    }

    /// Everything that a client gets for one request on a connection of its own.
    pub async fn received(&self, request: &str) -> String {
        let mut client = self.rig.client().await;
        client.send(lines(request)).await;
        let (bytes, _) = client.rest_or_reset().await;
        self.normal(&bytes)
    }

    /// A message with `|` for line ends, and words for what differs from run to run.
    pub fn normal(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes).replace("\r\n", "|");
        let line = |line: &str| match line.split_once(": ") {
            Some(("X-Request-Id", _)) => "X-Request-Id: ID".to_owned(),
            Some(("Via", value)) if value.contains(" portolan-") => {
                format!("Via: {} ME", value.split(' ').next().unwrap())
            }
            Some(("X-Forwarded-Port", port)) if port == self.rig.http.port().to_string() => {
                "X-Forwarded-Port: PORT".to_owned()
            }
            Some(("Date", date)) if date.ends_with(" GMT") => "Date: DATE".to_owned(),
            _ => line.to_owned(),
        };
        text.split('|').map(line).collect::<Vec<_>>().join("|")
    }
}

/// Each answer of a table reaches the client in this form, byte for byte, and the connection to
/// the back end is used again or not.
pub async fn delivers_all(cases: &[(u8, &str, &str, &str, bool)]) {
    for (rule, what, answer, expected, reused) in cases {
        let answer = (*answer).to_owned();
        let stage = Stage::answering(move |_| keep(&answer)).await;
        let request = "GET / HTTP/1.1|Host: web.test|Connection: close||";
        for _ in 0..2 {
            let expected = expected.replace("ANSWERED", ANSWERED);
            assert_eq!(stage.received(request).await, expected, "rule {rule}, {what}");
            stage.rig.settled("web").await;
        }
        let connections = if *reused { 1 } else { 2 };
        assert_eq!(stage.backend.instance.connections(), connections, "rule {rule}, {what}");
    }
}
