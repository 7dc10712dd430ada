//! A persistent map for look-ups whose cost is misses of the cache: a trie over the bits of a
//! hash whose nodes are plain arrays, so that each level costs one line, and an entry is its own
//! key, so that the last step is one to the entry itself.
//!
//! A change copies the nodes on its way, whatever the size of the map. Knows nothing of hosts and
//! services.

use std::sync::Arc;

use smallvec::SmallVec;

const BITS: u32 = 6;
const WIDTH: usize = 1 << BITS;

/// Entries with the same bits so far that share one place; more make a node of their own.
const FEW_MAX: usize = 4;

/// An entry that knows its own key.
pub(super) trait Keyed {
    /// The key's hash; the same for all maps that share nodes.
    fn hash(&self) -> u64;
    /// Whether both have the same key.
    fn is_same(&self, other: &Self) -> bool;
}

#[derive(Debug)]
pub(super) struct Index<T> {
    root: Arc<Node<T>>,
    len: usize,
}

#[derive(Debug)]
struct Node<T>([Place<T>; WIDTH]);

#[derive(Debug)]
enum Place<T> {
    Empty,
    One(Arc<T>),
    Few(Arc<Few<T>>),
    Node(Arc<Node<T>>),
}

/// Hashes beside the entries: those of others are not read.
type Few<T> = SmallVec<[(u64, Arc<T>); FEW_MAX]>;

// Derived, these would ask for `T: Clone`.
impl<T> Clone for Index<T> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        Self(self.0.each_ref().map(Clone::clone))
    }
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::One(entry) => Self::One(Arc::clone(entry)),
            Self::Few(few) => Self::Few(Arc::clone(few)),
            Self::Node(node) => Self::Node(Arc::clone(node)),
        }
    }
}

impl<T> Node<T> {
    fn new() -> Self {
        Self([const { Place::Empty }; WIDTH])
    }
}

/// Where the entries of a hash are in a node of this depth. Beyond the last bit all share one.
fn place(hash: u64, depth: u32) -> usize {
    let bits = hash.checked_shr(depth * BITS).unwrap_or(0);
    bits as usize % WIDTH
}

/// Whether a node of this depth is the last: its places hold any number of entries.
fn is_last(depth: u32) -> bool {
    (depth + 1) * BITS >= u64::BITS
}

