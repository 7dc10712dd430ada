//! Decides which job runs on which node: [`plan`].
//!
//! Pure, total and deterministic: the same view gives the same plan on every machine. Knows
//! nothing of the store, of deployments and of time beyond the stamp it puts on a placement.
//!
//! Two rules keep movement small. A job that runs is never stopped to run elsewhere, and a job
//! on a node that is not there counts as placed: only evidence about the job itself, or a
//! smaller wanted count, ends it.

mod fleet;
mod id;
mod refusal;
mod surplus;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use portolan_discovery::model::{
    AppName, JobId, JobSpec, Node, NodeName, Placement, ProcessName, ReleaseId, Wanted,
};

use fleet::Fleet;
use id::Names;
pub use refusal::{Reason, Refusal};

/// The most jobs that one plan places; the next plan places what is left.
pub const PLACED_MAX: u32 = 10_000;

/// Jobs that are alike: one process type of one release.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// The app.
    pub app: AppName,
    /// The process type.
    pub process: ProcessName,
    /// The release.
    pub release: ReleaseId,
}

impl Group {
    /// The group that `placement` is of.
    pub fn of(placement: &Placement) -> Self {
        Self {
            app: placement.app.clone(),
            process: placement.process.clone(),
            release: placement.release.clone(),
        }
    }
}

/// How many jobs of a group are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The count.
    pub count: u32,
    /// What each of them runs.
    pub spec: &'a JobSpec,
}

/// What is known of a job, from the one that is missed least to the one that is missed most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It has ended and does not come back.
    Ended,
    /// It has been told to stop by its agent.
    Ending,
    /// It failed; its agent starts it again later.
    Failing,
    /// Its agent has not started it yet, or it has not passed its checks yet.
    Pending,
    /// It takes no new work, but could again.
    Leaving,
    /// It runs, but its checks or an operator keep traffic away from it.
    Unready,
    /// It runs and may serve, but not every router is known to send it traffic.
    Unseen,
    /// It runs, and every router sends it traffic (if it takes any).
    Ready,
}

impl Standing {
    /// Whether some router may send it traffic, so that somebody would miss it.
    pub fn serves(self) -> bool {
        self >= Self::Unseen
    }
}

/// A job that was placed.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// Where, and what is wanted of it.
    pub placement: &'a Placement,
    /// What is known of it.
    pub standing: Standing,
    /// The port that its agent gave it, if it is known.
    pub port: Option<u16>,
}

impl Job<'_> {
    fn runs(&self) -> bool {
        self.placement.wanted == Wanted::Run && self.standing != Standing::Ended
    }

    /// Whether it was to stop and could still be told to go on.
    fn returns(&self) -> bool {
        self.placement.wanted == Wanted::Stop && self.standing > Standing::Ending
    }
}

/// Everything that a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct ClusterView<'a> {
    /// The nodes that are there.
    pub nodes: BTreeMap<&'a NodeName, &'a Node>,
    /// Every job that was placed, on whatever node.
    pub jobs: Vec<Job<'a>>,
    /// How many are wanted; a group that is not listed is not wanted at all.
    pub wanted: BTreeMap<Group, Want<'a>>,
    /// Apps whose jobs stay as they are, because what is wanted of them could not be read.
    pub held: BTreeSet<&'a AppName>,
    /// Ids that are in use beside those of `jobs`.
    pub reserved: BTreeSet<&'a JobId>,
}

/// Why a job is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// No job of its process type and release is wanted.
    Unwanted,
    /// There are more jobs than wanted.
    Surplus,
}

impl StopReason {
    /// The reason in a few words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unwanted => "no job of its release is wanted",
            Self::Surplus => "more jobs run than are wanted",
        }
    }
}

/// A job to drain and stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The node.
    pub node: NodeName,
    /// The job.
    pub job: JobId,
    /// Why.
    pub reason: StopReason,
}

/// What is to be done. Nothing in it depends on the order in which it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Jobs to start.
    pub place: Vec<Placement>,
    /// Jobs that were to stop and are to go on instead.
    pub resume: Vec<(NodeName, JobId)>,
    /// Jobs to drain and stop.
    pub stop: Vec<Stop>,
    /// What is wanted but fits nowhere.
    pub refused: Vec<Refusal>,
}

