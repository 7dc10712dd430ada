//! What this node serves right now: the newest snapshot, how far everything has come, whether
//! the store is open and who is not ready. Written by the mesh, read by API and metrics.

mod opened;
mod predecessors;
mod ready;
mod upgrade;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portolan_discovery::model::Revision;
use portolan_discovery::snapshot::Snapshot;
use tokio::sync::watch;

pub use opened::OpenedStore;
pub(crate) use opened::Opening;
pub use predecessors::{Counts, Predecessor, Predecessors};
pub use ready::{Readiness, ReadyToken};
pub use upgrade::{Busy, UPGRADE_TIMEOUT, UpgradeRequest, UpgradeStage, UpgradeStep, Upgrades};

/// What this node serves right now.
#[derive(Debug)]
pub struct Live {
    snapshot: watch::Sender<Arc<Snapshot>>,
    seen: AtomicU64,
    rejected: AtomicU64,
    started: Instant,
    /// Milliseconds after `started` at which the store was last heard of; 0 is never.
    heard_ms: AtomicU64,
    connected: watch::Sender<bool>,
}

impl Live {
    /// Begins with what was saved, or with nothing.
    pub fn new(saved: Snapshot, now: Instant) -> Self {
        Self {
            seen: AtomicU64::new(saved.revision.0),
            snapshot: watch::Sender::new(Arc::new(saved)),
            rejected: AtomicU64::new(0),
            started: now,
            heard_ms: AtomicU64::new(0),
            connected: watch::Sender::new(false),
        }
    }

    /// The newest snapshot, which every part has been given.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Follows the snapshots; some may be passed over, the newest never.
    pub fn follow(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// The revision up to which everything of the store is in the snapshot.
    pub fn revision(&self) -> Revision {
        Revision(self.seen.load(Ordering::Acquire))
    }

    /// Whether the store answers.
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Follows whether the store answers.
    pub fn follow_connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Records that could not be read since the start.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// How long ago the snapshot was known to be current.
    pub fn age(&self, now: Instant) -> Duration {
        let heard = self.started + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(heard)
    }

    pub(crate) fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        let revision = snapshot.revision;
        self.snapshot.send_replace(snapshot);
        self.set_seen(revision);
    }

    pub(crate) fn set_seen(&self, revision: Revision) {
        self.seen.store(revision.0, Ordering::Release);
    }

    pub(crate) fn heard(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.started).as_millis();
        self.heard_ms.store(u64::try_from(ms).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
        self.connected.send_if_modified(|was| !std::mem::replace(was, true));
    }

    pub(crate) fn lost(&self) {
        self.connected.send_if_modified(|was| std::mem::replace(was, false));
    }

    pub(crate) fn count_rejected(&self, records: usize) {
        self.rejected.fetch_add(records as u64, Ordering::Relaxed);
    }
}
