//! Single passes of the controller in the world of the simulation.

use portolan_discovery::model::key::CONTROL;
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{
    AppName, DeploymentState, JobState, JobStatus, Key, NodeName, Override, Word,
};
use portolan_discovery::store::Txn;

use super::world::{World, put};
use crate::controller::sweep::{DEPLOYMENTS_KEPT, RELEASES_KEPT};

/// Long enough for anything.
const AGES: u64 = 600;

fn shop() -> AppName {
    "shop".parse().unwrap()
}

fn deployed(seed: u64) -> World {
    let mut world = World::new(seed, 2, 20);
    world.deploy(&[("web", "good", 4), ("work", "good", 2)], 1);
    world.steps(AGES);
    assert_eq!(state(&mut world), "Done");
    world
}

fn state(world: &mut World) -> String {
    let records = world.records("shop");
    let state = format!("{:?}", records.latest().unwrap().record.state);
    state.split(' ').next().unwrap().to_owned()
}

fn jobs(world: &mut World) -> Vec<String> {
    world.placements().iter().map(|placement| placement.job.to_string()).collect()
}

#[test]
fn a_deployment_says_what_it_waits_for_and_why_it_went_back() {
    let mut world = deployed(1);
    world.deploy(&[("web", "sick", 4), ("work", "good", 2)], 2);
    world.steps(60);
    let waits_for = world.last.waits_for["shop"].clone();
    assert!(waits_for.starts_with("0 of 4 web healthy, shop-web-"), "{waits_for}");
    assert!(waits_for.ends_with(": its checks have not passed"), "{waits_for}");
    world.steps(AGES);
    let latest = world.records("shop").latest().unwrap().record.clone();
    let DeploymentState::Reverted { cause } = &latest.state else { panic!("{latest:?}") };
    assert!(cause.starts_with("no new job became healthy in 20s: 0 of 4 web healthy"), "{cause}");
    assert_eq!(world.records("shop").app.unwrap().record.current.as_str(), "v1");
}

#[test]
fn a_deployment_that_is_done_in_peace_writes_its_progress() {
    let mut world = deployed(2);
    let before = world.now().unix_ms;
    world.deploy(&[("web", "good", 4), ("work", "good", 2)], 2);
    world.steps(AGES);
    let latest = world.records("shop").latest().unwrap().record.clone();
    assert_eq!(latest.state, DeploymentState::Done);
    assert!(latest.progress_ms > before && latest.since_ms >= latest.progress_ms);
    assert!(world.last.waits_for.is_empty());
}

#[test]
fn what_does_not_fit_is_said_with_its_reasons_and_goes_back() {
    let mut world = World::new(3, 2, 3);
    world.deploy(&[("web", "good", 6)], 1);
    world.steps(AGES);
    assert_eq!(state(&mut world), "Done");
    // No room is left for even one job more.
    world.deploy(&[("web", "good", 6)], 2);
    world.steps(100);
    let refused: Vec<String> = world.last.refused.iter().map(ToString::to_string).collect();
    assert_eq!(refused, ["shop web v2: 2 not placed, 0 of 2 nodes: 2 memory"]);
    world.steps(AGES);
    let latest = world.records("shop").latest().unwrap().record.clone();
    let DeploymentState::Reverted { cause } = &latest.state else { panic!("{latest:?}") };
    assert!(cause.contains("0 of 2 nodes: 2 memory"), "{cause}");
    assert_eq!(world.placements().len(), 6);
}

#[test]
fn a_job_on_a_node_that_is_gone_is_not_placed_again() {
    let mut world = deployed(4);
    let before = jobs(&mut world);
    world.store.commit(&Txn::default().delete(Key::Node("n1".parse().unwrap()).to_string()));
    world.steps(50);
    assert_eq!(jobs(&mut world), before);
    assert_eq!(world.unrest(), 0);
}

#[test]
fn an_app_that_cannot_be_read_is_left_as_it_is() {
    let mut world = deployed(5);
    let before = jobs(&mut world);
    let record = world.records("shop").app.unwrap().record;
    world.store.commit(&Txn::default().put(Key::App(shop()).to_string(), encode(&7)));
    world.scale_unchecked("web", 1);
    world.replace_controller();
    world.steps(50);
    assert_eq!(jobs(&mut world), before);
    put(&world.store, &Key::App(shop()), &*record);
    world.steps(AGES);
    assert_eq!(jobs(&mut world).len(), 3);
}

#[test]
fn a_deleted_app_leaves_nothing_behind() {
    let mut world = deployed(6);
    world.done(world.commands.delete_app(&shop())).unwrap();
    world.steps(AGES);
    let (kvs, _) = world.store.all(CONTROL);
    let left: Vec<String> = kvs.into_iter().map(|kv| kv.key).collect();
    assert!(
        left.iter().all(|key| matches!(key.parse(), Ok(Key::Leader | Key::Ack(_)))),
        "{left:?}"
    );
}

#[test]
fn an_app_that_is_made_again_while_it_is_deleted_keeps_what_it_takes_up() {
    let mut world = deployed(7);
    world.done(world.commands.delete_app(&shop())).unwrap();
    world.steps(3);
    world.deploy(&[("web", "good", 4), ("work", "good", 2)], 1);
    world.steps(AGES);
    assert_eq!(state(&mut world), "Done");
    let records = world.records("shop");
    assert_eq!(records.heading().unwrap().as_str(), "v1");
    assert_eq!(jobs(&mut world).len(), 6);
}

