//! From what the controller knows to what it changes: one pass over the whole view.
//!
//! Pure but for the [`Ledger`]: the same view and ledger at the same time give the same changes.
//! Never declares a node lost: a job on a node that is not there counts as it was last known.
//! Its instance is judged by the routers' own evidence, and a job that were placed again while
//! the first still runs would serve twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use portolan_discovery::model::{
    AppName, Deployment, DeploymentState, Formation, Key, Placement, ReleaseId, Revision,
    ServiceName, VirtualRange, Wanted,
};

use super::addresses;
use super::commit::Change;
use super::deploy::{self, Aim, Counts, DeployJob, DeployView};
use super::health::condition;
use super::ledger::Ledger;
use super::records::{AppRecords, Stored};
use super::sweep;
use super::view::View;
use crate::scheduler::{self, ClusterView, Group, Job, Plan, Refusal, Standing, Want};

/// How long a job must be ready before a deployment relies on it.
pub const SETTLE: Duration = Duration::from_secs(1);

/// The time of a pass, on the clock that never jumps and on the one that people read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    pub(crate) unix_ms: u64,
}

/// What a pass decides.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// To be done in this order, before everything else.
    pub(crate) first: Vec<Change>,
    /// To be done then, in any order.
    pub(crate) then: Vec<Change>,
    /// What is done, for those who read the log.
    pub(crate) notes: Vec<String>,
    /// What is wanted but fits nowhere.
    pub(crate) refused: Vec<Refusal>,
    /// What each deployment under way waits for.
    pub(crate) waits_for: BTreeMap<AppName, String>,
    /// Services that ask for a virtual address and have none, and why.
    pub(crate) unaddressed: BTreeMap<ServiceName, String>,
    /// When time alone may change something.
    pub(crate) again_in: Option<Duration>,
}

/// A job as one pass sees it.
struct Seen<'v> {
    placement: &'v Placement,
    created: Revision,
    standing: Standing,
    why: Option<String>,
    settled: bool,
    restarts: u32,
    port: Option<u16>,
    reachable: bool,
}

/// The controller's memory and its decisions.
#[derive(Debug, Default)]
pub(crate) struct Reconciler {
    pub(crate) view: View,
    /// Where virtual addresses are given, if anywhere.
    pub(crate) range: Option<VirtualRange>,
    ledger: Ledger,
    /// Why the last pass could not place everything, by app.
    unplaced: BTreeMap<AppName, Vec<String>>,
}

impl Reconciler {
    /// One that gives virtual addresses of `range`, if there is one.
    pub(crate) fn giving(range: Option<VirtualRange>) -> Self {
        Self { range, ..Self::default() }
    }

    /// Forgets what a former term learned by watching.
    pub(crate) fn begin_term(&mut self) {
        self.ledger = Ledger::default();
        self.unplaced.clear();
    }

    /// Decides everything that the view asks for.
    pub(crate) fn decide(&mut self, now: Now) -> Decision {
        let Self { view, range, ledger, unplaced } = self;
        let view = &*view;
        let mut decision = Decision::default();
        end_overrides(view, now, &mut decision);
        let seen = look(view, ledger, now, &mut decision);
        let mut by_app: HashMap<&AppName, Vec<&Seen<'_>>> = HashMap::new();
        for job in &seen {
            by_app.entry(&job.placement.app).or_default().push(job);
        }
        let mut held = view.held();
        let mut wanted: BTreeMap<Group, Want<'_>> = BTreeMap::new();
        for (app, records) in &view.apps {
            if held.contains(app) || records.app.is_none() {
                continue;
            }
            let jobs = by_app.get(app).map_or(&[][..], Vec::as_slice);
            let reasons = unplaced.get(app).cloned().unwrap_or_default();
            let pass = AppPass { app, records, jobs, now };
            let counts = pass.counts(ledger, reasons, &mut decision);
            match counts.and_then(|counts| pass.wants(counts)) {
                Some(of_app) => wanted.extend(of_app),
                None => _ = held.insert(app),
            }
        }
        let plan = scheduler::plan(&cluster(view, &seen, wanted, held), now.unix_ms);
        write_plan(view, &plan, &mut decision);
        decision.then.extend(sweep::surplus(view));
        addresses::decide(view, range.as_ref(), now.unix_ms, &mut decision);
        unplaced.clear();
        for refusal in &plan.refused {
            unplaced.entry(refusal.group.app.clone()).or_default().push(refusal.reasons());
        }
        decision.refused = plan.refused;
        let jobs: BTreeSet<&str> = seen.iter().map(|job| job.placement.job.as_str()).collect();
        ledger.retain(
            |job| jobs.contains(job.as_str()),
            |app, id| {
                view.apps.get(app).is_some_and(|records| records.deployments.contains_key(id))
            },
        );
        decision
    }
}

