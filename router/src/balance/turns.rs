//! One after the other: a counter that all workers and all tables share, and the order in which
//! its values lead to candidates. Over as many turns as the weights sum up to, each candidate
//! has exactly as many as its weight, and they lie far apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::weights::Weights;

/// The turns of one service.
#[derive(Debug)]
pub(super) struct Turns {
    /// The same for every table of the service.
    counter: Arc<AtomicU64>,
    /// All weights are multiples of it.
    divisor: u32,
    /// The sum of the weights in units of the divisor.
    length: u32,
    /// Has no divisor in common with the length, so that it leads through all of it.
    step: u32,
}

impl Turns {
    pub(super) fn new(
        weights: &Weights,
        each: impl Iterator<Item = u32>,
        previous: Option<&Self>,
    ) -> Self {
        let counter = previous.map_or_else(Arc::default, |before| Arc::clone(&before.counter));
        // Equal weights lie on the line as ones, whatever they are.
        let divisor = if weights.are_equal() { 1 } else { each.fold(0, gcd).max(1) };
        let length = weights.sum() / divisor;
        let step = if weights.are_equal() { 1 } else { step(length) };
        Self { counter, divisor, length, step }
    }

    /// The point of the next turn on the line of weights. There has to be a candidate.
    pub(super) fn next(&self) -> u32 {
        // Where the counter wraps, after centuries, one round is not exact.
        let turn = self.counter.fetch_add(1, Ordering::Relaxed) % u64::from(self.length);
        let place = turn * u64::from(self.step) % u64::from(self.length);
        place as u32 * self.divisor
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// About 0.618 of the length: multiples of the golden ratio lie most evenly.
fn step(length: u32) -> u32 {
    let golden = (u64::from(length) * 0x9e37_79b9) >> 32;
    (golden as u32..).find(|step| gcd(length, *step) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_candidate_has_as_many_turns_as_its_weight() {
        for weights in [
            &[1][..],
            &[100, 100, 100],
            &[100, 300],
            &[5, 1, 1],
            &[65_535, 1],
            &[7, 11, 13, 17],
            &[600, 100, 300],
        ] {
            let line = Weights::new(weights.iter().copied());
            let turns = Turns::new(&line, weights.iter().copied(), None);
            let mut counts = vec![0; weights.len()];
            (0..turns.length).for_each(|_| counts[line.at(turns.next())] += 1);
            let unit = if line.are_equal() { weights[0] } else { turns.divisor };
            let expected: Vec<u32> = weights.iter().map(|weight| weight / unit).collect();
            assert_eq!(counts, expected);
        }
    }

    #[test]
    fn the_turns_of_a_heavy_one_are_spread() {
        let weights = [5, 1, 1];
        let line = Weights::new(weights.into_iter());
        let turns = Turns::new(&line, weights.into_iter(), None);
        let order: Vec<usize> = (0..7).map(|_| line.at(turns.next())).collect();
        let gaps = order.windows(4).filter(|run| run.iter().all(|one| *one == 0)).count();
        assert_eq!(gaps, 0, "{order:?}");
    }
}
