//! Listening sockets: one per listener and worker, all on the listener's address, so that the
//! kernel spreads connections and workers share nothing. Owns binding and accepting; knows
//! nothing of what is spoken.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use portolan_discovery::model::{ListenerName, Protocol};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

use crate::config::{ListenerConfig, ProxyProtocol};
use crate::h1::{Received, Request, Via};
use crate::metrics::{ListenerMetrics, Metrics};
use crate::table::RouteEntry;
use crate::tls::{NoRandomness, Serving, hsts_line};
use crate::udp;
use crate::worker::Worker;

/// Connections that the kernel holds until a worker takes them (it caps this at `somaxconn`).
const BACKLOG: i32 = 4096;

/// The wait after an accept that failed for want of a resource: the connections that hold it
/// must get the time to end, and to try at once would be to do nothing else.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket listens there, be it of this process or of another one.
    #[error("listener {listener}: {addr} is in use")]
    InUse {
        /// The listener.
        listener: ListenerName,
        /// Its address.
        addr: SocketAddr,
    },
    /// Anything else about the address.
    #[error("listener {listener}: cannot bind {addr}")]
    Socket {
        /// The listener.
        listener: ListenerName,
        /// Its address.
        addr: SocketAddr,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The listener's TLS cannot be set up.
    #[error("listener {listener}: cannot serve TLS")]
    Tls {
        /// The listener.
        listener: ListenerName,
        /// What rustls says.
        #[source]
        source: rustls::Error,
    },
    /// There are no keys for tickets.
    #[error("cannot make keys for TLS tickets")]
    Tickets(#[from] NoRandomness),
    /// A socket for all addresses does not tell which one was asked, so answers might come from
    /// another one, which clients do not take.
    #[error("listener {listener}: udp needs the address that clients ask, not {addr}")]
    UdpWildcard {
        /// The listener.
        listener: ListenerName,
        /// Its address.
        addr: SocketAddr,
    },
    /// A metric has a name that is taken.
    #[error("cannot register the router's metrics")]
    Metrics(#[from] prometheus::Error),
}

/// A listener as its connections see it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: ListenerName,
    pub(crate) protocol: Protocol,
    pub(crate) proxy_protocol: ProxyProtocol,
    /// The address that was asked for; its port may be 0.
    pub(crate) bind: SocketAddr,
    pub(crate) local: SocketAddr,
    /// None: clients come without.
    pub(crate) tls: Option<Arc<Serving>>,
    pub(crate) metrics: ListenerMetrics,
    trusted_peers: Vec<IpNet>,
    router: Arc<Via>,
    adds_via: bool,
    /// What responses to clients have more, by the version of the instance: `Via`, and that they
    /// are to come by https.
    response_lines: [Box<[u8]>; 3],
    /// The last of these.
    hsts_line: Box<[u8]>,
    /// The port that requests are sent to by https.
    pub(crate) redirect_https: Option<u16>,
    http2: bool,
    /// Where its connections go, if that is not the table's.
    pub(crate) route: Option<Arc<RouteEntry>>,
    /// Another process accepts from the same sockets.
    taken: AtomicBool,
}

impl Listener {
    fn new(
        config: &ListenerConfig,
        local: SocketAddr,
        router: &Arc<Via>,
        tls: Option<Serving>,
        metrics: ListenerMetrics,
    ) -> Self {
        let hsts = config.tls.as_ref().and_then(|tls| tls.hsts).map(hsts_line).unwrap_or_default();
        let response_lines = [Received::V10, Received::V11, Received::V20].map(|received| {
            let via = if config.via { router.line(received) } else { b"" };
            [via, hsts.as_bytes()].concat().into_boxed_slice()
        });
        Self {
            name: config.name.clone(),
            protocol: config.protocol,
            proxy_protocol: config.proxy_protocol,
            bind: config.bind,
            local,
            tls: tls.map(Arc::new),
            metrics,
            trusted_peers: config.trusted_peers.clone(),
            router: Arc::clone(router),
            adds_via: config.via,
            response_lines,
            hsts_line: hsts.into_bytes().into_boxed_slice(),
            redirect_https: config.redirect_https,
            http2: config.http2,
            route: None,
            taken: AtomicBool::new(false),
        }
    }

    /// One at a virtual address, all of whose connections go by `route`.
    pub(crate) fn at_virtual(
        config: &ListenerConfig,
        router: &Arc<Via>,
        metrics: ListenerMetrics,
        route: Arc<RouteEntry>,
    ) -> Self {
        Self { route: Some(route), ..Self::new(config, config.bind, router, None, metrics) }
    }

    /// Whether clients may begin with HTTP/2 (by TLS they agree on it before).
    pub(crate) fn takes_h2(&self) -> bool {
        self.http2 && self.tls.is_none()
    }

    /// Leaves what comes from now on to another process, which has the same sockets.
    pub(crate) fn take_away(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }

    /// The router as messages name it.
    pub(crate) fn router(&self) -> &Arc<Via> {
        &self.router
    }

    /// The `Via` line for a message that came by this protocol; empty if none is to be added.
    pub(crate) fn via_line(&self, received: Received) -> &[u8] {
        if self.adds_via { self.router.line(received) } else { b"" }
    }

    /// The lines for a response that came by this protocol.
    pub(crate) fn response_lines(&self, received: Received) -> &[u8] {
        match received {
            Received::V10 => &self.response_lines[0],
            Received::V11 => &self.response_lines[1],
            Received::V20 => &self.response_lines[2],
        }
    }

    /// The same but for that they are to come by https: the route has its own word on it.
    pub(crate) fn response_lines_but_hsts(&self, received: Received) -> &[u8] {
        let lines = self.response_lines(received);
        &lines[..lines.len() - self.hsts_line.len()]
    }

    /// The line that says that clients are to come by https; empty if it is not said.
    pub(crate) fn hsts_line(&self) -> &[u8] {
        &self.hsts_line
    }

    /// Whether a request has been here before. Where no `Via` is added nobody can tell.
    pub(crate) fn has_seen(&self, request: &Request<'_>) -> bool {
        self.adds_via && self.router.is_on(request)
    }

    /// Whether what the peer says of the client is believed.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_peers.iter().any(|net| net.contains(&peer))
    }
}

