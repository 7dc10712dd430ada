//! Keeps the keys for TLS tickets: takes those of the store, and writes the next ones when their
//! period is over. Any node may do it; of several at once the store takes one. Where the store has
//! none that are good, this node has keys of its own, and sessions end with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portolan_discovery::model::{Key, Kv, Revision, TICKET_PERIOD_MS, TicketKeys, record};
use portolan_discovery::snapshot::{Rejected, Snapshot};
use portolan_discovery::store::{Compare, Store, StoreError, Txn};
use portolan_router::{NoRandomness, Tickets, fresh_ticket_key, fresh_ticket_keys};
use prometheus::{IntCounter, IntGauge, Registry};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::live::OpenedStore;

/// How long the key that seals has been in use, in seconds.
pub const AGE: &str = "portolan_ticket_keys_age_seconds";
/// Keys that this node has put in the place of others in the store.
pub const ROTATIONS: &str = "portolan_ticket_keys_rotations_total";
/// Records that were not taken.
pub const REFUSED: &str = "portolan_ticket_keys_refused_total";
/// Whether the keys are those of the store.
pub const SHARED: &str = "portolan_ticket_keys_shared";

/// From one look at the keys to the next.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A record that cannot be read for this long is replaced. Whoever wrote it loses sessions, which
/// costs their clients a whole handshake.
const UNREADABLE_PATIENCE: Duration = Duration::from_secs(600);
/// Keys this old are not used any more, whatever the store says.
const AGE_MAX_MS: u64 = 2 * TICKET_PERIOD_MS;

/// The time by both clocks: other nodes have only the first, which may be wrong or set.
#[derive(Debug, Clone, Copy)]
struct Now {
    unix_ms: u64,
    steady: Instant,
}

impl Now {
    fn read() -> Self {
        Self { unix_ms: clock::unix_ms(), steady: clock::now() }
    }
}

/// What keeps the keys.
pub(super) struct TicketKeeper {
    tickets: Arc<Tickets>,
    state: Mutex<State>,
    metrics: Metrics,
}

struct State {
    in_use: TicketKeys,
    /// Since when they are in use here.
    since: Instant,
    /// Whether the store has them.
    is_shared: bool,
    /// What the last snapshot had.
    seen: Option<Arc<TicketKeys>>,
    /// A record that cannot be read, and since when it is known.
    unreadable: Option<(Revision, Instant)>,
}

struct Metrics {
    age: IntGauge,
    rotations: IntCounter,
    refused: IntCounter,
    shared: IntGauge,
}

impl State {
    /// How old the key in use is, by the clock that says more: one may have been set back.
    fn age_ms(&self, now: Now) -> u64 {
        let here = now.steady.saturating_duration_since(self.since).as_millis();
        self.in_use.age_ms(now.unix_ms).max(u64::try_from(here).unwrap_or(u64::MAX))
    }
}

/// What is to become of the store's record.
#[derive(Debug)]
enum Decision {
    Keep,
    /// Write these if the record is still as it was read.
    Write(TicketKeys),
}

impl TicketKeeper {
    /// Seals with `own` keys until the store has some.
    pub(super) fn new(
        tickets: Arc<Tickets>,
        own: TicketKeys,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics {
            age: IntGauge::new(AGE, "Seconds that the key which seals tickets has been in use.")?,
            rotations: IntCounter::new(ROTATIONS, "Keys that were put in the place of others.")?,
            refused: IntCounter::new(REFUSED, "Records of keys that were not taken.")?,
            shared: IntGauge::new(SHARED, "1 while the keys are those of the store.")?,
        };
        registry.register(Box::new(metrics.age.clone()))?;
        registry.register(Box::new(metrics.rotations.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.shared.clone()))?;
        tickets.publish(&own);
        let state = State {
            in_use: own,
            since: clock::now(),
            is_shared: false,
            seen: None,
            unreadable: None,
        };
        Ok(Self { tickets, state: Mutex::new(state), metrics })
    }

    /// Takes the keys of the store's snapshot, if they are others, as soon as it returns.
    pub(super) fn follow(&self, snapshot: &Snapshot) {
        self.take(snapshot.tickets(), Now::read());
    }

    /// Counts records that were not taken.
    pub(super) fn count_rejected(&self, records: &[Rejected]) {
        let refused =
            records.iter().filter(|record| matches!(record.key.parse::<Key>(), Ok(Key::Tickets)));
        self.metrics.refused.inc_by(refused.count() as u64);
    }

