//! The supervisor: a task for each job that the store places on the node or that runs there.
//!
//! Ends with the agent; the jobs do not. What the store does not say while it is away changes
//! nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_discovery::model::record::decode;
use portolan_discovery::model::{
    Instance, InstanceId, JobId, Key, Origin, PortRange, ServiceName, key,
};
use portolan_discovery::store::StoreError;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::client::{ShimProgram, blocking};
use super::placements::{self, Placements, call};
use super::ports::Ports;
use super::run::{self, Assignment, Context};
use super::says::Says;
use super::{folder, memory};
use crate::check::run::Checks;
use crate::metrics::Metrics;
use crate::register::Registrar;
use crate::{clock, keep};

/// Shims that are started at once; more wait for their turn.
const LAUNCHES_MAX: usize = 16;
/// Before a task that panicked is started again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last words may take when the agent stops.
const FLUSH_WAIT: Duration = Duration::from_secs(2);
/// Held as long as an agent supervises the folder.
const LOCK: &str = ".lock";

/// Where and how jobs run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address that jobs listen on.
    pub addr: IpAddr,
    /// The ports that they are given.
    pub ports: PortRange,
    /// The folder of all jobs.
    pub dir: PathBuf,
    /// How a shim is started.
    pub shim: ShimProgram,
}

/// Why jobs cannot be supervised.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The folder cannot be used.
    #[error("cannot use the folder of jobs {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Another agent uses it.
    #[error("another agent supervises the jobs in {path}")]
    Busy {
        /// The folder.
        path: PathBuf,
    },
}

/// Takes a folder of jobs, for as long as the file is held.
pub(super) fn lock(dir: &Path) -> Result<File, BindError> {
    let at = |source| BindError::Folder { path: dir.to_owned(), source };
    let path = dir.join(LOCK);
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let lock = lock.map_err(at)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(BindError::Busy { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(at(source)),
    }
}

/// The agent's own `PATH`, and at its end the folder of this program, which jobs may call too.
fn search_path(own: Option<String>, program: &Path) -> Option<String> {
    let folder = program.parent().and_then(Path::to_str).filter(|folder| !folder.is_empty());
    match (own, folder) {
        (Some(own), Some(folder)) => Some(format!("{own}:{folder}")),
        (own, _) => own,
    }
}

/// Runs the jobs of a node.
pub struct Supervisor {
    context: Arc<Context>,
    jobs: BTreeMap<JobId, watch::Sender<Assignment>>,
    tasks: JoinSet<()>,
    ids: HashMap<Id, JobId>,
    wanted: Option<Arc<Placements>>,
    _lock: File,
}

impl Supervisor {
    /// Takes the folder. Nothing is started and nothing is taken over before [`Self::run`].
    pub fn bind(
        config: Config,
        registrar: Registrar,
        checks: Checks,
        metrics: Metrics,
    ) -> Result<Self, BindError> {
        let Config { addr, ports, dir, shim } = config;
        let program = shim.program.clone();
        let at = |source| BindError::Folder { path: dir.clone(), source };
        folder::make(&dir).map_err(at)?;
        // A shim works in the job's folder, wherever the agent was started.
        let dir = dir.canonicalize().map_err(at)?;
        let lock = lock(&dir)?;
        let says = Says::new(registrar.store().clone(), registrar.node().clone());
        let context = Context {
            registrar,
            checks,
            says,
            metrics,
            ports: Mutex::new(Ports::new(ports)),
            launches: Semaphore::new(LAUNCHES_MAX),
            addr,
            dir,
            shim,
            path: search_path(std::env::var("PATH").ok(), &program),
            begun: clock::now(),
        };
        Ok(Self {
            context: Arc::new(context),
            jobs: BTreeMap::new(),
            tasks: JoinSet::new(),
            ids: HashMap::new(),
            wanted: None,
            _lock: lock,
        })
    }

    /// Takes over the jobs that run and makes the node's jobs what the store wants, until
    /// `stop`. The jobs go on without it.
    pub async fn run(mut self, stop: CancellationToken) {
        let context = self.context.clone();
        let (to, mut wanted) = watch::channel(None);
        let (found, mut swept) = mpsc::channel(1);
        let mut helpers = JoinSet::new();
        let own = context.clone();
        helpers.spawn(async move {
            keep::keep("job words", &own.metrics, || own.says.clone().run()).await;
        });
        let dir = context.dir.clone();
        match blocking(move || memory::scan(&dir)).await {
            Ok(jobs) => {
                for job in jobs {
                    self.spawn(job, Assignment::Remembered, Duration::ZERO);
                }
            }
            Err(error) => tracing::error!(%error, "the folder of jobs cannot be read"),
        }
        let own = context.clone();
        helpers.spawn(async move {
            let registrar = &own.registrar;
            let follow = || placements::follow(registrar.store().as_ref(), registrar.node(), &to);
            keep::keep("placements", &own.metrics, follow).await;
        });
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = wanted.changed() => {
                    let now = wanted.borrow_and_update().clone();
                    let Some(now) = now else { continue };
                    if self.assign(now) {
                        helpers.spawn(traces(context.clone(), found.clone()));
                    }
                }
                Some(traces) = swept.recv() => self.sweep(traces),
                Some(done) = self.tasks.join_next_with_id() => self.joined(done),
            }
        }
        self.tasks.shutdown().await;
        context.says.flush(FLUSH_WAIT).await;
    }

    /// Tells each job what is wanted; true at the first time.
    fn assign(&mut self, wanted: Arc<Placements>) -> bool {
        for (job, to) in &self.jobs {
            if !wanted.by_job.contains_key(job) && !wanted.unreadable.contains(job) {
                to.send_if_modified(|last| {
                    let is_known =
                        matches!(last, Assignment::Gone { store } if *store == wanted.store);
                    *last = Assignment::Gone { store: wanted.store.clone() };
                    !is_known
                });
            }
        }
        let before = self.wanted.replace(wanted.clone());
        for (job, placement) in &wanted.by_job {
            let known = before.as_ref().filter(|before| before.store == wanted.store);
            let is_known = known.and_then(|known| known.by_job.get(job)) == Some(placement);
            let assignment = placed(&wanted, job);
            match (self.jobs.get(job), assignment) {
                (Some(_), _) if is_known => {}
                (Some(to), Some(assignment)) => drop(to.send_replace(assignment)),
                (None, Some(assignment)) => self.spawn(job.clone(), assignment, Duration::ZERO),
                (_, None) => {}
            }
        }
        before.is_none()
    }

    /// Removes what was said of jobs that are no longer here: a folder may have been lost.
    fn sweep(&self, traces: Vec<Trace>) {
        let wanted = self.wanted.as_ref();
        let is_here = |job: &JobId| {
            self.jobs.contains_key(job)
                || wanted.is_none_or(|wanted| wanted.unreadable.contains(job))
        };
        for trace in traces {
            match trace {
                Trace::Status(job) if !is_here(&job) => {
                    tracing::info!(%job, "job is no longer here");
                    self.context.says.say(job, None);
                }
                Trace::Instance(job, service, id) if !is_here(&job) => {
                    tracing::info!(%job, %service, %id, "instance of a job that is no longer here");
                    let origin = Origin::Job(job);
                    drop(self.context.registrar.remove(&service, &id, origin));
                }
                _ => {}
            }
        }
    }

    fn spawn(&mut self, job: JobId, assignment: Assignment, pause: Duration) {
        let (to, assigned) = watch::channel(assignment);
        let (context, own) = (self.context.clone(), job.clone());
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            run::run(context, own, assigned).await;
        });
        self.ids.insert(task.id(), job.clone());
        self.jobs.insert(job, to);
    }

    /// A job is forgotten, or its task panicked.
    fn joined(&mut self, done: Result<(Id, ()), JoinError>) {
        let (id, error) = match done {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(job) = self.ids.remove(&id) else { return };
        let last = self.jobs.remove(&job).map(|to| to.borrow().clone());
        let placed = self.wanted.as_ref().and_then(|wanted| placed(wanted, &job));
        match (error, placed) {
            (Some(error), placed) => {
                self.context.metrics.task_restarts.with_label_values(&["job"]).inc();
                tracing::error!(%job, %error, "a job's task ended, its job goes on");
                // All that the task knew is in the job's folder.
                let assignment = placed.or(last).unwrap_or(Assignment::Remembered);
                self.spawn(job, assignment, PAUSE);
            }
            // It was placed here again while it was being forgotten.
            (None, Some(placed)) => self.spawn(job, placed, Duration::ZERO),
            (None, None) => {}
        }
    }
}

