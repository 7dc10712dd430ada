//! The router's metrics: names, and handles that are resolved when a table is compiled.
//! Knows nothing of requests: whoever serves them counts.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use portolan_discovery::model::{ListenerName, ServiceName};
use prometheus::core::{Collector, Desc};
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, proto,
};

use crate::cache::{CacheFamilies, CacheMetrics};
use crate::cell::TableCell;
use crate::clock;
use crate::queue::QueueMetrics;

/// Requests answered, by service and class of the status.
pub const REQUESTS: &str = "portolan_router_requests_total";
/// From the end of the request's head to the end of the response, by service.
pub const REQUEST_DURATION: &str = "portolan_router_request_duration_seconds";
/// Requests, tunnels and TCP connections under way, by service.
pub const IN_FLIGHT: &str = "portolan_router_in_flight";
/// Attempts after the first, by service.
pub const RETRIES: &str = "portolan_router_retries_total";
/// Requests that wait for an instance with room, by service, where there is a limit.
pub const QUEUE_LENGTH: &str = "portolan_router_queue_length";
/// Requests that got no room, by service and cause: the line was `full`, or the wait ended in a
/// `timeout`.
pub const QUEUE_SHED: &str = "portolan_router_queue_shed_total";
/// Connections to instances that did not open, by service.
pub const CONNECT_FAILURES: &str = "portolan_router_connect_failures_total";
/// Times that an instance was left alone for its errors, by service.
pub const EJECTIONS: &str = "portolan_router_ejections_total";
/// Instances that are left alone now, by service.
pub const EJECTED: &str = "portolan_router_ejected";
/// TCP connections relayed, by service.
pub const TCP_CONNECTIONS: &str = "portolan_router_tcp_connections_total";
/// Bytes of TCP connections, by service and direction as the client sees it.
pub const TCP_BYTES: &str = "portolan_router_tcp_bytes_total";
/// Sessions of UDP begun, by service.
pub const UDP_SESSIONS: &str = "portolan_router_udp_sessions_total";
/// Datagrams passed on, by service and direction as the client sees it.
pub const UDP_DATAGRAMS: &str = "portolan_router_udp_datagrams_total";
/// Bytes of datagrams passed on, by service and direction as the client sees it.
pub const UDP_BYTES: &str = "portolan_router_udp_bytes_total";
/// Datagrams of sessions that the kernel had no room for, by service.
pub const UDP_DROPPED: &str = "portolan_router_udp_dropped_total";
/// Client connections that are open, by listener. Of a UDP listener: sessions.
pub const CONNECTIONS_OPEN: &str = "portolan_router_connections_open";
/// Client connections accepted, by listener. Of a UDP listener: sessions begun.
pub const CONNECTIONS: &str = "portolan_router_connections_total";
/// Virtual addresses, by state: `listening` or `failed`.
pub const VIRTUAL_LISTENERS: &str = "portolan_router_virtual_listeners";
/// Times that a virtual address could not be bound.
pub const VIRTUAL_FAILURES: &str = "portolan_router_virtual_bind_failures_total";
/// Answers of the router itself, by reason.
pub const LOCAL_REPLIES: &str = "portolan_router_local_replies_total";
/// The revision of the newest published table.
pub const TABLE_REVISION: &str = "portolan_router_table_revision";
/// Since the store last confirmed the table.
pub const TABLE_AGE: &str = "portolan_table_age_seconds";
/// The time one compile took.
pub const COMPILE_DURATION: &str = "portolan_router_compile_duration_seconds";
/// Tables published.
pub const PUBLISHES: &str = "portolan_router_publishes_total";
/// Old tables that a worker had to free, because it had not moved on for very many of them.
pub const TABLES_FREED_BY_WORKERS: &str = "portolan_router_tables_freed_by_workers_total";
/// Records that could not be read or used.
pub const REJECTED: &str = "portolan_router_rejected_records_total";
/// Services whose instances are used although they are down.
pub const PANIC_SERVICES: &str = "portolan_router_panic_services";
/// Services that keep instances because nothing explains why all are gone.
pub const KEPT_SERVICES: &str = "portolan_router_kept_services";

