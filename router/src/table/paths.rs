//! From a path to a route, within one host: an exact path, then the longest prefix by segments,
//! then regular expressions.
//!
//! A host with few routes is a list in order of precedence, read from the top: three routes of
//! one host are two cache lines. A host with many is a tree over segments, so that neither a
//! look-up nor a change costs the time of all its routes. Both order the routes of one rule by
//! [`RouteEntry::precedence`] and keep those that lose, for when the winner goes.

mod list;
mod tree;

use std::cmp::Ordering;
use std::sync::Arc;

use portolan_discovery::model::{PathPattern, RouteName};

use super::entry::{Found, RouteEntry};
use super::request::RequestView;
use list::List;
use tree::Tree;

/// The most routes in a list; a tree becomes a list again at half of it.
pub(super) const LIST_ROUTES_MAX: usize = 16;

/// The routes of one host.
#[derive(Debug, Clone)]
pub(super) enum Paths {
    List(List),
    Tree(Tree),
}

impl Paths {
    pub(super) fn none() -> Self {
        Self::List(List::default())
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::List(list) if list.is_empty())
    }

    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        match self {
            Self::List(list) => list.find(request),
            Self::Tree(tree) => tree.find(request).map(Found::new),
        }
    }

    /// Adds a route; says whether another one has the same rule and listener.
    pub(super) fn insert(&mut self, entry: Arc<RouteEntry>) -> bool {
        if let Self::List(list) = self
            && list.len() == LIST_ROUTES_MAX
        {
            let mut tree = Tree::default();
            for entry in list.entries() {
                tree.insert(Arc::clone(entry));
            }
            *self = Self::Tree(tree);
        }
        match self {
            Self::List(list) => list.insert(entry),
            Self::Tree(tree) => tree.insert(entry),
        }
    }

    pub(super) fn remove(&mut self, name: &RouteName, path: &PathPattern) {
        match self {
            Self::List(list) => list.remove(name),
            Self::Tree(tree) => {
                tree.remove(name, path);
                if tree.len() <= LIST_ROUTES_MAX / 2 {
                    let mut list = List::default();
                    for entry in tree.entries() {
                        list.insert(Arc::clone(entry));
                    }
                    *self = Self::List(list);
                }
            }
        }
    }

    /// All routes in order of precedence, those that lose too.
    pub(super) fn entries(&self) -> Vec<&Arc<RouteEntry>> {
        match self {
            Self::List(list) => list.entries().collect(),
            Self::Tree(tree) => {
                let mut entries = tree.entries();
                entries.sort_by(|a, b| order(a, b));
                entries
            }
        }
    }

    /// The routes with exactly this path, in order of precedence, those that lose too.
    pub(super) fn with_path(&self, path: &PathPattern) -> Vec<&Arc<RouteEntry>> {
        let mut entries = match self {
            Self::List(list) => list.entries().collect::<Vec<_>>(),
            Self::Tree(tree) => tree.with_path(path).iter().collect(),
        };
        entries.retain(|entry| pattern_of(entry) == path);
        entries
    }
}

/// The path of an HTTP route; only those are in [`Paths`].
pub(super) fn pattern_of(entry: &RouteEntry) -> &PathPattern {
    &entry.http().expect("only HTTP routes are kept by path").path
}

/// Whether a pattern takes a path. `*`, the target of `OPTIONS *`, has no segments: only `/`
/// takes it.
pub(super) fn takes(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(own) => own == path,
        PathPattern::Prefix(own) => is_below(prefix_text(own).as_bytes(), path.as_bytes()),
        PathPattern::Regex(own) => own.is_in(path.as_bytes()),
    }
}

fn is_below(prefix: &[u8], path: &[u8]) -> bool {
    prefix.is_empty()
        || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// `/` is the prefix of no segments.
pub(super) fn prefix_text(prefix: &str) -> &str {
    if prefix == "/" { "" } else { prefix }
}

/// The order in which the routes of one host are tried. Of two regular expressions none is the
/// more specific, so predicates and age decide.
fn order(a: &RouteEntry, b: &RouteEntry) -> Ordering {
    let rank = |pattern: &PathPattern| match pattern {
        PathPattern::Exact(_) => 0,
        PathPattern::Prefix(_) => 1,
        PathPattern::Regex(_) => 2,
    };
    let (ours, theirs) = (pattern_of(a), pattern_of(b));
    let by_length = || {
        let length = theirs.path().len().cmp(&ours.path().len());
        length.then_with(|| ours.path().cmp(theirs.path()))
    };
    match (ours, theirs) {
        (PathPattern::Regex(_), PathPattern::Regex(_)) => a.precedence(b),
        _ => rank(ours).cmp(&rank(theirs)).then_with(by_length).then_with(|| a.precedence(b)),
    }
}

/// Whether the path leaves the order of two routes of one host to their predicates and age.
pub(super) fn are_neighbours(a: &RouteEntry, b: &RouteEntry) -> bool {
    match (pattern_of(a), pattern_of(b)) {
        (PathPattern::Regex(_), PathPattern::Regex(_)) => true,
        (ours, theirs) => ours == theirs,
    }
}
