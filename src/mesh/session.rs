//! This node's membership: a lease kept alive and the node's record under it.

use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::{Key, LeaseId, Node, record};
use portolan_discovery::store::{Op, Store, StoreError, Txn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::live::OpenedStore;

/// A node that was not heard of for this long is suspect.
pub(super) const NODE_TTL: Duration = Duration::from_secs(10);
/// Two of these may be lost without harm.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
/// The wait before a lease is asked for again.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps the node in the cluster until told to stop; tells the lease to those who write under it.
/// The lease lives on: whoever goes on with the node takes its record over, and [`farewell`] ends
/// it when nobody does.
pub(super) async fn run(
    store: OpenedStore,
    node: Node,
    lease: Arc<watch::Sender<Option<LeaseId>>>,
    cancel: CancellationToken,
) {
    let endless = async {
        loop {
            let opened = store.ready().await;
            let Err(error) = keep(opened.as_ref(), &node, &lease).await;
            lease.send_replace(None);
            tracing::warn!(%error, "the node's lease is lost; asking for another");
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = endless => {}
        () = cancel.cancelled() => {}
    }
}

/// Takes the node out of the cluster.
pub(super) async fn farewell(store: &OpenedStore, lease: Option<LeaseId>) {
    if let (Some(lease), Ok(store)) = (lease, store.now())
        && let Err(error) = store.lease_revoke(lease).await
    {
        tracing::debug!(%error, "the lease ends by itself");
    }
}

async fn keep(
    store: &dyn Store,
    node: &Node,
    lease: &watch::Sender<Option<LeaseId>>,
) -> Result<std::convert::Infallible, StoreError> {
    let id = store.lease_grant(NODE_TTL).await?;
    let key = Key::Node(node.name.clone()).to_string();
    let value = record::encode(node);
    store.txn(Txn::of(vec![Op::Put { key, value, lease: Some(id) }])).await?;
    lease.send_replace(Some(id));
    loop {
        tokio::time::sleep(KEEPALIVE_EVERY).await;
        store.lease_keepalive(id).await?;
    }
}
