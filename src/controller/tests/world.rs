//! A cluster in virtual time around the store in memory: nodes whose agents obey placements,
//! routers that follow late and acknowledge, and a controller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use portolan_discovery::model::key::{CONTROL, DATA};
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{
    Health, Instance, JobId, JobState, JobStatus, Key, Node, NodeName, Origin, Phase, Placement,
    PortRange, ProcessName, Resources, Revision, RouterAck, ServiceName, VirtualRange, Wanted,
    Weight,
};
use portolan_discovery::snapshot::{Snapshot, State};
use portolan_discovery::store::{Compare, Txn};

use super::memory::Memory;
use crate::controller::commands::{CommandError, Commands, DeployRequest};
use crate::controller::commit::pack;
use crate::controller::lead::Leader;
use crate::controller::reconcile::{Decision, Now, Reconciler};
use crate::controller::records::AppRecords;
use crate::controller::view::View;

/// From one moment to the next.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// SplitMix64: a few lines, the same everywhere, and any seed will do.
#[derive(Debug, Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    pub(super) fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Life {
    Starting { ready_at: u64 },
    Up,
    Draining { since: Revision },
    Stopping { over_at: u64 },
    Waiting { until: u64 },
    Stopped,
}

#[derive(Debug, Clone)]
struct AgentJob {
    life: Life,
    restarts: u32,
    placement: Arc<Placement>,
}

/// A router that knows the data plane as it was a moment ago.
#[derive(Debug)]
pub(super) struct LateRouter {
    name: NodeName,
    pub(super) table: Snapshot,
    frozen_until: u64,
}

/// The leader's part of the world.
struct Leading {
    reconciler: Reconciler,
    fence: Compare,
    data_at: Revision,
    must_see: Revision,
}

