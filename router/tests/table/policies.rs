//! The policies of a service, slow start, and what of both outlives a table.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_discovery::model::{Balancing, Ejection, HashBy, Instance, Service};
use portolan_router::{Ask, InFlight, Key, RequestView, Tried};

use crate::world::*;

fn record(balancing: Balancing) -> Service {
    Service { balancing, ..Service::named(service_name("web")) }
}

fn world(service: &Service, instances: &[(&str, u16)]) -> World {
    let mut all = vec![put_record(service), put_route(&route("r", "a.test", "/"))];
    all.extend(instances.iter().map(|(id, weight)| weighted("web", id, *weight)));
    World::of(&all)
}

fn pick(world: &World, ask: &Ask<'_>) -> InFlight {
    let entry = world.table.route(&RequestView::get(&listener("main"), "a.test", "/")).unwrap();
    entry.pick(&world.table, ask).unwrap()
}

fn counts(world: &World, picks: u32, now_us: u64) -> BTreeMap<String, u32> {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        let picked = pick(world, &Ask { now_us, ..Ask::first(rng.u64(..)) });
        *counts.entry(picked.id.to_string()).or_insert(0) += 1;
    }
    counts
}

fn share(counts: &BTreeMap<String, u32>, id: &str) -> f64 {
    let all: u32 = counts.values().sum();
    f64::from(counts.get(id).copied().unwrap_or(0)) / f64::from(all)
}

/// The first of five errors in a row, and the fifth of them ejects.
fn eject(world: &World, id: &str, now_us: u64) {
    let service = world.table.service(&service_name("web")).unwrap();
    let member = service.members().find(|member| member.endpoint.id.as_str() == id).unwrap();
    let mut ejected = None;
    for _ in 0..5 {
        assert_eq!(ejected, None);
        ejected = world.table.failed(&member.endpoint, now_us, 100);
    }
    assert_eq!(ejected, Some(Ejection::DEFAULT.time()));
}

#[test]
fn round_robin_gives_each_exactly_its_weight() {
    let three = world(&record(Balancing::RoundRobin), &[("a", 100), ("b", 100), ("c", 100)]);
    let order: Vec<_> = (0..6).map(|i| pick(&three, &Ask::first(i)).id.to_string()).collect();
    assert_eq!(order, ["a", "b", "c", "a", "b", "c"]);
    let weights = world(&record(Balancing::RoundRobin), &[("a", 500), ("b", 200), ("c", 100)]);
    for _ in 0..5 {
        let round = counts(&weights, 8, 0);
        assert_eq!(round.into_values().collect::<Vec<_>>(), [5, 2, 1]);
    }
}

#[test]
fn the_turn_survives_every_change_of_the_table() {
    let mut world = world(&record(Balancing::RoundRobin), &[("a", 100), ("b", 100), ("c", 100)]);
    let next = |world: &World| pick(world, &Ask::first(0)).id.to_string();
    assert_eq!(next(&world), "a");
    world.apply(&[put_route(&route("other", "b.test", "/"))]);
    assert_eq!(next(&world), "b");
    let mut service = record(Balancing::RoundRobin);
    service.keep_alive = false;
    world.apply(&[put_record(&service)]);
    assert_eq!(next(&world), "c");
    world.apply(&[draining("web", "b")]);
    // The fourth turn of two.
    assert_eq!(next(&world), "c");
}

#[test]
fn round_robin_shares_the_turns_of_one_that_is_ejected() {
    let world = world(
        &record(Balancing::RoundRobin),
        &[("a", 100), ("b", 100), ("c", 100), ("d", 100), ("e", 100)],
    );
    eject(&world, "b", 1_000);
    let counts = counts(&world, 4_000, 2_000);
    assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "c", "d", "e"]);
    assert!(counts.values().all(|count| *count == 1_000), "{counts:?}");
}

#[test]
fn least_takes_the_one_with_the_least_under_way_for_its_weight() {
    let even = world(&record(Balancing::Least), &[("a", 100), ("b", 100), ("c", 100)]);
    let shares = counts(&even, 30_000, 0);
    for id in ["a", "b", "c"] {
        assert!((share(&shares, id) - 0.333).abs() < 0.02, "ties are drawn: {shares:?}");
    }
    let world = world(&record(Balancing::Least), &[("a", 300), ("b", 100)]);
    let idle = counts(&world, 30_000, 0);
    assert!((share(&idle, "a") - 0.75).abs() < 0.02, "ties are drawn by weight: {idle:?}");
    let mut rng = fastrand::Rng::with_seed(1);
    let held: Vec<_> = (0..400).map(|_| pick(&world, &Ask::first(rng.u64(..)))).collect();
    assert_eq!(held.iter().filter(|picked| picked.id.as_str() == "a").count(), 300);
    eject(&world, "b", 1_000);
    assert_eq!(share(&counts_at(&world, 2_000), "a"), 1.0);
}

