//! What the controller wants of this node, as the store says.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::record::decode;
use portolan_discovery::model::{Event, JobId, Key, Kv, NodeName, Placement};
use portolan_discovery::store::{Store, StoreError, WatchEvent};
use tokio::sync::watch;
use tokio::time::timeout;

/// The longest wait for one call of the store.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The pauses before the store is asked again: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Bounds one call: a store that does not answer is one that is away.
pub(super) async fn call<T>(
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {CALL_TIMEOUT:?}"))),
    }
}

/// All placements on the node at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Placements {
    /// Which store they are from.
    pub store: String,
    /// Those that can be read.
    pub by_job: BTreeMap<JobId, Placement>,
    /// Those that are there and cannot be read: their jobs stay as they are.
    pub unreadable: BTreeSet<JobId>,
}

impl Placements {
    fn of(store: String, kvs: Vec<Kv>) -> Self {
        let mut placements = Self { store, ..Self::default() };
        for kv in kvs {
            placements.take(Event::Put(kv));
        }
        placements
    }

    fn take(&mut self, event: Event) {
        let Ok(Key::Placement(_, job)) = event.key().parse() else { return };
        self.unreadable.remove(&job);
        match event {
            Event::Delete { .. } => drop(self.by_job.remove(&job)),
            Event::Put(kv) => match decode::<Placement>(&kv.value) {
                Ok(placement) if placement.job == job => {
                    self.by_job.insert(job, placement);
                }
                other => {
                    let cause = match other {
                        Ok(placement) => format!("it is of job {}", placement.job),
                        Err(error) => error.to_string(),
                    };
                    tracing::error!(%job, cause, "a placement cannot be read, the job stays as it is");
                    self.by_job.remove(&job);
                    self.unreadable.insert(job);
                }
            },
        }
    }
}

/// Keeps `to` at what the store says; says nothing while it is away. Never returns.
pub(super) async fn follow(
    store: &dyn Store,
    node: &NodeName,
    to: &watch::Sender<Option<Arc<Placements>>>,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let mut has_answered = false;
        let end = follow_once(store, node, |placements| {
            has_answered = true;
            to.send_replace(Some(Arc::new(placements.clone())));
        });
        let Err(error) = end.await;
        if has_answered {
            pause = PAUSE_MIN;
        } else if pause == PAUSE_MIN {
            tracing::warn!(%error, "placements cannot be read, jobs stay as they are");
        }
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn follow_once(
    store: &dyn Store,
    node: &NodeName,
    mut say: impl FnMut(&Placements),
) -> Result<std::convert::Infallible, StoreError> {
    let prefix = Key::placements_on(node);
    let identity = call(store.status()).await?.identity;
    let (kvs, revision) = call(store.snapshot(&prefix)).await?;
    let mut watch = call(store.watch(&prefix, revision)).await?;
    let mut placements = Placements::of(identity, kvs);
    say(&placements);
    loop {
        match watch.next().await {
            WatchEvent::Batch { events, .. } => {
                for event in events {
                    placements.take(event);
                }
                say(&placements);
            }
            WatchEvent::Progress(_) => {}
            WatchEvent::Compacted { .. } => {
                return Err(StoreError::Unavailable("the watch fell behind".to_owned()));
            }
            WatchEvent::Lost(cause) => return Err(StoreError::Unavailable(cause)),
        }
    }
}

#[cfg(test)]
mod tests {
    use portolan_discovery::model::Revision;

    use super::*;

    fn put(job: &str, value: &str) -> Event {
        Event::Put(Kv {
            key: format!("{}{job}", Key::placements_on(&"n1".parse().unwrap())),
            value: value.to_owned().into(),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        })
    }

    fn placement(job: &str) -> String {
        format!(
            r#"{{"job":"{job}","node":"n1","app":"a","process":"p","release":"v1","wanted":"run",
            "spec":{{"command":["x"],"drain_timeout_ms":1,"kill_timeout_ms":1}},"since_ms":0}}"#
        )
    }

    #[test]
    fn a_placement_that_cannot_be_read_is_not_one_that_is_gone() {
        let mut placements = Placements::default();
        placements.take(put("a", &placement("a")));
        assert!(placements.by_job.contains_key("a") && placements.unreadable.is_empty());
        for bad in ["", "{}", &placement("b")] {
            placements.take(put("a", bad));
            assert!(placements.by_job.is_empty() && placements.unreadable.contains("a"), "{bad}");
        }
        placements.take(put("a", &placement("a")));
        assert!(placements.by_job.contains_key("a") && placements.unreadable.is_empty());
        let Event::Put(kv) = put("a", "") else { unreachable!() };
        placements.take(Event::Delete { key: kv.key, revision: Revision(2) });
        assert!(placements.by_job.is_empty() && placements.unreadable.is_empty());
    }
}
