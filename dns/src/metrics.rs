//! The resolver's metrics: names, bounded labels, handles that cost one atomic addition.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Error, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::answer::{Note, Source, Unserved};
use crate::forward::Failure;
use crate::wire::{Rcode, rtype};

const QUERIES: &str = "portolan_dns_queries_total";
const UNSERVED: &str = "portolan_dns_unserved_total";
const CACHE_HITS: &str = "portolan_dns_cache_hits_total";
const CACHE_MISSES: &str = "portolan_dns_cache_misses_total";
const CACHE_EVICTIONS: &str = "portolan_dns_cache_evictions_total";
const CACHE_ENTRIES: &str = "portolan_dns_cache_entries";
const CACHE_BYTES: &str = "portolan_dns_cache_bytes";
const UPSTREAM_FAILURES: &str = "portolan_dns_upstream_failures_total";
const UPSTREAM_SECONDS: &str = "portolan_dns_upstream_seconds";
const UPSTREAM_HEDGES: &str = "portolan_dns_upstream_hedges_total";
const UPSTREAMS: &str = "portolan_dns_upstreams";
const COALESCED: &str = "portolan_dns_coalesced_total";
const TCP_CONNECTIONS: &str = "portolan_dns_tcp_connections";
const RESTARTS: &str = "portolan_dns_worker_restarts_total";
const ZONE_REVISION: &str = "portolan_dns_zone_revision";

const SECONDS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];

/// The types with a label of their own.
const TYPES: [(u16, &str); 12] = [
    (rtype::A, "A"),
    (rtype::NS, "NS"),
    (rtype::CNAME, "CNAME"),
    (rtype::SOA, "SOA"),
    (rtype::PTR, "PTR"),
    (rtype::MX, "MX"),
    (rtype::TXT, "TXT"),
    (rtype::AAAA, "AAAA"),
    (rtype::SRV, "SRV"),
    (rtype::HTTPS, "HTTPS"),
    (rtype::ANY, "ANY"),
    // Type 0 is reserved: it stands for a question that could not be read.
    (0, "none"),
];
const RCODES: [Rcode; 7] = [
    Rcode::NOERROR,
    Rcode::FORMERR,
    Rcode::SERVFAIL,
    Rcode::NXDOMAIN,
    Rcode::NOTIMP,
    Rcode::REFUSED,
    Rcode::BADVERS,
];
const SOURCES: [(Source, &str); 4] = [
    (Source::Zone, "zone"),
    (Source::Cache, "cache"),
    (Source::Upstream, "upstream"),
    (Source::None, "none"),
];

/// What the cache counts.
#[derive(Debug, Clone)]
pub(crate) struct CacheMetrics {
    pub(crate) hits: IntCounter,
    pub(crate) misses: IntCounter,
    pub(crate) evictions: IntCounter,
    pub(crate) entries: IntGauge,
    pub(crate) bytes: IntGauge,
}

impl CacheMetrics {
    /// Counters that no page shows.
    pub(crate) fn unregistered() -> Self {
        Self {
            hits: counter(CACHE_HITS, "Questions that the cache had an answer to."),
            misses: counter(CACHE_MISSES, "Questions that the cache had no answer to."),
            evictions: counter(CACHE_EVICTIONS, "Entries that went to make room for others."),
            entries: gauge(CACHE_ENTRIES, "Entries in the cache."),
            bytes: gauge(CACHE_BYTES, "Memory of the entries in the cache."),
        }
    }
}

/// The handles of all metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    queries: IntCounterVec,
    /// Counters by type, code and source, made when they are first needed.
    by_note: Vec<OnceLock<IntCounter>>,
    unserved: IntCounterVec,
    upstream_failures: IntCounterVec,
    upstream_seconds: Histogram,
    pub(crate) cache: CacheMetrics,
    pub(crate) hedges: IntCounter,
    pub(crate) upstreams: IntGauge,
    pub(crate) coalesced: IntCounter,
    pub(crate) tcp_connections: IntGauge,
    pub(crate) restarts: IntCounter,
    pub(crate) zone_revision: IntGauge,
}

