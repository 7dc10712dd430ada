//! What there is to tell of routes: those that take nothing, and ties.

use portolan_discovery::model::route::{Mirror, Percent};
use portolan_discovery::model::{Protocol, Route, Rule};
use portolan_router::RequestView;
use portolan_router::h1::{HeadScratch, Limits, parse_request};
use proptest::prelude::*;

use crate::world::*;

/// Methods, header fields, parameters.
type Asks<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);

fn asking(name: &str, path: &str, asks: Asks<'_>) -> Route {
    let mut record = route(name, "a.test", path);
    if let Rule::Http(rule) = &mut record.rule {
        rule.predicates = predicates(asks.0, asks.1, asks.2);
    }
    record
}

fn warnings(routes: &[Route]) -> Vec<String> {
    let world = World::of(&routes.iter().map(put_route).collect::<Vec<_>>());
    let listeners = [("main", Protocol::Http), ("db", Protocol::Tcp), ("sni", Protocol::Tls)];
    let listeners = listeners.map(|(name, protocol)| (listener(name), protocol));
    world.table.warnings(&listeners).iter().map(ToString::to_string).collect()
}

fn check(routes: &[Route], expected: &[(&str, &str)]) {
    let found = warnings(routes);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (warning, (name, part)) in found.iter().zip(expected) {
        assert!(
            warning.starts_with(&format!("route {name} ")) && warning.contains(part),
            "{warning}"
        );
    }
}

#[test]
fn routes_that_ask_different_things_are_fine() {
    check(
        &[
            route("all", "a.test", "/"),
            route("same-elsewhere", "b.test", "/"),
            route("wild", "*.test", "/"),
            route("below", "a.test", "/x"),
            route("exact", "a.test", "=/x"),
            asking("get", "/x", (&["GET"], &[], &[])),
            asking("post", "/x", (&["POST"], &[], &[])),
            asking("one", "/x", (&[], &[("x-a", "1")], &[])),
            asking("two", "/x", (&[], &[("x-a", "2")], &[])),
            asking("both", "/x", (&["GET"], &[("x-a", "2")], &[("v", "1")])),
        ],
        &[],
    );
}

#[test]
fn a_route_that_another_leaves_nothing_takes_no_request() {
    let mut bound = route("bound", "a.test", "/b");
    bound.listener = Some(listener("main"));
    let mut older = asking("z", "/y", (&[], &[("x-a", "*")], &[]));
    older.created_ms = 1;
    let mut younger = asking("a", "/y", (&[], &[("x-a", "1")], &[]));
    younger.created_ms = 2;
    check(
        &[
            route("one", "a.test", "/x"),
            route("two", "a.test", "/x"),
            route("unbound", "a.test", "/b"),
            bound,
            older,
            younger,
        ],
        &[("a", "route z comes first"), ("two", "route one comes first")],
    );
}

#[test]
fn a_regular_expression_behind_a_prefix_for_every_path_takes_no_request() {
    let get = (&["GET"][..], &[][..], &[][..]);
    check(
        &[
            route("all", "a.test", "/"),
            route("regex", "a.test", "~^/x"),
            asking("get", "~^/x", get),
            route("elsewhere", "b.test", "~^/x"),
            route("twin", "b.test", "~^/x"),
            route("other", "b.test", "~^/xy"),
        ],
        &[
            ("get", "route all takes every path"),
            ("regex", "route all takes every path"),
            ("twin", "route elsewhere comes first"),
        ],
    );
    check(&[asking("root", "/", get), route("regex", "a.test", "~^/x")], &[]);
}

#[test]
fn a_tie_is_told_with_what_decides_it() {
    let mut older = asking("z", "/x", (&[], &[("x-a", "1")], &[]));
    older.created_ms = 1;
    let mut younger = asking("a", "/x", (&[], &[("x-b", "1")], &[]));
    younger.created_ms = 2;
    check(
        &[older, younger],
        &[("a", "route z, which is as specific and wins because it is older")],
    );
    check(
        &[
            asking("a", "/x", (&["GET", "PUT"], &[], &[])),
            asking("b", "/x", (&["POST", "PUT"], &[], &[])),
            asking("c", "/x", (&[], &[], &[("q", "~a")])),
            asking("d", "/x", (&[], &[], &[("q", "~b")])),
        ],
        &[("b", "route a, which is as specific and wins because its name"), ("d", "route c")],
    );
}

#[test]
fn a_route_of_a_listener_that_brings_nothing_is_told() {
    let mut nowhere = route("nowhere", "a.test", "/");
    nowhere.listener = Some(listener("gone"));
    let mut wrong = route("wrong", "a.test", "/");
    wrong.listener = Some(listener("db"));
    let (first, second) = (tcp_route("first", "db", "db"), tcp_route("second", "db", "db"));
    check(
        &[
            nowhere,
            wrong,
            first,
            second,
            tls_route("unread", "db", "a.test", "db"),
            tls_route("x-named", "sni", "a.test", "db"),
            tls_route("y-other", "sni", "b.test", "db"),
            tls_route("z-again", "sni", "a.test", "db"),
        ],
        &[
            ("nowhere", "no listener gone"),
            ("second", "route first"),
            ("unread", "another protocol"),
            ("wrong", "another protocol"),
            ("z-again", "route x-named comes first and takes all of them"),
        ],
    );
}