/// The classes of a status, as the label `code` has them.
pub const CODE_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Bounds of [`REQUEST_DURATION`], in seconds.
pub const REQUEST_BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Bounds of [`COMPILE_DURATION`], in seconds.
pub const COMPILE_BUCKETS: [f64; 8] = [0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.01, 0.1, 1.0];

const FULL: &str = "full";
const TIMEOUT: &str = "timeout";
const RECEIVED: &str = "received";
const SENT: &str = "sent";

/// The handles of one service. Living handles of a service that is gone count for nobody.
#[derive(Debug)]
pub struct ServiceMetrics {
    /// Requests answered, by class of the status from 1xx to 5xx.
    pub requests: [IntCounter; 5],
    /// Seconds per request.
    pub duration: Histogram,
    /// Attempts after the first.
    pub retries: IntCounter,
    /// Connections to instances that did not open.
    pub connect_failures: IntCounter,
    /// Times that an instance was left alone for its errors.
    pub ejections: IntCounter,
    /// TCP connections relayed.
    pub tcp_connections: IntCounter,
    /// Bytes from clients to instances.
    pub tcp_bytes_received: IntCounter,
    /// Bytes from instances to clients.
    pub tcp_bytes_sent: IntCounter,
    in_flight: IntGauge,
    ejected: IntGauge,
    /// Few services have any.
    udp: OnceLock<Arc<UdpMetrics>>,
    udp_families: UdpFamilies,
    /// Likewise.
    cache: OnceLock<Arc<CacheMetrics>>,
    cache_families: CacheFamilies,
}

/// The handles of one service that datagrams go to.
#[derive(Debug)]
pub struct UdpMetrics {
    /// Sessions begun.
    pub sessions: IntCounter,
    /// Datagrams that the kernel had no room for.
    pub dropped: IntCounter,
    received: [IntCounter; 2],
    sent: [IntCounter; 2],
}

impl UdpMetrics {
    /// Counts one datagram of a client that was passed on.
    pub fn received(&self, bytes: usize) {
        let [datagrams, all_bytes] = &self.received;
        datagrams.inc();
        all_bytes.inc_by(bytes as u64);
    }

    /// Counts one datagram for a client.
    pub fn sent(&self, bytes: usize) {
        let [datagrams, all_bytes] = &self.sent;
        datagrams.inc();
        all_bytes.inc_by(bytes as u64);
    }
}

#[derive(Debug, Clone)]
struct UdpFamilies(Arc<[IntCounterVec; 4]>);

impl UdpFamilies {
    fn register(maker: &Maker<'_>) -> Result<Self, prometheus::Error> {
        let both = &["service", "direction"];
        Ok(Self(Arc::new([
            maker.counters(UDP_SESSIONS, "Sessions of UDP begun.", &["service"])?,
            maker.counters(UDP_DROPPED, "Datagrams without room.", &["service"])?,
            maker.counters(UDP_DATAGRAMS, "Datagrams passed on.", both)?,
            maker.counters(UDP_BYTES, "Bytes of datagrams passed on.", both)?,
        ])))
    }

    fn service(&self, name: &str) -> UdpMetrics {
        let [sessions, dropped, datagrams, bytes] = &*self.0;
        let both = |direction| {
            [datagrams, bytes].map(|family| family.with_label_values(&[name, direction]))
        };
        UdpMetrics {
            sessions: sessions.with_label_values(&[name]),
            dropped: dropped.with_label_values(&[name]),
            received: both(RECEIVED),
            sent: both(SENT),
        }
    }

    fn forget(&self, name: &str) {
        let [sessions, dropped, datagrams, bytes] = &*self.0;
        // A series that is not there is the state wanted.
        for family in [sessions, dropped] {
            let _ = family.remove_label_values(&[name]);
        }
        for (family, direction) in
            [(datagrams, RECEIVED), (datagrams, SENT), (bytes, RECEIVED), (bytes, SENT)]
        {
            let _ = family.remove_label_values(&[name, direction]);
        }
    }
}

