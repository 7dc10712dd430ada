//! Which endpoint of a service: the four policies, over endpoints that were not tried and are
//! not ejected. Pure but for the live state it reads; randomness and time come in as arguments.
//! Knows nothing of routes.

mod ask;
mod key;
mod maglev;
mod ramp;
mod turns;
mod weights;

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::{Balancing, HashBy};
use smallvec::SmallVec;

use crate::endpoint::{Cost, Endpoint, EndpointState, InFlight};
use maglev::Maglev;
use ramp::Ramp;
use turns::Turns;
use weights::Weights;

pub use ask::{ATTEMPTS_MAX, Ask, Key, RETRIES_MAX, Tried};
pub(crate) use weights::{mix, scale};

/// Latencies differ by less than a millisecond for reasons that have nothing to do with the
/// instance: wake-ups, its own and ours. In the unit of [`Cost`].
const NOISE: Cost = 1_000 * 16;

/// Draws before a walk to the next candidate that can be had: with half of all ejected, one in
/// 250 requests walks, which favours the neighbour a little.
const DRAWS_MAX: usize = 8;

/// What a pick did not find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// An endpoint that takes traffic and was not tried.
    Instance,
    /// Room at one of those that there are.
    Room,
}

#[derive(Debug)]
struct Candidate {
    // Beside the endpoint's own, so that a comparison follows one pointer.
    state: Arc<EndpointState>,
    endpoint: Arc<Endpoint>,
    weight: u32,
    /// The mean weight for its own, in [`ONE`]s: what one request weighs on it.
    burden: u32,
}

/// The burden of a request on a candidate of mean weight.
const ONE: u64 = 1 << 10;

/// Where a candidate takes traffic from.
#[derive(Debug)]
enum Policy {
    P2c,
    RoundRobin(Turns),
    Least,
    Hash(Box<(HashBy, Maglev)>),
}

/// The endpoints of a service that take traffic.
#[derive(Debug)]
pub(crate) struct Balance {
    /// Few lie in the service's own piece of memory.
    candidates: SmallVec<[Candidate; 3]>,
    weights: Weights,
    policy: Policy,
    ramp: Option<Box<Ramp>>,
}

/// The most instances of one service that take traffic: weights are below 2^16, so their sum
/// fits 32 bits. More are left out, in the order of their ids.
pub(crate) const ENDPOINTS_MAX: usize = 1 << 16;

impl Balance {
    /// Of endpoints with the time since they are up, in milliseconds of Unix time.
    pub(crate) fn new<'e>(
        endpoints: impl Iterator<Item = (&'e Arc<Endpoint>, u64)> + Clone,
        balancing: &Balancing,
        slow_start: Option<Duration>,
        previous: Option<&Self>,
    ) -> Self {
        let endpoints = endpoints.take(ENDPOINTS_MAX);
        let weight = |endpoint: &Endpoint| u32::from(endpoint.weight.0.get());
        let each = endpoints.clone().map(|(endpoint, _)| weight(endpoint));
        let sum: u64 = each.clone().map(u64::from).sum();
        let mut candidates: SmallVec<[Candidate; 3]> = endpoints
            .clone()
            .map(|(endpoint, _)| Candidate {
                state: Arc::clone(&endpoint.state),
                endpoint: Arc::clone(endpoint),
                weight: weight(endpoint),
                burden: 0,
            })
            .collect();
        let count = candidates.len() as u64;
        for candidate in &mut candidates {
            // Below 2^26: a weight is below 2^16.
            candidate.burden = (sum * ONE / (count * u64::from(candidate.weight))) as u32;
        }
        let weights = Weights::new(each.clone());
        let policy = Policy::new(balancing, &candidates, &weights, previous);
        let ramp = slow_start
            .map(|length| Box::new(Ramp::new(endpoints.map(|(_, since_ms)| since_ms), length)));
        Self { candidates, weights, policy, ramp }
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.candidates.iter().map(|candidate| &candidate.endpoint)
    }

    /// Chooses by the service's policy and begins a request there.
    #[inline]
    pub(crate) fn pick(&self, ask: &Ask<'_>) -> Option<InFlight> {
        let (chosen, key) = self.choose(ask)?;
        Some(keyed(InFlight::begin(&chosen.endpoint), key))
    }

