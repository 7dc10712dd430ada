//! What only time tells: since when a job is ready, and since when a deployment stands still.
//!
//! Kept in memory and measured on the clock that never jumps. A new leader begins with an empty
//! ledger and so gives everything its whole time again: it cannot know how long nobody led.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use portolan_discovery::model::{AppName, Deployment, DeploymentId, DeploymentState, JobId};

use super::deploy::Tally;

/// The memory of one leader.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    ready: HashMap<JobId, Instant>,
    stands: HashMap<(AppName, DeploymentId), Stand>,
}

#[derive(Debug, Clone, Copy)]
struct Stand {
    reverting: bool,
    wanted: u32,
    /// The most that were healthy at once: a job that flaps is no progress.
    best: u32,
    since: Instant,
}

/// What is seen of a deployment's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How long ago the last step forward was.
    pub(crate) stalled: Duration,
    /// Whether there was one just now.
    pub(crate) made: bool,
}

impl Ledger {
    /// Notes whether a job is ready; says for how long it has been.
    pub(crate) fn ready_for(&mut self, job: &JobId, is_ready: bool, now: Instant) -> Duration {
        if !is_ready {
            self.ready.remove(job);
            return Duration::ZERO;
        }
        let since = *self.ready.entry(job.clone()).or_insert(now);
        now.saturating_duration_since(since)
    }

    /// Notes how many of what a deployment waits for are healthy.
    pub(crate) fn progress(
        &mut self,
        deployment: &Deployment,
        tally: Tally,
        now: Instant,
    ) -> Progress {
        let reverting = matches!(deployment.state, DeploymentState::Reverting { .. });
        let fresh = Stand { reverting, wanted: tally.wanted, best: tally.healthy, since: now };
        let key = (deployment.app.clone(), deployment.id.clone());
        let stand = self.stands.entry(key).or_insert(fresh);
        if stand.reverting != reverting || stand.wanted != tally.wanted {
            *stand = fresh;
        }
        let made = tally.healthy > stand.best;
        // Waiting for old jobs to end is not standing still.
        if made || tally.is_full() {
            stand.best = stand.best.max(tally.healthy);
            stand.since = now;
        }
        Progress { stalled: now.saturating_duration_since(stand.since), made }
    }

    /// Forgets what is no more.
    pub(crate) fn retain(
        &mut self,
        is_job: impl Fn(&JobId) -> bool,
        is_active: impl Fn(&AppName, &DeploymentId) -> bool,
    ) {
        self.ready.retain(|job, _| is_job(job));
        self.stands.retain(|(app, id), _| is_active(app, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::deployment;

    fn tally(healthy: u32, wanted: u32) -> Tally {
        Tally { healthy, wanted }
    }

    #[test]
    fn only_more_healthy_jobs_than_ever_are_progress() {
        let (mut ledger, deployment) = (Ledger::default(), deployment());
        let start = crate::clock::now();
        let mut at = |second: u64, healthy| {
            let now = start + Duration::from_secs(second);
            let progress = ledger.progress(&deployment, tally(healthy, 4), now);
            (progress.stalled.as_secs(), progress.made)
        };
        assert_eq!(at(0, 0), (0, false));
        assert_eq!(at(9, 0), (9, false));
        assert_eq!(at(10, 1), (0, true));
        assert_eq!(at(12, 0), (2, false));
        assert_eq!(at(15, 1), (5, false));
        assert_eq!(at(20, 2), (0, true));
        assert_eq!(at(30, 4), (0, true));
        // All are healthy: what is left is not the new release's fault.
        assert_eq!(at(500, 4), (0, false));
        assert_eq!(at(501, 3), (1, false));
    }

    #[test]
    fn another_wanted_count_and_another_direction_begin_anew() {
        let (mut ledger, mut deployment) = (Ledger::default(), deployment());
        let start = crate::clock::now();
        let later = start + Duration::from_secs(60);
        ledger.progress(&deployment, tally(0, 4), start);
        assert_eq!(ledger.progress(&deployment, tally(0, 8), later).stalled, Duration::ZERO);
        deployment.state = DeploymentState::Reverting { cause: "test".into() };
        let last = later + Duration::from_secs(60);
        assert_eq!(ledger.progress(&deployment, tally(0, 8), last).stalled, Duration::ZERO);
    }

    #[test]
    fn a_job_that_was_not_ready_begins_anew() {
        let mut ledger = Ledger::default();
        let job = JobId::parse("a").unwrap();
        let start = crate::clock::now();
        let at = |second| start + Duration::from_secs(second);
        assert_eq!(ledger.ready_for(&job, true, at(0)), Duration::ZERO);
        assert_eq!(ledger.ready_for(&job, true, at(3)), Duration::from_secs(3));
        assert_eq!(ledger.ready_for(&job, false, at(4)), Duration::ZERO);
        assert_eq!(ledger.ready_for(&job, true, at(5)), Duration::ZERO);
    }
}
