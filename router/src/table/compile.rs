//! From a snapshot to a table. Only what differs from the previous table's snapshot is compiled
//! anew; a table from nothing goes the same way with everything as new.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_discovery::model::route::RewriteError;
use portolan_discovery::model::{
    HostPattern, HttpRule, ListenerName, Revision, Route, RouteName, Rule, ServiceName,
};
use portolan_discovery::snapshot::{ServiceEntry, Snapshot};

use super::entry::RouteEntry;
use super::paths;
use super::service::{ServiceKey, ServiceTable};
use super::{ByListener, Table};
use crate::metrics::Metrics;

/// Two routes that take exactly the same requests: the second takes none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The route that takes them: the older, or the first by name.
    pub winner: RouteName,
    /// The route that takes none.
    pub loser: RouteName,
}

/// Why a route is not in the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteFault {
    /// It leads nowhere.
    #[error("it has no backend")]
    NoBackend,
    /// A TCP, UDP or TLS route without a listener would take everything of every listener.
    #[error("it is for tcp, udp or tls and names no listener")]
    NoListener,
    /// What passes over TCP, UDP or TLS has no copies.
    #[error("it is for tcp, udp or tls and mirrors requests")]
    TcpMirror,
    /// What passes over TCP, UDP or TLS has no content.
    #[error("it is for tcp, udp or tls and compresses answers")]
    TcpCompress,
    /// What passes over TCP, UDP or TLS has no client that could be sent elsewhere.
    #[error("it is for tcp, udp or tls and brings clients to https")]
    TcpHttps,
    /// What passes over TCP, UDP or TLS has no answers.
    #[error("it is for tcp, udp or tls and caches answers")]
    TcpCache,
    /// It changes what is not there.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
}

/// What a compile did and found. Routes and services are those that changed; panic and kept
/// are all there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The revision of the table.
    pub revision: Revision,
    /// Services compiled anew or removed.
    pub services_changed: usize,
    /// Routes compiled anew or removed.
    pub routes_changed: usize,
    /// Changed routes that share their rule with another one.
    pub conflicts: Vec<Conflict>,
    /// Changed routes that are not in the table.
    pub rejected: Vec<(RouteName, RouteFault)>,
    /// Changed routes that lead to a service that does not exist.
    pub dangling: Vec<(RouteName, ServiceName)>,
    /// Services whose instances are used although they are down.
    pub panic: Vec<ServiceName>,
    /// Services that keep instances because nothing explains why all are gone.
    pub kept: Vec<ServiceName>,
}

/// A new table and what its compile found.
#[derive(Debug)]
pub struct Compiled {
    /// The table.
    pub table: Table,
    /// What was found.
    pub report: Report,
}

impl Table {
    /// Compiles `snapshot`. Live state of endpoints is taken over from `previous`, and so is
    /// everything that does not differ: the cost is that of what changed.
    pub fn compile(
        snapshot: &Snapshot,
        previous: Option<&Self>,
        metrics: &Arc<Metrics>,
    ) -> Compiled {
        let mut compile = Compile {
            table: previous.cloned().unwrap_or_default(),
            report: Report { revision: snapshot.revision, ..Report::default() },
            contested: Vec::new(),
            metrics,
        };
        match previous {
            Some(previous) => compile.changes(&previous.snapshot, snapshot),
            None => compile.everything(snapshot),
        }
        compile.table.snapshot = snapshot.clone();
        compile.finish()
    }
}

struct Compile<'m> {
    table: Table,
    report: Report,
    /// Routes that shared their rule with another one when they came in.
    contested: Vec<Arc<RouteEntry>>,
    metrics: &'m Metrics,
}

