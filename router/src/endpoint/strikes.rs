//! Gateway errors in a row, and the time for which they eject an instance.
//! Knows the rule's numbers as arguments, and nothing of other instances.

use std::sync::atomic::{AtomicU64, Ordering};

/// No ejection is longer than so many times the first: after ten failures in a row the next one
/// need not be later still.
pub(crate) const EJECTIONS_MAX: u32 = 10;

/// What counts against an instance. Both words are mostly read.
#[derive(Debug, Default)]
pub(crate) struct Strikes {
    /// Errors in a row below, ejections in a row above: one read tells that there are none.
    row: AtomicU64,
    until_us: AtomicU64,
}

const ERROR: u64 = 1;
/// All of the errors; counting ends long before it would carry into the ejections.
const ERRORS: u64 = (1 << 32) - 1;
/// The most errors that are counted.
const ERRORS_MAX: u64 = 1 << 31;
const EJECTION: u64 = 1 << 32;

impl Strikes {
    /// Until when it is ejected; 0 if it never was.
    #[inline]
    pub(crate) fn until_us(&self) -> u64 {
        self.until_us.load(Ordering::Relaxed)
    }

    /// Whether it is ejected.
    #[inline]
    pub(crate) fn is_out(&self, now_us: u64) -> bool {
        self.until_us() > now_us
    }

    /// It answered. What was begun before an ejection and ends well does not end it: it is as
    /// old as the errors.
    #[inline]
    pub(crate) fn succeeded(&self, now_us: u64) {
        if self.row.load(Ordering::Relaxed) != 0 {
            self.forgive(now_us);
        }
    }

    #[cold]
    fn forgive(&self, now_us: u64) {
        let kept = if self.is_out(now_us) { self.row.load(Ordering::Relaxed) & !ERRORS } else { 0 };
        self.row.store(kept, Ordering::Relaxed);
    }

    /// One more error; the errors in a row. Those of an ejected one say nothing new.
    pub(crate) fn failed(&self, now_us: u64) -> u32 {
        if self.is_out(now_us) {
            return 0;
        }
        let row = self.row.load(Ordering::Relaxed);
        if row & ERRORS < ERRORS_MAX {
            return (self.row.fetch_add(ERROR, Ordering::Relaxed) + ERROR) as u32;
        }
        row as u32
    }

    /// Ejects it for `time_us`, for longer with each time in a row; false if another worker was
    /// faster. The errors stay: when it is back, the first one ejects it again.
    pub(crate) fn eject(&self, now_us: u64, time_us: u64) -> bool {
        let before = self.until_us();
        let row = (self.row.load(Ordering::Relaxed) >> 32) as u32 + 1;
        let until = now_us.saturating_add(time_us.saturating_mul(row.min(EJECTIONS_MAX).into()));
        let is_ours = before <= now_us
            && self
                .until_us
                .compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_ours && row < u32::MAX {
            self.row.fetch_add(EJECTION, Ordering::Relaxed);
        }
        is_ours
    }

    /// Takes an ejection back.
    pub(crate) fn readmit(&self) {
        self.until_us.store(0, Ordering::Relaxed);
        let row = self.row.load(Ordering::Relaxed);
        self.row.store(row.saturating_sub(EJECTION), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: u64 = 1_000;

    #[test]
    fn a_success_ends_a_row_of_errors() {
        let strikes = Strikes::default();
        assert_eq!((strikes.failed(1), strikes.failed(1)), (1, 2));
        strikes.succeeded(1);
        assert_eq!(strikes.failed(1), 1);
    }

    #[test]
    fn each_ejection_in_a_row_is_longer_up_to_a_limit() {
        let strikes = Strikes::default();
        let mut now = 1;
        for n in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10] {
            strikes.failed(now);
            assert!(strikes.eject(now, TIME));
            assert_eq!(strikes.until_us(), now + n * TIME);
            assert!(strikes.is_out(strikes.until_us() - 1));
            now = strikes.until_us();
            assert!(!strikes.is_out(now));
        }
        strikes.succeeded(now);
        assert!(strikes.eject(now, TIME));
        assert_eq!(strikes.until_us(), now + TIME, "a success began a new row");
    }

    #[test]
    fn what_ends_during_an_ejection_changes_little() {
        let strikes = Strikes::default();
        (0..5).for_each(|_| _ = strikes.failed(1));
        assert!(strikes.eject(1, TIME));
        assert!(!strikes.eject(2, TIME), "it is out already");
        assert_eq!(strikes.failed(2), 0);
        strikes.succeeded(3);
        assert!(strikes.is_out(4));
        let back = strikes.until_us();
        assert_eq!(strikes.failed(back), 1, "the success ended the errors");
        assert!(strikes.eject(back, TIME));
        assert_eq!(strikes.until_us(), back + 2 * TIME, "but not the row of ejections");
    }

    #[test]
    fn an_ejection_that_was_taken_back_was_none() {
        let strikes = Strikes::default();
        strikes.failed(1);
        assert!(strikes.eject(1, TIME));
        strikes.readmit();
        assert!(!strikes.is_out(2));
        assert!(strikes.eject(2, TIME));
        assert_eq!(strikes.until_us(), 2 + TIME);
    }
}
