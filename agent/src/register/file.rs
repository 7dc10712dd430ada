//! How services, instances and checks are written in TOML: files of services, and the tables of
//! the main configuration. What has been read is valid; what is not says line and accepted values.

mod check;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};

use portolan_discovery::model::service::{BalanceWord, BalancingError, ConcurrencyError};
use portolan_discovery::model::{
    Balancing, CheckKind, Concurrency, Ejection, HashBy, HttpVersion, InstanceId, Origin, Protocol,
    ProxyVersion, Service, ServiceName, ServiceTls, Sticky, Weight,
};
use serde::Deserialize;

pub use check::CheckFile;

use super::{Declared, DeclaredInstance};

/// Why a file of services cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", .line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct FileError {
    /// The file's name.
    pub file: String,
    /// The line, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong, with the accepted values.
    pub message: String,
}

/// A file of the agent's folder: `[service]`, `[[instance]]` and `[[check]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawFile")]
pub struct FolderFile(Body);

/// A service of `[[services]]` in the main configuration, with `instances` and `checks` in it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawTable")]
pub struct ServiceFile(Body);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Body {
    service: Service,
    instances: Vec<DeclaredInstance>,
}

impl FolderFile {
    /// Reads the text of the file `name`.
    pub fn parse(name: &str, text: &str) -> Result<Self, FileError> {
        toml::from_str(text).map_err(|error| FileError {
            file: name.to_owned(),
            line: error.span().map(|span| line_at(text, span.start)),
            message: error.message().to_owned(),
        })
    }

    /// What the file `name` declares.
    pub fn declared(self, name: &str) -> Declared {
        self.0.declared(Origin::File(name.to_owned()))
    }
}

impl ServiceFile {
    /// The service's name.
    pub fn name(&self) -> &ServiceName {
        &self.0.service.name
    }

    /// What `origin` declares by it.
    pub fn declared(self, origin: Origin) -> Declared {
        self.0.declared(origin)
    }
}

impl Body {
    fn declared(self, origin: Origin) -> Declared {
        Declared { service: self.service, instances: self.instances, origin }
    }
}

fn line_at(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    service: RawService,
    #[serde(default)]
    instance: Vec<InstanceFile>,
    #[serde(default)]
    check: Vec<CheckFile>,
}

/// Declares a table with the keys of a service, alone or with more beside them: unknown keys are
/// errors, which a table that is flattened into another one cannot tell.
macro_rules! service_keys {
    (struct $name:ident { $($more:tt)* }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            name: ServiceName,
            #[serde(default, deserialize_with = "value::protocol")]
            protocol: Protocol,
            #[serde(default)]
            http_version: HttpVersion,
            #[serde(default = "yes")]
            keep_alive: bool,
            #[serde(default, deserialize_with = "value::sticky")]
            sticky: Option<Sticky>,
            in_flight_max: Option<NonZeroU32>,
            queue_max: Option<u32>,
            queue_wait: Option<value::Span>,
            #[serde(default, deserialize_with = "value::proxy_protocol")]
            proxy_protocol: Option<ProxyVersion>,
            tls: Option<ServiceTls>,
            virtual_port: Option<NonZeroU16>,
            #[serde(default)]
            balance: BalanceWord,
            hash_by: Option<HashBy>,
            slow_start: Option<value::Span>,
            #[serde(default = "value::usual_ejection", deserialize_with = "value::ejection")]
            ejection: Option<Ejection>,
            #[serde(default)]
            labels: BTreeMap<String, String>,
            $($more)*
        }

        impl $name {
            fn service(&self) -> Result<Service, BodyError> {
                let span = |span: &Option<value::Span>| span.as_ref().map(|span| span.0);
                let wait = span(&self.queue_wait);
                Ok(Service {
                    name: self.name.clone(),
                    protocol: self.protocol,
                    http_version: self.http_version,
                    keep_alive: self.keep_alive,
                    sticky: self.sticky.clone(),
                    concurrency: Concurrency::from_keys(self.in_flight_max, self.queue_max, wait)?,
                    balancing: Balancing::of(self.balance, self.hash_by.clone())?,
                    slow_start: span(&self.slow_start),
                    ejection: self.ejection,
                    proxy_protocol: self.proxy_protocol,
                    tls: self.tls.clone(),
                    virtual_port: self.virtual_port,
                    labels: self.labels.clone(),
                })
            }
        }
    };
}

