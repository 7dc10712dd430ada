//! Brings wanted records into the store: the newest wish per key, by compare-and-set, for as
//! long as it takes.
//!
//! Knows nothing of what the records mean; a [`Wish`] says what is to be stored, given what is.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_discovery::model::record::{decode, encode};
use portolan_discovery::model::{Key, Revision};
use portolan_discovery::store::{Compare, Op, Store, StoreError, Txn};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::RegisterError;
use crate::metrics::Metrics;

/// The most writes under way at once; more wait for their turn.
const WRITES_MAX: usize = 64;
/// Compare-and-set that fails this often in a row waits before it goes on.
const CONFLICTS_MAX: u32 = 16;
/// The longest wait for one call of the store.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before a write is tried again; each later one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause before a write is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What is wanted of one record.
pub(super) trait Wish: Clone + Send + Sync + 'static {
    /// The record.
    type Record: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync + 'static;

    /// What is to be stored, given what is: `None` is no record. Asked again after a conflict.
    fn next(
        &self,
        key: &Key,
        stored: Option<&Self::Record>,
    ) -> Result<Option<Self::Record>, RegisterError>;

    /// The wish after it came true, for the next time that the record is compared with it.
    fn came_true(&mut self, stored: &Self::Record);
}

/// A record with the revision of its last change.
pub(super) type Stored<R> = (R, Revision);

/// All wishes of one kind. A clone is the same one.
pub(super) struct Writer<W: Wish> {
    shared: Arc<Shared<W>>,
}

impl<W: Wish> Clone for Writer<W> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<W: Wish> {
    store: Arc<dyn Store>,
    metrics: Metrics,
    turns: Semaphore,
    stop: CancellationToken,
    entries: Mutex<BTreeMap<Key, Entry<W>>>,
}

struct Entry<W: Wish> {
    wish: W,
    /// Counts the wishes of this key.
    number: u64,
    /// What the store had when we last wrote or read; saves a read per write.
    known: Option<Stored<W::Record>>,
    is_flushing: bool,
    progress: watch::Sender<Progress>,
}

#[derive(Clone)]
struct Progress {
    /// The newest wish that came true or was refused.
    number: u64,
    result: Result<Revision, RegisterError>,
}

/// A wish that has been noted. Awaiting it says at which revision it came true; whoever does
/// not care drops it, and the wish goes on.
pub struct Written {
    key: Key,
    number: u64,
    progress: Option<watch::Receiver<Progress>>,
}

impl Written {
    /// A wish that cannot even be noted.
    pub(super) fn unknown(key: Key) -> Self {
        Self { key, number: 0, progress: None }
    }

    /// The same wish for another to wait for.
    pub(super) fn again(&self) -> Self {
        Self { key: self.key.clone(), number: self.number, progress: self.progress.clone() }
    }

    /// Waits, through outages, until this wish or a newer one of the same record is stored.
    pub async fn stored(self) -> Result<Revision, RegisterError> {
        let Some(mut progress) = self.progress else {
            return Err(RegisterError::Unknown { key: self.key.to_string() });
        };
        let number = self.number;
        match progress.wait_for(|progress| progress.number >= number).await {
            Ok(progress) => progress.result.clone(),
            Err(_) => Err(RegisterError::Stopped { key: self.key.to_string() }),
        }
    }
}

impl IntoFuture for Written {
    type Output = Result<Revision, RegisterError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.stored())
    }
}

