//! Compiles each new state and hands it to router and resolver.

use std::sync::Arc;

use portolan_discovery::snapshot::{Rejected, Snapshot};
use portolan_dns::{Dns, Zone, ZoneConfig};
use portolan_router::{Router, Table, VIRTUAL_RETRY_MIN};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::certify::Certifier;
use super::tickets::TicketKeeper;
use crate::clock;

/// Hands each new state to router and resolver.
pub(super) struct Publisher {
    router: Arc<Router>,
    certifier: Arc<Certifier>,
    ticket_keeper: Arc<TicketKeeper>,
    resolver: Option<Resolver>,
}

/// The resolver, and how its zones are made.
pub(super) struct Resolver {
    pub(super) dns: Arc<Dns>,
    pub(super) config: ZoneConfig,
}

impl Publisher {
    pub(super) fn new(
        router: Arc<Router>,
        certifier: Arc<Certifier>,
        ticket_keeper: Arc<TicketKeeper>,
        resolver: Option<Resolver>,
    ) -> Self {
        Self { router, certifier, ticket_keeper, resolver }
    }

    /// Listens where the services of `snapshot` are reached, which router and resolver have.
    pub(super) fn begin(&self, snapshot: &Snapshot) {
        self.router.listen_virtual(snapshot.virtual_addrs(), clock::now());
    }

    /// Tries virtual addresses again that could not be bound, until told to stop.
    pub(super) async fn retry_virtual(self: Arc<Self>, cancel: CancellationToken) {
        let retry = async {
            let mut tick = tokio::time::interval(VIRTUAL_RETRY_MIN);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                self.router.retry_virtual(clock::now());
            }
        };
        tokio::select! {
            () = retry => {}
            () = cancel.cancelled() => {}
        }
    }

    /// Counts records that could not be read.
    pub(super) fn count_rejected(&self, records: &[Rejected]) {
        self.router.metrics().rejected.inc_by(records.len() as u64);
        self.certifier.count_rejected(records);
        self.ticket_keeper.count_rejected(records);
    }

    /// Compiles and publishes. Every worker has the new state within a turn of its loop.
    pub(super) fn publish(&self, snapshot: &Snapshot) {
        // First: a new route may be for a host of a new certificate.
        self.certifier.follow(snapshot);
        self.ticket_keeper.follow(snapshot);
        let previous = self.router.table();
        let metrics = self.router.metrics();
        let began = clock::now();
        let compiled = Table::compile(snapshot, Some(&previous), metrics);
        metrics.compile_duration.observe(began.elapsed().as_secs_f64());
        for conflict in &compiled.report.conflicts {
            let (winner, loser) = (&conflict.winner, &conflict.loser);
            tracing::warn!(%winner, %loser, "two routes take the same requests");
        }
        self.router.publish(Arc::new(compiled.table));
        // Behind the table, which has the service by now; before the zone, which leads there.
        self.router.listen_virtual(snapshot.virtual_addrs(), clock::now());
        if let Some(resolver) = &self.resolver {
            let previous = resolver.dns.zone();
            resolver.dns.publish(Zone::compile(snapshot, Some(&previous), &resolver.config));
        }
        tracing::debug!(revision = %snapshot.revision, "published");
    }
}
