//! One job's task: carries out what its [`Life`] says, and tells it what happens.

mod gauge;
mod record;

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portolan_discovery::model::{
    Health, JobId, JobSpec, JobState, JobStatus, Origin, Phase, Placement, Wanted, instance,
};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep_until, timeout};

use self::gauge::Gauge;
use super::client::{self, Launched, ShimProgram, Signalled, blocking};
use super::folder::{self, End, MEMORY, OVER};
use super::life::{Action, Event, Life, Now, Past, Want};
use super::memory::{self, Memory};
use super::ports::{self, Ports};
use super::says::Says;
use super::{acks, order};
use crate::check::run::{Checks, HealthWatch};
use crate::clock;
use crate::metrics::Metrics;
use crate::register::{RegisterError, Registrar, Written};

/// SIGTERM and SIGKILL.
const TERM: i32 = 15;
const KILL: i32 = 9;
/// How often a shim is asked for its status when its job is taken over.
const ADOPT_TRIES: u32 = 5;
/// How long the end of a job waits for that of its record.
const REMOVAL_WAIT: Duration = Duration::from_secs(1);

/// What all jobs of the node share.
pub(super) struct Context {
    pub registrar: Registrar,
    pub checks: Checks,
    pub says: Says,
    pub metrics: Metrics,
    pub ports: Mutex<Ports>,
    /// Starts under way at once.
    pub launches: Semaphore,
    pub addr: std::net::IpAddr,
    pub dir: PathBuf,
    pub shim: ShimProgram,
    pub path: Option<String>,
    /// Where the clock of all lives begins.
    pub begun: Instant,
}

impl Context {
    fn ports(&self) -> std::sync::MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let at = clock::now().duration_since(self.begun);
        Now { at, unix_ms: clock::unix_ms() }
    }
}

/// What the store wants of the job.
#[derive(Debug, Clone)]
pub(super) enum Assignment {
    /// It has not answered yet: what it wanted last.
    Remembered,
    /// This.
    Placed {
        /// What is wanted.
        placement: Arc<Placement>,
        /// The identity of the store.
        store: String,
    },
    /// Nothing.
    Gone {
        /// The identity of the store.
        store: String,
    },
}

/// A future that may not be there.
struct Pending<T>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T> Pending<T> {
    fn set(&mut self, future: impl Future<Output = T> + Send + 'static) {
        self.0 = Some(Box::pin(future));
    }

    /// Its result, once. Safe to drop and call again.
    async fn next(&mut self) -> T {
        let Some(future) = &mut self.0 else { return pending().await };
        let result = future.await;
        self.0 = None;
        result
    }
}

pub(super) struct Run {
    context: Arc<Context>,
    job: JobId,
    dir: PathBuf,
    memory: Memory,
    /// The memory as it is on disk.
    saved: Memory,
    life: Life,
    pid: Option<u32>,
    /// Whether record and checks of the process that runs are ours.
    attached: bool,
    launch: Pending<Result<Launched, String>>,
    end: Pending<End>,
    drain: Pending<()>,
    /// The removal of the record, until somebody asked for its end.
    removal: Option<Written>,
    health: Option<HealthWatch>,
    /// Whether it passes without word of the checks: there are none, or they said so before.
    passes: bool,
    gauge: Gauge,
}

/// Takes the job through the rest of its life. Returns when it is forgotten.
pub(super) async fn run(
    context: Arc<Context>,
    job: JobId,
    mut assigned: watch::Receiver<Assignment>,
) {
    assigned.mark_changed();
    let mut run = Run::resume(context, job).await;
    while !run.life.is_over() {
        if std::mem::take(&mut run.passes) {
            run.step(Event::Passing).await;
        }
        let deadline = run.life.deadline().map(|at| run.context.begun + at);
        let event = tokio::select! {
            biased;
            end = run.end.next() => run.ended(&end.to_string()),
            launched = run.launch.next() => run.launched(launched),
            changed = assigned.changed() => {
                if changed.is_err() {
                    // The supervisor is gone; the job is not.
                    return;
                }
                let assignment = assigned.borrow_and_update().clone();
                match run.assigned(assignment).await {
                    Some(event) => event,
                    None => continue,
                }
            }
            event = verdict(&mut run.health) => event,
            () = run.drain.next() => Event::Drained,
            () = due(deadline) => Event::Tick,
        };
        run.step(event).await;
    }
}

async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

async fn verdict(health: &mut Option<HealthWatch>) -> Event {
    loop {
        let Some(watch) = health else { return pending().await };
        watch.changed().await;
        match watch.current() {
            (Health::Up, _) => return Event::Passing,
            (Health::Down, cause) => return Event::Failing(cause),
            (Health::Starting, _) => {}
        }
    }
}

