//! One step of a deployment: [`step`].
//!
//! Pure: the jobs as they are go in, the wanted counts and the next state come out. Nothing is
//! remembered between two steps, so whoever leads next goes on at the same place.
//!
//! Rolling, with none unavailable: new jobs come up beyond the wanted count, a few at a time,
//! and for each that every router sends traffic to, an old one goes. When the new release does
//! not become healthy the old one comes back in the same way, only all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portolan_discovery::model::instance::cause;
use portolan_discovery::model::{
    Deployment, DeploymentState, JobId, ProcessName, ReleaseId, Wanted,
};

use super::records::surge;
use crate::scheduler::Standing;

/// A new job that was started again this often and is not healthy ends its deployment at once.
pub const RESTARTS_MAX: u32 = 3;

/// A release with the wanted count of each of its process types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aim {
    /// The release.
    pub release: ReleaseId,
    /// The counts.
    pub counts: BTreeMap<ProcessName, u32>,
}

/// A job of the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployJob {
    /// The job.
    pub job: JobId,
    /// Its process type.
    pub process: ProcessName,
    /// Its release.
    pub release: ReleaseId,
    /// What is wanted of it.
    pub wanted: Wanted,
    /// How far it is.
    pub standing: Standing,
    /// Why it is not ready.
    pub why: Option<String>,
    /// Whether it has been ready for long enough to be relied on.
    pub settled: bool,
    /// Whether this deployment brought it up.
    pub fresh: bool,
    /// How often its agent started it again.
    pub restarts: u32,
    /// Whether its node is there, so that what is wanted of it can be done.
    pub reachable: bool,
}

/// What a step is decided from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployView {
    /// The release that is to serve.
    pub to: Aim,
    /// The one that served before, if any.
    pub from: Option<Aim>,
    /// All jobs of the app that have not ended.
    pub jobs: Vec<DeployJob>,
    /// Why jobs of the app were not placed.
    pub unplaced: Vec<String>,
    /// How long ago the last job that this waits for became healthy.
    pub stalled: Duration,
}

/// How many jobs are wanted, by release and process type. What is not listed is not wanted.
pub type Counts = BTreeMap<(ReleaseId, ProcessName), u32>;

/// What a step decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployStep {
    /// How many jobs are wanted.
    pub wanted: Counts,
    /// The state that the deployment goes to, if it leaves the one it is in.
    pub next: Option<DeploymentState>,
    /// What it waits for, in a few words.
    pub waits_for: String,
}

/// How many of the jobs that a deployment waits for are healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// So many are healthy.
    pub healthy: u32,
    /// So many are wanted.
    pub wanted: u32,
}

impl Tally {
    /// Whether nothing is missing.
    pub fn is_full(self) -> bool {
        self.healthy >= self.wanted
    }
}

/// Decides what the deployment needs next. One that is over needs nothing.
pub fn step(view: &DeployView, deployment: &Deployment) -> DeployStep {
    match &deployment.state {
        DeploymentState::Running => match failure(view, deployment) {
            Some(cause) => DeployStep {
                wanted: reverting(view),
                waits_for: cause.clone(),
                next: Some(DeploymentState::Reverting { cause }),
            },
            None => {
                let done =
                    tally(view, deployment).is_full() && left_beside(view, Some(&view.to)) == 0;
                DeployStep {
                    wanted: rolling(view, deployment.surge),
                    next: done.then_some(DeploymentState::Done),
                    waits_for: obstacle(view, Some(&view.to)),
                }
            }
        },
        DeploymentState::Reverting { cause } => {
            // An old release that does not come up again either is not waited for, unless jobs
            // of another one serve in its place: those stay until somebody deploys anew.
            let target = view.from.as_ref();
            let back = tally(view, deployment).is_full() || is_overdue(view, deployment);
            let done = back && left_beside(view, target) == 0;
            DeployStep {
                wanted: reverting(view),
                next: done.then(|| DeploymentState::Reverted { cause: cause.clone() }),
                waits_for: obstacle(view, target),
            }
        }
        DeploymentState::Done | DeploymentState::Reverted { .. } | DeploymentState::Superseded => {
            DeployStep { wanted: Counts::new(), next: None, waits_for: String::new() }
        }
    }
}

/// Counts the jobs that the deployment waits for: new ones, or old ones while it reverts.
pub fn tally(view: &DeployView, deployment: &Deployment) -> Tally {
    let target = match deployment.state {
        DeploymentState::Reverting { .. } => view.from.as_ref(),
        _ => Some(&view.to),
    };
    let mut sum = Tally { healthy: 0, wanted: 0 };
    for (process, count) in target.iter().flat_map(|aim| &aim.counts) {
        let release = &target.expect("it has counts").release;
        sum.healthy += healthy(view, release, process).min(*count);
        sum.wanted += count;
    }
    sum
}

fn is_overdue(view: &DeployView, deployment: &Deployment) -> bool {
    view.stalled >= Duration::from_millis(deployment.progress_deadline_ms)
}

/// Why the new release is given up, if it is.
fn failure(view: &DeployView, deployment: &Deployment) -> Option<String> {
    let crashed = view.jobs.iter().find(|job| {
        job.release == view.to.release
            && job.fresh
            && job.wanted == Wanted::Run
            && job.restarts >= RESTARTS_MAX
            && job.standing != Standing::Ready
    });
    if let Some(DeployJob { job, restarts, why, .. }) = crashed {
        let why = why.as_deref().unwrap_or("it ends");
        return Some(cause(&format!("{job} was started again {restarts} times: {why}")));
    }
    if tally(view, deployment).is_full() || !is_overdue(view, deployment) {
        return None;
    }
    let deadline = Duration::from_millis(deployment.progress_deadline_ms);
    let obstacle = obstacle(view, Some(&view.to));
    Some(cause(&format!("no new job became healthy in {deadline:?}: {obstacle}")))
}