service_keys!(
    struct RawService {}
);
service_keys!(
    struct RawTable {
        #[serde(default)]
        instances: Vec<InstanceFile>,
        #[serde(default)]
        checks: Vec<CheckFile>,
    }
);

fn yes() -> bool {
    true
}

/// One instance as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceFile {
    id: Option<InstanceId>,
    #[serde(deserialize_with = "value::addr")]
    addr: SocketAddr,
    #[serde(default)]
    weight: Weight,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// A declaration that does not fit together.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("two instances of {service} have the id {id}: give each its own id or address")]
    SameId { service: ServiceName, id: InstanceId },
    #[error(
        "the checks of {service} speak HTTP/1.1 and its instances HTTP/2: \
         check them with a kind other than http"
    )]
    HttpCheck { service: ServiceName },
    #[error("http_version is h2, but {service} does not speak http")]
    NotHttp { service: ServiceName },
    #[error("{service} has a virtual_port, but does not speak tcp: remove it, or set protocol")]
    NotTcp { service: ServiceName },
    #[error(transparent)]
    Balancing(#[from] BalancingError),
    #[error(transparent)]
    Concurrency(#[from] ConcurrencyError),
}

fn body(
    service: Service,
    instances: Vec<InstanceFile>,
    checks: Vec<CheckFile>,
) -> Result<Body, BodyError> {
    let mut ids = BTreeSet::new();
    let checks: Vec<_> = checks.into_iter().map(|check| check.0).collect();
    let is_h2 = service.http_version == HttpVersion::H2;
    if is_h2 && service.protocol != Protocol::Http {
        return Err(BodyError::NotHttp { service: service.name });
    }
    if service.virtual_port.is_some() && service.protocol != Protocol::Tcp {
        return Err(BodyError::NotTcp { service: service.name });
    }
    if is_h2 && checks.iter().any(|check| matches!(check.kind, CheckKind::Http { .. })) {
        return Err(BodyError::HttpCheck { service: service.name });
    }
    let mut all = Vec::new();
    for InstanceFile { id, addr, weight, labels } in instances {
        let id = id.unwrap_or_else(|| id_of(addr));
        if !ids.insert(id.clone()) {
            return Err(BodyError::SameId { service: service.name, id });
        }
        all.push(DeclaredInstance { id, addr, weight, checks: checks.clone(), labels });
    }
    Ok(Body { service, instances: all })
}

/// The id of an instance without one: its address as a label, such as `127-0-0-1-8080`.
pub fn id_of(addr: SocketAddr) -> InstanceId {
    let segments: Vec<String> = match addr.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().map(|octet| octet.to_string()).into(),
        std::net::IpAddr::V6(ip) => ip.segments().map(|segment| format!("{segment:x}")).into(),
    };
    InstanceId::parse(&format!("{}-{}", segments.join("-"), addr.port()))
        .expect("digits, letters to f and hyphens between them, at most 45")
}

impl TryFrom<RawFile> for FolderFile {
    type Error = BodyError;

    fn try_from(raw: RawFile) -> Result<Self, BodyError> {
        body(raw.service.service()?, raw.instance, raw.check).map(Self)
    }
}

impl TryFrom<RawTable> for ServiceFile {
    type Error = BodyError;

    fn try_from(raw: RawTable) -> Result<Self, BodyError> {
        body(raw.service()?, raw.instances, raw.checks).map(Self)
    }
}

#[cfg(test)]
mod tests;
