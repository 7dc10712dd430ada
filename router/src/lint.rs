//! Routes that take no request, routes of which only age or name decides, and copies that lead
//! nowhere: found by reading the table in the order in which it is asked, so that the answer is
//! that of the data path.
//!
//! A route is called dead only where that is sure: one route before it takes all of its
//! requests. That several together do is not looked for.

use std::fmt;
use std::sync::Arc;

use portolan_discovery::model::route::HeaderName;
use portolan_discovery::model::{
    Event, Key, Kv, ListenerName, PathPattern, Protocol, Route, RouteName, Rule, ServiceName,
    record,
};

use crate::h1::is_odd_name;
use crate::metrics::Metrics;
use crate::table::{RouteEntry, Table};

/// How many routes with the same host and path are compared with one behind them. More than
/// people write; a table made by a program must not make its warnings cost a minute.
const LOOKS_MAX: usize = 256;

/// Something to tell whoever wrote a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The route.
    pub route: RouteName,
    /// What about it.
    pub cause: Cause,
}

/// What about a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It is bound to a listener that is not there.
    NoListener(ListenerName),
    /// It is bound to a listener that speaks something else.
    OtherProtocol(ListenerName),
    /// This route comes first and takes every request that it would take.
    Shadowed(RouteName),
    /// This route, a prefix, comes before regular expressions and takes every path.
    RegexLast(RouteName),
    /// It asks for a header field that no request has: the router drops fields of such a name.
    DroppedHeader(HeaderName),
    /// It copies its requests to a service that does not exist.
    MirrorToNobody(ServiceName),
    /// It copies its requests to a service that it leads to as well.
    MirrorToItself(ServiceName),
    /// Some requests are taken by both, and this route takes them because it is older.
    Older(RouteName),
    /// Some requests are taken by both, and this route takes them because of its name.
    ByName(RouteName),
}

impl Warning {
    /// Whether it is about a route, or about another one because of it.
    fn is_about(&self, route: &RouteName) -> bool {
        let other = match &self.cause {
            Cause::NoListener(_)
            | Cause::OtherProtocol(_)
            | Cause::DroppedHeader(_)
            | Cause::MirrorToNobody(_)
            | Cause::MirrorToItself(_) => None,
            Cause::Shadowed(other) | Cause::RegexLast(other) => Some(other),
            Cause::Older(other) | Cause::ByName(other) => Some(other),
        };
        self.route == *route || other == Some(route)
    }
}

impl Cause {
    /// Whether the route takes no request at all.
    pub fn is_dead(&self) -> bool {
        match self {
            Self::NoListener(_) | Self::OtherProtocol(_) | Self::DroppedHeader(_) => true,
            Self::Shadowed(_) | Self::RegexLast(_) => true,
            Self::MirrorToNobody(_) | Self::MirrorToItself(_) => false,
            Self::Older(_) | Self::ByName(_) => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoListener(name) => {
                write!(f, "takes no request: there is no listener {name} here")
            }
            Self::OtherProtocol(name) => {
                write!(f, "takes no request: listener {name} speaks another protocol")
            }
            Self::Shadowed(by) => {
                write!(f, "takes no request: route {by} comes first and takes all of them")
            }
            Self::RegexLast(by) => write!(
                f,
                "takes no request: regular expressions come last, and route {by} takes every path"
            ),
            Self::DroppedHeader(name) => write!(
                f,
                "takes no request: header fields with _ or . in their name are dropped, and it asks for {name}"
            ),
            Self::MirrorToNobody(service) => {
                write!(f, "copies its requests to {service}, and there is no such service")
            }
            Self::MirrorToItself(service) => write!(
                f,
                "copies its requests to {service}, which it leads to as well: each is done twice"
            ),
            Self::Older(with) => write!(
                f,
                "may take the same requests as route {with}, which is as specific and wins because it is older"
            ),
            Self::ByName(with) => write!(
                f,
                "may take the same requests as route {with}, which is as specific and wins because its name comes first"
            ),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} {}", self.route, self.cause)
    }
}

impl Table {
    /// What there is to tell of all routes, on a node with these listeners. Reads every route:
    /// for people, not for requests.
    pub fn warnings(&self, listeners: &[(ListenerName, Protocol)]) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for entries in self.hosts_in_order() {
            lint(&entries, &mut warnings);
        }
        for routes in self.bound_in_order() {
            lint(&routes.iter().map(|entry| &**entry).collect::<Vec<_>>(), &mut warnings);
        }
        for (_, route) in self.snapshot().routes() {
            warnings.extend(misplaced(route, listeners));
            warnings.extend(asks_in_vain(route));
            warnings.extend(self.miscopied(route));
        }
        warnings.sort_by(|a, b| a.route.cmp(&b.route));
        warnings
    }

    /// What there would be to tell of a route, and of others because of it, if it were in the
    /// table: before a write is acknowledged, or as an answer to it. Reads the routes of its host.
    pub fn warnings_with(
        &self,
        route: &Route,
        listeners: &[(ListenerName, Protocol)],
        metrics: &Arc<Metrics>,
    ) -> Vec<Warning> {
        let revision = self.revision();
        let key = Key::Route(route.name.clone()).to_string();
        let value = record::encode(route);
        let put = Event::Put(Kv { key, value, created: revision, modified: revision, lease: None });
        let (snapshot, _) = self.snapshot().apply(&[put], revision);
        let table = Self::compile(&snapshot, Some(self), metrics).table;
        let mut warnings = Vec::new();
        lint(&table.rules_beside(route), &mut warnings);
        warnings.retain(|warning| warning.is_about(&route.name));
        warnings.extend(misplaced(route, listeners));
        warnings.extend(asks_in_vain(route));
        warnings.extend(table.miscopied(route));
        warnings
    }

    /// A route whose copies do nobody any good.
    fn miscopied(&self, route: &Route) -> Option<Warning> {
        let service = &route.mirror.as_ref()?.service;
        let cause = if self.service(service).is_none() {
            Cause::MirrorToNobody(service.clone())
        } else if route.backends.iter().any(|backend| backend.service == *service) {
            Cause::MirrorToItself(service.clone())
        } else {
            return None;
        };
        Some(Warning { route: route.name.clone(), cause })
    }
}