fn end_overrides(view: &View, now: Now, decision: &mut Decision) {
    for (scope, record) in view.data.overrides() {
        if record.until_ms.is_none_or(|until| until > now.unix_ms) {
            continue;
        }
        let key = Key::Override(scope.clone());
        if let Some(seen) = view.modified(&key) {
            decision.notes.push(format!("the override of {scope} has run out"));
            decision.first.push(Change::new().delete(&key, seen));
        }
    }
}

/// Looks at every placed job. One that was stopped and has ended is forgotten; so is one that
/// was stopped before its agent took it up.
fn look<'v>(
    view: &'v View,
    ledger: &mut Ledger,
    now: Now,
    decision: &mut Decision,
) -> Vec<Seen<'v>> {
    let mut seen = Vec::with_capacity(view.placements.len());
    for (key, stored) in &view.placements {
        let placement = &*stored.record;
        let status = view.statuses.get(key);
        let condition = condition(view, placement, status.map(|status| &*status.record));
        let over = status.is_none() || condition.standing == Standing::Ended;
        if placement.wanted == Wanted::Stop && over {
            let mut change = Change::on(&placement.node)
                .delete(&Key::Placement(key.0.clone(), key.1.clone()), stored.modified);
            if let Some(status) = status {
                change = change.delete(&Key::Job(key.0.clone(), key.1.clone()), status.modified);
            }
            decision.then.push(change);
            continue;
        }
        let is_ready = condition.standing == Standing::Ready;
        let ready_for = ledger.ready_for(&placement.job, is_ready, now.at);
        if is_ready && ready_for < SETTLE {
            let left = SETTLE - ready_for;
            decision.again_in = Some(decision.again_in.map_or(left, |again| again.min(left)));
        }
        seen.push(Seen {
            placement,
            created: stored.created,
            standing: condition.standing,
            why: condition.why,
            settled: ready_for >= SETTLE,
            restarts: status.map_or(0, |status| status.record.restarts),
            port: status.and_then(|status| status.record.addr).map(|addr| addr.port()),
            reachable: view.data.node(placement.node.as_str()).is_some(),
        });
    }
    seen
}

/// One app in one pass.
struct AppPass<'v, 'p> {
    app: &'v AppName,
    records: &'v AppRecords,
    jobs: &'p [&'p Seen<'v>],
    now: Now,
}