    /// The same among those with less than `max` under way: the one that the policy chooses, or
    /// whoever has room.
    pub(crate) fn pick_below(&self, max: NonZeroU32, ask: &Ask<'_>) -> Result<InFlight, Lack> {
        let (chosen, key) = self.choose(ask).ok_or(Lack::Instance)?;
        let begin = |candidate: &Candidate| InFlight::begin_below(&candidate.endpoint, max);
        if let Some(begun) = begin(chosen) {
            return Ok(keyed(begun, key));
        }
        // Where an ejected one was chosen, there are only such.
        let all_out = chosen.state.strikes.is_out(ask.now_us);
        let from = self.weights.draw((mix(ask.random) >> 32) as u32);
        let begun = (from..self.candidates.len())
            .chain(0..from)
            .filter(|index| match all_out {
                true => self.is_untried(*index, ask),
                false => self.can_be_had(*index, ask),
            })
            .find_map(|index| begin(&self.candidates[index]));
        begun.map(|begun| keyed(begun, key)).ok_or(Lack::Room)
    }

    /// What the request's key comes to, if the policy goes by one.
    pub(crate) fn key(&self, ask: &Ask<'_>) -> Option<u64> {
        match &self.policy {
            Policy::Hash(hash) => key::key(&hash.0, ask.key).map(NonZeroU64::get),
            _ => None,
        }
    }

    /// The candidate, and what its key came to if it was chosen by one.
    #[inline]
    fn choose(&self, ask: &Ask<'_>) -> Option<(&Candidate, Option<NonZeroU64>)> {
        match self.policy {
            Policy::P2c => self.p2c(ask).map(|chosen| (chosen, None)),
            _ => self.choose_otherwise(ask),
        }
    }

    // Apart, so that the policy of nearly all services does not carry the others.
    #[inline(never)]
    fn choose_otherwise(&self, ask: &Ask<'_>) -> Option<(&Candidate, Option<NonZeroU64>)> {
        let chosen = match &self.policy {
            Policy::P2c => self.p2c(ask),
            Policy::RoundRobin(turns) => self.in_turn(turns, ask),
            Policy::Least => self.least(ask),
            Policy::Hash(hash) => match key::key(&hash.0, ask.key) {
                Some(key) => {
                    return self.hashed(&hash.1, key, ask).map(|chosen| (chosen, Some(key)));
                }
                // Nothing keeps this one anywhere.
                None => self.p2c(ask),
            },
        };
        chosen.map(|chosen| (chosen, None))
    }

    /// Draws two by weight and takes the one with less to do.
    #[inline]
    fn p2c(&self, ask: &Ask<'_>) -> Option<&Candidate> {
        if ask.tried.is_empty() && self.ramp.is_none() {
            let (high, low) = ((ask.random >> 32) as u32, ask.random as u32);
            if self.candidates.len() < 2 {
                return self.candidates.first();
            }
            let first = self.weights.draw(high);
            let second = self.weights.draw_other(first, low);
            let (first, second) = (&self.candidates[first], &self.candidates[second]);
            if !first.state.strikes.is_out(ask.now_us) && !second.state.strikes.is_out(ask.now_us) {
                return Some(lighter(first, second, ask.now_us));
            }
        }
        self.two_of_some(ask)
    }

    /// The same where some may not be had.
    #[inline(never)]
    fn two_of_some(&self, ask: &Ask<'_>) -> Option<&Candidate> {
        let (random, other) = (ask.random, mix(ask.random));
        let Some(first) = self.draw(ask, random, |index| self.can_be_had(index, ask)) else {
            // All that is left is ejected: that is better than nobody.
            let left = self.draw(ask, random, |index| self.is_untried(index, ask))?;
            return Some(&self.candidates[left]);
        };
        let second = self.draw(ask, other, |index| index != first && self.can_be_had(index, ask));
        let first_one = &self.candidates[first];
        Some(match second {
            Some(second) => {
                let second_one = &self.candidates[second];
                match &self.ramp {
                    None => lighter(first_one, second_one, ask.now_us),
                    Some(ramp) => {
                        let share = |index| ramp.share(index, ask.now_us);
                        lighter_ramped(
                            (first_one, share(first)),
                            (second_one, share(second)),
                            ask.now_us,
                        )
                    }
                }
            }
            None => first_one,
        })
    }

