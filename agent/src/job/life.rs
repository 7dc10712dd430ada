//! The life of one job as a pure machine: events and times go in, actions come out.
//!
//! Knows nothing of processes, files, stores or clocks; [`super::run`] is the shell around it.

use std::time::Duration;

use portolan_discovery::model::{Health, JobState};

/// The longest pause before a job that ended is started again.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A job that was up for this long has earned a first pause again.
pub(crate) const BACKOFF_RESET: Duration = Duration::from_secs(60);
/// From one SIGKILL to the next, should the first have been lost.
pub(crate) const KILL_AGAIN: Duration = Duration::from_secs(5);

/// The pause after the `failures`-th end in a row, counted from 0: none, 1 s, 2 s, 4 s, …
pub(crate) fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_secs(1 << (n - 1).min(5)).min(BACKOFF_MAX),
    }
}

/// The time, on the clock that never goes back and on the one that people read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Since some fixed point.
    pub at: Duration,
    /// Milliseconds of Unix time; only written down, never compared.
    pub unix_ms: u64,
}

/// What is wanted of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// To run.
    Run,
    /// To be stopped, and remembered.
    Stop,
    /// To be stopped and forgotten.
    Gone,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Something is wanted.
    Want(Want),
    /// The process runs.
    Started,
    /// The process has ended, or could not be started.
    Ended(String),
    /// All checks pass.
    Passing,
    /// A check fails.
    Failing(Option<String>),
    /// No router uses the instance any more.
    Drained,
    /// The deadline has come.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start the process.
    Launch,
    /// Tell the store how things stand.
    Say(JobState),
    /// Make the instance's record.
    Register,
    /// Change the instance's health.
    Health(Health, Option<String>),
    /// Ask the routers to leave the instance alone, and wait until they do.
    Drain,
    /// Let them use it again.
    Undrain,
    /// Delete the instance's record.
    Deregister,
    /// Ask all processes of the job to end.
    Terminate,
    /// End them.
    Kill,
    /// Delete all that is left of the job. The last action.
    Forget,
}

/// What the job's spec says of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Whether routers may be using it.
    pub drains: bool,
    /// The longest wait for them.
    pub drain_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub kill_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Never run, as far as is known.
    Idle,
    /// Being started.
    Launching,
    /// Runs; the checks have not passed yet.
    Starting,
    /// Runs, and was up at `since` for the first time, or `before` this machine was made.
    Running { since: Duration, before: Duration },
    /// Waits for the routers.
    Draining { until: Duration, since: Duration, before: Duration },
    /// Has been told to end.
    Stopping { kill_at: Duration },
    /// Has ended, and is started again.
    Waiting { until: Duration },
    /// Has ended, and stays so.
    Stopped,
    /// Forgotten.
    Over,
}

/// Where a machine begins, when the job was there before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Past {
    /// It was not.
    Fresh,
    /// It runs; was up for so long, if ever.
    Live(Option<Duration>),
    /// It has ended and is to be started again at that time.
    Waiting(Duration),
    /// It was stopped.
    Stopped,
}

/// One job.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    rules: Rules,
    want: Want,
    stage: Stage,
    /// How often it was started again after an end.
    pub restarts: u32,
    /// Ends in a row, without a long time up in between.
    pub failures: u32,
}

impl Life {
    pub(crate) fn new(rules: Rules, origin: Past, restarts: u32, failures: u32) -> Self {
        let stage = match origin {
            Past::Fresh => Stage::Idle,
            Past::Live(None) => Stage::Starting,
            Past::Live(Some(before)) => Stage::Running { since: Duration::ZERO, before },
            Past::Waiting(until) => Stage::Waiting { until },
            Past::Stopped => Stage::Stopped,
        };
        Self { rules, want: Want::Run, stage, restarts, failures }
    }