impl Compile<'_> {
    fn everything(&mut self, snapshot: &Snapshot) {
        for (name, entry) in snapshot.services() {
            self.service(name, Some(entry));
        }
        // Names that come together are often of one host, which is then put in its place once.
        let routes: Vec<&Arc<Route>> = snapshot.routes().map(|(_, route)| route).collect();
        for group in routes.chunk_by(|a, b| host(a) == host(b)) {
            self.add_routes(group);
        }
        self.report.routes_changed += routes.len();
    }

    fn changes(&mut self, before: &Snapshot, after: &Snapshot) {
        let changes = after.changes_since(before);
        for name in &changes.services {
            self.service(name, after.service(name.as_str()).map(|entry| &**entry));
        }
        for name in &changes.routes {
            if let Some(route) = before.route(name.as_str()) {
                self.remove_route(route);
            }
            if let Some(route) = after.route(name.as_str()) {
                self.add_routes(&[route]);
            }
            self.report.routes_changed += 1;
        }
    }

    fn service(&mut self, name: &ServiceName, entry: Option<&ServiceEntry>) {
        self.report.services_changed += 1;
        let table = &mut self.table;
        let key = ServiceKey::of(name);
        let previous = table.by_key(&key).map(Arc::clone);
        // The key of before, whose name the routes share.
        let key = previous.as_ref().map_or(key, |previous| previous.key().clone());
        let next = entry.map(|entry| {
            Arc::new(ServiceTable::compile(key, entry, previous.as_deref(), self.metrics))
        });
        if let Some(previous) = &previous {
            previous.let_go(next.as_deref());
        }
        mark(&mut table.panic, name, next.as_ref().is_some_and(|next| next.is_panic()));
        mark(&mut table.kept, name, next.as_ref().is_some_and(|next| next.is_kept()));
        match next.as_ref().filter(|next| next.is_draining()) {
            Some(next) => table.draining.insert(name.clone(), Arc::clone(next)),
            None => table.draining.remove(name),
        };
        match next {
            Some(next) => table.services.insert(next),
            None => {
                if let Some(previous) = &previous {
                    let key = previous.key();
                    table.services.remove(key.hash(), |service| service.key() == key);
                }
                self.metrics.forget(name);
            }
        }
    }

    /// Adds routes of one host, or of listeners of TCP and UDP.
    fn add_routes(&mut self, routes: &[&Arc<Route>]) {
        let mut entries = Vec::with_capacity(routes.len());
        for route in routes {
            match place(route) {
                Ok(Place::Http(_)) => entries.push(self.entry(route)),
                Ok(Place::Tcp(listener) | Place::Udp(listener)) => self.add_bound(listener, route),
                Ok(Place::Tls(listener, host)) => self.add_named(listener, host, route),
                Err(fault) => {
                    self.metrics.rejected.inc();
                    self.report.rejected.push((route.name.clone(), fault));
                }
            }
        }
        if let Some(host) = routes.first().and_then(|route| host(route)) {
            self.contested.extend(self.table.hosts.insert(host, entries));
        }
    }

    fn add_bound(&mut self, listener: &ListenerName, route: &Arc<Route>) {
        let entry = self.entry(route);
        let table = &mut self.table;
        let by_listener = if route.rule == Rule::Udp { &mut table.udp } else { &mut table.tcp };
        let routes = by_listener.entry(listener.clone()).or_default();
        let at = routes.partition_point(|other| other.precedence(&entry).is_lt());
        routes.insert(at, Arc::clone(&entry));
        if routes.len() > 1 {
            self.contested.push(entry);
        }
    }

    fn add_named(&mut self, listener: &ListenerName, host: &HostPattern, route: &Arc<Route>) {
        let entry = self.entry(route);
        let names = self.table.tls.entry(listener.clone()).or_default();
        if names.insert(host, Arc::clone(&entry)) {
            self.contested.push(entry);
        }
    }

    fn entry(&mut self, route: &Arc<Route>) -> Arc<RouteEntry> {
        let dangling = &mut self.report.dangling;
        let table = &self.table;
        Arc::new(RouteEntry::new(route, |key| match table.by_key(&key) {
            Some(service) => service.key().clone(),
            None => {
                dangling.push((route.name.clone(), key.name.clone()));
                key
            }
        }))
    }

    fn remove_route(&mut self, route: &Route) {
        match place(route) {
            Ok(Place::Http(rule)) => self.table.hosts.remove(rule, &route.name),
            Ok(Place::Tcp(listener)) => remove_bound(&mut self.table.tcp, listener, route),
            Ok(Place::Udp(listener)) => remove_bound(&mut self.table.udp, listener, route),
            Ok(Place::Tls(listener, host)) => {
                let tls = &mut self.table.tls;
                let Some(names) = tls.get_mut(listener) else { return };
                names.remove(host, &route.name);
                if names.is_empty() {
                    tls.remove(listener);
                }
            }
            Err(_) => {}
        }
    }

    fn finish(mut self) -> Compiled {
        let mut conflicts = BTreeSet::new();
        for entry in &self.contested {
            // Of the table as it is now: one of the two may have gone since.
            conflicts.extend(among(&self.table.twins(entry)));
        }
        self.report.conflicts = conflicts.into_iter().collect();
        self.report.panic = self.table.panic.iter().cloned().collect();
        self.report.kept = self.table.kept.iter().cloned().collect();
        Compiled { table: self.table, report: self.report }
    }
}