impl Metrics {
    /// Makes the metrics and puts them on the page of `registry`.
    pub(crate) fn register(registry: &Registry) -> Result<Self, Error> {
        let metrics = Self {
            queries: counters(QUERIES, "Queries answered.", &["type", "rcode", "source"]),
            by_note: (0..(TYPES.len() + 1) * (RCODES.len() + 1) * SOURCES.len())
                .map(|_| OnceLock::new())
                .collect(),
            unserved: counters(UNSERVED, "Queries dropped or turned down.", &["reason"]),
            upstream_failures: counters(
                UPSTREAM_FAILURES,
                "Tries of an upstream that came to nothing.",
                &["reason"],
            ),
            upstream_seconds: Histogram::with_opts(
                HistogramOpts::new(UPSTREAM_SECONDS, "Time from a question to its answer.")
                    .buckets(SECONDS.to_vec()),
            )?,
            cache: CacheMetrics::unregistered(),
            hedges: counter(UPSTREAM_HEDGES, "Questions put to one more upstream for its silence."),
            upstreams: gauge(UPSTREAMS, "Upstreams in use."),
            coalesced: counter(COALESCED, "Questions that joined one already under way."),
            tcp_connections: gauge(TCP_CONNECTIONS, "Open TCP connections of clients."),
            restarts: counter(RESTARTS, "Threads that panicked and were restarted."),
            zone_revision: gauge(ZONE_REVISION, "Revision of the zone being served."),
        };
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.queries.clone()),
            Box::new(self.unserved.clone()),
            Box::new(self.upstream_failures.clone()),
            Box::new(self.upstream_seconds.clone()),
            Box::new(self.cache.hits.clone()),
            Box::new(self.cache.misses.clone()),
            Box::new(self.cache.evictions.clone()),
            Box::new(self.cache.entries.clone()),
            Box::new(self.cache.bytes.clone()),
            Box::new(self.hedges.clone()),
            Box::new(self.upstreams.clone()),
            Box::new(self.coalesced.clone()),
            Box::new(self.tcp_connections.clone()),
            Box::new(self.restarts.clone()),
            Box::new(self.zone_revision.clone()),
        ]
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, note: Note) {
        let qtype = TYPES.iter().position(|(number, _)| *number == note.qtype);
        let rcode = RCODES.iter().position(|rcode| *rcode == note.rcode);
        let source = SOURCES.iter().position(|(source, _)| *source == note.source).unwrap_or(0);
        let place = (qtype.unwrap_or(TYPES.len()) * (RCODES.len() + 1)
            + rcode.unwrap_or(RCODES.len()))
            * SOURCES.len()
            + source;
        let make = || {
            let qtype = qtype.map_or("other", |at| TYPES[at].1);
            self.queries.with_label_values(&[qtype, note.rcode.word(), SOURCES[source].1])
        };
        self.by_note[place].get_or_init(make).inc();
    }

    /// Counts a query that was dropped or turned down.
    pub(crate) fn unserved(&self, why: Unserved) {
        let reason = match why {
            Unserved::Short => "short",
            Unserved::Response => "response",
            Unserved::Network => "network",
            Unserved::Class => "class",
            Unserved::Transfer => "transfer",
            Unserved::Recursion => "recursion",
            Unserved::Busy => "busy",
        };
        self.unserved.with_label_values(&[reason]).inc();
    }

    /// Counts an upstream's answer.
    pub(crate) fn upstream_answered(&self, after: Duration) {
        self.upstream_seconds.observe(after.as_secs_f64());
    }

    /// Counts a try that came to nothing.
    pub(crate) fn upstream_failed(&self, failure: Failure) {
        self.upstream_failures.with_label_values(&[failure.word()]).inc();
    }
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("the names and texts here are valid")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("the names and texts here are valid")
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("the names and texts here are valid")
}
