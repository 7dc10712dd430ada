//! Follows the store's data plane and publishes each new state to router and resolver.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_discovery::model::key::DATA;
use portolan_discovery::model::{Event, Health, Instance, Key, Phase, record};
use portolan_discovery::snapshot::{Rejected, Snapshot};
use portolan_discovery::store::{Store, StoreError, WatchEvent};
use tokio_util::sync::CancellationToken;

use super::debounce::Debounce;
use super::publish::Publisher;
use crate::certificates::judge;
use crate::clock;
use crate::live::Live;
use crate::live::OpenedStore;

/// The first wait after the store was lost; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait before the store is asked again.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Follows the store until told to stop. While the store is away the last state serves on.
pub(super) async fn run(
    store: OpenedStore,
    live: Arc<Live>,
    publisher: Arc<Publisher>,
    cancel: CancellationToken,
) {
    let follower = Follower { live, publisher };
    let endless = async {
        let mut wait = RETRY_MIN;
        loop {
            let opened = store.ready().await;
            let began = clock::now();
            let Err(error) = follower.follow(opened.as_ref()).await;
            follower.live.lost();
            tracing::warn!(%error, "the store is lost; the last table serves on");
            if began.elapsed() > RETRY_MAX {
                wait = RETRY_MIN;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    };
    tokio::select! {
        () = endless => {}
        () = cancel.cancelled() => {}
    }
}

struct Follower {
    live: Arc<Live>,
    publisher: Arc<Publisher>,
}

enum Never {}

impl Follower {
    async fn follow(&self, store: &dyn Store) -> Result<Never, StoreError> {
        let (kvs, revision) = store.snapshot(DATA).await?;
        let (snapshot, rejected) = self.live.snapshot().caught_up_judged(kvs, revision, &judge);
        self.note(&rejected);
        self.publish(&snapshot);
        self.live.heard(clock::now());
        let mut watch = store.watch(DATA, revision).await?;
        let mut next = snapshot;
        let mut debounce = Debounce::default();
        loop {
            let due = debounce.due();
            tokio::select! {
                biased;
                () = sleep_until(due), if due.is_some() => {
                    self.publish(&next);
                    debounce.published(clock::now());
                }
                event = watch.next() => match event {
                    WatchEvent::Batch { revision, events } => {
                        let now = clock::now();
                        self.live.heard(now);
                        let (applied, rejected) = next.apply_judged(&events, revision, &judge);
                        self.note(&rejected);
                        next = applied;
                        debounce.change(now, events.iter().any(takes_out));
                    }
                    WatchEvent::Progress(revision) => {
                        self.live.heard(clock::now());
                        if debounce.due().is_none() {
                            self.live.set_seen(revision.max(next.revision));
                        }
                    }
                    WatchEvent::Compacted { oldest } => {
                        return Err(StoreError::Unavailable(
                            format!("what came before revision {oldest} is forgotten; reading all again"),
                        ));
                    }
                    WatchEvent::Lost(cause) => return Err(StoreError::Unavailable(cause)),
                },
            }
        }
    }

    fn publish(&self, snapshot: &Snapshot) {
        self.publisher.publish(snapshot);
        self.live.set_snapshot(Arc::new(snapshot.clone()));
    }

    fn note(&self, rejected: &[Rejected]) {
        self.live.count_rejected(rejected.len());
        self.publisher.count_rejected(rejected);
        for record in rejected {
            tracing::warn!(%record, "the last good one serves on");
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether traffic would still go where it must not until this is published.
fn takes_out(event: &Event) -> bool {
    let Ok(key) = event.key().parse::<Key>() else { return false };
    match (key, event) {
        (Key::Override(_), _) | (Key::Instance(..), Event::Delete { .. }) => true,
        (Key::Instance(..), Event::Put(kv)) => record::decode::<Instance>(&kv.value)
            .is_ok_and(|i| i.phase == Phase::Draining || i.health == Health::Down),
        _ => false,
    }
}
