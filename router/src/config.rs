//! What a router is made of: listeners, waits and limits, each with its default.
//! Parsing is somebody else's: a value of these types binds nothing and needs no check.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use portolan_discovery::model::{ListenerName, Protocol};

use crate::balance::RETRIES_MAX;
use crate::h1;

/// A socket to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The name that routes refer to.
    pub name: ListenerName,
    /// The address; port 0 takes a free one.
    pub bind: SocketAddr,
    /// What clients speak on it.
    pub protocol: Protocol,
    /// Peers whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted_peers: Vec<IpNet>,
}

impl ListenerConfig {
    /// A listener that trusts nobody.
    pub fn new(name: ListenerName, bind: SocketAddr, protocol: Protocol) -> Self {
        Self { name, bind, protocol, trusted_peers: Vec::new() }
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
    /// In a drain: for requests that idle clients were about to send.
    pub drain_grace: Duration,
}

impl Timeouts {
    /// The waits that hold unless the configuration says otherwise.
    pub const DEFAULT: Self = Self {
        connect: Duration::from_secs(2),
        client_header: Duration::from_secs(10),
        client_body: Duration::from_secs(30),
        client_idle: Duration::from_secs(75),
        client_write: Duration::from_secs(60),
        first_byte: Duration::from_secs(60),
        response_idle: Duration::from_secs(300),
        upstream_idle: Duration::from_secs(30),
        tunnel_idle: Duration::from_secs(3600),
        tcp_idle: Duration::from_secs(600),
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
    /// Client connections of one worker; more wait in the kernel's queue. Each may need two file
    /// descriptors, so the process's limit of those makes it smaller ([`FILES_RESERVED`]).
    pub connections_max: usize,
    /// Idle connections that one worker keeps to one instance.
    pub upstream_idle_max: usize,
    /// Attempts after the first, at most [`RETRIES_MAX`].
    pub retries_max: usize,
}

impl Limits {
    /// The limits that hold unless the configuration says otherwise.
    pub const DEFAULT: Self = Self {
        http: h1::Limits::DEFAULT,
        connections_max: 16_384,
        upstream_idle_max: 64,
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

/// Default longest wait of a drain for what is under way.
pub const DRAIN: Duration = Duration::from_secs(30);

/// File descriptors that are left for everything but connections.
pub const FILES_RESERVED: u64 = 256;

/// How many client connections each of `workers` may have when the process may open `files`.
pub(crate) fn connections_for(files: Option<u64>, workers: usize) -> usize {
    let Some(files) = files else { return usize::MAX };
    let each = files.saturating_sub(FILES_RESERVED) / 2 / workers.max(1) as u64;
    usize::try_from(each).unwrap_or(usize::MAX).max(1)
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
}

impl Config {
    /// One worker a core, and every wait and limit at its default.
    pub fn new(listeners: Vec<ListenerConfig>) -> Self {
        Self {
            listeners,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            timeouts: Timeouts::DEFAULT,
            limits: Limits::DEFAULT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::connections_for;

    #[test]
    fn connections_share_the_files_that_are_not_reserved() {
        for (files, workers, expected) in [
            (None, 4, usize::MAX),
            (Some(1_024), 2, 192),
            (Some(1_048_576), 8, 65_520),
            (Some(100), 2, 1),
            (Some(1_024), 0, 384),
        ] {
            assert_eq!(connections_for(files, workers), expected);
        }
    }
}
