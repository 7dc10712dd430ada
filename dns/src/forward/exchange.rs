//! One question to one upstream: by UDP from a fresh socket, by TCP when the reply is cut.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Context;
use super::upstream::Upstream;
use crate::clock::Clock;
use crate::wire::{Rcode, Reply, ReplyFault, UDP_BYTES_MAX, flag, rtype};

/// The longest that one try takes by UDP, and again by TCP.
const TRY_WITHIN: Duration = Duration::from_millis(1500);
/// More than is asked for, for upstreams that do not care.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// What is asked of any upstream.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// Name, type and class, as the first client spelled them.
    pub(super) bytes: Rc<[u8]>,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
}

/// Why a try came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No reply in time.
    Timeout,
    /// The network or this machine said no.
    Unreachable,
    /// The reply is none, or says that there is none.
    Reply(ReplyFault),
    /// There is nobody to ask.
    NoUpstream,
}

impl Failure {
    /// The failure's word in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reply(ReplyFault::Failed(Rcode::SERVFAIL)) => "servfail",
            Self::Reply(ReplyFault::Failed(Rcode::REFUSED)) => "refused",
            Self::Reply(ReplyFault::Failed(_)) => "rcode",
            Self::Reply(ReplyFault::NoEdns) => "formerr",
            Self::Reply(ReplyFault::Foreign) => "foreign",
            Self::Reply(ReplyFault::Truncated | ReplyFault::Malformed(_)) => "malformed",
            Self::NoUpstream => "none",
        }
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Unreachable
    }
}

/// Makes ids that nobody can guess who sees others: SipHash of a counter under a random key.
#[derive(Debug, Default)]
pub(crate) struct Secret {
    key: RandomState,
    counter: Cell<u64>,
}

impl Secret {
    fn id(&self) -> u16 {
        let count = self.counter.get().wrapping_add(1);
        self.counter.set(count);
        // The cast takes 16 of 64 bits that are all as good.
        self.key.hash_one(count) as u16
    }
}

impl Question {
    fn query(&self, id: u16, with_edns: bool) -> Vec<u8> {
        let flags = flag::RD | if self.checking_disabled { flag::CD } else { 0 };
        let mut query = Vec::with_capacity(32 + self.bytes.len());
        query.extend_from_slice(&id.to_be_bytes());
        query.extend_from_slice(&flags.to_be_bytes());
        query.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(with_edns)]);
        query.extend_from_slice(&self.bytes);
        if with_edns {
            query.push(0);
            query.extend_from_slice(&rtype::OPT.to_be_bytes());
            // The cast is exact: 1232 is below 65,536.
            query.extend_from_slice(&(UDP_BYTES_MAX as u16).to_be_bytes());
            query.extend_from_slice(&[0, 0, u8::from(self.dnssec_ok) << 7, 0, 0, 0]);
        }
        query
    }
}

/// Asks `upstream` once and says how long the answer took.
pub(super) async fn ask(
    upstream: &Upstream,
    question: &Question,
    context: &Context,
    sockets: &Semaphore,
    secret: &Secret,
) -> Result<(Reply, Duration), Failure> {
    let Ok(Ok(_permit)) = timeout(TRY_WITHIN, sockets.acquire()).await else {
        return Err(Failure::Timeout);
    };
    let asked_at = context.clock.now();
    let by_udp = timeout(TRY_WITHIN, by_udp(upstream, question, context, secret)).await;
    let reply = match by_udp.map_err(|_| Failure::Timeout)? {
        Err(Failure::Reply(ReplyFault::Truncated)) => {
            let by_tcp = timeout(TRY_WITHIN, by_tcp(upstream, question, context, secret)).await;
            by_tcp.map_err(|_| Failure::Timeout)??
        }
        other => other?,
    };
    Ok((reply, context.clock.now().saturating_sub(asked_at)))
}

