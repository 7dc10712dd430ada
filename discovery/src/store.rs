//! The ordered log under a cluster: keys at revisions, transactions, watches and leases.
//!
//! One trait, several back ends, one conformance suite ([`conformance`]) that all of them
//! run. Knows nothing of what the records mean.

pub mod conformance;
#[cfg(feature = "redb")]
pub mod embedded;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::model::{Event, Kv, LeaseId, Revision};

/// The most operations of one transaction; etcd's own limit, so that every back end agrees.
pub const TXN_OPS_MAX: usize = 128;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// The largest value, in bytes: below etcd's 1.5 MiB limit of a request.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Batches that wait for a slow reader of a watch; one more, and the watch is lost.
pub const WATCH_BATCHES_MAX: usize = 1024;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or its disk fails. Whether a write was done is not known.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// The request can never be done.
    #[error("store refused: {0}")]
    Refused(String),
    /// The lease is not known (any more).
    #[error("lease {} has ended", .0.0)]
    NoLease(LeaseId),
}

impl StoreError {
    /// Whether the same call may go through later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// What must hold for a transaction to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key is there, whatever it holds.
    Present(String),
    /// The key was last changed at this revision.
    Unchanged(String, Revision),
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Makes or changes a key; without a lease the key is bound to none any more.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The lease whose end deletes it.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; does nothing when it is not there.
    Delete(String),
}

/// All operations at one revision, or none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// At most [`TXN_OPS_MAX`]; no key twice.
    pub ops: Vec<Op>,
}

impl Txn {
    /// A transaction without conditions.
    pub fn of(ops: Vec<Op>) -> Self {
        Self { compares: Vec::new(), ops }
    }

    /// Adds a condition.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a put without a lease.
    pub fn put(mut self, key: impl Into<String>, value: Bytes) -> Self {
        self.ops.push(Op::Put { key: key.into(), value, lease: None });
        self
    }

    /// Adds a delete.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete(key.into()));
        self
    }

    /// Checks the limits that every back end has.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.ops.len() > TXN_OPS_MAX || self.compares.len() > TXN_OPS_MAX {
            return Err(StoreError::Refused(format!(
                "a transaction has at most {TXN_OPS_MAX} operations and conditions"
            )));
        }
        let mut keys = std::collections::BTreeSet::new();
        for op in &self.ops {
            let (key, bytes) = match op {
                Op::Put { key, value, .. } => (key, value.len()),
                Op::Delete(key) => (key, 0),
            };
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(StoreError::Refused(format!(
                    "a key has 1 to {KEY_BYTES_MAX} bytes, not {}",
                    key.len()
                )));
            }
            if bytes > VALUE_BYTES_MAX {
                return Err(StoreError::Refused(format!(
                    "the value of {key} has {bytes} bytes, more than {VALUE_BYTES_MAX}"
                )));
            }
            if !keys.insert(key) {
                return Err(StoreError::Refused(format!("{key} is changed twice")));
            }
        }
        Ok(())
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the conditions held and the operations are done.
    pub done: bool,
    /// The revision of the commit; when nothing was done, the store's at that time.
    pub revision: Revision,
}

/// What a watch says, in the order of revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// All changes of one revision below the prefix.
    Batch {
        /// The revision.
        revision: Revision,
        /// The changes, in the order of the transaction.
        events: Vec<Event>,
    },
    /// Everything up to here has been said; nothing below the prefix changed lately.
    Progress(Revision),
    /// The revision to begin from is forgotten: take a snapshot and watch from there. The last word.
    Compacted {
        /// The oldest revision that can still be watched from.
        oldest: Revision,
    },
    /// The watch has ended, by a slow reader or a store that went away. The last word.
    Lost(String),
}

/// A stream of changes. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
}

impl Watch {
    /// A watch and the end that a back end writes to.
    pub fn channel() -> (mpsc::Sender<WatchEvent>, Self) {
        let (to, events) = mpsc::channel(WATCH_BATCHES_MAX);
        (to, Self { events })
    }

    /// The next word. Safe to drop and call again.
    pub async fn next(&mut self) -> WatchEvent {
        self.events
            .recv()
            .await
            .unwrap_or_else(|| WatchEvent::Lost("the watch was closed".to_owned()))
    }
}

/// What a store says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Tells one store from another: made once, when the store is made.
    pub identity: String,
    /// The revision of the last commit.
    pub revision: Revision,
    /// The kind of back end: `embedded` or `etcd`.
    pub backend: &'static str,
}

/// An ordered, watchable map with transactions and leases.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// All keys that begin with `prefix`, in order, as they were at one revision.
    async fn snapshot(&self, prefix: &str) -> Result<(Vec<Kv>, Revision), StoreError>;

    /// One key.
    async fn get(&self, key: &str) -> Result<Option<Kv>, StoreError>;

    /// Every change below `prefix` with a revision above `after`, then those to come.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;

    /// Does all of `txn` at one revision, or nothing. What it says is done survives a crash.
    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// A lease that ends, with its keys, unless it is kept alive within `ttl`.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Gives the lease its whole time again.
    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends the lease and deletes its keys.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Identity, revision and kind.
    async fn status(&self) -> Result<Status, StoreError>;
}