impl ServiceMetrics {
    /// The handles for datagrams, made with the first session.
    pub(crate) fn udp(&self, service: &ServiceName) -> Arc<UdpMetrics> {
        let make = || Arc::new(self.udp_families.service(service.as_str()));
        Arc::clone(self.udp.get_or_init(make))
    }

    /// The handles for the cache, made with the first request of a route that has one.
    pub(crate) fn cache(&self, service: &ServiceName) -> Arc<CacheMetrics> {
        Arc::clone(self.cache.get_or_init(|| self.cache_families.service(service)))
    }

    /// Counts one answered request; a status out of range counts as 5xx.
    pub fn answered(&self, status: u16, seconds: f64) {
        let class = match status {
            100..=599 => usize::from(status / 100) - 1,
            _ => CODE_CLASSES.len() - 1,
        };
        self.requests[class].inc();
        self.duration.observe(seconds);
    }
}

/// The handles of one listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    /// Client connections that are open.
    pub open: IntGauge,
    /// Client connections accepted.
    pub accepted: IntCounter,
}

impl ListenerMetrics {
    /// Handles that nobody reads.
    pub(crate) fn detached() -> Self {
        let open = IntGauge::new(CONNECTIONS_OPEN, "nobody's").expect("a constant name");
        let accepted = IntCounter::new(CONNECTIONS, "nobody's").expect("a constant name");
        Self { open, accepted }
    }
}

/// The handles of all virtual addresses.
#[derive(Debug, Clone)]
pub(crate) struct VirtualMetrics {
    pub(crate) listening: IntGauge,
    pub(crate) failed: IntGauge,
    pub(crate) failures: IntCounter,
}

impl VirtualMetrics {
    fn register(maker: &Maker<'_>) -> Result<Self, prometheus::Error> {
        let listeners = maker.gauges(VIRTUAL_LISTENERS, "Virtual addresses.", &["state"])?;
        let failures = "Times that a virtual address could not be bound.";
        Ok(Self {
            listening: listeners.with_label_values(&["listening"]),
            failed: listeners.with_label_values(&["failed"]),
            failures: maker.counter(VIRTUAL_FAILURES, failures)?,
        })
    }
}

/// All metrics of the router.
#[derive(Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    retries: IntCounterVec,
    connect_failures: IntCounterVec,
    ejections: IntCounterVec,
    tcp_connections: IntCounterVec,
    tcp_bytes: IntCounterVec,
    udp: UdpFamilies,
    pub(crate) virtuals: VirtualMetrics,
    cache: CacheFamilies,
    queue_shed: IntCounterVec,
    live: LiveCollector,
    connections_open: IntGaugeVec,
    connections: IntCounterVec,
    local_replies: IntCounterVec,
    /// The revision of the newest published table.
    pub table_revision: IntGauge,
    /// Since the store last confirmed the table; whoever follows the store sets it.
    pub table_age: Gauge,
    /// Seconds per compile; whoever compiles has the clock.
    pub compile_duration: Histogram,
    /// Tables published.
    pub publishes: IntCounter,
    /// Old tables that a worker had to free: milliseconds that its requests waited.
    pub tables_freed_by_workers: IntCounter,
    /// Records that could not be read or used.
    pub rejected: IntCounter,
    /// Services whose instances are used although they are down.
    pub panic_services: IntGauge,
    /// Services that keep instances because nothing explains why all are gone.
    pub kept_services: IntGauge,
}

