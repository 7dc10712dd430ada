//! Never empty by accident: panic, and instances that nothing explains away.

use portolan_discovery::model::{Event, Health, Service, ServiceName, Word};

use crate::world::*;

fn takers(world: &World) -> String {
    let ids = |name: &ServiceName| {
        let table = world.table.service(name)?;
        Some(table.endpoints().map(|endpoint| endpoint.id.to_string()).collect::<Vec<_>>())
    };
    ids(&service_name("web")).unwrap_or_default().join(" ")
}

fn down(id: &str) -> Event {
    with_health("web", id, Health::Down)
}

fn starting(id: &str) -> Event {
    with_health("web", id, Health::Starting)
}

fn web_up(ids: &str) -> World {
    let mut events = vec![put_service("web")];
    events.extend(ids.split_whitespace().map(|id| up("web", id)));
    World::of(&events)
}

#[test]
fn panic_begins_below_half_and_ends_by_itself() {
    let mut world = web_up("a b c d");
    for (event, expected, panic) in [
        (down("a"), "b c d", false),
        (down("b"), "c d", false),
        (down("c"), "a b c d", true),
        (down("d"), "a b c d", true),
        (up("web", "a"), "a b c d", true),
        (up("web", "b"), "a b", false),
    ] {
        let report = world.apply(&[event]);
        assert_eq!(takers(&world), expected);
        assert_eq!(report.panic.len(), usize::from(panic));
        assert_eq!(world.table.panic_services().count(), usize::from(panic));
        assert_eq!(world.table.service(&service_name("web")).unwrap().is_panic(), panic);
    }
}

#[test]
fn panic_counts_only_instances_that_checks_alone_decide_on() {
    let mut world = web_up("a b c d e");
    world.apply(&[
        down("a"),
        put_override("instance/web/b", Word::Down),
        draining("web", "c"),
        starting("d"),
    ]);
    // One of two is up.
    assert_eq!(takers(&world), "e");
    world.apply(&[down("e")]);
    assert_eq!(takers(&world), "a e", "not what an operator, a drain or a start holds back");
}

#[test]
fn one_instance_that_is_down_is_used_for_want_of_another() {
    let mut world = web_up("a");
    world.apply(&[down("a")]);
    assert_eq!(takers(&world), "a");
}

#[test]
fn instances_that_forgot_their_checks_stay_until_one_is_up() {
    let mut world = web_up("a b");
    let report = world.apply(&[starting("a"), starting("b"), starting("new")]);
    assert_eq!(takers(&world), "a b", "but not one that never took traffic");
    assert_eq!(report.kept, [service_name("web")]);
    assert!(world.table.service(&service_name("web")).unwrap().is_kept());
    // Other changes do not end it, but what is explained leaves.
    world.apply(&[draining("web", "a")]);
    assert_eq!(takers(&world), "b");
    let report = world.apply(&[up("web", "new")]);
    assert_eq!(takers(&world), "new");
    assert_eq!(report.kept, [] as [ServiceName; 0]);
    assert_eq!(world.table.kept_services().count(), 0);
}

#[test]
fn an_instance_that_moved_is_not_kept() {
    let mut world = web_up("a");
    let mut moved = instance("web", "a");
    moved.health = Health::Starting;
    moved.addr.set_port(1);
    world.apply(&[put_instance(&moved)]);
    assert_eq!(takers(&world), "");
}

#[test]
fn an_explained_emptiness_is_empty() {
    for events in [
        vec![delete_instance("web", "a"), delete_instance("web", "b")],
        vec![draining("web", "a"), draining("web", "b")],
        vec![put_override("service/web", Word::Down)],
        vec![put_override("service/web", Word::Drain)],
        vec![put_override("node/n1", Word::Down)],
        vec![delete_instance("web", "a"), draining("web", "b")],
    ] {
        let mut world = web_up("a b");
        let report = world.apply(&events);
        assert_eq!(takers(&world), "", "{events:?}");
        assert_eq!(report.kept, [] as [ServiceName; 0]);
    }
}

#[test]
fn a_service_without_a_record_lives_with_its_instances() {
    let mut world = World::of(&[up("web", "a")]);
    assert_eq!(takers(&world), "a");
    world.apply(&[put_service("web")]);
    world.apply(&[delete_instance("web", "a")]);
    assert!(world.table.service(&service_name("web")).is_some());
    world.apply(&[delete_service("web")]);
    assert!(world.table.service(&service_name("web")).is_none());
    assert_eq!(world.table.services().count(), 0);
}

#[test]
fn the_record_of_a_service_reaches_its_endpoints() {
    let mut world = web_up("a");
    let record = Service { keep_alive: false, ..Service::named(service_name("web")) };
    world.apply(&[put_record(&record)]);
    let table = world.table.service(&service_name("web")).unwrap();
    assert!(!table.endpoints().next().unwrap().keep_alive);
}
