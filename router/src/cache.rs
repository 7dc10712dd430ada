//! The response cache, shared by all workers (RFC 9111): what may be kept and served, the store,
//! and who fetches what. Knows no connections: whoever relays an answer gives it here, and whoever
//! serves one takes it from here.

mod control;
mod date;
mod fill;
mod key;
mod metrics;
mod object;
mod policy;
mod recorder;
mod shard;
mod store;
mod vary;

pub use metrics::{
    CACHE_BYTES, CACHE_ENTRIES, CACHE_EVICTED, CACHE_INVALIDATED, CACHE_NOT_STORED, CACHE_REQUESTS,
    CACHE_STORED, CACHE_WAITS,
};
pub use store::{Cache, Clear};

pub(crate) use fill::Permit;
pub(crate) use key::{Came, Key, beside};
pub(crate) use metrics::{CacheFamilies, CacheMetrics, Outcome, StoreMetrics};
pub(crate) use object::{Asking, Object};
pub(crate) use policy::{Bypass, NotKept, Question, question};
pub(crate) use recorder::{Recorder, Recording, arrival, keep_refreshed};
pub(crate) use shard::Mark;
pub(crate) use store::{Look, Looking};