impl<T: Keyed> Index<T> {
    pub(super) fn new() -> Self {
        Self { root: Arc::new(Node::new()), len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of this hash for which `is_it` holds.
    pub(super) fn get(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&Arc<T>> {
        let mut node = &*self.root;
        let mut depth = 0;
        loop {
            match &node.0[place(hash, depth)] {
                Place::Empty => return None,
                Place::One(entry) => return Some(entry).filter(|entry| is_it(entry)),
                Place::Few(few) => {
                    let mut alike = few.iter().filter(|(other, _)| *other == hash);
                    return alike.find(|(_, entry)| is_it(entry)).map(|(_, entry)| entry);
                }
                Place::Node(below) => node = below,
            }
            depth += 1;
        }
    }

    /// Puts an entry in, in place of the one with its key.
    pub(super) fn insert(&mut self, entry: Arc<T>) {
        let replaced = put(Arc::make_mut(&mut self.root), entry, 0);
        self.len += usize::from(!replaced);
    }

    /// Takes out the entry of this hash for which `is_it` holds.
    pub(super) fn remove(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        self.get(hash, &is_it)?;
        let removed = take(Arc::make_mut(&mut self.root), hash, &is_it, 0);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// All entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        let mut nodes = vec![self.root.0.iter()];
        let mut few: std::slice::Iter<'_, (u64, Arc<T>)> = [].iter();
        std::iter::from_fn(move || {
            loop {
                if let Some((_, entry)) = few.next() {
                    return Some(entry);
                }
                match nodes.last_mut()?.next() {
                    None => drop(nodes.pop()),
                    Some(Place::Empty) => {}
                    Some(Place::One(entry)) => return Some(entry),
                    Some(Place::Few(some)) => few = some.iter(),
                    Some(Place::Node(node)) => nodes.push(node.0.iter()),
                }
            }
        })
    }
}

/// Puts an entry in below a node; says whether it took the place of another.
fn put<T: Keyed>(node: &mut Node<T>, entry: Arc<T>, depth: u32) -> bool {
    let hash = entry.hash();
    let at = &mut node.0[place(hash, depth)];
    match at {
        Place::Empty => *at = Place::One(entry),
        Place::One(other) if other.is_same(&entry) => {
            *other = entry;
            return true;
        }
        Place::One(other) => {
            let pair = [(other.hash(), Arc::clone(other)), (hash, entry)];
            *at = Place::Few(Arc::new(SmallVec::from_iter(pair)));
        }
        Place::Few(few) => {
            if let Some(same) = few.iter().position(|(_, other)| other.is_same(&entry)) {
                Arc::make_mut(few)[same].1 = entry;
                return true;
            }
            if few.len() < FEW_MAX || is_last(depth) {
                Arc::make_mut(few).push((hash, entry));
            } else {
                let mut below = Node::new();
                for (_, other) in few.iter() {
                    put(&mut below, Arc::clone(other), depth + 1);
                }
                put(&mut below, entry, depth + 1);
                *at = Place::Node(Arc::new(below));
            }
        }
        Place::Node(below) => return put(Arc::make_mut(below), entry, depth + 1),
    }
    false
}

/// Takes an entry out below a node. A node stays when it is almost empty: hosts that go are
/// mostly followed by others.
fn take<T: Keyed>(
    node: &mut Node<T>,
    hash: u64,
    is_it: &impl Fn(&T) -> bool,
    depth: u32,
) -> Option<Arc<T>> {
    let at = &mut node.0[place(hash, depth)];
    match at {
        Place::Empty => None,
        Place::One(entry) => {
            if !is_it(entry) {
                return None;
            }
            match std::mem::replace(at, Place::Empty) {
                Place::One(entry) => Some(entry),
                _ => None,
            }
        }
        Place::Few(few) => {
            let index = few.iter().position(|(_, entry)| is_it(entry))?;
            let (_, removed) = Arc::make_mut(few).swap_remove(index);
            if let [(_, last)] = few.as_slice() {
                *at = Place::One(Arc::clone(last));
            }
            Some(removed)
        }
        Place::Node(below) => {
            let below = Arc::make_mut(below);
            let removed = take(below, hash, is_it, depth + 1);
            if below.0.iter().all(|place| matches!(place, Place::Empty)) {
                *at = Place::Empty;
            }
            removed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys of which many share all bits of their hash, or all but the last.
    #[derive(Debug, PartialEq)]
    struct Entry {
        key: u16,
        value: u32,
    }

    fn hash(key: u16) -> u64 {
        match key % 4 {
            0 => 7,
            1 => 7 | (u64::from(key) << 56),
            2 => u64::from(key),
            _ => u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    impl Keyed for Entry {
        fn hash(&self) -> u64 {
            hash(self.key)
        }

        fn is_same(&self, other: &Self) -> bool {
            self.key == other.key
        }
    }

    fn find(index: &Index<Entry>, key: u16) -> Option<u32> {
        index.get(hash(key), |entry| entry.key == key).map(|entry| entry.value)
    }

    fn check(index: &Index<Entry>, expected: &BTreeMap<u16, u32>) -> Result<(), TestCaseError> {
        let all: BTreeMap<u16, u32> = index.iter().map(|entry| (entry.key, entry.value)).collect();
        prop_assert_eq!(&all, expected);
        prop_assert_eq!(index.len, expected.len());
        prop_assert_eq!(index.iter().count(), expected.len());
        prop_assert_eq!(index.is_empty(), expected.is_empty());
        Ok(())
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds_and_older_ones_stay_as_they_were(
            steps in prop::collection::vec((0u16..200, any::<Option<u32>>()), 0..400),
        ) {
            let (mut index, mut map) = (Index::new(), BTreeMap::new());
            let mut older = Vec::new();
            for (number, (key, value)) in steps.into_iter().enumerate() {
                if number % 50 == 0 {
                    older.push((index.clone(), map.clone()));
                }
                match value {
                    Some(value) => {
                        index.insert(Arc::new(Entry { key, value }));
                        map.insert(key, value);
                    }
                    None => {
                        let removed = index.remove(hash(key), |entry| entry.key == key);
                        prop_assert_eq!(removed.map(|entry| entry.value), map.remove(&key));
                    }
                }
                prop_assert_eq!(find(&index, key), map.get(&key).copied());
            }
            check(&index, &map)?;
            for (index, map) in older {
                check(&index, &map)?;
            }
        }
    }

    #[test]
    fn what_came_and_went_leaves_nothing_behind() {
        let mut index = Index::new();
        for key in 0..5_000 {
            index.insert(Arc::new(Entry { key, value: 0 }));
        }
        for key in 0..5_000 {
            assert!(index.remove(hash(key), |entry| entry.key == key).is_some());
        }
        assert!(index.root.0.iter().all(|place| matches!(place, Place::Empty)));
    }
}
