//! From a host to the routes of that host: exact, then the longest wildcard, then any.
//! Knows nothing of paths: [`Paths`] does.

use std::iter::{once, successors};
use std::sync::Arc;

use portolan_discovery::model::{HostPattern, HttpRule, ListenerName, RouteName};

use super::entry::RouteEntry;
use super::paths::Paths;
use super::{HashMap, seed};

#[derive(Debug, Clone)]
pub(super) struct Hosts {
    exact: HashMap<Arc<str>, Arc<Paths>>,
    /// By what follows `*.`: a host has at most 127 suffixes, and each costs one look.
    wildcard: HashMap<Arc<str>, Arc<Paths>>,
    any: Arc<Paths>,
}

impl Hosts {
    pub(super) fn new() -> Self {
        Self {
            exact: HashMap::with_hasher(seed()),
            wildcard: HashMap::with_hasher(seed()),
            any: Arc::new(Paths::none()),
        }
    }

    /// A request that no rule of the most specific host takes falls through to the next host,
    /// as in the Gateway API, where the host orders rules and does not hide them.
    pub(super) fn find(
        &self,
        listener: &ListenerName,
        host: &str,
        path: &str,
    ) -> Option<&Arc<RouteEntry>> {
        self.tiers(host).find_map(|paths| paths.find(listener, path))
    }

    /// The routes of every pattern that takes `host`, the most specific first.
    pub(super) fn tiers(&self, host: &str) -> impl Iterator<Item = &Paths> {
        let wildcards = (!self.wildcard.is_empty())
            .then(|| successors(suffix(host), |rest| suffix(rest)))
            .into_iter()
            .flatten()
            .filter_map(|rest| self.wildcard.get(rest));
        self.exact
            .get(host)
            .into_iter()
            .chain(wildcards)
            .chain(once(&self.any))
            .map(|paths| &**paths)
    }

    pub(super) fn of(&self, pattern: &HostPattern) -> Option<&Paths> {
        match pattern {
            HostPattern::Exact(host) => self.exact.get(host.as_str()),
            HostPattern::Wildcard(host) => self.wildcard.get(host.as_str()),
            HostPattern::Any => Some(&self.any),
        }
        .map(|paths| &**paths)
    }

    /// Adds a route; says whether another one has the same rule.
    pub(super) fn insert(&mut self, rule: &HttpRule, entry: Arc<RouteEntry>) -> bool {
        let (map, host) = match &rule.host {
            HostPattern::Any => return Arc::make_mut(&mut self.any).insert(entry, &rule.path),
            HostPattern::Exact(host) => (&mut self.exact, host.as_str()),
            HostPattern::Wildcard(host) => (&mut self.wildcard, host.as_str()),
        };
        if let Some(paths) = map.get_mut(host) {
            return Arc::make_mut(paths).insert(entry, &rule.path);
        }
        let mut paths = Paths::none();
        paths.insert(entry, &rule.path);
        map.insert(host.into(), Arc::new(paths));
        false
    }

    pub(super) fn remove(&mut self, rule: &HttpRule, name: &RouteName) {
        let (map, host) = match &rule.host {
            HostPattern::Any => return Arc::make_mut(&mut self.any).remove(name, &rule.path),
            HostPattern::Exact(host) => (&mut self.exact, host.as_str()),
            HostPattern::Wildcard(host) => (&mut self.wildcard, host.as_str()),
        };
        let Some(paths) = map.get_mut(host) else { return };
        let paths = Arc::make_mut(paths);
        paths.remove(name, &rule.path);
        if paths.is_empty() {
            map.remove(host);
        }
    }

    /// The routes of every host, in no order of hosts.
    pub(super) fn all(&self) -> impl Iterator<Item = &Paths> {
        let maps = self.exact.values().chain(self.wildcard.values());
        maps.map(|paths| &**paths).chain(once(&*self.any))
    }
}

fn suffix(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}