impl<W: Wish> Writer<W> {
    pub(super) fn new(store: Arc<dyn Store>, metrics: Metrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                metrics,
                turns: Semaphore::new(WRITES_MAX),
                stop: CancellationToken::new(),
                entries: Mutex::default(),
            }),
        }
    }

    /// Notes a wish; it replaces the one before. Must be called within the runtime.
    pub(super) fn wish(&self, key: Key, wish: W) -> Written {
        let mut entries = self.shared.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| {
            let nothing = Progress { number: 0, result: Ok(Revision::default()) };
            let progress = watch::Sender::new(nothing);
            self.shared.metrics.store_pending.inc();
            Entry { wish: wish.clone(), number: 0, known: None, is_flushing: false, progress }
        });
        entry.wish = wish;
        self.note(key, entry)
    }

    /// Changes the wish of a key that has one. The change says whether there is anything new.
    pub(super) fn change(&self, key: Key, change: impl FnOnce(&mut W)) -> Written {
        let mut entries = self.shared.lock();
        let Some(entry) = entries.get_mut(&key) else { return Written::unknown(key) };
        change(&mut entry.wish);
        self.note(key, entry)
    }

    fn note(&self, key: Key, entry: &mut Entry<W>) -> Written {
        let was_clean = entry.number == entry.progress.borrow().number;
        if was_clean && entry.number > 0 {
            self.shared.metrics.store_pending.inc();
        }
        entry.number += 1;
        if !entry.is_flushing {
            entry.is_flushing = true;
            tokio::spawn(flush(self.shared.clone(), key.clone()));
        }
        Written { key, number: entry.number, progress: Some(entry.progress.subscribe()) }
    }

    /// Compares every wish with the store again and writes what differs.
    pub(super) fn compare_all(&self) {
        let mut entries = self.shared.lock();
        for (key, entry) in &mut *entries {
            entry.known = None;
            drop(self.note(key.clone(), entry));
        }
    }

    /// The record as it is stored.
    pub(super) async fn read(&self, key: &Key) -> Result<Option<Stored<W::Record>>, RegisterError> {
        self.shared.read(key).await
    }

    /// Waits until no wish is open, then takes no more. What is open at the end of `longest` is
    /// given up.
    pub(super) async fn stop(&self, longest: Duration) {
        let open: Vec<Written> = self
            .shared
            .lock()
            .iter()
            .map(|(key, entry)| Written {
                key: key.clone(),
                number: entry.number,
                progress: Some(entry.progress.subscribe()),
            })
            .collect();
        let all = async {
            for written in open {
                // A refusal was logged by the flush.
                let _ = written.stored().await;
            }
        };
        if timeout(longest, all).await.is_err() {
            tracing::warn!("the store did not take the last writes in time");
        }
        self.give_up();
    }

    /// Gives up what waits for the store.
    pub(super) fn give_up(&self) {
        self.shared.stop.cancel();
    }
}

impl<W: Wish> Shared<W> {
    /// A panic elsewhere must not stop the writes: each change leaves the entries whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry<W>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open wish of a key; `None`, and the flush is over, when there is none.
    fn open(&self, key: &Key) -> Option<Open<W>> {
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        if entry.number == entry.progress.borrow().number {
            entry.is_flushing = false;
            return None;
        }
        Some(Open { wish: entry.wish.clone(), number: entry.number, known: entry.known.clone() })
    }

