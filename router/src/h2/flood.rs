//! What a client may do to a connection that costs the router more than the client: each kind has
//! an allowance that grows with time and with honest work. Knows frames, not sockets.
//!
//! The library below has limits of its own for what it holds in memory. These here are for what it
//! would go on answering for ever.

use std::time::Duration;

use super::frames::{Frame, Kind};
use crate::deadline::Tick;

/// What a client has done too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    /// Requests that it took back (CVE-2023-44487), or that were too many at a time, or far too large.
    Resets,
    /// Frames that make us reset a stream (CVE-2025-8671), and requests that are none.
    Faults,
    /// Parts of one head (CVE-2024-27316).
    Continuations,
    /// SETTINGS.
    Settings,
    /// PING.
    Pings,
    /// DATA frames with nothing in them.
    EmptyData,
    /// Windows that grow by next to nothing.
    Windows,
    /// More than the library holds in memory for one connection: heads that unfold, crumbs of DATA.
    Memory,
    /// Frames that say nothing: PRIORITY, unknown ones, more WINDOW_UPDATE than we sent DATA.
    Idle,
}

impl Flood {
    /// Every kind, in declaration order: the label set of a metric.
    pub(crate) const ALL: [Self; 9] = [
        Self::Resets,
        Self::Faults,
        Self::Continuations,
        Self::Settings,
        Self::Pings,
        Self::EmptyData,
        Self::Windows,
        Self::Memory,
        Self::Idle,
    ];

    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Faults => "faults",
            Self::Continuations => "continuations",
            Self::Settings => "settings",
            Self::Pings => "pings",
            Self::EmptyData => "empty_data",
            Self::Windows => "windows",
            Self::Memory => "memory",
            Self::Idle => "idle",
        }
    }

    const fn rule(self) -> Rule {
        match self {
            // A page with a hundred pictures that is left; then as many as requests were answered.
            Self::Resets => Rule { saved_max: 1_000, at_start: 200, per_second: 20 },
            Self::Faults => Rule { saved_max: 100, at_start: 100, per_second: 1 },
            // The library says so.
            Self::Memory => Rule { saved_max: 0, at_start: 0, per_second: 0 },
            // By head, not by time: four frames hold the largest one.
            Self::Continuations => Rule { saved_max: 5, at_start: 5, per_second: 0 },
            Self::Settings => Rule { saved_max: 50, at_start: 50, per_second: 2 },
            // gRPC measures its connection with one a round trip while data flows.
            Self::Pings => Rule { saved_max: 2_000, at_start: 200, per_second: 20 },
            Self::EmptyData => Rule { saved_max: 100, at_start: 100, per_second: 10 },
            Self::Windows => Rule { saved_max: 500, at_start: 500, per_second: 50 },
            Self::Idle => Rule { saved_max: 4_000, at_start: 500, per_second: 50 },
        }
    }
}

/// How often something may be done.
struct Rule {
    saved_max: u32,
    at_start: u32,
    per_second: u32,
}

/// A window that grows by less makes us send crumbs.
const WINDOW_GROWTH_MIN: u32 = 16;

/// What each DATA frame that we send earns: a client may answer with an update of both windows, and
/// now and then with a PING.
const IDLE_PER_DATA: u32 = 3;

/// What a client has left.
#[derive(Debug)]
pub(super) struct Allowance {
    left: [u32; Flood::ALL.len()],
    since: Tick,
}

impl Allowance {
    pub(super) fn new(now: Tick) -> Self {
        Self { left: Flood::ALL.map(|flood| flood.rule().at_start), since: now }
    }

    /// Judges a frame of the client.
    pub(super) fn received(&mut self, frame: &Frame, now: Tick) -> Result<(), Flood> {
        match frame.kind {
            Kind::Data if frame.len == 0 && !frame.has_flag_1() => {
                self.spend(Flood::EmptyData, now)
            }
            Kind::Data | Kind::GoAway | Kind::PushPromise => Ok(()),
            Kind::Headers => {
                let continuations = Flood::Continuations;
                self.left[continuations as usize] = continuations.rule().at_start;
                Ok(())
            }
            Kind::Continuation => self.spend(Flood::Continuations, now),
            Kind::Reset => self.spend(Flood::Resets, now),
            Kind::Settings => self.spend(Flood::Settings, now),
            Kind::Ping => self.spend(Flood::Pings, now),
            Kind::WindowUpdate if frame.words[0] < WINDOW_GROWTH_MIN => {
                self.spend(Flood::Windows, now)
            }
            Kind::WindowUpdate | Kind::Priority | Kind::Unknown => self.spend(Flood::Idle, now),
        }
    }

    /// We had to reset a stream, or to leave a request without an answer, for a fault of the client.
    pub(super) fn fault(&mut self, now: Tick) -> Result<(), Flood> {
        self.spend(Flood::Faults, now)
    }