    fn take(&self, keys: Option<&Arc<TicketKeys>>, now: Now) {
        let mut state = self.state();
        if state.seen.as_ref() == keys {
            return;
        }
        state.seen = keys.cloned();
        match keys {
            Some(keys) if keys.age_ms(now.unix_ms) >= AGE_MAX_MS => {
                tracing::info!("the store's keys for tickets are too old; it gets new ones");
            }
            Some(keys) => self.put_in_use(&mut state, TicketKeys::clone(keys), true, now),
            None => {
                tracing::warn!("the keys for tickets were removed; sessions end with them");
                self.put_own_in_use(&mut state, now);
            }
        }
    }

    fn put_in_use(&self, state: &mut State, keys: TicketKeys, is_shared: bool, now: Now) {
        state.is_shared = is_shared;
        if state.in_use != keys {
            self.tickets.publish(&keys);
            state.in_use = keys;
            state.since = now.steady;
        }
        self.tell(state, now);
    }

    fn put_own_in_use(&self, state: &mut State, now: Now) {
        match fresh_ticket_keys(now.unix_ms) {
            Ok(own) => self.put_in_use(state, own, false, now),
            Err(error) => tracing::error!(%error, "the keys for tickets stay as they are"),
        }
    }

    fn tell(&self, state: &State, now: Now) {
        let seconds = state.age_ms(now) / 1000;
        self.metrics.age.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        self.metrics.shared.set(i64::from(state.is_shared));
    }

    /// Lets go of keys that are too old, whether or not the store can be asked for others.
    fn renew(&self, now: Now) -> Result<(), NoRandomness> {
        let mut state = self.state();
        let age_ms = state.age_ms(now);
        if state.is_shared && age_ms >= AGE_MAX_MS {
            tracing::warn!(
                "the store's keys for tickets are too old and cannot be changed; this node has \
                 its own"
            );
            self.put_own_in_use(&mut state, now);
        } else if !state.is_shared && age_ms >= TICKET_PERIOD_MS {
            let next = state.in_use.rotated(fresh_ticket_key()?, now.unix_ms);
            self.put_in_use(&mut state, next, false, now);
        }
        self.tell(&state, now);
        Ok(())
    }

    /// What to do about the record as it was read.
    fn decide(&self, kv: Option<&Kv>, now: Now) -> Result<Decision, NoRandomness> {
        let mut state = self.state();
        let Some(kv) = kv else {
            state.unreadable = None;
            return Ok(Decision::Write(match state.is_shared {
                // Somebody has removed them just now, and wants others.
                true => fresh_ticket_keys(now.unix_ms)?,
                false => state.in_use.clone(),
            }));
        };
        let Ok(stored) = record::decode::<TicketKeys>(&kv.value) else {
            let since = match state.unreadable {
                Some((revision, since)) if revision == kv.modified => since,
                _ => {
                    tracing::warn!(
                        key = %kv.key,
                        "the keys for tickets cannot be read; they are replaced in {UNREADABLE_PATIENCE:?}"
                    );
                    state.unreadable = Some((kv.modified, now.steady));
                    now.steady
                }
            };
            let is_over = now.steady.saturating_duration_since(since) >= UNREADABLE_PATIENCE;
            return Ok(match is_over {
                true => Decision::Write(state.in_use.clone()),
                false => Decision::Keep,
            });
        };
        state.unreadable = None;
        let is_in_use = state.in_use == stored;
        let age_ms = if is_in_use { state.age_ms(now) } else { stored.age_ms(now.unix_ms) };
        Ok(match age_ms {
            AGE_MAX_MS.. => Decision::Write(match is_in_use {
                true => fresh_ticket_keys(now.unix_ms)?,
                false => state.in_use.clone(),
            }),
            TICKET_PERIOD_MS.. => Decision::Write(stored.rotated(fresh_ticket_key()?, now.unix_ms)),
            _ => Decision::Keep,
        })
    }