    /// Notes what became of a wish. Returns whether the flush is over, because nothing is wanted
    /// of the key any more: whoever wishes next starts another.
    fn close(&self, key: &Key, number: u64, result: Result<Left<W>, RegisterError>) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else { return true };
        let (result, record) = match result {
            Ok((record, revision)) => (Ok(revision), record.map(|record| (record, revision))),
            Err(error) => (Err(error), None),
        };
        let is_newest = entry.number == number;
        if is_newest && let Some((record, _)) = &record {
            entry.wish.came_true(record);
        }
        let is_gone = result.is_ok() && record.is_none();
        entry.known = record;
        entry.progress.send_replace(Progress { number, result });
        if is_newest {
            self.metrics.store_pending.dec();
            if is_gone {
                entries.remove(key);
                return true;
            }
        }
        false
    }

    async fn read(&self, key: &Key) -> Result<Option<Stored<W::Record>>, RegisterError> {
        let key = key.to_string();
        let Some(kv) = call(self.store.get(&key)).await? else { return Ok(None) };
        match decode(&kv.value) {
            Ok(record) => Ok(Some((record, kv.modified))),
            Err(error) => Err(RegisterError::Unreadable { key, cause: error.to_string() }),
        }
    }

    /// Makes the store agree with `open`; writes only what differs.
    async fn write(&self, key: &Key, open: &mut Open<W>) -> Result<Left<W>, RegisterError> {
        for _ in 0..CONFLICTS_MAX {
            let stored = match open.known.take() {
                Some(known) => Some(known),
                None => self.read(key).await?,
            };
            let next = open.wish.next(key, stored.as_ref().map(|(record, _)| record))?;
            let (compare, op) = match (stored, &next) {
                (None, None) => return Ok((None, Revision::default())),
                (Some((record, revision)), Some(next)) if record == *next => {
                    return Ok((Some(record), revision));
                }
                (stored, next) => (compare(key, stored.map(|(_, at)| at)), op(key, next.as_ref())),
            };
            let txn = Txn::of(vec![op]).when(compare);
            let outcome = call(self.store.txn(txn)).await?;
            if outcome.done {
                self.metrics.store_writes.inc();
                return Ok((next, outcome.revision));
            }
            self.metrics.store_retries.with_label_values(&["conflict"]).inc();
        }
        Err(RegisterError::Conflict { key: key.to_string(), times: CONFLICTS_MAX })
    }
}

/// A record as it was left (`None`: gone) and the revision that left it so.
type Left<W> = (Option<<W as Wish>::Record>, Revision);

struct Open<W: Wish> {
    wish: W,
    number: u64,
    known: Option<Stored<W::Record>>,
}

fn compare(key: &Key, stored: Option<Revision>) -> Compare {
    match stored {
        Some(revision) => Compare::Unchanged(key.to_string(), revision),
        None => Compare::Absent(key.to_string()),
    }
}

fn op<R: Serialize>(key: &Key, next: Option<&R>) -> Op {
    match next {
        Some(next) => Op::Put { key: key.to_string(), value: encode(next), lease: None },
        None => Op::Delete(key.to_string()),
    }
}

/// Bounds one call: a store that does not answer is one that is away.
pub(super) async fn call<T>(
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {CALL_TIMEOUT:?}"))),
    }
}

/// Writes one key until nothing more is wanted of it. There is one flush per key at most.
async fn flush<W: Wish>(shared: Arc<Shared<W>>, key: Key) {
    let idle = Idle { shared: &shared, key: &key };
    let mut pause = PAUSE_MIN;
    while let Some(mut open) = shared.open(&key) {
        let turn = shared.turns.acquire().await.expect("nobody closes it");
        let result = shared.write(&key, &mut open).await;
        drop(turn);
        match result {
            Err(error) if error.is_retryable() => {
                shared.metrics.store_retries.with_label_values(&[error.word()]).inc();
                if pause == PAUSE_MIN {
                    tracing::warn!(%key, %error, "a write waits for the store");
                }
                if let Some(entry) = shared.lock().get_mut(&key) {
                    entry.known = None;
                }
                tokio::select! {
                    () = tokio::time::sleep(jittered(pause)) => {}
                    () = shared.stop.cancelled() => {
                        let stopped = RegisterError::Stopped { key: key.to_string() };
                        shared.close(&key, open.number, Err(stopped));
                    }
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
            result => {
                if let Err(error) = &result {
                    shared.metrics.store_refusals.inc();
                    tracing::warn!(%key, %error, "a record is not written");
                }
                if shared.close(&key, open.number, result) {
                    break;
                }
                pause = PAUSE_MIN;
            }
        }
    }
    drop(idle);
}

/// Half to all of `pause`, so that writers do not come back in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Lets the next wish start a flush again, also after a panic in this one.
struct Idle<'a, W: Wish> {
    shared: &'a Shared<W>,
    key: &'a Key,
}

impl<W: Wish> Drop for Idle<'_, W> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.shared.metrics.task_restarts.with_label_values(&["flush"]).inc();
        if let Some(entry) = self.shared.lock().get_mut(self.key) {
            entry.is_flushing = false;
        }
    }
}
