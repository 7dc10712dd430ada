//! From a host to the routes of that host: exact, then the longest wildcard, then any.
//! Knows nothing of paths: [`Paths`] does.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::iter::{once, successors};
use std::sync::Arc;

use portolan_discovery::model::{HostPattern, HttpRule, RouteName};
use smallvec::SmallVec;

use super::entry::RouteEntry;
use super::paths::Paths;
use super::request::RequestView;
use super::{HashMap, seed};

#[derive(Debug, Clone)]
pub(super) struct Hosts {
    exact: HashMap<Slot, ()>,
    /// By what follows `*.`: a host has at most 127 suffixes, and each costs one look.
    wildcard: HashMap<Slot, ()>,
    any: Arc<Paths>,
}

/// A host with its routes: its own key, so that a look-up reads one piece of memory.
#[derive(Debug, Clone)]
struct Slot(Arc<Host>);

#[derive(Debug, Clone)]
struct Host {
    /// A common length lies in the piece itself.
    name: SmallVec<[u8; 40]>,
    paths: Paths,
}

impl Borrow<[u8]> for Slot {
    fn borrow(&self) -> &[u8] {
        &self.0.name
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Slot {}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As `[u8]` does, which is what a look-up has.
        self.0.name.as_slice().hash(state);
    }
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
    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<&Arc<RouteEntry>> {
        self.tiers(request.host).find_map(|paths| paths.find(request))
    }

    /// The routes of every pattern that takes `host`, the most specific first.
    pub(super) fn tiers(&self, host: &str) -> impl Iterator<Item = &Paths> {
        let wildcards = (!self.wildcard.is_empty())
            .then(|| successors(suffix(host), |rest| suffix(rest)))
            .into_iter()
            .flatten()
            .filter_map(|rest| look(&self.wildcard, rest));
        look(&self.exact, host).into_iter().chain(wildcards).chain(once(&*self.any))
    }

    pub(super) fn of(&self, pattern: &HostPattern) -> Option<&Paths> {
        match pattern {
            HostPattern::Exact(host) => look(&self.exact, host.as_str()),
            HostPattern::Wildcard(host) => look(&self.wildcard, host.as_str()),
            HostPattern::Any => Some(&self.any),
        }
    }

    /// Adds routes of one host; hands out those whose rule another one has too.
    pub(super) fn insert(
        &mut self,
        host: &HostPattern,
        routes: impl IntoIterator<Item = Arc<RouteEntry>>,
    ) -> Vec<Arc<RouteEntry>> {
        let mut contested = Vec::new();
        self.change(host, |paths| {
            for entry in routes {
                if paths.insert(Arc::clone(&entry)) {
                    contested.push(entry);
                }
            }
        });
        contested
    }

    pub(super) fn remove(&mut self, rule: &HttpRule, name: &RouteName) {
        self.change(&rule.host, |paths| paths.remove(name, &rule.path));
    }

    /// Takes the host out and puts it back changed, unless no route is left.
    fn change(&mut self, pattern: &HostPattern, change: impl FnOnce(&mut Paths)) {
        let (map, name) = match pattern {
            HostPattern::Any => return change(Arc::make_mut(&mut self.any)),
            HostPattern::Exact(host) => (&mut self.exact, host.as_str().as_bytes()),
            HostPattern::Wildcard(host) => (&mut self.wildcard, host.as_str().as_bytes()),
        };
        let mut host = match map.remove_with_key(name) {
            Some((Slot(host), ())) => host,
            None => Arc::new(Host { name: SmallVec::from_slice(name), paths: Paths::none() }),
        };
        let changed = Arc::make_mut(&mut host);
        change(&mut changed.paths);
        if !changed.paths.is_empty() {
            map.insert(Slot(host), ());
        }
    }

    /// The routes of every host, in no order of hosts.
    pub(super) fn all(&self) -> impl Iterator<Item = &Paths> {
        let slots = self.exact.keys().chain(self.wildcard.keys());
        slots.map(|slot| &slot.0.paths).chain(once(&*self.any))
    }
}

fn look<'h>(map: &'h HashMap<Slot, ()>, host: &str) -> Option<&'h Paths> {
    map.get_key_value(host.as_bytes()).map(|(slot, ())| &slot.0.paths)
}

fn suffix(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}