/// A bound listener with one socket per worker, or more when more were inherited: closing one
/// would reset the connections that wait in it.
#[derive(Debug)]
pub(crate) struct BoundListener {
    pub(crate) listener: Arc<Listener>,
    pub(crate) sockets: Vec<Arc<std::net::TcpListener>>,
}

/// Binds a listener of `router` for `workers`, or goes on with sockets that somebody else bound.
pub(crate) fn bind(
    config: &ListenerConfig,
    inherited: Vec<std::net::TcpListener>,
    router: &Arc<Via>,
    tls: Option<Serving>,
    workers: usize,
    metrics: &Metrics,
) -> Result<BoundListener, BindError> {
    let bound = match inherited.is_empty() {
        true => sockets(config.bind, workers, Place::Here),
        false => go_on_with(inherited, workers, Place::Here),
    };
    let (sockets, local) = bound.map_err(|error| failed(config, error))?;
    let listener =
        Arc::new(Listener::new(config, local, router, tls, metrics.listener(&config.name)));
    let sockets = sockets.into_iter().map(Arc::new).collect();
    Ok(BoundListener { listener, sockets })
}

/// Binds sockets at a virtual address, or goes on with those that somebody else bound. One that
/// `shares_port` does so with a listener for all addresses of this router.
pub(crate) fn bind_virtual(
    addr: SocketAddr,
    inherited: Vec<std::net::TcpListener>,
    workers: usize,
    shares_port: bool,
) -> io::Result<Vec<std::net::TcpListener>> {
    let bound = match inherited.is_empty() {
        true if shares_port => (0..workers).map(|_| listening(addr, Place::Anywhere)).collect(),
        true => sockets(addr, workers, Place::Anywhere).map(|(sockets, _)| sockets),
        false => go_on_with(inherited, workers, Place::Anywhere).map(|(sockets, _)| sockets),
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => io::Error::new(error.kind(), format!("{addr} is in use")),
        _ => error,
    })
}

