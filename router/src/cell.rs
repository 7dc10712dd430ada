//! The one cell through which tables reach the workers, and the proof that they have.
//!
//! The publisher keeps every table that a worker may still hold, so the last reference is
//! dropped on the control side: freeing a big table takes milliseconds, which no request waits
//! for. The only file that names `arc_swap`.

mod ledger;

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Cache};
use portolan_discovery::model::Revision;
use prometheus::IntCounter;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::table::Table;
use ledger::{Ledger, Mark};

/// A table with its place in the order of publishing; revisions may repeat, places do not.
#[derive(Debug)]
struct Published {
    sequence: u64,
    table: Arc<Table>,
    freed_by_readers: IntCounter,
}

thread_local! {
    static READS: Cell<bool> = const { Cell::new(false) };
}

/// Says that this thread only ever reads tables: one that is freed by it is counted.
pub(crate) fn this_thread_reads() {
    READS.set(true);
}

impl Drop for Published {
    fn drop(&mut self) {
        if READS.get() {
            self.freed_by_readers.inc();
        }
    }
}

/// Where tables are published and read.
#[derive(Debug)]
pub struct TableCell {
    newest: Arc<ArcSwap<Published>>,
    ledger: Mutex<Ledger<Published>>,
    wake: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

impl TableCell {
    /// A cell with its first table.
    pub fn new(table: Arc<Table>, metrics: &Arc<Metrics>) -> Arc<Self> {
        let freed_by_readers = metrics.tables_freed_by_workers.clone();
        let first = Arc::new(Published { sequence: 0, table, freed_by_readers });
        let cell = Arc::new(Self {
            newest: Arc::new(ArcSwap::new(Arc::clone(&first))),
            wake: watch::Sender::new(0),
            ledger: Mutex::new(Ledger::new(first)),
            metrics: Arc::clone(metrics),
        });
        metrics.watch(Arc::downgrade(&cell));
        cell.show();
        cell
    }

    /// Makes `table` the newest and wakes idle workers. For the control side.
    pub fn publish(&self, table: Arc<Table>) {
        let mut ledger = self.lock();
        let sequence = ledger.next_sequence();
        let freed_by_readers = self.metrics.tables_freed_by_workers.clone();
        let published = Arc::new(Published { sequence, table, freed_by_readers });
        ledger.publish(Arc::clone(&published));
        self.newest.store(published);
        let free = ledger.settle();
        drop(ledger);
        // Freed after the lock is gone.
        drop(free);
        self.wake.send_replace(sequence);
        self.metrics.publishes.inc();
        self.show();
    }

    /// The newest table. For the control side: whoever holds it may have to free it.
    pub fn current(&self) -> Arc<Table> {
        Arc::clone(&self.newest.load().table)
    }

    /// A reader for one worker.
    pub fn reader(self: &Arc<Self>) -> Reader {
        // Under the lock, so that no table is published between the mark and the first load.
        let mut ledger = self.lock();
        let (seen, mark) = ledger.enter();
        let cache = Cache::new(Arc::clone(&self.newest));
        Reader { cache, seen, seat: Seat { cell: Arc::clone(self), mark } }
    }

    /// The revision that every worker has moved to: no pick on an older table follows, and
    /// what earlier picks have under way is counted. Frees what no worker needs any more. For the control
    /// side.
    pub fn acked(&self) -> Revision {
        let mut ledger = self.lock();
        let free = ledger.settle();
        let revision = ledger.oldest().table.revision();
        drop(ledger);
        drop(free);
        revision
    }

    fn show(&self) {
        let table = self.current();
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.table_revision.set(i64::try_from(table.revision().0).unwrap_or(i64::MAX));
        self.metrics.panic_services.set(gauge(table.panic_services().count()));
        self.metrics.kept_services.set(gauge(table.kept_services().count()));
    }

    fn lock(&self) -> MutexGuard<'_, Ledger<Published>> {
        // Nothing under the lock leaves the ledger half changed.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's view of the cell. A table is borrowed, never held: it ends before the next
/// `.await`, and so a worker can never be the last to hold it.
#[derive(Debug)]
pub struct Reader {
    // Before the seat: what is cached is let go before the mark is.
    cache: Cache<Arc<ArcSwap<Published>>, Arc<Published>>,
    seen: u64,
    seat: Seat,
}

impl Reader {
    /// The newest table. One load and one comparison while it is the same.
    pub fn table(&mut self) -> &Table {
        let published = self.cache.load();
        if published.sequence != self.seen {
            self.seen = published.sequence;
            // After the load, which let go of the older table.
            self.seat.mark.moved_to(published.sequence);
        }
        &published.table
    }

    /// Tells when there is a newer table, so that an idle worker moves on too. Borrows nothing.
    pub fn wake(&self) -> Wake {
        Wake(self.seat.cell.wake.subscribe())
    }
}

/// Waits for newer tables.
#[derive(Debug, Clone)]
pub struct Wake(watch::Receiver<u64>);

impl Wake {
    /// Returns once for one or more tables published since the last return. Drop-safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // No cell, no newer table.
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug)]
struct Seat {
    cell: Arc<TableCell>,
    mark: Mark,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.cell.lock().leave(&self.mark);
    }
}
