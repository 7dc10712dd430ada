//! The store of all workers: shards with a lock each, held for as long as it takes to look or to
//! link; what leaves is freed without it. All of it, and what is being written down for it, has
//! one limit in bytes.
//!
//! It also knows which requests are under way whose answer may be kept: one for each key at a time,
//! the others wait for it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portolan_discovery::model::RouteName;
use tokio::sync::watch;

use super::fill::{Fill, Permit};
use super::key::{Key, has_host, has_path};
use super::metrics::StoreMetrics;
use super::object::Object;
use super::policy::{NotKept, Question, Verdict};
use super::shard::{Gone, Mark, Shard, Variant, bytes_of_new};
use super::vary::Vary;
use crate::table::Headers;

/// So many workers seldom meet at one lock.
const SHARDS: usize = 32;
/// Requests that wait for one other; more go to an instance.
pub(crate) const WAITERS_MAX: usize = 1_024;
/// A request that has been under way for longer is not waited for: another one takes its place. Its
/// client may be slow, and on purpose.
const SLOW_AFTER: Duration = Duration::from_secs(10);
/// Of the limit so much may be written down at once, so that slow answers do not empty the store.
const RECORDING_PART: usize = 4;

/// Which answers are cleared; of several conditions all must hold, and none takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clear {
    /// Those of this route, and of what it was before it was changed.
    pub route: Option<RouteName>,
    /// Those for this host, whatever scheme and port.
    pub host: Option<String>,
    /// Those for this path, whatever the query.
    pub path: Option<String>,
}

impl Clear {
    fn takes_uri(&self, uri: &str) -> bool {
        self.host.as_ref().is_none_or(|host| has_host(uri, host))
            && self.path.as_ref().is_none_or(|path| has_path(uri, path))
    }

    fn takes(&self, route: &RouteName) -> bool {
        self.route.as_ref().is_none_or(|name| name == route)
    }
}

/// The kept answers of a router.
#[derive(Debug)]
pub struct Cache {
    shards: Box<[Mutex<Part>]>,
    hasher: RandomState,
    bytes_max: usize,
    /// Bytes of what is kept and of what is being written down.
    used: AtomicUsize,
    /// The latter alone.
    recording: AtomicUsize,
    /// Which shard makes room next.
    turn: AtomicUsize,
    pub(crate) metrics: StoreMetrics,
}

#[derive(Debug, Default)]
struct Part {
    shard: Shard,
    /// What is under way, by resource. As many as there are requests.
    fills: HashMap<Arc<str>, Vec<Arc<Fill>>>,
}

/// What is done with a request.
#[derive(Debug)]
pub(crate) enum Look {
    /// This is its answer.
    Hit(Arc<Object>),
    /// This is its answer although it is stale; if there is a permit, it is to be fetched again.
    Stale(Arc<Object>, Option<Permit>),
    /// It goes to an instance, and its answer is kept if it may be. What there is may be found to
    /// be still good, or be served if no instance answers.
    Fetch(Permit, Option<Arc<Object>>),
    /// Another one like it is under way.
    Wait(watch::Receiver<()>),
    /// It goes to an instance, and its answer is not kept.
    Pass(Option<Arc<Object>>),
}

