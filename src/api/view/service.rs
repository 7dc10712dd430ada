//! Services and their instances.

use std::collections::BTreeMap;

use portolan_discovery::model::{Host, Instance, ServiceTls};
use portolan_discovery::snapshot::{Member, ServiceEntry, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ConcurrencyView, EjectionView, StickyView, VirtualView, millis, origin, states, word};

/// A service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// The name.
    pub name: String,
    /// `http`, `tcp` or `udp`.
    pub protocol: String,
    /// `p2c`, `round_robin`, `least` or `hash`.
    #[serde(default)]
    pub balance: String,
    /// What `hash` goes by: `header:NAME`, `cookie:NAME` or `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_by: Option<String>,
    /// How long an instance that came up takes to its full share, in milliseconds; no time when
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start_ms: Option<u64>,
    /// When an instance that answers badly is left alone for a while.
    #[serde(default)]
    pub ejection: EjectionView,
    /// The cookie that keeps a client with its instance; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<StickyView>,
    /// How much one instance does at a time; no limit when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyView>,
    /// Which HTTP instances are spoken to in: `h2`; HTTP/1.1 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_version: Option<String>,
    /// The PROXY header that connections to instances begin with, `v1` or `v2`; none when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<String>,
    /// How instances are spoken to by TLS; they are not when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServiceTlsView>,
    /// Where it is reached at an address of its own; nowhere when left out.
    #[serde(default, rename = "virtual", skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<VirtualView>,
    /// Instances by state.
    pub states: BTreeMap<String, usize>,
    /// The instances.
    pub instances: Vec<InstanceView>,
}

/// How instances are spoken to by TLS. Files lie on every machine with a router.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceTlsView {
    /// Whether the certificate must be trusted and for the name; it must when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
    /// The authorities to trust, in PEM; the system's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// The name that the certificate must have; the address when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The chain that the router shows when it is asked, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_file: Option<String>,
    /// Its key, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

impl ServiceTlsView {
    /// As it is stored.
    pub fn record(self) -> Result<ServiceTls, Box<dyn std::error::Error + Send + Sync>> {
        let Self { verify, ca_file, name, chain_file, key_file } = self;
        let name = name.map(|name| Host::parse(&name)).transpose()?;
        let verify = verify.unwrap_or(true);
        Ok(ServiceTls { verify, ca_file, name, chain_file, key_file }.checked()?)
    }
}

impl From<&ServiceTls> for ServiceTlsView {
    fn from(tls: &ServiceTls) -> Self {
        Self {
            verify: Some(tls.verify),
            ca_file: tls.ca_file.clone(),
            name: tls.name.as_ref().map(ToString::to_string),
            chain_file: tls.chain_file.clone(),
            key_file: tls.key_file.clone(),
        }
    }
}

/// An instance.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// The service.
    pub service: String,
    /// The name within the service.
    pub id: String,
    /// The node whose agent owns it.
    pub node: String,
    /// Where it listens.
    pub addr: String,
    /// Its share of the traffic.
    pub weight: u16,
    /// `up`, `starting`, `down`, `draining` or `admin-down`.
    pub state: String,
    /// Why it is not up, in a few words.
    pub cause: Option<String>,
    /// Who registered it.
    pub origin: String,
    /// When its health or phase last changed, in milliseconds of Unix time.
    pub since_ms: u64,
}

/// A service that is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceCall {
    /// `http` (default), `tcp` or `udp`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Which HTTP instances are spoken to in: `h1` (default) or `h2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_version: Option<String>,
    /// Whether connections to instances are kept for the next request; they are by default.
    #[serde(default)]
    pub keep_alive: Option<bool>,
    /// How requests are spread: `p2c` (default), `round_robin`, `least` or `hash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    /// What `hash` goes by: `header:NAME`, `cookie:NAME` or `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_by: Option<String>,
    /// How long an instance that came up takes to its full share, in milliseconds; no time when
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start_ms: Option<u64>,
    /// When an instance that answers badly is left alone for a while; the default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<EjectionView>,
    /// The cookie that keeps a client with its instance; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<StickyView>,
    /// How much one instance does at a time; no limit when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyView>,
    /// The PROXY header that connections to instances begin with, `v1` or `v2`; none when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<String>,
    /// How instances are spoken to by TLS; they are not when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServiceTlsView>,
    /// The port, 1 to 65,535, that a TCP service is reached by at an address of its own; it is given
    /// none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_port: Option<u16>,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// An instance that is asked for. Its health is up: who registers by API answers for it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceCall {
    /// Where it listens.
    pub addr: String,
    /// Its share, 1 to 65,535; 100 when left out.
    #[serde(default)]
    pub weight: Option<u16>,
    /// Free key-value pairs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl From<&ServiceEntry> for ServiceView {
    fn from(entry: &ServiceEntry) -> Self {
        Self {
            name: entry.service.name.to_string(),
            protocol: word(&entry.service.protocol),
            balance: word(&entry.service.balancing.word()),
            hash_by: entry.service.balancing.hash_by().map(ToString::to_string),
            slow_start_ms: millis(entry.service.slow_start),
            ejection: entry.service.ejection.as_ref().into(),
            sticky: entry.service.sticky.as_ref().map(StickyView::from),
            concurrency: entry.service.concurrency.as_ref().map(ConcurrencyView::from),
            http_version: Some(&entry.service.http_version)
                .filter(|version| !version.is_default())
                .map(word),
            proxy_protocol: entry.service.proxy_protocol.map(|version| version.to_string()),
            tls: entry.service.tls.as_ref().map(ServiceTlsView::from),
            virtual_address: None,
            states: states(entry.members.values()),
            instances: entry.members.values().map(InstanceView::from).collect(),
        }
    }
}

impl From<&Member> for InstanceView {
    fn from(member: &Member) -> Self {
        let instance: &Instance = &member.instance;
        let overridden = member
            .overridden_by
            .as_ref()
            .filter(|_| member.state != State::Up)
            .map(|o| format!("{} by {}: {}", word(&o.word), o.by, o.reason));
        Self {
            service: instance.service.to_string(),
            id: instance.id.to_string(),
            node: instance.node.to_string(),
            addr: instance.addr.to_string(),
            weight: instance.weight.0.get(),
            state: member.state.word().to_owned(),
            cause: overridden.or_else(|| instance.cause.clone()),
            origin: origin(&instance.origin),
            since_ms: instance.since_ms,
        }
    }
}
