//! The configuration: one TOML file, read whole and checked whole before anything is bound.
//!
//! A [`Config`] that was read needs no further validation of its own content; what depends on
//! the machine (ports, files, peers) is found by binding. Knows nothing of running parts.

mod cache;
mod compress;
mod error;
mod file;
mod read;
pub mod reference;
mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use portolan_agent::register::Declared;
use portolan_discovery::model::{
    AppName, CertificateName, JobSpec, ListenerName, NodeName, PortRange, ProcessName, Protocol,
    Resources, Route, VirtualRange,
};
use portolan_dns::ZoneName;
use portolan_router::{ErrorPages, ProxyProtocol, TlsSettings, ViaName};

use crate::certificates::CertificateFiles;
use error::Source;
pub use error::{ConfigError, Place};
use read::Reader;

/// The admin listener when the file names none.
pub const ADMIN_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
/// The data folder when the file names none, relative to the file.
pub const DATA_DIR: &str = ".portolan";
/// Where upstream resolvers are read from when the file names neither them nor another file.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// A larger configuration file is refused.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// The most data workers, of router or resolver.
pub const WORKERS_MAX: usize = 256;
/// The most instances of one process type.
pub const INSTANCES_MAX: u32 = 10_000;
/// The most ports that TCP routes can be given: each has a socket for each worker.
pub const TCP_PORTS_MAX: usize = 1_000;
/// Default of `progress_deadline`.
pub const PROGRESS_DEADLINE: Duration = Duration::from_secs(120);

/// Everything the process is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The machine.
    pub node: NodeConfig,
    /// The file of the embedded store.
    pub store_path: PathBuf,
    /// API, metrics and readiness.
    pub admin: AdminConfig,
    /// The router's limits and waits; `None` takes the router's default.
    pub router: RouterSettings,
    /// What errors of the router look like.
    pub error_pages: ErrorPages,
    /// The certificates that this file names.
    pub certificates: Vec<CertificateFiles>,
    /// The router's sockets; none, and it routes nothing. Those of `tcp_ports` are among them.
    pub listeners: Vec<Listener>,
    /// The ports that TCP routes can be given.
    pub tcp_ports: Option<PortRange>,
    /// The addresses that TCP services can be given; none and they are given none.
    pub virtual_addresses: Option<VirtualRange>,
    /// The resolver; off when the file has no `[dns]`.
    pub dns: Option<DnsConfig>,
    /// Checks, registration and jobs.
    pub agent: AgentSettings,
    /// The services that this file registers.
    pub services: Vec<Declared>,
    /// The routes that this file makes.
    pub routes: Vec<Route>,
    /// The apps that this file deploys.
    pub apps: Vec<AppDeclaration>,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its name; the host name by default.
    pub name: NodeName,
    /// The address that others reach it by.
    pub address: IpAddr,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Where everything that must survive a restart lies.
    pub data_dir: PathBuf,
    /// What its jobs may use in all; the machine's by default.
    pub capacity: Resources,
}

/// API, metrics and readiness.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Where it listens.
    pub bind: SocketAddr,
    /// The file with the token that every call must carry; required unless `bind` is loopback.
    pub token_file: Option<PathBuf>,
}

/// The router's limits and waits; `None` takes the router's default.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "`config::reference` documents each key")]
pub struct RouterSettings {
    pub workers: Option<usize>,
    pub connect_timeout: Option<Duration>,
    pub header_timeout: Option<Duration>,
    pub body_idle_timeout: Option<Duration>,
    pub body_rate_min: Option<u32>,
    pub body_rate_grace: Option<Duration>,
    pub client_write_timeout: Option<Duration>,
    pub keep_alive_timeout: Option<Duration>,
    pub first_byte_timeout: Option<Duration>,
    pub upstream_idle_timeout: Option<Duration>,
    pub tunnel_idle_timeout: Option<Duration>,
    pub tcp_idle_timeout: Option<Duration>,
    pub udp_idle_timeout: Option<Duration>,
    pub drain_timeout: Option<Duration>,
    pub upgrade_drain_timeout: Option<Duration>,
    pub header_bytes_max: Option<usize>,
    pub headers_max: Option<usize>,
    pub target_bytes_max: Option<usize>,
    pub retries_max: Option<u8>,
    pub connections_max: Option<usize>,
    pub connections_per_source_max: Option<usize>,
    pub udp_sessions_max: Option<usize>,
    pub buffer_bytes_max: Option<usize>,
    pub cache_bytes_max: Option<usize>,
    pub via_name: Option<ViaName>,
    pub request_start: Option<bool>,
}