impl Run {
    /// Takes up where an earlier life of the agent left off, or begins.
    async fn resume(context: Arc<Context>, job: JobId) -> Self {
        let dir = context.dir.join(job.as_str());
        let own = dir.clone();
        let (memory, begun) = blocking(move || {
            if let Err(error) = folder::make(&own).and_then(|()| folder::remove(&own.join(OVER))) {
                tracing::error!(dir = %own.display(), %error, "a job's folder cannot be written");
            }
            let memory = Memory::load(&own);
            let is_open = memory.run > memory.closed;
            let begun = is_open && (client::is_served(&own) || client::was_begun(&own, memory.run));
            (memory, begun)
        })
        .await;
        let now = context.now();
        let past = memory.past(begun, now.at, now.unix_ms);
        let life = Life::new(memory.rules(), past, memory.restarts, memory.failures);
        let gauge = Gauge::new(context.metrics.clone());
        let mut run = Self {
            context,
            job,
            dir,
            saved: memory.clone(),
            memory,
            life,
            pid: None,
            attached: false,
            launch: Pending(None),
            end: Pending(None),
            drain: Pending(None),
            removal: None,
            health: None,
            passes: false,
            gauge,
        };
        match past {
            Past::Live(up) => run.adopt(up.is_some()).await,
            Past::Fresh if run.memory.run == 0 => {}
            // The agent may have ended between the end of the job and its record's.
            _ => run.deregister(),
        }
        if run.memory.state.is_some() {
            run.repeat();
        }
        run
    }

    /// Takes over a run that an earlier life of the agent started. A run that has ended since
    /// is found out at once.
    async fn adopt(&mut self, was_up: bool) {
        for _ in 0..ADOPT_TRIES {
            match client::status(&self.dir).await {
                Ok(report) => {
                    self.pid = Some(report.pid);
                    self.memory.run = report.run;
                    self.memory.addr = report.addr;
                    break;
                }
                Err(_) if !client::is_served(&self.dir) => break,
                Err(error) => tracing::warn!(job = %self.job, %error, "a shim does not answer"),
            }
        }
        if let Some(addr) = self.memory.addr {
            self.context.ports().hold(&self.job, addr.port());
        }
        let (dir, run) = (self.dir.clone(), self.memory.run);
        self.end.set(async move { client::until_end(&dir, run).await });
        if self.pid.is_none() {
            return;
        }
        tracing::info!(job = %self.job, pid = self.pid, "job taken over");
        // A drain or a stop that was under way is begun again if it is still wanted.
        let state = if was_up { JobState::Running } else { JobState::Starting };
        if !matches!(self.memory.state, Some(JobState::Draining | JobState::Stopping)) {
            self.note(state);
        }
        self.attach().await;
    }

    /// Goes on with the record and the checks of a process that was there before.
    async fn attach(&mut self) {
        let Some(placement) = self.memory.placement.clone() else { return };
        self.attached = true;
        let mut known = self.memory.health.zip(Some(self.memory.cause.clone()));
        if known.is_none()
            && let Some((service, id)) = self.name()
        {
            // The memory was lost; the record still tells what the checks said.
            let stored = self.context.registrar.read(&service, &id).await.ok().flatten();
            let stored = stored.filter(|(record, _)| Some(record.addr) == self.memory.addr);
            known = stored.map(|(record, _)| (record.health, record.cause));
        }
        let (health, cause) = known.clone().unwrap_or((Health::Starting, None));
        if let Some((service, id)) = self.name()
            && let Some(record) = self.record(&placement, health)
        {
            let registrar = &self.context.registrar;
            drop(registrar.declare(record));
            if known.is_some() {
                drop(registrar.set_health(&service, &id, health, cause.clone()));
            }
            if placement.wanted == Wanted::Run {
                drop(registrar.set_phase(&service, &id, Phase::Active));
            }
        }
        let checks = self.checks(&placement);
        self.passes = checks.is_none() || health == Health::Up;
        self.health =
            checks.map(|(target, specs)| self.context.checks.resume(target, specs, health, cause));
    }

