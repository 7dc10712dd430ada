use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use portolan_discovery::model::{PortRange, Resources};
use proptest::prelude::*;

use super::*;

fn spec(cpu_millis: u64, memory_mib: u64, port: Option<u16>) -> JobSpec {
    JobSpec {
        command: vec!["serve".into()],
        env: BTreeMap::new(),
        dir: None,
        service: Some("web".parse().unwrap()),
        port,
        checks: Vec::new(),
        resources: Resources { cpu_millis, memory_mib },
        drain_timeout: Duration::from_secs(1),
        kill_timeout: Duration::from_secs(1),
    }
}

fn node(name: &str, zone: Option<&str>, cpu_millis: u64, memory_mib: u64) -> Node {
    Node {
        name: NodeName::parse(name).unwrap(),
        addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
        zone: zone.map(str::to_owned),
        capacity: Resources { cpu_millis, memory_mib },
        ports: PortRange { first: 20_000, last: 20_099 },
        runs_jobs: true,
        cordoned: false,
        version: "1".into(),
        since_ms: 0,
    }
}

fn group(app: &str, process: &str, release: &str) -> Group {
    Group {
        app: AppName::parse(app).unwrap(),
        process: ProcessName::parse(process).unwrap(),
        release: ReleaseId::parse(release).unwrap(),
    }
}

/// A cluster that a plan can be made for and applied to.
#[derive(Debug, Clone, Default)]
struct World {
    nodes: Vec<Node>,
    jobs: Vec<(Placement, Standing)>,
    wanted: BTreeMap<Group, (u32, JobSpec)>,
    held: Vec<AppName>,
}

impl World {
    fn view(&self) -> ClusterView<'_> {
        ClusterView {
            nodes: self.nodes.iter().map(|node| (&node.name, node)).collect(),
            jobs: self
                .jobs
                .iter()
                .map(|(placement, standing)| Job { placement, standing: *standing, port: None })
                .collect(),
            wanted: self
                .wanted
                .iter()
                .map(|(group, (count, spec))| (group.clone(), Want { count: *count, spec }))
                .collect(),
            held: self.held.iter().collect(),
            reserved: BTreeSet::new(),
        }
    }

    fn plan(&self, now_ms: u64) -> Plan {
        plan(&self.view(), now_ms)
    }

    fn apply(&mut self, plan: &Plan, standing: Standing) {
        for stop in &plan.stop {
            self.job_mut(&stop.job).wanted = Wanted::Stop;
        }
        for (_, job) in &plan.resume {
            self.job_mut(job).wanted = Wanted::Run;
        }
        self.jobs.extend(plan.place.iter().map(|placement| (placement.clone(), standing)));
    }

    fn job_mut(&mut self, job: &JobId) -> &mut Placement {
        &mut self.jobs.iter_mut().find(|(p, _)| p.job == *job).unwrap().0
    }

    /// Plans, applies and says where the jobs of each node are, such as `a:2 b:1`.
    fn settle(&mut self, now_ms: u64, standing: Standing) -> String {
        let plan = self.plan(now_ms);
        self.apply(&plan, standing);
        self.spread()
    }

    fn spread(&self) -> String {
        let mut on: BTreeMap<&str, u32> =
            self.nodes.iter().map(|node| (node.name.as_str(), 0)).collect();
        for (placement, _) in self.jobs.iter().filter(|(p, _)| p.wanted == Wanted::Run) {
            *on.entry(placement.node.as_str()).or_default() += 1;
        }
        on.iter().map(|(node, count)| format!("{node}:{count}")).collect::<Vec<_>>().join(" ")
    }
}

fn world(nodes: Vec<Node>, wanted: &[(Group, u32, JobSpec)]) -> World {
    let wanted = wanted.iter().map(|(g, count, spec)| (g.clone(), (*count, spec.clone())));
    World { nodes, wanted: wanted.collect(), ..World::default() }
}

fn web(count: u32) -> (Group, u32, JobSpec) {
    (group("shop", "web", "v1"), count, spec(100, 100, None))
}

#[test]
fn jobs_spread_over_zones_before_nodes() {
    let nodes = vec![
        node("a", Some("x"), 9000, 9000),
        node("b", Some("x"), 9000, 9000),
        node("c", Some("y"), 9000, 9000),
    ];
    for (count, expected) in [(2, 1), (4, 2), (6, 3)] {
        let mut world = world(nodes.clone(), &[web(count)]);
        world.settle(1, Standing::Ready);
        let on_c = world.jobs.iter().filter(|(p, _)| p.node.as_str() == "c").count();
        assert_eq!(on_c, expected, "{}", world.spread());
    }
}

