//! How many retries a worker may make: a share of its requests, and a few a second anyway.
//! When all instances of many services fail at once, retries must not double the load.

use std::cell::Cell;

/// A retry costs this much.
const RETRY: u32 = 1000;
/// Each request adds a fifth of a retry.
const PER_REQUEST: u32 = RETRY / 5;
/// Each tick of a tenth of a second adds one: ten a second.
const PER_TICK: u32 = RETRY;
/// The most that is saved up: a hundred retries at once.
const SAVED_MAX: u32 = 100 * RETRY;
/// What a worker begins with.
const AT_START: u32 = 10 * RETRY;

/// The retries that one worker has left.
#[derive(Debug)]
pub(crate) struct RetryBudget(Cell<u32>);

impl RetryBudget {
    pub(crate) fn new() -> Self {
        Self(Cell::new(AT_START))
    }

    /// A request has come.
    pub(crate) fn request(&self) {
        self.add(PER_REQUEST);
    }

    /// `ticks` have passed.
    pub(crate) fn ticks(&self, ticks: u32) {
        self.add(PER_TICK.saturating_mul(ticks));
    }

    /// Whether one more retry may be made; counts it if so.
    pub(crate) fn spend(&self) -> bool {
        let left = self.0.get().checked_sub(RETRY);
        self.0.set(left.unwrap_or(self.0.get()));
        left.is_some()
    }

    fn add(&self, amount: u32) {
        self.0.set(self.0.get().saturating_add(amount).min(SAVED_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend_all(budget: &RetryBudget) -> usize {
        std::iter::from_fn(|| budget.spend().then_some(())).count()
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried() {
        let budget = RetryBudget::new();
        spend_all(&budget);
        (0..100).for_each(|_| budget.request());
        assert_eq!(spend_all(&budget), 20);
    }

    #[test]
    fn ten_a_second_may_be_retried_without_requests() {
        let budget = RetryBudget::new();
        spend_all(&budget);
        budget.ticks(10);
        assert_eq!(spend_all(&budget), 10);
    }

    #[test]
    fn what_is_saved_up_has_a_limit() {
        let budget = RetryBudget::new();
        budget.ticks(u32::MAX);
        assert_eq!(spend_all(&budget), 100);
    }
}
