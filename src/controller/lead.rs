//! Who leads: one controller of the cluster at a time, by a lease on one key.
//!
//! The revision of that key is the fence of everything the leader writes: once somebody else
//! has written the key, no write of the former leader is done, however late it arrives.

use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::record::encode;
use portolan_discovery::model::{Key, LeaseId, NodeName, Revision};
use portolan_discovery::store::{Compare, Op, Store, StoreError, Txn};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;

/// The longest wait before somebody without a leader tries to lead.
const CAMPAIGN_EVERY: Duration = Duration::from_millis(500);
/// A call that takes longer than this has failed, as far as leading is concerned.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a leader that stops tries to end its lease, so that the next need not wait.
const FAREWELL: Duration = Duration::from_secs(1);

/// The record of the controller that leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its node.
    pub node: NodeName,
    /// Since when it leads, in milliseconds of Unix time.
    pub since_ms: u64,
}

/// A time of leading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term {
    /// The revision of the leader's key.
    pub(super) revision: Revision,
    lease: LeaseId,
}

impl Term {
    /// Holds as long as nobody else leads.
    pub(super) fn fence(&self) -> Compare {
        Compare::Unchanged(Key::Leader.to_string(), self.revision)
    }
}

/// Campaigns, leads and campaigns again until `cancel`.
pub(super) async fn run(
    store: Arc<dyn Store>,
    node: NodeName,
    ttl: Duration,
    terms: watch::Sender<Option<Term>>,
    cancel: CancellationToken,
) {
    let mut campaign = Campaign { store, node, ttl, is_first: true };
    loop {
        let term = tokio::select! {
            term = campaign.win() => term,
            () = cancel.cancelled() => return,
        };
        tracing::info!(node = %campaign.node, revision = %term.revision, "this controller leads");
        terms.send_replace(Some(term));
        let stopped = tokio::select! {
            () = campaign.hold(term) => false,
            () = cancel.cancelled() => true,
        };
        terms.send_replace(None);
        tracing::info!(node = %campaign.node, "this controller leads no more");
        let farewell = campaign.store.lease_revoke(term.lease);
        if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, farewell).await {
            tracing::debug!(%error, "the leader's lease ends by itself");
        }
        if stopped {
            return;
        }
    }
}

struct Campaign {
    store: Arc<dyn Store>,
    node: NodeName,
    ttl: Duration,
    /// Whether this process has never led. Only then is a record of the same node known to be
    /// of an earlier life, and taken over at once instead of after its lease.
    is_first: bool,
}

impl Campaign {
    async fn win(&mut self) -> Term {
        loop {
            match self.try_to_win().await {
                Ok(Some(term)) => {
                    self.is_first = false;
                    return term;
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "nobody can lead without the store"),
            }
            tokio::time::sleep(CAMPAIGN_EVERY.min(self.ttl / 3)).await;
        }
    }

    async fn try_to_win(&self) -> Result<Option<Term>, StoreError> {
        let key = Key::Leader.to_string();
        let guard = match in_time(self.store.get(&key)).await? {
            None => Compare::Absent(key.clone()),
            Some(kv) if self.is_first && self.is_ours(&kv.value) => {
                Compare::Unchanged(key.clone(), kv.modified)
            }
            Some(_) => return Ok(None),
        };
        let lease = in_time(self.store.lease_grant(self.ttl)).await?;
        let leader = Leader { node: self.node.clone(), since_ms: clock::unix_ms() };
        let put = Op::Put { key: key.clone(), value: encode(&leader), lease: Some(lease) };
        let outcome = in_time(self.store.txn(Txn::of(vec![put]).when(guard))).await;
        let won = match outcome {
            Ok(outcome) => outcome.done.then_some(outcome.revision),
            // Whether it was done is not known, but the lease tells.
            Err(_) => {
                let kv = in_time(self.store.get(&key)).await?;
                kv.filter(|kv| kv.lease == Some(lease)).map(|kv| kv.modified)
            }
        };
        if won.is_none() {
            in_time(self.store.lease_revoke(lease)).await?;
        }
        Ok(won.map(|revision| Term { revision, lease }))
    }

    fn is_ours(&self, value: &[u8]) -> bool {
        serde_json::from_slice::<Leader>(value).is_ok_and(|leader| leader.node == self.node)
    }

    /// Keeps the lease alive; returns when it has ended, may have ended, or somebody else leads.
    async fn hold(&self, term: Term) {
        let mut sure_until = Instant::now() + self.ttl;
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            let asked = Instant::now();
            match self.is_still_ours(term).await {
                Ok(true) => sure_until = asked + self.ttl,
                Ok(false) | Err(StoreError::NoLease(_)) => return,
                Err(error) => {
                    tracing::warn!(%error, "the leader's lease is not kept alive");
                    if Instant::now() >= sure_until {
                        return;
                    }
                }
            }
        }
    }

    async fn is_still_ours(&self, term: Term) -> Result<bool, StoreError> {
        in_time(self.store.lease_keepalive(term.lease)).await?;
        let kv = in_time(self.store.get(&Key::Leader.to_string())).await?;
        Ok(kv.is_some_and(|kv| kv.modified == term.revision))
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {CALL_TIMEOUT:?}"))),
    }
}