/// A bound listener of UDP with one socket per worker.
#[derive(Debug)]
pub(crate) struct BoundUdp {
    pub(crate) listener: Arc<Listener>,
    pub(crate) sockets: Vec<std::net::UdpSocket>,
}

/// Binds a listener of UDP of `router` for `workers`.
pub(crate) fn bind_udp(
    config: &ListenerConfig,
    router: &Arc<Via>,
    workers: usize,
    metrics: &Metrics,
) -> Result<BoundUdp, BindError> {
    if config.bind.ip().is_unspecified() {
        return Err(BindError::UdpWildcard { listener: config.name.clone(), addr: config.bind });
    }
    let bound = udp::sockets(config.bind, workers);
    let (sockets, local) = bound.map_err(|error| failed(config, error))?;
    let listener =
        Arc::new(Listener::new(config, local, router, None, metrics.listener(&config.name)));
    Ok(BoundUdp { listener, sockets })
}

fn failed(config: &ListenerConfig, source: io::Error) -> BindError {
    let (listener, addr) = (config.name.clone(), config.bind);
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { listener, addr },
        _ => BindError::Socket { listener, addr, source },
    }
}

/// Where an address may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On an interface of this machine.
    Here,
    /// On none, or not yet: whoever sets up the routes leads it here (`IP_FREEBIND`).
    Anywhere,
}

/// Makes inherited sockets fit, and as many as there are workers. All of them stay: the kernel
/// has spread connections over all of them, and may do so at any moment.
fn go_on_with(
    mut sockets: Vec<std::net::TcpListener>,
    count: usize,
    place: Place,
) -> io::Result<(Vec<std::net::TcpListener>, SocketAddr)> {
    let inherited = sockets.len();
    let local = sockets[0].local_addr()?;
    for socket in &sockets {
        let socket = SockRef::from(socket);
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.listen(BACKLOG)?;
    }
    let shares_port = SockRef::from(&sockets[0]).reuse_port()?;
    while sockets.len() < count {
        // One that shares its port with nobody, as service managers bind them, serves several
        // workers.
        let more = match shares_port {
            true => listening(local, place)?,
            false => sockets[sockets.len() % inherited].try_clone()?,
        };
        sockets.push(more);
    }
    Ok((sockets, local))
}

fn sockets(
    addr: SocketAddr,
    count: usize,
    place: Place,
) -> io::Result<(Vec<std::net::TcpListener>, SocketAddr)> {
    if addr.port() != 0 {
        // A second process of the same user could share the port with us and silently take
        // half of the connections. A socket that shares with nobody finds it out.
        socket(addr, place, false)?;
    }
    let first = listening(addr, place)?;
    let local = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(listening(local, place)?);
    }
    Ok((sockets, local))
}

fn listening(addr: SocketAddr, place: Place) -> io::Result<std::net::TcpListener> {
    let socket = socket(addr, place, true)?;
    // Accepted sockets inherit it, which saves a system call for each of them.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(addr: SocketAddr, place: Place, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), None)?;
    // Connections of an earlier process that are not quite gone must not keep us from starting.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    match (place, addr) {
        (Place::Here, _) => {}
        (Place::Anywhere, SocketAddr::V4(_)) => socket.set_freebind_v4(true)?,
        (Place::Anywhere, SocketAddr::V6(_)) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Accepts until `until`; then takes what the kernel has accepted already, because closing the
/// socket would reset it, unless another process has the socket too.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    socket: TcpListener,
    until: impl Future<Output = ()>,
) {
    let mut until = pin!(until);
    let mut warned = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut until => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                warned = false;
                worker.admit(&listener, stream, peer);
            }
            Err(error) => {
                worker.metrics.accept_errors.inc();
                if !is_of_the_peer(&error) {
                    if !std::mem::replace(&mut warned, true) {
                        warn!(listener = %listener.name, %error, "cannot accept connections");
                    }
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }
    if listener.taken.load(Ordering::Relaxed) {
        return;
    }
    // The kernel is asked itself: the runtime may not have heard of the newest connections yet.
    let Ok(socket) = socket.into_std() else { return };
    while let Some((stream, peer)) = accepted_already(&socket) {
        worker.admit(&listener, stream, peer);
    }
}

