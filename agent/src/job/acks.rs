//! Whether the routers have let go of an instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::record::decode;
use portolan_discovery::model::{Event, InstanceId, Key, Kv, Revision, RouterAck, ServiceName};
use portolan_discovery::store::{Store, StoreError, WatchEvent};

use tokio::time::{Instant, sleep_until};

use super::placements::call;

/// Before the store is asked again after a failure.
const PAUSE: Duration = Duration::from_millis(200);

/// A router that begins, or has lost its lease, serves before its record is there (again). Only
/// after this long without one there is no router.
const SILENCE: Duration = Duration::from_secs(2);

/// The acknowledgements by key; `None` is one that cannot be read.
type Acks = BTreeMap<String, Option<RouterAck>>;

/// Returns once no router uses the instance, which was told to drain at `since`. Waits through
/// outages; the caller bounds it.
pub(super) async fn until_released(
    store: Arc<dyn Store>,
    service: &ServiceName,
    id: &InstanceId,
    since: Revision,
) {
    loop {
        if let Err(error) = watch(store.as_ref(), service, id, since).await {
            tracing::debug!(%service, %id, %error, "the routers' words cannot be read");
        } else {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch(
    store: &dyn Store,
    service: &ServiceName,
    id: &InstanceId,
    since: Revision,
) -> Result<(), StoreError> {
    let prefix = Key::acks();
    // Taken after the drain was written, so that it has every router that may not know of it.
    let (kvs, revision) = call(store.snapshot(&prefix)).await?;
    let mut acks: Acks = kvs.into_iter().map(read).collect();
    let mut watch = call(store.watch(&prefix, revision)).await?;
    let mut settled = Instant::now();
    if acks.is_empty() {
        settled += SILENCE;
    }
    while !are_all_done(&acks, service, id, since) || Instant::now() < settled {
        let said = tokio::select! {
            said = watch.next() => said,
            () = sleep_until(settled), if Instant::now() < settled => continue,
        };
        match said {
            WatchEvent::Batch { events, .. } => {
                for event in events {
                    match event {
                        Event::Put(kv) => acks.extend([read(kv)]),
                        Event::Delete { key, .. } => {
                            acks.remove(&key);
                            settled = Instant::now() + SILENCE;
                        }
                    }
                }
            }
            WatchEvent::Progress(_) => {}
            WatchEvent::Compacted { .. } => {
                return Err(StoreError::Unavailable("the watch fell behind".to_owned()));
            }
            WatchEvent::Lost(cause) => return Err(StoreError::Unavailable(cause)),
        }
    }
    Ok(())
}

fn read(kv: Kv) -> (String, Option<RouterAck>) {
    (kv.key, decode(&kv.value).ok())
}

/// A router that is alive has a record: its lease ends with it. So no record is no router, once
/// [`SILENCE`] has passed.
fn are_all_done(acks: &Acks, service: &ServiceName, id: &InstanceId, since: Revision) -> bool {
    acks.values().all(|ack| {
        ack.as_ref().is_some_and(|ack| {
            let in_flight = ack.draining.get(service).and_then(|ids| ids.get(id));
            ack.revision >= since && in_flight.is_none_or(|count| *count == 0)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `-` lists nothing; `?` cannot be read.
    fn ack(revision: u64, in_flight: &str) -> Option<RouterAck> {
        let service = "web".parse().unwrap();
        let draining = match in_flight {
            "?" => return None,
            "-" => BTreeMap::new(),
            count => BTreeMap::from([(
                service,
                BTreeMap::from([("a".parse().unwrap(), count.parse().unwrap())]),
            )]),
        };
        let router = "n1".parse().unwrap();
        Some(RouterAck { router, revision: Revision(revision), draining })
    }

    #[test]
    fn every_router_must_have_seen_the_drain_and_have_nothing_left() {
        for (acks, expected) in [
            (vec![], true),
            (vec![(7, "0")], true),
            (vec![(8, "-")], true),
            (vec![(6, "0")], false),
            (vec![(6, "-")], false),
            (vec![(7, "1")], false),
            (vec![(7, "0"), (6, "-")], false),
            (vec![(7, "0"), (9, "2")], false),
            (vec![(7, "0"), (9, "?")], false),
            (vec![(7, "0"), (9, "-")], true),
        ] {
            let words = format!("{acks:?}");
            let acks = acks
                .into_iter()
                .enumerate()
                .map(|(n, (revision, count))| (n.to_string(), ack(revision, count)))
                .collect();
            let (service, id) = ("web".parse().unwrap(), "a".parse().unwrap());
            assert_eq!(are_all_done(&acks, &service, &id, Revision(7)), expected, "{words}");
        }
    }
}
