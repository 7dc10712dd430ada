//! What the resolver is told. A value that was built needs no check: parsing binds nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::zone::ZoneConfig;

/// The resolvers for everything outside the cluster zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// The `nameserver` lines of a file, read again when it changes. Beside `ADDRESS` the form
    /// `[ADDRESS]:PORT` is read, as OpenBSD writes it.
    ResolvConf(PathBuf),
    /// These, in order of preference.
    Static(Vec<SocketAddr>),
}

/// The configuration of a resolver.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens, by UDP and TCP. With port 0 both have the same one. From 0.0.0.0 and ::
    /// a reply leaves by the address that the route to the client has, which a client that asked
    /// another one does not take: on a machine with several, name them.
    pub bind: Vec<SocketAddr>,
    /// The cluster zone.
    pub zone: ZoneConfig,
    /// The resolvers for everything else.
    pub upstreams: Upstreams,
    /// The networks that may ask.
    pub allow: Vec<IpNet>,
    /// The threads that answer by UDP, for each address.
    pub workers: NonZeroUsize,
    /// The limits.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))],
            zone: ZoneConfig::default(),
            upstreams: Upstreams::ResolvConf(PathBuf::from("/etc/resolv.conf")),
            allow: private_networks(),
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: Limits::default(),
        }
    }
}

/// The limits of a resolver. What is beyond them is turned down and counted.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The memory of the cache.
    pub cache_bytes_max: usize,
    /// The longest life of a positive answer in the cache.
    pub ttl_max: Duration,
    /// The longest life of a negative answer in the cache.
    pub negative_ttl_max: Duration,
    /// Clients that wait for an upstream; one more gets SERVFAIL.
    pub waiting_max: usize,
    /// Sockets to upstreams; a question beyond them waits for one.
    pub upstream_sockets_max: usize,
    /// TCP connections of clients; one more is closed.
    pub tcp_connections_max: usize,
    /// TCP connections of one client address.
    pub tcp_connections_per_client_max: usize,
    /// Queries under way on one TCP connection; further ones are not read.
    pub tcp_pipeline_max: usize,
    /// How long a TCP connection may do nothing.
    pub tcp_idle_timeout: Duration,
}

impl Limits {
    /// Default of `ttl_max`.
    pub const TTL_MAX: Duration = Duration::from_secs(86_400);
    /// Default of `negative_ttl_max`; RFC 2308 §5 advises one to three hours.
    pub const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(3600);
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cache_bytes_max: 32 << 20,
            ttl_max: Self::TTL_MAX,
            negative_ttl_max: Self::NEGATIVE_TTL_MAX,
            waiting_max: 8192,
            // Below the 1,024 descriptors that a process has when nobody raised them.
            upstream_sockets_max: 512,
            tcp_connections_max: 256,
            tcp_connections_per_client_max: 64,
            tcp_pipeline_max: 128,
            // RFC 7766 §6.2.3 speaks of a few seconds.
            tcp_idle_timeout: Duration::from_secs(10),
        }
    }
}

/// Loopback, private and link-local networks: who else may ask is for the operator to say, for
/// an open resolver is a weapon against others.
pub fn private_networks() -> Vec<IpNet> {
    [
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    ]
    .iter()
    .map(|text| text.parse().expect("the list has networks only"))
    .collect()
}

/// Who may ask.
#[derive(Debug, Clone)]
pub(crate) struct Allow(pub(crate) Vec<IpNet>);

impl Allow {
    pub(crate) fn has(&self, addr: IpAddr) -> bool {
        // A scoped or mapped form is the same address.
        let addr = addr.to_canonical();
        self.0.iter().any(|network| network.contains(&addr))
    }
}
