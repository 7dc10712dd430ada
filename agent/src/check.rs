//! The rule for health as a pure machine: outcomes and times go in, flips come out.
//!
//! Knows nothing of sockets, clocks, tasks or stores; [`run`] is the shell around it.

mod board;
pub mod run;

use std::time::{Duration, Instant};

use portolan_discovery::model::{CheckSpec, Health};

use crate::probe::Outcome;

/// From probe to probe until the first success of an instance that has just started.
pub const FAST: Duration = Duration::from_millis(100);
/// Within this time the checks of instances that were there before begin, spread at random,
/// so that a restart of the agent is no storm of probes.
pub const SPREAD: Duration = Duration::from_secs(1);
/// Intervals differ by up to this many thousandths, so that checks do not fall in step.
const JITTER_PERMILLE: u64 = 100;

/// What a check changes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flip {
    /// The instance takes traffic, as far as this check goes.
    Up,
    /// It does not.
    Down,
}

impl Flip {
    /// The word in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// One check of one instance.
///
/// The first result decides at once, except that failures within the start period decide
/// nothing. After that, `rise` or `fall` results in a row are needed.
#[derive(Debug, Clone)]
pub struct Check {
    every: Duration,
    rise: u8,
    fall: u8,
    started: Instant,
    start_ends: Instant,
    health: Health,
    /// Results in a row that speak against `health`.
    against: u8,
    /// Whether a probe of this machine has succeeded.
    passed: bool,
    /// Whether a probe of this machine has ended.
    probed: bool,
}

impl Check {
    /// The check of an instance that started at `started` and of which nothing is known.
    pub fn new(spec: &CheckSpec, started: Instant) -> Self {
        Self::resume(spec, Health::Starting, started)
    }

    /// The check of an instance whose health is known from before. A known `Up` is held until
    /// `fall` failures in a row (probed fast), a known `Down` only until the first success.
    pub fn resume(spec: &CheckSpec, health: Health, started: Instant) -> Self {
        Self {
            every: spec.every,
            rise: spec.rise.get(),
            fall: spec.fall.get(),
            started,
            // A start period beyond the clock's range is one without end.
            start_ends: started.checked_add(spec.start_period).unwrap_or(started + FAR),
            health,
            against: 0,
            passed: false,
            probed: false,
        }
    }

    /// What the check says now.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes the outcome of one probe.
    pub fn observe(&mut self, outcome: &Outcome, now: Instant) -> Option<Flip> {
        let flip = match (self.health, outcome.ok) {
            (Health::Starting, true) => Some(Flip::Up),
            (Health::Starting, false) => (now >= self.start_ends).then_some(Flip::Down),
            (Health::Up, true) | (Health::Down, false) => {
                self.against = 0;
                None
            }
            (Health::Up, false) => self.speak_against(self.fall, Flip::Down),
            (Health::Down, true) => {
                let needed = if self.probed { self.rise } else { 1 };
                self.speak_against(needed, Flip::Up)
            }
        };
        self.probed = true;
        self.passed |= outcome.ok;
        if let Some(flip) = flip {
            self.against = 0;
            self.health = match flip {
                Flip::Up => Health::Up,
                Flip::Down => Health::Down,
            };
        }
        debug_assert!(self.against < self.rise.max(self.fall), "enough in a row flips");
        flip
    }

    fn speak_against(&mut self, needed: u8, flip: Flip) -> Option<Flip> {
        self.against += 1;
        (self.against >= needed).then_some(flip)
    }

    /// When the first probe begins: at once after a start, else within [`SPREAD`].
    pub fn first_probe(&self, jitter: u64) -> Instant {
        match self.health {
            Health::Starting => self.started,
            Health::Up | Health::Down => {
                self.started + Duration::from_millis(jitter % (as_millis(SPREAD) + 1))
            }
        }
    }

    /// When the probe after the one that began at `began` begins; `jitter` is any number.
    pub fn next_probe(&self, began: Instant, jitter: u64) -> Instant {
        let interval = if self.is_fast(began) { FAST.min(self.every) } else { self.every };
        let permille = 1000 - JITTER_PERMILLE + jitter % (2 * JITTER_PERMILLE + 1);
        let permille = u32::try_from(permille).expect("at most 1,100");
        let interval = interval.saturating_mul(permille) / 1000;
        began.checked_add(interval).unwrap_or(began + FAR)
    }

    /// Whether the answer is awaited: in the start period until the first success, and while it
    /// is not yet confirmed that an instance known to be up still is.
    fn is_fast(&self, now: Instant) -> bool {
        !self.passed
            && match self.health {
                Health::Starting => now < self.start_ends,
                Health::Up => true,
                Health::Down => false,
            }
    }
}

/// Stands for "never" where the clock has no value for it: thirty years.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
