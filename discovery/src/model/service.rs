//! A service: a name with instances.

mod balancing;
mod concurrency;
mod ejection;
mod proxy_header;
mod sticky;
mod tls;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ServiceName, millis};

pub use balancing::{BalanceWord, Balancing, BalancingError, HashBy};
pub use ejection::{
    EJECTION_ERRORS_DEFAULT, EJECTION_SHARE_DEFAULT, EJECTION_TIME_DEFAULT, EJECTION_TIME_MAX,
    Ejection, EjectionError,
};

pub use concurrency::{
    Concurrency, ConcurrencyError, QUEUE_MAX, QUEUE_MAX_DEFAULT, QUEUE_WAIT_DEFAULT,
};
pub use proxy_header::ProxyVersion;
pub use sticky::{COOKIE_NAME_BYTES_MAX, CookieName, CookieNameError, Sticky};
pub use tls::{ServiceTls, ServiceTlsError};

/// What a service speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// TLS that is not ended here: of listeners alone. What ends it is a service of bytes.
    Tls,
}

/// Which HTTP the instances of a service are spoken to in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    H1,
    /// HTTP/2: agreed on where there is TLS, else from the first byte.
    H2,
}

impl HttpVersion {
    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What all instances of a service have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The name.
    pub name: ServiceName,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Which HTTP its instances are spoken to in.
    #[serde(default, skip_serializing_if = "HttpVersion::is_default")]
    pub http_version: HttpVersion,
    /// Whether connections to instances are kept for the next request.
    #[serde(default = "yes")]
    pub keep_alive: bool,
    /// How requests are spread over the instances.
    #[serde(default, skip_serializing_if = "Balancing::is_default")]
    pub balancing: Balancing,
    /// How long an instance that came up takes to its full share; mostly no time at all.
    #[serde(
        default,
        with = "millis::option",
        rename = "slow_start_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub slow_start: Option<Duration>,
    /// When an instance that answers badly is left alone for a while; none is never.
    #[serde(default = "ejection", skip_serializing_if = "is_usual")]
    pub ejection: Option<Ejection>,
    /// The cookie that keeps a client with its instance; mostly none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// How much one instance does at a time; mostly no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// The header that connections to instances begin with, which names the client; mostly none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
    /// How its instances are spoken to by TLS; mostly they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServiceTls>,
    /// The port that it is reached by at a virtual address of its own, if it asks for one. For TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_port: Option<NonZeroU16>,
    /// Free key-value pairs for people and programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Service {
    /// A service of which only the name is known: instances may come before the record.
    pub fn named(name: ServiceName) -> Self {
        Self {
            name,
            protocol: Protocol::Http,
            http_version: HttpVersion::H1,
            keep_alive: true,
            balancing: Balancing::P2c,
            slow_start: None,
            ejection: ejection(),
            sticky: None,
            concurrency: None,
            proxy_protocol: None,
            tls: None,
            virtual_port: None,
            labels: BTreeMap::new(),
        }
    }

    /// The port that it asks for at a virtual address. What is no stream of bytes has none.
    pub fn wants_virtual(&self) -> Option<NonZeroU16> {
        self.virtual_port.filter(|_| self.protocol == Protocol::Tcp)
    }
}

fn yes() -> bool {
    true
}

fn ejection() -> Option<Ejection> {
    Some(Ejection::DEFAULT)
}

// Serde hands over a reference to the field.
#[expect(clippy::ref_option, reason = "the form that serde calls")]
fn is_usual(rule: &Option<Ejection>) -> bool {
    *rule == ejection()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_a_key_was_there_has_its_default() {
        let old = r#"{"name":"web","protocol":"http","keep_alive":true}"#;
        let service: Service = serde_json::from_str(old).unwrap();
        assert_eq!(service, Service::named(ServiceName::parse("web").unwrap()));
        assert_eq!(serde_json::to_string(&service).unwrap(), old, "defaults are not written");
    }

    #[test]
    fn a_stored_service_is_what_was_written() {
        let service = Service {
            balancing: Balancing::Hash(HashBy::Source),
            slow_start: Some(Duration::from_secs(7)),
            ejection: None,
            proxy_protocol: Some(ProxyVersion::V2),
            tls: Some(ServiceTls::DEFAULT),
            virtual_port: NonZeroU16::new(5432),
            ..Service::named(ServiceName::parse("web").unwrap())
        };
        let text = serde_json::to_string(&service).unwrap();
        assert_eq!(serde_json::from_str::<Service>(&text).unwrap(), service, "{text}");
    }
}