/// How a request looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looking<'a> {
    pub(crate) question: &'a Question,
    pub(crate) now: Instant,
    /// Its answer may be kept.
    pub(crate) may_fetch: bool,
    /// It may wait for another one.
    pub(crate) may_wait: bool,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize, metrics: StoreMetrics) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            bytes_max,
            used: AtomicUsize::new(0),
            recording: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            metrics,
        })
    }

    /// Whether it may hold anything.
    pub(crate) fn is_on(&self) -> bool {
        self.bytes_max > 0
    }

    /// Bytes in use, of what is kept and what is being written down.
    pub fn bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Answers that are kept.
    pub fn answers(&self) -> usize {
        self.shards.iter().map(|part| lock(part).shard.answers()).sum()
    }

    /// What is done with a request.
    pub(crate) fn look(
        self: &Arc<Self>,
        key: Key,
        headers: &dyn Headers,
        looking: &Looking<'_>,
    ) -> Look {
        let Looking { question, now, .. } = *looking;
        let part = &mut *lock(self.part(&key.uri));
        let known = part.shard.find(&key, headers).map(|variant| Arc::clone(&variant.object));
        let verdict = known.as_ref().map(|object| object.life().judge(object.age(now), question));
        let mark = part.shard.mark(&key, now);
        match (known, verdict) {
            (Some(object), Some(Verdict::Fresh)) => Look::Hit(object),
            (Some(object), Some(Verdict::Stale)) => {
                let may_fetch = looking.may_fetch && mark != Some(Mark::Fails);
                let token = self.token(part, &key, headers);
                let is_under_way = fill_of(part, &key, token).is_some();
                let permit =
                    (may_fetch && !is_under_way).then(|| self.begin(part, key, token, now));
                Look::Stale(object, permit)
            }
            (Some(object), _)
                if mark == Some(Mark::Fails)
                    && object.life().serves_errors(object.age(now), question) =>
            {
                Look::Stale(object, None)
            }
            (known, _) if !looking.may_fetch || mark.is_some() => Look::Pass(known),
            (known, _) => {
                let token = self.token(part, &key, headers);
                match fill_of(part, &key, token) {
                    Some(fill) if now.saturating_duration_since(fill.begun) < SLOW_AFTER => {
                        let has_room = fill.waiters() < WAITERS_MAX;
                        match looking.may_wait && has_room {
                            true => Look::Wait(fill.done()),
                            false => Look::Pass(known),
                        }
                    }
                    // One whose client is slow, or whose instance hangs, does not hold up the rest.
                    Some(slow) => {
                        slow.outdate();
                        Look::Fetch(self.begin(part, key, token, now), known)
                    }
                    None => Look::Fetch(self.begin(part, key, token, now), known),
                }
            }
        }
    }

    /// Tells requests apart that are answered alike, as far as is known.
    fn token(&self, part: &Part, key: &Key, headers: &dyn Headers) -> u64 {
        let vary = part.shard.vary(key).and_then(|vary| vary.values_of(headers));
        self.hasher.hash_one((&key.facet, vary.as_ref().map(Vary::values)))
    }

    fn begin(self: &Arc<Self>, part: &mut Part, key: Key, token: u64, now: Instant) -> Permit {
        let fill = Arc::new(Fill::new(token, now));
        part.fills.entry(Arc::clone(&key.uri)).or_default().push(Arc::clone(&fill));
        Permit::new(Arc::clone(self), key, fill)
    }

    /// A request that was under way is no more.
    pub(super) fn end(&self, key: &Key, fill: &Arc<Fill>) {
        let part = &mut *lock(self.part(&key.uri));
        if let Some(fills) = part.fills.get_mut(&key.uri) {
            fills.retain(|other| !Arc::ptr_eq(other, fill));
            if fills.is_empty() {
                part.fills.remove(&key.uri);
            }
        }
    }

    /// Keeps an answer of which `reserved` bytes are counted already, unless it was cleared while
    /// it was under way.
    pub(super) fn put(
        &self,
        key: &Key,
        fill: &Fill,
        variant: Variant,
        mut reserved: Reserved,
    ) -> Result<(), NotKept> {
        // As if the resource were new: whether it is may change until the lock is taken.
        if !reserved.grow_to(variant.bytes() + bytes_of_new(key)) {
            return Err(NotKept::NoRoom);
        }
        let gone = {
            let part = &mut *lock(self.part(&key.uri));
            if fill.is_void() {
                return Err(NotKept::Cleared);
            }
            let Some((added, gone)) = part.shard.put(key, variant) else {
                return Err(NotKept::Cleared);
            };
            reserved.spend(added);
            gone
        };
        self.let_go(&gone);
        self.metrics.stored.inc();
        self.metrics.answers.inc();
        self.metrics.bytes.set(self.bytes() as i64);
        Ok(())
    }

    /// Notes what is known of a key, if there is room for that.
    pub(super) fn set_mark(self: &Arc<Self>, key: &Key, mark: Mark, until: Instant, now: Instant) {
        let mut reserved = Reserved::new(self);
        if reserved.grow_to(bytes_of_new(key)) {
            let added = lock(self.part(&key.uri)).shard.set_mark(key, mark, until, now);
            reserved.spend(added);
        }
    }

    /// Takes an answer out that is not to be served again.
    pub(super) fn forget(&self, key: &Key, object: &Arc<Object>) {
        let is_it = |one: &Variant| Arc::ptr_eq(&one.object, object);
        let gone = lock(self.part(&key.uri)).shard.remove(&key.uri, is_it);
        self.let_go(&gone);
    }

    /// A resource has changed (RFC 9111 §4.4): nothing that was known of it counts, nor what is
    /// under way.
    pub(crate) fn invalidate(&self, uri: &str) {
        let gone = {
            let part = &mut *lock(self.part(uri));
            part.fills.get(uri).into_iter().flatten().for_each(|fill| fill.void());
            part.shard.remove(uri, |_| true)
        };
        self.metrics.invalidated.inc_by(gone.variants.len() as u64);
        self.let_go(&gone);
    }

    /// Clears answers and returns how many there were; what is under way is not kept either.
    pub fn clear(&self, what: &Clear) -> usize {
        let mut cleared = 0;
        for part in &self.shards {
            let mut all_gone = Vec::new();
            {
                let part = &mut *lock(part);
                let fills = part.fills.iter().filter(|(uri, _)| what.takes_uri(uri));
                // Whose route it is nobody has noted: one too many is fetched again.
                fills.flat_map(|(_, fills)| fills).for_each(|fill| fill.void());
                let uris: Vec<_> = part.shard.uris().filter(|uri| what.takes_uri(uri)).collect();
                for uri in uris.into_iter().cloned().collect::<Vec<_>>() {
                    all_gone.push(part.shard.remove(&uri, |one| what.takes(&one.route)));
                }
            }
            for gone in all_gone {
                cleared += gone.variants.len();
                self.let_go(&gone);
            }
        }
        cleared
    }

    fn part(&self, uri: &str) -> &Mutex<Part> {
        let hash = self.hasher.hash_one(uri);
        &self.shards[(hash % SHARDS as u64) as usize]
    }

    /// Counts what left. Call it without a lock.
    fn let_go(&self, gone: &Gone) {
        self.used.fetch_sub(gone.bytes, Ordering::Relaxed);
        self.metrics.answers.sub(gone.variants.len() as i64);
        self.metrics.bytes.set(self.bytes() as i64);
    }

    /// Makes room: takes out one resource of the next shard that can spare one. False if there is
    /// nothing left.
    fn evict(&self) -> bool {
        // Twice around: what the first hand spares the second one takes.
        for _ in 0..2 * SHARDS {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let gone = lock(&self.shards[turn]).shard.evict();
            if let Some(gone) = gone {
                self.metrics.evicted.inc_by(gone.variants.len() as u64);
                self.let_go(&gone);
                return true;
            }
        }
        false
    }

    /// Counts `bytes` more as used, if that can be.
    fn take(&self, bytes: usize) -> bool {
        if bytes > self.bytes_max {
            return false;
        }
        loop {
            let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
            if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok() {
                return true;
            }
            if !self.evict() {
                return false;
            }
        }
    }
}

