//! A store in memory that answers at once: for tests that make every step themselves.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use portolan_discovery::model::{Event, Kv, LeaseId, Revision};
use portolan_discovery::store::{Compare, Op, Outcome, Status, Store, StoreError, Txn, Watch};

#[derive(Debug, Default)]
pub(super) struct Memory {
    inner: Mutex<Inner>,
    /// Whoever reads many keys is held up behind it, so that others get in between.
    hesitates: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    revision: Revision,
    keys: BTreeMap<String, Kv>,
    log: Vec<(Revision, Vec<Event>)>,
    leases: u64,
    /// Writes fail from now on.
    down: bool,
}

impl Memory {
    pub(super) fn revision(&self) -> Revision {
        self.inner.lock().unwrap().revision
    }

    pub(super) fn all(&self, prefix: &str) -> (Vec<Kv>, Revision) {
        let inner = self.inner.lock().unwrap();
        let below = inner.keys.range(prefix.to_owned()..).map(|(_, kv)| kv);
        let below = below.take_while(|kv| kv.key.starts_with(prefix));
        (below.cloned().collect(), inner.revision)
    }

    /// What changed below `prefix` after one revision, up to another.
    pub(super) fn changes(
        &self,
        prefix: &str,
        after: Revision,
        up_to: Revision,
    ) -> Vec<(Revision, Vec<Event>)> {
        let inner = self.inner.lock().unwrap();
        let from = inner.log.partition_point(|(revision, _)| *revision <= after);
        let news = inner.log[from..].iter().take_while(|(revision, _)| *revision <= up_to);
        let below = news.map(|(revision, events)| {
            let events = events.iter().filter(|event| event.key().starts_with(prefix));
            (*revision, events.cloned().collect::<Vec<_>>())
        });
        below.filter(|(_, events)| !events.is_empty()).collect()
    }

    pub(super) fn hesitate(&self) {
        self.hesitates.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_down(&self, down: bool) {
        self.inner.lock().unwrap().down = down;
    }

    pub(super) fn commit(&self, txn: &Txn) -> Outcome {
        txn.check().unwrap();
        let mut inner = self.inner.lock().unwrap();
        let holds = txn.compares.iter().all(|compare| match compare {
            Compare::Absent(key) => !inner.keys.contains_key(key),
            Compare::Present(key) => inner.keys.contains_key(key),
            Compare::Unchanged(key, at) => inner.keys.get(key).is_some_and(|kv| kv.modified == *at),
        });
        if !holds || txn.ops.is_empty() {
            return Outcome { done: holds, revision: inner.revision };
        }
        let revision = inner.revision.next();
        inner.revision = revision;
        let mut events = Vec::new();
        for op in &txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    let created = inner.keys.get(key).map_or(revision, |kv| kv.created);
                    let kv = Kv {
                        key: key.clone(),
                        value: value.clone(),
                        created,
                        modified: revision,
                        lease: *lease,
                    };
                    inner.keys.insert(key.clone(), kv.clone());
                    events.push(Event::Put(kv));
                }
                Op::Delete(key) => {
                    if inner.keys.remove(key).is_some() {
                        events.push(Event::Delete { key: key.clone(), revision });
                    }
                }
            }
        }
        inner.log.push((revision, events));
        Outcome { done: true, revision }
    }
}

#[async_trait]
impl Store for Memory {
    async fn snapshot(&self, prefix: &str) -> Result<(Vec<Kv>, Revision), StoreError> {
        let all = self.all(prefix);
        if self.hesitates.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        Ok(all)
    }

    async fn get(&self, key: &str) -> Result<Option<Kv>, StoreError> {
        Ok(self.inner.lock().unwrap().keys.get(key).cloned())
    }

    async fn watch(&self, _: &str, _: Revision) -> Result<Watch, StoreError> {
        Err(StoreError::Refused("this store is not watched".to_owned()))
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        if self.inner.lock().unwrap().down {
            return Err(StoreError::Unavailable("it is down".to_owned()));
        }
        txn.check()?;
        Ok(self.commit(&txn))
    }

    async fn lease_grant(&self, _: Duration) -> Result<LeaseId, StoreError> {
        let mut inner = self.inner.lock().unwrap();
        inner.leases += 1;
        Ok(LeaseId(inner.leases))
    }

    async fn lease_keepalive(&self, _: LeaseId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn lease_revoke(&self, _: LeaseId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn status(&self) -> Result<Status, StoreError> {
        let revision = self.revision();
        Ok(Status { identity: "memory".to_owned(), revision, backend: "memory" })
    }
}
