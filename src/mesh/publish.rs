//! Compiles each new state and hands it to router and resolver.

use std::sync::Arc;

use portolan_discovery::snapshot::{Rejected, Snapshot};
use portolan_dns::{Dns, Zone, ZoneConfig};
use portolan_router::{Router, Table};

use super::certify::Certifier;
use crate::clock;

/// Hands each new state to router and resolver.
pub(super) struct Publisher {
    router: Arc<Router>,
    certifier: Arc<Certifier>,
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
        resolver: Option<Resolver>,
    ) -> Self {
        Self { router, certifier, resolver }
    }

    /// Counts records that could not be read.
    pub(super) fn count_rejected(&self, records: &[Rejected]) {
        self.router.metrics().rejected.inc_by(records.len() as u64);
        self.certifier.count_rejected(records);
    }

    /// Compiles and publishes. Every worker has the new state within a turn of its loop.
    pub(super) fn publish(&self, snapshot: &Snapshot) {
        // First: a new route may be for a host of a new certificate.
        self.certifier.follow(snapshot);
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
