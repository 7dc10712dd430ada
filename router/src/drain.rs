//! The end of a router: stop accepting, tell connections, wait for what is under way, cut.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::h1::Reason;
use crate::worker::Worker;

/// What the workers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Serve,
    /// Drain, but nobody waits for it: another process serves the same addresses.
    HandOver,
    Drain,
    Cut,
}

/// Gives the orders. Workers that are gone no longer hold theirs.
#[derive(Debug)]
pub(crate) struct Command {
    word: watch::Sender<Word>,
    cut: Arc<AtomicU64>,
}

/// Receives the orders; one a worker, held until its thread ends.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    word: watch::Receiver<Word>,
    cut: Arc<AtomicU64>,
}

impl Command {
    pub(crate) fn new() -> Self {
        Self { word: watch::Sender::new(Word::Serve), cut: Arc::default() }
    }

    /// An order for one worker.
    pub(crate) fn order(&self) -> Order {
        Order { word: self.word.subscribe(), cut: Arc::clone(&self.cut) }
    }

    /// Drains all workers, and cuts what is not done after `timeout`: so many connections.
    /// May be called again, and may be dropped while it waits.
    pub(crate) async fn drain(&self, timeout: Duration) -> u64 {
        self.give(Word::Drain);
        if tokio::time::timeout(timeout, self.word.closed()).await.is_err() {
            self.cut();
            self.word.closed().await;
        }
        self.cut.load(Ordering::Relaxed)
    }

    /// Drains all workers without haste: idle clients may stay as long as they always may. May be
    /// dropped while it waits, and be followed by [`Self::drain`].
    pub(crate) async fn hand_over(&self, timeout: Duration) -> u64 {
        self.give(Word::HandOver);
        if tokio::time::timeout(timeout, self.word.closed()).await.is_err() {
            self.cut();
            self.word.closed().await;
        }
        self.cut.load(Ordering::Relaxed)
    }

    /// Cuts everything that is under way.
    pub(crate) fn cut(&self) {
        self.give(Word::Cut);
    }

    fn give(&self, word: Word) {
        self.word.send_if_modified(|given| {
            let is_new = *given < word;
            *given = word.max(*given);
            is_new
        });
    }
}

impl Order {
    /// Returns when the worker is to drain or to stop at once.
    pub(crate) async fn drain_given(&mut self) {
        self.wait(Word::HandOver).await;
    }

    fn is_unhurried(&self) -> bool {
        *self.word.borrow() == Word::HandOver
    }

    async fn wait(&mut self, word: Word) {
        // An error means that nobody is left to give orders: that is the last one.
        let _ = self.word.wait_for(|given| *given >= word).await;
    }
}

/// The time for clients that were about to send another request: they get an answer that says
/// goodbye.
async fn grace(worker: &Worker, order: &mut Order) {
    if order.is_unhurried() {
        // A request that meets a connection which is being closed is lost. Where nobody waits,
        // that happens no more often than without any drain.
        tokio::select! {
            () = tokio::time::sleep(worker.timeouts.client_idle) => {}
            () = order.wait(Word::Drain) => {}
        }
    }
    tokio::time::sleep(worker.timeouts.drain_grace).await;
}

/// Drains one worker; returns when nothing is under way or it is cut.
pub(crate) async fn run(worker: &Rc<Worker>, listeners: &mut JoinSet<()>, order: &mut Order) {
    let cut = Arc::clone(&order.cut);
    let mut hurry = order.clone();
    let drained = async {
        worker.begin_drain();
        while listeners.join_next().await.is_some() {}
        tokio::select! {
            () = worker.idle() => return,
            () = grace(worker, &mut hurry) => {}
        }
        worker.close_idle();
        worker.idle().await;
    };
    tokio::select! {
        biased;
        () = drained => {}
        () = order.wait(Word::Cut) => {
            cut.fetch_add(worker.under_way() as u64, Ordering::Relaxed);
            (0..worker.under_way()).for_each(|_| worker.metrics.ended(Reason::DrainCut));
        }
    }
}
