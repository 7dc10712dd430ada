//! Commands on apps: deploy, roll back, scale, delete.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_discovery::model::key::{CONTROL, DATA};
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{
    App, AppName, Deployment, DeploymentState, Formation, JobSpec, Key, Process, ProcessName,
    Release, ReleaseId, Revision, Wanted,
};
use portolan_discovery::store::Store;
use sha2::{Digest, Sha256};

use super::error::invalid;
use super::{CONFLICTS_MAX, CommandError, Commands, Committed, Decided, commit, get};
use crate::clock;
use crate::controller::commit::Change;
use crate::controller::health::condition;
use crate::controller::records::{AppRecords, surge};
use crate::controller::view::View;
use crate::scheduler::Standing;

/// The most jobs of one process type.
pub const COUNT_MAX: u32 = 10_000;
/// The most process types of one release.
pub const PROCESSES_MAX: usize = 100;
/// How long a deployment may stand without progress, unless it is told otherwise.
pub const PROGRESS_DEADLINE: Duration = Duration::from_secs(120);

/// What is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployRequest {
    /// The app; made if it is new.
    pub app: AppName,
    /// Its labels from now on.
    pub labels: BTreeMap<String, String>,
    /// How long the deployment may stand without progress.
    pub progress_deadline: Duration,
    /// What its process types run.
    pub processes: BTreeMap<ProcessName, JobSpec>,
    /// Wanted counts. A process type without one keeps its count, or gets one job.
    pub counts: BTreeMap<ProcessName, u32>,
}

/// What a deploy or a rollback has begun, or has found as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The release that serves, or is to serve.
    pub release: ReleaseId,
    /// The app's latest deployment.
    pub deployment: Option<Deployment>,
    /// The wanted counts.
    pub formation: Formation,
}

impl Commands {
    /// Deploys. Content that a release already has makes no new release, and content that
    /// already serves (or is being deployed) makes no deployment.
    pub async fn deploy(
        &self,
        request: DeployRequest,
    ) -> Result<Committed<Deployed>, CommandError> {
        check(&request)?;
        let store = self.store()?;
        for _ in 0..CONFLICTS_MAX {
            let records = records(store.as_ref(), &request.app).await?;
            let serving = serving(store.as_ref(), &records, &request.app).await?;
            let decided = deploy(&records, serving, &request, clock::unix_ms());
            if let Some(committed) = commit(store.as_ref(), decided).await? {
                return Ok(committed);
            }
        }
        Err(conflict(&request.app))
    }

    /// Deploys the release `to`, or else the one that served before the current one. Without
    /// `to`, a rollback that is under way is the answer, so that asking twice goes back once.
    pub async fn rollback(
        &self,
        app: &AppName,
        to: Option<&ReleaseId>,
    ) -> Result<Committed<Deployed>, CommandError> {
        let store = self.store()?;
        for _ in 0..CONFLICTS_MAX {
            let records = records(store.as_ref(), app).await?;
            let serving = serving(store.as_ref(), &records, app).await?;
            let decided = rollback(&records, serving, app, to, clock::unix_ms())?;
            if let Some(committed) = commit(store.as_ref(), decided).await? {
                return Ok(committed);
            }
        }
        Err(conflict(app))
    }

    /// Sets the wanted count of a process type.
    pub async fn scale(
        &self,
        app: &AppName,
        process: &ProcessName,
        count: u32,
    ) -> Result<Committed<Formation>, CommandError> {
        check_count(process, count)?;
        let store = self.store()?;
        for _ in 0..CONFLICTS_MAX {
            let records = records(store.as_ref(), app).await?;
            let decided = scale(&records, app, process, count)?;
            if let Some(committed) = commit(store.as_ref(), decided).await? {
                return Ok(committed);
            }
        }
        Err(conflict(app))
    }

    /// Deletes the app: its jobs drain and stop, then its releases and deployments go.
    pub async fn delete_app(&self, app: &AppName) -> Result<Committed<()>, CommandError> {
        let store = self.store()?;
        for _ in 0..CONFLICTS_MAX {
            let records = records(store.as_ref(), app).await?;
            let decided = delete(&records, app, clock::unix_ms())?;
            if let Some(committed) = commit(store.as_ref(), decided).await? {
                return Ok(committed);
            }
        }
        Err(conflict(app))
    }
}

fn conflict(app: &AppName) -> CommandError {
    CommandError::Conflict { what: "app", name: app.to_string() }
}

fn not_found(app: &AppName) -> CommandError {
    CommandError::NotFound { what: "app", name: app.to_string() }
}

