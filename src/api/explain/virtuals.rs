//! Connections to the virtual addresses of services, which no route decides about.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::Uri;
use portolan_discovery::model::{ListenerName, ServiceName};
use portolan_discovery::snapshot::Snapshot;
use portolan_router::{RouteEntry, Table, VIRTUAL_LISTENER, VirtualStatus};

use super::{Asker, picked_for, takers, view};
use crate::api::view::ExplainView;

/// Where a connection to a virtual address goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// It is a service's.
    Service(ServiceName, SocketAddr),
    /// Nobody is reached there.
    Nobody(String),
}

/// The target of a connection to a virtual address, if it is one: its listener says so, or its
/// address when no listener is named.
pub(super) fn target(
    url: &str,
    listener: Option<&ListenerName>,
    snapshot: &Snapshot,
) -> Option<Target> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host()?;
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_meant = |name: &ServiceName, addr: SocketAddr| match address {
        Some(address) => address == addr.ip(),
        None => name.as_str() == host,
    };
    let has_port = |addr: SocketAddr| uri.port_u16().is_none_or(|port| port == addr.port());
    let found = snapshot.virtual_addrs().find(|(name, addr)| is_meant(name, *addr));
    match listener {
        Some(listener) if listener.as_str() != VIRTUAL_LISTENER => None,
        None if address.is_none() || found.is_none() => None,
        _ => Some(match found.filter(|(_, addr)| has_port(*addr)) {
            Some((name, addr)) => Target::Service(name.clone(), addr),
            None => Target::Nobody(uri.authority()?.to_string()),
        }),
    }
}

/// What becomes of a connection to `target`.
pub(super) fn connection(
    table: &Table,
    listening: &[VirtualStatus],
    target: Target,
    source: IpAddr,
) -> ExplainView {
    let (host, addr, service) = match target {
        Target::Nobody(host) => return nobody(table, &host),
        Target::Service(service, addr) => (addr.ip().to_string(), addr, service),
    };
    let route = Arc::new(RouteEntry::virtual_of(&service));
    let explanation = table.explain_virtual(&route);
    let one = listening.iter().find(|one| one.addr == addr && one.service == service);
    let failure = match one {
        Some(one) => one.failure.as_deref(),
        None => Some("nobody listens there yet"),
    };
    let leads = format!("{addr} is the virtual address of {service}");
    let verdict = match (failure, takers(&explanation)) {
        (Some(failure), _) => format!("{leads}, where this node cannot be reached: {failure}"),
        (None, 0) => format!("{leads}, which has no instance: reset"),
        (None, takers) => format!("{leads}: one of {takers} instances"),
    };
    let picked = failure.is_none().then(|| picked_for(source, &route, table)).flatten();
    let asker = Asker { method: "tcp", host: &host, path: "-", query: None };
    ExplainView { verdict, route: None, picked, ..view(asker, &explanation) }
}

fn nobody(table: &Table, host: &str) -> ExplainView {
    ExplainView {
        revision: table.revision().0,
        method: "tcp".to_owned(),
        host: host.to_owned(),
        path: "-".to_owned(),
        query: None,
        verdict: format!("no service has the virtual address {host}: refused"),
        route: None,
        candidates: Vec::new(),
        settings: Vec::new(),
        instances: Vec::new(),
        picked: None,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use portolan_discovery::model::record::encode;
    use portolan_discovery::model::{Event, Key, Kv, Protocol, Revision, Service, VirtualAddress};
    use portolan_router::metrics::Metrics;

    use super::*;

    fn snapshot() -> Snapshot {
        let service = |name: &str| Service {
            protocol: Protocol::Tcp,
            virtual_port: NonZeroU16::new(5432),
            ..Service::named(name.parse().unwrap())
        };
        let mut records = Vec::new();
        for (name, address) in [("db", "127.64.3.7"), ("six", "fd00:7::6")] {
            let service = service(name);
            let name = service.name.clone();
            let given = VirtualAddress { service: name.clone(), address: address.parse().unwrap() };
            records.push((Key::Service(name.clone()), encode(&service)));
            records.push((Key::Virtual(name), encode(&given)));
        }
        let (created, modified) = (Revision(1), Revision(1));
        let put = |(key, value): (Key, _)| {
            Event::Put(Kv { key: key.to_string(), value, created, modified, lease: None })
        };
        let events: Vec<_> = records.into_iter().map(put).collect();
        Snapshot::default().apply(&events, created).0
    }

    #[test]
    fn a_virtual_address_is_known_by_itself_and_by_its_service_s_name() {
        let snapshot = snapshot();
        let listener = |name: &str| ListenerName::parse(name).unwrap();
        let say = |url: &str, name: Option<&str>| {
            let name = name.map(listener);
            match target(url, name.as_ref(), &snapshot) {
                Some(Target::Service(name, addr)) => format!("{name} {addr}"),
                Some(Target::Nobody(host)) => format!("nobody {host}"),
                None => "no".to_owned(),
            }
        };
        for (url, name, expected) in [
            ("tcp://127.64.3.7:5432", None, "db 127.64.3.7:5432"),
            ("tcp://127.64.3.7", None, "db 127.64.3.7:5432"),
            ("tcp://[fd00:7::6]:5432", None, "six [fd00:7::6]:5432"),
            ("tcp://127.64.3.7:80", None, "nobody 127.64.3.7:80"),
            ("tcp://db", Some("virtual"), "db 127.64.3.7:5432"),
            ("tcp://127.64.3.8", Some("virtual"), "nobody 127.64.3.8"),
            ("tcp://web", Some("virtual"), "nobody web"),
            ("tcp://db", None, "no"),
            ("http://127.0.0.1/", None, "no"),
            ("tcp://127.64.3.7", Some("tcp"), "no"),
        ] {
            assert_eq!(say(url, name), expected, "{url} {name:?}");
        }
    }

    #[test]
    fn it_is_said_where_a_connection_ends_that_gets_nowhere() {
        let snapshot = snapshot();
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let table = Table::compile(&snapshot, None, &metrics).table;
        let addr = SocketAddr::from(([127, 64, 3, 7], 5432));
        let service: ServiceName = "db".parse().unwrap();
        let said = |listening: &[VirtualStatus]| {
            let target = Target::Service(service.clone(), addr);
            connection(&table, listening, target, IpAddr::from([127, 0, 0, 1])).verdict
        };
        let status =
            |failure: Option<String>| VirtualStatus { service: service.clone(), addr, failure };
        let leads = "127.64.3.7:5432 is the virtual address of db, ";
        assert_eq!(said(&[status(None)]), format!("{leads}which has no instance: reset"));
        let failed = said(&[status(Some("it is in use".to_owned()))]);
        assert_eq!(failed, format!("{leads}where this node cannot be reached: it is in use"));
        assert!(said(&[]).ends_with("nobody listens there yet"));
    }
}
