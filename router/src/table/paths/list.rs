//! The routes of a host that has few, in order of precedence.

use std::sync::Arc;

use portolan_discovery::model::{ListenerName, PathPattern, RouteName};

use super::super::entry::RouteEntry;
use super::{LIST_ROUTES_MAX, is_below, order, prefix_text};

/// What a comparison needs lies in the list itself: the texts of all paths in one piece, and
/// the listener beside the place of the text.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct List {
    text: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    start: u16,
    bytes: u16,
    exact: bool,
    listener: Option<ListenerName>,
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

    pub(super) fn find(&self, listener: &ListenerName, path: &str) -> Option<&Arc<RouteEntry>> {
        self.rules
            .iter()
            .find(|rule| {
                let own = self.text_of(rule);
                (if rule.exact { own == path } else { is_below(own, path) })
                    && rule.listener.as_ref().is_none_or(|own| own == listener)
            })
            .map(|rule| &rule.entry)
    }

    fn text_of(&self, rule: &Rule) -> &str {
        let start = usize::from(rule.start);
        &self.text[start..start + usize::from(rule.bytes)]
    }

    pub(super) fn insert(&mut self, entry: Arc<RouteEntry>, path: &PathPattern) -> bool {
        let (exact, text) = match path {
            PathPattern::Exact(text) => (true, text.as_str()),
            PathPattern::Prefix(text) => (false, prefix_text(text)),
        };
        let fits = "a list holds few paths of limited length";
        let rule = Rule {
            start: u16::try_from(self.text.len()).expect(fits),
            bytes: u16::try_from(text.len()).expect(fits),
            exact,
            listener: entry.listener.clone(),
            entry,
        };
        let place = self.rules.partition_point(|other| order(&other.entry, &rule.entry).is_lt());
        let twin = |other: &Rule| {
            other.exact == exact && other.listener == rule.listener && self.text_of(other) == text
        };
        let contested = place.checked_sub(1).is_some_and(|before| twin(&self.rules[before]))
            || self.rules.get(place).is_some_and(twin);
        self.text.push_str(text);
        self.rules.insert(place, rule);
        contested
    }

    pub(super) fn remove(&mut self, name: &RouteName) {
        let mut left = Self::default();
        for rule in self.rules.drain(..) {
            if rule.entry.name == *name {
                continue;
            }
            let from = usize::from(rule.start);
            let text = &self.text[from..from + usize::from(rule.bytes)];
            let start = u16::try_from(left.text.len()).expect("shorter than it was");
            left.text.push_str(text);
            left.rules.push(Rule { start, ..rule });
        }
        *self = left;
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<RouteEntry>> {
        self.rules.iter().map(|rule| &rule.entry)
    }
}