/// The next connection that waits, if there is one.
fn accepted_already(socket: &std::net::TcpListener) -> Option<(TcpStream, SocketAddr)> {
    loop {
        match socket.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true).ok()?;
                return Some((TcpStream::from_std(stream).ok()?, peer));
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(_) => return None,
        }
    }
}

/// The connection ended before it was accepted: the next one may be fine.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn all_workers_listen_on_the_port_that_the_first_one_got() {
        let (sockets, addr) = sockets(local(0), 3, Place::Here).unwrap();
        assert_ne!(addr.port(), 0);
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == addr));
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_refused_even_if_it_could_be_shared() {
        let (held, addr) = sockets(local(0), 2, Place::Here).unwrap();
        let error = sockets(addr, 1, Place::Here).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(held);
        sockets(addr, 2, Place::Here).expect("the port is free again");
    }

    #[test]
    fn inherited_sockets_all_stay_and_workers_that_have_none_get_one_of_the_same_port() {
        for (inherited, workers, expected) in [(3, 2, 3), (2, 2, 2), (1, 3, 3)] {
            let (held, addr) = sockets(local(0), inherited, Place::Here).unwrap();
            let (all, got) = go_on_with(held, workers, Place::Here).unwrap();
            assert_eq!((all.len(), got), (expected, addr));
            assert!(all.iter().all(|socket| socket.local_addr().unwrap() == addr));
        }
    }

    #[test]
    fn an_inherited_socket_that_shares_no_port_serves_all_workers() {
        let alone = std::net::TcpListener::bind(local(0)).unwrap();
        let addr = alone.local_addr().unwrap();
        let (all, got) = go_on_with(vec![alone], 3, Place::Here).unwrap();
        assert_eq!((all.len(), got), (3, addr));
        let client = std::net::TcpStream::connect(addr).unwrap();
        let peer = all[2].accept().unwrap().1;
        assert_eq!(peer, client.local_addr().unwrap());
    }

    #[test]
    fn an_accepted_socket_sends_without_delay() {
        let (held, addr) = sockets(local(0), 1, Place::Here).unwrap();
        held[0].set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(addr).unwrap();
        assert!(held[0].accept().unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn a_virtual_address_need_not_be_on_an_interface_and_is_not_shared_unawares() {
        // RFC 5737 and RFC 3849 keep these for documents: no machine has them.
        for addr in ["192.0.2.7:5432", "[2001:db8::7]:5432"] {
            let addr: SocketAddr = addr.parse().unwrap();
            assert!(sockets(addr, 1, Place::Here).is_err());
            let held = bind_virtual(addr, Vec::new(), 2, false).unwrap();
            assert!(held.iter().all(|socket| socket.local_addr().unwrap() == addr));
            let error = bind_virtual(addr, Vec::new(), 1, false).unwrap_err();
            assert_eq!(error.to_string(), format!("{addr} is in use"));
            assert_eq!(bind_virtual(addr, held, 3, false).unwrap().len(), 3);
        }
    }

    #[test]
    fn a_virtual_address_may_share_its_port_with_a_listener_for_all_addresses() {
        let all = SocketAddr::from(([0, 0, 0, 0], 0));
        let (_held, local) = sockets(all, 2, Place::Here).unwrap();
        let addr = SocketAddr::from(([127, 64, 3, 7], local.port()));
        assert!(bind_virtual(addr, Vec::new(), 1, false).is_err());
        let own = bind_virtual(addr, Vec::new(), 1, true).unwrap();
        own[0].set_nonblocking(false).unwrap();
        let client = std::net::TcpStream::connect(addr).unwrap();
        assert_eq!(own[0].accept().unwrap().1, client.local_addr().unwrap());
    }
}