/// Bytes that are counted for what is being written down, until it is kept or thrown away.
#[derive(Debug)]
pub(super) struct Reserved {
    cache: Arc<Cache>,
    bytes: usize,
}

impl Reserved {
    pub(super) fn new(cache: &Arc<Cache>) -> Self {
        Self { cache: Arc::clone(cache), bytes: 0 }
    }

    /// Counts as much as `bytes` in all; false if there is no room for it.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return true;
        };
        let Cache { recording, bytes_max, .. } = &*self.cache;
        let max = bytes_max / RECORDING_PART;
        let fits = |now: usize| now.checked_add(more).filter(|sum| *sum <= max);
        if recording.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return false;
        }
        if !self.cache.take(more) {
            recording.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes = bytes;
        true
    }

    /// So many of the bytes are kept now, and the rest is free.
    fn spend(mut self, kept: usize) {
        debug_assert!(kept <= self.bytes, "what is kept was counted before");
        self.cache.recording.fetch_sub(self.bytes, Ordering::Relaxed);
        self.cache.used.fetch_sub(self.bytes.saturating_sub(kept), Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.cache.recording.fetch_sub(self.bytes, Ordering::Relaxed);
        self.cache.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn fill_of<'p>(part: &'p Part, key: &Key, token: u64) -> Option<&'p Arc<Fill>> {
    part.fills.get(&key.uri)?.iter().find(|fill| fill.is_for(token))
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    // A panic while it was held is a bug of ours; what it holds is whole between two steps.
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