impl Metrics {
    /// Makes every metric and registers it.
    pub fn register(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let maker = Maker(registry);
        let live = LiveCollector::new()?;
        registry.register(Box::new(live.clone()))?;
        Ok(Arc::new(Self {
            requests: maker.counters(REQUESTS, "Requests answered.", &["service", "code"])?,
            duration: maker.durations()?,
            retries: maker.counters(RETRIES, "Attempts after the first.", &["service"])?,
            connect_failures: maker.counters(
                CONNECT_FAILURES,
                "Connections to instances that did not open.",
                &["service"],
            )?,
            ejections: maker.counters(
                EJECTIONS,
                "Times that an instance was left alone for its errors.",
                &["service"],
            )?,
            tcp_connections: maker.counters(
                TCP_CONNECTIONS,
                "TCP connections relayed.",
                &["service"],
            )?,
            udp: UdpFamilies::register(&maker)?,
            virtuals: VirtualMetrics::register(&maker)?,
            cache: CacheFamilies::register(registry)?,
            tcp_bytes: maker.counters(
                TCP_BYTES,
                "Bytes of TCP connections, as the client sees them.",
                &["service", "direction"],
            )?,
            queue_shed: maker.counters(
                QUEUE_SHED,
                "Requests that got no room at an instance.",
                &["service", "cause"],
            )?,
            live,
            connections_open: maker.gauges(
                CONNECTIONS_OPEN,
                "Client connections that are open.",
                &["listener"],
            )?,
            connections: maker.counters(
                CONNECTIONS,
                "Client connections accepted.",
                &["listener"],
            )?,
            local_replies: maker.counters(
                LOCAL_REPLIES,
                "Answers of the router itself.",
                &["reason"],
            )?,
            table_revision: maker.gauge(TABLE_REVISION, "Revision of the newest table.")?,
            table_age: maker.seconds(TABLE_AGE, "Since the store last confirmed the table.")?,
            compile_duration: maker.compiles()?,
            publishes: maker.counter(PUBLISHES, "Tables published.")?,
            tables_freed_by_workers: maker
                .counter(TABLES_FREED_BY_WORKERS, "Old tables that a worker had to free.")?,
            rejected: maker.counter(REJECTED, "Records that could not be read or used.")?,
            panic_services: maker
                .gauge(PANIC_SERVICES, "Services whose instances are used although down.")?,
            kept_services: maker
                .gauge(KEPT_SERVICES, "Services that keep instances of an earlier table.")?,
        }))
    }

    /// The handles of a listener; for the start, not for each connection.
    pub fn listener(&self, listener: &ListenerName) -> ListenerMetrics {
        let labels = &[listener.as_str()];
        ListenerMetrics {
            open: self.connections_open.with_label_values(labels),
            accepted: self.connections.with_label_values(labels),
        }
    }

    /// The counter of one reason; for the start, not for each reply. Reasons are constants.
    pub fn local_replies(&self, reason: &'static str) -> IntCounter {
        self.local_replies.with_label_values(&[reason])
    }

    pub(crate) fn service(&self, service: &ServiceName) -> Arc<ServiceMetrics> {
        let name = service.as_str();
        Arc::new(ServiceMetrics {
            requests: CODE_CLASSES.map(|code| self.requests.with_label_values(&[name, code])),
            duration: self.duration.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            connect_failures: self.connect_failures.with_label_values(&[name]),
            ejections: self.ejections.with_label_values(&[name]),
            tcp_connections: self.tcp_connections.with_label_values(&[name]),
            tcp_bytes_received: self.tcp_bytes.with_label_values(&[name, RECEIVED]),
            tcp_bytes_sent: self.tcp_bytes.with_label_values(&[name, SENT]),
            in_flight: self.live.in_flight.with_label_values(&[name]),
            ejected: self.live.ejected.with_label_values(&[name]),
            udp: OnceLock::new(),
            udp_families: self.udp.clone(),
            cache: OnceLock::new(),
            cache_families: self.cache.clone(),
        })
    }

    /// The handles of a line; for the compile that makes it.
    pub(crate) fn queue(&self, service: &ServiceName) -> QueueMetrics {
        let shed = |cause| self.queue_shed.with_label_values(&[service.as_str(), cause]);
        QueueMetrics { full: shed(FULL), timeout: shed(TIMEOUT) }
    }

