//! The configuration as it stands in the file: names, defaults and forms, nothing more.
//! Unknown keys are errors. `reference.rs` has a row for each key.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;

use ipnet::IpNet;
use portolan_agent::register::file::{CheckFile, ServiceFile};
use portolan_discovery::model::route::{
    HeaderName, Matches, MethodName, ParameterName, PathPrefix, Percent,
};
use portolan_discovery::model::{
    AppName, CertificateName, Host, HostPattern, ListenerName, NodeName, PageSetName, PathPattern,
    ProcessName, Protocol, RouteName, ServiceName, Weight,
};
use serde::Deserialize;
use toml::Spanned;

use super::cache::CacheFile;
use super::compress::CompressFile;
use super::value::{
    ClientWord, Cores, Ports, PortsAt, ProxyHeader, Size, Span, UnknownNameWord, VersionWord,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) node: NodeFile,
    #[serde(default)]
    pub(super) store: StoreFile,
    #[serde(default)]
    pub(super) admin: AdminFile,
    #[serde(default)]
    pub(super) router: RouterFile,
    #[serde(default)]
    pub(super) error_pages: BTreeMap<String, Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) listeners: Vec<Spanned<ListenerFile>>,
    #[serde(default)]
    pub(super) certificates: Vec<Spanned<CertificateFile>>,
    pub(super) dns: Option<Spanned<DnsFile>>,
    #[serde(default)]
    pub(super) agent: AgentFile,
    #[serde(default)]
    pub(super) services: Vec<Spanned<ServiceFile>>,
    #[serde(default)]
    pub(super) routes: Vec<Spanned<RouteFile>>,
    #[serde(default)]
    pub(super) apps: Vec<Spanned<AppFile>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeFile {
    pub(super) name: Option<NodeName>,
    pub(super) address: Option<IpAddr>,
    pub(super) zone: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) cpu: Option<Cores>,
    pub(super) memory: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreFile {
    pub(super) path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminFile {
    pub(super) bind: Option<Spanned<SocketAddr>>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouterFile {
    pub(super) workers: Option<Spanned<usize>>,
    pub(super) connect_timeout: Option<Span>,
    pub(super) header_timeout: Option<Span>,
    pub(super) body_idle_timeout: Option<Span>,
    pub(super) body_rate_min: Option<Size>,
    pub(super) body_rate_grace: Option<Span>,
    pub(super) client_write_timeout: Option<Span>,
    pub(super) keep_alive_timeout: Option<Span>,
    pub(super) first_byte_timeout: Option<Span>,
    pub(super) upstream_idle_timeout: Option<Span>,
    pub(super) tunnel_idle_timeout: Option<Span>,
    pub(super) tcp_idle_timeout: Option<Span>,
    pub(super) udp_idle_timeout: Option<Span>,
    pub(super) drain_timeout: Option<Span>,
    pub(super) upgrade_drain_timeout: Option<Span>,
    pub(super) header_bytes_max: Option<Size>,
    pub(super) headers_max: Option<usize>,
    pub(super) target_bytes_max: Option<Size>,
    pub(super) retries_max: Option<u8>,
    pub(super) connections_max: Option<NonZeroUsize>,
    pub(super) connections_per_source_max: Option<NonZeroUsize>,
    pub(super) udp_sessions_max: Option<NonZeroUsize>,
    pub(super) buffer_bytes_max: Option<Size>,
    pub(super) cache_bytes_max: Option<Size>,
    pub(super) via_name: Option<Spanned<String>>,
    pub(super) request_start: Option<bool>,
    pub(super) tcp_ports: Option<Spanned<PortsAt>>,
    pub(super) virtual_addresses: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerFile {
    pub(super) name: Spanned<ListenerName>,
    pub(super) bind: Spanned<SocketAddr>,
    #[serde(default)]
    pub(super) protocol: Protocol,
    #[serde(default)]
    pub(super) trusted: Vec<IpNet>,
    pub(super) via: Option<bool>,
    pub(super) proxy_protocol: Option<Spanned<ProxyHeader>>,
    pub(super) tls: Option<Spanned<TlsFile>>,
    pub(super) redirect_https: Option<Spanned<u16>>,
    pub(super) http2: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsFile {
    pub(super) default_certificate: Option<CertificateName>,
    pub(super) unknown_name: Option<UnknownNameWord>,
    pub(super) version_min: Option<VersionWord>,
    pub(super) handshake_timeout: Option<Span>,
    pub(super) client_ca_file: Option<Spanned<PathBuf>>,
    pub(super) client_certificates: Option<Spanned<ClientWord>>,
    pub(super) hsts: Option<HstsFile>,
    pub(super) alpn: Option<Spanned<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HstsFile {
    pub(super) max_age: Span,
    #[serde(default)]
    pub(super) subdomains: bool,
    #[serde(default)]
    pub(super) preload: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateFile {
    pub(super) name: Spanned<CertificateName>,
    pub(super) chain_file: Spanned<PathBuf>,
    pub(super) key_file: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DnsFile {
    pub(super) bind: Spanned<Vec<SocketAddr>>,
    pub(super) zone: Option<Spanned<String>>,
    pub(super) proxy_addresses: Option<Vec<IpAddr>>,
    pub(super) upstreams: Option<Spanned<Vec<SocketAddr>>>,
    pub(super) resolv_conf: Option<PathBuf>,
    pub(super) allow: Option<Vec<IpNet>>,
    pub(super) cache_bytes_max: Option<Size>,
    pub(super) workers: Option<Spanned<usize>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentFile {
    pub(super) services_dir: Option<Spanned<PathBuf>>,
    pub(super) ports: Option<Ports>,
    pub(super) run_jobs: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendFile {
    pub(super) service: ServiceName,
    #[serde(default)]
    pub(super) weight: Weight,
    #[serde(default)]
    pub(super) leader: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteFile {
    pub(super) name: Option<RouteName>,
    pub(super) listener: Option<Spanned<ListenerName>>,
    pub(super) port: Option<Spanned<u16>>,
    pub(super) host: Option<HostPattern>,
    pub(super) path: Option<PathPattern>,
    pub(super) service: Option<ServiceName>,
    pub(super) backends: Option<Vec<BackendFile>>,
    pub(super) leader: Option<bool>,
    #[serde(default)]
    pub(super) methods: Vec<MethodName>,
    #[serde(default)]
    pub(super) headers: Matches<HeaderName>,
    #[serde(default)]
    pub(super) query: Matches<ParameterName>,
    pub(super) redirect_https: Option<Spanned<NonZeroU16>>,
    pub(super) hsts: Option<Spanned<HstsFile>>,
    pub(super) rewrite: Option<Spanned<RewriteFile>>,
    pub(super) mirror: Option<Spanned<MirrorFile>>,
    pub(super) retry: Option<Spanned<RetryFile>>,
    pub(super) compress: Option<Spanned<CompressFile>>,
    pub(super) cache: Option<Spanned<CacheFile>>,
    pub(super) connect_timeout: Option<Span>,
    pub(super) first_byte_timeout: Option<Span>,
    pub(super) request_timeout: Option<Span>,
    pub(super) body_idle_timeout: Option<Span>,
    pub(super) tunnel_idle_timeout: Option<Span>,
    pub(super) body_max: Option<Size>,
    pub(super) error_pages: Option<Spanned<PageSetName>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RewriteFile {
    pub(super) prefix: Option<PathPrefix>,
    pub(super) host: Option<Host>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MirrorFile {
    pub(super) service: ServiceName,
    pub(super) percent: Option<Percent>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryFile {
    pub(super) attempts: Option<u8>,
    pub(super) statuses: Option<Vec<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AppFile {
    pub(super) name: AppName,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) progress_deadline: Option<Span>,
    pub(super) processes: BTreeMap<ProcessName, ProcessFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessFile {
    pub(super) command: Vec<String>,
    #[serde(default = "one")]
    pub(super) instances: u32,
    pub(super) service: Option<ServiceName>,
    pub(super) port: Option<u16>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) dir: Option<PathBuf>,
    #[serde(default)]
    pub(super) checks: Vec<CheckFile>,
    pub(super) cpu: Option<Cores>,
    pub(super) memory: Option<Size>,
    pub(super) drain_timeout: Option<Span>,
    pub(super) kill_timeout: Option<Span>,
}

fn one() -> u32 {
    1
}