fn placed(wanted: &Placements, job: &JobId) -> Option<Assignment> {
    let placement = Arc::new(wanted.by_job.get(job)?.clone());
    Some(Assignment::Placed { placement, store: wanted.store.clone() })
}

/// A record of a job, as an earlier life of this agent left it.
enum Trace {
    Status(JobId),
    Instance(JobId, ServiceName, InstanceId),
}

/// Finds the records that this node has of jobs, its own or not; asks until the store answers.
async fn traces(context: Arc<Context>, to: mpsc::Sender<Vec<Trace>>) {
    loop {
        match traces_once(&context).await {
            // Nobody waits for them when the agent stops.
            Ok(traces) => return drop(to.send(traces).await),
            Err(error) => tracing::debug!(%error, "old records of jobs cannot be read"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn traces_once(context: &Context) -> Result<Vec<Trace>, StoreError> {
    let (store, node) = (context.registrar.store(), context.registrar.node());
    let mut traces = Vec::new();
    let (statuses, _) = call(store.snapshot(&Key::jobs_on(node))).await?;
    for kv in statuses {
        if let Ok(Key::Job(_, job)) = kv.key.parse() {
            traces.push(Trace::Status(job));
        }
    }
    let (records, _) = call(store.snapshot(key::DATA)).await?;
    for kv in records {
        let Ok(Key::Instance(service, id)) = kv.key.parse() else { continue };
        let Ok(instance) = decode::<Instance>(&kv.value) else { continue };
        if let Origin::Job(job) = instance.origin
            && instance.node == *node
        {
            traces.push(Trace::Instance(job, service, id));
        }
    }
    Ok(traces)
}