/// What is missing and the first reason for it.
fn obstacle(view: &DeployView, target: Option<&Aim>) -> String {
    let mut parts = Vec::new();
    let mut reason = None;
    for (process, count) in target.iter().flat_map(|aim| &aim.counts) {
        let release = &target.expect("it has counts").release;
        let healthy = healthy(view, release, process).min(*count);
        if healthy < *count {
            parts.push(format!("{healthy} of {count} {process} healthy"));
            reason = reason.or_else(|| unready(view, release, process));
        }
    }
    if parts.is_empty() {
        let left = left_beside(view, target);
        parts.extend((left > 0).then(|| format!("{left} of other releases to end")));
    } else {
        parts.extend(view.unplaced.first().cloned());
        parts.extend(reason);
    }
    parts.join(", ")
}

fn unready(view: &DeployView, release: &ReleaseId, process: &ProcessName) -> Option<String> {
    let mut jobs = view.jobs.iter().filter(|job| job.wanted == Wanted::Run);
    jobs.find_map(|job| {
        let why = job.why.as_ref().filter(|_| job.release == *release && job.process == *process);
        why.map(|why| format!("{}: {why}", job.job))
    })
}

/// How many jobs beside those of `target` are still to end. One on a node that is not there
/// cannot be waited for: its agent stops it when it comes back.
fn left_beside(view: &DeployView, target: Option<&Aim>) -> usize {
    let is_of = |job: &DeployJob, aim: &Aim| {
        job.release == aim.release && aim.counts.contains_key(&job.process)
    };
    let beside = view.jobs.iter().filter(|job| !target.is_some_and(|aim| is_of(job, aim)));
    beside.filter(|job| job.reachable).count()
}

fn count(jobs: &[DeployJob], fits: impl Fn(&DeployJob) -> bool) -> u32 {
    let running = jobs.iter().filter(|job| job.wanted == Wanted::Run && fits(job));
    u32::try_from(running.count()).unwrap_or(u32::MAX)
}

fn healthy(view: &DeployView, release: &ReleaseId, process: &ProcessName) -> u32 {
    count(&view.jobs, |job| {
        job.release == *release
            && job.process == *process
            && job.standing == Standing::Ready
            && job.settled
    })
}

fn rolling(view: &DeployView, surge_max: u32) -> Counts {
    let to = &view.to;
    let mut wanted = Counts::new();
    let mut all_healthy = true;
    for (process, count) in &to.counts {
        let healthy = healthy(view, &to.release, process).min(*count);
        all_healthy &= healthy == *count;
        let kept = keep(view, process, count - healthy, &mut wanted);
        let surge = surge(*count).min(surge_max.max(1));
        let new = count.saturating_add(surge).saturating_sub(kept).min(*count);
        wanted.insert((to.release.clone(), process.clone()), new);
    }
    // What the new release has no more goes last, when the rest of it is known to be good.
    for process in processes_beside(view, to) {
        keep(view, &process, if all_healthy { 0 } else { u32::MAX }, &mut wanted);
    }
    wanted
}

fn processes_beside(view: &DeployView, aim: &Aim) -> BTreeSet<ProcessName> {
    let processes = view.jobs.iter().map(|job| &job.process);
    processes.filter(|process| !aim.counts.contains_key(*process)).cloned().collect()
}

/// Wants up to `left` jobs of `process` that are not of the new release: those that serve, of
/// the release to come back to and then of any other; and then those of the former that do not
/// serve yet. None of them is brought up. Says how many it wants.
fn keep(view: &DeployView, process: &ProcessName, left: u32, wanted: &mut Counts) -> u32 {
    let to = &view.to;
    let is_old = |job: &DeployJob| job.release != to.release || !to.counts.contains_key(process);
    let old = view.jobs.iter().filter(|job| is_old(job) && job.process == *process);
    let mut releases: Vec<&ReleaseId> = old.map(|job| &job.release).collect();
    let from = view.from.as_ref().map(|aim| &aim.release);
    releases.sort_by_key(|release| (Some(*release) != from, (*release).clone()));
    releases.dedup();
    let of = |release: &ReleaseId, serving_only: bool| {
        count(&view.jobs, |job| {
            job.release == *release
                && job.process == *process
                && (!serving_only || job.standing.serves())
        })
    };
    let mut kept = 0;
    for release in &releases {
        let serving = of(release, true).min(left - kept);
        kept += serving;
        wanted.insert(((*release).clone(), process.clone()), serving);
    }
    if let Some(from) = from.filter(|from| releases.contains(from)) {
        let entry = wanted.entry((from.clone(), process.clone())).or_default();
        let more = (of(from, false) - *entry).min(left - kept);
        *entry += more;
        kept += more;
    }
    kept
}

/// All of the old release at once, and of the others only what serves until it does.
fn reverting(view: &DeployView) -> Counts {
    let mut wanted = Counts::new();
    let Some(from) = &view.from else { return wanted };
    for (process, wanted_count) in &from.counts {
        wanted.insert((from.release.clone(), process.clone()), *wanted_count);
        let healthy = healthy(view, &from.release, process);
        let mut left = wanted_count.saturating_sub(healthy);
        let others: BTreeSet<&ReleaseId> = view.jobs.iter().map(|job| &job.release).collect();
        for release in others.into_iter().filter(|release| **release != from.release) {
            let serving = count(&view.jobs, |job| {
                job.release == *release && job.process == *process && job.standing.serves()
            });
            let kept = serving.min(left);
            left -= kept;
            wanted.insert((release.clone(), process.clone()), kept);
        }
    }
    wanted
}
