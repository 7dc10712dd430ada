//! Tells the cluster what this router has acknowledged: which revision all its workers serve,
//! and what is still under way on draining instances. Processes that it has replaced and that
//! still have connections are a part of it.

use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::{
    InstanceId, Key, LeaseId, NodeName, Revision, RouterAck, ServiceName, record,
};
use portolan_discovery::store::{Op, StoreError, Txn};
use portolan_router::Router;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::live::{Counts as Draining, Live, OpenedStore, Predecessors};

/// At most one acknowledgement in this time, however fast the table changes.
const ACK_EVERY: Duration = Duration::from_millis(10);
/// How often the counts of draining instances are looked at.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// Workers that need longer than this to move on are reported.
const WORKER_PATIENCE: Duration = Duration::from_secs(1);
/// A process that was replaced and needs longer than this is not waited for.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(5);
/// The wait after a write that failed.
const RETRY: Duration = Duration::from_millis(200);

/// Acknowledges until told to stop.
pub(super) async fn run(
    node: NodeName,
    store: OpenedStore,
    live: Arc<Live>,
    router: Arc<Router>,
    predecessors: Arc<Predecessors>,
    lease: watch::Receiver<Option<LeaseId>>,
    cancel: CancellationToken,
) {
    let acker = Acker { node, store, router, predecessors, lease };
    tokio::select! {
        () = acker.run(live) => {}
        () = cancel.cancelled() => {}
    }
}

struct Acker {
    node: NodeName,
    store: OpenedStore,
    router: Arc<Router>,
    predecessors: Arc<Predecessors>,
    lease: watch::Receiver<Option<LeaseId>>,
}

impl Acker {
    async fn run(&self, live: Arc<Live>) {
        let mut snapshots = live.follow();
        let mut lease = self.lease.clone();
        let mut said: Option<(LeaseId, RouterAck)> = None;
        loop {
            let revision = snapshots.borrow_and_update().revision;
            let held = *lease.borrow_and_update();
            if let Some(held) = held {
                self.workers_serve(revision).await;
                let ack = self.ack(revision);
                if is_news(said.as_ref(), held, &ack) {
                    match self.write(held, &ack).await {
                        Ok(()) => said = Some((held, ack)),
                        Err(error) => {
                            tracing::debug!(%error, "an acknowledgement waits for the store");
                            tokio::time::sleep(RETRY).await;
                            continue;
                        }
                    }
                }
            }
            let drains = said.as_ref().is_some_and(|(_, ack)| in_flight(&ack.draining) > 0);
            tokio::time::sleep(ACK_EVERY).await;
            tokio::select! {
                _ = snapshots.changed() => {}
                _ = lease.changed() => {}
                () = tokio::time::sleep(DRAIN_POLL), if drains => {}
            }
        }
    }

    async fn workers_serve(&self, revision: Revision) {
        while tokio::time::timeout(WORKER_PATIENCE, self.router.wait_acked(revision)).await.is_err()
        {
            tracing::warn!(%revision, "a data worker does not move to the new table");
        }
        self.predecessors.serve(revision, PREDECESSOR_PATIENCE).await;
    }

    fn ack(&self, revision: Revision) -> RouterAck {
        let mut draining = Draining::new();
        for (service, id, count) in self.router.table().draining() {
            draining.entry(service.clone()).or_default().insert(id.clone(), count);
        }
        self.predecessors.add_draining(&mut draining);
        RouterAck { router: self.node.clone(), revision, draining }
    }

    async fn write(&self, lease: LeaseId, ack: &RouterAck) -> Result<(), StoreError> {
        let key = Key::Ack(self.node.clone()).to_string();
        let put = Op::Put { key, value: record::encode(ack), lease: Some(lease) };
        self.store.now()?.txn(Txn::of(vec![put])).await.map(|_| ())
    }
}

fn in_flight(draining: &Draining) -> u64 {
    draining.values().flat_map(|ids| ids.values()).sum()
}

/// Whether anyone could wait for this: another revision, another lease, another set of draining
/// instances, or one of them that came to rest. Counts on their way down are not written.
fn is_news(said: Option<&(LeaseId, RouterAck)>, lease: LeaseId, ack: &RouterAck) -> bool {
    let Some((said_under, said)) = said else { return true };
    let at_rest = |draining: &Draining| -> Vec<(ServiceName, InstanceId, bool)> {
        draining
            .iter()
            .flat_map(|(service, ids)| {
                ids.iter().map(|(id, count)| (service.clone(), id.clone(), *count == 0))
            })
            .collect()
    };
    *said_under != lease
        || said.revision != ack.revision
        || at_rest(&said.draining) != at_rest(&ack.draining)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ack(revision: u64, counts: &[(&str, u64)]) -> RouterAck {
        let ids = counts
            .iter()
            .map(|(id, count)| (InstanceId::parse(id).unwrap(), *count))
            .collect::<BTreeMap<_, _>>();
        RouterAck {
            router: NodeName::parse("n1").unwrap(),
            revision: Revision(revision),
            draining: [(ServiceName::parse("web").unwrap(), ids)].into(),
        }
    }

    #[test]
    fn only_what_someone_waits_for_is_written() {
        let said = (LeaseId(1), ack(5, &[("a", 3)]));
        assert!(is_news(None, LeaseId(1), &said.1));
        assert!(!is_news(Some(&said), LeaseId(1), &ack(5, &[("a", 2)])));
        assert!(is_news(Some(&said), LeaseId(1), &ack(5, &[("a", 0)])));
        assert!(is_news(Some(&said), LeaseId(1), &ack(6, &[("a", 3)])));
        assert!(is_news(Some(&said), LeaseId(2), &ack(5, &[("a", 3)])));
        assert!(is_news(Some(&said), LeaseId(1), &ack(5, &[("a", 3), ("b", 1)])));
    }
}
