//! What workers count beside requests: how requests ended badly, and what went wrong in the
//! router itself.

use std::sync::Arc;

use portolan_discovery::model::Coding;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::greet::Outcome;
use crate::h1::Reason;
use crate::h2::Flood;
use crate::metrics::Metrics;
use crate::mirror;
use crate::passthrough;
use crate::shed::Cause;
use crate::tls;

/// Requests, tunnels and TCP connections that ended otherwise than well, by reason and
/// termination code.
pub const TERMINATIONS: &str = "portolan_router_terminations_total";
/// Connections that could not be accepted.
pub const ACCEPT_ERRORS: &str = "portolan_router_accept_errors_total";
/// Panics in workers and connections.
pub const WORKER_PANICS: &str = "portolan_router_worker_panics_total";
/// Uses of connections to instances, by kind: opened for the request, or kept from an earlier one.
pub const UPSTREAM_CONNECTIONS: &str = "portolan_router_upstream_connections_total";
/// Connections and requests that there was no room for, by cause.
pub const SHED: &str = "portolan_router_shed_total";
/// Connections of listeners that take PROXY headers, by what came of theirs.
pub const PROXY_HEADERS: &str = "portolan_router_proxy_headers_total";
/// Copies of requests for other services, by what became of them.
pub const MIRRORED: &str = "portolan_router_mirrored_total";
/// Handshakes of listeners with TLS, by what came of them.
pub const TLS_HANDSHAKES: &str = "portolan_router_tls_handshakes_total";
/// Connections of listeners that pass TLS on, by what came of their first message.
pub const TLS_PASSED_ON: &str = "portolan_router_tls_passed_on_total";
/// Responses that were compressed, by coding.
pub const COMPRESSED: &str = "portolan_router_compressed_total";
/// Bytes of content of such responses, by coding, as they came (`in`) and as they left (`out`).
pub const COMPRESSED_BYTES: &str = "portolan_router_compressed_bytes_total";
/// Responses that were not compressed because memory was scarce.
pub const NOT_COMPRESSED: &str = "portolan_router_not_compressed_total";
/// Connections of clients that spoke HTTP/2.
pub const H2_CONNECTIONS: &str = "portolan_router_h2_connections_total";
/// Requests of such connections, also those that were taken back before they were looked at.
pub const H2_STREAMS: &str = "portolan_router_h2_streams_total";
/// Streams of such connections that were reset, by who did it: the `client` or the `router`.
pub const H2_RESETS: &str = "portolan_router_h2_resets_total";
/// Goodbyes to such clients (GOAWAY), by the code of RFC 9113.
pub const H2_GOAWAYS: &str = "portolan_router_h2_goaways_total";
/// Such connections that were ended because their clients flooded them, by kind.
pub const H2_FLOODS: &str = "portolan_router_h2_floods_total";
/// Bytes of buffers that hold something under way, as of the last tenth of a second.
pub const BUFFER_BYTES: &str = "portolan_router_buffer_bytes";
/// Bytes of TCP connections and tunnels that passed without a copy, as of the last tenth of a
/// second.
pub const SPLICED_BYTES: &str = "portolan_router_spliced_bytes_total";

/// The handles of all workers.
#[derive(Debug)]
pub(crate) struct WorkerMetrics {
    terminations: Box<[IntCounter]>,
    local_replies: Box<[IntCounter]>,
    shed: [IntCounter; Cause::ALL.len()],
    greeted: [IntCounter; Outcome::ALL.len()],
    mirrored: [IntCounter; mirror::Outcome::ALL.len()],
    shaken: [IntCounter; tls::Outcome::ALL.len()],
    passed_on: [IntCounter; passthrough::Outcome::ALL.len()],
    pub(crate) h2: H2Metrics,
    pub(crate) compressed: [CompressMetrics; Coding::ALL.len()],
    pub(crate) not_compressed: IntCounter,
    pub(crate) buffer_bytes: IntGauge,
    pub(crate) spliced_bytes: IntCounter,
    pub(crate) accept_errors: IntCounter,
    pub(crate) panics: IntCounter,
    pub(crate) upstream_opened: IntCounter,
    pub(crate) upstream_reused: IntCounter,
}

/// The codes of GOAWAY, in the order of their numbers (RFC 9113 §7).
const H2_CODES: [&str; 14] = [
    "no_error",
    "protocol_error",
    "internal_error",
    "flow_control_error",
    "settings_timeout",
    "stream_closed",
    "frame_size_error",
    "refused_stream",
    "cancel",
    "compression_error",
    "connect_error",
    "enhance_your_calm",
    "inadequate_security",
    "http_1_1_required",
];

/// The handles of clients that speak HTTP/2.
#[derive(Debug)]
pub(crate) struct H2Metrics {
    pub(crate) connections: IntCounter,
    pub(crate) streams: IntCounter,
    pub(crate) resets_received: IntCounter,
    pub(crate) resets_sent: IntCounter,
    goaways: [IntCounter; H2_CODES.len()],
    floods: [IntCounter; Flood::ALL.len()],
}

impl H2Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let resets = counters(registry, H2_RESETS, "Streams reset.", &["by"])?;
        let goaways = counters(registry, H2_GOAWAYS, "Goodbyes to HTTP/2 clients.", &["code"])?;
        let floods = counters(registry, H2_FLOODS, "HTTP/2 connections that flooded.", &["kind"])?;
        Ok(Self {
            connections: counter(registry, H2_CONNECTIONS, "Connections that spoke HTTP/2.")?,
            streams: counter(registry, H2_STREAMS, "Requests of HTTP/2 connections.")?,
            resets_received: resets.with_label_values(&["client"]),
            resets_sent: resets.with_label_values(&["router"]),
            goaways: H2_CODES.map(|code| goaways.with_label_values(&[code])),
            floods: Flood::ALL.map(|flood| floods.with_label_values(&[flood.as_str()])),
        })
    }

    /// Counts one goodbye.
    pub(crate) fn goaway(&self, code: u32) {
        let index = usize::try_from(code).unwrap_or(usize::MAX);
        if let Some(counter) = self.goaways.get(index) {
            counter.inc();
        }
    }

    /// Counts one connection that was flooded.
    pub(crate) fn flooded(&self, flood: Flood) {
        self.floods[flood as usize].inc();
    }
}

