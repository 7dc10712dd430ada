//! Which endpoint a request goes to, and what of it outlives a table.

use std::collections::BTreeMap;

use portolan_discovery::model::{Health, InstanceId, Word};
use portolan_discovery::snapshot::State;
use portolan_router::{ATTEMPTS_MAX, Ask, InFlight, PickError, RequestView, Tried};

use crate::world::*;

fn pick(world: &World, random: u64, tried: &Tried) -> Result<InFlight, PickError> {
    let found = world.table.find(&RequestView::get(&listener("main"), "a.test", "/")).unwrap();
    let ask = Ask { tried, ..Ask::first(random) };
    let by_route = found.route.pick(&world.table, &ask).map(|picked| picked.id.clone());
    let picked = found.pick(&world.table, &ask);
    // What lies beside the path is a shorter way to the same service.
    assert_eq!(picked.as_ref().ok().map(|picked| &picked.id), by_route.as_ref().ok());
    picked
}

/// The shares of 100,000 picks, none under way at the next one.
fn shares(world: &World) -> BTreeMap<String, f64> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counts = BTreeMap::new();
    for _ in 0..100_000 {
        let picked = pick(world, rng.u64(..), &Tried::none()).unwrap();
        *counts.entry(format!("{}/{}", picked.service, picked.id)).or_insert(0u32) += 1;
    }
    counts.into_iter().map(|(id, count)| (id, f64::from(count) / 100_000.0)).collect()
}

fn check_shares(world: &World, expected: &[(&str, f64)]) {
    let shares = shares(world);
    assert_eq!(shares.len(), expected.len(), "{shares:?}");
    for (id, share) in expected {
        assert!((shares[*id] - share).abs() < 0.01, "{id}: {share} expected, {shares:?}");
    }
}

fn web(events: &[portolan_discovery::model::Event]) -> World {
    let mut all = vec![put_service("web"), put_route(&route("r", "a.test", "/"))];
    all.extend_from_slice(events);
    World::of(&all)
}

#[test]
fn a_route_finds_its_service_whichever_came_first_and_whenever_it_is_back() {
    let there = |world: &World| pick(world, 0, &Tried::none()).map(|picked| picked.id.to_string());
    let mut world = World::of(&[put_route(&route("r", "a.test", "/"))]);
    assert!(matches!(there(&world), Err(PickError::UnknownService { .. })));
    world.apply(&[put_service("web"), up("web", "a")]);
    assert_eq!(there(&world).unwrap(), "a");
    world.apply(&[delete_service("web"), delete_instance("web", "a")]);
    assert!(matches!(there(&world), Err(PickError::UnknownService { .. })));
    // Another one may lie where the old one lay.
    world.apply(&[put_service("other"), up("other", "x")]);
    assert!(matches!(there(&world), Err(PickError::UnknownService { .. })));
    world.apply(&[put_service("web"), up("web", "b")]);
    assert_eq!(there(&world).unwrap(), "b");
    world.apply(&[put_route(&route("r", "a.test", "/"))]);
    assert_eq!(there(&world).unwrap(), "b");
}

#[test]
fn idle_endpoints_share_evenly() {
    check_shares(&web(&[up("web", "a")]), &[("web/a", 1.0)]);
    check_shares(
        &web(&[up("web", "a"), up("web", "b"), up("web", "c")]),
        &[("web/a", 0.333), ("web/b", 0.333), ("web/c", 0.333)],
    );
}

#[test]
fn idle_endpoints_share_by_weight() {
    check_shares(
        &web(&[weighted("web", "a", 1), weighted("web", "b", 3)]),
        &[("web/a", 0.25), ("web/b", 0.75)],
    );
    check_shares(
        &web(&[weighted("web", "a", 600), weighted("web", "b", 100), weighted("web", "c", 300)]),
        &[("web/a", 0.6), ("web/b", 0.1), ("web/c", 0.3)],
    );
}

#[test]
fn services_share_by_weight() {
    let mut split = route("r", "a.test", "/");
    split.backends = vec![backend("web", 90), backend("canary", 10)];
    let world = web(&[up("web", "a"), up("canary", "a"), put_route(&split)]);
    check_shares(&world, &[("web/a", 0.9), ("canary/a", 0.1)]);
}

#[test]
fn of_two_endpoints_the_one_with_less_under_way_is_picked() {
    let world = web(&[up("web", "a"), up("web", "b")]);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut held: Vec<InFlight> = Vec::new();
    for _ in 0..1000 {
        held.push(pick(&world, rng.u64(..), &Tried::none()).unwrap());
        let a = held.iter().filter(|picked| picked.id.as_str() == "a").count();
        assert!(a.abs_diff(held.len() - a) <= 1, "{a} of {}", held.len());
    }
}

