//! A store that can be away, lose its answers and be raced, and counts what it does.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use portolan_discovery::model::{Kv, LeaseId, Revision};
use portolan_discovery::store::embedded::{Create, Embedded};
use portolan_discovery::store::{Outcome, Status, Store, StoreError, Txn, Watch};

#[derive(Default)]
pub struct Mood {
    /// No call is answered.
    pub is_away: AtomicBool,
    /// Writes are done, but the answer is lost.
    pub loses_answers: AtomicBool,
    /// A write to slip in before the next transaction.
    pub rival: Mutex<Option<(String, Bytes)>>,
    /// Transactions that were done for others than the rival.
    pub writes: AtomicU64,
    /// Transactions that were asked for.
    pub tries: AtomicU64,
    /// Calls of every kind.
    pub calls: AtomicU64,
}

impl Mood {
    pub fn go(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    pub fn tries(&self) -> u64 {
        self.tries.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

pub struct Shaky {
    inner: Embedded,
    mood: Arc<Mood>,
}

impl Shaky {
    pub fn open(dir: &Path) -> (Arc<dyn Store>, Arc<Mood>) {
        let inner = Embedded::open(&dir.join("store.redb"), Create::IfMissing).unwrap();
        let mood = Arc::new(Mood::default());
        (Arc::new(Self { inner, mood: mood.clone() }), mood)
    }

    fn answer(&self) -> Result<(), StoreError> {
        self.mood.calls.fetch_add(1, Ordering::SeqCst);
        if self.mood.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("it is away".to_owned()));
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for Shaky {
    async fn snapshot(&self, prefix: &str) -> Result<(Vec<Kv>, Revision), StoreError> {
        self.answer()?;
        self.inner.snapshot(prefix).await
    }

    async fn get(&self, key: &str) -> Result<Option<Kv>, StoreError> {
        self.answer()?;
        self.inner.get(key).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.answer()?;
        self.inner.watch(prefix, after).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.mood.tries.fetch_add(1, Ordering::SeqCst);
        self.answer()?;
        let rival = self.mood.rival.lock().unwrap().take();
        if let Some((key, value)) = rival {
            self.inner.txn(Txn::default().put(key, value)).await?;
        }
        let outcome = self.inner.txn(txn).await?;
        self.mood.writes.fetch_add(u64::from(outcome.done), Ordering::SeqCst);
        if self.mood.loses_answers.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the answer is lost".to_owned()));
        }
        Ok(outcome)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_keepalive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(lease).await
    }

    async fn status(&self) -> Result<Status, StoreError> {
        self.answer()?;
        self.inner.status().await
    }
}
