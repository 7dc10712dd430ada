//! A part of the store: resources by URI, and which of them makes room. SIEVE (Zhang et al., NSDI
//! 2024): new ones enter at the front of a line, a hand goes from its end to its front, spares who
//! was asked for since it last came by, and takes the first who was not. So what is asked for once
//! leaves soon, and a hit writes one flag.
//!
//! Has no lock and knows no other part: whoever holds it counts bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use portolan_discovery::model::RouteName;
use slab::Slab;

use super::key::Key;
use super::object::Object;
use super::vary::Vary;
use crate::table::Headers;

/// Answers of one resource that differ by what they depend on; the oldest makes room.
pub(super) const VARIANTS_MAX: usize = 16;
/// Facets of one resource of which it is known that they are not kept.
const MARKS_MAX: usize = 16;
/// What a resource costs beside its answers.
const RESOURCE_BYTES: usize = 512;

/// One answer of a resource.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) facet: Arc<[u8]>,
    pub(super) route: RouteName,
    pub(super) vary: Vary,
    pub(super) object: Arc<Object>,
}

impl Variant {
    pub(super) fn bytes(&self) -> usize {
        self.object.bytes() + self.vary.bytes() + self.facet.len()
    }
}

/// What is known of requests that are not answered from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Their answers are not kept: none waits for another.
    Passes,
    /// No instance answers as it should: what is stale is served at once, if it may be.
    Fails,
}

#[derive(Debug)]
struct Resource {
    uri: Arc<str>,
    /// The newest last.
    variants: Vec<Variant>,
    marks: Vec<(Arc<[u8]>, Mark, Instant)>,
    /// It was asked for since the hand came by.
    visited: bool,
    bytes: usize,
    front: Option<usize>,
    back: Option<usize>,
}

/// Resources, the newest at the front.
#[derive(Debug, Default)]
pub(super) struct Shard {
    index: HashMap<Arc<str>, usize>,
    resources: Slab<Resource>,
    front: Option<usize>,
    back: Option<usize>,
    hand: Option<usize>,
    /// Answers in all of them.
    answers: usize,
}

/// Bytes that a resource takes before it has anything.
pub(super) fn bytes_of_new(key: &Key) -> usize {
    RESOURCE_BYTES + 2 * key.uri.len()
}

/// What left a shard; to be dropped without its lock.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub(super) variants: Vec<Variant>,
    pub(super) bytes: usize,
}

impl Gone {
    fn add(&mut self, resource: Resource) {
        self.bytes += resource.bytes;
        self.variants.extend(resource.variants);
    }
}

impl Shard {
    /// Answers that it has.
    pub(super) fn answers(&self) -> usize {
        self.answers
    }

    /// The answer to a request like this.
    pub(super) fn find(&mut self, key: &Key, headers: &dyn Headers) -> Option<&Variant> {
        let resource = &mut self.resources[*self.index.get(&key.uri)?];
        let is_it = |one: &&Variant| one.facet == key.facet && one.vary.takes(headers);
        let found = resource.variants.iter().rev().find(is_it)?;
        resource.visited = true;
        Some(found)
    }

    /// What the newest answer with this facet depends on.
    pub(super) fn vary(&self, key: &Key) -> Option<&Vary> {
        let resource = &self.resources[*self.index.get(&key.uri)?];
        let newest = resource.variants.iter().rev().find(|one| one.facet == key.facet)?;
        Some(&newest.vary)
    }

    /// What is known of requests with this key.
    pub(super) fn mark(&self, key: &Key, now: Instant) -> Option<Mark> {
        let resource = &self.resources[*self.index.get(&key.uri)?];
        let holds =
            |(facet, _, until): &&(Arc<[u8]>, Mark, Instant)| *facet == key.facet && *until > now;
        resource.marks.iter().find(holds).map(|(_, mark, _)| *mark)
    }

    /// Notes what is known of a key; in the place of what was known. Returns the bytes that came
    /// with it.
    pub(super) fn set_mark(
        &mut self,
        key: &Key,
        mark: Mark,
        until: Instant,
        now: Instant,
    ) -> usize {
        let (at, added) = self.enter(key);
        let resource = &mut self.resources[at];
        resource.marks.retain(|(facet, _, until)| *facet != key.facet && *until > now);
        if resource.marks.len() < MARKS_MAX {
            resource.marks.push((Arc::clone(&key.facet), mark, until));
        }
        added
    }

