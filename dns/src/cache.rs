//! What upstreams said, for as long as they said it holds; bounded by bytes.
//!
//! Shared by all workers: a few shards, each behind a lock that is held for one look-up.
//! Eviction is CLOCK: a hand goes round and takes what was not asked for since it last came.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::metrics::CacheMetrics;
use crate::wire::{NAME_BYTES_MAX, Query, Reply, flag};

/// So many that two workers seldom meet, so few that each has room for large replies.
const SHARDS: usize = 16;
/// What an entry takes beside its reply and its key: the slot, the map's place, the pointers.
const ENTRY_BYTES: usize = 160;
/// A larger reply is passed on and not kept: few of them would drive out thousands of others.
const REPLY_BYTES_MAX: usize = 16 << 10;
/// Name, type, class and the flags that change the answer.
const KEY_BYTES_MAX: usize = NAME_BYTES_MAX + 5;

/// What a reply is kept under: name in lower case, type, class, and whether the records of
/// DNSSEC are wanted (DO) and its checks are off (CD).
#[derive(Clone)]
pub(crate) struct Key {
    length: usize,
    bytes: [u8; KEY_BYTES_MAX],
}

impl Key {
    pub(crate) fn of(query: &Query<'_>) -> Self {
        let mut key = Self { length: 0, bytes: [0; KEY_BYTES_MAX] };
        key.push(query.name.wire());
        key.push(&query.qtype.to_be_bytes());
        key.push(&query.qclass.to_be_bytes());
        let dnssec_ok = query.edns.is_some_and(|edns| edns.dnssec_ok);
        let checking_disabled = query.flags & flag::CD != 0;
        key.push(&[u8::from(dnssec_ok) | u8::from(checking_disabled) << 1]);
        key
    }

    fn push(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        self.bytes[self.length..end].copy_from_slice(part);
        self.length = end;
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(crate) fn dnssec_ok(&self) -> bool {
        self.as_bytes().last().is_some_and(|flags| flags & 1 != 0)
    }

    pub(crate) fn checking_disabled(&self) -> bool {
        self.as_bytes().last().is_some_and(|flags| flags & 2 != 0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

/// How much and how long is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheLimits {
    pub(crate) bytes_max: usize,
    pub(crate) ttl_max: Duration,
    pub(crate) negative_ttl_max: Duration,
}

/// Replies of upstreams, by question.
#[derive(Debug)]
pub struct Cache {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    limits: CacheLimits,
    metrics: CacheMetrics,
}

#[derive(Debug)]
struct Slot {
    key: Arc<[u8]>,
    reply: Arc<Reply>,
    stored: Duration,
    until: Duration,
    bytes: usize,
    asked_again: AtomicBool,
}

#[derive(Debug, Default)]
struct Shard {
    places: HashMap<Arc<[u8]>, usize, RandomState>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    hand: usize,
    bytes: usize,
}

impl Cache {
    /// A cache that keeps at most `bytes_max`, that nothing counts: for tests and benches.
    pub fn unobserved(bytes_max: usize) -> Self {
        let limits = CacheLimits {
            bytes_max,
            ttl_max: crate::config::Limits::TTL_MAX,
            negative_ttl_max: crate::config::Limits::NEGATIVE_TTL_MAX,
        };
        Self::new(limits, CacheMetrics::unregistered())
    }

    pub(crate) fn new(limits: CacheLimits, metrics: CacheMetrics) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            limits,
            metrics,
        }
    }

    /// The reply to `key` and its age in seconds.
    pub(crate) fn find(&self, key: &Key, now: Duration) -> Option<(Arc<Reply>, u32)> {
        let found = self.peek(key, now);
        match found {
            Some(_) => self.metrics.hits.inc(),
            None => self.metrics.misses.inc(),
        }
        found
    }

    /// The same without a count.
    pub(crate) fn peek(&self, key: &Key, now: Duration) -> Option<(Arc<Reply>, u32)> {
        self.shard(key.as_bytes()).find(key.as_bytes(), now)
    }

    /// Keeps `reply` for as long as it holds, if it is to be kept at all.
    pub(crate) fn insert(&self, key: &Key, reply: &Arc<Reply>, now: Duration) {
        let Some(lifetime) = reply.lifetime() else { return };
        let negative_max =
            if reply.is_negative() { self.limits.negative_ttl_max } else { self.limits.ttl_max };
        let bytes = ENTRY_BYTES + key.as_bytes().len() + reply.bytes();
        let bytes_max = self.limits.bytes_max / SHARDS;
        if bytes > REPLY_BYTES_MAX.min(bytes_max) {
            return;
        }
        let slot = Slot {
            key: key.as_bytes().into(),
            reply: reply.clone(),
            stored: now,
            until: now.saturating_add(lifetime.min(negative_max)),
            bytes,
            asked_again: AtomicBool::new(false),
        };
        let mut shard = self.shard(key.as_bytes());
        let before = (shard.bytes, shard.places.len());
        let evicted = shard.insert(slot, bytes_max, now);
        let after = (shard.bytes, shard.places.len());
        drop(shard);
        self.metrics.evictions.inc_by(evicted);
        self.metrics.bytes.add(difference(before.0, after.0));
        self.metrics.entries.add(difference(before.1, after.1));
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        // The map within takes its places from the low bits of a hash of its own.
        let index = self.hasher.hash_one(key) >> 32;
        let shard = &self.shards[usize::try_from(index).unwrap_or(0) % SHARDS];
        // A panic under the lock leaves a shard that at worst counts bytes wrongly.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn difference(before: usize, after: usize) -> i64 {
    i64::try_from(after).unwrap_or(0) - i64::try_from(before).unwrap_or(0)
}

impl Shard {
    fn find(&self, key: &[u8], now: Duration) -> Option<(Arc<Reply>, u32)> {
        let slot = self.slots.get(*self.places.get(key)?)?.as_ref()?;
        if now >= slot.until {
            return None;
        }
        slot.asked_again.store(true, Ordering::Relaxed);
        let age = now.saturating_sub(slot.stored).as_secs();
        Some((slot.reply.clone(), u32::try_from(age).unwrap_or(u32::MAX)))
    }

    /// Puts `slot` in and returns how many others had to go for it.
    fn insert(&mut self, slot: Slot, bytes_max: usize, now: Duration) -> u64 {
        if let Some(place) = self.places.get(&slot.key).copied() {
            self.remove(place);
        }
        let mut evicted = 0;
        while self.bytes + slot.bytes > bytes_max && !self.places.is_empty() {
            evicted += u64::from(self.evict(now));
        }
        self.bytes += slot.bytes;
        let key = slot.key.clone();
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place] = Some(slot);
                place
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        };
        self.places.insert(key, place);
        evicted
    }

    /// Moves the hand one place on; whether an entry went that still held.
    fn evict(&mut self, now: Duration) -> bool {
        let place = self.hand;
        self.hand = (self.hand + 1) % self.slots.len().max(1);
        let Some(Some(slot)) = self.slots.get_mut(place) else { return false };
        let holds = now < slot.until;
        if holds && std::mem::take(slot.asked_again.get_mut()) {
            return false;
        }
        self.remove(place);
        holds
    }

    fn remove(&mut self, place: usize) {
        let Some(slot) = self.slots.get_mut(place).and_then(Option::take) else { return };
        self.bytes -= slot.bytes;
        self.places.remove(&slot.key);
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests;