    async fn assigned(&mut self, assignment: Assignment) -> Option<Event> {
        match assignment {
            Assignment::Remembered => {}
            Assignment::Placed { placement, store } => {
                self.memory.placement = Some(placement.as_ref().clone());
                self.memory.store = Some(store);
                self.life.obey(self.memory.rules());
                if self.pid.is_some() && !self.attached {
                    self.attach().await;
                }
            }
            Assignment::Gone { store } => {
                if self.memory.store.as_ref().is_none_or(|known| *known == store) {
                    return Some(Event::Want(Want::Gone));
                }
                tracing::warn!(job = %self.job, "the store is not the one that placed this job: it goes on");
                return None;
            }
        }
        let placement = self.memory.placement.as_ref()?;
        let is_up = self.memory.up_since_ms.is_some();
        let want = match placement.wanted {
            Wanted::Run => Want::Run,
            Wanted::Stop => Want::Stop,
        };
        if want == Want::Run
            && self.pid.is_some()
            && self.life.deadline().is_none()
            && matches!(self.memory.state, Some(JobState::Draining | JobState::Stopping))
        {
            // What an earlier life of the agent was about to stop is wanted again.
            self.say(if is_up { JobState::Running } else { JobState::Starting }).await;
        }
        Some(Event::Want(want))
    }

    fn launched(&mut self, launched: Result<Launched, String>) -> Event {
        match launched {
            Ok(Launched::Runs(report)) => {
                self.pid = Some(report.pid);
                self.memory.addr = report.addr;
                let (dir, run) = (self.dir.clone(), report.run);
                self.end.set(async move { client::until_end(&dir, run).await });
                tracing::info!(job = %self.job, pid = report.pid, addr = ?report.addr, "job started");
                Event::Started
            }
            Ok(Launched::Ended(end)) => self.ended(&end.to_string()),
            Err(cause) => self.ended(&cause),
        }
    }

    fn ended(&mut self, how: &str) -> Event {
        tracing::info!(job = %self.job, pid = self.pid, how, "job ended");
        let how = instance::cause(how);
        self.pid = None;
        self.memory.closed = self.memory.run;
        self.memory.last_exit = Some(how.clone());
        Event::Ended(how)
    }

    async fn step(&mut self, event: Event) {
        let restarts = self.life.restarts;
        let actions = self.life.on(event, self.context.now());
        if self.life.restarts > restarts {
            self.context.metrics.job_restarts.inc();
        }
        self.memory.restarts = self.life.restarts;
        self.memory.failures = self.life.failures;
        for action in actions {
            self.act(action).await;
        }
        self.save().await;
    }

    async fn save(&mut self) {
        if self.memory == self.saved || self.life.is_over() {
            return;
        }
        let (dir, memory) = (self.dir.clone(), self.memory.clone());
        match blocking(move || folder::replace(&dir, MEMORY, &memory)).await {
            Ok(()) => self.saved = self.memory.clone(),
            // Tried again at the next step; only a restart of the agent would miss it.
            Err(error) => tracing::error!(job = %self.job, %error, "a job cannot be remembered"),
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Launch => self.start(),
            Action::Say(state) => self.say(state).await,
            Action::Register => self.register(),
            Action::Health(health, cause) => self.set_health(health, cause).await,
            Action::Drain => self.start_drain(),
            Action::Undrain => {
                self.drain = Pending(None);
                if let Some((service, id)) = self.name() {
                    drop(self.context.registrar.set_phase(&service, &id, Phase::Active));
                }
            }
            Action::Deregister => self.deregister(),
            Action::Terminate => {
                self.health = None;
                self.drain = Pending(None);
                self.signal(TERM);
            }
            Action::Kill => self.signal(KILL),
            Action::Forget => self.forget().await,
        }
    }

    fn start(&mut self) {
        let former = self.memory.addr.filter(|_| self.memory.up_since_ms.is_some());
        self.memory.run += 1;
        self.memory.health = None;
        self.memory.cause = None;
        self.memory.up_since_ms = None;
        let (context, job) = (self.context.clone(), self.job.clone());
        let (dir, run) = (self.dir.clone(), self.memory.run);
        let placement = self.memory.placement.clone();
        self.launch.set(async move {
            let placement = placement.ok_or("what the job is to run is not known")?;
            let turn = context.launches.acquire().await.expect("nobody closes it");
            let (own, port) = (context.clone(), former.map(|addr| addr.port()));
            let spec = placement.spec.clone();
            let addr = blocking(move || choose(&own, &job, &spec, port)).await?;
            let order = order::compose(&placement, addr, run, &dir, context.path.as_deref());
            let launched = client::launch(&context.shim, &dir, &order).await;
            drop(turn);
            launched
        });
    }

    fn register(&mut self) {
        let Some(placement) = self.memory.placement.clone() else { return };
        self.attached = true;
        self.memory.health = Some(Health::Starting);
        if let Some(record) = self.record(&placement, Health::Starting) {
            drop(self.context.registrar.put(record));
        }
        let checks = self.checks(&placement);
        self.passes = checks.is_none();
        self.health = checks.map(|(target, specs)| self.context.checks.spawn(target, specs));
    }

