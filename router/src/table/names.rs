//! From the host that a TLS client asks for to the routes of a listener that passes TLS on:
//! exact, then the longest wildcard, then any. Who names no host gets the routes for any.

use std::iter::successors;
use std::sync::Arc;

use imbl::OrdMap;
use portolan_discovery::model::{HostPattern, RouteName};

use super::entry::RouteEntry;

/// Of one host, in order of precedence: all but the first take nothing.
type Routes = Vec<Arc<RouteEntry>>;

/// The routes of one listener.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    exact: OrdMap<Box<str>, Routes>,
    /// By what follows `*.`.
    wildcard: OrdMap<Box<str>, Routes>,
    any: Routes,
}

impl Names {
    /// The route of a client that asks for `host`, in lower case.
    pub(super) fn find(&self, host: Option<&str>) -> Option<&Arc<RouteEntry>> {
        self.tiers(host).find_map(|routes| routes.first())
    }

    /// The routes of every pattern that takes `host`, the most specific first.
    pub(super) fn tiers<'n>(&'n self, host: Option<&str>) -> impl Iterator<Item = &'n Routes> {
        let exact = host.and_then(|host| self.exact.get(host));
        let wildcards = successors(host.and_then(suffix), |rest| suffix(rest))
            .filter_map(|rest| self.wildcard.get(rest));
        exact.into_iter().chain(wildcards).chain(std::iter::once(&self.any))
    }

    pub(super) fn of(&self, pattern: &HostPattern) -> &[Arc<RouteEntry>] {
        let routes = match pattern {
            HostPattern::Any => Some(&self.any),
            HostPattern::Exact(host) => self.exact.get(host.as_str()),
            HostPattern::Wildcard(host) => self.wildcard.get(host.as_str()),
        };
        routes.map(Vec::as_slice).unwrap_or_default()
    }

    /// Adds a route; says whether another one has its host.
    pub(super) fn insert(&mut self, pattern: &HostPattern, entry: Arc<RouteEntry>) -> bool {
        let routes = match pattern {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(host) => self.exact.entry(host.as_str().into()).or_default(),
            HostPattern::Wildcard(host) => self.wildcard.entry(host.as_str().into()).or_default(),
        };
        let at = routes.partition_point(|other| other.precedence(&entry).is_lt());
        routes.insert(at, entry);
        routes.len() > 1
    }

    pub(super) fn remove(&mut self, pattern: &HostPattern, name: &RouteName) {
        let (map, host) = match pattern {
            HostPattern::Any => return self.any.retain(|entry| entry.name != *name),
            HostPattern::Exact(host) => (&mut self.exact, host.as_str()),
            HostPattern::Wildcard(host) => (&mut self.wildcard, host.as_str()),
        };
        let Some(routes) = map.get_mut(host) else { return };
        routes.retain(|entry| entry.name != *name);
        if routes.is_empty() {
            map.remove(host);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_empty()
    }

    /// The routes of every host, in no order of hosts.
    pub(super) fn all(&self) -> impl Iterator<Item = &Routes> {
        let hosts = self.exact.values().chain(self.wildcard.values());
        hosts.chain(std::iter::once(&self.any))
    }
}

fn suffix(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}