#[test]
fn a_busy_endpoint_is_left_alone() {
    let ids: Vec<String> = (0..8).map(|i| format!("i{i}")).collect();
    let events: Vec<_> = ids.iter().map(|id| up("web", id)).collect();
    let world = web(&events);
    let mut rng = fastrand::Rng::with_seed(1);
    let busy = pick(&world, rng.u64(..), &Tried::none()).unwrap();
    for _ in 0..10_000 {
        // It would have to be drawn twice, and the two drawn are never the same.
        assert_ne!(pick(&world, rng.u64(..), &Tried::none()).unwrap().id, busy.id);
    }
}

#[test]
fn what_is_under_way_counts_for_its_weight() {
    let world = web(&[weighted("web", "big", 300), weighted("web", "small", 100)]);
    let mut rng = fastrand::Rng::with_seed(1);
    let held: Vec<_> =
        (0..4000).map(|_| pick(&world, rng.u64(..), &Tried::none()).unwrap()).collect();
    let big = held.iter().filter(|picked| picked.id.as_str() == "big").count();
    assert!(big.abs_diff(3000) <= 4, "{big}");
}

#[test]
fn a_retry_never_goes_to_an_endpoint_that_was_tried() {
    let ids: Vec<String> = (0..ATTEMPTS_MAX).map(|i| format!("i{i}")).collect();
    for weights in [[100, 100, 100, 100], [1, 1000, 10, 65_535]] {
        let events: Vec<_> =
            ids.iter().zip(weights).map(|(id, weight)| weighted("web", id, weight)).collect();
        let world = web(&events);
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..2000 {
            let mut tried = Tried::none();
            for attempt in 0..ATTEMPTS_MAX {
                let picked = pick(&world, rng.u64(..), &tried).unwrap();
                let key = picked.state.pool_key();
                assert!(!tried.contains(key), "attempt {attempt}");
                tried.insert(key);
            }
            assert!(matches!(pick(&world, rng.u64(..), &tried), Err(PickError::NoInstance { .. })));
        }
    }
}

#[test]
fn a_retry_goes_on_to_another_service_of_the_route_and_a_first_attempt_does_not() {
    let mut split = route("r", "a.test", "/");
    split.backends = vec![backend("web", 50), backend("empty", 50)];
    let world = web(&[up("web", "a"), up("web", "b"), put_service("empty"), put_route(&split)]);
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut served, mut refused) = (0, 0);
    for _ in 0..10_000 {
        match pick(&world, rng.u64(..), &Tried::none()) {
            Ok(first) => {
                served += 1;
                let mut tried = Tried::none();
                tried.insert(first.state.pool_key());
                let second = pick(&world, rng.u64(..), &tried).unwrap();
                assert_ne!(second.id, first.id);
            }
            Err(PickError::NoInstance { service, .. }) => {
                refused += 1;
                assert_eq!(service.as_str(), "empty");
            }
            Err(error) => panic!("{error}"),
        }
    }
    // The share of the empty service fails, as the Gateway API has it.
    assert!((4500..5500).contains(&served), "{served} of {}", served + refused);
}

#[test]
fn a_service_that_does_not_exist_is_told_from_one_without_instances() {
    let world = web(&[]);
    assert!(matches!(pick(&world, 0, &Tried::none()), Err(PickError::NoInstance { .. })));
    let world = World::of(&[put_route(&route("r", "a.test", "/"))]);
    let error = pick(&world, 0, &Tried::none()).unwrap_err();
    assert_eq!(error.to_string(), "service web does not exist");
    assert_eq!(
        world.table.dangling().collect::<Vec<_>>(),
        [(&"r".parse().unwrap(), &service_name("web"))]
    );
}

#[test]
fn a_service_that_comes_after_its_route_is_found() {
    let mut world = World::new();
    let report = world.apply(&[put_route(&route("r", "a.test", "/"))]);
    assert_eq!(report.dangling, [("r".parse().unwrap(), service_name("web"))]);
    world.apply(&[up("web", "a")]);
    assert_eq!(pick(&world, 0, &Tried::none()).unwrap().id.as_str(), "a");
    world.apply(&[delete_instance("web", "a")]);
    assert!(matches!(pick(&world, 0, &Tried::none()), Err(PickError::UnknownService { .. })));
}