    async fn set_health(&mut self, health: Health, cause: Option<String>) {
        let is_first = health == Health::Up && self.memory.up_since_ms.is_none();
        self.memory.health = Some(health);
        self.memory.cause.clone_from(&cause);
        if is_first {
            // Remembered before anyone can send it work: an agent that did not know would stop
            // it without a drain.
            self.memory.up_since_ms = Some(clock::unix_ms());
            self.save().await;
        }
        if let Some((service, id)) = self.name() {
            drop(self.context.registrar.set_health(&service, &id, health, cause));
        }
    }

    fn start_drain(&mut self) {
        let Some((service, id)) = self.name() else { return };
        let written = self.context.registrar.set_phase(&service, &id, Phase::Draining);
        let store = self.context.registrar.store().clone();
        let job = self.job.clone();
        self.drain.set(async move {
            match written.await {
                Ok(since) => acks::until_released(store, &service, &id, since).await,
                // Without a record of ours no router sends it anything.
                Err(RegisterError::Unknown { .. } | RegisterError::Owned { .. }) => {}
                Err(error) => {
                    tracing::warn!(%job, %error, "routers cannot be told of a drain");
                    pending().await
                }
            }
        });
    }

    fn deregister(&mut self) {
        self.health = None;
        self.drain = Pending(None);
        self.attached = false;
        if let Some((service, id)) = self.name() {
            let origin = Origin::Job(self.job.clone());
            self.removal = Some(self.context.registrar.remove(&service, &id, origin));
        }
    }

    /// Waits for a moment until the record is gone: who hears that the job has stopped may
    /// expect it to be.
    async fn removed(&mut self) {
        if let Some(removal) = self.removal.take() {
            let _ = timeout(REMOVAL_WAIT, removal.stored()).await;
        }
    }

    /// Only the shim can tell the job from a stranger with its number.
    fn signal(&self, number: i32) {
        let (dir, job) = (self.dir.clone(), self.job.clone());
        tracing::info!(%job, signal = number, "job is told to end");
        tokio::spawn(async move {
            match client::signal(&dir, number).await {
                Ok(Signalled::Sent | Signalled::Ended) => {}
                Err(error) => {
                    tracing::warn!(%job, number, %error, "a signal was not sent");
                    if number == KILL {
                        // Without its shim the job is killed as lost.
                        blocking(move || client::kill_shim(&dir)).await;
                    }
                }
            }
        });
    }

    async fn forget(&mut self) {
        self.removed().await;
        self.context.ports().release(&self.job);
        self.context.says.say(self.job.clone(), None);
        let (jobs, job) = (self.context.dir.clone(), self.job.clone());
        if let Err(error) = blocking(move || memory::bury(&jobs, &job)).await {
            tracing::error!(job = %self.job, %error, "a job's folder cannot be put away");
        }
    }

    async fn say(&mut self, state: JobState) {
        if state == JobState::Stopped {
            self.removed().await;
            self.context.ports().release(&self.job);
        }
        self.note(state);
        self.save().await;
        self.repeat();
    }

    fn note(&mut self, state: JobState) {
        if self.memory.state.as_ref() != Some(&state) {
            self.memory.since_ms = clock::unix_ms();
            self.memory.state = Some(state);
        }
    }

    /// Says what was said last; nothing is written where the store has it.
    fn repeat(&mut self) {
        let Some(state) = self.memory.state.clone() else { return };
        self.gauge.set(&state);
        let runs = self.pid.is_some();
        let status = JobStatus {
            job: self.job.clone(),
            node: self.context.registrar.node().clone(),
            state,
            pid: self.pid,
            addr: self.memory.addr.filter(|_| runs),
            restarts: self.memory.restarts,
            last_exit: self.memory.last_exit.clone(),
            since_ms: self.memory.since_ms,
        };
        self.context.says.say(self.job.clone(), Some(status));
    }
}

/// The address that a run is to listen on, if it has any.
fn choose(
    context: &Context,
    job: &JobId,
    spec: &JobSpec,
    former: Option<u16>,
) -> Result<Option<SocketAddr>, String> {
    if spec.service.is_none() && spec.port.is_none() {
        return Ok(None);
    }
    let is_free = |port| ports::is_free(context.addr, port, spec.port.is_some());
    let port = context.ports().choose(job, spec.port, former, is_free);
    port.map(|port| Some(SocketAddr::new(context.addr, port))).map_err(|error| error.to_string())
}