fn check(request: &DeployRequest) -> Result<(), CommandError> {
    if request.processes.is_empty() {
        return Err(invalid("processes", "an app needs at least one process type", ""));
    }
    if request.processes.len() > PROCESSES_MAX {
        let cause = format!("an app has at most {PROCESSES_MAX} process types");
        return Err(invalid("processes", cause, "make two apps of it"));
    }
    for (process, spec) in &request.processes {
        if spec.command.first().is_none_or(String::is_empty) {
            let field = format!("processes.{process}.command");
            return Err(invalid(&field, "it names no program", "[\"/usr/bin/serve\", \"$PORT\"]"));
        }
        if spec.port == Some(0) {
            let field = format!("processes.{process}.port");
            return Err(invalid(&field, "0 is no port", "leave it out to get a free one"));
        }
    }
    for (process, count) in &request.counts {
        if !request.processes.contains_key(process) {
            let field = format!("counts.{process}");
            return Err(invalid(&field, "there is no such process type", ""));
        }
        check_count(process, *count)?;
    }
    if request.progress_deadline.is_zero() {
        return Err(invalid("progress_deadline", "it must be longer than 0", "\"120s\""));
    }
    Ok(())
}

fn check_count(process: &ProcessName, count: u32) -> Result<(), CommandError> {
    if count <= COUNT_MAX {
        return Ok(());
    }
    let field = format!("counts.{process}");
    Err(invalid(&field, format!("{count} is more than {COUNT_MAX}"), ""))
}

/// Everything the store has of an app.
async fn records(store: &dyn Store, app: &AppName) -> Result<AppRecords, CommandError> {
    let mut records = AppRecords {
        app: get(store, &Key::App(app.clone())).await?,
        formation: get(store, &Key::Formation(app.clone())).await?,
        ..AppRecords::default()
    };
    let (kvs, _) = store.snapshot(&Key::releases_of(app)).await?;
    for kv in &kvs {
        if let Ok(key @ Key::Release(..)) = kv.key.parse()
            && let Some(stored) = super::read::<Release>(Some(kv), &key)?
        {
            records.releases.insert(stored.record.id.clone(), stored);
        }
    }
    let (kvs, _) = store.snapshot(&deployments_of(app)).await?;
    for kv in &kvs {
        if let Ok(key @ Key::Deployment(..)) = kv.key.parse()
            && let Some(stored) = super::read::<Deployment>(Some(kv), &key)?
        {
            records.deployments.insert(stored.record.id.clone(), stored);
        }
    }
    Ok(records)
}

/// The prefix of all deployments of an app: the folder that any of them lies in.
fn deployments_of(app: &AppName) -> String {
    let any = AppRecords::default().next_deployment();
    let mut key = Key::Deployment(app.clone(), any).to_string();
    key.truncate(key.rfind('/').map_or(0, |at| at + 1));
    key
}

/// The release to come back to. While a deployment runs that is the one it came from, until all
/// of the new one serves; or, if it came from none, until any of the new one does.
async fn serving(
    store: &dyn Store,
    records: &AppRecords,
    app: &AppName,
) -> Result<Option<ReleaseId>, CommandError> {
    let Some(active) = records.active().map(|stored| &*stored.record) else {
        return Ok(records.heading());
    };
    let release = records.releases.get(&active.to);
    let (DeploymentState::Running, Some(release)) = (&active.state, release) else {
        return Ok(active.from.clone());
    };
    let mut view = View::default();
    let (kvs, revision) = store.snapshot(CONTROL).await?;
    view.reset_control(&kvs, revision);
    let (kvs, revision) = store.snapshot(DATA).await?;
    view.reset_data(kvs, revision);
    let ready = |process: &ProcessName| {
        let ready = view.placements.iter().filter(|(key, stored)| {
            let placement = &*stored.record;
            let status = view.statuses.get(*key).map(|status| &*status.record);
            placement.app == *app
                && placement.release == active.to
                && placement.process == *process
                && placement.wanted == Wanted::Run
                && condition(&view, placement, status).standing == Standing::Ready
        });
        u32::try_from(ready.count()).unwrap_or(u32::MAX)
    };
    let mut processes = release.record.processes.keys();
    let serves = match &active.from {
        Some(_) => processes.all(|process| ready(process) >= records.count(process)),
        None => processes.any(|process| ready(process) > 0),
    };
    Ok(if serves { Some(active.to.clone()) } else { active.from.clone() })
}