impl<'v> AppPass<'v, '_> {
    /// How many jobs of each release are wanted; none when that cannot be said.
    fn counts(
        &self,
        ledger: &mut Ledger,
        unplaced: Vec<String>,
        decision: &mut Decision,
    ) -> Option<Counts> {
        let Some(active) = self.records.active() else {
            let Some(release) = self.records.heading() else { return Some(Counts::new()) };
            let aim = self.aim(&release, decision)?;
            let counts = aim.counts.into_iter();
            return Some(counts.map(|(process, n)| ((release.clone(), process), n)).collect());
        };
        let deployment = &*active.record;
        let from = match &deployment.from {
            Some(from) => Some(self.aim(from, decision)?),
            None => None,
        };
        let mut view = DeployView {
            to: self.aim(&deployment.to, decision)?,
            from,
            jobs: self.jobs.iter().map(|job| deploy_job(job, active)).collect(),
            unplaced,
            stalled: Duration::ZERO,
        };
        let progress = ledger.progress(deployment, deploy::tally(&view, deployment), self.now.at);
        view.stalled = progress.stalled;
        let step = deploy::step(&view, deployment);
        decision.waits_for.insert(self.app.clone(), step.waits_for);
        if step.next.is_some() || progress.made {
            self.move_on(active, step.next, progress.made, decision);
        }
        Some(step.wanted)
    }

    fn aim(&self, release: &ReleaseId, decision: &mut Decision) -> Option<Aim> {
        let Some(stored) = self.records.releases.get(release) else {
            let text = format!("its release {release} is not in the store");
            decision.waits_for.insert(self.app.clone(), text);
            return None;
        };
        let processes = stored.record.processes.keys();
        let counts = processes.map(|name| (name.clone(), self.records.count(name))).collect();
        Some(Aim { release: release.clone(), counts })
    }

    /// Writes down that the deployment goes on, or has come to an end.
    fn move_on(
        &self,
        active: &Stored<Deployment>,
        next: Option<DeploymentState>,
        progress: bool,
        decision: &mut Decision,
    ) {
        let mut deployment = (*active.record).clone();
        if progress {
            deployment.progress_ms = self.now.unix_ms;
        }
        let mut change = Change::new();
        if let Some(state) = next {
            decision.notes.push(format!("deployment {} of {}: {state:?}", deployment.id, self.app));
            deployment.state = state;
            deployment.since_ms = self.now.unix_ms;
        }
        let key = Key::Deployment(self.app.clone(), deployment.id.clone());
        change = change.change(&key, active.modified, &deployment);
        let serves = match &deployment.state {
            DeploymentState::Done => Some(&deployment.to),
            DeploymentState::Reverted { .. } => deployment.from.as_ref(),
            _ => None,
        };
        if let Some(serves) = serves {
            change = self.settle_on(serves, change);
        }
        decision.first.push(change);
    }

    /// Says which release serves, and forgets the counts of process types that it does not have.
    fn settle_on(&self, release: &ReleaseId, mut change: Change) -> Change {
        if let Some(app) = self.records.app.as_ref().filter(|app| app.record.current != *release) {
            let mut record = (*app.record).clone();
            record.current = release.clone();
            change = change.change(&Key::App(self.app.clone()), app.modified, &record);
        }
        let processes = self.records.releases.get(release).map(|stored| &stored.record.processes);
        if let (Some(formation), Some(processes)) = (&self.records.formation, processes) {
            let counts = formation.record.counts.iter();
            let left = counts.filter(|(process, _)| processes.contains_key(*process));
            let left = Formation {
                app: self.app.clone(),
                counts: left.map(|(process, n)| (process.clone(), *n)).collect(),
            };
            if left != *formation.record {
                let key = Key::Formation(self.app.clone());
                change = change.change(&key, formation.modified, &left);
            }
        }
        change
    }

    /// What the scheduler is asked for; none when a release that is asked for is not there.
    fn wants(&self, counts: Counts) -> Option<Vec<(Group, Want<'v>)>> {
        let mut wants = Vec::new();
        for ((release, process), count) in counts {
            let stored = self.records.releases.get(&release);
            let spec = stored.and_then(|stored| stored.record.processes.get(&process));
            let spec = match spec {
                Some(process) => &process.job,
                None if count == 0 => continue,
                None => return None,
            };
            let group = Group { app: self.app.clone(), process, release };
            wants.push((group, Want { count, spec }));
        }
        Some(wants)
    }
}

fn deploy_job(seen: &Seen<'_>, deployment: &Stored<Deployment>) -> DeployJob {
    DeployJob {
        job: seen.placement.job.clone(),
        process: seen.placement.process.clone(),
        release: seen.placement.release.clone(),
        wanted: seen.placement.wanted,
        standing: seen.standing,
        why: seen.why.clone(),
        settled: seen.settled,
        fresh: seen.created > deployment.created,
        restarts: seen.restarts,
        reachable: seen.reachable,
    }
}

fn cluster<'v>(
    view: &'v View,
    seen: &[Seen<'v>],
    wanted: BTreeMap<Group, Want<'v>>,
    held: BTreeSet<&'v AppName>,
) -> ClusterView<'v> {
    ClusterView {
        nodes: view.data.nodes().map(|(name, node)| (name, &**node)).collect(),
        jobs: seen
            .iter()
            .map(|job| Job { placement: job.placement, standing: job.standing, port: job.port })
            .collect(),
        wanted,
        held,
        reserved: view.statuses.keys().map(|(_, job)| job).collect(),
    }
}

fn write_plan(view: &View, plan: &Plan, decision: &mut Decision) {
    let mut changes = Vec::new();
    for placement in &plan.place {
        let key = Key::Placement(placement.node.clone(), placement.job.clone());
        decision.notes.push(format!("{} starts on {}", placement.job, placement.node));
        changes.push(Change::on(&placement.node).make(&key, placement));
    }
    let mut want = |node, job, wanted| {
        let Some(stored) = view.placements.get(&(node, job)) else { return };
        let placement = Placement { wanted, ..(*stored.record).clone() };
        let key = Key::Placement(placement.node.clone(), placement.job.clone());
        changes.push(Change::on(&placement.node).change(&key, stored.modified, &placement));
    };
    for (node, job) in &plan.resume {
        decision.notes.push(format!("{job} on {node} goes on"));
        want(node.clone(), job.clone(), Wanted::Run);
    }
    for stop in &plan.stop {
        decision.notes.push(format!("{} on {} stops: {}", stop.job, stop.node, stop.reason.text()));
        want(stop.node.clone(), stop.job.clone(), Wanted::Stop);
    }
    decision.then.extend(changes);
    // Neighbours share transactions.
    decision.then.sort_by(|a, b| a.node.cmp(&b.node));
}