/// The name of the listener of a port that TCP routes can be given.
pub fn port_listener(port: u16) -> ListenerName {
    ListenerName::parse(&format!("port-{port}")).expect("letters, a hyphen and digits")
}

/// A socket of the router.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name, for routes and metrics.
    pub name: ListenerName,
    /// Where it listens.
    pub bind: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// The networks whose PROXY headers and `X-Forwarded-*` fields are believed.
    pub trusted: Vec<IpNet>,
    /// Whether it adds `Via` and refuses what has been here before.
    pub via: bool,
    /// Whether its connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// How it speaks TLS, if it does.
    pub tls: Option<TlsSettings>,
    /// The port that its requests are sent to by https.
    pub redirect_https: Option<u16>,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
}

/// The resolver.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Where it listens, by UDP and TCP.
    pub bind: Vec<SocketAddr>,
    /// The cluster zone.
    pub zone: ZoneName,
    /// What names of services lead to: the local router.
    pub proxy_addresses: Vec<IpAddr>,
    /// The resolvers for everything else; none reads `resolv_conf`.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// The file with the resolvers for everything else, followed as it changes.
    pub resolv_conf: PathBuf,
    /// The networks that may ask; `None` is private and loopback ones.
    pub allow: Option<Vec<IpNet>>,
    /// The size of the cache.
    pub cache_bytes_max: Option<usize>,
    /// The threads that answer.
    pub workers: Option<usize>,
}

/// Checks, registration and jobs.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// A folder of files with services, followed as it changes.
    pub services_dir: Option<PathBuf>,
    /// The ports that jobs are given.
    pub ports: PortRange,
    /// Whether jobs may be placed here.
    pub run_jobs: bool,
}

/// An app as the file wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppDeclaration {
    /// The name.
    pub name: AppName,
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
    /// How long a deployment may stand without progress.
    pub progress_deadline: Duration,
    /// What to run, and how many of it.
    pub processes: BTreeMap<ProcessName, (JobSpec, u32)>,
}

impl Config {
    /// Reads and checks the file at `path`. Relative paths in it start at its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let length =
            std::fs::metadata(path).map_err(|error| ConfigError::read(path, &error))?.len();
        if length > FILE_BYTES_MAX {
            return Err(ConfigError::too_large(path, length));
        }
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::read(path, &error))?;
        Self::parse(path, &text)
    }

    /// The listeners that speak TLS, with the certificate that each shows by default if one is
    /// named.
    pub fn tls_listeners(&self) -> Vec<(ListenerName, Option<CertificateName>)> {
        let with_tls = |listener: &Listener| {
            let tls = listener.tls.as_ref()?;
            Some((listener.name.clone(), tls.default_certificate.clone()))
        };
        self.listeners.iter().filter_map(with_tls).collect()
    }

    /// The listeners of the ports that TCP routes can be given.
    pub fn port_listeners(&self) -> Vec<ListenerName> {
        self.tcp_ports.into_iter().flat_map(PortRange::ports).map(port_listener).collect()
    }

    /// Checks `text`, which stands in the file at `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source::new(path, text);
        let file: file::File = toml::from_str(text).map_err(|error| source.toml(&error))?;
        Reader::new(source, path.parent().unwrap_or(Path::new(""))).config(file)
    }
}

#[cfg(test)]
mod tests;
