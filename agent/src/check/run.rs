//! Runs checks: one task each, probing on the schedule of the machine.
//!
//! Knows nothing of stores: what the checks say is read from a [`HealthWatch`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use portolan_discovery::model::{
    CheckSpec, Health, InstanceId, Protocol, ProxyVersion, ServiceName,
};
use portolan_discovery::snapshot::Snapshot;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

pub use super::board::CheckResult;
use super::board::{Board, Probed};
use crate::metrics::Metrics;
use crate::probe::Prober;
use crate::{clock, keep};

/// The most probes under way at once on a node; more wait for their turn.
pub const PROBES_MAX: usize = 512;

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The service.
    pub service: ServiceName,
    /// The instance.
    pub id: InstanceId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// The PROXY header that it asks for, as long as the service's record is not known.
    pub proxy_protocol: Option<ProxyVersion>,
}

type Name = (ServiceName, InstanceId);

/// Starts checks and knows the ones that run. A clone is the same one.
#[derive(Clone)]
pub struct Checks {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Metrics,
    records: watch::Receiver<Arc<Snapshot>>,
    turns: Semaphore,
    boards: Mutex<BTreeMap<Name, Weak<Board>>>,
}

impl Checks {
    /// Nothing is checked yet, and nothing is known of services but what targets say.
    pub fn new(metrics: Metrics) -> Self {
        Self::following(metrics, watch::channel(Arc::default()).1)
    }

    /// The same with the records that are served: what is said to instances first is what
    /// routers say.
    pub fn following(metrics: Metrics, records: watch::Receiver<Arc<Snapshot>>) -> Self {
        let turns = Semaphore::new(PROBES_MAX);
        Self { shared: Arc::new(Shared { metrics, records, turns, boards: Mutex::default() }) }
    }

    /// Starts the checks of an instance that has just started.
    pub fn spawn(&self, target: Target, specs: Vec<CheckSpec>) -> HealthWatch {
        self.resume(target, specs, Health::Starting, None)
    }

    /// Starts the checks of an instance whose health is known from before; that holds until
    /// there is evidence against it.
    pub fn resume(
        &self,
        target: Target,
        specs: Vec<CheckSpec>,
        health: Health,
        cause: Option<String>,
    ) -> HealthWatch {
        let board = Arc::new(Board::new((health, cause)));
        let name = (target.service.clone(), target.id.clone());
        self.shared.boards().insert(name, Arc::downgrade(&board));
        let mut watch = HealthWatch {
            seen: board.subscribe(),
            board,
            target,
            tasks: BTreeMap::new(),
            shared: self.shared.clone(),
        };
        watch.replace(specs);
        watch.seen.mark_unchanged();
        watch
    }

    /// What a service speaks, as far as its record is known.
    pub(crate) fn protocol(&self, service: &ServiceName) -> Option<Protocol> {
        let records = self.shared.records.borrow();
        let entry = records.service(service.as_str()).filter(|entry| entry.declared)?;
        Some(entry.service.protocol)
    }

    /// The last outcome of each check of an instance; `None` when it is not checked here.
    pub fn results(&self, service: &ServiceName, id: &InstanceId) -> Option<Vec<CheckResult>> {
        let name = (service.clone(), id.clone());
        let board = self.shared.boards().get(&name).and_then(Weak::upgrade)?;
        Some(board.results())
    }
}

impl Shared {
    /// The PROXY header that an instance asks for now.
    fn header(&self, target: &Target) -> Option<ProxyVersion> {
        let records = self.records.borrow();
        match records.service(target.service.as_str()).filter(|entry| entry.declared) {
            Some(entry) => entry.service.proxy_protocol,
            None => target.proxy_protocol,
        }
    }

    fn boards(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Weak<Board>>> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the checks of one instance say. Dropping it stops them.
pub struct HealthWatch {
    board: Arc<Board>,
    seen: watch::Receiver<(Health, Option<String>)>,
    target: Target,
    tasks: BTreeMap<u64, Task>,
    shared: Arc<Shared>,
}

impl HealthWatch {
    /// What they say now: `Up` when all pass or there are none, `Down` with the failing check
    /// as its cause, `Starting` until all have decided.
    pub fn current(&self) -> (Health, Option<String>) {
        self.seen.borrow().clone()
    }

    /// Returns when they say something else than at the last call. Safe to drop and call again.
    pub async fn changed(&mut self) {
        self.seen.changed().await.expect("`board` holds the sender");
    }

    /// The last outcome of each check that has one, in the order of the specs.
    pub fn results(&self) -> Vec<CheckResult> {
        self.board.results()
    }

    /// What is checked.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Takes over other checks without a gap: equal ones go on, the health stays as it is until
    /// the new ones have evidence against it.
    pub fn replace(&mut self, specs: Vec<CheckSpec>) {
        let numbers = self.board.replace(specs, clock::now());
        self.tasks.retain(|number, _| numbers.contains(number));
        for number in numbers {
            self.tasks.entry(number).or_insert_with(|| {
                let (board, shared) = (self.board.clone(), self.shared.clone());
                let target = self.target.clone();
                let task = async move {
                    let start = || check(&board, number, &target, &shared);
                    keep::keep("check", &shared.metrics, start).await;
                };
                Task(tokio::spawn(task).abort_handle())
            });
        }
    }
}

impl Drop for HealthWatch {
    fn drop(&mut self) {
        let name = (self.target.service.clone(), self.target.id.clone());
        let mut boards = self.shared.boards();
        // The instance may be checked by a newer watch already.
        if boards.get(&name).is_some_and(|board| board.as_ptr() == Arc::as_ptr(&self.board)) {
            boards.remove(&name);
        }
    }
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Probes until the check is not wanted any more; the task is aborted then.
async fn check(board: &Board, number: u64, target: &Target, shared: &Shared) {
    let addr = target.addr;
    let Some((spec, mut next)) = board.plan(number, fastrand::u64(..)) else {
        return std::future::pending().await;
    };
    let kind = spec.kind.word();
    let passed = shared.metrics.probes.with_label_values(&[kind, "pass"]);
    let failed = shared.metrics.probes.with_label_values(&[kind, "fail"]);
    let seconds = shared.metrics.probe_seconds.with_label_values(&[kind]);
    let mut prober = Prober::new(spec.kind);
    loop {
        sleep_until(Instant::from_std(next)).await;
        let turn = shared.turns.acquire().await.expect("nobody closes it");
        let began = clock::now();
        prober.begin_with(shared.header(target));
        let outcome = prober.probe(addr, spec.timeout).await;
        drop(turn);
        if outcome.ok {
            passed.inc()
        } else {
            failed.inc()
        }
        seconds.observe(outcome.took.as_secs_f64());
        let probed = Probed {
            began,
            ended: clock::now(),
            ended_ms: clock::unix_ms(),
            jitter: fastrand::u64(..),
        };
        let Some((flip, at)) = board.observe(number, &outcome, probed) else {
            return std::future::pending().await;
        };
        next = at;
        if let Some(flip) = flip {
            shared.metrics.flips.with_label_values(&[flip.word()]).inc();
            tracing::info!(%addr, kind, to = flip.word(), detail = outcome.detail, "check flips");
        }
    }
}
