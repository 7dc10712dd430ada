//! Brings the newest word on each job into the store: many jobs in one transaction, by
//! compare-and-set, for as long as it takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{JobId, JobStatus, Key, NodeName, Revision};
use portolan_discovery::store::{Compare, Store, StoreError, Txn};
use tokio::sync::{Notify, watch};

use super::placements::call;

/// Jobs in one transaction.
const BATCH_MAX: usize = 64;
/// The pauses after a write that failed: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What is to be said of a job; nothing is that its record is to go.
type Word = Option<JobStatus>;

/// The words that are not in the store yet, one per job. A clone is the same one.
#[derive(Clone)]
pub(super) struct Says {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    node: NodeName,
    open: Mutex<BTreeMap<JobId, Word>>,
    news: Notify,
    is_idle: watch::Sender<bool>,
}

/// The node's records as they are stored.
type Known = BTreeMap<JobId, (Bytes, Revision)>;

impl Says {
    pub(super) fn new(store: Arc<dyn Store>, node: NodeName) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                node,
                open: Mutex::default(),
                news: Notify::new(),
                is_idle: watch::Sender::new(true),
            }),
        }
    }

    /// Notes the newest word on a job and returns at once.
    pub(super) fn say(&self, job: JobId, word: Word) {
        let mut open = self.shared.lock();
        open.insert(job, word);
        self.shared.is_idle.send_replace(false);
        drop(open);
        self.shared.news.notify_one();
    }

    /// Waits until everything is said, at most for `longest`.
    pub(super) async fn flush(&self, longest: Duration) {
        let mut is_idle = self.shared.is_idle.subscribe();
        if tokio::time::timeout(longest, is_idle.wait_for(|is_idle| *is_idle)).await.is_err() {
            tracing::warn!("the store did not take the last words on jobs in time");
        }
    }

    /// Writes what is noted; never returns.
    pub(super) async fn run(self) {
        let mut known: Option<Known> = None;
        let mut pause = PAUSE_MIN;
        let mut batch_max = BATCH_MAX;
        loop {
            let batch = self.shared.batch(batch_max);
            if batch.is_empty() {
                self.shared.news.notified().await;
                continue;
            }
            match self.shared.write(&batch, &mut known).await {
                Ok(true) => {
                    self.shared.close(batch);
                    (pause, batch_max) = (PAUSE_MIN, BATCH_MAX);
                    continue;
                }
                // Somebody else wrote there; these records are ours alone, so it was an
                // earlier life of this agent whose write was still under way.
                Ok(false) => {}
                Err(error) if error.is_retryable() => {
                    if pause == PAUSE_MIN {
                        tracing::warn!(%error, "words on jobs wait for the store");
                    }
                }
                Err(error) if batch.len() == 1 => {
                    tracing::error!(job = %batch[0].0, %error, "a word on a job is not written");
                    self.shared.close(batch);
                    continue;
                }
                // One of them cannot be written: find out which.
                Err(_) => batch_max = 1,
            }
            known = None;
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Shared {
    /// A panic elsewhere must not stop the words: each change leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Word>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn batch(&self, most: usize) -> Vec<(JobId, Word)> {
        let open = self.lock();
        open.iter().take(most).map(|(job, word)| (job.clone(), word.clone())).collect()
    }

    /// Strikes out what was written, unless there is newer word.
    fn close(&self, batch: Vec<(JobId, Word)>) {
        let mut open = self.lock();
        for (job, word) in batch {
            if open.get(&job) == Some(&word) {
                open.remove(&job);
            }
        }
        if open.is_empty() {
            self.is_idle.send_replace(true);
        }
    }

    /// Writes what differs; false when the store was not as known.
    async fn write(
        &self,
        batch: &[(JobId, Word)],
        known: &mut Option<Known>,
    ) -> Result<bool, StoreError> {
        let known = match known {
            Some(known) => known,
            None => known.insert(self.read().await?),
        };
        let mut txn = Txn::default();
        let mut next = Vec::new();
        for (job, word) in batch {
            let key = Key::Job(self.node.clone(), job.clone()).to_string();
            let value = word.as_ref().map(encode);
            let stored = known.get(job);
            if stored.map(|(value, _)| value) == value.as_ref() {
                continue;
            }
            txn = txn.when(match stored {
                Some((_, revision)) => Compare::Unchanged(key.clone(), *revision),
                None => Compare::Absent(key.clone()),
            });
            txn = match &value {
                Some(value) => txn.put(key, value.clone()),
                None => txn.delete(key),
            };
            next.push((job.clone(), value));
        }
        if next.is_empty() {
            return Ok(true);
        }
        let outcome = call(self.store.txn(txn)).await?;
        if outcome.done {
            for (job, value) in next {
                match value {
                    Some(value) => drop(known.insert(job, (value, outcome.revision))),
                    None => drop(known.remove(&job)),
                }
            }
        }
        Ok(outcome.done)
    }

    async fn read(&self) -> Result<Known, StoreError> {
        let (kvs, _) = call(self.store.snapshot(&Key::jobs_on(&self.node))).await?;
        let of_job = |key: &str| match key.parse() {
            Ok(Key::Job(_, job)) => Some(job),
            _ => None,
        };
        let known = kvs
            .into_iter()
            .filter_map(|kv| of_job(&kv.key).map(|job| (job, (kv.value, kv.modified))));
        Ok(known.collect())
    }
}