    /// Looks at the keys once. The snapshot brings what it writes.
    async fn look(&self, store: &dyn Store, now: Now) -> Result<(), LookError> {
        let key = Key::Tickets.to_string();
        let kv = store.get(&key).await?;
        let Decision::Write(keys) = self.decide(kv.as_ref(), now)? else { return Ok(()) };
        let unchanged = match &kv {
            Some(kv) => Compare::Unchanged(key.clone(), kv.modified),
            None => Compare::Absent(key.clone()),
        };
        let txn = Txn::default().when(unchanged).put(key, record::encode(&keys));
        // Else another node was faster.
        if store.txn(txn).await?.done && kv.is_some() {
            self.metrics.rotations.inc();
            tracing::info!("there are new keys for tickets");
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// Keeps them until told to stop.
pub(super) async fn run(keeper: Arc<TicketKeeper>, store: OpenedStore, cancel: CancellationToken) {
    let endless = async {
        loop {
            let now = Now::read();
            let mut done = keeper.renew(now).map_err(LookError::from);
            // That the store is away is said by those who follow it.
            let opened = store.now();
            if let Ok(opened) = &opened {
                done = done.and(keeper.look(opened.as_ref(), now).await);
            }
            if let Err(error) = done {
                tracing::warn!(%error, "the keys for tickets stay as they are for now");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = store.ready(), if opened.is_err() => {}
            }
        }
    };
    tokio::select! {
        () = endless => {}
        () = cancel.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use portolan_discovery::store::embedded::{Create, Embedded};

    use super::*;

    const PERIOD: Duration = Duration::from_millis(TICKET_PERIOD_MS);

    /// Nodes on one store, with a clock that tests move.
    struct Desk {
        store: Embedded,
        now: Now,
        _folder: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Embedded::open(&folder.path().join("store"), Create::IfMissing).unwrap();
            Self { store, now: Now { unix_ms: 1_000_000_000_000, ..Now::read() }, _folder: folder }
        }

        fn node(&self) -> TicketKeeper {
            let router = portolan_router::Config::new(Vec::new());
            let bound = portolan_router::Router::bind(router, &Registry::new()).unwrap();
            let own = fresh_ticket_keys(self.now.unix_ms).unwrap();
            let keeper = TicketKeeper::new(bound.tickets().clone(), own, &Registry::new()).unwrap();
            keeper.state().since = self.now.steady;
            keeper
        }

        fn pass(&mut self, time: Duration) {
            self.now.unix_ms += time.as_millis() as u64;
            self.now.steady += time;
        }

        async fn record(&self) -> Option<Kv> {
            self.store.get(&Key::Tickets.to_string()).await.unwrap()
        }

        async fn stored(&self) -> TicketKeys {
            record::decode(&self.record().await.unwrap().value).unwrap()
        }

        async fn write(&self, value: Option<&[u8]>) {
            let key = Key::Tickets.to_string();
            let txn = match value {
                Some(value) => Txn::default().put(key, value.to_vec().into()),
                None => Txn::default().delete(key),
            };
            self.store.txn(txn).await.unwrap();
        }

        /// A look at the store by a node that has heard of all that is in it, and hears what comes
        /// of it.
        async fn look(&self, node: &TicketKeeper) {
            self.hear(node).await;
            node.renew(self.now).unwrap();
            node.look(&self.store, self.now).await.unwrap();
            self.hear(node).await;
        }

        async fn hear(&self, node: &TicketKeeper) {
            let last = node.state().seen.clone();
            match self.record().await {
                None => node.take(None, self.now),
                // As the snapshot does: what cannot be read leaves what was there.
                Some(kv) => match record::decode::<TicketKeys>(&kv.value) {
                    Ok(keys) => node.take(Some(&Arc::new(keys)), self.now),
                    Err(_) => node.take(last.as_ref(), self.now),
                },
            }
        }
    }

    fn in_use(node: &TicketKeeper) -> TicketKeys {
        node.state().in_use.clone()
    }

    fn is_shared(node: &TicketKeeper) -> bool {
        node.metrics.shared.get() == 1
    }

    #[tokio::test]
    async fn the_first_node_s_keys_are_everybody_s() {
        let desk = Desk::new();
        let [first, second] = [desk.node(), desk.node()];
        let own = in_use(&first);
        assert!(!is_shared(&first));
        desk.look(&first).await;
        assert_eq!((desk.stored().await, is_shared(&first)), (own.clone(), true));
        desk.look(&second).await;
        assert_eq!((in_use(&second), is_shared(&second)), (own, true));
        assert_eq!(first.metrics.rotations.get() + second.metrics.rotations.get(), 0);
    }

    #[tokio::test]
    async fn one_of_all_nodes_changes_the_keys_when_their_period_is_over() {
        let mut desk = Desk::new();
        let [first, second] = [desk.node(), desk.node()];
        desk.look(&first).await;
        desk.look(&second).await;
        let before = desk.stored().await;
        desk.pass(PERIOD - Duration::from_secs(1));
        desk.look(&first).await;
        assert_eq!(desk.stored().await, before);
        desk.pass(Duration::from_secs(1));
        // Both have read the same record; one of them is slower.
        let kv = desk.record().await;
        let Decision::Write(late) = second.decide(kv.as_ref(), desk.now).unwrap() else { panic!() };
        desk.look(&first).await;
        let after = desk.stored().await;
        assert_ne!(after, late);
        assert_eq!(after.previous.as_ref(), Some(&before.current));
        assert_eq!((&after.current, after.since_ms), (&before.next, desk.now.unix_ms));
        desk.look(&second).await;
        assert_eq!(desk.stored().await, after, "it is not changed twice");
        assert_eq!((in_use(&first), in_use(&second)), (after.clone(), after));
        assert_eq!((first.metrics.rotations.get(), second.metrics.rotations.get()), (1, 0));
        assert_eq!(first.metrics.age.get(), 0);
    }

    #[tokio::test]
    async fn keys_that_were_left_for_long_are_not_used_again() {
        let mut desk = Desk::new();
        desk.look(&desk.node()).await;
        let before = desk.stored().await;
        desk.pass(2 * PERIOD);
        let node = desk.node();
        let own = in_use(&node);
        desk.hear(&node).await;
        assert_eq!(in_use(&node), own);
        desk.look(&node).await;
        assert_eq!((desk.stored().await, is_shared(&node)), (own.clone(), true));
        assert!(!before.all().any(|old| own.all().any(|new| new == old)));
        assert_eq!(node.metrics.rotations.get(), 1);
    }

    #[tokio::test]
    async fn without_the_store_keys_do_not_grow_old_either() {
        let mut desk = Desk::new();
        let node = desk.node();
        desk.look(&node).await;
        let shared = in_use(&node);
        desk.pass(2 * PERIOD - Duration::from_secs(1));
        node.renew(desk.now).unwrap();
        assert_eq!((in_use(&node), is_shared(&node)), (shared.clone(), true));
        desk.pass(Duration::from_secs(1));
        node.renew(desk.now).unwrap();
        let own = in_use(&node);
        assert!(own != shared && !is_shared(&node) && own.previous.is_none());
        desk.pass(PERIOD);
        node.renew(desk.now).unwrap();
        assert_eq!(in_use(&node).previous.as_ref(), Some(&own.current));
        // Once it is back, that is what everybody gets.
        node.look(&desk.store, desk.now).await.unwrap();
        assert_eq!(desk.stored().await, in_use(&node));
    }

    #[tokio::test]
    async fn a_clock_that_is_wrong_does_not_keep_a_key_for_ever() {
        let mut desk = Desk::new();
        let node = desk.node();
        let mut keys = fresh_ticket_keys(desk.now.unix_ms).unwrap();
        keys.since_ms *= 2;
        desk.write(Some(&record::encode(&keys))).await;
        desk.look(&node).await;
        assert_eq!((in_use(&node), is_shared(&node)), (keys.clone(), true));
        desk.pass(PERIOD);
        desk.look(&node).await;
        assert_eq!(desk.stored().await.current, keys.next);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_replaced_after_a_while_and_what_is_removed_at_once() {
        let mut desk = Desk::new();
        let node = desk.node();
        let own = in_use(&node);
        desk.write(Some(b"{}")).await;
        desk.look(&node).await;
        desk.pass(UNREADABLE_PATIENCE - Duration::from_secs(1));
        desk.look(&node).await;
        assert_eq!(&desk.record().await.unwrap().value[..], b"{}");
        assert_eq!((in_use(&node), is_shared(&node)), (own.clone(), false));
        desk.pass(Duration::from_secs(1));
        desk.look(&node).await;
        assert_eq!((desk.stored().await, is_shared(&node)), (own.clone(), true));
        // One that has good keys goes on with them.
        desk.write(Some(b"[]")).await;
        desk.look(&node).await;
        assert_eq!((in_use(&node), is_shared(&node)), (own.clone(), true));

        desk.write(None).await;
        // Before it has heard of that.
        node.look(&desk.store, desk.now).await.unwrap();
        assert_ne!(desk.stored().await, own);
        desk.write(None).await;
        desk.look(&node).await;
        assert_eq!((desk.stored().await, is_shared(&node)), (in_use(&node), true));
        assert_ne!(in_use(&node), own);
    }

    #[test]
    fn only_records_of_keys_are_counted_as_refused() {
        let node = Desk::new().node();
        for key in ["/portolan/v1/d/tickets", "/portolan/v1/d/r/web"] {
            node.count_rejected(&[Rejected { key: key.into(), cause: "test".into() }]);
        }
        assert_eq!(node.metrics.refused.get(), 1);
    }
}
