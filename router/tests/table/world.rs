//! A small cluster for tests and benches of the table: records in, tables out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use portolan_discovery::model::record::encode;
use portolan_discovery::model::route::{Matches, ValuePattern};
use portolan_discovery::model::{
    Backend, Event, Health, HttpRule, Instance, InstanceId, Key, Kv, ListenerName, NodeName,
    Origin, Override, Phase, Predicates, Revision, Route, RouteName, Rule, Scope, Service,
    ServiceName, TlsRule, Weight, Word,
};
use portolan_discovery::snapshot::Snapshot;
use portolan_router::metrics::Metrics;
use portolan_router::{Report, Table};
use prometheus::Registry;

pub struct World {
    pub snapshot: Snapshot,
    pub table: Table,
    pub metrics: Arc<Metrics>,
    pub registry: Registry,
}

impl World {
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        Self { snapshot: Snapshot::default(), table: Table::empty(), metrics, registry }
    }

    /// A world with these records, compiled from nothing.
    pub fn of(events: &[Event]) -> Self {
        let mut world = Self::new();
        world.learn(events);
        world.table = world.full();
        world
    }

    /// The next snapshot, without a table.
    pub fn learn(&mut self, events: &[Event]) {
        let revision = self.snapshot.revision.next();
        let (snapshot, rejected) = self.snapshot.apply(events, revision);
        assert_eq!(rejected, []);
        self.snapshot = snapshot;
    }

    /// The next snapshot and the table compiled from the one before.
    pub fn apply(&mut self, events: &[Event]) -> Report {
        self.learn(events);
        let compiled = Table::compile(&self.snapshot, Some(&self.table), &self.metrics);
        self.table = compiled.table;
        compiled.report
    }

    /// The same snapshot compiled from nothing.
    pub fn full(&self) -> Table {
        Table::compile(&self.snapshot, None, &self.metrics).table
    }
}

pub fn listener(text: &str) -> ListenerName {
    ListenerName::parse(text).unwrap()
}

pub fn service_name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

fn put(key: Key, value: Bytes) -> Event {
    Event::Put(Kv {
        key: key.to_string(),
        value,
        created: Revision(1),
        modified: Revision(1),
        lease: None,
    })
}

pub fn delete(key: &Key) -> Event {
    Event::Delete { key: key.to_string(), revision: Revision(1) }
}

pub fn put_service(name: &str) -> Event {
    let name = service_name(name);
    put(Key::Service(name.clone()), encode(&Service::named(name)))
}

pub fn put_record(record: &Service) -> Event {
    put(Key::Service(record.name.clone()), encode(record))
}

pub fn delete_service(name: &str) -> Event {
    delete(&Key::Service(service_name(name)))
}

/// An instance that is up, with a port of its own.
pub fn instance(service: &str, id: &str) -> Instance {
    let port = id.bytes().fold(7u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    Instance {
        service: service_name(service),
        id: InstanceId::parse(id).unwrap(),
        node: NodeName::parse("n1").unwrap(),
        addr: SocketAddr::from(([127, 0, 0, 1], port)),
        weight: Weight::DEFAULT,
        health: Health::Up,
        cause: None,
        phase: Phase::Active,
        origin: Origin::Api,
        since_ms: 0,
        labels: BTreeMap::new(),
    }
}

pub fn put_instance(record: &Instance) -> Event {
    put(Key::Instance(record.service.clone(), record.id.clone()), encode(record))
}

pub fn up(service: &str, id: &str) -> Event {
    put_instance(&instance(service, id))
}

pub fn with_health(service: &str, id: &str, health: Health) -> Event {
    put_instance(&Instance { health, ..instance(service, id) })
}

pub fn draining(service: &str, id: &str) -> Event {
    put_instance(&Instance { phase: Phase::Draining, ..instance(service, id) })
}

pub fn weighted(service: &str, id: &str, weight: u16) -> Event {
    put_instance(&Instance { weight: Weight(weight.try_into().unwrap()), ..instance(service, id) })
}

pub fn delete_instance(service: &str, id: &str) -> Event {
    delete(&Key::Instance(service_name(service), InstanceId::parse(id).unwrap()))
}

pub fn put_override(scope: &str, word: Word) -> Event {
    let scope: Scope = scope.parse().unwrap();
    let record = Override {
        scope: scope.clone(),
        word,
        reason: "test".into(),
        by: "test".into(),
        since_ms: 0,
        until_ms: None,
    };
    put(Key::Override(scope), encode(&record))
}

pub fn delete_override(scope: &str) -> Event {
    delete(&Key::Override(scope.parse().unwrap()))
}

/// A route to the service `web`, for every listener.
pub fn route(name: &str, host: &str, path: &str) -> Route {
    let rule = Rule::Http(HttpRule::new(host.parse().unwrap(), path.parse().unwrap()));
    Route::new(RouteName::parse(name).unwrap(), rule, vec![backend("web", 100)])
}

/// Methods, header fields and parameters; the value `*` is any.
pub fn predicates(
    methods: &[&str],
    headers: &[(&str, &str)],
    query: &[(&str, &str)],
) -> Predicates {
    let value = |text: &str| match text {
        "*" => ValuePattern::Present,
        text => text.parse().unwrap(),
    };
    Predicates::new(
        methods.iter().map(|name| name.parse().unwrap()).collect(),
        Matches::new(headers.iter().map(|(n, v)| (n.parse().unwrap(), value(v)))).unwrap(),
        Matches::new(query.iter().map(|(n, v)| (n.parse().unwrap(), value(v)))).unwrap(),
    )
    .unwrap()
}

pub fn tcp_route(name: &str, on: &str, service: &str) -> Route {
    Route {
        listener: Some(listener(on)),
        rule: Rule::Tcp,
        backends: vec![backend(service, 100)],
        ..route(name, "*", "/")
    }
}

pub fn tls_route(name: &str, on: &str, host: &str, service: &str) -> Route {
    let rule = Rule::Tls(TlsRule { host: host.parse().unwrap() });
    Route { rule, ..tcp_route(name, on, service) }
}

pub fn backend(service: &str, weight: u16) -> Backend {
    Backend {
        service: service_name(service),
        weight: Weight(weight.try_into().unwrap()),
        leader: false,
    }
}

pub fn put_route(record: &Route) -> Event {
    put(Key::Route(record.name.clone()), encode(record))
}

pub fn delete_route(name: &str) -> Event {
    delete(&Key::Route(RouteName::parse(name).unwrap()))
}
