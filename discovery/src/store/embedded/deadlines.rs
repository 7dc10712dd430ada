//! When each lease ends. Pure: the time comes in.
//!
//! Only in memory: a keep-alive costs no write, and after a start each lease has its whole time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::LeaseId;

/// The leases and their last moments.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    leases: BTreeMap<LeaseId, Deadline>,
    /// No lease ends before; keep-alives only move ends away from it.
    earliest: Option<Instant>,
}

#[derive(Debug)]
struct Deadline {
    at: Instant,
    ttl: Duration,
    /// The end is decided, but not yet committed.
    is_ending: bool,
}

impl Deadlines {
    /// All leases with their whole time from `now` on.
    pub(super) fn starting(
        leases: impl IntoIterator<Item = (LeaseId, Duration)>,
        now: Instant,
    ) -> Self {
        let mut deadlines = Self::default();
        for (lease, ttl) in leases {
            deadlines.begin(lease, ttl, now);
        }
        deadlines
    }

    pub(super) fn begin(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        let at = now + ttl;
        self.leases.insert(lease, Deadline { at, ttl, is_ending: false });
        self.earliest = Some(self.earliest.map_or(at, |earliest| earliest.min(at)));
    }

    /// Gives the lease its whole time again, also when that has just run out; says no when it
    /// has ended.
    pub(super) fn keep(&mut self, lease: LeaseId, now: Instant) -> bool {
        match self.leases.get_mut(&lease) {
            Some(deadline) if !deadline.is_ending => {
                deadline.at = now + deadline.ttl;
                true
            }
            _ => false,
        }
    }

    /// The leases that have run out and are not forgotten; they cannot be kept any more.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LeaseId> {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (lease, deadline) in &mut self.leases {
            if deadline.at <= now {
                deadline.is_ending = true;
                due.push(*lease);
            }
        }
        self.earliest = self.leases.values().map(|deadline| deadline.at).min();
        due
    }

    pub(super) fn forget(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        if self.leases.is_empty() {
            self.earliest = None;
        }
    }

    /// Moves every end that is not decided away: the store could not hear a keep-alive.
    pub(super) fn extend(&mut self, by: Duration) {
        for deadline in self.leases.values_mut().filter(|deadline| !deadline.is_ending) {
            deadline.at += by;
        }
    }

    /// When to look again; may be too early, never too late.
    pub(super) fn next(&self) -> Option<Instant> {
        self.earliest
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a start to count from")]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    fn one(now: Instant) -> Deadlines {
        Deadlines::starting([(LeaseId(1), TTL)], now)
    }

    #[test]
    fn a_lease_is_due_when_its_time_is_over_and_until_it_is_forgotten() {
        let now = Instant::now();
        let mut deadlines = one(now);
        assert_eq!(deadlines.due(now + TTL - Duration::from_nanos(1)), []);
        assert_eq!(deadlines.due(now + TTL), [LeaseId(1)]);
        assert_eq!(deadlines.due(now + TTL), [LeaseId(1)]);
        deadlines.forget(LeaseId(1));
        assert_eq!(deadlines.due(now + 2 * TTL), []);
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn a_keep_alive_gives_the_whole_time_again() {
        let now = Instant::now();
        let mut deadlines = one(now);
        assert!(deadlines.keep(LeaseId(1), now + Duration::from_secs(2)));
        assert_eq!(deadlines.due(now + Duration::from_secs(4)), []);
        assert_eq!(deadlines.next(), Some(now + Duration::from_secs(5)));
        assert_eq!(deadlines.due(now + Duration::from_secs(5)), [LeaseId(1)]);
    }

    #[test]
    fn a_keep_alive_comes_too_late_only_when_the_end_is_decided() {
        let now = Instant::now();
        let mut deadlines = one(now);
        assert!(deadlines.keep(LeaseId(1), now + TTL));
        assert_eq!(deadlines.due(now + 2 * TTL), [LeaseId(1)]);
        assert!(!deadlines.keep(LeaseId(1), now + 2 * TTL));
        assert!(!deadlines.keep(LeaseId(2), now));
    }

    #[test]
    fn a_shorter_lease_that_comes_later_is_due_first() {
        let now = Instant::now();
        let mut deadlines = one(now);
        deadlines.begin(LeaseId(2), Duration::from_secs(1), now);
        assert_eq!(deadlines.next(), Some(now + Duration::from_secs(1)));
        assert_eq!(deadlines.due(now + Duration::from_secs(1)), [LeaseId(2)]);
    }

    #[test]
    fn a_frozen_store_ends_no_lease() {
        let now = Instant::now();
        let mut deadlines = one(now);
        deadlines.extend(Duration::from_secs(60));
        assert_eq!(deadlines.due(now + Duration::from_secs(60)), []);
        assert_eq!(deadlines.due(now + Duration::from_secs(63)), [LeaseId(1)]);
    }
}
