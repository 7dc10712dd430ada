//! Compiles each new state and hands it to router and resolver.

use std::sync::Arc;

use portolan_discovery::snapshot::Snapshot;
use portolan_dns::{Dns, Zone, ZoneConfig};
use portolan_router::{Router, Table};

use crate::clock;

/// Hands each new state to router and resolver.
pub(super) struct Publisher {
    router: Arc<Router>,
    resolver: Option<Resolver>,
}

/// The resolver, and how its zones are made.
pub(super) struct Resolver {
    pub(super) dns: Arc<Dns>,
    pub(super) config: ZoneConfig,
}

impl Publisher {
    pub(super) fn new(router: Arc<Router>, resolver: Option<Resolver>) -> Self {
        Self { router, resolver }
    }

    /// Counts records that could not be read.
    pub(super) fn count_rejected(&self, records: usize) {
        self.router.metrics().rejected.inc_by(records as u64);
    }

    /// Compiles and publishes. Every worker has the new state within a turn of its loop.
    pub(super) fn publish(&self, snapshot: &Snapshot) {
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
        if let Some(resolver) = &self.resolver {
            let previous = resolver.dns.zone();
            resolver.dns.publish(Zone::compile(snapshot, Some(&previous), &resolver.config));
        }
        tracing::debug!(revision = %snapshot.revision, "published");
    }
}