/// A route whose listener never brings it anything.
fn misplaced(route: &Route, listeners: &[(ListenerName, Protocol)]) -> Option<Warning> {
    let listener = route.listener.as_ref()?;
    let speaks = route.rule.protocol();
    let cause = match listeners.iter().find(|(own, _)| own == listener) {
        None => Cause::NoListener(listener.clone()),
        Some((_, protocol)) if *protocol != speaks => Cause::OtherProtocol(listener.clone()),
        Some(_) => return None,
    };
    Some(Warning { route: route.name.clone(), cause })
}

/// A route that asks for what the codec lets no request have.
fn asks_in_vain(route: &Route) -> Option<Warning> {
    let Rule::Http(rule) = &route.rule else { return None };
    let mut names = rule.predicates.headers().iter().map(|(name, _)| name);
    let name = names.find(|name| is_odd_name(name.as_str().as_bytes()))?;
    Some(Warning { route: route.name.clone(), cause: Cause::DroppedHeader(name.clone()) })
}

/// Looks through the routes of one host, or of one TCP or UDP listener, in the order of precedence.
fn lint(entries: &[&RouteEntry], warnings: &mut Vec<Warning>) {
    // Where the routes with the path of the one at hand begin.
    let mut first = 0;
    let mut everywhere: Vec<&RouteEntry> = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        if !have_one_path(entries[first], entry) {
            first = place;
        }
        let before = &entries[first..place];
        let before = &before[..before.len().min(LOOKS_MAX)];
        let cause = dead(entry, before, &everywhere).or_else(|| tied(entry, before));
        if let Some(cause) = cause {
            warnings.push(Warning { route: entry.name.clone(), cause });
        }
        let is_root = |rule: &PathPattern| matches!(rule, PathPattern::Prefix(path) if path == "/");
        if entry.http().is_some_and(|rule| is_root(&rule.path)) && everywhere.len() < LOOKS_MAX {
            everywhere.push(entry);
        }
    }
}

/// Whether the path leaves it open which one comes first: regular expressions are one group.
fn have_one_path(a: &RouteEntry, b: &RouteEntry) -> bool {
    match (a.http(), b.http()) {
        (Some(a), Some(b)) => a.path == b.path || (is_regex(&a.path) && is_regex(&b.path)),
        _ => true,
    }
}

fn is_regex(path: &PathPattern) -> bool {
    matches!(path, PathPattern::Regex(_))
}

fn dead(entry: &RouteEntry, before: &[&RouteEntry], everywhere: &[&RouteEntry]) -> Option<Cause> {
    if let Some(by) = before.iter().find(|by| has_path_of(by, entry) && covers(by, entry)) {
        return Some(Cause::Shadowed(by.name.clone()));
    }
    let regex = entry.http().is_some_and(|rule| is_regex(&rule.path));
    let by = everywhere.iter().filter(|_| regex).find(|by| covers(by, entry))?;
    Some(Cause::RegexLast(by.name.clone()))
}

fn tied(entry: &RouteEntry, before: &[&RouteEntry]) -> Option<Cause> {
    let ours = entry.http()?;
    let with = before.iter().find(|with| {
        let Some(theirs) = with.http() else { return false };
        has_path_of(with, entry)
            && with.record().listener == entry.record().listener
            && theirs.predicates.rank() == ours.predicates.rank()
            && !theirs.predicates.exclude(&ours.predicates)
    })?;
    let name = with.name.clone();
    if with.record().created_ms < entry.record().created_ms {
        Some(Cause::Older(name))
    } else {
        Some(Cause::ByName(name))
    }
}

fn has_path_of(a: &RouteEntry, b: &RouteEntry) -> bool {
    a.http().map(|rule| &rule.path) == b.http().map(|rule| &rule.path)
}

/// Whether one takes every request that the other takes and that is for its path.
fn covers(by: &RouteEntry, entry: &RouteEntry) -> bool {
    let listener = &by.record().listener;
    (listener.is_none() || *listener == entry.record().listener)
        && match (by.http(), entry.http()) {
            (Some(by), Some(entry)) => by.predicates.cover(&entry.predicates),
            _ => true,
        }
}
