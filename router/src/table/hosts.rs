//! From a host to the routes of that host: exact, then the longest wildcard, then any.
//! Knows nothing of paths: [`Paths`] does.

use std::hash::BuildHasher;
use std::iter::{once, successors};
use std::sync::Arc;

use portolan_discovery::model::{HostPattern, HttpRule, RouteName};
use smallvec::SmallVec;

use super::entry::{Found, RouteEntry};
use super::index::{Index, Keyed};
use super::paths::Paths;
use super::request::RequestView;
use super::seed;

#[derive(Debug, Clone)]
pub(super) struct Hosts {
    exact: Index<Host>,
    /// By what follows `*.`: a host has at most 127 suffixes, and each costs one look.
    wildcard: Index<Host>,
    any: Arc<Paths>,
}

/// A host with its routes. Its own key, so that a look-up reads one piece of memory.
/// In the order of use, for the same reason.
#[derive(Debug, Clone)]
#[repr(C)]
struct Host {
    hash: u64,
    /// A common length lies in the piece itself.
    name: SmallVec<[u8; 32]>,
    paths: Paths,
}

// Three cache lines and what an `Arc` counts with.
const _: () = assert!(size_of::<Host>() <= 192);

impl Keyed for Host {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn is_same(&self, other: &Self) -> bool {
        self.hash == other.hash && self.name == other.name
    }
}

impl Hosts {
    pub(super) fn new() -> Self {
        Self { exact: Index::new(), wildcard: Index::new(), any: Arc::new(Paths::none()) }
    }

    /// A request that no rule of the most specific host takes falls through to the next host,
    /// as in the Gateway API, where the host orders rules and does not hide them.
    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
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

    /// Puts a changed host in place of the host, or takes it out when no route is left.
    fn change(&mut self, pattern: &HostPattern, change: impl FnOnce(&mut Paths)) {
        let (map, name) = match pattern {
            HostPattern::Any => return change(Arc::make_mut(&mut self.any)),
            HostPattern::Exact(host) => (&mut self.exact, host.as_str().as_bytes()),
            HostPattern::Wildcard(host) => (&mut self.wildcard, host.as_str().as_bytes()),
        };
        let hash = hash(name);
        let is_it = |host: &Host| host.name.as_slice() == name;
        let mut host = match map.get(hash, is_it) {
            Some(host) => Host::clone(host),
            None => Host { hash, name: SmallVec::from_slice(name), paths: Paths::none() },
        };
        change(&mut host.paths);
        if host.paths.is_empty() {
            map.remove(hash, is_it);
        } else {
            map.insert(Arc::new(host));
        }
    }

    /// The routes of every host, in no order of hosts.
    pub(super) fn all(&self) -> impl Iterator<Item = &Paths> {
        let hosts = self.exact.iter().chain(self.wildcard.iter());
        hosts.map(|host| &host.paths).chain(once(&*self.any))
    }
}

fn look<'h>(map: &'h Index<Host>, host: &str) -> Option<&'h Paths> {
    let name = host.as_bytes();
    map.get(hash(name), |host| host.name.as_slice() == name).map(|host| &host.paths)
}

fn hash(name: &[u8]) -> u64 {
    seed().hash_one(name)
}

fn suffix(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}
