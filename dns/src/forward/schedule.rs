//! Which upstream is asked when: a pure plan for one question.

use std::collections::VecDeque;
use std::time::Duration;

/// The most tries for one question, over all upstreams.
pub(super) const TRIES_MAX: usize = 8;
/// An upstream that was silent is asked again, for the datagram may be lost.
const TRIES_PER_UPSTREAM: u8 = 3;
/// From one try to another of an upstream that was asked before.
const RETRANSMIT_AFTER: Duration = Duration::from_secs(1);

/// The plan.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Who is asked next; behind the fresh ones those that have been asked.
    queue: VecDeque<Candidate>,
    in_flight: usize,
    tries: usize,
    next_at: Duration,
    started: Option<(usize, Duration)>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    index: usize,
    tries: u8,
}

/// A try to be made now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Started {
    /// Of which upstream.
    pub(super) index: usize,
    /// The upstream whose silence is the reason.
    pub(super) late: Option<usize>,
    /// How long that one has been silent.
    pub(super) waited: Duration,
}

impl Schedule {
    /// A plan for upstreams in order of preference; the first is asked at once.
    pub(super) fn new(order: &[usize]) -> Self {
        Self {
            queue: order.iter().map(|index| Candidate { index: *index, tries: 0 }).collect(),
            in_flight: 0,
            tries: 0,
            next_at: Duration::ZERO,
            started: None,
        }
    }

    /// When the next try is due, if there is to be one.
    pub(super) fn next_at(&self) -> Option<Duration> {
        (!self.queue.is_empty() && self.tries < TRIES_MAX).then_some(self.next_at)
    }

    /// Whether nothing can come any more.
    pub(super) fn is_over(&self) -> bool {
        self.in_flight == 0 && self.next_at().is_none()
    }

    /// Starts the next try. `hedge_after` says how long an upstream may be silent.
    pub(super) fn start(
        &mut self,
        now: Duration,
        hedge_after: impl Fn(usize) -> Duration,
    ) -> Option<Started> {
        self.next_at()?;
        let mut next = self.queue.pop_front()?;
        // A try that failed cleared `started`: only silence is held against an upstream.
        let late = self.started.filter(|(index, _)| *index != next.index);
        self.in_flight += 1;
        self.tries += 1;
        next.tries += 1;
        if next.tries < TRIES_PER_UPSTREAM {
            self.queue.push_back(next);
        }
        let is_fresh = self.queue.front().is_some_and(|candidate| candidate.tries == 0);
        let pause = if is_fresh { hedge_after(next.index) } else { RETRANSMIT_AFTER };
        self.next_at = now + pause;
        self.started = Some((next.index, now));
        Some(Started {
            index: next.index,
            late: late.map(|(index, _)| index),
            waited: late.map_or(Duration::ZERO, |(_, at)| now.saturating_sub(at)),
        })
    }

    /// A try ended without an answer: the next one is due now. Who was silent may be asked
    /// again, who said no is not.
    pub(super) fn failed(&mut self, index: usize, was_silent: bool, now: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if !was_silent {
            self.queue.retain(|candidate| candidate.index != index);
        }
        if self.started.is_some_and(|(started, _)| started == index) {
            self.started = None;
            self.next_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEDGE: Duration = Duration::from_millis(30);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn start(schedule: &mut Schedule, at: u64) -> Option<(usize, Option<usize>)> {
        schedule.start(ms(at), |_| HEDGE).map(|started| (started.index, started.late))
    }

    #[test]
    fn a_silent_upstream_is_hedged_and_then_asked_again() {
        let mut schedule = Schedule::new(&[1, 0]);
        assert_eq!(schedule.next_at(), Some(ms(0)));
        assert_eq!(start(&mut schedule, 0), Some((1, None)));
        assert_eq!(schedule.next_at(), Some(HEDGE));
        assert_eq!(start(&mut schedule, 30), Some((0, Some(1))));
        // Both have been asked: the third try is a retransmission.
        assert_eq!(schedule.next_at(), Some(ms(1030)));
        assert_eq!(start(&mut schedule, 1030), Some((1, Some(0))));
        assert!(!schedule.is_over());
    }

    #[test]
    fn who_says_no_is_not_asked_again_and_the_next_is_asked_at_once() {
        let mut schedule = Schedule::new(&[0, 1]);
        start(&mut schedule, 0);
        schedule.failed(0, false, ms(2));
        assert_eq!(schedule.next_at(), Some(ms(2)));
        assert_eq!(start(&mut schedule, 2), Some((1, None)));
        schedule.failed(1, false, ms(4));
        assert!(schedule.is_over());
    }

    #[test]
    fn one_upstream_that_is_silent_gets_three_tries() {
        let mut schedule = Schedule::new(&[0]);
        assert_eq!(start(&mut schedule, 0), Some((0, None)));
        assert_eq!(schedule.next_at(), Some(ms(1000)));
        assert_eq!(start(&mut schedule, 1000), Some((0, None)));
        assert_eq!(start(&mut schedule, 2000), Some((0, None)));
        assert_eq!(schedule.next_at(), None);
        for _ in 0..3 {
            assert!(!schedule.is_over());
            schedule.failed(0, true, ms(3500));
        }
        assert!(schedule.is_over());
    }

    #[test]
    fn many_silent_upstreams_do_not_get_more_tries_than_there_are() {
        let mut schedule = Schedule::new(&(0..8).collect::<Vec<_>>());
        let mut tries = 0;
        while let Some(at) = schedule.next_at() {
            assert!(schedule.start(at, |_| HEDGE).is_some());
            tries += 1;
        }
        assert_eq!(tries, TRIES_MAX);
    }

    #[test]
    fn a_late_failure_of_an_earlier_try_does_not_hurry_the_next() {
        let mut schedule = Schedule::new(&[0, 1, 2]);
        start(&mut schedule, 0);
        start(&mut schedule, 30);
        schedule.failed(0, true, ms(40));
        assert_eq!(schedule.next_at(), Some(ms(60)));
    }
}
