//! The bytes to and from a client or an instance: TCP as it is, TLS over it, or one stream of an
//! HTTP/2 connection, which reads and writes as HTTP/1.1. Whoever moves bytes need not know which;
//! the plain way costs one branch that is always foreseen.

mod secured;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::h2::{Inbound, Outbound};

pub(crate) use secured::{Met, Secured};

/// A connection to a client or an instance.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<Secured>),
    /// A request of a client that speaks HTTP/2.
    Inbound(Box<Inbound>),
    /// A request to an instance that speaks HTTP/2.
    Outbound(Box<Outbound>),
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }
}

impl Stream {
    /// The connection below, if it is this stream's alone.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(secured) => Some(secured.tcp()),
            Self::Inbound(_) | Self::Outbound(_) => None,
        }
    }

    /// The ends of the connection below as the other side sees them, its own first. None if its
    /// socket has none any more.
    pub(crate) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Self::Plain(_) | Self::Tls(_) => {
                let tcp = self.tcp()?;
                Some((tcp.peer_addr().ok()?, tcp.local_addr().ok()?))
            }
            Self::Inbound(inbound) => inbound.ends(),
            // Nobody asks: it is of an instance.
            Self::Outbound(_) => None,
        }
    }

    /// Whether it is a stream of an HTTP/2 connection.
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self, Self::Inbound(_) | Self::Outbound(_))
    }

    /// Whether many others share its connection, so that all may have to wait for one reader.
    pub(crate) fn is_one_of_many(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Tls(_) | Self::Outbound(_) => false,
            Self::Inbound(inbound) => inbound.is_one_of_many(),
        }
    }

    /// What is known of the other side since the handshake, if there was one.
    pub(crate) fn met(&self) -> Option<&Met> {
        match self {
            Self::Plain(_) | Self::Outbound(_) => None,
            Self::Tls(secured) => Some(secured.met()),
            Self::Inbound(inbound) => inbound.met(),
        }
    }

    /// Gives away what is known of the other side.
    pub(crate) fn take_met(&mut self) -> Option<Met> {
        match self {
            Self::Tls(secured) => Some(secured.take_met()),
            Self::Plain(_) | Self::Inbound(_) | Self::Outbound(_) => None,
        }
    }

    /// The protocol that was agreed on in the handshake (ALPN), if there was one.
    pub(crate) fn agreed_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) | Self::Outbound(_) => None,
            Self::Tls(secured) => secured.session().alpn_protocol(),
            Self::Inbound(inbound) => inbound.met().map(|_| &b"h2"[..]),
        }
    }

    /// Whether it has taken bytes that the socket has not: only a flush brings them on their way.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(secured) => secured.has_unsent(),
            // The connection's task brings them on their way.
            Self::Inbound(_) | Self::Outbound(_) => false,
        }
    }

    /// Makes the coming close a reset: what is lost cannot be taken for a clean end.
    pub(crate) fn abort(&mut self) {
        // A stream that is dropped before its end is reset.
        let Some(tcp) = self.tcp() else { return };
        // Fails only on a socket that is closed already.
        let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        if let Self::Tls(secured) = self {
            secured.forget_farewell();
        }
    }

    /// Nothing has come since the last read, as far as the loop knows: no system call for TCP.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match self {
            // Not `poll_read_ready`: that one says "nothing" to a task that has used up its turn.
            Self::Plain(tcp) => tcp.try_io(Interest::READABLE, || Ok(())).is_err(),
            Self::Tls(secured) => secured.is_quiet(),
            Self::Inbound(_) | Self::Outbound(_) => false,
        }
    }

    /// The kernel has neither an end nor bytes for us.
    pub(crate) fn is_open(&self) -> bool {
        let Some(tcp) = self.tcp() else { return false };
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(tcp).peek(&mut byte) {
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            Ok(_) => false,
        }
    }

    /// Whether the other side has closed or sent more, whichever is seen first. Nothing of what
    /// it sent is lost.
    pub(crate) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        match self {
            Self::Plain(tcp) => {
                let mut byte = [0];
                tcp.poll_peek(cx, &mut ReadBuf::new(&mut byte)).map(|peeked| match peeked {
                    Ok(1..) => News::More,
                    _ => News::Closed,
                })
            }
            Self::Tls(secured) => secured.poll_news(cx),
            Self::Inbound(inbound) => inbound.poll_news(cx),
            Self::Outbound(_) => Poll::Pending,
        }
    }
}

/// What a look at a stream finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// There is something to read.
    More,
    /// The other side has closed.
    Closed,
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, room),
            Self::Tls(secured) => secured.poll_read(cx, room),
            Self::Inbound(inbound) => inbound.poll_read(cx, room),
            Self::Outbound(outbound) => outbound.poll_read(cx, room),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(secured) => secured.poll_write(cx, &[IoSlice::new(bytes)]),
            Self::Inbound(inbound) => inbound.poll_write(cx, bytes),
            Self::Outbound(outbound) => outbound.poll_write(cx, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Self::Tls(secured) => secured.poll_write(cx, parts),
            Self::Inbound(inbound) => {
                let part = parts.iter().find(|part| !part.is_empty());
                inbound.poll_write(cx, part.map_or(&[], |part| part))
            }
            Self::Outbound(outbound) => {
                let part = parts.iter().find(|part| !part.is_empty());
                outbound.poll_write(cx, part.map_or(&[], |part| part))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) | Self::Inbound(_) | Self::Outbound(_) => Poll::Ready(Ok(())),
            Self::Tls(secured) => secured.poll_send(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(secured) => secured.poll_shutdown(cx),
            Self::Inbound(inbound) => Poll::Ready(inbound.shut_down()),
            // A request has an end of its own.
            Self::Outbound(_) => Poll::Ready(Ok(())),
        }
    }
}
