//! What the table says about its decisions.

use portolan_discovery::model::{Health, Word};
use portolan_discovery::snapshot::State;
use portolan_router::{Ask, CANDIDATES_MAX, RequestView, Verdict};

use crate::world::*;

fn verdicts(explanation: &portolan_router::Explanation) -> Vec<(String, Verdict)> {
    explanation.candidates.iter().map(|c| (c.route.to_string(), c.verdict.clone())).collect()
}

#[test]
fn every_route_of_the_host_gets_a_verdict() {
    let mut bound = route("bound", "a.test", "/api");
    bound.listener = Some(listener("main"));
    let mut admin = route("admin", "a.test", "/api");
    admin.listener = Some(listener("admin"));
    let mut younger = route("younger", "a.test", "/api");
    younger.listener = Some(listener("main"));
    younger.created_ms = 5;
    let world = World::of(&[
        put_route(&bound),
        put_route(&admin),
        put_route(&younger),
        put_route(&route("unbound", "a.test", "/api")),
        put_route(&route("shorter", "a.test", "/")),
        put_route(&route("other", "a.test", "/other")),
        put_route(&route("wild", "*.test", "/api")),
        put_route(&route("elsewhere", "b.test", "/api")),
    ]);
    let explanation = world.table.explain(&RequestView::get(&listener("main"), "a.test", "/api/x"));
    assert_eq!(explanation.winner.as_ref().unwrap().as_str(), "bound");
    assert_eq!(
        verdicts(&explanation),
        [
            ("other", Verdict::OtherPath),
            ("admin", Verdict::OtherListener),
            ("bound", Verdict::Wins),
            ("younger", Verdict::Younger),
            ("unbound", Verdict::NotBound),
            ("shorter", Verdict::LessSpecificPath),
            ("wild", Verdict::LessSpecificHost),
        ]
        .map(|(name, verdict)| (name.to_owned(), verdict))
    );
    assert_eq!(explanation.revision, world.snapshot.revision);
}

#[test]
fn a_request_without_a_route_is_explained_too() {
    let world = World::of(&[put_route(&route("api", "a.test", "/api"))]);
    let explanation = world.table.explain(&RequestView::get(&listener("main"), "a.test", "/"));
    assert!(explanation.winner.is_none() && explanation.backends.is_empty());
    assert_eq!(verdicts(&explanation), [("api".to_owned(), Verdict::OtherPath)]);
    assert!(
        world
            .table
            .explain(&RequestView::get(&listener("main"), "b.test", "/"))
            .candidates
            .is_empty()
    );
}

#[test]
fn every_instance_shows_why_it_is_or_is_not_picked() {
    let mut split = route("r", "a.test", "/");
    split.backends = vec![backend("web", 3), backend("ghost", 1)];
    let world = World::of(&[
        up("web", "a"),
        draining("web", "b"),
        with_health("web", "c", Health::Starting),
        with_health("web", "d", Health::Down),
        up("web", "e"),
        put_override("instance/web/e", Word::Down),
        put_route(&split),
    ]);
    let entry = world.table.route(&RequestView::get(&listener("main"), "a.test", "/")).unwrap();
    let held =
        (0..64).find_map(|i| entry.pick(&world.table, &Ask::first(i * 0x9e37_79b9)).ok()).unwrap();
    let explanation = world.table.explain(&RequestView::get(&listener("main"), "a.test", "/"));
    let [web, ghost] = &explanation.backends[..] else { panic!("{explanation:?}") };
    assert!(web.exists && !web.panic && !web.kept && web.weight == 3);
    assert!(!ghost.exists && ghost.endpoints.is_empty() && ghost.weight == 1);
    let seen: Vec<_> = web
        .endpoints
        .iter()
        .map(|view| (view.id.as_str(), view.state, view.takes_traffic, view.in_flight))
        .collect();
    assert_eq!(
        seen,
        [
            ("a", State::Up, true, 1),
            ("b", State::Draining, false, 0),
            ("c", State::Starting, false, 0),
            ("d", State::Down, false, 0),
            ("e", State::AdminDown, false, 0),
        ]
    );
    assert!(web.endpoints[4].overridden_by.is_some());
    drop(held);
}

#[test]
fn a_long_explanation_lists_what_matches_first() {
    let mut events: Vec<_> = (0..200)
        .map(|i| put_route(&route(&format!("r{i}"), "a.test", &format!("/other/{i}"))))
        .collect();
    events.push(put_route(&route("z", "a.test", "/")));
    let world = World::of(&events);
    let explanation = world.table.explain(&RequestView::get(&listener("main"), "a.test", "/x"));
    assert_eq!(explanation.candidates.len(), CANDIDATES_MAX);
    assert_eq!(explanation.candidates_left_out, 201 - CANDIDATES_MAX);
    assert_eq!(explanation.candidates[0].verdict, Verdict::Wins);
}

#[test]
fn a_tcp_listener_is_explained_too() {
    let world = World::of(&[
        put_route(&tcp_route("a", "db", "db")),
        put_route(&tcp_route("b", "db", "db")),
    ]);
    let explanation = world.table.explain_bound(&listener("db"));
    assert_eq!(
        verdicts(&explanation),
        [("a".to_owned(), Verdict::Wins), ("b".to_owned(), Verdict::Younger)]
    );
    assert_eq!(explanation.backends.len(), 1);
    assert!(world.table.explain_bound(&listener("main")).winner.is_none());
}

#[test]
fn the_leader_is_named_and_stays_while_it_is_up() {
    let mut leading = route("r", "a.test", "/");
    leading.backends[0].leader = true;
    let since = |id: &str, since_ms: u64, health: Health| {
        let mut record = instance("web", id);
        (record.since_ms, record.health) = (since_ms, health);
        put_instance(&record)
    };
    let mut world = World::of(&[
        put_route(&leading),
        since("a", 30, Health::Up),
        since("b", 20, Health::Up),
        since("c", 20, Health::Up),
        since("d", 10, Health::Down),
    ]);
    let leader = |world: &World| {
        let main = listener("main");
        let explanation = world.table.explain(&RequestView::get(&main, "a.test", "/"));
        let [web] = &explanation.backends[..] else { panic!("one backend") };
        assert!(web.leader_only);
        let leaders = web.endpoints.iter().filter(|endpoint| endpoint.leader);
        leaders.map(|endpoint| endpoint.id.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(leader(&world), "b", "up for longest, then first by id");
    world.apply(&[since("0", 20, Health::Starting)]);
    assert_eq!(leader(&world), "b", "who does not take traffic does not lead");
    world.apply(&[since("b", 40, Health::Down)]);
    assert_eq!(leader(&world), "c");
    world.apply(&[since("b", 50, Health::Up)]);
    assert_eq!(leader(&world), "c", "who was away comes last");
    world.apply(&[since("a", 60, Health::Down), since("b", 60, Health::Down)]);
    assert_eq!(leader(&world), "c", "of four one is up: all take traffic, it still leads");
    world.apply(&[since("c", 70, Health::Down)]);
    assert_eq!(leader(&world), "d", "better one that is down than none");
}