#[test]
fn an_even_count_is_spread_evenly_and_a_new_release_too() {
    let nodes: Vec<Node> = ["a", "b", "c"].map(|name| node(name, None, 9000, 9000)).into();
    let mut world = world(nodes, &[web(6)]);
    assert_eq!(world.settle(1, Standing::Ready), "a:2 b:2 c:2");
    // One by one, as a rolling deployment goes.
    for step in 1..=6 {
        world.wanted.insert(group("shop", "web", "v1"), (6 - step, spec(100, 100, None)));
        world.wanted.insert(group("shop", "web", "v2"), (step, spec(100, 100, None)));
        world.settle(1 + u64::from(step), Standing::Ready);
    }
    assert_eq!(world.spread(), "a:2 b:2 c:2");
}

#[test]
fn of_two_alike_nodes_the_emptier_one_is_taken() {
    let other = (group("other", "big", "v1"), 1, spec(4000, 100, None));
    let mut world = world(vec![node("a", None, 9000, 9000), node("b", None, 9000, 9000)], &[other]);
    world.settle(1, Standing::Ready);
    let taken = world.jobs[0].0.node.clone();
    world.wanted.insert(group("shop", "web", "v1"), (1, spec(100, 100, None)));
    world.settle(2, Standing::Ready);
    assert_ne!(world.jobs[1].0.node, taken);
}

#[test]
fn a_large_job_is_placed_before_small_ones_take_its_place() {
    let nodes = vec![node("a", None, 1000, 1000), node("b", None, 400, 400)];
    let small = (group("a-small", "web", "v1"), 1, spec(400, 400, None));
    let large = (group("z-large", "web", "v1"), 1, spec(1000, 1000, None));
    let mut world = world(nodes, &[small, large]);
    assert_eq!(world.settle(1, Standing::Ready), "a:1 b:1");
}

#[test]
fn a_refusal_counts_the_reasons_of_all_nodes() {
    let mut cordoned = node("c", None, 9000, 9000);
    cordoned.cordoned = true;
    let mut idle = node("d", None, 9000, 9000);
    idle.runs_jobs = false;
    let nodes = vec![node("a", None, 9000, 50), node("b", None, 9000, 99), cordoned, idle];
    let plan = world(nodes, &[web(3)]).plan(1);
    assert_eq!(plan.place, []);
    let [refusal] = &plan.refused[..] else { panic!("{plan:?}") };
    assert_eq!(refusal.missing, 3);
    assert_eq!(refusal.reasons(), "0 of 4 nodes: 2 memory, 1 runs no jobs, 1 cordoned");
    assert_eq!(
        refusal.to_string(),
        "shop web v1: 3 not placed, 0 of 4 nodes: 2 memory, 1 runs no jobs, 1 cordoned"
    );
    assert_eq!(
        world(vec![], &[web(1)]).plan(1).refused[0].reasons(),
        "0 of 0 nodes: no node has joined"
    );
}

#[test]
fn what_fits_is_placed_and_the_rest_is_refused() {
    let plan = world(vec![node("a", None, 250, 9000)], &[web(3)]).plan(1);
    assert_eq!(plan.place.len(), 2);
    assert_eq!(plan.refused[0].missing, 1);
    assert_eq!(plan.refused[0].reasons(), "0 of 1 node: 1 cpu");
}

#[test]
fn a_fixed_port_is_given_once_per_node() {
    let fixed = (group("shop", "web", "v1"), 3, spec(1, 1, Some(8080)));
    let mut world = world(vec![node("a", None, 9000, 9000), node("b", None, 9000, 9000)], &[fixed]);
    let plan = world.plan(1);
    world.apply(&plan, Standing::Ready);
    assert_eq!(world.spread(), "a:1 b:1");
    assert_eq!(plan.refused[0].reasons(), "0 of 2 nodes: 2 port 8080 taken");
    // A job that is still stopping keeps its port.
    let other = group("other", "web", "v1");
    world.wanted = BTreeMap::from([(other, (1, spec(1, 1, Some(8080))))]);
    let plan = world.plan(2);
    assert_eq!((plan.stop.len(), plan.place.len()), (2, 0));
    world.apply(&plan, Standing::Ready);
    world.jobs[0].1 = Standing::Ended;
    let freed = world.jobs[0].0.node.clone();
    let plan = world.plan(3);
    assert_eq!(plan.place.len(), 1);
    assert_eq!(plan.place[0].node, freed);
}