#[test]
fn a_route_that_asks_for_a_field_that_the_router_drops_takes_no_request() {
    let odd = ["x_env", "x.env"].map(|name| asking("odd", "/x", (&[], &[(name, "1")], &[])));
    for route in odd {
        check(&[route], &[("odd", "takes no request: header fields with _ or .")]);
    }
    // What is there to be asked for is what the codec leaves.
    let head = b"GET / HTTP/1.1\r\nHost: a.test\r\nx_env: 1\r\nx.env: 1\r\nx-env: 1\r\n\r\n";
    let mut scratch = HeadScratch::default();
    let request = parse_request(head, &mut scratch, &Limits::DEFAULT).unwrap().unwrap();
    let names: Vec<_> = request.headers().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, [&b"Host"[..], b"x-env"]);
}

#[test]
fn copies_that_do_nobody_any_good_are_told() {
    let mirrored = |name: &str, to: &str| {
        let mut route = route(name, &format!("{name}.test"), "/");
        let service = service_name(to);
        route.mirror = Some(Box::new(Mirror { service, percent: Percent::ALL }));
        route
    };
    let leads_to = route("x", "a.test", "/").backends[0].service.clone();
    let routes = [
        mirrored("fine", "shadow"),
        mirrored("itself", leads_to.as_str()),
        mirrored("nobody", "gone"),
    ];
    let mut records: Vec<_> = routes.iter().map(put_route).collect();
    records.extend([put_service("shadow"), put_service(leads_to.as_str())]);
    let world = World::of(&records);
    let listeners = [(listener("main"), Protocol::Http)];
    let told: Vec<_> = world.table.warnings(&listeners).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("route itself copies") && told[0].ends_with("is done twice"));
    assert!(told[1].starts_with("route nobody copies") && told[1].ends_with("no such service"));
    let written = world.table.warnings_with(&routes[2], &listeners, &world.metrics);
    assert_eq!(written.len(), 1, "{written:?}");
}

#[test]
fn a_route_that_is_written_is_told_about_with_those_that_it_leaves_nothing() {
    let old = route("old", "a.test", "~^/x");
    let world = World::of(&[put_route(&old), put_route(&route("far", "b.test", "~^/x"))]);
    let listeners = [(listener("main"), Protocol::Http)];
    let told = |record: &Route| -> Vec<String> {
        let warnings = world.table.warnings_with(record, &listeners, &world.metrics);
        warnings.iter().map(ToString::to_string).collect()
    };
    assert!(told(&old).is_empty() && told(&route("new", "a.test", "/y")).is_empty());
    let all = told(&route("new", "a.test", "/"));
    assert!(all.len() == 1 && all[0].starts_with("route old takes no request"), "{all:?}");
    let mut gone = route("old", "a.test", "/");
    gone.listener = Some(listener("gone"));
    let gone = told(&gone);
    assert!(gone.len() == 1 && gone[0].contains("no listener gone"), "{gone:?}");
    assert_eq!(world.table.snapshot().routes().count(), 2, "it was only asked");
}

const ASKS: [Asks<'_>; 8] = [
    (&[], &[], &[]),
    (&["GET"], &[], &[]),
    (&["GET", "POST"], &[], &[]),
    (&[], &[("a", "1")], &[]),
    (&[], &[("a", "*")], &[]),
    (&[], &[("a", "~1")], &[]),
    (&[], &[("a", "1")], &[("q", "*")]),
    (&["GET"], &[("a", "*")], &[("q", "1")]),
];

proptest! {
    /// A route that is called dead takes none of many requests, and without ties the age of
    /// routes makes no difference.
    #[test]
    fn what_is_called_dead_takes_no_request(
        chosen in prop::collection::vec((0..4usize, 0..ASKS.len(), 0..3u64, any::<bool>()), 1..24),
    ) {
        let paths = ["/", "=/x", "/x", "~x"];
        let mut world = World::new();
        let routes: Vec<_> = chosen.iter().enumerate().map(|(number, (path, asks, age, bound))| {
            let mut record = asking(&format!("r{number}"), paths[*path], ASKS[*asks]);
            record.created_ms = *age;
            record.listener = bound.then(|| listener("main"));
            put_route(&record)
        }).collect();
        world.apply(&routes);
        let listeners = [(listener("main"), Protocol::Http)];
        let warnings = world.table.warnings(&listeners);
        for on in ["main", "other"] {
            for method in ["GET", "POST", "PUT"] {
                for path in ["/", "/x", "/y"] {
                    for (value, query) in [(None, "q"), (Some("1"), ""), (Some("1"), "q=1"), (Some("01"), "q=2"), (Some("2"), "")] {
                        let headers: Vec<_> =
                            value.iter().map(|v| ("a".to_owned(), (*v).to_owned())).collect();
                        let request = RequestView {
                            listener: &listener(on), host: "a.test", path, method,
                            query: Some(query), headers: &headers,
                        };
                        let Some(winner) = world.table.route(&request) else { continue };
                        let dead = warnings.iter().find(|w| w.route == winner.name && w.cause.is_dead());
                        prop_assert!(dead.is_none(), "{:?} takes {:?}", dead, request);
                    }
                }
            }
        }
    }
}
