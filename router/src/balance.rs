//! Power of two choices: of two random endpoints the one with less under way for its weight.
//! Pure but for the counts it reads; randomness comes in as an argument. Knows nothing of routes.

mod ask;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::endpoint::{Endpoint, EndpointState, InFlight};

pub use ask::{ATTEMPTS_MAX, Ask, Key, RETRIES_MAX, Tried};

#[derive(Debug)]
struct Candidate {
    // Beside the endpoint's own, so that a comparison follows one pointer.
    state: Arc<EndpointState>,
    endpoint: Arc<Endpoint>,
    weight: u32,
}

impl Candidate {
    /// Whether it has less under way for its weight; on a tie the one drawn first stays, so
    /// that weights alone decide while nothing is under way.
    fn is_less_loaded_than(&self, other: &Self) -> bool {
        u64::from(self.state.in_flight()) * u64::from(other.weight)
            < u64::from(other.state.in_flight()) * u64::from(self.weight)
    }
}

/// The endpoints of a service that take traffic.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// Few lie in the service's own piece of memory.
    candidates: SmallVec<[Candidate; 3]>,
    /// The sum of the weights up to and with each candidate; empty when all are equal.
    cumulative: Box<[u32]>,
    weight_sum: u32,
}

/// The most instances of one service that take traffic: weights are below 2^16, so their sum
/// fits 32 bits. More are left out, in the order of their ids.
pub(crate) const ENDPOINTS_MAX: usize = 1 << 16;

impl Balance {
    pub(crate) fn new<'e>(endpoints: impl Iterator<Item = &'e Arc<Endpoint>>) -> Self {
        let candidates: SmallVec<[Candidate; 3]> = endpoints
            .take(ENDPOINTS_MAX)
            .map(|endpoint| Candidate {
                state: Arc::clone(&endpoint.state),
                endpoint: Arc::clone(endpoint),
                weight: u32::from(endpoint.weight.0.get()),
            })
            .collect();
        if candidates.windows(2).all(|pair| pair[0].weight == pair[1].weight) {
            let weight_sum = u32::try_from(candidates.len()).expect("at most 2^16");
            return Self { candidates, cumulative: Box::default(), weight_sum };
        }
        let cumulative: Box<[u32]> = candidates
            .iter()
            .scan(0, |sum: &mut u32, candidate| {
                *sum += candidate.weight;
                Some(*sum)
            })
            .collect();
        let weight_sum = cumulative.last().copied().unwrap_or(0);
        Self { candidates, cumulative, weight_sum }
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.candidates.iter().map(|candidate| &candidate.endpoint)
    }

    /// Draws two by weight and begins a request on the one with less under way.
    pub(crate) fn pick(&self, ask: &Ask<'_>) -> Option<InFlight> {
        let (high, low) = ((ask.random >> 32) as u32, ask.random as u32);
        let chosen = if ask.tried.is_empty() {
            self.two(high, low)
        } else {
            self.two_untried(high, low, ask.tried)
        }?;
        Some(InFlight::begin(&chosen.endpoint))
    }

    fn two(&self, high: u32, low: u32) -> Option<&Candidate> {
        let first = self.draw(high)?;
        if self.candidates.len() == 1 {
            return self.candidates.first();
        }
        let second = self.draw_other(first, low);
        Some(lighter(&self.candidates[first], &self.candidates[second]))
    }

    /// A retry is rare, so it may walk: from each draw on to the next that was not tried.
    fn two_untried(&self, high: u32, low: u32, tried: &Tried) -> Option<&Candidate> {
        let first = self.next_untried(self.draw(high)?, |key| tried.contains(key))?;
        let first_key = self.candidates[first].state.pool_key();
        let taken = |key| key == first_key || tried.contains(key);
        Some(match self.next_untried(self.draw(low)?, taken) {
            Some(second) => lighter(&self.candidates[first], &self.candidates[second]),
            None => &self.candidates[first],
        })
    }

    fn next_untried(&self, from: usize, taken: impl Fn(u64) -> bool) -> Option<usize> {
        (from..self.candidates.len())
            .chain(0..from)
            .find(|index| !taken(self.candidates[*index].state.pool_key()))
    }

    fn draw(&self, random: u32) -> Option<usize> {
        (!self.candidates.is_empty()).then(|| self.at(scale(random, self.weight_sum)))
    }

    /// Draws by weight among all but `first`: its span is cut out of the line of weights.
    fn draw_other(&self, first: usize, random: u32) -> usize {
        let (start, span) = match first.checked_sub(1) {
            _ if self.cumulative.is_empty() => (u32::try_from(first).expect("below 2^16"), 1),
            None => (0, self.cumulative[0]),
            Some(before) => {
                let start = self.cumulative[before];
                (start, self.cumulative[first] - start)
            }
        };
        let point = scale(random, self.weight_sum - span);
        self.at(if point < start { point } else { point + span })
    }

    fn at(&self, point: u32) -> usize {
        if self.cumulative.is_empty() {
            point as usize
        } else {
            self.cumulative.partition_point(|sum| *sum <= point)
        }
    }
}

fn lighter<'c>(first: &'c Candidate, second: &'c Candidate) -> &'c Candidate {
    if second.is_less_loaded_than(first) { second } else { first }
}

/// Maps a random number to 0..`bound` without a division.
pub(crate) fn scale(random: u32, bound: u32) -> u32 {
    ((u64::from(random) * u64::from(bound)) >> 32) as u32
}

/// A second random number from the first, for another decision of the same request
/// (the finaliser of splitmix64).
pub(crate) fn mix(random: u64) -> u64 {
    let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
