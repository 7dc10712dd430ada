//! One try of a check: opens a connection, asks, or runs a command, and says what came of it.
//!
//! Knows nothing of health, schedules or stores. Everything that a probe reads is bounded.

mod exec;
mod http;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::{CheckKind, HttpCheck, ProxyVersion};
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub use exec::OUTPUT_BYTES_MAX;
pub use http::{BODY_BYTES_MAX, HEAD_BYTES_MAX};

/// The longest `detail`, in bytes; longer ones are cut at a character.
pub const DETAIL_BYTES_MAX: usize = 160;

/// What came of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it passed.
    pub ok: bool,
    /// What it saw, in a few words on one line.
    pub detail: String,
    /// How long it took.
    pub took: Duration,
}

/// Why a probe failed. The text is what people read in `status` and in the instance's cause.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("timed out after {} while {doing}", humantime::format_duration(*.after))]
    Timeout { doing: &'static str, after: Duration },
    #[error("connect: {}", io_words(.0))]
    Connect(#[source] std::io::Error),
    #[error("TLS: {}", io_words(.0))]
    Tls(#[source] std::io::Error),
    #[error("{0}")]
    Setup(String),
    #[error("HTTP: {}", chain(.0))]
    Http(#[from] hyper::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("\"{0}\" is not in the body's first {limit} KiB", limit = BODY_BYTES_MAX / 1024)]
    Body(String),
    #[error("cannot run {program}: {}", io_words(.source))]
    Spawn { program: String, source: std::io::Error },
    #[error("the command of the probe before has not ended")]
    Busy,
    #[error("{how}{output}")]
    Exit { how: String, output: String },
}

/// Says an error without `(os error 111)` where the kind says the same.
fn io_words(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
        None => error.to_string(),
    }
}

/// The whole chain of causes: hyper's own text says the least of it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The end of a probe's time, and what to say then.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    async fn keep<T>(
        self,
        doing: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, ProbeError> {
        timeout_at(self.at, work)
            .await
            .map_err(|_| ProbeError::Timeout { doing, after: self.after })
    }
}

/// Probes by one check, one probe at a time. Keeps what is costly to make: the trusted
/// authorities of a TLS check.
pub struct Prober {
    kind: CheckKind,
    proxy_protocol: Option<ProxyVersion>,
    tls: Option<Arc<ClientConfig>>,
    exec: exec::Runner,
}

/// Where a probe connects to, and what it says first.
#[derive(Clone, Copy)]
struct Peer {
    addr: SocketAddr,
    header: &'static [u8],
}

impl Prober {
    /// A prober of one kind.
    pub fn new(kind: CheckKind) -> Self {
        Self { kind, proxy_protocol: None, tls: None, exec: exec::Runner::default() }
    }

    /// From now on connections begin with such a header, which says that nobody else is behind
    /// them: instances that ask for one take no connection without. A command is on its own.
    pub fn begin_with(&mut self, header: Option<ProxyVersion>) {
        self.proxy_protocol = header;
    }

    /// One probe. Ends by `timeout`; dropping it ends it too, with the command it runs.
    pub async fn probe(&mut self, addr: SocketAddr, timeout: Duration) -> Outcome {
        let began = Instant::now();
        // A timeout beyond the clock's range is one of an hour.
        let at = began.checked_add(timeout).unwrap_or(began + Duration::from_secs(3600));
        let deadline = Deadline { at, after: timeout };
        let header = self.proxy_protocol.map_or(&b""[..], ProxyVersion::of_our_own);
        let peer = Peer { addr, header };
        let result = match &self.kind {
            CheckKind::Tcp => connect(peer, deadline).await.map(|_| "connected".to_owned()),
            CheckKind::Exec { command } => self.exec.run(command, addr, deadline).await,
            CheckKind::Http(check) => match tls_of(check, &mut self.tls, deadline).await {
                Ok(tls) => http::ask(check, tls, peer, deadline).await,
                Err(error) => Err(error),
            },
        };
        if matches!(result, Err(ProbeError::Tls(_))) {
            // The file of authorities may have been replaced: read it again next time.
            self.tls = None;
        }
        let took = began.elapsed();
        match result {
            Ok(detail) => Outcome { ok: true, detail: one_line(&detail), took },
            Err(error) => Outcome { ok: false, detail: one_line(&error.to_string()), took },
        }
    }
}

/// One probe of `addr`, without anything kept for the next.
pub async fn probe(kind: &CheckKind, addr: SocketAddr, timeout: Duration) -> Outcome {
    Prober::new(kind.clone()).probe(addr, timeout).await
}

async fn tls_of(
    check: &HttpCheck,
    kept: &mut Option<Arc<ClientConfig>>,
    deadline: Deadline,
) -> Result<Option<Arc<ClientConfig>>, ProbeError> {
    if !check.tls {
        return Ok(None);
    }
    if kept.is_none() {
        *kept = Some(deadline.keep("reading certificates", tls::config(check)).await??);
    }
    Ok(kept.clone())
}

async fn connect(peer: Peer, deadline: Deadline) -> Result<TcpStream, ProbeError> {
    let opening = async {
        let mut stream = TcpStream::connect(peer.addr).await?;
        stream.write_all(peer.header).await?;
        Ok(stream)
    };
    deadline.keep("connecting", opening).await?.map_err(ProbeError::Connect)
}

/// One line of at most [`DETAIL_BYTES_MAX`]: it goes to logs, records and terminals.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > DETAIL_BYTES_MAX {
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_one_bounded_line() {
        assert_eq!(one_line(" a\nb\u{1b}[31m "), "a b [31m");
        let long = one_line(&"é".repeat(1000));
        assert_eq!(long.len(), DETAIL_BYTES_MAX);
        assert!(long.chars().all(|c| c == 'é'));
    }

    #[test]
    fn an_io_error_is_said_in_words() {
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(ProbeError::Connect(refused).to_string(), "connect: connection refused");
    }
}