#[test]
fn a_port_that_an_agent_gave_is_taken() {
    let nodes = vec![node("a", None, 9000, 9000)];
    let mut world = world(nodes, &[web(1)]);
    world.settle(1, Standing::Ready);
    world.wanted.insert(group("other", "web", "v1"), (1, spec(1, 1, Some(20_005))));
    let mut view = world.view();
    view.jobs[0].port = Some(20_005);
    assert_eq!(plan(&view, 2).refused[0].reasons(), "0 of 1 node: 1 port 20005 taken");
}

#[test]
fn a_node_gives_no_more_ports_than_it_has() {
    let mut small = node("a", None, 9000, 9000);
    small.ports = PortRange { first: 20_000, last: 20_001 };
    let wanted = (group("shop", "web", "v1"), 3, spec(0, 0, None));
    let mut world = world(vec![small], &[wanted]);
    let plan = world.plan(1);
    assert_eq!(plan.place.len(), 2);
    assert_eq!(plan.refused[0].reasons(), "0 of 1 node: 1 no port left");
    let mut worker = spec(0, 0, None);
    worker.service = None;
    world.wanted = BTreeMap::from([(group("shop", "work", "v1"), (3, worker))]);
    assert_eq!(world.plan(1).place.len(), 3);
}

#[test]
fn those_that_serve_least_stop_first_then_the_crowded_then_the_newest() {
    let nodes: Vec<Node> = ["a", "b", "c"].map(|name| node(name, None, 9000, 9000)).into();
    let mut world = world(nodes, &[web(6)]);
    world.settle(1, Standing::Ready);
    world.jobs[2].1 = Standing::Failing;
    world.jobs[4].1 = Standing::Pending;
    let (failing, pending) = (world.jobs[2].0.clone(), world.jobs[4].0.clone());
    world.wanted.insert(group("shop", "web", "v1"), (4, spec(100, 100, None)));
    let stopped: Vec<JobId> = world.plan(2).stop.into_iter().map(|stop| stop.job).collect();
    assert_eq!(stopped, [failing.job, pending.job]);

    for (_, standing) in &mut world.jobs {
        *standing = Standing::Ready;
    }
    world.wanted.insert(group("shop", "web", "v1"), (3, spec(100, 100, None)));
    assert_eq!(world.settle(3, Standing::Ready), "a:1 b:1 c:1");
}

#[test]
fn the_newest_of_equals_stops() {
    let mut world = world(vec![node("a", None, 9000, 9000)], &[web(1)]);
    world.settle(1, Standing::Ready);
    world.wanted.insert(group("shop", "web", "v1"), (2, spec(100, 100, None)));
    world.settle(2, Standing::Ready);
    world.wanted.insert(group("shop", "web", "v1"), (1, spec(100, 100, None)));
    let plan = world.plan(3);
    assert_eq!(plan.stop[0].job, world.jobs[1].0.job);
    assert_eq!(plan.stop[0].reason, StopReason::Surplus);
}

#[test]
fn a_job_on_a_node_that_is_not_there_counts_and_is_the_first_to_be_given_up() {
    let mut world =
        world(vec![node("a", None, 9000, 9000), node("b", None, 9000, 9000)], &[web(2)]);
    world.settle(1, Standing::Ready);
    world.nodes.retain(|node| node.name.as_str() != "b");
    assert!(world.plan(2).is_empty());
    world.wanted.insert(group("shop", "web", "v1"), (1, spec(100, 100, None)));
    let plan = world.plan(2);
    assert_eq!(plan.stop.len(), 1);
    assert_eq!(plan.stop[0].node.as_str(), "b");
}

