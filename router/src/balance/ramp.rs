//! Slow start: an instance that came up takes a tenth of its share at first and all of it at
//! the end, so that cold caches are not met with full load.

use std::time::Duration;

/// All of a share.
pub(super) const FULL: u32 = 1 << 8;
/// What an instance begins with: a tenth.
const FIRST: u32 = FULL / 10;

/// When each candidate came up, and how long it takes from there.
#[derive(Debug)]
pub(super) struct Ramp {
    since_us: Box<[u64]>,
    length_us: u64,
}

impl Ramp {
    pub(super) fn new(since_ms: impl Iterator<Item = u64>, length: Duration) -> Self {
        Self {
            since_us: since_ms.map(|since| since.saturating_mul(1_000)).collect(),
            length_us: u64::try_from(length.as_micros()).unwrap_or(u64::MAX).max(1),
        }
    }

    /// The part of its weight that a candidate has now, of [`FULL`].
    pub(super) fn share(&self, index: usize, now_us: u64) -> u32 {
        let since = self.since_us[index];
        let age = match now_us.checked_sub(since) {
            Some(age) => age,
            // The clock of another machine may be ahead, but not by so much.
            None if since - now_us > self.length_us => return FULL,
            None => 0,
        };
        if age >= self.length_us {
            return FULL;
        }
        let gained = u128::from(FULL - FIRST) * u128::from(age) / u128::from(self.length_us);
        FIRST + gained as u32
    }

    /// Whether a candidate that was drawn by weight is taken: as often as its share says.
    pub(super) fn takes(&self, index: usize, now_us: u64, random: u64) -> bool {
        let share = self.share(index, now_us);
        share == FULL || (random >> 56) as u32 <= share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_from_a_tenth_to_all() {
        let ramp = Ramp::new([1_000].into_iter(), Duration::from_secs(10));
        for (now_ms, expected) in [
            (1_000, FULL / 10),
            (6_000, FULL * 55 / 100),
            (10_999, FULL - 1),
            (11_000, FULL),
            (99_000, FULL),
            (0, FULL / 10),
        ] {
            assert!(ramp.share(0, now_ms * 1_000).abs_diff(expected) <= 1, "{now_ms}");
        }
        let ahead = Ramp::new([100_000].into_iter(), Duration::from_secs(10));
        assert_eq!(ahead.share(0, 1_000_000), FULL, "a clock that is wrong takes nothing away");
    }
}