impl Table {
    /// The routes with exactly the rule of `entry`, in order of precedence, itself included.
    fn twins(&self, entry: &RouteEntry) -> Vec<&Arc<RouteEntry>> {
        let mut twins: Vec<&Arc<RouteEntry>> = match place(entry.record()) {
            Ok(Place::Http(rule)) => self
                .hosts
                .of(&rule.host)
                .map(|paths| paths.with_path(&rule.path))
                .unwrap_or_default(),
            Ok(Place::Tcp(listener)) => self.tcp.get(listener).into_iter().flatten().collect(),
            Ok(Place::Udp(listener)) => self.udp.get(listener).into_iter().flatten().collect(),
            Ok(Place::Tls(listener, host)) => {
                self.tls.get(listener).into_iter().flat_map(|names| names.of(host)).collect()
            }
            Err(_) => Vec::new(),
        };
        twins.retain(|other| other.is_twin_of(entry));
        twins
    }
}

/// All conflicts of a table.
pub(super) fn conflicts(table: &Table) -> Vec<Conflict> {
    let mut conflicts = BTreeSet::new();
    for paths in table.hosts.all() {
        let entries = paths.entries();
        conflicts
            .extend(entries.chunk_by(|a, b| paths::are_neighbours(a, b)).flat_map(twins_among));
    }
    for routes in table.bound_in_order() {
        conflicts.extend(among(&routes.iter().collect::<Vec<_>>()));
    }
    conflicts.into_iter().collect()
}

/// The conflicts among routes with the same rule, the winner first.
fn among(routes: &[&Arc<RouteEntry>]) -> Vec<Conflict> {
    let Some((winner, losers)) = routes.split_first() else { return Vec::new() };
    losers
        .iter()
        .map(|loser| Conflict { winner: winner.name.clone(), loser: loser.name.clone() })
        .collect()
}

/// The conflicts among routes with the same host and path, in order of precedence.
fn twins_among(routes: &[&Arc<RouteEntry>]) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (place, loser) in routes.iter().enumerate() {
        if let Some(winner) = routes[..place].iter().find(|other| other.is_twin_of(loser)) {
            conflicts.push(Conflict { winner: winner.name.clone(), loser: loser.name.clone() });
        }
    }
    conflicts
}

fn host(route: &Route) -> Option<&HostPattern> {
    match &route.rule {
        Rule::Http(rule) => Some(&rule.host),
        Rule::Tcp | Rule::Udp | Rule::Tls(_) => None,
    }
}

/// Where in the table a route is kept.
enum Place<'r> {
    Http(&'r HttpRule),
    Tcp(&'r ListenerName),
    Udp(&'r ListenerName),
    Tls(&'r ListenerName, &'r HostPattern),
}

fn remove_bound(routes: &mut ByListener, listener: &ListenerName, route: &Route) {
    let Some(of_one) = routes.get_mut(listener) else { return };
    of_one.retain(|other| other.name != route.name);
    if of_one.is_empty() {
        routes.remove(listener);
    }
}

fn place(route: &Route) -> Result<Place<'_>, RouteFault> {
    if route.backends.is_empty() {
        return Err(RouteFault::NoBackend);
    }
    if let Some(rewrite) = &route.rewrite {
        rewrite.fits(&route.rule)?;
    }
    if route.mirror.is_some() && !matches!(route.rule, Rule::Http(_)) {
        return Err(RouteFault::TcpMirror);
    }
    if route.compress.is_some() && !matches!(route.rule, Rule::Http(_)) {
        return Err(RouteFault::TcpCompress);
    }
    if route.https.is_some() && !matches!(route.rule, Rule::Http(_)) {
        return Err(RouteFault::TcpHttps);
    }
    if route.cache.is_some() && !matches!(route.rule, Rule::Http(_)) {
        return Err(RouteFault::TcpCache);
    }
    match (&route.rule, &route.listener) {
        (Rule::Http(rule), _) => Ok(Place::Http(rule)),
        (Rule::Tcp, Some(listener)) => Ok(Place::Tcp(listener)),
        (Rule::Udp, Some(listener)) => Ok(Place::Udp(listener)),
        (Rule::Tls(rule), Some(listener)) => Ok(Place::Tls(listener, &rule.host)),
        (Rule::Tcp | Rule::Udp | Rule::Tls(_), None) => Err(RouteFault::NoListener),
    }
}

fn mark(set: &mut imbl::OrdSet<ServiceName>, name: &ServiceName, is_in: bool) {
    if is_in {
        set.insert(name.clone());
    } else {
        set.remove(name);
    }
}
