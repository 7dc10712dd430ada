//! Whole lives of an app under random orders, random delays and controllers that come and go.
//!
//! `PORTOLAN_SEED=N` replays one of them, `PORTOLAN_SEEDS=N` tries so many.

use portolan_discovery::model::{DeploymentState, ProcessName, ServiceName, Wanted};

use super::world::World;

/// How many lives are tried when nobody asks for more.
const SEEDS: u64 = 10;
/// How long orders are given, in ticks of a tenth of a second.
const BUSY: u64 = 1800;
/// How long everything may take to come to rest.
const REST: u64 = 900;

/// What must never be given up once it was there.
struct Promise {
    web: Vec<u32>,
    work: u32,
}

impl Promise {
    /// Once a router has had as many as are wanted, of jobs that are to stay, it has as many ever
    /// after, until fewer are wanted.
    fn keep(&mut self, world: &mut World, context: &str) {
        let (web, work): (ServiceName, ProcessName) =
            ("web".parse().unwrap(), "work".parse().unwrap());
        let wanted = world.wanted("shop", &"web".parse().unwrap());
        for (at, (served, staying)) in world.served(&web).into_iter().enumerate() {
            let promised = &mut self.web[at];
            *promised = if staying >= wanted { wanted } else { (*promised).min(wanted) };
            assert!(
                served >= *promised,
                "{context}: router {at} has {served} of {promised} at tick {}\n{}",
                world.tick,
                world.trace.join("\n"),
            );
        }
        let (wanted, (working, staying)) = (world.wanted("shop", &work), world.working(&work));
        self.work = if staying >= wanted { wanted } else { self.work.min(wanted) };
        assert!(
            working >= self.work,
            "{context}: {working} of {} workers at tick {}\n{}",
            self.work,
            world.tick,
            world.trace.join("\n"),
        );
    }
}

fn order(world: &mut World, version: u64) -> String {
    let with_work = world.dice.below(4) != 0;
    let deploy = |world: &mut World, behaviour: &str| {
        let (web, work) = (1 + world.dice.below(6) as u32, 1 + world.dice.below(3) as u32);
        let processes = [("web", behaviour, web), ("work", "good", work)];
        world.deploy(&processes[..1 + usize::from(with_work)], version);
        format!("deploy {behaviour} web {web} work {work} {with_work}")
    };
    match world.dice.below(8) {
        0..=2 => deploy(world, "good"),
        3 => deploy(world, "crash"),
        4 => deploy(world, "sick"),
        5 => {
            let count = 1 + world.dice.below(7) as u32;
            world.scale("web", count).unwrap();
            format!("scale web {count}")
        }
        6 => {
            // Older releases may be bad ones, which then fail again.
            let releases: Vec<_> = world.records("shop").releases.keys().cloned().collect();
            let to = releases[world.dice.below(releases.len() as u64) as usize].clone();
            let app = "shop".parse().unwrap();
            let _ = world.done(world.commands.rollback(&app, Some(&to)));
            format!("rollback {to}")
        }
        _ => {
            let app = "shop".parse().unwrap();
            let _ = world.done(world.commands.rollback(&app, None));
            "rollback".to_owned()
        }
    }
}

fn live(seed: u64) {
    let nodes = 2 + (seed % 3) as usize;
    // Some clusters are so small that not everything fits.
    let mut world = World::new(seed, nodes, if seed.is_multiple_of(4) { 5 } else { 20 });
    let mut promise = Promise { web: vec![0; world.routers.len()], work: 0 };
    let context = format!("PORTOLAN_SEED={seed}");
    world.deploy(&[("web", "good", 3), ("work", "good", 2)], 0);
    let mut version = 0;
    for _ in 0..BUSY {
        if world.dice.one_in(120) {
            version += 1;
            let order = order(&mut world, version);
            let tick = world.tick;
            world.trace.push(format!("{tick}: {order}"));
        }
        if world.dice.one_in(150) {
            let tick = world.tick;
            world.trace.push(format!("{tick}: another controller"));
            world.replace_controller();
        }
        if world.dice.one_in(300) {
            let (at, ticks) = (world.dice.below(2) as usize, world.dice.below(100));
            world.freeze_router(at, ticks);
        }
        world.step();
        promise.keep(&mut world, &context);
    }
    for _ in 0..REST {
        world.step();
        promise.keep(&mut world, &context);
    }
    at_rest(&mut world, &context);
}

/// Nothing is under way, only what is wanted runs, and all of it is served.
fn at_rest(world: &mut World, context: &str) {
    let records = world.records("shop");
    let latest = records.latest().unwrap().record.clone();
    let trace = world.trace.join("\n");
    assert!(
        matches!(latest.state, DeploymentState::Done | DeploymentState::Reverted { .. })
            || !world.last.refused.is_empty(),
        "{context}: {latest:?}, {:?}\n{trace}",
        world.last.waits_for
    );
    assert_eq!(world.unrest(), 0, "{context}\n{trace}");
    let heading = records.heading().unwrap();
    assert_eq!(records.app.as_ref().unwrap().record.current, heading, "{context}");
    let release = &records.releases[&heading].record;
    let refusals = world.last.refused.clone();
    let refused = |process: &ProcessName| -> u32 {
        let of = refusals.iter().filter(|refusal| refusal.group.process == *process);
        of.map(|refusal| refusal.missing).sum()
    };
    for placement in world.placements() {
        assert_eq!(placement.release, heading, "{context}\n{trace}");
        assert_eq!(placement.wanted, Wanted::Run, "{context}\n{trace}");
    }
    for process in release.processes.keys() {
        let placements = world.placements();
        let placed = placements.iter().filter(|placement| placement.process == *process).count();
        let wanted = records.count(process) - refused(process);
        assert_eq!(placed as u32, wanted, "{context}\n{trace}");
    }
    let web = "web".parse().unwrap();
    let wanted = records.count(&web) - refused(&web);
    let served = world.served(&"web".parse().unwrap());
    assert!(
        served.iter().all(|served| *served == (wanted, wanted)),
        "{context}: {served:?}\n{trace}"
    );
}

#[test]
fn no_order_and_no_new_controller_takes_away_what_serves() {
    let number = |name| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    match number("PORTOLAN_SEED") {
        Some(seed) => live(seed),
        None => (0..number("PORTOLAN_SEEDS").unwrap_or(SEEDS)).for_each(live),
    }
}