impl Plan {
    /// Whether nothing is to be done. Refusals are not deeds.
    pub fn is_empty(&self) -> bool {
        self.place.is_empty() && self.resume.is_empty() && self.stop.is_empty()
    }
}

/// Decides what has to change so that the wanted jobs run. `now_ms` stamps new placements and,
/// through their ids, tells them from those of other times.
pub fn plan(view: &ClusterView<'_>, now_ms: u64) -> Plan {
    let mut fleet = Fleet::new(view);
    let mut plan = Plan::default();
    let mut groups: BTreeMap<Group, Vec<Job<'_>>> = BTreeMap::new();
    for job in &view.jobs {
        groups.entry(Group::of(job.placement)).or_default().push(*job);
    }
    let mut missing: Vec<(&Group, Want<'_>, u32)> = Vec::new();
    for (group, jobs) in &groups {
        let count = view.wanted.get(group).map_or(0, |want| want.count);
        if !view.held.contains(&group.app) {
            surplus::stop(&fleet, jobs, count, &mut plan.stop);
        }
    }
    for (group, want) in &view.wanted {
        if view.held.contains(&group.app) {
            continue;
        }
        let jobs = groups.get(group).map_or(&[][..], Vec::as_slice);
        let lacking = want.count.saturating_sub(surplus::running(jobs));
        let lacking = resume(&fleet, jobs, lacking, &mut plan.resume);
        if lacking > 0 {
            missing.push((group, *want, lacking));
        }
    }
    // What is hard to fit goes first: small jobs find a place in what the large ones leave.
    missing.sort_by_key(|(group, want, _)| {
        let ask = want.spec.resources;
        (Reverse((ask.memory_mib, ask.cpu_millis, want.spec.port.is_some())), (*group).clone())
    });
    let mut names = Names::new(view, now_ms);
    let mut unplaced = Vec::new();
    for (group, want, lacking) in missing {
        let room = PLACED_MAX.saturating_sub(u32::try_from(plan.place.len()).unwrap_or(u32::MAX));
        let asked = lacking.min(room);
        let placed = place(&mut fleet, &mut names, (group, want.spec), asked, now_ms, &mut plan);
        if placed < asked {
            unplaced.push((group, want.spec, asked - placed));
        }
    }
    // Only now, so that the reasons are true of the cluster as the plan leaves it.
    unplaced.sort_by_key(|(group, ..)| *group);
    plan.refused = unplaced
        .into_iter()
        .map(|(group, spec, missing)| fleet.refusal(group, spec, missing))
        .collect();
    plan
}

/// Brings back up to `lacking` jobs that were to stop, the best first; says how many still lack.
fn resume(
    fleet: &Fleet<'_>,
    jobs: &[Job<'_>],
    lacking: u32,
    resumed: &mut Vec<(NodeName, JobId)>,
) -> u32 {
    let mut back: Vec<&Job<'_>> =
        jobs.iter().filter(|job| job.returns() && fleet.knows(&job.placement.node)).collect();
    back.sort_by_key(|job| (Reverse(job.standing), &job.placement.job));
    back.truncate(lacking as usize);
    resumed.extend(back.iter().map(|job| (job.placement.node.clone(), job.placement.job.clone())));
    lacking - u32::try_from(back.len()).expect("it was cut to a u32")
}

/// Places up to `asked` jobs of a group; says how many found a node.
fn place(
    fleet: &mut Fleet<'_>,
    names: &mut Names<'_>,
    (group, spec): (&Group, &JobSpec),
    asked: u32,
    now_ms: u64,
    plan: &mut Plan,
) -> u32 {
    let mut search = fleet.search(group);
    for placed in 0..asked {
        let job = names.next(group);
        let Some(node) = search.choose(fleet, spec, &job) else { return placed };
        plan.place.push(Placement {
            job,
            node,
            app: group.app.clone(),
            process: group.process.clone(),
            release: group.release.clone(),
            wanted: Wanted::Run,
            spec: spec.clone(),
            since_ms: now_ms,
        });
    }
    asked
}

#[cfg(test)]
mod tests;
