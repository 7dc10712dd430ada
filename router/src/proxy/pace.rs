//! How fast a request body has to come: on the average, after a grace, and only while it is the
//! client that is waited for. Knows no clock and no sockets.
//!
//! The rule is that of Apache's `RequestReadTimeout body=20,MinRate=500` and of Kestrel's
//! `MinRequestBodyDataRate`: what has come buys time for what comes next. An upload that makes
//! long pauses between large pieces is fine, one that dribbles bytes ends after the grace.

use std::time::Duration;

use crate::deadline::Tick;

/// What is asked of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// Bytes a second on the average; none asks for nothing.
    pub(super) bytes_per_s: u32,
    /// Before anything is asked.
    pub(super) grace: Duration,
}

/// The time that one request body has taken of us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// When it began, had the instance taken everything at once.
    begun: Tick,
    /// Since when the instance is what is waited for.
    blocked: Option<Tick>,
}

impl Pace {
    pub(super) fn new(now: Tick) -> Self {
        Self { begun: now, blocked: None }
    }

    /// The instance takes no more for now: that is not the client's fault.
    pub(super) fn blocked(&mut self, now: Tick) {
        self.blocked.get_or_insert(now);
    }

    /// The client is waited for: by when, if `received` bytes of content have come.
    pub(super) fn due(&mut self, rule: &Rule, received: u64, now: Tick) -> Option<Tick> {
        if let Some(since) = self.blocked.take() {
            self.begun = self.begun.later(now.since(since));
        }
        let bought_ms = received.saturating_mul(1000).checked_div(rule.bytes_per_s.into())?;
        let bought = Duration::from_millis(bought_ms);
        Some(self.begun.after(rule.grace.saturating_add(bought)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { bytes_per_s: 200, grace: Duration::from_secs(20) };

    fn at(seconds: u64) -> Tick {
        Tick::ZERO.later(Duration::from_secs(seconds))
    }

    /// Plays bytes that come every second; how long it goes well, up to an hour.
    fn seconds(rule: &Rule, mut bytes_in: impl FnMut(u64) -> u64) -> u64 {
        let mut pace = Pace::new(at(0));
        let mut received = 0;
        for second in 0..3600 {
            if pace.due(rule, received, at(second)).is_some_and(|due| due <= at(second)) {
                return second;
            }
            received += bytes_in(second);
        }
        3600
    }

    #[test]
    fn who_dribbles_ends_soon_after_the_grace_and_who_sends_does_not() {
        assert_eq!(seconds(&RULE, |_| 0), 21);
        assert_eq!(seconds(&RULE, |_| 1), 21);
        assert_eq!(seconds(&RULE, |_| 100), 41, "half the rate lasts twice the grace");
        assert_eq!(seconds(&RULE, |_| 200), 3600);
    }

    #[test]
    fn pauses_are_paid_for_by_what_came_before() {
        let pieces = |second: u64| if second.is_multiple_of(300) { 65_536 } else { 0 };
        assert_eq!(seconds(&RULE, pieces), 3600);
    }

    #[test]
    fn an_instance_that_takes_nothing_is_not_held_against_the_client() {
        let mut pace = Pace::new(at(0));
        pace.blocked(at(5));
        pace.blocked(at(50));
        assert!(pace.due(&RULE, 0, at(100)) > Some(at(114)), "5 of 20 seconds are spent");
        assert!(pace.due(&RULE, 0, at(110)) <= Some(at(116)));
    }

    #[test]
    fn without_a_rate_nothing_is_asked() {
        assert_eq!(Pace::new(at(0)).due(&Rule { bytes_per_s: 0, ..RULE }, 0, at(99)), None);
    }
}
