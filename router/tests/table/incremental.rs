//! A table compiled step by step decides like one compiled at once, and both like the rules
//! read from the specification.

use std::cmp::Reverse;

use portolan_discovery::model::route::ValuePattern;
use portolan_discovery::model::{
    Event, Health, HostPattern, HttpRule, Instance, PathPattern, Phase, Route, Rule, Weight, Word,
};
use portolan_router::{RequestView, Table};
use proptest::prelude::*;

use crate::world::*;

const HOSTS: [&str; 7] =
    ["a.test", "b.a.test", "c.b.a.test", "*.a.test", "*.test", "*.b.a.test", "*"];
const PATHS: [&str; 15] = [
    "/", "=/", "/a", "=/a", "=/a/", "/a/b", "=/a/b", "/ab", "/a/b/c", "/x/y", "/x", "=/x/y/",
    "~^/a/", "~b$", "~q",
];
const METHODS: [&[&str]; 4] = [&[], &[], &["GET"], &["POST", "PUT"]];
const HEADERS: [&[(&str, &str)]; 6] = [
    &[],
    &[],
    &[("x-a", "1")],
    &[("x-a", "*"), ("x-b", "~^[12]$")],
    &[("x-b", "2")],
    &[("x-a", "2"), ("x-b", "2")],
];
const PARAMETERS: [&[(&str, &str)]; 4] = [&[], &[], &[("v", "1")], &[("v", "*"), ("w", "~x")]];
/// Method, header fields and query of requests; `;` ends a field, `:` its name.
const ASKED: [(&str, &str, &str); 8] = [
    ("GET", "", ""),
    ("POST", "x-a:1;", "v=1"),
    ("PUT", "X-A:2;x-b:2;", "w=xx&v="),
    ("GET", "x-a:2;X-a:1;", "v=2&v=1"),
    ("HEAD", "x-b:1;x-a:;", "w=yxy&v=1"),
    ("GET", "x-b:3;x-b:2;", "v=1&w="),
    ("get", "x-a: 1;", "V=1"),
    ("POST", "x-b:2;", "v=1&w=x"),
];
const LISTENERS: [Option<&str>; 3] = [None, Some("l1"), Some("l2")];
const REQUEST_HOSTS: [&str; 7] =
    ["a.test", "b.a.test", "c.b.a.test", "d.c.b.a.test", "z.test", "test", "other"];
const REQUEST_PATHS: [&str; 14] = [
    "/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/b/c/d", "/ab", "/abc", "/x/y", "/x/y/",
    "/x//y", "/q", "*",
];
const SERVICES: [&str; 3] = ["web", "api", "db"];

fn event() -> impl Strategy<Value = Event> {
    let service = prop::sample::select(&SERVICES[..]);
    let id = prop::sample::select(&["i0", "i1", "i2", "i3"][..]);
    let health = prop::sample::select(&[Health::Up, Health::Up, Health::Down][..]);
    let instance = (service.clone(), id.clone(), health, any::<bool>(), 1..4u16, 1..3u16).prop_map(
        |(service, id, health, drains, weight, port)| {
            let phase = if drains { Phase::Draining } else { Phase::Active };
            let weight = Weight(weight.try_into().unwrap());
            let mut record = Instance { health, phase, weight, ..instance(service, id) };
            record.addr.set_port(port);
            put_instance(&record)
        },
    );
    let word = prop::sample::select(&[Word::Down, Word::Up, Word::Drain][..]);
    let scope =
        prop::sample::select(&["node/n1", "service/web", "instance/web/i0", "instance/api/i1"][..]);
    prop_oneof![
        10 => a_route().prop_map(|record| put_route(&record)),
        5 => (0..60u8).prop_map(|n| delete_route(&format!("r{n}"))),
        6 => instance,
        3 => (service.clone(), id).prop_map(|(service, id)| delete_instance(service, id)),
        1 => service.clone().prop_map(put_service),
        1 => service.prop_map(delete_service),
        1 => (scope.clone(), word).prop_map(|(scope, word)| put_override(scope, word)),
        1 => scope.prop_map(delete_override),
    ]
}