#[test]
fn old_releases_and_deployments_go_and_those_in_use_stay() {
    let mut world = deployed(8);
    for version in 2..=(RELEASES_KEPT as u64 + 5) {
        // Bad ones never serve, so the first one is in use all the time.
        world.deploy(&[("web", "crash", 1), ("work", "good", 1)], version);
        world.steps(5);
    }
    world.steps(AGES);
    let records = world.records("shop");
    assert_eq!(records.heading().unwrap().as_str(), "v1");
    assert_eq!(records.releases.len(), RELEASES_KEPT + 1);
    assert!(records.releases.contains_key("v1"));
    for round in 0..DEPLOYMENTS_KEPT {
        let to = ["v14", "v15"][round % 2].parse().unwrap();
        world.done(world.commands.rollback(&shop(), Some(&to))).unwrap();
        world.steps(5);
    }
    world.steps(AGES);
    let records = world.records("shop");
    // The one that last was done is kept, however old it is.
    assert_eq!(records.deployments.len(), DEPLOYMENTS_KEPT + 1);
    assert_eq!(records.deployments["d1"].record.state, DeploymentState::Done);
    assert_eq!(world.unrest(), 0);
}

#[test]
fn an_override_ends_when_its_time_has_come() {
    let mut world = deployed(9);
    let scope: portolan_discovery::model::Scope = "node/n9".parse().unwrap();
    let until = world.now().unix_ms + 2000;
    let word = Override {
        scope: scope.clone(),
        word: Word::Drain,
        reason: "test".into(),
        by: "test".into(),
        since_ms: 0,
        until_ms: Some(until),
    };
    let key = Key::Override(scope);
    put(&world.store, &key, &word);
    world.steps(15);
    assert_eq!(world.store.all(&key.to_string()).0.len(), 1);
    world.steps(15);
    assert_eq!(world.store.all(&key.to_string()).0.len(), 0);
}

#[test]
fn the_last_word_on_a_job_that_is_no_more_is_cleared_away() {
    let mut world = deployed(10);
    let node: NodeName = "n0".parse().unwrap();
    let status = |job: &str, state| JobStatus {
        job: job.parse().unwrap(),
        node: node.clone(),
        state,
        pid: None,
        addr: None,
        restarts: 0,
        last_exit: None,
        since_ms: 0,
    };
    for (job, state) in [("gone", JobState::Stopped), ("stopping", JobState::Stopping)] {
        let key = Key::Job(node.clone(), job.parse().unwrap());
        put(&world.store, &key, &status(job, state));
    }
    world.steps(20);
    let left = |job: &str| {
        let key = Key::Job(node.clone(), job.parse().unwrap()).to_string();
        world.store.all(&key).0.len()
    };
    assert_eq!((left("gone"), left("stopping")), (0, 1));
}

#[test]
fn scaling_up_again_brings_back_what_still_drains() {
    let mut world = deployed(11);
    let before = jobs(&mut world);
    world.freeze_router(0, 100);
    world.scale("web", 1).unwrap();
    world.steps(20);
    let stopping = |world: &mut World| {
        let placements = world.placements();
        let stop = portolan_discovery::model::Wanted::Stop;
        placements.iter().filter(|placement| placement.wanted == stop).count()
    };
    assert_eq!(stopping(&mut world), 3, "the frozen router keeps them draining");
    world.scale("web", 4).unwrap();
    world.steps(AGES);
    assert_eq!(stopping(&mut world), 0);
    assert_eq!(jobs(&mut world), before);
}

#[test]
fn no_old_job_goes_before_every_router_knows_of_a_new_one() {
    let mut world = deployed(12);
    world.freeze_router(1, 120);
    world.deploy(&[("web", "good", 4), ("work", "good", 2)], 2);
    world.steps(100);
    let of_web = |world: &mut World, release: &str| {
        let placements = world.placements();
        let running = placements.iter().filter(|placement| {
            placement.wanted == portolan_discovery::model::Wanted::Run
                && placement.process.as_str() == "web"
                && placement.release.as_str() == release
        });
        running.count()
    };
    assert_eq!((of_web(&mut world, "v1"), of_web(&mut world, "v2")), (4, 1));
    let waits_for = world.last.waits_for["shop"].clone();
    assert!(waits_for.ends_with("the router of n1 does not know of it yet"), "{waits_for}");
    world.steps(AGES);
    assert_eq!(state(&mut world), "Done");
    assert_eq!((of_web(&mut world, "v1"), of_web(&mut world, "v2")), (0, 4));
}

#[test]
fn a_router_that_is_gone_is_not_waited_for() {
    let mut world = deployed(13);
    world.freeze_router(1, 10_000);
    world.store.commit(&Txn::default().delete(Key::Ack("n1".parse().unwrap()).to_string()));
    world.deploy(&[("work", "good", 2)], 2);
    // The agents of this world wait for the frozen router's table, so only workers can go.
    world.steps(150);
    let placements = world.placements();
    let new = placements.iter().filter(|placement| placement.release.as_str() == "v2");
    assert_eq!(new.count(), 2);
    assert!(!world.last.waits_for["shop"].contains("router"), "{:?}", world.last.waits_for);
}