    /// Draws by weight and, while an instance is new, by its share of it, until one fits; from
    /// the last draw on the next that fits.
    fn draw(&self, ask: &Ask<'_>, mut random: u64, fits: impl Fn(usize) -> bool) -> Option<usize> {
        if self.candidates.is_empty() {
            return None;
        }
        let mut drawn = 0;
        for _ in 0..DRAWS_MAX {
            drawn = self.weights.draw((random >> 32) as u32);
            random = mix(random);
            if fits(drawn) && self.is_due(drawn, ask, random) {
                return Some(drawn);
            }
            random = mix(random);
        }
        self.next_from(drawn, fits)
    }

    /// The next candidate in turn.
    fn in_turn(&self, turns: &Turns, ask: &Ask<'_>) -> Option<&Candidate> {
        if self.candidates.is_empty() {
            return None;
        }
        let mut index = 0;
        let mut random = ask.random;
        // The turns of one that cannot be had fall to all others: each has the next one.
        for _ in 0..DRAWS_MAX {
            index = self.weights.at(turns.next());
            random = mix(random);
            if self.can_be_had(index, ask) && self.is_due(index, ask, random) {
                return Some(&self.candidates[index]);
            }
        }
        self.next_from(index, |index| self.can_be_had(index, ask))
            .or_else(|| self.next_from(index, |index| self.is_untried(index, ask)))
            .map(|index| &self.candidates[index])
    }

    /// The one with the least under way for its weight; of equals one drawn by weight. Reads
    /// every candidate.
    fn least(&self, ask: &Ask<'_>) -> Option<&Candidate> {
        self.least_of(ask, |index| self.can_be_had(index, ask))
            .or_else(|| self.least_of(ask, |index| self.is_untried(index, ask)))
    }

    fn least_of(&self, ask: &Ask<'_>, fits: impl Fn(usize) -> bool) -> Option<&Candidate> {
        let mut best: Option<(&Candidate, u64, u64)> = None;
        // The weights of those that are as good as the best so far.
        let mut equals: u64 = 0;
        let mut random = ask.random;
        for (index, candidate) in self.candidates.iter().enumerate().filter(|(i, _)| fits(*i)) {
            let share = self.ramp.as_ref().map_or(ramp::FULL, |ramp| ramp.share(index, ask.now_us));
            let weight = u64::from(candidate.weight) * u64::from(share);
            let load = u64::from(candidate.state.in_flight());
            // Both products are below 2^56.
            let order = best.map(|(_, least, its)| (load * its).cmp(&(least * weight)));
            match order {
                Some(std::cmp::Ordering::Greater) => continue,
                Some(std::cmp::Ordering::Equal) => {
                    equals += weight;
                    random = mix(random);
                    let point = (u128::from(random) * u128::from(equals)) >> 64;
                    if point >= u128::from(weight) {
                        continue;
                    }
                }
                Some(std::cmp::Ordering::Less) | None => equals = weight,
            }
            best = Some((candidate, load, weight));
        }
        best.map(|(candidate, ..)| candidate)
    }

    /// The candidate that the key leads to, or the next on its way that can be had.
    fn hashed(&self, table: &Maglev, key: NonZeroU64, ask: &Ask<'_>) -> Option<&Candidate> {
        // By the key, not by chance: each moves to a new instance once while it starts.
        let fits = |index: &usize| {
            self.can_be_had(*index, ask) && self.is_due(*index, ask, mix(key.get()))
        };
        let way = || table.candidates(key.get());
        way()
            .find(fits)
            .or_else(|| way().find(|index| self.can_be_had(*index, ask)))
            .or_else(|| way().find(|index| self.is_untried(*index, ask)))
            // One with hardly any weight may have no slot.
            .or_else(|| self.next_from(0, |index| self.is_untried(index, ask)))
            .map(|index| &self.candidates[index])
    }

    fn next_from(&self, from: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        (from..self.candidates.len()).chain(0..from).find(|index| fits(*index))
    }

    fn is_untried(&self, index: usize, ask: &Ask<'_>) -> bool {
        !ask.tried.contains(self.candidates[index].state.pool_key())
    }

    fn can_be_had(&self, index: usize, ask: &Ask<'_>) -> bool {
        self.is_untried(index, ask) && !self.candidates[index].state.strikes.is_out(ask.now_us)
    }

    /// Whether it gets this request although it may have come up only just now.
    fn is_due(&self, index: usize, ask: &Ask<'_>, random: u64) -> bool {
        self.ramp.as_ref().is_none_or(|ramp| ramp.takes(index, ask.now_us, random))
    }
}

