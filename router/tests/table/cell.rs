//! How tables reach the workers, and what is known of how far they have come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portolan_discovery::model::Revision;
use portolan_discovery::snapshot::Snapshot;
use portolan_router::{Table, TableCell};

use crate::world::World;

const DEADLINE: Duration = Duration::from_secs(10);

fn table(world: &World, revision: u64) -> Arc<Table> {
    let (snapshot, _) = Snapshot::default().apply(&[], Revision(revision));
    Arc::new(Table::compile(&snapshot, None, &world.metrics).table)
}

#[test]
fn a_revision_is_acknowledged_when_every_reader_has_moved_to_it() {
    let world = World::new();
    let cell = TableCell::new(table(&world, 1), &world.metrics);
    assert_eq!(cell.acked(), Revision(1));
    let (mut first, mut second) = (cell.reader(), cell.reader());
    cell.publish(table(&world, 2));
    assert_eq!(cell.acked(), Revision(1));
    assert_eq!(first.table().revision(), Revision(2));
    assert_eq!(cell.acked(), Revision(1));
    cell.publish(table(&world, 3));
    assert_eq!(second.table().revision(), Revision(3));
    assert_eq!(cell.acked(), Revision(2));
    first.table();
    assert_eq!(cell.acked(), Revision(3));
}

#[test]
fn a_reader_that_is_gone_holds_nothing_back() {
    let world = World::new();
    let cell = TableCell::new(table(&world, 1), &world.metrics);
    let idle = cell.reader();
    cell.publish(table(&world, 2));
    assert_eq!(cell.acked(), Revision(1));
    drop(idle);
    assert_eq!(cell.acked(), Revision(2));
}

#[test]
fn a_reader_begins_at_the_newest_table() {
    let world = World::new();
    let cell = TableCell::new(table(&world, 1), &world.metrics);
    cell.publish(table(&world, 2));
    let mut late = cell.reader();
    assert_eq!(cell.acked(), Revision(2));
    assert_eq!(late.table().revision(), Revision(2));
}

#[test]
fn a_reader_is_never_the_last_to_hold_a_table() {
    let world = World::new();
    let first = table(&world, 1);
    let seen = Arc::downgrade(&first);
    let cell = TableCell::new(first, &world.metrics);
    let (mut quick, mut slow) = (cell.reader(), cell.reader());
    cell.publish(table(&world, 2));
    quick.table();
    slow.table();
    assert!(seen.upgrade().is_some(), "moving on frees nothing");
    cell.acked();
    assert!(seen.upgrade().is_none(), "the control side does");
}

#[test]
fn what_no_reader_needs_is_freed_by_the_next_publish() {
    let world = World::new();
    let first = table(&world, 1);
    let seen = Arc::downgrade(&first);
    let cell = TableCell::new(first, &world.metrics);
    let mut reader = cell.reader();
    cell.publish(table(&world, 2));
    assert!(seen.upgrade().is_some());
    reader.table();
    cell.publish(table(&world, 3));
    assert!(seen.upgrade().is_none());
}

#[tokio::test]
async fn an_idle_worker_is_woken_once_for_all_that_was_published() {
    let world = World::new();
    let cell = TableCell::new(table(&world, 1), &world.metrics);
    let mut reader = cell.reader();
    let mut wake = reader.wake();
    cell.publish(table(&world, 2));
    cell.publish(table(&world, 3));
    tokio::time::timeout(DEADLINE, wake.changed()).await.expect("a table was published");
    assert_eq!(reader.table().revision(), Revision(3));
    assert!(tokio::time::timeout(Duration::from_millis(1), wake.changed()).await.is_err());
}

/// A worker that never has requests moves on by its wake alone.
#[test]
fn a_worker_on_another_thread_is_woken() {
    let world = World::new();
    let cell = TableCell::new(table(&world, 1), &world.metrics);
    let mut reader = cell.reader();
    let mut wake = reader.wake();
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            while reader.table().revision() < Revision(100) {
                wake.changed().await;
            }
        });
    });
    for revision in 2..=100 {
        cell.publish(table(&world, revision));
    }
    worker.join().unwrap();
    assert_eq!(cell.acked(), Revision(100));
}

#[test]
fn under_stress_no_reader_and_no_acknowledgement_goes_back() {
    const LAST: u64 = 20_000;
    let world = World::new();
    let cell = TableCell::new(table(&world, 1), &world.metrics);
    let places = [const { AtomicU64::new(0) }; 2];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for place in &places {
            let (mut reader, stop) = (cell.reader(), &stop);
            scope.spawn(move || {
                let mut seen = Revision(0);
                while !stop.load(Ordering::Acquire) || seen < Revision(LAST) {
                    // Before the mark can move: what is acknowledged is at most this later.
                    let revision = reader.table().revision();
                    assert!(revision >= seen, "{revision} after {seen}");
                    seen = revision;
                    place.store(revision.0, Ordering::Release);
                }
            });
        }
        let mut acked = Revision(0);
        for revision in 2..=LAST {
            cell.publish(table(&world, revision));
            let now = cell.acked();
            assert!(now >= acked && now <= Revision(revision), "{now} after {acked}");
            acked = now;
        }
        stop.store(true, Ordering::Release);
    });
    assert_eq!(cell.acked(), Revision(LAST));
    assert!(places.iter().all(|place| place.load(Ordering::Acquire) == LAST));
}
