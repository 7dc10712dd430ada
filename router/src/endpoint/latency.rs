//! How long an instance takes to answer: a moving average that follows peaks at once and
//! forgets them slowly. Value and time are one word, so workers share it without a lock; of two
//! that write at once one may be lost, which is one sample of many.

use std::sync::atomic::{AtomicU64, Ordering};

/// A latency in sixteenths of a microsecond: fine enough for an average of tens of them.
pub(crate) type Cost = u32;

const COST_PER_US: u64 = 16;
/// 10 seconds: whatever takes longer is as slow as can be.
const COST_MAX: Cost = 10_000_000 * COST_PER_US as Cost;

/// What a failure counts as at least, 10 ms: an instance that fails fast must not look fast.
const FAILURE_MIN: Cost = 10_000 * COST_PER_US as Cost;

/// Time is kept in units of 1,024 microseconds.
const TICK_BITS: u32 = 10;
/// 4,096 of them, 4.2 seconds, halve the difference to what is measured now.
const HALF_LIFE_BITS: u32 = 12;
/// Samples that raise nothing are taken every 65 ms at most: mostly the word is only read.
const SAMPLE_TICKS: u32 = 1 << (HALF_LIFE_BITS - 6);

/// The average; 0 until the first sample.
#[derive(Debug, Default)]
pub(crate) struct Latency(AtomicU64);

impl Latency {
    /// The average without the time that has passed since, 0 without a sample: never too low.
    #[inline]
    pub(crate) fn peak(&self) -> Cost {
        unpack(self.0.load(Ordering::Relaxed)).0
    }

    /// The average now, 0 without a sample. It falls while nothing is measured, so that an
    /// instance that was slow is tried again.
    pub(crate) fn at(&self, now_us: u64) -> Cost {
        let word = self.0.load(Ordering::Relaxed);
        if word == 0 {
            return 0;
        }
        let (cost, since) = unpack(word);
        decayed(cost, ticks_since(since, now_us)).max(1)
    }

    /// An answer took so long.
    #[inline]
    pub(crate) fn sample(&self, now_us: u64, elapsed_us: u64) {
        let word = self.0.load(Ordering::Relaxed);
        let (cost, since) = unpack(word);
        let sample = cost_of(elapsed_us);
        if sample > cost {
            return self.set(sample, now_us);
        }
        let ticks = ticks_since(since, now_us);
        if ticks >= SAMPLE_TICKS {
            let above = cost - sample;
            self.set(sample + decayed(above, ticks), now_us);
        }
    }

    /// An attempt failed after so long: each one in a row makes the instance look twice as slow.
    pub(crate) fn failed(&self, now_us: u64, elapsed_us: u64) {
        let doubled = self.at(now_us).saturating_mul(2);
        let cost = cost_of(elapsed_us).max(doubled).clamp(FAILURE_MIN, COST_MAX);
        self.set(cost, now_us);
    }

    fn set(&self, cost: Cost, now_us: u64) {
        let word = u64::from(cost) << 32 | u64::from(tick(now_us));
        self.0.store(word, Ordering::Relaxed);
    }
}

fn cost_of(elapsed_us: u64) -> Cost {
    // Never 0, which is no sample.
    elapsed_us.saturating_mul(COST_PER_US).clamp(1, u64::from(COST_MAX)) as Cost
}

/// In microseconds.
pub(super) fn us(cost: Cost) -> u64 {
    u64::from(cost) / COST_PER_US
}

fn unpack(word: u64) -> (Cost, u32) {
    ((word >> 32) as u32, word as u32)
}

/// Wraps after 50 days.
fn tick(now_us: u64) -> u32 {
    (now_us >> TICK_BITS) as u32
}

fn ticks_since(since: u32, now_us: u64) -> u32 {
    let ticks = tick(now_us).wrapping_sub(since);
    // Another worker's clock reading may be the later one.
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

/// Half after each half-life, and a straight line between: as good as an exponential here.
fn decayed(value: u32, ticks: u32) -> u32 {
    let halvings = ticks >> HALF_LIFE_BITS;
    let part = u64::from(ticks & ((1 << HALF_LIFE_BITS) - 1));
    let value = value.checked_shr(halvings).unwrap_or(0);
    value - ((u64::from(value) * part) >> (HALF_LIFE_BITS + 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const HALF_LIFE: u64 = 1 << (TICK_BITS + HALF_LIFE_BITS);

    #[test]
    fn without_a_sample_there_is_none() {
        let latency = Latency::default();
        assert_eq!((latency.at(0), latency.at(77 * SECOND), latency.peak()), (0, 0, 0));
        latency.sample(SECOND, 0);
        assert!(latency.at(SECOND) > 0, "even one of no time at all is one");
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_by_halves() {
        let latency = Latency::default();
        latency.sample(SECOND, 100);
        latency.sample(SECOND, 8_000);
        assert_eq!(us(latency.at(SECOND)), 8_000);
        for halvings in 1..5 {
            let now = SECOND + halvings * HALF_LIFE;
            assert!(us(latency.at(now)).abs_diff(8_000 >> halvings) <= 2, "{halvings}");
        }
        assert_eq!(us(latency.peak()), 8_000);
        assert_eq!(latency.at(SECOND + 40 * HALF_LIFE), 1, "forgotten, but measured");
    }

    #[test]
    fn many_samples_move_it_as_far_as_their_time_says() {
        for per_second in [20, 1_000, 50_000] {
            let latency = Latency::default();
            latency.sample(0, 10_000);
            for i in 0..per_second * 42 {
                latency.sample(i * SECOND / per_second, 1_000);
            }
            // Ten half-lives: 9 ms of difference are 9 microseconds.
            let end = us(latency.at(42 * SECOND));
            assert!((900..=1_100).contains(&end), "{per_second} a second: {end}");
        }
    }

    #[test]
    fn failures_in_a_row_look_slower_and_slower() {
        let latency = Latency::default();
        latency.sample(0, 50);
        for expected in [10_000, 20_000, 40_000, 80_000] {
            latency.failed(0, 50);
            assert_eq!(us(latency.at(0)), expected);
        }
        (0..40).for_each(|_| latency.failed(0, 50));
        assert_eq!(latency.at(0), COST_MAX);
        latency.failed(0, u64::MAX);
        assert_eq!(latency.at(0), COST_MAX);
    }

    #[test]
    fn a_time_before_the_last_sample_is_that_of_the_sample() {
        let latency = Latency::default();
        latency.sample(9 * SECOND, 500);
        assert_eq!(us(latency.at(8 * SECOND)), 500);
        latency.sample(8 * SECOND, 400);
        assert_eq!(us(latency.at(9 * SECOND)), 500);
    }
}
