//! One end of a connection as tests use it: bytes and whole messages, each wait with an end.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// No wait of a test is longer; a healthy one is far shorter.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `future`, and fails the test when it takes too long.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The lines of the head, the start line first.
    pub lines: Vec<String>,
    /// The content, without chunks.
    pub body: Vec<u8>,
    /// The lines behind the last chunk.
    pub trailers: Vec<String>,
    pub chunked: bool,
}

impl Message {
    pub fn start(&self) -> &str {
        &self.lines[0]
    }

    pub fn status(&self) -> u16 {
        self.start().split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The values of a field, joined.
    pub fn field(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self.lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn length(&self) -> Option<usize> {
        self.field("content-length").map(|length| length.parse().unwrap())
    }
}

/// A client of the router, or a connection that an instance accepted.
pub struct Peer<S = TcpStream>(BufReader<S>);

impl Peer {
    pub fn of(stream: TcpStream) -> Self {
        // Fails on a connection that is reset already; reading will tell.
        let _ = stream.set_nodelay(true);
        Self::over(stream)
    }

    pub async fn connect(addr: SocketAddr) -> Self {
        Self::of(within("a connection", TcpStream::connect(addr)).await.unwrap())
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream().local_addr().unwrap()
    }

    /// Closes with a reset.
    pub fn reset(self) {
        SockRef::from(self.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// One that speaks over any stream.
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        self.0.get_ref()
    }

    /// The same for writing what no wait of ours is for.
    pub fn stream_mut(&mut self) -> &mut S {
        self.0.get_mut()
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("room to send", self.0.get_mut().write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends as much as the other side takes; it may close early.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("room to send", self.0.get_mut().write_all(bytes.as_ref())).await.is_ok()
    }

    /// Ends the sending direction only.
    pub async fn shut(&mut self) {
        self.0.get_mut().shutdown().await.unwrap();
    }

    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        within("bytes", self.try_read(count)).await.expect("as many bytes as that")
    }

    /// So many bytes; none at the end of the connection. Waits for as long as it takes.
    pub async fn try_read(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).await.ok().map(|_| bytes)
    }

    /// What comes next, however little; empty at the end, whatever the end is.
    pub async fn some(&mut self) -> Vec<u8> {
        let bytes = within("bytes", self.0.fill_buf()).await.unwrap_or_default().to_vec();
        self.0.consume(bytes.len());
        bytes
    }

    /// Everything until the other side closes in peace.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        within("the end", self.0.read_to_end(&mut bytes)).await.unwrap();
        bytes
    }

    /// Everything until the other side closes, and whether it did so in peace.
    pub async fn rest_or_reset(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let ended = within("the end", self.0.read_to_end(&mut bytes)).await;
        (bytes, ended.is_ok())
    }

    /// Returns when the other side has closed or reset, whatever it sent before.
    pub async fn gone(&mut self) {
        self.rest_or_reset().await;
    }

    /// Whether there is nothing to read right now.
    pub async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.0.fill_buf()).await.is_err()
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = within("a line", self.0.read_until(b'\n', &mut line)).await;
        if !matches!(read, Ok(1..)) {
            return None;
        }
        let line = String::from_utf8(line).unwrap();
        Some(line.strip_suffix("\r\n").expect("a line ends in CRLF").to_owned())
    }

    /// The lines up to the next empty one; none at the end of the connection.
    pub async fn head(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            match self.line().await? {
                line if line.is_empty() => return Some(lines),
                line => lines.push(line),
            }
        }
    }

    /// The next request; none at the end of the connection. A kept connection may be idle for
    /// longer than any wait of a test, so there is no deadline for its first byte.
    pub async fn request(&mut self) -> Option<Message> {
        if !matches!(self.0.fill_buf().await, Ok([_, ..])) {
            return None;
        }
        let lines = self.head().await?;
        Some(self.body(lines, false).await)
    }

    /// The next response to anything but HEAD.
    pub async fn response(&mut self) -> Message {
        let lines = self.head().await.expect("a response");
        self.body(lines, true).await
    }

    /// The next response, of which only the head comes.
    pub async fn response_head(&mut self) -> Message {
        let lines = self.head().await.expect("a response");
        Message { lines, body: Vec::new(), trailers: Vec::new(), chunked: false }
    }

    async fn body(&mut self, lines: Vec<String>, until_close: bool) -> Message {
        let mut message = Message { lines, body: Vec::new(), trailers: Vec::new(), chunked: false };
        if message.field("transfer-encoding").is_some() {
            message.chunked = true;
            while let Some(size) = self.line().await {
                let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
                if size == 0 {
                    message.trailers = self.head().await.expect("a trailer section");
                    break;
                }
                message.body.extend(self.read(size).await);
                assert_eq!(self.read(2).await, b"\r\n");
            }
        } else if let Some(length) = message.length() {
            message.body = self.read(length).await;
        } else if until_close && !matches!(message.status(), 204 | 304) {
            message.body = self.rest().await;
        }
        message
    }

    /// The rest of a response of which the head has come.
    pub async fn body_of(&mut self, head: Message) -> Message {
        self.body(head.lines, true).await
    }

    /// One request and its response.
    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).await;
        self.response().await
    }

    /// A GET of `path` and its response.
    pub async fn get(&mut self, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n")).await
    }
}