#[test]
fn a_job_that_has_not_ended_goes_on_instead_of_a_new_one() {
    let mut world = world(vec![node("a", None, 9000, 9000)], &[web(3)]);
    world.settle(1, Standing::Ready);
    world.wanted.insert(group("shop", "web", "v1"), (0, spec(100, 100, None)));
    let plan = world.plan(2);
    assert_eq!(plan.stop[0].reason, StopReason::Unwanted);
    world.apply(&plan, Standing::Ready);
    world.jobs[0].1 = Standing::Leaving;
    world.jobs[1].1 = Standing::Ending;
    world.jobs[2].1 = Standing::Ended;
    world.wanted.insert(group("shop", "web", "v1"), (2, spec(100, 100, None)));
    let plan = world.plan(3);
    assert_eq!(plan.resume, [(world.jobs[0].0.node.clone(), world.jobs[0].0.job.clone())]);
    assert_eq!(plan.place.len(), 1);
}

#[test]
fn a_held_app_is_left_as_it_is() {
    let mut world = world(vec![node("a", None, 9000, 9000)], &[web(2)]);
    world.settle(1, Standing::Ready);
    world.wanted.clear();
    world.held.push(AppName::parse("shop").unwrap());
    assert!(world.plan(2).is_empty());
}

#[test]
fn an_id_is_a_label_however_long_the_names_are() {
    let long = "a".repeat(60);
    let wanted = (group(&long, &"b".repeat(60), "v1"), 4, spec(0, 0, None));
    let hyphen = (group(&format!("{}-b", "a".repeat(55)), "web", "v1"), 1, spec(0, 0, None));
    let plan = world(vec![node("a", None, 9, 9)], &[wanted, hyphen, web(0)]).plan(1);
    let ids: BTreeSet<&str> = plan.place.iter().map(|p| p.job.as_str()).collect();
    assert_eq!(ids.len(), 5);
    assert!(ids.iter().all(|id| id.len() <= 63), "{ids:?}");
    let short = world(vec![node("a", None, 900, 900)], &[web(1)]).plan(1);
    assert!(short.place[0].job.as_str().starts_with("shop-web-"), "{short:?}");
}

#[test]
fn an_id_in_use_is_not_given_again() {
    let world = world(vec![node("a", None, 900, 900)], &[web(1)]);
    let first = world.plan(7).place.remove(0).job;
    let mut view = world.view();
    view.reserved.insert(&first);
    let second = plan(&view, 7).place.remove(0).job;
    assert_ne!(first, second);
}

fn a_node(name: String) -> impl Strategy<Value = Node> {
    let zone = prop_oneof![Just(None), Just(Some("x")), Just(Some("y"))];
    (zone, 0..2000_u64, 0..2000_u64, any::<[bool; 6]>(), 0..8_u16).prop_map(
        move |(zone, cpu, memory, bits, ports)| Node {
            cordoned: bits[0] && bits[1] && bits[2],
            runs_jobs: bits[3] || bits[4] || bits[5],
            ports: PortRange { first: 20_000, last: 20_000 + ports },
            ..node(&name, zone, cpu, memory)
        },
    )
}

fn a_spec() -> impl Strategy<Value = JobSpec> {
    let port = prop_oneof![3 => Just(None), 1 => Just(Some(8080)), 1 => Just(Some(20_001))];
    (0..800_u64, 0..800_u64, port).prop_map(|(cpu, memory, port)| spec(cpu, memory, port))
}

fn wanted_groups() -> impl Strategy<Value = BTreeMap<Group, (u32, JobSpec)>> {
    let name = (0..2_usize, 0..2_usize, 0..2_usize);
    proptest::collection::vec((name, 0..6_u32, a_spec()), 0..5).prop_map(|groups| {
        let groups = groups.into_iter().map(|((app, process, release), count, spec)| {
            let app = ["shop", "blog"][app];
            (group(app, ["web", "work"][process], ["v1", "v2"][release]), (count, spec))
        });
        groups.collect()
    })
}

const STANDINGS: [Standing; 8] = [
    Standing::Ended,
    Standing::Ending,
    Standing::Failing,
    Standing::Pending,
    Standing::Leaving,
    Standing::Unready,
    Standing::Unseen,
    Standing::Ready,
];

/// A cluster with a history: something else was wanted before, and jobs are in all states.
fn a_world() -> impl Strategy<Value = World> {
    let nodes = (0..6_usize).prop_flat_map(|count| {
        (0..count).map(|at| a_node(format!("n{at}")).boxed()).collect::<Vec<_>>()
    });
    let states = proptest::collection::vec(0..STANDINGS.len(), 40);
    (nodes, wanted_groups(), wanted_groups(), states, any::<bool>()).prop_map(
        |(nodes, before, wanted, states, lose_one)| {
            let mut world = World { nodes, wanted: before, ..World::default() };
            world.settle(1, Standing::Ready);
            for ((_, standing), state) in world.jobs.iter_mut().zip(states) {
                *standing = STANDINGS[state];
            }
            if lose_one {
                world.nodes.pop();
            }
            world.wanted = wanted;
            world
        },
    )
}

