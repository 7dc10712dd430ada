//! The routes of a host that has many: a tree over the segments of paths.
//!
//! `/a/b` has the segments `a` and `b`, `/a/` has `a` and an empty one, `/` an empty one; the
//! prefix `/` has none. Depth is bounded by the longest path of a rule.

use std::sync::Arc;

use portolan_discovery::model::{ListenerName, PathPattern, RouteName};

use super::super::entry::RouteEntry;
use super::super::{HashMap, seed};
use super::prefix_text;

#[derive(Debug, Clone, Default)]
pub(in super::super) struct Tree {
    root: Arc<Node>,
    len: usize,
}

#[derive(Debug, Clone)]
struct Node {
    /// The routes whose exact path ends here, in order of precedence.
    exact: Vec<Arc<RouteEntry>>,
    /// The routes whose prefix ends here, in order of precedence.
    prefix: Vec<Arc<RouteEntry>>,
    children: HashMap<Arc<str>, Arc<Node>>,
}

impl Default for Node {
    fn default() -> Self {
        Self { exact: Vec::new(), prefix: Vec::new(), children: HashMap::with_hasher(seed()) }
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty() && self.children.is_empty()
    }

    fn ends(&mut self, path: &PathPattern) -> &mut Vec<Arc<RouteEntry>> {
        match path {
            PathPattern::Exact(_) => &mut self.exact,
            PathPattern::Prefix(_) => &mut self.prefix,
        }
    }
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn find(&self, listener: &ListenerName, path: &str) -> Option<&Arc<RouteEntry>> {
        let first =
            |routes: &'_ [Arc<RouteEntry>]| routes.iter().position(|route| route.serves(listener));
        let mut node = &*self.root;
        let mut longest = first(&node.prefix).map(|place| &node.prefix[place]);
        let Some(below) = path.strip_prefix('/') else { return longest };
        for segment in below.split('/') {
            let Some(child) = node.children.get(segment) else { return longest };
            node = child;
            longest = first(&node.prefix).map(|place| &node.prefix[place]).or(longest);
        }
        first(&node.exact).map(|place| &node.exact[place]).or(longest)
    }

    pub(super) fn insert(&mut self, entry: Arc<RouteEntry>, path: &PathPattern) -> bool {
        let mut node = Arc::make_mut(&mut self.root);
        for segment in segments(path) {
            if !node.children.contains_key(segment) {
                node.children.insert(segment.into(), Arc::default());
            }
            let child = node.children.get_mut(segment).expect("it was there or put there");
            node = Arc::make_mut(child);
        }
        let routes = node.ends(path);
        let place = routes.partition_point(|other| other.precedence(&entry).is_lt());
        let contested = routes.iter().any(|other| other.listener == entry.listener);
        routes.insert(place, entry);
        self.len += 1;
        contested
    }

    pub(super) fn remove(&mut self, name: &RouteName, path: &PathPattern) {
        let way: Vec<&str> = segments(path).collect();
        if remove(Arc::make_mut(&mut self.root), &way, name, path) {
            self.len -= 1;
        }
    }

    /// All routes, in no order.
    pub(super) fn entries(&self) -> Vec<&Arc<RouteEntry>> {
        let mut entries = Vec::with_capacity(self.len);
        let mut nodes = vec![&*self.root];
        while let Some(node) = nodes.pop() {
            entries.extend(node.exact.iter().chain(&node.prefix));
            nodes.extend(node.children.values().map(|child| &**child));
        }
        entries
    }

    pub(super) fn with_path(&self, path: &PathPattern) -> &[Arc<RouteEntry>] {
        let mut node = &*self.root;
        for segment in segments(path) {
            let Some(child) = node.children.get(segment) else { return &[] };
            node = child;
        }
        match path {
            PathPattern::Exact(_) => &node.exact,
            PathPattern::Prefix(_) => &node.prefix,
        }
    }
}

fn segments(path: &PathPattern) -> impl Iterator<Item = &str> {
    let text = match path {
        PathPattern::Exact(text) => text.as_str(),
        PathPattern::Prefix(text) => prefix_text(text),
    };
    text.strip_prefix('/').into_iter().flat_map(|below| below.split('/'))
}

/// Removes a route below `node` and every node that is empty then.
fn remove(node: &mut Node, way: &[&str], name: &RouteName, path: &PathPattern) -> bool {
    let Some((segment, rest)) = way.split_first() else {
        let routes = node.ends(path);
        let before = routes.len();
        routes.retain(|route| route.name != *name);
        return routes.len() < before;
    };
    let Some(child) = node.children.get_mut(*segment) else { return false };
    let child = Arc::make_mut(child);
    let removed = remove(child, rest, name, path);
    if child.is_empty() {
        node.children.remove(*segment);
    }
    removed
}