async fn by_udp(
    upstream: &Upstream,
    question: &Question,
    context: &Context,
    secret: &Secret,
) -> Result<Reply, Failure> {
    // The kernel draws a random port for each socket; connected, it takes from nobody else.
    let socket = UdpSocket::bind(any_port(upstream.addr)).await?;
    socket.connect(upstream.addr).await?;
    let mut with_edns = upstream.knows_edns(context.clock.now());
    let mut id = secret.id();
    socket.send(&question.query(id, with_edns)).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Reply::read(&buffer[..length], id, &question.bytes) {
            Err(ReplyFault::Foreign) => {
                context.metrics.upstream_failed(Failure::Reply(ReplyFault::Foreign));
            }
            // RFC 6891 §7: who does not know OPT is asked again without it.
            Err(ReplyFault::NoEdns) if with_edns => {
                with_edns = false;
                id = secret.id();
                socket.send(&question.query(id, with_edns)).await?;
            }
            Ok(reply) => {
                if !with_edns && upstream.knows_edns(context.clock.now()) {
                    upstream.ask_plainly(context.clock.now());
                }
                return Ok(reply);
            }
            Err(fault) => return Err(Failure::Reply(fault)),
        }
    }
}

async fn by_tcp(
    upstream: &Upstream,
    question: &Question,
    context: &Context,
    secret: &Secret,
) -> Result<Reply, Failure> {
    let mut stream = TcpStream::connect(upstream.addr).await?;
    let id = secret.id();
    let query = question.query(id, upstream.knows_edns(context.clock.now()));
    // One write, so that it is one segment (RFC 7766 §8).
    let length = u16::try_from(query.len()).map_err(|_| Failure::Unreachable)?;
    stream.write_all(&[&length.to_be_bytes(), &query[..]].concat()).await?;
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Reply::read(&message, id, &question.bytes).map_err(Failure::Reply)
}

fn any_port(peer: SocketAddr) -> SocketAddr {
    let ip = match peer {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}

/// Why an upstream is not known to work.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The network or this machine said no.
    #[error("cannot ask {addr}: {source}")]
    Io {
        /// The upstream.
        addr: SocketAddr,
        /// What was said.
        source: io::Error,
    },
    /// It did not answer.
    #[error("{addr} did not answer within {within:?}")]
    Timeout {
        /// The upstream.
        addr: SocketAddr,
        /// How long it had.
        within: Duration,
    },
}

/// Asks `addr` for the name servers of the root and says how long the answer took. Any answer
/// will do, a refusal too: it shows that a resolver is there. Blocks for `within` at most.
pub fn probe_upstream(addr: SocketAddr, within: Duration) -> Result<Duration, ProbeError> {
    let failed = |source| ProbeError::Io { addr, source };
    let clock = Clock::start();
    let question = Question {
        bytes: [0, 0, 2, 0, 1].as_slice().into(),
        dnssec_ok: false,
        checking_disabled: false,
    };
    let id = Secret::default().id();
    let socket = std::net::UdpSocket::bind(any_port(addr)).map_err(failed)?;
    socket.connect(addr).map_err(failed)?;
    socket.send(&question.query(id, true)).map_err(failed)?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let left = within.saturating_sub(clock.now());
        if left.is_zero() {
            return Err(ProbeError::Timeout { addr, within });
        }
        socket.set_read_timeout(Some(left)).map_err(failed)?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => continue,
                _ => return Err(failed(error)),
            },
        };
        if Reply::read(&buffer[..length], id, &question.bytes) != Err(ReplyFault::Foreign) {
            return Ok(clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ_and_so_do_two_secrets() {
        let (one, other) = (Secret::default(), Secret::default());
        let ids = |secret: &Secret| (0..200).map(|_| secret.id()).collect::<Vec<_>>();
        let (first, second) = (ids(&one), ids(&other));
        assert!(first.iter().collect::<HashSet<_>>().len() > 190);
        assert_ne!(first, second);
    }
}
