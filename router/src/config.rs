//! What a router is made of: listeners, waits and limits, each with its default.
//! Parsing is somebody else's: a value of these types binds nothing and needs no check.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use portolan_discovery::model::{ListenerName, Protocol};

use crate::balance::RETRIES_MAX;
use crate::h1::{self, ViaName};
use crate::pages::ErrorPages;
use crate::shed::SHEDDING_MAX;
use crate::tls::TlsSettings;

/// Whether connections of a listener begin with a PROXY header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// No: one would be the client's own bytes.
    #[default]
    Off,
    /// Those of trusted peers may; whoever sends none is the client itself.
    Optional,
    /// All must, and only trusted peers may connect.
    Required,
}

/// A socket to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The name that routes refer to.
    pub name: ListenerName,
    /// The address; port 0 takes a free one.
    pub bind: SocketAddr,
    /// What clients speak on it.
    pub protocol: Protocol,
    /// Peers whose PROXY headers, `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted_peers: Vec<IpNet>,
    /// Add a `Via` to what passes, and refuse what has one of ours already.
    pub via: bool,
    /// Whether PROXY headers are taken.
    pub proxy_protocol: ProxyProtocol,
    /// How it speaks TLS, if it does.
    pub tls: Option<TlsSettings>,
    /// The port that every request is sent to by https; none serves them.
    pub redirect_https: Option<u16>,
    /// Whether HTTP/2 is spoken too: agreed on with TLS, else by its first bytes.
    pub http2: bool,
}

impl ListenerConfig {
    /// A listener that trusts nobody and adds `Via`.
    pub fn new(name: ListenerName, bind: SocketAddr, protocol: Protocol) -> Self {
        let proxy_protocol = ProxyProtocol::Off;
        Self {
            name,
            bind,
            protocol,
            trusted_peers: Vec::new(),
            via: true,
            proxy_protocol,
            tls: None,
            redirect_https: None,
            http2: true,
        }
    }
}

/// How long the router waits for others. Kept with a precision of a fifth of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For an instance to accept a connection.
    pub connect: Duration,
    /// From the first byte of a request head to its last; on a new connection from the accept.
    pub client_header: Duration,
    /// Between two pieces of a request body.
    pub client_body: Duration,
    /// Before a request body has to come at [`Limits::body_rate_min`].
    pub client_body_grace: Duration,
    /// For the next request of a connection that is kept open.
    pub client_idle: Duration,
    /// For a client to take more of a response.
    pub client_write: Duration,
    /// From the last byte of a request to the first of its response; a route may say otherwise.
    pub first_byte: Duration,
    /// Between two pieces of a response body: long, because events are streamed with pauses.
    pub response_idle: Duration,
    /// For a connection to an instance to be used again; shorter than what servers wait.
    pub upstream_idle: Duration,
    /// Without a byte in either direction of an upgraded connection; a route may say otherwise.
    pub tunnel_idle: Duration,
    /// Without a byte in either direction of a TCP connection; a route may say otherwise.
    pub tcp_idle: Duration,
    /// Without a datagram in either direction of a UDP session; a route may say otherwise.
    pub udp_idle: Duration,
    /// In a drain: for requests that idle clients were about to send.
    pub drain_grace: Duration,
}

