//! What is counted of the cache: by service what became of requests, and the store itself.

use std::sync::Arc;

use portolan_discovery::model::ServiceName;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::policy::NotKept;

/// Requests of routes with a cache, by service and result.
pub const CACHE_REQUESTS: &str = "portolan_router_cache_requests_total";
/// Requests that waited for the answer to another one like them, by service.
pub const CACHE_WAITS: &str = "portolan_router_cache_waits_total";
/// Answers that were kept.
pub const CACHE_STORED: &str = "portolan_router_cache_stored_total";
/// Answers that were not kept although their requests allowed it, by reason.
pub const CACHE_NOT_STORED: &str = "portolan_router_cache_not_stored_total";
/// Answers that made room for others.
pub const CACHE_EVICTED: &str = "portolan_router_cache_evicted_total";
/// Answers that a request which changes something made void.
pub const CACHE_INVALIDATED: &str = "portolan_router_cache_invalidated_total";
/// Bytes in use, what is being written down included.
pub const CACHE_BYTES: &str = "portolan_router_cache_bytes";
/// Answers that are kept.
pub const CACHE_ENTRIES: &str = "portolan_router_cache_entries";

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its answer was there and fresh.
    Hit,
    /// Its answer was there, and served although it was stale.
    Stale,
    /// An instance said that what was there still holds.
    Revalidated,
    /// An instance answered, and the answer was written down if it might be.
    Miss,
    /// An instance answered, because such answers are not kept.
    Pass,
    /// It had nothing to do with the cache.
    Bypass,
}

impl Outcome {
    const ALL: [Self; 6] =
        [Self::Hit, Self::Stale, Self::Revalidated, Self::Miss, Self::Pass, Self::Bypass];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Pass => "pass",
            Self::Bypass => "bypass",
        }
    }
}

/// The handles of one service.
#[derive(Debug)]
pub(crate) struct CacheMetrics {
    requests: [IntCounter; Outcome::ALL.len()],
    pub(crate) waits: IntCounter,
}

impl CacheMetrics {
    /// Counts one request.
    pub(crate) fn count(&self, outcome: Outcome) {
        self.requests[outcome as usize].inc();
    }
}

/// The families of all services.
#[derive(Debug, Clone)]
pub(crate) struct CacheFamilies {
    requests: IntCounterVec,
    waits: IntCounterVec,
}

impl CacheFamilies {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = Opts::new(CACHE_REQUESTS, "Requests of routes with a cache.");
        let waits = Opts::new(CACHE_WAITS, "Requests that waited for the answer to another.");
        let families = Self {
            requests: IntCounterVec::new(requests, &["service", "result"])?,
            waits: IntCounterVec::new(waits, &["service"])?,
        };
        registry.register(Box::new(families.requests.clone()))?;
        registry.register(Box::new(families.waits.clone()))?;
        Ok(families)
    }

    pub(crate) fn service(&self, service: &ServiceName) -> Arc<CacheMetrics> {
        let name = service.as_str();
        Arc::new(CacheMetrics {
            requests: Outcome::ALL
                .map(|outcome| self.requests.with_label_values(&[name, outcome.as_str()])),
            waits: self.waits.with_label_values(&[name]),
        })
    }

    /// Takes the series of a service that is gone off the page.
    pub(crate) fn forget(&self, name: &str) {
        // A series that is not there is the state wanted.
        for outcome in Outcome::ALL {
            let _ = self.requests.remove_label_values(&[name, outcome.as_str()]);
        }
        let _ = self.waits.remove_label_values(&[name]);
    }
}

/// The handles of the store.
#[derive(Debug)]
pub(crate) struct StoreMetrics {
    pub(crate) stored: IntCounter,
    not_stored: [IntCounter; NotKept::ALL.len()],
    pub(crate) evicted: IntCounter,
    pub(crate) invalidated: IntCounter,
    pub(crate) bytes: IntGauge,
    pub(crate) answers: IntGauge,
}

impl StoreMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name, help| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let not_stored = Opts::new(CACHE_NOT_STORED, "Answers not kept.");
        let not_stored = IntCounterVec::new(not_stored, &["reason"])?;
        registry.register(Box::new(not_stored.clone()))?;
        Ok(Self {
            stored: counter(CACHE_STORED, "Answers kept.")?,
            not_stored: NotKept::ALL.map(|why| not_stored.with_label_values(&[why.as_str()])),
            evicted: counter(CACHE_EVICTED, "Answers that made room for others.")?,
            invalidated: counter(CACHE_INVALIDATED, "Answers made void by a change.")?,
            bytes: gauge(CACHE_BYTES, "Bytes in use by the cache.")?,
            answers: gauge(CACHE_ENTRIES, "Answers that are kept.")?,
        })
    }

    /// Counts one answer that was not kept.
    pub(crate) fn not_stored(&self, why: NotKept) {
        self.not_stored[why as usize].inc();
    }
}