#[test]
fn only_endpoints_that_are_up_are_picked() {
    for (event, state) in [
        (draining("web", "x"), State::Draining),
        (with_health("web", "x", Health::Starting), State::Starting),
        (with_health("web", "x", Health::Down), State::Down),
        (put_override("instance/web/x", Word::Down), State::AdminDown),
        (put_override("instance/web/x", Word::Drain), State::Draining),
    ] {
        let mut world = web(&[up("web", "a"), up("web", "b"), up("web", "x")]);
        assert!(shares(&world).contains_key("web/x"));
        world.apply(&[event]);
        let table = world.table.service(&service_name("web")).unwrap();
        let member = table.members().find(|member| member.endpoint.id.as_str() == "x").unwrap();
        assert_eq!(member.state, state);
        check_shares(&world, &[("web/a", 0.5), ("web/b", 0.5)]);
    }
}

#[test]
fn an_endpoint_keeps_its_live_state_through_every_change_of_the_table() {
    let mut world = web(&[up("web", "a")]);
    let held = pick(&world, 0, &Tried::none()).unwrap();
    let key = held.state.pool_key();
    let mut changed = instance("web", "a");
    changed.weight = portolan_discovery::model::Weight(7.try_into().unwrap());
    for events in [
        vec![put_instance(&changed)],
        vec![draining("web", "a")],
        vec![up("web", "a"), up("web", "b")],
        vec![put_service("web")],
        vec![put_override("service/web", Word::Down)],
        vec![delete_override("service/web")],
        vec![put_route(&route("other", "b.test", "/"))],
    ] {
        world.apply(&events);
        let table = world.table.service(&service_name("web")).unwrap();
        let member = table.members().next().unwrap();
        assert_eq!(member.endpoint.state.pool_key(), key);
        assert_eq!(member.endpoint.in_flight(), 1);
    }
    drop(held);
    let table = world.table.service(&service_name("web")).unwrap();
    assert_eq!(table.members().next().unwrap().endpoint.in_flight(), 0);
}

#[test]
fn another_address_under_the_same_id_is_another_endpoint() {
    let mut world = web(&[up("web", "a")]);
    let held = pick(&world, 0, &Tried::none()).unwrap();
    let mut moved = instance("web", "a");
    moved.addr.set_port(1);
    world.apply(&[put_instance(&moved)]);
    let picked = pick(&world, 0, &Tried::none()).unwrap();
    assert_ne!(picked.state.pool_key(), held.state.pool_key());
    assert_eq!(picked.in_flight(), 1);
    assert!(!held.state.idle_wanted(), "its connections are of no use");
}

#[test]
fn idle_connections_are_wanted_while_the_endpoint_may_be_used_again() {
    let mut world = web(&[up("web", "a"), up("web", "b")]);
    let state = {
        let table = world.table.service(&service_name("web")).unwrap();
        table.members().next().unwrap().endpoint.state.clone()
    };
    for (event, wanted) in [
        (up("web", "a"), true),
        (with_health("web", "a", Health::Down), true),
        (draining("web", "a"), false),
        (up("web", "a"), true),
        (put_override("node/n1", Word::Down), false),
        (delete_override("node/n1"), true),
        (delete_instance("web", "a"), false),
    ] {
        world.apply(std::slice::from_ref(&event));
        assert_eq!(state.idle_wanted(), wanted, "{event:?}");
    }
}

#[test]
fn what_a_draining_instance_has_under_way_stays_visible() {
    let mut world = web(&[up("web", "a"), up("web", "b")]);
    let held: Vec<_> = (0..6).map(|i| pick(&world, i << 60, &Tried::none()).unwrap()).collect();
    assert_eq!(world.table.draining().count(), 0);
    world.apply(&[draining("web", "a")]);
    let (web, a) = (service_name("web"), InstanceId::parse("a").unwrap());
    let listed = |world: &World| -> Vec<_> {
        world.table.draining().map(|(s, i, n)| (s.clone(), i.clone(), n)).collect()
    };
    assert_eq!(listed(&world), [(web.clone(), a.clone(), 3)]);
    drop(held);
    assert_eq!(listed(&world), [(web, a, 0)], "zeros are listed");
    world.apply(&[delete_instance("web", "a")]);
    assert_eq!(listed(&world), []);
}

#[test]
fn a_retry_of_an_old_route_picks_from_the_newest_table() {
    let mut world = web(&[up("web", "a"), up("web", "b")]);
    let entry =
        world.table.route(&RequestView::get(&listener("main"), "a.test", "/")).unwrap().clone();
    world.apply(&[draining("web", "a"), delete_route("r")]);
    for random in 0..1000u64 {
        let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let picked = entry.pick(&world.table, &Ask::first(random)).unwrap();
        assert_eq!(picked.id.as_str(), "b");
    }
    // A table compiled from nothing serves it as well.
    assert!(entry.pick(&world.full(), &Ask::first(0)).is_ok());
}