fn within_limits(world: &World) {
    for node in &world.nodes {
        let on_node: Vec<_> = world
            .jobs
            .iter()
            .filter(|(p, standing)| p.node == node.name && *standing != Standing::Ended)
            .collect();
        let mut ports = BTreeSet::new();
        let (mut cpu, mut memory) = (0, 0);
        for (placement, _) in &on_node {
            cpu += placement.spec.resources.cpu_millis;
            memory += placement.spec.resources.memory_mib;
            let fresh = placement.spec.port.is_none_or(|port| ports.insert(port));
            assert!(fresh, "two jobs on one port of {}", node.name);
        }
        assert!(cpu <= node.capacity.cpu_millis, "cpu of {}", node.name);
        assert!(memory <= node.capacity.memory_mib, "memory of {}", node.name);
        let given = on_node.iter().filter(|(p, _)| p.spec.port.is_none()).count();
        assert!(given <= node.ports.ports().count(), "ports of {}", node.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_plan_is_the_same_each_time_and_stays_within_every_limit(mut world in a_world()) {
        let plan = world.plan(2);
        prop_assert_eq!(&plan, &world.plan(2));
        world.apply(&plan, Standing::Pending);
        within_limits(&world);
        let ids: BTreeSet<&JobId> = world.jobs.iter().map(|(p, _)| &p.job).collect();
        prop_assert_eq!(ids.len(), world.jobs.len());
    }

    #[test]
    fn a_plan_that_was_followed_leaves_nothing_to_do(mut world in a_world()) {
        let plan = world.plan(2);
        world.apply(&plan, Standing::Pending);
        let again = world.plan(3);
        prop_assert!(again.is_empty(), "{:?}", again);
        prop_assert_eq!(again.refused, plan.refused);
    }

    #[test]
    fn what_is_wanted_either_runs_or_is_refused(mut world in a_world()) {
        let plan = world.plan(2);
        world.apply(&plan, Standing::Pending);
        for (group, (count, _)) in &world.wanted {
            let runs = world.jobs.iter().filter(|(p, standing)| {
                Group::of(p) == *group && p.wanted == Wanted::Run && *standing != Standing::Ended
            });
            let refused = plan.refused.iter().filter(|r| r.group == *group).map(|r| r.missing);
            prop_assert_eq!(runs.count() as u32 + refused.sum::<u32>(), *count);
        }
        for refusal in &plan.refused {
            prop_assert_eq!(refusal.nodes.len(), world.nodes.len());
        }
    }

    #[test]
    fn more_room_never_places_less_of_a_group(
        nodes in (1..5_usize).prop_flat_map(|count| {
            (0..count).map(|at| a_node(format!("n{at}")).boxed()).collect::<Vec<_>>()
        }),
        spec in a_spec(), count in 0..12_u32, at in 0..5_usize, more in a_node("z".into()),
        cpu in 0..500_u64, memory in 0..500_u64,
    ) {
        let wanted = [(group("shop", "web", "v1"), count, spec)];
        let placed = |nodes: &[Node]| world(nodes.to_vec(), &wanted).plan(1).place.len();
        let before = placed(&nodes);
        let mut larger = nodes.clone();
        let at = at % larger.len();
        larger[at].capacity.cpu_millis += cpu;
        larger[at].capacity.memory_mib += memory;
        prop_assert!(placed(&larger) >= before);
        larger.push(more);
        prop_assert!(placed(&larger) >= before);
    }

    #[test]
    fn one_process_is_spread_as_evenly_as_its_nodes_allow(count in 0..20_u32, nodes in 1..6_usize) {
        let nodes: Vec<Node> =
            (0..nodes).map(|at| node(&format!("n{at}"), None, 90_000, 90_000)).collect();
        let mut world = world(nodes, &[web(count)]);
        world.settle(1, Standing::Ready);
        let per_node: Vec<usize> = world.nodes.iter().map(|node| {
            world.jobs.iter().filter(|(p, _)| p.node == node.name).count()
        }).collect();
        prop_assert!(per_node.iter().max().unwrap() - per_node.iter().min().unwrap() <= 1);
    }
}