    /// Puts an answer in, in the place of the one for the same requests. Returns the bytes that
    /// came with it, and what left for it; none if a newer one is there.
    pub(super) fn put(&mut self, key: &Key, variant: Variant) -> Option<(usize, Gone)> {
        let (at, mut added) = self.enter(key);
        let resource = &mut self.resources[at];
        let mut gone = Gone::default();
        let twin = |one: &Variant| one.facet == variant.facet && one.vary == variant.vary;
        let old = match resource.variants.iter().position(twin) {
            None if resource.variants.len() == VARIANTS_MAX => Some(0),
            Some(twin) if resource.variants[twin].object.came() > variant.object.came() => {
                return None;
            }
            twin => twin,
        };
        resource.marks.retain(|(facet, ..)| *facet != key.facet);
        if let Some(old) = old {
            let old = resource.variants.remove(old);
            gone.bytes += old.bytes();
            gone.variants.push(old);
        }
        let bytes = variant.bytes();
        resource.bytes = resource.bytes + bytes - gone.bytes;
        added += bytes;
        resource.variants.push(variant);
        self.answers = self.answers + 1 - gone.variants.len();
        Some((added, gone))
    }

    /// Takes out the answers of a resource that `is_gone`, or all of it with the last of them.
    pub(super) fn remove(&mut self, uri: &str, mut is_gone: impl FnMut(&Variant) -> bool) -> Gone {
        let mut gone = Gone::default();
        let Some(&at) = self.index.get(uri) else { return gone };
        let resource = &mut self.resources[at];
        gone.variants = resource.variants.extract_if(.., |one| is_gone(one)).collect();
        gone.bytes = gone.variants.iter().map(Variant::bytes).sum();
        resource.bytes -= gone.bytes;
        self.answers -= gone.variants.len();
        if resource.variants.is_empty() {
            gone.bytes += self.leave(at).bytes;
        }
        gone
    }

    /// The URIs of all resources.
    pub(super) fn uris(&self) -> impl Iterator<Item = &Arc<str>> {
        self.index.keys()
    }

    /// Takes out a resource that nobody has asked for since the hand last came by, if there is any.
    /// The hand goes around once: what was asked for is spared this time.
    pub(super) fn evict(&mut self) -> Option<Gone> {
        let mut at = self.hand.or(self.back)?;
        let mut spared = 0;
        while std::mem::take(&mut self.resources[at].visited) {
            spared += 1;
            at = self.resources[at].front.or(self.back)?;
            if spared == self.resources.len() {
                self.hand = Some(at);
                return None;
            }
        }
        self.hand = self.resources[at].front;
        let mut gone = Gone::default();
        let resource = self.leave(at);
        self.answers -= resource.variants.len();
        gone.add(resource);
        Some(gone)
    }

    /// The place of a resource, made if it is not there, and the bytes that it came with.
    fn enter(&mut self, key: &Key) -> (usize, usize) {
        if let Some(at) = self.index.get(&key.uri) {
            return (*at, 0);
        }
        let bytes = bytes_of_new(key);
        let at = self.resources.insert(Resource {
            uri: Arc::clone(&key.uri),
            variants: Vec::new(),
            marks: Vec::new(),
            visited: false,
            bytes,
            front: None,
            back: self.front,
        });
        match self.front.replace(at) {
            Some(second) => self.resources[second].front = Some(at),
            None => self.back = Some(at),
        }
        self.index.insert(Arc::clone(&key.uri), at);
        (at, bytes)
    }

    fn leave(&mut self, at: usize) -> Resource {
        let resource = self.resources.remove(at);
        self.index.remove(&resource.uri);
        match resource.front {
            Some(front) => self.resources[front].back = resource.back,
            None => self.front = resource.back,
        }
        match resource.back {
            Some(back) => self.resources[back].front = resource.front,
            None => self.back = resource.front,
        }
        if self.hand == Some(at) {
            self.hand = resource.front;
        }
        resource
    }
}