fn a_route() -> impl Strategy<Value = Route> {
    // Half of the routes on one host, so that its tree comes and goes.
    let host = prop_oneof![Just(HOSTS[0]), prop::sample::select(&HOSTS[..])];
    let path = prop::sample::select(&PATHS[..]);
    let on = prop::sample::select(&LISTENERS[..]);
    let service = prop::sample::select(&SERVICES[..]);
    let asks = (0..METHODS.len(), 0..HEADERS.len(), 0..PARAMETERS.len());
    (0..60u8, host, path, on, 0..3u64, service, any::<bool>(), asks).prop_map(
        |(number, host, path, on, created_ms, service, tcp, asks)| {
            let name = format!("r{number}");
            let mut record = match on {
                Some(on) if tcp && created_ms == 0 => tls_route(&name, on, host, service),
                Some(on) if tcp => tcp_route(&name, on, service),
                _ => Route { listener: on.map(listener), ..route(&name, host, path) },
            };
            if let Rule::Http(rule) = &mut record.rule {
                rule.predicates = predicates(METHODS[asks.0], HEADERS[asks.1], PARAMETERS[asks.2]);
            }
            record.backends = vec![backend(service, 1)];
            record.created_ms = created_ms;
            record
        },
    )
}

fn value(pattern: &ValuePattern, value: &str) -> bool {
    match pattern.to_string().as_str() {
        "true" => true,
        "~^[12]$" => value == "1" || value == "2",
        "~x" => value.contains('x'),
        exact => value == exact,
    }
}

fn is_asked(rule: &HttpRule, (method, fields, query): (&str, &str, &str)) -> bool {
    let asks = &rule.predicates;
    let fields: Vec<_> = fields.split_terminator(';').map(|f| f.split_once(':').unwrap()).collect();
    let pairs: Vec<_> =
        query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    (asks.methods().is_empty() || asks.methods().iter().any(|own| own.as_str() == method))
        && asks.headers().iter().all(|(name, pattern)| {
            let named = fields.iter().filter(|f| f.0.to_lowercase() == name.as_str());
            named.into_iter().any(|field| value(pattern, field.1))
        })
        && asks.query().iter().all(|(name, pattern)| {
            let first = pairs.iter().find(|pair| pair.0 == name.as_str());
            first.is_some_and(|pair| value(pattern, pair.1))
        })
}

fn found_in(path: &str, regex: &str) -> bool {
    match regex {
        "^/a/" => path.starts_with("/a/"),
        "b$" => path.ends_with('b'),
        other => path.contains(other),
    }
}

/// The rules read from the Gateway API: sort all that match, take the first.
fn by_the_book<'r>(
    routes: impl Iterator<Item = &'r Route>,
    on: &str,
    host: &str,
    path: &str,
    asked: (&str, &str, &str),
) -> Option<&'r Route> {
    routes
        .filter_map(|route| {
            let Rule::Http(rule) = &route.rule else { return None };
            let bound = route.listener.as_ref();
            if bound.is_some_and(|own| own.as_str() != on) {
                return None;
            }
            let host_rank = match &rule.host {
                HostPattern::Exact(own) => (own.as_str() == host).then_some(usize::MAX)?,
                HostPattern::Wildcard(own) => {
                    host.ends_with(&format!(".{}", own.as_str())).then_some(own.as_str().len())?
                }
                HostPattern::Any => 0,
            };
            if !is_asked(rule, asked) {
                return None;
            }
            let path_rank = match &rule.path {
                PathPattern::Exact(own) => (own == path).then_some(usize::MAX)?,
                PathPattern::Regex(own) => found_in(path, own.as_str()).then_some(0)?,
                PathPattern::Prefix(own) if own == "/" => 1,
                PathPattern::Prefix(own) => {
                    let below = path == own || path.starts_with(&format!("{own}/"));
                    below.then_some(own.len())?
                }
            };
            let asks = &rule.predicates;
            let counts = (!asks.methods().is_empty(), asks.headers().len(), asks.query().len());
            let rank = (host_rank, path_rank, counts, bound.is_some());
            Some((Reverse(rank), route.created_ms, route.name.clone(), route))
        })
        .min_by(|a, b| (&a.0, a.1, &a.2).cmp(&(&b.0, b.1, &b.2)))
        .map(|(.., route)| route)
}

