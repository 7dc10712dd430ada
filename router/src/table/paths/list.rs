//! The routes of a host that has few, in order of precedence.

use std::sync::Arc;

use portolan_discovery::model::{PathPattern, RouteName};
use smallvec::SmallVec;

use super::super::entry::{Found, RouteEntry};
use super::super::request::RequestView;
use super::super::service::ServiceMark;
use super::{LIST_ROUTES_MAX, is_below, order, pattern_of, prefix_text};

/// What a comparison needs lies in the list itself, and a short list in its host: a look-up
/// among 100,000 hosts costs as many misses of the cache as pointers it follows.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct List {
    /// The texts of all paths, in no order.
    text: SmallVec<[u8; 24]>,
    rules: SmallVec<[Rule; 3]>,
}

#[derive(Debug, Clone)]
struct Rule {
    start: u16,
    bytes: u16,
    exact: bool,
    /// Whether the path does not decide alone: the route is asked too.
    guarded: bool,
    sole: Option<ServiceMark>,
    entry: Arc<RouteEntry>,
}

// Paths are at most `PATH_BYTES_MAX` long, so places in the text fit 16 bits.
const _: () = assert!(
    LIST_ROUTES_MAX * portolan_discovery::model::route::PATH_BYTES_MAX <= u16::MAX as usize
);

impl List {
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        let path = request.path.as_bytes();
        self.rules
            .iter()
            .find(|rule| {
                let own = self.text_of(rule);
                (if rule.exact { own == path } else { is_below(own, path) })
                    && (!rule.guarded || rule.entry.takes(request))
            })
            .map(|rule| Found { route: &rule.entry, sole: rule.sole })
    }

    fn text_of(&self, rule: &Rule) -> &[u8] {
        let start = usize::from(rule.start);
        &self.text[start..start + usize::from(rule.bytes)]
    }

    /// Adds a route; says whether another one has the same rule and listener.
    pub(super) fn insert(&mut self, entry: Arc<RouteEntry>) -> bool {
        let (exact, text) = match pattern_of(&entry) {
            PathPattern::Exact(text) => (true, text.as_bytes()),
            PathPattern::Prefix(text) => (false, prefix_text(text).as_bytes()),
            // Below the root: the expression is the route's own to look for.
            PathPattern::Regex(_) => (false, &b""[..]),
        };
        let place = self.rules.partition_point(|other| order(&other.entry, &entry).is_lt());
        let contested = self.rules.iter().any(|other| {
            other.exact == exact && self.text_of(other) == text && other.entry.is_twin_of(&entry)
        });
        let start = self.text.len();
        self.text.extend_from_slice(text);
        let fits = "a list holds few paths of limited length";
        let rule = Rule {
            start: u16::try_from(start).expect(fits),
            bytes: u16::try_from(self.text.len() - start).expect(fits),
            exact,
            guarded: entry.is_guarded(),
            sole: entry.sole(),
            entry,
        };
        self.rules.insert(place, rule);
        contested
    }

    pub(super) fn remove(&mut self, name: &RouteName) {
        let mut left = Self::default();
        for rule in self.rules.iter().filter(|rule| rule.entry.name != *name) {
            let start = u16::try_from(left.text.len()).expect("shorter than it was");
            left.text.extend_from_slice(self.text_of(rule));
            left.rules.push(Rule { start, ..rule.clone() });
        }
        *self = left;
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<RouteEntry>> {
        self.rules.iter().map(|rule| &rule.entry)
    }
}
