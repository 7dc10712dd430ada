//! The nodes with what is free on them, and the choice among them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use portolan_discovery::model::{
    AppName, JobId, JobSpec, Node, NodeName, ProcessName, ReleaseId, Resources,
};

use super::id::{hash, mix};
use super::{ClusterView, Group, Job, Reason, Refusal, Standing};

/// A whole, in the unit of [`Room::load`].
const WHOLE: u64 = 1 << 20;
/// More than any node has; a whole of it still fits the arithmetic.
const AMOUNT_MAX: u64 = u64::MAX / WHOLE;

/// A node with what its jobs take up.
struct Room<'a> {
    node: &'a Node,
    zone: usize,
    hash: u64,
    used: Resources,
    /// Fixed ports, and those that agents have given.
    ports: BTreeSet<u16>,
    /// How many ports of the node's range are spoken for.
    in_range: u32,
    /// Running jobs by app, process type and release.
    jobs: HashMap<(&'a AppName, &'a ProcessName), BTreeMap<&'a ReleaseId, u32>>,
}

impl<'a> Room<'a> {
    fn new(node: &'a Node, zone: usize) -> Self {
        Self {
            node,
            zone,
            hash: hash([node.name.as_str().as_bytes()]),
            used: Resources::default(),
            ports: BTreeSet::new(),
            in_range: 0,
            jobs: HashMap::new(),
        }
    }

    fn hold(&mut self, job: &Job<'a>) {
        let placement = job.placement;
        self.take(&placement.spec);
        self.ports.extend(job.port);
        if job.runs() {
            let of_process = self.jobs.entry((&placement.app, &placement.process)).or_default();
            *of_process.entry(&placement.release).or_default() += 1;
        }
    }

    fn take(&mut self, spec: &JobSpec) {
        self.used.cpu_millis = self.used.cpu_millis.saturating_add(spec.resources.cpu_millis);
        self.used.memory_mib = self.used.memory_mib.saturating_add(spec.resources.memory_mib);
        match spec.port {
            Some(port) => {
                self.ports.insert(port);
                let range = self.node.ports;
                self.in_range += u32::from((range.first..=range.last).contains(&port));
            }
            None => self.in_range += u32::from(asks_for_a_port(spec)),
        }
    }

    /// Why the node does not take a job of `spec`, if it does not.
    fn refuses(&self, spec: &JobSpec) -> Option<Reason> {
        let over = |used: u64, ask: u64, has: u64| ask > 0 && used.saturating_add(ask) > has;
        let (ask, has) = (spec.resources, self.node.capacity);
        if !self.node.runs_jobs {
            return Some(Reason::RunsNoJobs);
        }
        if self.node.cordoned {
            return Some(Reason::Cordoned);
        }
        if let Some(port) = spec.port.filter(|port| self.ports.contains(port)) {
            return Some(Reason::PortTaken(port));
        }
        if asks_for_a_port(spec) && self.in_range >= self.ports_to_give() {
            return Some(Reason::NoPortLeft);
        }
        if over(self.used.memory_mib, ask.memory_mib, has.memory_mib) {
            return Some(Reason::Memory);
        }
        over(self.used.cpu_millis, ask.cpu_millis, has.cpu_millis).then_some(Reason::Cpu)
    }

    /// How many ports the node's range has.
    fn ports_to_give(&self) -> u32 {
        let range = self.node.ports;
        if range.first > range.last {
            return 0;
        }
        u32::from(range.last - range.first) + 1
    }

    /// How full the node would be with a job of `spec`, by what it has least of.
    fn load(&self, spec: &JobSpec) -> u64 {
        let share = |used: u64, ask: u64, has: u64| {
            used.saturating_add(ask).min(AMOUNT_MAX) * WHOLE / has.max(1)
        };
        let (used, ask, has) = (self.used, spec.resources, self.node.capacity);
        share(used.memory_mib, ask.memory_mib, has.memory_mib).max(share(
            used.cpu_millis,
            ask.cpu_millis,
            has.cpu_millis,
        ))
    }
}

