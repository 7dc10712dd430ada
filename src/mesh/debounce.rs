//! When to publish: the first change at once, a burst after it in one piece, and bad news about
//! an instance never late. Pure; time comes in.

use std::time::{Duration, Instant};

/// A burst is over after this long without a change.
pub(super) const QUIET: Duration = Duration::from_millis(5);
/// A burst is published after this long, over or not.
pub(super) const BURST_MAX: Duration = Duration::from_millis(25);

#[derive(Debug, Default)]
pub(super) struct Debounce {
    published: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    urgent: bool,
}

impl Debounce {
    /// Notes a change; `urgent` when it takes an instance out.
    pub(super) fn change(&mut self, now: Instant, urgent: bool) {
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.urgent |= urgent;
    }

    /// When the changes noted so far are to be published; none when there are none.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        let is_first_of_burst = self.published.is_none_or(|at| first >= at + BURST_MAX);
        if self.urgent || is_first_of_burst {
            return Some(first);
        }
        Some((last + QUIET).min(first + BURST_MAX))
    }

    /// Notes that all changes so far have been published.
    pub(super) fn published(&mut self, now: Instant) {
        *self = Self { published: Some(now), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: Instant, ms: u64) -> Instant {
        base + Duration::from_millis(ms)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a base to count from")]
    fn the_first_change_goes_at_once_and_a_burst_in_one_piece() {
        let base = Instant::now();
        let mut debounce = Debounce::default();
        assert_eq!(debounce.due(), None);
        debounce.change(at(base, 0), false);
        assert_eq!(debounce.due(), Some(at(base, 0)));
        debounce.published(at(base, 0));
        debounce.change(at(base, 2), false);
        assert_eq!(debounce.due(), Some(at(base, 7)));
        debounce.change(at(base, 6), false);
        assert_eq!(debounce.due(), Some(at(base, 11)));
        // A burst without end is cut.
        for ms in 7..60 {
            debounce.change(at(base, ms), false);
        }
        assert_eq!(debounce.due(), Some(at(base, 27)));
        debounce.published(at(base, 27));
        debounce.change(at(base, 100), false);
        assert_eq!(debounce.due(), Some(at(base, 100)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a base to count from")]
    fn what_takes_an_instance_out_is_never_delayed() {
        let base = Instant::now();
        let mut debounce = Debounce::default();
        debounce.published(at(base, 0));
        debounce.change(at(base, 1), false);
        debounce.change(at(base, 2), true);
        assert!(debounce.due().unwrap() <= at(base, 2));
    }
}
