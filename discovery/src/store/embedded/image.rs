//! What the store holds at one revision, and how a transaction changes it.
//!
//! Pure: it knows no file, no clock and no watcher. It shares structure, so that a copy costs
//! nothing: the writer works on a copy and throws it away when the disk refuses the commit, and
//! a reader keeps one for as long as it likes.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use crate::model::{Event, Kv, LeaseId, Revision};
use crate::store::{Compare, Op, Outcome, StoreError, TXN_OPS_MAX, Txn};

/// All keys and leases at one revision.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    revision: Revision,
    kvs: OrdMap<Arc<str>, Arc<Kv>>,
    leases: OrdMap<LeaseId, Lease>,
    lease_last: u64,
}

#[derive(Debug, Clone)]
struct Lease {
    ttl: Duration,
    keys: OrdSet<Arc<str>>,
}

/// All changes of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) revision: Revision,
    pub(super) events: Vec<Event>,
}

/// One change of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Put(Arc<Kv>),
    Delete(String),
    LeaseMade(LeaseId, Duration),
    LeaseEnded(LeaseId),
}

/// What happened to an image, for the file and for the watchers.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) changes: Vec<Change>,
    pub(super) batches: Vec<Batch>,
}

impl Image {
    /// The image that a file holds.
    pub(super) fn restore(
        revision: Revision,
        lease_last: u64,
        leases: impl IntoIterator<Item = (LeaseId, Duration)>,
        kvs: impl IntoIterator<Item = Kv>,
    ) -> Self {
        let mut image = Self { revision, lease_last, ..Self::default() };
        for (id, ttl) in leases {
            image.leases.insert(id, Lease { ttl, keys: OrdSet::new() });
        }
        for kv in kvs {
            image.bind(kv.lease, &Arc::from(kv.key.as_str()));
            image.kvs.insert(Arc::from(kv.key.as_str()), Arc::new(kv));
        }
        image
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// The number of the lease that was granted last; numbers are never used again.
    pub(super) fn lease_last(&self) -> u64 {
        self.lease_last
    }

    pub(super) fn keys_count(&self) -> usize {
        self.kvs.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Kv> {
        self.kvs.get(key).map(Arc::as_ref)
    }

    /// All keys that begin with `prefix`, in order.
    pub(super) fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Kv> {
        let from: (Bound<&str>, Bound<&str>) = (Bound::Included(prefix), Bound::Unbounded);
        self.kvs
            .range::<_, str>(from)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, kv)| kv.as_ref())
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl))
    }

    /// Does all of `txn`, or nothing. A transaction without effect makes no revision.
    pub(super) fn txn(&mut self, txn: Txn, log: &mut Log) -> Result<Outcome, StoreError> {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok(Outcome { done: false, revision: self.revision });
        }
        for op in &txn.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::NoLease(*lease));
            }
        }
        self.apply(txn.ops, log);
        Ok(Outcome { done: true, revision: self.revision })
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => self.get(key).is_none(),
            Compare::Present(key) => self.get(key).is_some(),
            Compare::Unchanged(key, at) => self.get(key).is_some_and(|kv| kv.modified == *at),
        }
    }

    fn apply(&mut self, ops: Vec<Op>, log: &mut Log) {
        let revision = self.revision.next();
        let mut events = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let kv = self.put(key, &value, lease, revision);
                    events.push(Event::Put(kv.as_ref().clone()));
                    log.changes.push(Change::Put(kv));
                }
                Op::Delete(key) => {
                    if let Some((name, kv)) = self.kvs.remove_with_key(key.as_str()) {
                        self.unbind(kv.lease, &name);
                        events.push(Event::Delete { key: key.clone(), revision });
                        log.changes.push(Change::Delete(key));
                    }
                }
            }
        }
        if !events.is_empty() {
            self.revision = revision;
            log.batches.push(Batch { revision, events });
        }
    }

    fn put(
        &mut self,
        key: String,
        value: &[u8],
        lease: Option<LeaseId>,
        revision: Revision,
    ) -> Arc<Kv> {
        let (name, created) = match self.kvs.get_key_value(key.as_str()) {
            Some((name, old)) => (name.clone(), old.created),
            None => (Arc::from(key.as_str()), revision),
        };
        let old_lease = self.get(&key).and_then(|old| old.lease);
        if old_lease != lease {
            self.unbind(old_lease, &name);
            self.bind(lease, &name);
        }
        // A copy: the caller's bytes may be a slice that keeps a much larger buffer alive.
        let value = Bytes::copy_from_slice(value);
        let kv = Arc::new(Kv { key, value, created, modified: revision, lease });
        self.kvs.insert(name, kv.clone());
        kv
    }

    fn bind(&mut self, lease: Option<LeaseId>, key: &Arc<str>) {
        if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(key.clone());
        }
    }

    fn unbind(&mut self, lease: Option<LeaseId>, key: &Arc<str>) {
        if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(key);
        }
    }

    /// Makes a lease.
    pub(super) fn grant(&mut self, ttl: Duration, log: &mut Log) -> LeaseId {
        self.lease_last += 1;
        let id = LeaseId(self.lease_last);
        self.leases.insert(id, Lease { ttl, keys: OrdSet::new() });
        log.changes.push(Change::LeaseMade(id, ttl));
        id
    }

    /// Ends a lease and deletes its keys; says how many they were, or none for a lease that is
    /// not known.
    pub(super) fn end(&mut self, lease: LeaseId, log: &mut Log) -> Option<usize> {
        let keys: Vec<_> = self.leases.remove(&lease)?.keys.into_iter().collect();
        for keys in keys.chunks(TXN_OPS_MAX) {
            self.apply(keys.iter().map(|key| Op::Delete(key.to_string())).collect(), log);
        }
        log.changes.push(Change::LeaseEnded(lease));
        Some(keys.len())
    }

    pub(super) fn leases_count(&self) -> usize {
        self.leases.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(image: &Image, prefix: &str) -> Vec<String> {
        image.below(prefix).map(|kv| kv.key.clone()).collect()
    }

    fn do_all(image: &mut Image, txn: Txn) -> Log {
        let mut log = Log::default();
        assert!(image.txn(txn, &mut log).unwrap().done);
        log
    }

    #[test]
    fn a_copy_does_not_see_what_is_done_to_the_other() {
        let mut image = Image::default();
        do_all(&mut image, Txn::default().put("a", Bytes::from_static(b"1")));
        let before = image.clone();
        do_all(&mut image, Txn::default().put("b", Bytes::from_static(b"2")).delete("a"));
        assert_eq!(keys(&before, ""), ["a"]);
        assert_eq!(before.revision(), Revision(1));
        assert_eq!(keys(&image, ""), ["b"]);
        assert_eq!(image.revision(), Revision(2));
    }

    #[test]
    fn a_prefix_ends_where_it_ends() {
        let mut image = Image::default();
        let all = ["/a", "/a/b", "/a/b/1", "/a/b0", "/a/c", "/b"];
        do_all(&mut image, all.iter().fold(Txn::default(), |t, key| t.put(*key, Bytes::new())));
        for (prefix, expected) in [
            ("", &all[..]),
            ("/a/b/", &["/a/b/1"]),
            ("/a/b", &["/a/b", "/a/b/1", "/a/b0"]),
            ("/b", &["/b"]),
            ("/c", &[]),
        ] {
            assert_eq!(keys(&image, prefix), expected, "{prefix}");
        }
    }

    #[test]
    fn a_lease_of_many_keys_ends_in_transactions_of_the_allowed_size() {
        let (mut image, mut log) = (Image::default(), Log::default());
        let lease = image.grant(Duration::from_secs(1), &mut log);
        for key in 0..=TXN_OPS_MAX {
            let put = Op::Put { key: key.to_string(), value: Bytes::new(), lease: Some(lease) };
            do_all(&mut image, Txn::of(vec![put]));
        }
        let (from, mut log) = (image.revision(), Log::default());
        assert_eq!(image.end(lease, &mut log), Some(TXN_OPS_MAX + 1));
        let sizes: Vec<_> = log.batches.iter().map(|batch| batch.events.len()).collect();
        assert_eq!(sizes, [TXN_OPS_MAX, 1]);
        assert_eq!(image.revision(), Revision(from.0 + 2));
        assert_eq!(image.keys_count(), 0);
        assert_eq!(image.end(lease, &mut Log::default()), None);
    }

    #[test]
    fn a_number_of_a_lease_is_not_used_again() {
        let (mut image, mut log) = (Image::default(), Log::default());
        let first = image.grant(Duration::from_secs(1), &mut log);
        image.end(first, &mut log);
        assert_ne!(image.grant(Duration::from_secs(1), &mut log), first);
        let mut again = Image::restore(Revision(0), image.lease_last(), [], []);
        assert_eq!(again.grant(Duration::from_secs(1), &mut log), LeaseId(3));
    }
}