fn counts_at(world: &World, now_us: u64) -> BTreeMap<String, u32> {
    counts(world, 1_000, now_us)
}

fn hashed(world: &World, user: u32, tried: &Tried, now_us: u64) -> String {
    let headers = vec![("X-User".to_owned(), format!("user-{user}"))];
    let name = listener("main");
    let view = RequestView { headers: &headers, ..RequestView::get(&name, "a.test", "/") };
    let key = Key::Request(&view, [127, 0, 0, 1].into());
    // The random number must not matter.
    let random = u64::from(user).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ now_us;
    pick(world, &Ask { now_us, key, tried, ..Ask::first(random) }).id.to_string()
}

fn by_user() -> Service {
    record(Balancing::Hash("header:x-user".parse().unwrap()))
}

#[test]
fn a_hash_keeps_each_key_with_its_instance_in_every_router() {
    let instances = [("a", 100), ("b", 100), ("c", 200)];
    let (one, other) = (world(&by_user(), &instances), world(&by_user(), &instances));
    let mut counts = BTreeMap::new();
    for user in 0..20_000 {
        let id = hashed(&one, user, &Tried::none(), 0);
        assert_eq!(hashed(&other, user, &Tried::none(), 5), id);
        *counts.entry(id).or_insert(0) += 1;
    }
    for (id, expected) in [("a", 0.25), ("b", 0.25), ("c", 0.5)] {
        assert!((share(&counts, id) - expected).abs() < 0.02, "{counts:?}");
    }
}

#[test]
fn a_hash_moves_only_the_keys_of_an_instance_that_cannot_be_had() {
    let mut world = world(&by_user(), &[("a", 100), ("b", 100), ("c", 100), ("d", 100)]);
    let before: Vec<_> = (0..4_000).map(|user| hashed(&world, user, &Tried::none(), 0)).collect();
    eject(&world, "b", 1_000);
    let mut targets = BTreeMap::new();
    for (user, id) in (0u32..).zip(&before) {
        let now = hashed(&world, user, &Tried::none(), 2_000);
        if id == "b" {
            *targets.entry(now).or_insert(0u32) += 1;
        } else {
            assert_eq!(*id, now);
        }
    }
    assert!(targets.len() == 3 && !targets.contains_key("b"), "they are spread: {targets:?}");
    let after = 1_000 + Ejection::DEFAULT.time().as_micros() as u64;
    for (user, id) in (0u32..).zip(&before) {
        assert_eq!(*id, hashed(&world, user, &Tried::none(), after), "and come back");
    }
    // A retry goes on along the same way, and not back to the one that was tried.
    let service = world.table.service(&service_name("web")).unwrap();
    let mut tried = Tried::none();
    let b = service.members().find(|member| member.endpoint.id.as_str() == "b").unwrap();
    tried.insert(b.endpoint.state.pool_key());
    for user in (0..4_000).filter(|user| before[*user as usize] == "b") {
        assert_eq!(hashed(&world, user, &tried, 0), hashed(&world, user, &tried, 1));
        assert_ne!(hashed(&world, user, &tried, 0), "b");
    }
    // A change of the table that has nothing to do with it moves nobody.
    world.apply(&[put_route(&route("other", "b.test", "/"))]);
    assert_eq!(hashed(&world, 7, &Tried::none(), after), before[7]);
}

#[test]
fn a_request_without_the_key_is_spread() {
    let world = world(&by_user(), &[("a", 100), ("b", 100)]);
    let counts = counts(&world, 10_000, 0);
    assert!((share(&counts, "a") - 0.5).abs() < 0.02, "{counts:?}");
    let source = world_by_source();
    let from = |last: u8| {
        let key = Key::Source([127, 0, 0, last].into());
        pick(&source, &Ask { key, ..Ask::first(u64::from(last)) })
    };
    let first = from(1);
    assert!((0..50).all(|_| from(1).id == first.id));
    assert!((2..50).any(|last| from(last).id != first.id));
    assert!(first.key().is_some());
}

fn world_by_source() -> World {
    world(&record(Balancing::Hash(HashBy::Source)), &[("a", 100), ("b", 100)])
}