pub(super) struct World {
    pub(super) store: Arc<Memory>,
    pub(super) commands: Commands,
    pub(super) dice: Dice,
    pub(super) tick: u64,
    started: Instant,
    nodes: Vec<NodeName>,
    agents: BTreeMap<NodeName, BTreeMap<JobId, AgentJob>>,
    pub(super) routers: Vec<LateRouter>,
    leading: Leading,
    /// What the store has beside the data plane.
    truth: View,
    /// Every job that was ever placed, and where.
    ever: BTreeMap<JobId, NodeName>,
    pub(super) last: Decision,
    pub(super) trace: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64, nodes: usize, jobs_per_node: u64) -> Self {
        let store = Arc::new(Memory::default());
        let source = store.clone();
        let commands = Commands::new(move || Ok(source.clone()));
        let names: Vec<NodeName> = (0..nodes).map(|at| format!("n{at}").parse().unwrap()).collect();
        for (at, name) in names.iter().enumerate() {
            let node = Node {
                name: name.clone(),
                addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
                zone: Some(format!("z{}", at % 2)),
                capacity: Resources {
                    cpu_millis: 100 * jobs_per_node,
                    memory_mib: 100 * jobs_per_node,
                },
                ports: PortRange::DEFAULT,
                runs_jobs: true,
                cordoned: false,
                version: "1".into(),
                since_ms: 0,
            };
            put(&store, &Key::Node(name.clone()), &node);
        }
        let router = |name: &NodeName| LateRouter {
            name: name.clone(),
            table: Snapshot::default(),
            frozen_until: 0,
        };
        let leading = Leading::begin(&store);
        Self {
            commands,
            dice: Dice(seed),
            tick: 0,
            started: crate::clock::now(),
            agents: names.iter().map(|name| (name.clone(), BTreeMap::new())).collect(),
            routers: names.iter().take(2).map(router).collect(),
            nodes: names,
            leading,
            truth: View::default(),
            store,
            ever: BTreeMap::new(),
            last: Decision::default(),
            trace: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Now {
        let since = TICK * u32::try_from(self.tick).unwrap();
        let unix_ms = u64::try_from(since.as_millis()).unwrap();
        Now { at: self.started + since, unix_ms }
    }

    /// Everybody does what there is to do.
    pub(super) fn step(&mut self) {
        self.tick += 1;
        for at in 0..self.routers.len() {
            self.route(at);
        }
        for node in self.nodes.clone() {
            if !self.dice.one_in(4) {
                self.obey(&node);
            }
        }
        if !self.dice.one_in(5) {
            self.lead();
        }
    }

    pub(super) fn steps(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.step();
        }
    }

    /// A new controller takes over in the middle of whatever goes on. What the former one still
    /// wants to write must not be done.
    pub(super) fn replace_controller(&mut self) {
        self.leading.hear(&self.store, self.store.revision());
        let now = self.now();
        let stale = self.leading.reconciler.decide(now);
        let fence = self.leading.fence.clone();
        self.leading = Leading::begin(&self.store);
        for txn in pack(stale.first.into_iter().chain(stale.then).collect(), &fence) {
            assert!(!self.store.commit(&txn).done, "a former leader wrote {txn:?}");
        }
    }

    /// Takes a router out of the game for a while: it neither follows nor acknowledges.
    pub(super) fn freeze_router(&mut self, at: usize, ticks: u64) {
        self.routers[at].frozen_until = self.tick + ticks;
    }

    /// Where the controller gives virtual addresses from now on.
    pub(super) fn set_range(&mut self, range: Option<VirtualRange>) {
        self.leading.reconciler.range = range;
    }

    /// Everything that the store has now.
    pub(super) fn truth(&self) -> View {
        let mut view = View::default();
        let (kvs, revision) = self.store.all(DATA);
        view.reset_data(kvs, revision);
        let (kvs, revision) = self.store.all(CONTROL);
        view.reset_control(&kvs, revision);
        view
    }

    fn lead(&mut self) {
        let newest = self.store.revision();
        let lag = self.dice.below(3);
        let data_up_to = Revision(newest.0.saturating_sub(lag)).max(self.leading.data_at);
        self.leading.hear(&self.store, data_up_to);
        let now = self.now();
        if self.leading.reconciler.view.control_at < Some(self.leading.must_see) {
            return;
        }
        let decision = self.leading.reconciler.decide(now);
        self.trace.extend(decision.notes.iter().map(|note| format!("{}: {note}", self.tick)));
        let changes = decision.first.iter().chain(&decision.then).cloned().collect();
        for txn in pack(changes, &self.leading.fence) {
            let outcome = self.store.commit(&txn);
            self.leading.must_see = self.leading.must_see.max(outcome.revision);
        }
        self.last = decision;
        self.look();
        for stored in self.truth.placements.values() {
            let placement = &stored.record;
            let first = self.ever.entry(placement.job.clone()).or_insert(placement.node.clone());
            assert_eq!(*first, placement.node, "{} was placed twice", placement.job);
        }
    }

    fn route(&mut self, at: usize) {
        let newest = self.store.revision();
        let router = &mut self.routers[at];
        if self.tick < router.frozen_until || self.dice.one_in(3) {
            return;
        }
        let seen = router.table.revision;
        for (revision, events) in self.store.changes(DATA, seen, newest) {
            router.table = router.table.apply(&events, revision).0;
        }
        if router.table.revision > seen {
            let ack = RouterAck {
                router: router.name.clone(),
                revision: router.table.revision,
                draining: BTreeMap::new(),
            };
            put(&self.store, &Key::Ack(router.name.clone()), &ack);
        }
    }

    fn obey(&mut self, node: &NodeName) {
        self.look();
        let on_node = self.truth.placements.values().filter(|stored| stored.record.node == *node);
        let placed: BTreeMap<JobId, Arc<Placement>> =
            on_node.map(|stored| (stored.record.job.clone(), stored.record.clone())).collect();
        let mut jobs = self.agents.remove(node).unwrap();
        for (id, placement) in &placed {
            if !jobs.contains_key(id) {
                let life = Life::Stopped;
                jobs.insert(
                    id.clone(),
                    AgentJob { life, restarts: 0, placement: placement.clone() },
                );
                if placement.wanted == Wanted::Stop {
                    self.say(&jobs[id], JobState::Stopped);
                }
            }
        }
        jobs.retain(|id, job| {
            let wanted = placed.get(id).map_or(Wanted::Stop, |placement| placement.wanted);
            match wanted {
                Wanted::Run => self.keep_up(job),
                Wanted::Stop => self.take_down(job),
            }
            let forget = job.life == Life::Stopped && !placed.contains_key(id);
            if forget {
                let key = Key::Job(node.clone(), id.clone()).to_string();
                self.store.commit(&Txn::default().delete(key));
            }
            !forget
        });
        self.agents.insert(node.clone(), jobs);
    }

    fn keep_up(&mut self, job: &mut AgentJob) {
        let behaviour = job.placement.spec.env["BEHAVIOUR"].clone();
        match &job.life {
            Life::Stopped => self.start(job),
            Life::Waiting { until } if self.tick >= *until => {
                job.restarts += 1;
                self.start(job);
            }
            Life::Starting { ready_at } if self.tick >= *ready_at => match behaviour.as_str() {
                "good" => {
                    job.life = Life::Up;
                    self.register(job, Health::Up, Phase::Active);
                    self.say(job, JobState::Running);
                }
                "crash" => {
                    job.life = Life::Waiting { until: self.tick + 5 };
                    self.deregister(job);
                    let cause = "exit status 1".to_owned();
                    self.say(job, JobState::Backoff { cause, until_ms: 0 });
                }
                "sick" => {}
                other => panic!("{other}"),
            },
            Life::Draining { .. } => {
                job.life = Life::Up;
                self.register(job, Health::Up, Phase::Active);
                self.say(job, JobState::Running);
            }
            Life::Stopping { over_at } if self.tick >= *over_at => {
                self.deregister(job);
                self.start(job);
            }
            _ => {}
        }
    }

    fn start(&mut self, job: &mut AgentJob) {
        job.life = Life::Starting { ready_at: self.tick + 1 + self.dice.below(12) };
        self.register(job, Health::Starting, Phase::Active);
        self.say(job, JobState::Starting);
    }

    fn take_down(&mut self, job: &mut AgentJob) {
        match &job.life {
            Life::Up if job.placement.spec.service.is_some() => {
                let since = self.register(job, Health::Up, Phase::Draining);
                job.life = Life::Draining { since };
                self.say(job, JobState::Draining);
            }
            Life::Draining { since }
                if self.routers.iter().all(|router| router.table.revision >= *since) =>
            {
                self.stop(job);
            }
            Life::Up | Life::Starting { .. } => self.stop(job),
            Life::Waiting { .. } => {
                job.life = Life::Stopped;
                self.deregister(job);
                self.say(job, JobState::Stopped);
            }
            Life::Stopping { over_at } if self.tick >= *over_at => {
                job.life = Life::Stopped;
                self.deregister(job);
                self.say(job, JobState::Stopped);
            }
            _ => {}
        }
    }

    fn stop(&mut self, job: &mut AgentJob) {
        job.life = Life::Stopping { over_at: self.tick + 1 + self.dice.below(8) };
        self.say(job, JobState::Stopping);
    }

    fn say(&self, job: &AgentJob, state: JobState) {
        let AgentJob { placement, restarts, .. } = job;
        let status = JobStatus {
            job: placement.job.clone(),
            node: placement.node.clone(),
            state,
            pid: None,
            addr: None,
            restarts: *restarts,
            last_exit: None,
            since_ms: 0,
        };
        put(&self.store, &Key::Job(placement.node.clone(), placement.job.clone()), &status);
    }

    fn register(&self, job: &AgentJob, health: Health, phase: Phase) -> Revision {
        let placement = &job.placement;
        let Some(service) = &placement.spec.service else { return Revision::default() };
        let instance = Instance {
            service: service.clone(),
            id: placement.job.as_str().parse().unwrap(),
            node: placement.node.clone(),
            addr: SocketAddr::from(([127, 0, 0, 1], 20_000)),
            weight: Weight::DEFAULT,
            health,
            cause: None,
            phase,
            origin: Origin::Job(placement.job.clone()),
            since_ms: 0,
            labels: BTreeMap::new(),
        };
        put(&self.store, &Key::Instance(service.clone(), instance.id.clone()), &instance)
    }

    fn deregister(&self, job: &AgentJob) {
        if let Some(service) = &job.placement.spec.service {
            let id = job.placement.job.as_str().parse().unwrap();
            let key = Key::Instance(service.clone(), id).to_string();
            self.store.commit(&Txn::default().delete(key));
        }
    }

    /// Reads what the store has now.
    fn look(&mut self) {
        let seen = self.truth.control_at.unwrap_or_default();
        let newest = self.store.revision();
        for (revision, events) in self.store.changes(CONTROL, seen, newest) {
            self.truth.apply_control(&events, revision);
        }
        self.truth.control_at = Some(newest);
    }

    pub(super) fn placements(&mut self) -> Vec<Arc<Placement>> {
        self.look();
        self.truth.placements.values().map(|stored| stored.record.clone()).collect()
    }

    /// The jobs whose processes take requests, or could; and which of them are to go on.
    fn alive(&mut self) -> BTreeMap<JobId, bool> {
        let placements = self.placements();
        let running = placements.iter().filter(|placement| placement.wanted == Wanted::Run);
        let staying: BTreeSet<&JobId> = running.map(|placement| &placement.job).collect();
        let jobs = self.agents.values().flat_map(BTreeMap::iter);
        let alive = jobs.filter(|(_, job)| matches!(job.life, Life::Up | Life::Draining { .. }));
        alive.map(|(id, _)| (id.clone(), staying.contains(id))).collect()
    }

    /// How many live jobs each router would send a request for `service` to, and how many of
    /// them are to go on.
    pub(super) fn served(&mut self, service: &ServiceName) -> Vec<(u32, u32)> {
        let alive = self.alive();
        let count = |router: &LateRouter| {
            let Some(entry) = router.table.service(service.as_str()) else { return (0, 0) };
            let ids = entry.in_state(State::Up).map(|member| member.instance.id.as_str());
            let stays: Vec<bool> = ids.filter_map(|id| alive.get(id).copied()).collect();
            (stays.len() as u32, stays.iter().filter(|stays| **stays).count() as u32)
        };
        self.routers.iter().map(count).collect()
    }

    /// How many jobs of a worker process run, and how many of them are to go on.
    pub(super) fn working(&mut self, process: &ProcessName) -> (u32, u32) {
        let alive = self.alive();
        let jobs = self.agents.values().flat_map(BTreeMap::iter);
        let up = jobs.filter(|(_, job)| job.life == Life::Up && job.placement.process == *process);
        let stays: Vec<bool> = up.map(|(id, _)| alive[id]).collect();
        (stays.len() as u32, stays.iter().filter(|stays| **stays).count() as u32)
    }

    pub(super) fn records(&mut self, app: &str) -> AppRecords {
        self.look();
        self.truth.apps.get(app).cloned().unwrap_or_default()
    }

    /// The wanted count of a process type; 0 once the app turns to a release without it.
    pub(super) fn wanted(&mut self, app: &str, process: &ProcessName) -> u32 {
        self.look();
        let Some(records) = self.truth.apps.get(app) else { return 0 };
        let heading = records.heading().and_then(|heading| records.releases.get(&heading));
        let has = heading.is_some_and(|stored| stored.record.processes.contains_key(process));
        if has { records.count(process) } else { 0 }
    }

    pub(super) fn deploy(&mut self, processes: &[(&str, &str, u32)], version: u64) {
        let of = |process: &str, behaviour: &str| {
            super::spec((process == "web").then_some("web"), behaviour, version)
        };
        let request = DeployRequest {
            app: "shop".parse().unwrap(),
            labels: BTreeMap::new(),
            progress_deadline: Duration::from_secs(20),
            processes: processes
                .iter()
                .map(|(process, behaviour, _)| (process.parse().unwrap(), of(process, behaviour)))
                .collect(),
            counts: processes
                .iter()
                .map(|(process, _, count)| (process.parse().unwrap(), *count))
                .collect(),
        };
        self.done(self.commands.deploy(request)).unwrap();
    }

    pub(super) fn scale(&mut self, process: &str, count: u32) -> Result<(), CommandError> {
        let (app, process) = ("shop".parse().unwrap(), process.parse().unwrap());
        self.done(self.commands.scale(&app, &process, count)).map(drop)
    }

    /// Changes a count behind the back of the commands.
    pub(super) fn scale_unchecked(&mut self, process: &str, count: u32) {
        let stored = self.records("shop").formation.unwrap();
        let mut formation = (*stored.record).clone();
        formation.counts.insert(process.parse().unwrap(), count);
        put(&self.store, &Key::Formation(formation.app.clone()), &formation);
    }

    /// The result of a command: this store never makes one wait.
    pub(super) fn done<T>(&self, command: impl Future<Output = T>) -> T {
        command.now_or_never().expect("the store in memory answers at once")
    }

    /// What the controller would still change, once everything has come to rest.
    pub(super) fn unrest(&mut self) -> usize {
        self.leading.hear(&self.store, self.store.revision());
        let now = self.now();
        let decision = self.leading.reconciler.decide(now);
        decision.first.len() + decision.then.len()
    }
}

