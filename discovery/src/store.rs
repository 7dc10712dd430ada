//! The ordered log under a cluster: keys at revisions, transactions, watches and leases.
//!
//! One trait, several back ends, one conformance suite (feature `conformance`) that all of
//! them run. Knows nothing of what the records mean.

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "redb")]
pub mod embedded;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::model::record::shown;
use crate::model::{Event, Kv, LeaseId, Revision};

/// The most operations of one transaction; etcd's own limit, so that every back end agrees.
pub const TXN_OPS_MAX: usize = 128;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// The largest value, in bytes: below etcd's 1.5 MiB limit of a request.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// All keys and values of one transaction, in bytes: below the same limit of etcd.
pub const TXN_BYTES_MAX: usize = VALUE_BYTES_MAX + (256 << 10);
/// The shortest lease: etcd counts in seconds, and keep-alives need time to get through.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);
/// The longest lease: what is to live longer than a day wants none.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A quiet watch says at least this often how far it is.
pub const WATCH_PROGRESS_EVERY: Duration = Duration::from_secs(1);
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

/// What a transaction does. Values that hold secrets are in no `Debug`.
#[derive(Clone, PartialEq, Eq)]
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

impl Compare {
    /// The key it looks at.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::Unchanged(key, _) => key,
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value, lease } => f
                .debug_struct("Put")
                .field("key", key)
                .field("value", &shown(key, value))
                .field("lease", lease)
                .finish(),
            Self::Delete(key) => f.debug_tuple("Delete").field(key).finish(),
        }
    }
}

impl Op {
    /// The key it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }

    fn value_bytes(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete(_) => 0,
        }
    }
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
        let mut changed = BTreeSet::new();
        for op in &self.ops {
            check_key(op.key())?;
            if op.value_bytes() > VALUE_BYTES_MAX {
                return Err(StoreError::Refused(format!(
                    "the value of {} has {} bytes, more than {VALUE_BYTES_MAX}",
                    op.key(),
                    op.value_bytes()
                )));
            }
            if !changed.insert(op.key()) {
                return Err(StoreError::Refused(format!("{} is changed twice", op.key())));
            }
        }
        for compare in &self.compares {
            check_key(compare.key())?;
        }
        match self.bytes() {
            0..=TXN_BYTES_MAX => Ok(()),
            bytes => Err(StoreError::Refused(format!(
                "the transaction has {bytes} bytes, more than {TXN_BYTES_MAX}"
            ))),
        }
    }

    /// The length of all its keys and values.
    pub fn bytes(&self) -> usize {
        let ops = self.ops.iter().map(|op| op.key().len() + op.value_bytes());
        let compares = self.compares.iter().map(|compare| compare.key().len());
        ops.chain(compares).sum()
    }
}

fn check_key(key: &str) -> Result<(), StoreError> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        bytes => {
            Err(StoreError::Refused(format!("a key has 1 to {KEY_BYTES_MAX} bytes, not {bytes}")))
        }
    }
}

/// Checks the limits of a lease that every back end has.
pub fn check_ttl(ttl: Duration) -> Result<(), StoreError> {
    if (LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "a lease lives {LEASE_TTL_MIN:?} to {LEASE_TTL_MAX:?}, not {ttl:?}"
    )))
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the conditions held and the operations are done.
    pub done: bool,
    /// The revision of the commit; when nothing was changed, the store's at that time.
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
    /// Everything up to here has been said. Comes when the reader has caught up, soon after
    /// changes outside of the prefix, and each [`WATCH_PROGRESS_EVERY`] of silence.
    Progress(Revision),
    /// The revision to begin from is forgotten, or has never been: take a snapshot and watch
    /// from there. The last word.
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
    backlog: VecDeque<WatchEvent>,
    events: mpsc::Receiver<WatchEvent>,
    lost: Arc<OnceLock<String>>,
}

/// The back end's end of a watch. Dropping it ends the watch.
#[derive(Debug)]
pub struct WatchSender {
    events: mpsc::Sender<WatchEvent>,
    lost: Arc<OnceLock<String>>,
}

impl Watch {
    /// A watch that says `backlog` first, whatever its length, and the end that a back end
    /// writes to.
    pub fn channel(backlog: Vec<WatchEvent>) -> (WatchSender, Self) {
        let (to, events) = mpsc::channel(WATCH_BATCHES_MAX);
        let lost = Arc::new(OnceLock::new());
        let sender = WatchSender { events: to, lost: lost.clone() };
        (sender, Self { backlog: backlog.into(), events, lost })
    }

    /// The next word. Safe to drop and call again.
    pub async fn next(&mut self) -> WatchEvent {
        if let Some(word) = self.backlog.pop_front() {
            return word;
        }
        self.events.recv().await.unwrap_or_else(|| {
            let reason = self.lost.get().map_or("the watch was closed", String::as_str);
            WatchEvent::Lost(reason.to_owned())
        })
    }
}

impl WatchSender {
    /// Queues a word and never waits. When it says no, the reader is gone or too slow, and the
    /// sender is of no more use.
    pub fn offer(&self, word: WatchEvent) -> bool {
        match self.events.try_send(word) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lose("the reader is too slow");
                false
            }
        }
    }

    /// Says why the watch ends; the first reason stays.
    pub fn lose(&self, reason: &str) {
        self.lost.get_or_init(|| reason.to_owned());
    }

    /// Whether the reader has taken all that was queued.
    pub fn is_idle(&self) -> bool {
        self.events.capacity() == self.events.max_capacity()
    }

    /// Whether the reader is gone.
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
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
    /// A transaction that changes nothing makes no revision. When the future is dropped, the
    /// transaction may still be done.
    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// A lease that ends, with its keys, unless it is kept alive within `ttl`. Its keys are
    /// deleted at one revision for each [`TXN_OPS_MAX`] of them.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Gives the lease its whole time again.
    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends the lease and deletes its keys.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Identity, revision and kind.
    async fn status(&self) -> Result<Status, StoreError>;
}