/// The handles of one coding.
#[derive(Debug)]
pub(crate) struct CompressMetrics {
    pub(crate) responses: IntCounter,
    pub(crate) bytes_in: IntCounter,
    pub(crate) bytes_out: IntCounter,
}

impl CompressMetrics {
    fn register(registry: &Registry) -> Result<[Self; Coding::ALL.len()], prometheus::Error> {
        let responses = counters(registry, COMPRESSED, "Responses compressed.", &["coding"])?;
        let bytes = counters(
            registry,
            COMPRESSED_BYTES,
            "Bytes of compressed responses before and after.",
            &["coding", "side"],
        )?;
        // In the order of the variants, by which they are found.
        Ok(Coding::ALL.map(|coding| Self {
            responses: responses.with_label_values(&[coding.as_str()]),
            bytes_in: bytes.with_label_values(&[coding.as_str(), "in"]),
            bytes_out: bytes.with_label_values(&[coding.as_str(), "out"]),
        }))
    }
}

impl WorkerMetrics {
    pub(crate) fn register(
        registry: &Registry,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let terminations = counters(
            registry,
            TERMINATIONS,
            "Requests, tunnels and TCP connections that ended otherwise than well.",
            &["reason", "code"],
        )?;
        let upstreams = counters(
            registry,
            UPSTREAM_CONNECTIONS,
            "Uses of connections to instances.",
            &["kind"],
        )?;
        let shed = counters(registry, SHED, "Connections and requests without room.", &["cause"])?;
        let greeted = counters(
            registry,
            PROXY_HEADERS,
            "Connections by what came of their PROXY header.",
            &["outcome"],
        )?;
        let mirrored = counters(registry, MIRRORED, "Copies of requests.", &["outcome"])?;
        let passed_on = counters(
            registry,
            TLS_PASSED_ON,
            "TLS connections passed on by their first message.",
            &["outcome"],
        )?;
        let shaken = counters(registry, TLS_HANDSHAKES, "TLS handshakes.", &["outcome"])?;
        let buffer_bytes =
            IntGauge::new(BUFFER_BYTES, "Bytes of buffers that hold something under way.")?;
        registry.register(Box::new(buffer_bytes.clone()))?;
        let reasons = Reason::ALL.iter();
        Ok(Arc::new(Self {
            terminations: reasons
                .clone()
                .map(|reason| terminations.with_label_values(&[reason.as_str(), reason.code()]))
                .collect(),
            local_replies: reasons.map(|reason| metrics.local_replies(reason.as_str())).collect(),
            shed: Cause::ALL.map(|cause| shed.with_label_values(&[cause.as_str()])),
            greeted: Outcome::ALL.map(|outcome| greeted.with_label_values(&[outcome.as_str()])),
            mirrored: mirror::Outcome::ALL
                .map(|outcome| mirrored.with_label_values(&[outcome.as_str()])),
            shaken: tls::Outcome::ALL.map(|outcome| shaken.with_label_values(&[outcome.as_str()])),
            passed_on: passthrough::Outcome::ALL
                .map(|outcome| passed_on.with_label_values(&[outcome.as_str()])),
            h2: H2Metrics::register(registry)?,
            compressed: CompressMetrics::register(registry)?,
            not_compressed: counter(
                registry,
                NOT_COMPRESSED,
                "Responses not compressed because memory was scarce.",
            )?,
            buffer_bytes,
            spliced_bytes: counter(
                registry,
                SPLICED_BYTES,
                "Bytes of TCP connections and tunnels that passed without a copy.",
            )?,
            accept_errors: counter(registry, ACCEPT_ERRORS, "Connections not accepted.")?,
            panics: counter(registry, WORKER_PANICS, "Panics in workers and connections.")?,
            upstream_opened: upstreams.with_label_values(&["opened"]),
            upstream_reused: upstreams.with_label_values(&["reused"]),
        }))
    }

    /// Counts one request, tunnel or TCP connection that ended for `reason`.
    pub(crate) fn ended(&self, reason: Reason) {
        self.terminations[reason as usize].inc();
    }

    /// Counts one connection or request that there was no room for.
    pub(crate) fn shed(&self, cause: Cause) {
        self.shed[cause as usize].inc();
    }

    /// Counts one connection by what came of its PROXY header.
    pub(crate) fn greeted(&self, outcome: Outcome) {
        self.greeted[outcome as usize].inc();
    }

    /// Counts one copy of a request.
    pub(crate) fn mirrored(&self, outcome: mirror::Outcome) {
        self.mirrored[outcome as usize].inc();
    }

    /// Counts one handshake.
    pub(crate) fn shaken(&self, outcome: tls::Outcome) {
        self.shaken[outcome as usize].inc();
    }

    /// Counts one connection by its client's first message.
    pub(crate) fn passed_on(&self, outcome: passthrough::Outcome) {
        self.passed_on[outcome as usize].inc();
    }

    /// Counts one answer of the router itself.
    pub(crate) fn replied(&self, reason: Reason) {
        self.local_replies[reason as usize].inc();
    }
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}
