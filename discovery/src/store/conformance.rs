//! What every back end has to do, as cases that run against any [`Store`].
//!
//! A case has a fresh store for itself and panics when the store does not conform. It knows
//! nothing of back ends.

#![expect(clippy::unwrap_used, reason = "a case fails by a panic")]

mod data;
mod lease;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Op, Store, Txn, Watch, WatchEvent};
use crate::model::{Event, LeaseId, Revision};

/// The longest that a case waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A case of the suite.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What the store has to do.
    pub name: &'static str,
    /// Panics when it does not.
    pub run: fn(Arc<dyn Store>) -> Run,
}

/// A case that runs.
pub type Run = Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! cases {
    ($($part:ident :: $case:ident,)*) => {
        /// All cases.
        pub const CASES: &[Case] = &[$(
            Case { name: stringify!($case), run: |store| Box::pin($part::$case(store)) },
        )*];
    };
}

cases! {
    data::every_commit_has_a_later_revision,
    data::a_condition_decides_whether_a_transaction_is_done,
    data::a_transaction_is_done_whole_or_not_at_all,
    data::a_transaction_without_effect_makes_no_revision,
    data::a_key_twice_is_refused,
    data::what_is_at_the_limit_goes_and_what_is_above_is_refused,
    data::a_key_keeps_the_revision_that_made_it,
    data::a_snapshot_is_ordered_and_holds_its_prefix_only,
    data::a_snapshot_is_of_one_revision,
    data::increments_at_the_same_time_lose_nothing,
    data::the_identity_stays,
    watch::a_watch_says_exactly_the_later_changes,
    watch::a_watch_goes_on_where_another_stopped,
    watch::a_watch_says_nothing_from_beside_its_prefix,
    watch::a_watch_says_how_far_it_is,
    watch::a_snapshot_and_a_watch_make_a_whole,
    watch::a_forgotten_revision_is_said_to_be,
    watch::a_slow_reader_is_cut_off_and_holds_up_nobody,
    lease::the_end_of_a_lease_deletes_its_keys_at_one_revision,
    lease::a_lease_that_is_kept_alive_lives,
    lease::a_revoked_lease_is_gone_with_its_keys,
    lease::a_put_changes_the_lease_of_a_key,
    lease::an_unknown_lease_is_refused,
    lease::a_lease_outside_of_the_limits_is_refused,
}

/// Runs all cases, `at_once` of them at the same time, each on a store that `make` made, and
/// panics with the names of those that failed.
pub async fn run_all<M, F>(at_once: usize, make: M)
where
    M: Fn() -> F,
    F: Future<Output = Arc<dyn Store>>,
{
    let mut running = JoinSet::new();
    let mut failed = Vec::new();
    for case in CASES {
        if running.len() >= at_once.max(1) {
            failed.extend(running.join_next().await.and_then(Result::unwrap));
        }
        let store = make().await;
        running.spawn(async move {
            let end = tokio::spawn((case.run)(store)).await;
            end.err().map(|_| case.name)
        });
    }
    while let Some(end) = running.join_next().await {
        failed.extend(end.unwrap());
    }
    assert!(failed.is_empty(), "the store does not conform: {failed:?}");
}

fn put(key: &str, value: impl ToString) -> Txn {
    Txn::default().put(key, Bytes::from(value.to_string()))
}

fn leased(key: &str, lease: LeaseId) -> Txn {
    let value = Bytes::from_static(b"leased");
    Txn::of(vec![Op::Put { key: key.to_owned(), value, lease: Some(lease) }])
}

async fn done(store: &dyn Store, txn: Txn) -> Revision {
    let outcome = store.txn(txn).await.unwrap();
    assert!(outcome.done, "the transaction was not done");
    outcome.revision
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let kv = store.get(key).await.unwrap();
    kv.map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

async fn revision(store: &dyn Store) -> Revision {
    store.status().await.unwrap().revision
}

async fn next(watch: &mut Watch) -> WatchEvent {
    timeout(PATIENCE, watch.next()).await.expect("a word on the watch in time")
}

/// The next batch, past every progress.
async fn batch(watch: &mut Watch) -> (Revision, Vec<Event>) {
    loop {
        match next(watch).await {
            WatchEvent::Batch { revision, events } => return (revision, events),
            WatchEvent::Progress(_) => {}
            end => panic!("the watch ended: {end:?}"),
        }
    }
}

/// `+key=value` for a put, `-key` for a delete.
fn said(events: &[Event]) -> Vec<String> {
    let say = |event: &Event| match event {
        Event::Put(kv) => format!("+{}={}", kv.key, String::from_utf8_lossy(&kv.value)),
        Event::Delete { key, .. } => format!("-{key}"),
    };
    events.iter().map(say).collect()
}
