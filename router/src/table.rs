//! The route table: immutable, with shared structure, compiled from a snapshot. One change
//! copies one spine and one host.
//!
//! Choosing is a pure function over a borrowed table: [`Table::find`] by what a
//! [`RequestView`] says, then [`Found::pick`] for the endpoint. A request may hold its [`RouteEntry`] and
//! its endpoint across `.await`, never the table, so what a worker may have to free is one
//! entry. A retry picks from the newest table: an instance that has begun to drain since is
//! not picked.
//!
//! Knows nothing of sockets, stores and clocks.

mod compile;
mod entry;
mod hosts;
mod index;
mod names;
mod paths;
mod request;
mod service;

use std::sync::Arc;
use std::time::Duration;

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, OrdMap, OrdSet};
use portolan_discovery::model::{
    InstanceId, ListenerName, Revision, Route, RouteName, Rule, ServiceName,
};
use portolan_discovery::snapshot::{Snapshot, State};

pub use compile::{Compiled, Conflict, Report, RouteFault};
pub(crate) use entry::Cached;
pub use entry::{Found, Full, PickError, RouteEntry};
pub use request::{Headers, RequestView};
pub use service::{Member, ServiceTable};

pub(crate) use request::Lack;

use crate::balance::Ask;
use crate::endpoint::{Endpoint, InFlight};
use hosts::Hosts;
use index::Index;
use names::Names;
use service::{ServiceKey, ServiceMark};

/// The routes that take everything of a listener, in order of precedence.
type ByListener = OrdMap<ListenerName, Vec<Arc<RouteEntry>>>;

pub(crate) type Seed = SeedableRandomState;
pub(crate) type HashMap<K, V> = GenericHashMap<K, V, Seed, DefaultSharedPtr>;

/// All tables of a process hash alike, so an entry of one finds its service in another. Random
/// per process: names are chosen by others.
pub(crate) fn seed() -> Seed {
    Seed::with_seed(0, SharedSeed::global_random())
}

/// Everything a worker needs to choose: which route, which service, which endpoint.
#[derive(Debug, Clone)]
pub struct Table {
    snapshot: Snapshot,
    hosts: Hosts,
    tcp: ByListener,
    udp: ByListener,
    tls: OrdMap<ListenerName, Names>,
    services: Index<ServiceTable>,
    /// Services with a member that drains.
    draining: OrdMap<ServiceName, Arc<ServiceTable>>,
    panic: OrdSet<ServiceName>,
    kept: OrdSet<ServiceName>,
}

impl Table {
    /// The table before the first snapshot: every request is without a route.
    pub fn empty() -> Self {
        Self {
            snapshot: Snapshot::default(),
            hosts: Hosts::new(),
            tcp: OrdMap::new(),
            udp: OrdMap::new(),
            tls: OrdMap::new(),
            services: Index::new(),
            draining: OrdMap::new(),
            panic: OrdSet::new(),
            kept: OrdSet::new(),
        }
    }

    /// The revision of the snapshot it is compiled from.
    pub fn revision(&self) -> Revision {
        self.snapshot.revision
    }

