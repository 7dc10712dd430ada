//! A request under way whose answer may be kept, and the right to keep it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::key::Key;
use super::object::Object;
use super::policy::NotKept;
use super::shard::{Mark, Variant};
use super::store::{Cache, Reserved};

/// A request under way. Others wait until the last of its owners lets it go.
#[derive(Debug)]
pub(super) struct Fill {
    token: u64,
    pub(super) begun: Instant,
    /// What it brings is not to be kept: the resource has changed since it was sent.
    void: AtomicBool,
    /// Another one has taken its place.
    outdated: AtomicBool,
    done: watch::Sender<()>,
}

impl Fill {
    pub(super) fn new(token: u64, begun: Instant) -> Self {
        let done = watch::Sender::new(());
        Self { token, begun, void: AtomicBool::new(false), outdated: AtomicBool::new(false), done }
    }

    /// Whether requests with this token may wait for it.
    pub(super) fn is_for(&self, token: u64) -> bool {
        self.token == token && !self.is_void() && !self.outdated.load(Ordering::Relaxed)
    }

    pub(super) fn is_void(&self) -> bool {
        self.void.load(Ordering::Relaxed)
    }

    pub(super) fn void(&self) {
        self.void.store(true, Ordering::Relaxed);
    }

    pub(super) fn outdate(&self) {
        self.outdated.store(true, Ordering::Relaxed);
    }

    /// How many wait.
    pub(super) fn waiters(&self) -> usize {
        self.done.receiver_count()
    }

    /// Changes, or closes, when it is over.
    pub(super) fn done(&self) -> watch::Receiver<()> {
        self.done.subscribe()
    }
}

/// The right to keep the answer to a request; dropped, it lets go who waits for that.
#[derive(Debug)]
pub(crate) struct Permit {
    cache: Arc<Cache>,
    key: Key,
    fill: Arc<Fill>,
}

impl Permit {
    pub(super) fn new(cache: Arc<Cache>, key: Key, fill: Arc<Fill>) -> Self {
        Self { cache, key, fill }
    }

    pub(super) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    pub(super) fn facet(&self) -> &Arc<[u8]> {
        &self.key.facet
    }

    /// Keeps an answer.
    pub(super) fn keep(self, variant: Variant, reserved: Reserved) -> Result<(), NotKept> {
        self.cache.put(&self.key, &self.fill, variant, reserved)
    }

    /// The next ones know that they need not wait for each other.
    pub(crate) fn mark(&self, mark: Mark, lasting: Duration, now: Instant) {
        if !self.fill.is_void() {
            self.cache.set_mark(&self.key, mark, now + lasting, now);
        }
    }

    /// Takes an answer out that is not to be served again.
    pub(crate) fn forget(&self, object: &Arc<Object>) {
        self.cache.forget(&self.key, object);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.cache.end(&self.key, &self.fill);
    }
}