/// A job without a service is a worker, and has no port.
fn asks_for_a_port(spec: &JobSpec) -> bool {
    spec.port.is_none() && spec.service.is_some()
}

/// The nodes that are there.
pub(super) struct Fleet<'a> {
    rooms: Vec<Room<'a>>,
    by_name: HashMap<&'a NodeName, usize>,
    zones: usize,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(view: &ClusterView<'a>) -> Self {
        let mut zones: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        let mut fleet = Self { rooms: Vec::new(), by_name: HashMap::new(), zones: 0 };
        for (name, node) in &view.nodes {
            let next = zones.len();
            let zone = *zones.entry(node.zone.as_deref()).or_insert(next);
            fleet.by_name.insert(name, fleet.rooms.len());
            fleet.rooms.push(Room::new(node, zone));
        }
        fleet.zones = zones.len();
        // A job that is to stop has its resources until it has ended.
        for job in view.jobs.iter().filter(|job| job.standing != Standing::Ended) {
            if let Some(at) = fleet.by_name.get(&job.placement.node) {
                fleet.rooms[*at].hold(job);
            }
        }
        fleet
    }

    /// Whether the node is there.
    pub(super) fn knows(&self, node: &NodeName) -> bool {
        self.by_name.contains_key(node)
    }

    /// The zone of a node that is there, if it has one.
    pub(super) fn zone_of(&self, node: &NodeName) -> Option<&'a str> {
        self.by_name.get(node).and_then(|at| self.rooms[*at].node.zone.as_deref())
    }

    /// Counts where the jobs of `group` are.
    pub(super) fn search(&self, group: &Group) -> Search {
        let mut search = Search {
            nodes: vec![Crowd::default(); self.rooms.len()],
            zones: vec![Crowd::default(); self.zones],
        };
        for (at, room) in self.rooms.iter().enumerate() {
            let Some(of_process) = room.jobs.get(&(&group.app, &group.process)) else { continue };
            let crowd = Crowd {
                of_release: of_process.get(&group.release).copied().unwrap_or(0),
                of_process: of_process.values().sum(),
            };
            search.nodes[at] = crowd;
            search.zones[room.zone].of_release += crowd.of_release;
            search.zones[room.zone].of_process += crowd.of_process;
        }
        search
    }

    /// Why no node takes a job of `spec`.
    pub(super) fn refusal(&self, group: &Group, spec: &JobSpec, missing: u32) -> Refusal {
        let nodes = self
            .rooms
            .iter()
            .filter_map(|room| Some((room.node.name.clone(), room.refuses(spec)?)))
            .collect();
        Refusal { group: group.clone(), missing, nodes }
    }
}

/// Jobs in one place that are like the one to be placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Crowd {
    /// Of the same release. It goes first: the jobs of other releases are on their way out,
    /// and what they leave must be spread as well.
    of_release: u32,
    /// Of any release.
    of_process: u32,
}

/// The choice of nodes for the jobs of one group.
pub(super) struct Search {
    nodes: Vec<Crowd>,
    zones: Vec<Crowd>,
}

impl Search {
    /// Takes the best node for `job`, if one takes it: the zone and then the node with the
    /// fewest like it, then the least loaded, then by rendezvous hash.
    pub(super) fn choose(
        &mut self,
        fleet: &mut Fleet<'_>,
        spec: &JobSpec,
        job: &JobId,
    ) -> Option<NodeName> {
        let job_hash = hash([job.as_str().as_bytes()]);
        let (at, _) = fleet
            .rooms
            .iter()
            .enumerate()
            .filter(|(_, room)| room.refuses(spec).is_none())
            .min_by_key(|(at, room)| {
                let (zone, node) = (self.zones[room.zone], self.nodes[*at]);
                (zone, node, room.load(spec), Reverse(mix(room.hash ^ job_hash)), *at)
            })?;
        let room = &mut fleet.rooms[at];
        room.take(spec);
        for crowd in [&mut self.nodes[at], &mut self.zones[room.zone]] {
            crowd.of_release += 1;
            crowd.of_process += 1;
        }
        Some(room.node.name.clone())
    }
}