fn check_requests(world: &World, full: &Table) -> Result<(), TestCaseError> {
    for on in ["l1", "l2", "l3"] {
        let by = listener(on);
        for host in REQUEST_HOSTS {
            for (number, path) in REQUEST_PATHS.iter().enumerate() {
                let asked = ASKED[(number + host.len()) % ASKED.len()];
                let headers: Vec<(String, String)> = asked
                    .1
                    .split_terminator(';')
                    .map(|field| {
                        let (name, value) = field.split_once(':').unwrap();
                        (name.to_owned(), value.to_owned())
                    })
                    .collect();
                let request = RequestView {
                    listener: &by,
                    host,
                    path,
                    method: asked.0,
                    query: Some(asked.2),
                    headers: &headers,
                };
                let routes = world.snapshot.routes().map(|(_, route)| &**route);
                let book = by_the_book(routes, on, host, path, asked).map(|route| &route.name);
                let found = world.table.route(&request).map(|entry| &entry.name);
                prop_assert_eq!(found, book, "{:?} {:?}", request, asked);
                prop_assert_eq!(full.route(&request).map(|entry| &entry.name), book);
                let explained = world.table.explain(&request);
                prop_assert_eq!(explained.winner.as_ref(), book);
            }
        }
        for host in REQUEST_HOSTS.map(Some).into_iter().chain([None]) {
            let found = world.table.tls_route(&by, host).map(|entry| &entry.name);
            prop_assert_eq!(found, full.tls_route(&by, host).map(|entry| &entry.name));
            let explained = world.table.explain_tls(&by, host);
            prop_assert_eq!(found, explained.winner.as_ref());
        }
        prop_assert_eq!(
            world.table.tcp_route(&by).map(|entry| &entry.name),
            full.tcp_route(&by).map(|entry| &entry.name)
        );
    }
    Ok(())
}

/// Everything about the services that does not depend on how the table came to be.
fn services(table: &Table) -> Vec<String> {
    let mut lines: Vec<String> = table
        .services()
        .flat_map(|service| {
            let flags = (service.is_panic(), service.is_kept(), service.protocol());
            service.members().map(move |member| {
                let endpoint = &member.endpoint;
                format!(
                    "{} {flags:?} {} {} {:?} {:?} {}",
                    service.name(),
                    endpoint.id,
                    endpoint.addr,
                    endpoint.weight,
                    member.state,
                    member.takes_traffic
                )
            })
        })
        .collect();
    lines.sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_or_at_once_the_table_is_the_same(
        batches in prop::collection::vec(prop::collection::vec(event(), 1..12), 1..24),
    ) {
        let mut world = World::new();
        for batch in &batches {
            world.apply(batch);
        }
        let full = world.full();
        check_requests(&world, &full)?;
        prop_assert_eq!(services(&world.table), services(&full));
        prop_assert_eq!(world.table.conflicts(), full.conflicts());
        prop_assert_eq!(
            world.table.dangling().collect::<Vec<_>>(),
            full.dangling().collect::<Vec<_>>()
        );
        prop_assert_eq!(
            world.table.draining().collect::<Vec<_>>(),
            full.draining().collect::<Vec<_>>()
        );
        prop_assert_eq!(
            world.table.panic_services().collect::<Vec<_>>(),
            full.panic_services().collect::<Vec<_>>()
        );
    }
}