    /// The snapshot it is compiled from.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The route of a request.
    ///
    /// The most specific host that has a matching rule wins (exact, then the longest wildcard,
    /// then any); in one host an exact path, then the longest prefix by segments, then regular
    /// expressions; for one path the rule that names a method, then the one with more header
    /// fields, then with more parameters; then the route of this listener before one for all,
    /// the older, the first by name.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        self.hosts.find(request)
    }

    /// The route that [`Table::find`] finds.
    pub fn route(&self, request: &RequestView<'_>) -> Option<&Arc<RouteEntry>> {
        self.find(request).map(|found| found.route)
    }

    /// The route of every connection of a TCP listener: the oldest, then by name.
    pub fn tcp_route(&self, listener: &ListenerName) -> Option<&Arc<RouteEntry>> {
        self.tcp.get(listener)?.first()
    }

    /// The route of every datagram of a UDP listener: the oldest, then by name.
    pub fn udp_route(&self, listener: &ListenerName) -> Option<&Arc<RouteEntry>> {
        self.udp.get(listener)?.first()
    }

    /// The route of a connection of a listener that passes TLS on, whose client asks for `host`
    /// in lower case: the one that names it, else the longest wildcard, else the one for any; of
    /// several for one host the oldest, then by name.
    pub fn tls_route(
        &self,
        listener: &ListenerName,
        host: Option<&str>,
    ) -> Option<&Arc<RouteEntry>> {
        self.tls.get(listener)?.find(host)
    }

    /// A service by name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceTable>> {
        self.by_key(&ServiceKey::of(name))
    }

    /// An attempt at `endpoint` ended in a gateway error: it looks slower from now on, and after
    /// enough of them in a row it is left alone for a while. Returns for how long, if that
    /// begins now.
    pub fn failed(&self, endpoint: &Endpoint, now_us: u64, elapsed_us: u64) -> Option<Duration> {
        endpoint.state.latency.failed(now_us, elapsed_us);
        self.service(&endpoint.service)?.failed(&endpoint.state, now_us)
    }

    /// Picks an endpoint of a service, whatever the route.
    pub(crate) fn pick_of(
        &self,
        service: &ServiceName,
        ask: &Ask<'_>,
    ) -> Result<InFlight, PickError> {
        match self.service(service) {
            Some(service) => entry::picked(service, ask, false),
            None => Err(PickError::UnknownService { service: service.clone() }),
        }
    }

    fn by_key(&self, key: &ServiceKey) -> Option<&Arc<ServiceTable>> {
        self.services.get(key.hash(), |service| service.key() == key)
    }

    fn by_mark(&self, mark: ServiceMark) -> Option<&Arc<ServiceTable>> {
        self.services.get(mark.hash, |service| mark.is_of(service.key()))
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceTable>> {
        self.services.iter()
    }

    /// What draining instances have under way, zeros too; by service, then instance.
    pub fn draining(&self) -> impl Iterator<Item = (&ServiceName, &InstanceId, u64)> {
        self.draining.iter().flat_map(|(name, service)| {
            service
                .members()
                .filter(|member| member.state == State::Draining)
                .map(move |member| (name, &member.endpoint.id, member.endpoint.in_flight()))
        })
    }

    /// The services whose instances are used although they are down, by name.
    pub fn panic_services(&self) -> impl Iterator<Item = &ServiceName> {
        self.panic.iter()
    }

    /// The services that keep instances because nothing explains why all are gone, by name.
    pub fn kept_services(&self) -> impl Iterator<Item = &ServiceName> {
        self.kept.iter()
    }

    /// The routes of every pattern that takes `host`, in order of precedence.
    pub(crate) fn rules_for_host(&self, host: &str) -> Vec<&Arc<RouteEntry>> {
        self.hosts.tiers(host).flat_map(|paths| paths.entries()).collect()
    }

    /// The routes of a listener that passes TLS on which take `host`, in order of precedence.
    pub(crate) fn tls_rules(
        &self,
        listener: &ListenerName,
        host: Option<&str>,
    ) -> Vec<&Arc<RouteEntry>> {
        let names = self.tls.get(listener).into_iter();
        names.flat_map(|names| names.tiers(host).flatten()).collect()
    }

    /// The routes of a TCP or UDP listener, in order of precedence.
    pub(crate) fn bound_rules(&self, listener: &ListenerName) -> &[Arc<RouteEntry>] {
        let routes = self.tcp.get(listener).or_else(|| self.udp.get(listener));
        routes.map(Vec::as_slice).unwrap_or_default()
    }

    /// The routes of each host, in order of precedence. Reads every route.
    pub(crate) fn hosts_in_order(&self) -> impl Iterator<Item = Vec<&RouteEntry>> {
        self.hosts.all().map(|paths| paths.entries().into_iter().map(|entry| &**entry).collect())
    }

    /// The routes with the host, or the TCP or UDP listener, of a route, in order of precedence.
    pub(crate) fn rules_beside(&self, route: &Route) -> Vec<&RouteEntry> {
        let entries = match (&route.rule, &route.listener) {
            (Rule::Http(rule), _) => {
                self.hosts.of(&rule.host).map(|paths| paths.entries()).unwrap_or_default()
            }
            (Rule::Tcp, Some(listener)) => self.tcp.get(listener).into_iter().flatten().collect(),
            (Rule::Udp, Some(listener)) => self.udp.get(listener).into_iter().flatten().collect(),
            (Rule::Tls(rule), Some(listener)) => {
                self.tls.get(listener).into_iter().flat_map(|names| names.of(&rule.host)).collect()
            }
            (Rule::Tcp | Rule::Udp | Rule::Tls(_), None) => Vec::new(),
        };
        entries.into_iter().map(|entry| &**entry).collect()
    }

    /// The routes of each TCP and UDP listener, and of each host of a listener that passes TLS on,
    /// in order of precedence.
    pub(crate) fn bound_in_order(&self) -> impl Iterator<Item = &[Arc<RouteEntry>]> {
        let names = self.tls.values().flat_map(Names::all);
        self.tcp.values().chain(self.udp.values()).chain(names).map(Vec::as_slice)
    }

    /// All pairs of routes with the same rule. Reads every route: for people, not for requests.
    pub fn conflicts(&self) -> Vec<Conflict> {
        compile::conflicts(self)
    }

    /// All routes that lead to a service that does not exist. Reads every route.
    pub fn dangling(&self) -> impl Iterator<Item = (&RouteName, &ServiceName)> {
        self.snapshot.routes().flat_map(|(name, route)| {
            route
                .backends
                .iter()
                .filter(|backend| self.service(&backend.service).is_none())
                .map(move |backend| (name, &backend.service))
        })
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::empty()
    }
}
