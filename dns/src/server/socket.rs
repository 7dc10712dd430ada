//! Binds the sockets of one address.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// A burst of queries waits here while a thread is busy; the kernel's limit may be lower.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How often a port that is free by UDP is looked for until it is free by TCP too.
const PORT_TRIES_MAX: u32 = 16;
/// A thread looks whether it is to stop at least this often.
const WAKE_EVERY: Duration = Duration::from_secs(1);

/// Why the resolver cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("cannot listen on {addr} by {transport}: {source}")]
    Address {
        /// The address.
        addr: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The metrics are on the page already.
    #[error("cannot register the metrics of the resolver: {source}")]
    Metrics {
        /// What is wrong with them.
        #[from]
        source: prometheus::Error,
    },
    /// The system gives no thread.
    #[error("cannot start a thread of the resolver: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// Sockets of one address that somebody bound before.
#[derive(Debug, Default)]
pub struct Inherited {
    /// By UDP: all stay, as the kernel spreads the clients over them.
    pub udp: Vec<UdpSocket>,
    /// By TCP.
    pub tcp: Option<TcpListener>,
}

/// The sockets of one address.
#[derive(Debug)]
pub(super) struct Listening {
    /// The address that was asked for; its port may be 0.
    pub(super) bind: SocketAddr,
    pub(super) addr: SocketAddr,
    /// One for each thread; the kernel spreads the clients over them.
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Arc<TcpListener>,
}

impl Listening {
    /// Binds what is not inherited.
    pub(super) fn bind(
        addr: SocketAddr,
        workers: NonZeroUsize,
        inherited: Inherited,
    ) -> Result<Self, BindError> {
        if inherited.tcp.is_some() || !inherited.udp.is_empty() {
            return go_on_with(addr, inherited, workers);
        }
        let mut tries = 1;
        loop {
            let result = bind_both(addr, workers);
            let is_taken = matches!(&result, Err(BindError::Address { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse);
            if !is_taken || addr.port() != 0 || tries == PORT_TRIES_MAX {
                return result;
            }
            tries += 1;
        }
    }
}

fn bind_both(asked: SocketAddr, workers: NonZeroUsize) -> Result<Listening, BindError> {
    let addr = asked;
    let by = |transport, addr| move |source| BindError::Address { addr, transport, source };
    // With SO_REUSEPORT a second process would get half of our queries without a word, so the
    // address is first bound without it.
    let probe = udp_socket(addr, false).map_err(by("UDP", addr))?;
    let addr = probe.local_addr().map_err(by("UDP", addr))?;
    let tcp = tcp_socket(addr).map_err(by("TCP", addr))?;
    drop(probe);
    let udp = (0..workers.get())
        .map(|_| udp_socket(addr, true))
        .collect::<io::Result<_>>()
        .map_err(by("UDP", addr))?;
    Ok(Listening { bind: asked, addr, udp, tcp: Arc::new(tcp) })
}

fn go_on_with(
    bind: SocketAddr,
    inherited: Inherited,
    workers: NonZeroUsize,
) -> Result<Listening, BindError> {
    let by = |transport| move |source| BindError::Address { addr: bind, transport, source };
    let Inherited { udp, tcp } = inherited;
    let known = match (&udp[..], &tcp) {
        ([first, ..], _) => first.local_addr(),
        ([], Some(tcp)) => tcp.local_addr(),
        ([], None) => Ok(bind),
    };
    let addr = known.map_err(by("UDP"))?;
    let tcp = match tcp {
        Some(tcp) => listen(tcp),
        None => tcp_socket(addr),
    };
    Ok(Listening {
        bind,
        addr,
        udp: as_many_as(workers, udp, addr).map_err(by("UDP"))?,
        tcp: Arc::new(tcp.map_err(by("TCP"))?),
    })
}

fn listen(socket: TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    SockRef::from(&socket).listen(BACKLOG)?;
    Ok(socket)
}

fn as_many_as(
    workers: NonZeroUsize,
    mut sockets: Vec<UdpSocket>,
    addr: SocketAddr,
) -> io::Result<Vec<UdpSocket>> {
    let inherited = sockets.len();
    for socket in &sockets {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(WAKE_EVERY))?;
    }
    let shares_port = match sockets.first() {
        Some(first) => SockRef::from(first).reuse_port()?,
        None => true,
    };
    while sockets.len() < workers.get() {
        let more = match shares_port {
            true => udp_socket(addr, true)?,
            false => sockets[sockets.len() % inherited].try_clone()?,
        };
        sockets.push(more);
    }
    Ok(sockets)
}

fn udp_socket(addr: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    // Less than that is no reason not to serve.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    socket.set_read_timeout(Some(WAKE_EVERY))?;
    socket.bind(&SockAddr::from(addr))?;
    Ok(socket.into())
}

fn tcp_socket(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a resolver that was here before may still be closing.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