    /// Takes over other rules; a wait under way keeps its deadline.
    pub(crate) fn obey(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Whether nothing will happen any more.
    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// When [`Event::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::Waiting { until } | Stage::Draining { until, .. } => Some(until),
            Stage::Stopping { kill_at } => Some(kill_at),
            _ => None,
        }
    }

    /// Takes what has happened and says what is to be done, in this order.
    pub(crate) fn on(&mut self, event: Event, now: Now) -> Vec<Action> {
        match event {
            Event::Want(want) => self.wanted(want, now),
            Event::Started => self.started(now),
            Event::Ended(how) => self.ended(&how, now),
            Event::Passing => self.passing(now),
            Event::Failing(cause) => self.failing(cause),
            Event::Drained if matches!(self.stage, Stage::Draining { .. }) => self.stop(now),
            Event::Drained => Vec::new(),
            Event::Tick => self.tick(now),
        }
    }

    fn wanted(&mut self, want: Want, now: Now) -> Vec<Action> {
        self.want = want;
        match (want, self.stage) {
            (Want::Run, Stage::Idle | Stage::Stopped) => {
                self.stage = Stage::Launching;
                vec![Action::Launch]
            }
            (Want::Run, Stage::Draining { since, before, .. }) => {
                self.stage = Stage::Running { since, before };
                vec![Action::Undrain, Action::Say(JobState::Running)]
            }
            (Want::Stop | Want::Gone, Stage::Idle | Stage::Waiting { .. }) => self.stopped(),
            (Want::Gone, Stage::Stopped) => self.stopped(),
            (Want::Stop | Want::Gone, Stage::Running { since, before }) if self.rules.drains => {
                let until = now.at + self.rules.drain_timeout;
                self.stage = Stage::Draining { until, since, before };
                vec![Action::Drain, Action::Say(JobState::Draining)]
            }
            // A job that was never up has never been given work.
            (Want::Stop | Want::Gone, Stage::Running { .. } | Stage::Starting) => self.stop(now),
            // What is under way already ends where it is wanted.
            _ => Vec::new(),
        }
    }

    fn started(&mut self, now: Now) -> Vec<Action> {
        debug_assert_eq!(self.stage, Stage::Launching, "only what is launched starts");
        if self.want != Want::Run {
            return self.stop(now);
        }
        self.stage = Stage::Starting;
        vec![Action::Register, Action::Say(JobState::Starting)]
    }

    fn stop(&mut self, now: Now) -> Vec<Action> {
        self.stage = Stage::Stopping { kill_at: now.at + self.rules.kill_timeout };
        vec![Action::Terminate, Action::Say(JobState::Stopping)]
    }

    fn ended(&mut self, how: &str, now: Now) -> Vec<Action> {
        if self.want != Want::Run {
            return self.stopped();
        }
        match self.stage {
            // It was wanted again after it had been told to end.
            Stage::Stopping { .. } => {
                self.stage = Stage::Launching;
                return vec![Action::Deregister, Action::Launch];
            }
            Stage::Running { since, before } | Stage::Draining { since, before, .. }
                if now.at.saturating_sub(since) + before >= BACKOFF_RESET =>
            {
                self.failures = 0;
            }
            _ => {}
        }
        let pause = backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.stage = Stage::Waiting { until: now.at + pause };
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let until_ms = now.unix_ms.saturating_add(pause_ms);
        let state = JobState::Backoff { cause: how.to_owned(), until_ms };
        vec![Action::Deregister, Action::Say(state)]
    }

    fn stopped(&mut self) -> Vec<Action> {
        self.failures = 0;
        if self.want == Want::Gone {
            self.stage = Stage::Over;
            return vec![Action::Deregister, Action::Forget];
        }
        self.stage = Stage::Stopped;
        vec![Action::Deregister, Action::Say(JobState::Stopped)]
    }

    fn passing(&mut self, now: Now) -> Vec<Action> {
        match self.stage {
            Stage::Starting => {
                self.stage = Stage::Running { since: now.at, before: Duration::ZERO };
                vec![Action::Health(Health::Up, None), Action::Say(JobState::Running)]
            }
            Stage::Running { .. } | Stage::Draining { .. } => {
                vec![Action::Health(Health::Up, None)]
            }
            _ => Vec::new(),
        }
    }

    fn failing(&mut self, cause: Option<String>) -> Vec<Action> {
        match self.stage {
            // Down would let a panic send it requests; until it was up once, nothing may.
            Stage::Starting => vec![Action::Health(Health::Starting, cause)],
            Stage::Running { .. } | Stage::Draining { .. } => {
                vec![Action::Health(Health::Down, cause)]
            }
            _ => Vec::new(),
        }
    }

    fn tick(&mut self, now: Now) -> Vec<Action> {
        if self.deadline().is_none_or(|deadline| now.at < deadline) {
            return Vec::new();
        }
        match self.stage {
            Stage::Waiting { .. } => {
                self.restarts = self.restarts.saturating_add(1);
                self.stage = Stage::Launching;
                vec![Action::Launch]
            }
            Stage::Draining { .. } => self.stop(now),
            Stage::Stopping { .. } => {
                self.stage = Stage::Stopping { kill_at: now.at + KILL_AGAIN };
                vec![Action::Kill]
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
