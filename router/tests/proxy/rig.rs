//! A router with its table, and the records that the table is made of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use portolan_discovery::model::record::encode;
use portolan_discovery::model::{
    Backend, Event, Health, HttpRule, Instance as Record, InstanceId, Key, Kv, ListenerName,
    NodeName, Origin, Phase, Protocol, Revision, Route, RouteName, Rule, Service, ServiceName,
    Weight,
};
use portolan_discovery::snapshot::Snapshot;
use portolan_router::{Config, ListenerConfig, Router, Table};
use prometheus::{Registry, proto::MetricType};

use super::peer::{Peer, within};

pub fn listener(text: &str) -> ListenerName {
    ListenerName::parse(text).unwrap()
}

fn put(key: Key, value: bytes::Bytes) -> Event {
    let revision = Revision(1);
    let key = key.to_string();
    Event::Put(Kv { key, value, created: revision, modified: revision, lease: None })
}

/// A healthy instance at `addr`.
pub fn instance(service: &str, id: &str, addr: SocketAddr) -> Event {
    instance_in(service, id, addr, Phase::Active)
}

/// An instance that takes nothing new.
pub fn draining(service: &str, id: &str, addr: SocketAddr) -> Event {
    instance_in(service, id, addr, Phase::Draining)
}

fn instance_in(service: &str, id: &str, addr: SocketAddr, phase: Phase) -> Event {
    instance_with(service, id, addr, |record| record.phase = phase)
}

/// A healthy instance at `addr` but for what `change` makes of it.
pub fn instance_with(
    service: &str,
    id: &str,
    addr: SocketAddr,
    change: impl FnOnce(&mut Record),
) -> Event {
    let service = ServiceName::parse(service).unwrap();
    let id = InstanceId::parse(id).unwrap();
    let mut record = Record {
        service: service.clone(),
        id: id.clone(),
        node: NodeName::parse("here").unwrap(),
        addr,
        weight: Weight::DEFAULT,
        health: Health::Up,
        cause: None,
        phase: Phase::Active,
        origin: Origin::Api,
        since_ms: 0,
        labels: BTreeMap::new(),
    };
    change(&mut record);
    put(Key::Instance(service, id), encode(&record))
}

/// The instance is no more.
pub fn without(service: &str, id: &str) -> Event {
    let key = Key::Instance(ServiceName::parse(service).unwrap(), InstanceId::parse(id).unwrap());
    Event::Delete { key: key.to_string(), revision: Revision(1) }
}

/// A service of which connections are kept or not.
pub fn service(name: &str, keep_alive: bool) -> Event {
    service_with(name, |record| record.keep_alive = keep_alive)
}

/// A service with settings of its own.
pub fn service_with(name: &str, change: impl FnOnce(&mut Service)) -> Event {
    let mut record = Service::named(ServiceName::parse(name).unwrap());
    change(&mut record);
    put(Key::Service(record.name.clone()), encode(&record))
}

/// The record of a service.
pub fn put_service(record: &Service) -> Event {
    put(Key::Service(record.name.clone()), encode(record))
}

/// A route of every HTTP listener from `path` on any host to `to`.
pub fn route(path: &str, to: &str) -> Route {
    let rule = Rule::Http(HttpRule::new("*".parse().unwrap(), path.parse().unwrap()));
    let backends = vec![Backend::to(ServiceName::parse(to).unwrap())];
    Route::new(RouteName::parse(&format!("to-{to}")).unwrap(), rule, backends)
}

/// The record of a route.
pub fn routed(route: &Route) -> Event {
    put(Key::Route(route.name.clone()), encode(route))
}

/// A router that runs, with the names `http` and `tcp` for its two listeners.
pub struct Rig {
    pub router: Router,
    pub registry: Registry,
    pub http: SocketAddr,
    pub tcp: SocketAddr,
    snapshot: Snapshot,
}

impl Rig {
    /// A router with these records and one worker, so that counts are exact.
    pub fn new(records: &[Event]) -> Self {
        Self::with(records, |_| {})
    }

    /// The same, with a configuration of its own.
    pub fn with(records: &[Event], configure: impl FnOnce(&mut Config)) -> Self {
        Self::taking_over(records, configure, |_| Vec::new())
    }

