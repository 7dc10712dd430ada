//! Virtual addresses of services.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portolan_discovery::model::ServiceName;
use portolan_discovery::snapshot::ServiceEntry;
use portolan_router::VirtualStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a service is reached beside its routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VirtualView {
    /// The port that it asks for.
    pub port: u16,
    /// Its address with that port; none when it has been given none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Why it is not reached there on this node, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// The virtual addresses of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VirtualsView {
    /// The range that they are of, on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// How many are listened at.
    pub listening: usize,
    /// Services that are not reached at one, and why.
    #[serde(default)]
    pub failed: BTreeMap<String, String>,
}

impl VirtualView {
    /// That of a service which asks for one. `unaddressed` are those that the leading controller,
    /// if it is this node's, has given none.
    pub fn of(
        entry: &ServiceEntry,
        listening: &[VirtualStatus],
        unaddressed: &BTreeMap<ServiceName, String>,
    ) -> Option<Self> {
        let name = &entry.service.name;
        let port = entry.service.wants_virtual().filter(|_| entry.declared)?;
        let cause = match entry.virtual_addr {
            Some(addr) => cause(name, addr, listening),
            None => {
                let why = unaddressed.get(name).cloned();
                Some(why.unwrap_or_else(|| "it has not been given one yet".to_owned()))
            }
        };
        let addr = entry.virtual_addr.map(|addr| addr.to_string());
        Some(Self { port: port.get(), addr, cause })
    }
}

/// Why a service is not reached at its address here, if so.
fn cause(name: &ServiceName, addr: SocketAddr, listening: &[VirtualStatus]) -> Option<String> {
    match listening.iter().find(|one| one.addr == addr && one.service == *name) {
        Some(one) => one.failure.clone(),
        None => Some("nobody listens there yet".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use portolan_discovery::model::{Protocol, Service};

    use super::*;

    #[test]
    fn it_is_said_why_a_service_is_not_reached() {
        let name: ServiceName = "db".parse().unwrap();
        let addr = SocketAddr::from(([127, 64, 3, 7], 5432));
        let entry = |virtual_addr| ServiceEntry {
            service: Service {
                protocol: Protocol::Tcp,
                virtual_port: NonZeroU16::new(5432),
                ..Service::named(name.clone())
            },
            declared: true,
            members: BTreeMap::new(),
            virtual_addr,
        };
        let status = |service: &str, failure: Option<&str>| VirtualStatus {
            service: service.parse().unwrap(),
            addr,
            failure: failure.map(str::to_owned),
        };
        let full = BTreeMap::from([(name.clone(), "all are taken".to_owned())]);
        let none = BTreeMap::new();
        let cause = |virtual_addr, listening: &[VirtualStatus], unaddressed| {
            VirtualView::of(&entry(virtual_addr), listening, unaddressed).unwrap().cause
        };
        assert_eq!(cause(Some(addr), &[status("db", None)], &none), None);
        let failed = status("db", Some("it is in use"));
        assert_eq!(cause(Some(addr), &[failed], &none).as_deref(), Some("it is in use"));
        let other = cause(Some(addr), &[status("other", None)], &none);
        assert_eq!(other.as_deref(), Some("nobody listens there yet"));
        assert_eq!(cause(None, &[], &full).as_deref(), Some("all are taken"));
        assert!(cause(None, &[], &none).unwrap().contains("yet"));
        let undeclared = ServiceEntry { declared: false, ..entry(None) };
        assert_eq!(VirtualView::of(&undeclared, &[], &none), None);
    }
}