fn digest(processes: &BTreeMap<ProcessName, Process>) -> String {
    let digest = Sha256::digest(encode(processes));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn deploy(
    records: &AppRecords,
    serving: Option<ReleaseId>,
    request: &DeployRequest,
    now_ms: u64,
) -> Decided<Deployed> {
    let specs = request.processes.iter();
    let processes: BTreeMap<ProcessName, Process> =
        specs.map(|(name, job)| (name.clone(), Process { job: job.clone() })).collect();
    let digest = digest(&processes);
    let mut app = match &records.app {
        Some(stored) => (*stored.record).clone(),
        None => App {
            name: request.app.clone(),
            current: ReleaseId::parse("v1").expect("a letter and a digit are a label"),
            next_release: 1,
            labels: BTreeMap::new(),
        },
    };
    app.labels.clone_from(&request.labels);
    let known = records.releases.values().filter(|stored| stored.record.digest == digest);
    // Of several with the same content the newest: the one that serves, if one does.
    let known = known.max_by_key(|stored| {
        (records.heading().as_ref() == Some(&stored.record.id), stored.created)
    });
    let mut change = Change::new();
    let release = match known {
        Some(stored) => {
            let key = Key::Release(request.app.clone(), stored.record.id.clone());
            change = change.when(&key, stored.modified);
            stored.record.clone()
        }
        None => {
            let number = records.next_release();
            let id = ReleaseId::parse(&format!("v{number}")).expect("a short label");
            app.next_release = number + 1;
            let release =
                Release { app: request.app.clone(), id, processes, created_ms: now_ms, digest };
            change = change.make(&Key::Release(release.app.clone(), release.id.clone()), &release);
            release.into()
        }
    };
    let mut counts = counts_for(records, &release);
    counts.extend(request.counts.iter().map(|(name, count)| (name.clone(), *count)));
    begin(records, app, Begin { release: &release, serving, counts, now_ms, change }, |_| {
        request.progress_deadline
    })
}

fn rollback(
    records: &AppRecords,
    serving: Option<ReleaseId>,
    app: &AppName,
    to: Option<&ReleaseId>,
    now_ms: u64,
) -> Result<Decided<Deployed>, CommandError> {
    let Some(stored) = &records.app else { return Err(not_found(app)) };
    let to = match to {
        Some(to) => to.clone(),
        None => match going_back(records).or_else(|| records.previous()) {
            Some(to) => to,
            None => {
                let cause = "no other release has served yet";
                return Err(invalid("to", cause, "name the release, such as v1"));
            }
        },
    };
    let Some(release) = records.releases.get(&to) else {
        let name = format!("{app}/{to}");
        return Err(CommandError::NotFound { what: "release", name });
    };
    let key = Key::Release(app.clone(), to);
    let change = Change::new().when(&key, release.modified);
    let counts = counts_for(records, &release.record);
    let begin_with = Begin { release: &release.record, serving, counts, now_ms, change };
    let deadline = |records: &AppRecords| {
        let latest = records.latest();
        latest.map_or(PROGRESS_DEADLINE, |latest| {
            Duration::from_millis(latest.record.progress_deadline_ms)
        })
    };
    Ok(begin(records, (*stored.record).clone(), begin_with, deadline))
}

/// The older release that a deployment under way goes back to.
fn going_back(records: &AppRecords) -> Option<ReleaseId> {
    let active = &records.active()?.record;
    if matches!(active.state, DeploymentState::Reverting { .. }) {
        return active.from.clone();
    }
    let from = records.releases.get(active.from.as_ref()?)?;
    let to = records.releases.get(&active.to)?;
    (to.created < from.created).then(|| active.to.clone())
}

/// The counts of an app with those that a release brings. The counts of process types that it
/// no longer has stay until it serves: the release before it may have to come back.
fn counts_for(records: &AppRecords, release: &Release) -> BTreeMap<ProcessName, u32> {
    let formation = records.formation.as_ref();
    let mut counts = formation.map(|stored| stored.record.counts.clone()).unwrap_or_default();
    for process in release.processes.keys() {
        counts.entry(process.clone()).or_insert_with(|| records.count(process));
    }
    counts
}

struct Begin<'r> {
    release: &'r Release,
    serving: Option<ReleaseId>,
    counts: BTreeMap<ProcessName, u32>,
    now_ms: u64,
    change: Change,
}