    /// It has asked for more at a time than it may.
    pub(super) fn refused(&mut self, now: Tick) -> Result<(), Flood> {
        self.spend(Flood::Resets, now)
    }

    /// So many requests were answered in full.
    pub(super) fn answered(&mut self, count: u32) {
        self.earn(Flood::Resets, count);
    }

    /// We sent a DATA frame with something in it.
    pub(super) fn sent_data(&mut self) {
        self.earn(Flood::Idle, IDLE_PER_DATA);
        self.earn(Flood::Pings, 1);
    }

    fn earn(&mut self, flood: Flood, count: u32) {
        let left = &mut self.left[flood as usize];
        *left = left.saturating_add(count).min(flood.rule().saved_max.max(*left));
    }

    fn spend(&mut self, flood: Flood, now: Tick) -> Result<(), Flood> {
        if self.left[flood as usize] == 0 {
            self.grow(now);
        }
        let left = &mut self.left[flood as usize];
        *left = left.checked_sub(1).ok_or(flood)?;
        Ok(())
    }

    /// Adds what time has brought, in whole seconds.
    #[cold]
    fn grow(&mut self, now: Tick) {
        let seconds = now.since(self.since).as_secs();
        if seconds == 0 {
            return;
        }
        self.since = self.since.later(Duration::from_secs(seconds));
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        for flood in Flood::ALL {
            self.earn(flood, flood.rule().per_second.saturating_mul(seconds));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, len: usize, word: u32) -> Frame {
        Frame { kind, flags: 0, stream: 1, len, words: [word, 0] }
    }

    fn at(seconds: u64) -> Tick {
        Tick::ZERO.later(Duration::from_secs(seconds))
    }

    /// How many of these a client may send at once, up to a million.
    fn taken(allowance: &mut Allowance, frame: Frame, now: Tick) -> usize {
        (0..1_000_000).take_while(|_| allowance.received(&frame, now).is_ok()).count()
    }

    #[test]
    fn each_kind_has_an_allowance_of_its_own_that_grows_with_time() {
        for (frame, flood) in [
            (frame(Kind::Reset, 4, 8), Flood::Resets),
            (frame(Kind::Settings, 0, 0), Flood::Settings),
            (frame(Kind::Ping, 8, 0), Flood::Pings),
            (frame(Kind::Data, 0, 0), Flood::EmptyData),
            (frame(Kind::WindowUpdate, 4, 1), Flood::Windows),
            (frame(Kind::WindowUpdate, 4, 1_000), Flood::Idle),
            (frame(Kind::Priority, 5, 0), Flood::Idle),
            (frame(Kind::Unknown, 0, 0), Flood::Idle),
            (frame(Kind::Continuation, 9, 0), Flood::Continuations),
        ] {
            let mut allowance = Allowance::new(at(0));
            let rule = flood.rule();
            assert_eq!(taken(&mut allowance, frame, at(0)), rule.at_start as usize, "{flood:?}");
            assert_eq!(allowance.received(&frame, at(0)), Err(flood));
            let grown = (2 * rule.per_second).min(rule.saved_max);
            assert_eq!(taken(&mut allowance, frame, at(2)), grown as usize, "{flood:?}");
        }
    }

    #[test]
    fn honest_work_is_never_limited() {
        let mut allowance = Allowance::new(at(0));
        let data = frame(Kind::Data, 1, 0);
        let end = Frame { flags: 1, ..frame(Kind::Data, 0, 0) };
        for _ in 0..100_000 {
            allowance.received(&frame(Kind::Headers, 30, 0), at(0)).unwrap();
            allowance.received(&data, at(0)).unwrap();
            allowance.received(&end, at(0)).unwrap();
            allowance.sent_data();
            for _ in 0..2 {
                allowance.received(&frame(Kind::WindowUpdate, 4, 1_000), at(0)).unwrap();
            }
            allowance.received(&frame(Kind::Ping, 8, 0), at(0)).unwrap();
            allowance.answered(1);
            allowance.received(&frame(Kind::Reset, 4, 8), at(0)).unwrap();
        }
    }

    #[test]
    fn each_head_may_have_its_parts() {
        let mut allowance = Allowance::new(at(0));
        for _ in 0..1_000 {
            allowance.received(&frame(Kind::Headers, 9, 0), at(0)).unwrap();
            for _ in 0..5 {
                allowance.received(&frame(Kind::Continuation, 9, 0), at(0)).unwrap();
            }
        }
        assert!(allowance.received(&frame(Kind::Continuation, 9, 0), at(0)).is_err());
    }

    #[test]
    fn faults_are_counted_over_the_life_of_a_connection() {
        let mut allowance = Allowance::new(at(0));
        let faults = (0..1_000).take_while(|_| allowance.fault(at(0)).is_ok()).count();
        assert_eq!(faults, 100);
        assert_eq!(allowance.fault(at(0)), Err(Flood::Faults));
    }
}