impl Timeouts {
    /// The waits that hold unless the configuration says otherwise.
    pub const DEFAULT: Self = Self {
        connect: Duration::from_secs(2),
        client_header: Duration::from_secs(10),
        client_body: Duration::from_secs(30),
        client_body_grace: Duration::from_secs(20),
        client_idle: Duration::from_secs(75),
        client_write: Duration::from_secs(60),
        first_byte: Duration::from_secs(60),
        response_idle: Duration::from_secs(300),
        upstream_idle: Duration::from_secs(30),
        tunnel_idle: Duration::from_secs(3600),
        tcp_idle: Duration::from_secs(600),
        udp_idle: Duration::from_secs(30),
        drain_grace: Duration::from_secs(1),
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How much one worker takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What one message may cost.
    pub http: h1::Limits,
    /// Client connections of one worker; more are shed. Each may need two file descriptors, so
    /// the process's limit of those makes it smaller ([`FILES_RESERVED`]).
    pub connections_max: usize,
    /// Client connections of one source (an IPv4 address or an IPv6 /64) to one worker; more are
    /// shed. Trusted peers stand for many sources and are not limited.
    pub connections_per_source_max: Option<usize>,
    /// UDP sessions of one worker; the datagrams of more clients are dropped. Each needs a file
    /// descriptor and about 1 KiB, and the kernel holds up to 256 KiB of answers for it.
    pub udp_sessions_max: usize,
    /// Bytes of buffers that one worker holds for what is under way; new requests and TCP
    /// connections are shed beyond, and from a quarter of it on only small buffers are lent.
    pub buffer_bytes_max: usize,
    /// Pipes of one worker, for bulky tunnels between plain sockets; more are copied, which costs
    /// more. Each takes two file descriptors and counts 256 KiB as a buffer.
    pub pipes_max: usize,
    /// Bytes a second that a request body has to come at, on the average and not counting waits
    /// for the instance; 0 asks for nothing.
    pub body_rate_min: u32,
    /// Idle connections that one worker keeps to one instance.
    pub upstream_idle_max: usize,
    /// Virtual addresses that are listened at; none unless somebody gives them. Each has a socket
    /// of its own on every worker, which takes two file descriptors.
    pub virtual_listeners_max: usize,
    /// Attempts after the first, at most [`RETRIES_MAX`].
    pub retries_max: usize,
}

impl Limits {
    /// The limits that hold unless the configuration says otherwise.
    pub const DEFAULT: Self = Self {
        http: h1::Limits::DEFAULT,
        connections_max: 16_384,
        // Many honest clients may share an address.
        connections_per_source_max: None,
        // A resolver's clients at a hundred questions a second.
        udp_sessions_max: 4_096,
        // A small buffer for each of the connections.
        buffer_bytes_max: 256 * 1024 * 1024,
        // Half of the buffers that are lent freely.
        pipes_max: 128,
        // That of Kestrel and IIS: a tenth of what the slowest mobile links do.
        body_rate_min: 240,
        // What a few multiplexing clients have under way: less, and each burst of theirs would close
        // connections and open them again.
        upstream_idle_max: 256,
        virtual_listeners_max: 0,
        retries_max: 2,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

// A default beyond what can be noted would try an instance twice.
const _: () = assert!(Limits::DEFAULT.retries_max <= RETRIES_MAX);

/// Default of [`Config::cache_bytes_max`]: some thousands of pages.
pub const CACHE_BYTES_DEFAULT: usize = 64 * 1024 * 1024;

/// Default longest wait of a drain for what is under way.
pub const DRAIN: Duration = Duration::from_secs(30);

/// File descriptors that are left for everything but connections.
pub const FILES_RESERVED: u64 = 256;

/// How many client connections each of `workers` may have when the process may open `files`, of
/// which each worker has so many for something else.
pub(crate) fn connections_for(files: Option<u64>, workers: usize, others: usize) -> usize {
    let Some(files) = files else { return usize::MAX };
    let each = files.saturating_sub(FILES_RESERVED) / workers.max(1) as u64;
    let each = each.saturating_sub(others as u64);
    // Connections that are shed have no second one.
    let each = each.saturating_sub(SHEDDING_MAX as u64) / 2;
    usize::try_from(each).unwrap_or(usize::MAX).max(1)
}

/// How many sessions of UDP each of `workers` may have: at most a quarter of the files.
pub(crate) fn sessions_for(files: Option<u64>, workers: usize) -> usize {
    let Some(files) = files else { return usize::MAX };
    let each = files.saturating_sub(FILES_RESERVED) / workers.max(1) as u64;
    usize::try_from(each / 4).unwrap_or(usize::MAX).max(1)
}

/// How many pipes each of `workers` may have: at most a sixteenth of the files, two for each.
pub(crate) fn pipes_for(files: Option<u64>, workers: usize) -> usize {
    let Some(files) = files else { return usize::MAX };
    let each = files.saturating_sub(FILES_RESERVED) / workers.max(1) as u64;
    usize::try_from(each / 32).unwrap_or(usize::MAX)
}

/// Everything a router is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The sockets.
    pub listeners: Vec<ListenerConfig>,
    /// Worker threads; at least one is started.
    pub workers: usize,
    /// The waits.
    pub timeouts: Timeouts,
    /// The limits.
    pub limits: Limits,
    /// Bytes that the cache of all workers holds; 0 keeps nothing.
    pub cache_bytes_max: usize,
    /// What `Via` and `Proxy-Status` call this router; a tag of its own is appended.
    pub via_name: ViaName,
    /// Tell instances in `X-Request-Start` when a request came.
    pub request_start: bool,
    /// What errors look like that the router answers with.
    pub error_pages: Arc<ErrorPages>,
}

impl Config {
    /// One worker a core, and every wait and limit at its default.
    pub fn new(listeners: Vec<ListenerConfig>) -> Self {
        Self {
            listeners,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            timeouts: Timeouts::DEFAULT,
            limits: Limits::DEFAULT,
            cache_bytes_max: CACHE_BYTES_DEFAULT,
            via_name: ViaName::product(),
            request_start: false,
            error_pages: Arc::default(),
        }
    }
}

/// How many virtual addresses may be listened at: at most a sixteenth of the files, two of each
/// worker for each.
pub(crate) fn virtuals_for(files: Option<u64>, workers: usize) -> usize {
    pipes_for(files, workers)
}

#[cfg(test)]
mod tests {
    use super::{connections_for, pipes_for, sessions_for};

    #[test]
    fn connections_share_the_files_that_are_not_reserved() {
        for (files, workers, others, expected) in [
            (None, 4, 0, usize::MAX),
            (Some(1_024), 2, 0, 160),
            (Some(1_048_576), 8, 0, 65_488),
            (Some(100), 2, 0, 1),
            (Some(1_024), 0, 0, 352),
            (Some(1_024), 0, 192, 256),
        ] {
            assert_eq!(connections_for(files, workers, others), expected);
        }
        assert_eq!((sessions_for(Some(1_024), 1), sessions_for(Some(0), 1)), (192, 1));
        assert_eq!((pipes_for(Some(1_024), 1), pipes_for(Some(0), 1)), (24, 0));
    }
}