    /// The same, on sockets that another one has bound.
    pub fn taking_over(
        records: &[Event],
        configure: impl FnOnce(&mut Config),
        inherited: impl FnMut(&ListenerConfig) -> Vec<std::net::TcpListener>,
    ) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::new(vec![
            ListenerConfig::new(listener("http"), any, Protocol::Http),
            ListenerConfig::new(listener("tcp"), any, Protocol::Tcp),
        ]);
        config.workers = 1;
        configure(&mut config);
        let registry = Registry::new();
        let bound = Router::bind_with(config, &registry, inherited).unwrap();
        let addr = |name: &str| {
            bound.local_addrs().into_iter().find(|(n, _)| n.as_str() == name).unwrap().1
        };
        let (http, tcp) = (addr("http"), addr("tcp"));
        let snapshot = learn(&Snapshot::default(), records);
        let table = Table::compile(&snapshot, None, bound.metrics()).table;
        Self { router: bound.start(table).unwrap(), registry, http, tcp, snapshot }
    }

    /// A router in front of one service `web`, with these instances.
    pub fn web(instances: &[SocketAddr]) -> Self {
        Self::new(&web(instances))
    }

    /// Publishes a table with these changes and returns its revision.
    pub fn apply(&mut self, changes: &[Event]) -> Revision {
        self.snapshot = learn(&self.snapshot, changes);
        let before = self.router.table();
        let compiled = Table::compile(&self.snapshot, Some(&before), self.router.metrics());
        self.router.publish(compiled.table);
        self.snapshot.revision
    }

    /// The same, and waits until every worker has it.
    pub async fn apply_and_wait(&mut self, changes: &[Event]) {
        let revision = self.apply(changes);
        within("the acknowledgement", self.router.wait_acked(revision)).await;
    }

    /// The records that its table is made of.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub async fn client(&self) -> Peer {
        Peer::connect(self.http).await
    }

    /// What all endpoints of `service` have under way.
    pub fn in_flight(&self, service: &str) -> u64 {
        let table = self.router.table();
        let service = table.service(&ServiceName::parse(service).unwrap()).unwrap();
        service.members().map(|member| member.endpoint.in_flight()).sum()
    }

    /// What its first instance is known to take.
    pub fn latency(&self, service: &str) -> Option<Duration> {
        let table = self.router.table();
        let service = table.service(&ServiceName::parse(service).unwrap()).unwrap();
        service.members().next().unwrap().endpoint.state.latency()
    }

    /// Waits until `service` has nothing under way.
    pub async fn settled(&self, service: &str) {
        until("nothing under way", || self.in_flight(service) == 0).await;
    }

    /// The sum of a metric over the series that have all of `labels`.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let Some(family) = families.iter().find(|family| family.name() == name) else {
            panic!("no metric {name}");
        };
        let has = |metric: &&prometheus::proto::Metric| {
            labels.iter().all(|(key, value)| {
                metric.get_label().iter().any(|l| l.name() == *key && l.value() == *value)
            })
        };
        family
            .get_metric()
            .iter()
            .filter(has)
            .map(|metric| match family.get_field_type() {
                MetricType::COUNTER => metric.get_counter().get_value(),
                MetricType::GAUGE => metric.get_gauge().get_value(),
                _ => metric.get_histogram().get_sample_count() as f64,
            })
            .sum()
    }

    /// How many requests, tunnels and TCP connections have ended for `reason`.
    pub fn ended(&self, reason: &str) -> f64 {
        self.metric("portolan_router_terminations_total", &[("reason", reason)])
    }

    /// Waits until something has ended for `reason`.
    pub async fn ends(&self, reason: &str) {
        until(reason, || self.ended(reason) > 0.0).await;
    }
}

/// The records of one service `web` behind every listener.
pub fn web(instances: &[SocketAddr]) -> Vec<Event> {
    let ids = ["a", "b", "c", "d"];
    let mut records: Vec<Event> =
        instances.iter().zip(ids).map(|(addr, id)| instance("web", id, *addr)).collect();
    records.push(service("web", true));
    records.push(routed(&route("/", "web")));
    let mut tcp = route("/", "web");
    tcp.name = RouteName::parse("tcp").unwrap();
    tcp.listener = Some(listener("tcp"));
    tcp.rule = Rule::Tcp;
    records.push(routed(&tcp));
    records
}

fn learn(snapshot: &Snapshot, records: &[Event]) -> Snapshot {
    let (snapshot, rejected) = snapshot.apply(records, snapshot.revision.next());
    assert_eq!(rejected, []);
    snapshot
}

/// Waits until something that has no event of its own is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    within(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
