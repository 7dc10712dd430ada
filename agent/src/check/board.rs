//! What the checks of one instance say together. Locked for moments only, never across I/O.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portolan_discovery::model::{CheckSpec, Health};
use tokio::sync::watch;

use super::{Check, Flip};
use crate::probe::Outcome;

/// The last outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// The kind of check: `http`, `https`, `tcp` or `exec`.
    pub kind: &'static str,
    /// Whether it passed.
    pub ok: bool,
    /// What the probe saw, in a few words.
    pub detail: String,
    /// When it ended, in milliseconds of Unix time.
    pub at_ms: u64,
    /// How long it took.
    pub took: Duration,
}

/// Health with its cause.
pub(super) type Combined = (Health, Option<String>);

struct Slot {
    number: u64,
    spec: CheckSpec,
    check: Check,
    /// Why it is down, as of the flip.
    cause: Option<String>,
    last: Option<CheckResult>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    next_number: u64,
}

/// The checks of one instance.
pub(super) struct Board {
    state: Mutex<State>,
    combined: watch::Sender<Combined>,
}

impl Board {
    /// A board without checks that says what is known from before.
    pub(super) fn new(known: Combined) -> Self {
        Self { state: Mutex::default(), combined: watch::Sender::new(known) }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Combined> {
        self.combined.subscribe()
    }

    /// A panic elsewhere must not stop the checks: each change below leaves the state whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the wanted checks; equal ones go on undisturbed. Returns the numbers of all.
    pub(super) fn replace(&self, specs: Vec<CheckSpec>, now: Instant) -> Vec<u64> {
        let mut state = self.lock();
        let (health, cause) = self.combined.borrow().clone();
        let mut old = std::mem::take(&mut state.slots);
        for spec in specs {
            let slot = match old.iter().position(|slot| slot.spec == spec) {
                Some(at) => old.swap_remove(at),
                None => {
                    let number = state.next_number;
                    state.next_number += 1;
                    let check = Check::resume(&spec, health, now);
                    Slot { number, spec, check, cause: cause.clone(), last: None }
                }
            };
            state.slots.push(slot);
        }
        self.publish(&state.slots);
        state.slots.iter().map(|slot| slot.number).collect()
    }

    /// A check by its number, and when its first probe begins.
    pub(super) fn plan(&self, number: u64, jitter: u64) -> Option<(CheckSpec, Instant)> {
        let state = self.lock();
        let slot = state.slots.iter().find(|slot| slot.number == number)?;
        Some((slot.spec.clone(), slot.check.first_probe(jitter)))
    }

    /// Takes the outcome of a probe. Returns the flip and when the next probe begins; `None`
    /// when the check is not wanted any more.
    pub(super) fn observe(
        &self,
        number: u64,
        outcome: &Outcome,
        probe: Probed,
    ) -> Option<(Option<Flip>, Instant)> {
        let mut state = self.lock();
        let slot = state.slots.iter_mut().find(|slot| slot.number == number)?;
        let flip = slot.check.observe(outcome, probe.ended);
        let kind = slot.spec.kind.word();
        slot.last = Some(CheckResult {
            kind,
            ok: outcome.ok,
            detail: outcome.detail.clone(),
            at_ms: probe.ended_ms,
            took: outcome.took,
        });
        match flip {
            Some(Flip::Up) => slot.cause = None,
            Some(Flip::Down) => slot.cause = Some(format!("{kind}: {}", outcome.detail)),
            None => {}
        }
        let next = slot.check.next_probe(probe.began, probe.jitter);
        if flip.is_some() {
            self.publish(&state.slots);
        }
        Some((flip, next))
    }

    /// The last outcome of each check that has one.
    pub(super) fn results(&self) -> Vec<CheckResult> {
        self.lock().slots.iter().filter_map(|slot| slot.last.clone()).collect()
    }

    fn publish(&self, slots: &[Slot]) {
        let next = combine(slots);
        self.combined.send_if_modified(|current| {
            let is_new = *current != next;
            *current = next;
            is_new
        });
    }
}

/// The times of one probe, and a number for the jitter of the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probed {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) ended_ms: u64,
    pub(super) jitter: u64,
}

/// All must pass. Nothing is said before all have decided.
fn combine(slots: &[Slot]) -> Combined {
    if slots.iter().any(|slot| slot.check.health() == Health::Starting) {
        return (Health::Starting, None);
    }
    match slots.iter().find(|slot| slot.check.health() == Health::Down) {
        Some(slot) => (Health::Down, slot.cause.clone()),
        None => (Health::Up, None),
    }
}