impl Leading {
    fn begin(store: &Memory) -> Self {
        let leader = Leader { node: "n0".parse().unwrap(), since_ms: 0 };
        let revision = put(store, &Key::Leader, &leader);
        let mut reconciler = Reconciler::default();
        let (kvs, data_at) = store.all(DATA);
        reconciler.view.reset_data(kvs, data_at);
        let (kvs, control_at) = store.all(CONTROL);
        reconciler.view.reset_control(&kvs, control_at);
        reconciler.begin_term();
        let fence = Compare::Unchanged(Key::Leader.to_string(), revision);
        Self { reconciler, fence, data_at, must_see: revision }
    }

    fn hear(&mut self, store: &Memory, data_up_to: Revision) {
        let view = &mut self.reconciler.view;
        for (revision, events) in store.changes(DATA, self.data_at, data_up_to) {
            view.apply_data(&events, revision);
        }
        self.data_at = data_up_to.max(self.data_at);
        let newest = store.revision();
        let control_at = view.control_at.unwrap_or_default();
        for (revision, events) in store.changes(CONTROL, control_at, newest) {
            view.apply_control(&events, revision);
        }
        view.control_at = Some(newest);
    }
}

pub(super) fn put<T: serde::Serialize>(store: &Memory, key: &Key, record: &T) -> Revision {
    store.commit(&Txn::default().put(key.to_string(), encode(record))).revision
}
