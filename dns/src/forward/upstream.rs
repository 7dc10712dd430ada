//! What is known of an upstream, and which one is asked first.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// The shortest patience before a second upstream is asked as well.
const HEDGE_AFTER_MIN: Duration = Duration::from_millis(30);
/// The most that silence or failures count: an upstream must be able to come back.
const SRTT_MAX: Duration = Duration::from_secs(1);
/// Failures in a row after which an upstream is put behind the others.
const FAILURES_TO_DEMOTE: u32 = 2;
/// Silences in a row after which nothing is expected of it. To say no is not silence.
const SILENCES_TO_BE_DOWN: u32 = 2;
/// How often an upstream that was put behind is tried on the side.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// An upstream gives way to a later one only if that is twice as fast and this much.
const PREFERENCE: Duration = Duration::from_millis(10);

/// How long an upstream that answered only without EDNS is asked without.
const PLAIN_FOR: Duration = Duration::from_secs(300);

/// An upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) addr: SocketAddr,
    /// Until when it is asked without EDNS.
    plain_until: Cell<Duration>,
    srtt: Cell<Duration>,
    /// Whether `srtt` is a guess from silence.
    guessed: Cell<bool>,
    failures: Cell<u32>,
    silences: Cell<u32>,
    asked: Cell<Duration>,
}

impl Upstream {
    pub(super) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            plain_until: Cell::new(Duration::ZERO),
            srtt: Cell::new(Duration::ZERO),
            guessed: Cell::new(true),
            failures: Cell::new(0),
            silences: Cell::new(0),
            asked: Cell::new(Duration::ZERO),
        }
    }

    /// Whether it is asked with EDNS.
    pub(super) fn knows_edns(&self, now: Duration) -> bool {
        now >= self.plain_until.get()
    }

    /// It answered only without EDNS. That may have been one odd name, so it is not for good.
    pub(super) fn ask_plainly(&self, now: Duration) {
        self.plain_until.set(now + PLAIN_FOR);
    }

    /// How long it may be silent before the next one is asked as well.
    pub(super) fn hedge_after(&self) -> Duration {
        (self.srtt.get() * 2).max(HEDGE_AFTER_MIN)
    }

    /// Whether it has answered nothing for a while.
    pub(super) fn is_down(&self) -> bool {
        self.silences.get() >= SILENCES_TO_BE_DOWN
    }

    pub(super) fn asked(&self, now: Duration) {
        self.asked.set(now);
    }

    /// It answered: RFC 6298's smoothing, from the first real sample on.
    pub(super) fn answered(&self, after: Duration) {
        self.failures.set(0);
        self.silences.set(0);
        let srtt = self.srtt.get();
        let srtt = if self.guessed.take() { after } else { (srtt * 7 + after) / 8 };
        self.srtt.set(srtt.min(SRTT_MAX));
    }

    /// It was silent for so long that another one was asked.
    pub(super) fn is_late(&self, waited: Duration) {
        self.srtt.set((self.srtt.get() * 2).max(waited).min(SRTT_MAX));
        self.guessed.set(true);
    }

    /// It gave no answer, or said that it has none.
    pub(super) fn failed(&self, was_silent: bool) {
        self.failures.set(self.failures.get().saturating_add(1));
        self.silences.set(if was_silent { self.silences.get().saturating_add(1) } else { 0 });
    }

    fn cost(&self) -> Duration {
        if self.failures.get() >= FAILURES_TO_DEMOTE { SRTT_MAX } else { self.srtt.get() }
    }
}

/// The upstreams in the order in which a question is put to them. The configured order holds
/// among those of like speed.
pub(super) fn order(upstreams: &[Rc<Upstream>]) -> Vec<usize> {
    let costs: Vec<Duration> = upstreams.iter().map(|upstream| upstream.cost()).collect();
    let Some(best) = costs.iter().min() else { return Vec::new() };
    let good_enough = *best * 2 + PREFERENCE;
    let first = costs.iter().position(|cost| *cost <= good_enough).unwrap_or(0);
    let mut order: Vec<usize> = (0..upstreams.len()).collect();
    order.sort_by_key(|index| (*index != first, costs[*index]));
    order
}

/// One that the configuration puts before `first` and that was not asked for a while.
pub(super) fn probe_due(
    upstreams: &[Rc<Upstream>],
    first: usize,
    now: Duration,
) -> Option<&Rc<Upstream>> {
    upstreams[..first].iter().find(|upstream| now >= upstream.asked.get() + PROBE_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(srtts_ms: &[u64]) -> Vec<Rc<Upstream>> {
        srtts_ms
            .iter()
            .map(|srtt| {
                let upstream = Upstream::new(SocketAddr::from(([127, 0, 0, 1], 53)));
                upstream.answered(Duration::from_millis(*srtt));
                Rc::new(upstream)
            })
            .collect()
    }

    #[test]
    fn an_upstream_that_fails_at_edns_once_is_asked_with_it_again_later() {
        let upstream = Upstream::new(SocketAddr::from(([127, 0, 0, 1], 53)));
        let now = Duration::from_secs(1000);
        assert!(upstream.knows_edns(now));
        upstream.ask_plainly(now);
        assert!(!upstream.knows_edns(now + PLAIN_FOR - Duration::from_millis(1)));
        assert!(upstream.knows_edns(now + PLAIN_FOR));
    }

    #[test]
    fn the_configured_order_holds_among_those_of_like_speed() {
        for (srtts, expected) in [
            (&[][..], &[][..]),
            (&[5], &[0]),
            (&[0, 0, 0], &[0, 1, 2]),
            (&[12, 1], &[0, 1]),
            (&[13, 1], &[1, 0]),
            (&[60, 30], &[0, 1]),
            (&[200, 1, 0], &[1, 2, 0]),
        ] {
            assert_eq!(order(&upstreams(srtts)), expected, "{srtts:?}");
        }
    }

    #[test]
    fn silence_puts_an_upstream_behind_and_an_answer_brings_it_back() {
        let pair = upstreams(&[1, 1]);
        pair[0].is_late(Duration::from_millis(30));
        assert_eq!(order(&pair), [1, 0]);
        pair[0].answered(Duration::from_millis(1));
        assert_eq!(order(&pair), [0, 1]);
    }

    #[test]
    fn failures_in_a_row_put_it_behind_and_one_does_not() {
        let pair = upstreams(&[1, 1]);
        pair[0].failed(false);
        assert_eq!(order(&pair), [0, 1]);
        pair[0].failed(false);
        assert_eq!(order(&pair), [1, 0]);
        pair[1].failed(false);
        pair[1].failed(false);
        assert_eq!(order(&pair), [0, 1]);
    }

    #[test]
    fn silence_is_being_down_and_saying_no_is_not() {
        let upstream = &upstreams(&[1])[0];
        for (was_silent, expected) in
            [(false, false), (false, false), (true, false), (true, true), (false, false)]
        {
            upstream.failed(was_silent);
            assert_eq!(upstream.is_down(), expected);
        }
    }

    #[test]
    fn one_that_was_put_behind_is_tried_on_the_side_now_and_then() {
        let pair = upstreams(&[200, 1]);
        let at = Duration::from_secs;
        pair[0].asked(at(10));
        assert!(probe_due(&pair, 1, at(11)).is_none());
        assert!(probe_due(&pair, 1, at(12)).is_some());
        assert!(probe_due(&pair, 0, at(20)).is_none());
    }
}
