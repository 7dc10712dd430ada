//! Which reader has moved on to which published value, and so which values nobody but the
//! publisher can hold. Knows nothing of tables and of how values are loaded.
//!
//! A reader lets go of its old value before it moves its mark (release); the publisher reads
//! the marks (acquire) before it lets go of a value: the publisher is the last.

use std::collections::VecDeque;

#[cfg(all(test, loom))]
use loom::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(all(test, loom)))]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The most values kept for readers that do not move on. A value beyond that may be freed by a
/// reader: slower for that one, never wrong.
pub(crate) const KEPT_MAX: usize = 1024;

/// Where one reader notes what it has moved to.
#[derive(Debug)]
pub(crate) struct Mark(Arc<AtomicU64>);

impl Mark {
    /// The reader holds nothing older than `sequence`.
    pub(crate) fn moved_to(&self, sequence: u64) {
        self.0.store(sequence, Ordering::Release);
    }
}

#[derive(Debug)]
pub(crate) struct Ledger<T> {
    marks: Vec<Arc<AtomicU64>>,
    /// Oldest first, never empty. Its sequences rise; there are gaps only after `KEPT_MAX`.
    kept: VecDeque<(u64, Arc<T>)>,
}

impl<T> Ledger<T> {
    /// A ledger whose first value has the sequence 0.
    pub(crate) fn new(first: Arc<T>) -> Self {
        Self { marks: Vec::new(), kept: VecDeque::from([(0, first)]) }
    }

    /// The sequence of the value that is published next.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.newest().0 + 1
    }

    /// Notes a value before it can be loaded.
    pub(crate) fn publish(&mut self, value: Arc<T>) {
        let sequence = self.next_sequence();
        self.kept.push_back((sequence, value));
    }

    /// A new reader, which holds the newest value or one that follows.
    pub(crate) fn enter(&mut self) -> (u64, Mark) {
        let sequence = self.newest().0;
        let mark = Arc::new(AtomicU64::new(sequence));
        self.marks.push(Arc::clone(&mark));
        (sequence, Mark(mark))
    }

    /// The reader is gone and holds nothing.
    pub(crate) fn leave(&mut self, mark: &Mark) {
        self.marks.retain(|other| !Arc::ptr_eq(other, &mark.0));
    }

    /// Hands out the values that no reader can hold, to be freed by the caller.
    #[must_use = "the values are freed where this is dropped"]
    pub(crate) fn settle(&mut self) -> Vec<Arc<T>> {
        let newest = self.newest().0;
        let reached =
            self.marks.iter().map(|mark| mark.load(Ordering::Acquire)).min().unwrap_or(newest);
        // A reader between two kept values counts as at the older one: late, never early.
        let passed = self.kept.iter().skip(1).take_while(|(next, _)| *next <= reached).count();
        let mut free: Vec<_> = self.kept.drain(..passed).map(|(_, value)| value).collect();
        while self.kept.len() > KEPT_MAX {
            // Readers stand at the oldest or move to the newest; those between are least used.
            free.extend(self.kept.remove(1).map(|(_, value)| value));
        }
        free
    }

    /// The oldest value that a reader may hold, as of the last `settle`.
    pub(crate) fn oldest(&self) -> &Arc<T> {
        &self.kept.front().expect("a ledger is never empty").1
    }

    fn newest(&self) -> &(u64, Arc<T>) {
        self.kept.back().expect("a ledger is never empty")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_never_moves_costs_a_bounded_number_of_values() {
        let mut ledger = Ledger::new(Arc::new(0));
        let (_, stuck) = ledger.enter();
        let (_, moving) = ledger.enter();
        for value in 1..=3 * KEPT_MAX as u64 {
            ledger.publish(Arc::new(value));
            drop(ledger.settle());
            moving.moved_to(value);
        }
        assert_eq!(ledger.kept.len(), KEPT_MAX);
        assert_eq!(**ledger.oldest(), 0, "what the reader may hold is not forgotten");
        // A place whose value was let go counts as the older one that is left.
        stuck.moved_to(KEPT_MAX as u64);
        drop(ledger.settle());
        assert_eq!(**ledger.oldest(), 0);
        stuck.moved_to(3 * KEPT_MAX as u64);
        drop(ledger.settle());
        assert_eq!(ledger.kept.len(), 1);
        ledger.leave(&stuck);
        ledger.leave(&moving);
        assert!(ledger.marks.is_empty());
    }
}
