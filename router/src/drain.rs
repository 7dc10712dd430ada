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
        self.wait(Word::Drain).await;
    }

    async fn wait(&mut self, word: Word) {
        // An error means that nobody is left to give orders: that is the last one.
        let _ = self.word.wait_for(|given| *given >= word).await;
    }
}

/// Drains one worker; returns when nothing is under way or it is cut.
pub(crate) async fn run(worker: &Rc<Worker>, listeners: &mut JoinSet<()>, order: &mut Order) {
    let cut = Arc::clone(&order.cut);
    let drained = async {
        worker.begin_drain();
        while listeners.join_next().await.is_some() {}
        // Clients that were about to send another request get an answer that says goodbye.
        let grace = tokio::time::sleep(worker.timeouts.drain_grace);
        tokio::select! {
            () = worker.idle() => return,
            () = grace => {}
        }
        worker.close_idle();
        worker.idle().await;
    };
    tokio::select! {
        biased;
        () = drained => {}
        () = order.wait(Word::Cut) => {
            cut.fetch_add(worker.open() as u64, Ordering::Relaxed);
            (0..worker.open()).for_each(|_| worker.metrics.ended(Reason::DrainCut));
        }
    }
}