    /// Takes the series of a service that is gone off the page.
    pub(crate) fn forget(&self, service: &ServiceName) {
        let name = service.as_str();
        // A series that is not there is the state wanted.
        for code in CODE_CLASSES {
            let _ = self.requests.remove_label_values(&[name, code]);
        }
        for direction in [RECEIVED, SENT] {
            let _ = self.tcp_bytes.remove_label_values(&[name, direction]);
        }
        let _ = self.duration.remove_label_values(&[name]);
        self.udp.forget(name);
        self.cache.forget(name);
        for cause in [FULL, TIMEOUT] {
            let _ = self.queue_shed.remove_label_values(&[name, cause]);
        }
        for gauges in [&self.live.in_flight, &self.live.ejected, &self.live.queues] {
            let _ = gauges.remove_label_values(&[name]);
        }
        let counters =
            [&self.retries, &self.connect_failures, &self.ejections, &self.tcp_connections];
        for counters in counters {
            let _ = counters.remove_label_values(&[name]);
        }
    }

    /// Lets a scrape read what is in flight and ejected from the table of `cell`.
    pub(crate) fn watch(&self, cell: Weak<TableCell>) {
        *self.live.source.lock().unwrap_or_else(PoisonError::into_inner) = cell;
    }
}

/// Reads live state when it is asked for: a gauge per request would be one more cache
/// line that all workers write.
#[derive(Debug, Clone)]
struct LiveCollector {
    in_flight: IntGaugeVec,
    ejected: IntGaugeVec,
    /// How many wait; of services that have a line.
    queues: IntGaugeVec,
    source: Arc<Mutex<Weak<TableCell>>>,
}

impl LiveCollector {
    fn new() -> Result<Self, prometheus::Error> {
        let gauges = |name, help| IntGaugeVec::new(Opts::new(name, help), &["service"]);
        Ok(Self {
            in_flight: gauges(IN_FLIGHT, "Requests, tunnels and TCP connections under way.")?,
            ejected: gauges(EJECTED, "Instances that are left alone for their errors now.")?,
            queues: gauges(QUEUE_LENGTH, "Requests that wait for an instance with room.")?,
            source: Arc::default(),
        })
    }
}

impl Collector for LiveCollector {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.in_flight.desc();
        all.extend(self.ejected.desc());
        all.extend(self.queues.desc());
        all
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let now_us = clock::now_us();
        let cell = self.source.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(cell) = cell {
            for service in cell.current().services() {
                let sum: u64 = service.members().map(|member| member.endpoint.in_flight()).sum();
                service.metrics().in_flight.set(i64::try_from(sum).unwrap_or(i64::MAX));
                let ejected = service.ejected(now_us);
                service.metrics().ejected.set(i64::try_from(ejected).unwrap_or(i64::MAX));
                if let Some(queue) = service.queue() {
                    let waiting = self.queues.with_label_values(&[service.name().as_str()]);
                    waiting.set(queue.waiting().into());
                }
            }
        }
        let mut all = self.in_flight.collect();
        all.extend(self.ejected.collect());
        all.extend(self.queues.collect());
        all
    }
}

struct Maker<'r>(&'r Registry);

impl Maker<'_> {
    fn keep<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.keep(IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.keep(IntGauge::new(name, help)?)
    }

    fn seconds(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.keep(Gauge::new(name, help)?)
    }

    fn durations(&self) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(REQUEST_DURATION, "Seconds per request.")
            .buckets(REQUEST_BUCKETS.to_vec());
        self.keep(HistogramVec::new(opts, &["service"])?)
    }

    fn compiles(&self) -> Result<Histogram, prometheus::Error> {
        let opts = HistogramOpts::new(COMPILE_DURATION, "Seconds per compile of the table.")
            .buckets(COMPILE_BUCKETS.to_vec());
        self.keep(Histogram::with_opts(opts)?)
    }
}