#[test]
fn an_instance_that_came_up_takes_its_share_step_by_step() {
    for balancing in [Balancing::P2c, Balancing::RoundRobin, Balancing::Least] {
        let service = Service { slow_start: Some(Duration::from_secs(100)), ..record(balancing) };
        let mut world = world(&service, &[("a", 100), ("b", 100), ("c", 100)]);
        world.apply(&[put_instance(&Instance { since_ms: 1_000_000, ..instance("web", "new") })]);
        for (age_s, weight) in [(0, 0.1), (50, 0.55), (100, 1.0), (9_000, 1.0)] {
            let counts = counts(&world, 40_000, (1_000 + age_s) * 1_000_000);
            let (is, due) = (share(&counts, "new"), weight / (3.0 + weight));
            assert!((is - due).abs() < 0.02, "{:?} {age_s}: {is}, {due}", service.balancing);
        }
    }
}

#[test]
fn keys_move_to_an_instance_that_came_up_step_by_step_and_only_once() {
    let slow = Service { slow_start: Some(Duration::from_secs(100)), ..by_user() };
    let mut world = world(&slow, &[("a", 100), ("b", 100)]);
    world.apply(&[put_instance(&Instance { since_ms: 1_000_000, ..instance("web", "new") })]);
    let at = |age_s: u64| -> Vec<bool> {
        let now_us = (1_000 + age_s) * 1_000_000;
        (0..6_000).map(|user| hashed(&world, user, &Tried::none(), now_us) == "new").collect()
    };
    let steps = [at(0), at(30), at(60), at(100)];
    let counts = steps.each_ref().map(|step| step.iter().filter(|is_new| **is_new).count());
    assert!(counts.is_sorted() && counts[0] < 400 && counts[3] > 1_800, "{counts:?}");
    for pair in steps.windows(2) {
        assert!(pair[0].iter().zip(&pair[1]).all(|(before, after)| !before || *after));
    }
}

#[test]
fn a_slow_endpoint_is_left_to_what_the_others_cannot_do() {
    let mut world = world(&record(Balancing::P2c), &[("a", 100), ("b", 100), ("slow", 100)]);
    {
        let service = world.table.service(&service_name("web")).unwrap();
        for member in service.members() {
            let ms = if member.endpoint.id.as_str() == "slow" { 50 } else { 2 };
            member.endpoint.state.answered(1_000_000, Some(ms * 1_000));
        }
    }
    // Drawn with another one, it loses: of idle ones it gets nothing.
    assert_eq!(share(&counts(&world, 10_000, 1_000_000), "slow"), 0.0);
    // What it is known for survives the table.
    world.apply(&[put_route(&route("other", "b.test", "/")), weighted("web", "slow", 101)]);
    assert_eq!(share(&counts(&world, 10_000, 1_000_000), "slow"), 0.0);
    // It is not left alone for ever: nothing is known of a minute ago.
    assert!(share(&counts(&world, 10_000, 61_000_000), "slow") > 0.3);
    // With much under way elsewhere it is used after all.
    let mut rng = fastrand::Rng::with_seed(2);
    let held: Vec<_> = (0..600)
        .map(|_| pick(&world, &Ask { now_us: 1_000_000, ..Ask::first(rng.u64(..)) }))
        .collect();
    let slow = held.iter().filter(|picked| picked.id.as_str() == "slow").count();
    assert!((5..60).contains(&slow), "{slow} of 600");
}

#[test]
fn ejected_endpoints_are_passed_over_until_nobody_else_is_left() {
    let mut world = world(&record(Balancing::P2c), &[("a", 1), ("b", 9), ("c", 5), ("d", 5)]);
    eject(&world, "b", 1_000);
    eject(&world, "c", 1_000);
    let left = counts_at(&world, 2_000);
    assert_eq!(left.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "d"]);
    // Half of them are out: no more.
    let service = world.table.service(&service_name("web")).unwrap().clone();
    let d = service.members().find(|member| member.endpoint.id.as_str() == "d").unwrap();
    assert!((0..20).all(|_| world.table.failed(&d.endpoint, 1_000, 9).is_none()));
    // It survives the table, and when all others go, what is left is used.
    world.apply(&[draining("web", "a")]);
    assert_eq!(counts_at(&world, 2_000).into_keys().collect::<Vec<_>>(), ["d"]);
    world.apply(&[draining("web", "d")]);
    assert_eq!(counts_at(&world, 2_000).into_keys().collect::<Vec<_>>(), ["b", "c"]);
    let explained =
        world.table.explain(&RequestView::get(&listener("main"), "a.test", "/")).backends;
    let until = 1_000 + Ejection::DEFAULT.time().as_micros() as u64;
    let shown: Vec<_> = explained[0].endpoints.iter().map(|one| one.ejected_until_us).collect();
    assert_eq!(shown, [0, until, until, 0]);
}