impl Policy {
    fn new(
        balancing: &Balancing,
        candidates: &[Candidate],
        weights: &Weights,
        previous: Option<&Balance>,
    ) -> Self {
        let each = candidates.iter().map(|candidate| candidate.weight);
        match (balancing, previous.map(|previous| &previous.policy)) {
            (Balancing::P2c, _) => Self::P2c,
            (Balancing::Least, _) => Self::Least,
            (Balancing::RoundRobin, before) => {
                let before = match before {
                    Some(Self::RoundRobin(turns)) => Some(turns),
                    _ => None,
                };
                Self::RoundRobin(Turns::new(weights, each, before))
            }
            (Balancing::Hash(by), before) => {
                let before = match before {
                    Some(Self::Hash(hash)) => Some(&hash.1),
                    _ => None,
                };
                let named = candidates.iter().map(|one| (one.endpoint.id.as_str(), one.weight));
                Self::Hash(Box::new((by.clone(), Maglev::new(named, before))))
            }
        }
    }
}

/// Notes the key that led to it.
#[inline]
fn keyed(begun: InFlight, key: Option<NonZeroU64>) -> InFlight {
    match key {
        None => begun,
        Some(key) => begun.keyed(key),
    }
}

/// Of two the one with less to do, where it is clear; else the first, which was drawn by weight.
#[inline]
fn lighter<'c>(first: &'c Candidate, second: &'c Candidate, now_us: u64) -> &'c Candidate {
    let (ours, theirs) = (&first.state.latency, &second.state.latency);
    let is_better = if ours.peak() < NOISE && theirs.peak() < NOISE {
        second.burden_now() < first.burden_now()
    } else {
        is_lighter((second.burden_now(), theirs.at(now_us)), (first.burden_now(), ours.at(now_us)))
    };
    if is_better { second } else { first }
}

/// The same while one of them may be new: what it has under way weighs more on it.
fn lighter_ramped<'c>(
    (first, share): (&'c Candidate, u32),
    (second, other): (&'c Candidate, u32),
    now_us: u64,
) -> &'c Candidate {
    let scaled = |burden: u64, share: u32| burden * u64::from(ramp::FULL) / u64::from(share);
    let ours = (scaled(first.burden_now(), share), first.state.latency.at(now_us));
    let theirs = (scaled(second.burden_now(), other), second.state.latency.at(now_us));
    if is_lighter(theirs, ours) { second } else { first }
}

/// What is under way for its weight, and one more, times the latency. A latency counts only
/// where it is twice the other's: peaks of two that are alike differ all the time, and one of
/// them would get all the requests until the other's is forgotten. The one more is that of a
/// mean weight: two idle instances are equal, and the weights of the draw alone decide.
fn is_lighter((burden, cost): (u64, Cost), (other_burden, other_cost): (u64, Cost)) -> bool {
    let (above, other_above) =
        (u64::from(cost) + u64::from(NOISE), u64::from(other_cost) + u64::from(NOISE));
    let are_alike = above.max(other_above) < 2 * above.min(other_above);
    if cost == 0 || other_cost == 0 || are_alike {
        return burden < other_burden;
    }
    let load = |burden: u64, cost: u64| u128::from(burden + ONE) * u128::from(cost);
    load(burden, above) < load(other_burden, other_above)
}

impl Candidate {
    #[inline]
    fn burden_now(&self) -> u64 {
        u64::from(self.state.in_flight()) * u64::from(self.burden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Cost = 16_000;

    #[test]
    fn a_latency_counts_where_it_is_clear() {
        for (ours, theirs, expected, why) in [
            ((0, 0), (0, 50 * MS), false, "no sample, and equal otherwise"),
            ((0, 0), (ONE, 1), true, "no sample, and less under way"),
            ((0, 2 * MS), (0, 4 * MS), false, "alike and equal"),
            ((0, 2 * MS), (ONE, 3 * MS), true, "alike and less under way"),
            ((0, 2 * MS), (0, 9 * MS), true, "clearly faster"),
            ((2 * ONE, 2 * MS), (0, 9 * MS), true, "faster even so"),
            ((3 * ONE, 2 * MS), (0, 9 * MS), false, "too much under way for that"),
            ((0, 1), (0, MS / 2), false, "both fast"),
        ] {
            assert_eq!(is_lighter(ours, theirs), expected, "{why}");
        }
    }
}