/// Turns the app to a release, unless it is there or on its way.
fn begin(
    records: &AppRecords,
    mut app: App,
    Begin { release, serving, counts, now_ms, mut change }: Begin<'_>,
    deadline: impl Fn(&AppRecords) -> Duration,
) -> Decided<Deployed> {
    let name = app.name.clone();
    let latest = records.latest();
    let turns = records.app.is_none() || records.heading().as_ref() != Some(&release.id);
    let formation = Formation { app: name.clone(), counts };
    let scales = records.formation.as_ref().is_none_or(|stored| *stored.record != formation);
    // Only one that brought, or brings, this release: what became of another says nothing.
    let brings = |deployment: &Deployment| {
        deployment.to == release.id
            && matches!(deployment.state, DeploymentState::Running | DeploymentState::Done)
    };
    let latest = latest.map(|stored| (*stored.record).clone());
    let mut deployment = latest.filter(brings);
    if turns {
        app.current = release.id.clone();
        let of_release =
            |(process, _): &(&ProcessName, &u32)| release.processes.contains_key(*process);
        let largest = formation.counts.iter().filter(of_release).map(|(_, count)| *count).max();
        let new = Deployment {
            app: name.clone(),
            id: records.next_deployment(),
            from: records.app.as_ref().and(serving),
            to: release.id.clone(),
            state: DeploymentState::Running,
            created_ms: now_ms,
            progress_ms: now_ms,
            since_ms: now_ms,
            progress_deadline_ms: u64::try_from(deadline(records).as_millis()).unwrap_or(u64::MAX),
            surge: surge(largest.unwrap_or(0)),
        };
        change = change.make(&Key::Deployment(name.clone(), new.id.clone()), &new);
        change = supersede(records, &name, now_ms, change);
        deployment = Some(new);
    }
    let relabels = records.app.as_ref().is_none_or(|stored| *stored.record != app);
    let seen = |revision: Option<Revision>| revision.unwrap_or_default();
    let since = seen(records.app.as_ref().map(|stored| stored.modified))
        .max(seen(records.formation.as_ref().map(|stored| stored.modified)));
    if scales {
        let seen = records.formation.as_ref().map(|stored| stored.modified);
        change = change.set(&Key::Formation(name.clone()), seen, &formation);
    }
    let changes = turns || scales || relabels;
    if changes {
        // Always written: whoever decides from an older state of the app must decide again.
        let seen = records.app.as_ref().map(|stored| stored.modified);
        change = change.set(&Key::App(name), seen, &app);
    }
    let value = Deployed { release: release.id.clone(), deployment, formation };
    Decided { change: changes.then_some(change), value, since }
}

/// A later deployment ends the one under way.
fn supersede(records: &AppRecords, app: &AppName, now_ms: u64, change: Change) -> Change {
    let Some(active) = records.active() else { return change };
    let mut over = (*active.record).clone();
    over.state = DeploymentState::Superseded;
    over.since_ms = now_ms;
    change.change(&Key::Deployment(app.clone(), over.id.clone()), active.modified, &over)
}

fn scale(
    records: &AppRecords,
    app: &AppName,
    process: &ProcessName,
    count: u32,
) -> Result<Decided<Formation>, CommandError> {
    let Some(stored) = &records.app else { return Err(not_found(app)) };
    let heading = records.heading().or_else(|| records.latest().map(|l| l.record.to.clone()));
    let release = heading.and_then(|heading| records.releases.get(&heading));
    if !release.is_some_and(|release| release.record.processes.contains_key(process)) {
        let name = format!("{app}/{process}");
        return Err(CommandError::NotFound { what: "process type", name });
    }
    let mut formation = match &records.formation {
        Some(stored) => (*stored.record).clone(),
        None => Formation { app: app.clone(), counts: BTreeMap::new() },
    };
    let seen = records.formation.as_ref().map(|stored| stored.modified);
    let scales = formation.counts.insert(process.clone(), count) != Some(count);
    let change = Change::new().when(&Key::App(app.clone()), stored.modified).set(
        &Key::Formation(app.clone()),
        seen,
        &formation,
    );
    let since = seen.unwrap_or(stored.modified);
    Ok(Decided { change: scales.then_some(change), value: formation, since })
}

fn delete(records: &AppRecords, app: &AppName, now_ms: u64) -> Result<Decided<()>, CommandError> {
    let Some(stored) = &records.app else { return Err(not_found(app)) };
    let mut change = Change::new().delete(&Key::App(app.clone()), stored.modified);
    if let Some(formation) = &records.formation {
        change = change.delete(&Key::Formation(app.clone()), formation.modified);
    }
    change = supersede(records, app, now_ms, change);
    Ok(Decided { change: Some(change), value: (), since: stored.modified })
}
