//! Virtual addresses in the world of the simulation, whose leader hears of changes late.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use portolan_discovery::model::{Key, Protocol, Service, ServiceName, VirtualRange};
use portolan_discovery::store::Txn;

use super::world::{TICK, World, put};
use crate::controller::addresses::RELEASED_FOR;

fn range(text: &str) -> VirtualRange {
    VirtualRange::parse(text).unwrap()
}

fn world(seed: u64, net: &str) -> World {
    let mut world = World::new(seed, 1, 1);
    world.set_range(Some(range(net)));
    world
}

fn declare(world: &World, name: &str) {
    let service = Service {
        protocol: Protocol::Tcp,
        virtual_port: NonZeroU16::new(5432),
        ..Service::named(name.parse().unwrap())
    };
    put(&world.store, &Key::Service(service.name.clone()), &service);
}

fn delete(world: &World, name: &str) {
    let key = Key::Service(name.parse().unwrap()).to_string();
    world.store.commit(&Txn::default().delete(key));
}

/// What is given, held against the claims: each has its own, and nobody has two.
fn given(world: &World) -> BTreeMap<ServiceName, IpAddr> {
    let view = world.truth();
    let mut claims = BTreeMap::new();
    for (address, stored) in &view.claims {
        if stored.record.released_ms.is_none() {
            let other = claims.insert(stored.record.service.clone(), *address);
            assert_eq!(other, None, "{} has two", stored.record.service);
        }
    }
    let records = view.data.virtuals();
    let given: BTreeMap<_, _> = records.map(|one| (one.service.clone(), one.address)).collect();
    assert_eq!(given, claims);
    assert_eq!(given.values().collect::<BTreeSet<_>>().len(), given.len(), "one has two services");
    given
}

#[test]
fn services_that_ask_have_an_address_and_keep_it_under_another_leader() {
    let mut world = world(1, "127.64.0.0/16");
    for name in ["db", "cache", "queue"] {
        declare(&world, name);
    }
    let http =
        Service { virtual_port: NonZeroU16::new(80), ..Service::named("web".parse().unwrap()) };
    put(&world.store, &Key::Service(http.name.clone()), &http);
    world.steps(60);
    let first = given(&world);
    assert_eq!(first.len(), 3, "{first:?}");
    assert_eq!(
        first["db"],
        range("127.64.0.0/16").choose(&"db".parse().unwrap(), |_| false).unwrap()
    );
    world.replace_controller();
    world.set_range(Some(range("127.64.0.0/16")));
    declare(&world, "more");
    world.steps(60);
    let second = given(&world);
    assert!(first.iter().all(|(name, address)| second[name] == *address) && second.len() == 4);
    assert!(world.last.unaddressed.is_empty());
}

#[test]
fn what_is_given_back_is_nobody_else_s_for_a_while_and_its_own_service_s_again_at_once() {
    let mut world = world(2, "10.9.8.0/30");
    declare(&world, "a");
    declare(&world, "b");
    world.steps(60);
    let first = given(&world);
    assert_eq!(first.len(), 2);
    delete(&world, "a");
    declare(&world, "c");
    world.steps(60);
    assert_eq!(given(&world).len(), 1, "the address of a is still remembered by clients");
    assert_eq!(world.last.unaddressed["c"], "all 2 addresses of 10.9.8.0/30 are taken");
    declare(&world, "a");
    world.steps(60);
    assert_eq!(given(&world), first);
    delete(&world, "a");
    let ticks = RELEASED_FOR.as_millis() / TICK.as_millis();
    world.steps(u64::try_from(ticks).unwrap() + 60);
    let last = given(&world);
    assert_eq!((last["b"], last["c"]), (first["b"], first["a"]));
    assert!(world.last.unaddressed.is_empty());
}

#[test]
fn in_another_range_services_get_another_address_and_without_one_they_keep_theirs() {
    let mut world = world(3, "10.9.8.0/24");
    declare(&world, "db");
    world.steps(60);
    let first = given(&world);
    world.set_range(None);
    declare(&world, "late");
    world.steps(60);
    assert_eq!(given(&world), first);
    assert!(world.last.unaddressed["late"].contains("no router.virtual_addresses"));
    world.set_range(Some(range("127.64.0.0/16")));
    world.steps(60);
    let second = given(&world);
    assert_eq!(second.len(), 2);
    assert!(second.values().all(|address| range("127.64.0.0/16").gives(*address)), "{second:?}");
}

#[test]
fn a_service_that_cannot_be_read_keeps_its_address() {
    let mut world = world(4, "10.9.8.0/24");
    declare(&world, "db");
    world.steps(60);
    let first = given(&world);
    put(&world.store, &Key::Service("db".parse().unwrap()), &"no service");
    world.replace_controller();
    world.set_range(Some(range("10.9.8.0/24")));
    world.steps(60);
    assert_eq!(given(&world), first);
}

#[test]
fn however_services_come_and_go_and_leaders_change_no_address_has_two() {
    for seed in 0..20 {
        let net = ["10.9.8.0/28", "fd00:7::/124"][seed as usize % 2];
        let mut world = world(seed, net);
        for _ in 0..60 {
            let name = format!("s{}", world.dice.below(20));
            match world.dice.below(5) {
                0 => delete(&world, &name),
                1 => {
                    world.replace_controller();
                    world.set_range(Some(range(net)));
                }
                _ => declare(&world, &name),
            }
            let steps = world.dice.below(5);
            world.steps(steps);
            given(&world);
        }
        world.steps(
            u64::try_from((RELEASED_FOR + Duration::from_secs(9)).as_millis() / TICK.as_millis())
                .unwrap(),
        );
        let asking = world.truth().data.services().count();
        assert_eq!(given(&world).len(), asking.min(14), "seed {seed}");
        assert_eq!(world.last.unaddressed.len(), asking.saturating_sub(14));
    }
}
