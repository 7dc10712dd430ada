//! The routes of a host that has many: a tree over the segments of paths.
//!
//! `/a/b` has the segments `a` and `b`, `/a/` has `a` and an empty one, `/` an empty one; the
//! prefix `/` has none. Depth is bounded by the longest path of a rule.

use std::sync::Arc;

use portolan_discovery::model::{PathPattern, RouteName};

use super::super::entry::RouteEntry;
use super::super::request::RequestView;
use super::super::{HashMap, seed};
use super::{pattern_of, prefix_text};

#[derive(Debug, Clone, Default)]
pub(in super::super) struct Tree {
    root: Arc<Node>,
    /// The routes by regular expression, in order of precedence: tried one by one.
    regexes: Vec<Arc<RouteEntry>>,
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
            PathPattern::Prefix(_) | PathPattern::Regex(_) => &mut self.prefix,
        }
    }
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<&Arc<RouteEntry>> {
        self.by_segments(request).or_else(|| first(&self.regexes, request))
    }

    fn by_segments(&self, request: &RequestView<'_>) -> Option<&Arc<RouteEntry>> {
        let mut node = &*self.root;
        let mut longest = first(&node.prefix, request);
        let Some(below) = request.path.strip_prefix('/') else { return longest };
        for segment in below.split('/') {
            let Some(child) = node.children.get(segment) else { return longest };
            node = child;
            longest = first(&node.prefix, request).or(longest);
        }
        first(&node.exact, request).or(longest)
    }

    /// Adds a route; says whether another one has the same rule and listener.
    pub(super) fn insert(&mut self, entry: Arc<RouteEntry>) -> bool {
        let path = pattern_of(&entry);
        let routes = if matches!(path, PathPattern::Regex(_)) {
            &mut self.regexes
        } else {
            let mut node = Arc::make_mut(&mut self.root);
            for segment in segments(path) {
                if !node.children.contains_key(segment) {
                    node.children.insert(segment.into(), Arc::default());
                }
                let child = node.children.get_mut(segment).expect("it was there or put there");
                node = Arc::make_mut(child);
            }
            node.ends(path)
        };
        let place = routes.partition_point(|other| other.precedence(&entry).is_lt());
        let contested = routes.iter().any(|other| other.is_twin_of(&entry));
        routes.insert(place, entry);
        self.len += 1;
        contested
    }

    pub(super) fn remove(&mut self, name: &RouteName, path: &PathPattern) {
        let removed = if matches!(path, PathPattern::Regex(_)) {
            take_out(&mut self.regexes, name)
        } else {
            let way: Vec<&str> = segments(path).collect();
            remove(Arc::make_mut(&mut self.root), &way, name, path)
        };
        self.len -= usize::from(removed);
    }

    /// All routes, in no order.
    pub(super) fn entries(&self) -> Vec<&Arc<RouteEntry>> {
        let mut entries = Vec::with_capacity(self.len);
        entries.extend(&self.regexes);
        let mut nodes = vec![&*self.root];
        while let Some(node) = nodes.pop() {
            entries.extend(node.exact.iter().chain(&node.prefix));
            nodes.extend(node.children.values().map(|child| &**child));
        }
        entries
    }

    /// The routes of one path; for a regular expression those of all.
    pub(super) fn with_path(&self, path: &PathPattern) -> &[Arc<RouteEntry>] {
        let mut node = &*self.root;
        for segment in segments(path) {
            let Some(child) = node.children.get(segment) else { return &[] };
            node = child;
        }
        match path {
            PathPattern::Exact(_) => &node.exact,
            PathPattern::Prefix(_) => &node.prefix,
            PathPattern::Regex(_) => &self.regexes,
        }
    }
}

fn first<'r>(
    routes: &'r [Arc<RouteEntry>],
    request: &RequestView<'_>,
) -> Option<&'r Arc<RouteEntry>> {
    routes.iter().find(|route| route.takes(request))
}

fn take_out(routes: &mut Vec<Arc<RouteEntry>>, name: &RouteName) -> bool {
    let before = routes.len();
    routes.retain(|route| route.name != *name);
    routes.len() < before
}

fn segments(path: &PathPattern) -> impl Iterator<Item = &str> {
    let text = match path {
        PathPattern::Exact(text) => text.as_str(),
        PathPattern::Prefix(text) => prefix_text(text),
        PathPattern::Regex(_) => "",
    };
    text.strip_prefix('/').into_iter().flat_map(|below| below.split('/'))
}

/// Removes a route below `node` and every node that is empty then.
fn remove(node: &mut Node, way: &[&str], name: &RouteName, path: &PathPattern) -> bool {
    let Some((segment, rest)) = way.split_first() else {
        return take_out(node.ends(path), name);
    };
    let Some(child) = node.children.get_mut(*segment) else { return false };
    let child = Arc::make_mut(child);
    let removed = remove(child, rest, name, path);
    if child.is_empty() {
        node.children.remove(*segment);
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_discovery::model::{HostPattern, HttpRule, Route, Rule};

    fn entry(name: &str, path: &str) -> Arc<RouteEntry> {
        let rule = HttpRule::new(HostPattern::Any, path.parse().unwrap());
        let record = Route::new(name.parse().unwrap(), Rule::Http(rule), Vec::new());
        Arc::new(RouteEntry::new(&Arc::new(record), |key| key))
    }

    #[test]
    fn what_comes_and_goes_leaves_no_empty_node_behind() {
        let mut tree = Tree::default();
        let texts = ["/", "=/", "/a", "/a/b/c", "=/a/b", "/a/b/d", "=/x/y/z/", "/x", "~^/a/[0-9]$"];
        let paths: Vec<PathPattern> = texts.iter().map(|text| text.parse().unwrap()).collect();
        for text in &texts {
            let name = format!("r{}", texts.iter().position(|other| other == text).unwrap());
            assert!(!tree.insert(entry(&name, text)));
        }
        assert_eq!(tree.len(), texts.len());
        assert_eq!(tree.entries().len(), texts.len());
        // A name that is not there, and one at a path that is not there, change nothing.
        tree.remove(&"other".parse().unwrap(), &paths[3]);
        tree.remove(&"r0".parse().unwrap(), &"/q".parse().unwrap());
        assert_eq!(tree.len(), texts.len());
        for (number, path) in paths.iter().enumerate() {
            tree.remove(&format!("r{number}").parse().unwrap(), path);
        }
        assert_eq!(tree.len(), 0);
        assert!(tree.root.is_empty());
    }
}
