//! The semantics of the Gateway API's conformance tests, without Kubernetes: a case is named as
//! the one that it stands for. Routes are rules with one match each; a request ends at a service
//! or in a status.
//!
//! A route is `name host path`, then what else it asks: `GET|POST`, `name:value` for a header
//! field, `name?value` for a parameter, `@listener`, `+age`; then `->` and services with `*weight`.
//! A request is `METHOD host target`, its header fields, `@listener`, then `=>` and the outcome.

use portolan_router::{Ask, PickError, RequestView};

use crate::world::*;

/// A test of the Gateway API's, or of ours where it leaves a thing open.
struct Case {
    name: &'static str,
    routes: &'static str,
    requests: &'static str,
}

fn parsed(line: &str) -> portolan_discovery::model::Route {
    let (rule, services) = line.split_once("->").unwrap();
    let words: Vec<&str> = rule.split_whitespace().collect();
    let mut record = route(words[0], words[1], words[2]);
    let (mut methods, mut headers, mut query) = (Vec::new(), Vec::new(), Vec::new());
    for word in &words[3..] {
        if let Some(on) = word.strip_prefix('@') {
            record.listener = Some(listener(on));
        } else if let Some(age) = word.strip_prefix('+') {
            record.created_ms = age.parse().unwrap();
        } else if let Some(pair) = word.split_once(':') {
            headers.push(pair);
        } else if let Some(pair) = word.split_once('?') {
            query.push(pair);
        } else {
            methods.extend(word.split('|'));
        }
    }
    let portolan_discovery::model::Rule::Http(rule) = &mut record.rule else { unreachable!() };
    rule.predicates = predicates(&methods, &headers, &query);
    let share = |text: &str| {
        let (service, weight) = text.split_once('*').unwrap_or((text, "1"));
        backend(service, weight.parse().unwrap())
    };
    record.backends = services.split_whitespace().map(share).collect();
    record
}

fn world_of(routes: &str) -> World {
    let lines = routes.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut events: Vec<_> = lines.map(|line| put_route(&parsed(line))).collect();
    for service in ["v1", "v2", "v3", "v4"] {
        events.push(up(service, "a"));
    }
    events.push(put_service("empty"));
    World::of(&events)
}

/// Where a request ends: a service, or the status that the router answers with.
fn outcome(world: &World, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (path, query) = words[2].split_once('?').map_or((words[2], None), |(p, q)| (p, Some(q)));
    let mut on = listener("main");
    let mut headers = Vec::new();
    for word in &words[3..] {
        match (word.strip_prefix('@'), word.split_once(':')) {
            (Some(name), _) => on = listener(name),
            (None, Some((name, value))) => headers.push((name.to_owned(), value.to_owned())),
            (None, None) => panic!("{word}"),
        }
    }
    let request = RequestView {
        listener: &on,
        host: words[1],
        path,
        method: words[0],
        query,
        headers: &headers,
    };
    let explained = world.table.explain(&request).winner;
    let Some(entry) = world.table.route(&request) else {
        assert_eq!(explained, None, "{line}");
        return "404".to_owned();
    };
    assert_eq!(explained.as_ref(), Some(&entry.name), "{line}");
    match entry.pick(&world.table, &Ask::first(1)) {
        Ok(picked) => picked.service.to_string(),
        Err(PickError::NoInstance { .. } | PickError::Full(_)) => "503".to_owned(),
        Err(PickError::UnknownService { .. }) => "500".to_owned(),
    }
}

const CASES: &[Case] = &[
    Case {
        name: "HTTPRouteSimpleSameNamespace",
        routes: "all * / -> v1",
        requests: "GET a.test / => v1
                   POST [::1] /x/y?z => v1",
    },
    Case {
        name: "HTTPRouteMatching",
        routes: "path    * /   -> v1
                 one     * /   version:one -> v1
                 below   * /v2 -> v2
                 two     * /   version:two -> v2",
        requests: "GET a.test / => v1
                   GET a.test /example => v1
                   GET a.test / version:one => v1
                   GET a.test /v2 => v2
                   GET a.test /v2/ => v2
                   GET a.test /v2/example version:one => v2
                   GET a.test / Version:two => v2
                   GET a.test /v2example => v1
                   GET a.test /foo/v2/example => v1",
    },
    Case {
        name: "HTTPRouteMatchingAcrossRoutes",
        routes: "a1 example.test     /   -> v1
                 a2 example.test     /   version:one -> v1
                 a3 example.net      /   -> v1
                 b1 example.test     /v2 -> v2
                 b2 example.test     /   version:two -> v2",
        requests: "GET example.test / => v1
                   GET example.test /example => v1
                   GET example.net /example => v1
                   GET example.test /v2 => v2
                   GET example.net /v2 => v1
                   GET example.test /v2/example => v2
                   GET example.test / version:two => v2
                   GET example.net / version:two => v1
                   GET other.test /v2 => 404",
    },
    Case {
        name: "HTTPRouteExactPathMatching",
        routes: "one * =/one -> v1
                 two * =/two -> v2",
        requests: "GET a.test /one => v1
                   GET a.test /two => v2
                   GET a.test / => 404
                   GET a.test /one/example => 404
                   GET a.test /two/ => 404
                   GET a.test /Two => 404",
    },
    Case {
        name: "HTTPRoutePathMatchOrder",
        routes: "e1 * =/match/exact/one -> v3
                 e2 * =/match/exact     -> v2
                 e3 * =/match           -> v1
                 p1 * /match/prefix/one -> v2
                 p2 * /match/prefix     -> v1
                 p3 * /match            -> v3",
        requests: "GET a.test /match/exact/one => v3
                   GET a.test /match/exact => v2
                   GET a.test /match => v1
                   GET a.test /match/prefix/one/any => v2
                   GET a.test /match/prefix/any => v1
                   GET a.test /match/any => v3
                   GET a.test /matching => 404",
    },
    Case {
        name: "HTTPRouteHeaderMatching",
        routes: "one    * / version:one -> v1
                 two    * / version:two -> v2
                 orange * / version:two color:orange -> v1
                 blue   * / color:blue -> v1
                 green  * / color:green -> v1
                 red    * / color:red -> v2
                 yellow * / color:yellow -> v2",
        requests: "GET a.test / Version:one => v1
                   GET a.test / Version:two => v2
                   GET a.test / version:two color:orange => v1
                   GET a.test / Color:blue => v1
                   GET a.test / Color:green => v1
                   GET a.test / Color:red => v2
                   GET a.test / Color:yellow => v2
                   GET a.test / color:purple => 404
                   GET a.test / color:Blue => 404
                   GET a.test / version:three => 404
                   GET a.test / version:two color:purple => v2
                   GET a.test / => 404",
    },
    Case {
        name: "HTTPRouteMethodMatching",
        routes: "post  * /      POST -> v1
                 get   * /      GET -> v2
                 path1 * /path1 GET -> v1
                 head2 * /      PUT version:one -> v2
                 path3 * /path3 -> v1
                 meth3 * /      PATCH -> v2
                 head3 * /      version:four -> v3
                 both4 * /path4 version:four -> v1
                 path5 * /path5 -> v1
                 head5 * /path5 PATCH -> v2",
        requests: "POST a.test / => v1
                   GET a.test / => v2
                   HEAD a.test / => 404
                   get a.test / => 404
                   GET a.test /path1 => v1
                   PUT a.test / version:one => v2
                   PATCH a.test /path3 => v1
                   PATCH a.test / version:four => v2
                   HEAD a.test / version:four => v3
                   GET a.test /path4 version:four => v1
                   PATCH a.test /path5 => v2
                   GET a.test /path5 => v1",
    },
    Case {
        name: "HTTPRouteQueryParamMatching",
        routes: "whale   * /      animal?whale -> v1
                 dolphin * /      animal?dolphin -> v2
                 blue    * /      animal?dolphin color?blue -> v3
                 capital * /      ANIMAL?Whale -> v3
                 path1   * /path1 animal?whale -> v1
                 head1   * /      version:one animal?whale -> v2
                 path4   * /path4 -> v1
                 query5  * /path5 animal?hydra -> v1
                 method5 * /path5 GET -> v2",
        requests: "GET a.test /?animal=whale => v1
                   GET a.test /?animal=dolphin => v2
                   GET a.test /?animal=dolphin&color=blue => v3
                   GET a.test /?color=blue&animal=dolphin => v3
                   GET a.test /?ANIMAL=Whale => v3
                   GET a.test /?animal=whale&otherparam=irrelevant => v1
                   GET a.test /?animal=dolphin&color=yellow => v2
                   GET a.test /?color=blue => 404
                   GET a.test /?animal=dog => 404
                   GET a.test /?animal=whaledolphin => 404
                   GET a.test /?animal=dog&animal=whale => 404
                   GET a.test / => 404
                   GET a.test /path1?animal=whale => v1
                   GET a.test /?animal=whale version:one => v2
                   GET a.test /?%61nimal=w%68ale => v1
                   GET a.test /path4?animal=whale => v1
                   GET a.test /path5?animal=hydra => v2
                   POST a.test /path5?animal=hydra => v1",
    },
    Case {
        name: "HTTPRouteHostnameIntersection",
        routes: "exact  very.specific.com      /s1 -> v1
                 wild   *.wildcard.io          /s2 -> v2
                 any    foo.wildcard.io        /s3 -> v3
                 deeper *.anotherwildcard.io   /s4 -> v1
                 below  *.foo.anotherwildcard.io /s4 -> v2",
        requests: "GET very.specific.com /s1 => v1
                   GET non.matching.com /s1 => 404
                   GET foo.nonmatchingwildcard.io /s1 => 404
                   GET foo.wildcard.io /s1 => 404
                   GET very.specific.com /non-matching-prefix => 404
                   GET foo.wildcard.io /s2 => v2
                   GET bar.wildcard.io /s2 => v2
                   GET foo.bar.wildcard.io /s2 => v2
                   GET wildcard.io /s2 => 404
                   GET foo.wildcard.io /s3 => v3
                   GET bar.wildcard.io /s3 => 404
                   GET a.anotherwildcard.io /s4 => v1
                   GET b.foo.anotherwildcard.io /s4 => v2
                   GET foo.anotherwildcard.io /s4 => v1",
    },
    Case {
        name: "HTTPRouteListenerHostnameMatching",
        routes: "bar     bar.com     / -> v1
                 foobar  foo.bar.com / -> v2
                 wild    *.bar.com   / -> v3
                 wildfoo *.foo.com   / -> v3",
        requests: "GET bar.com / => v1
                   GET foo.bar.com / => v2
                   GET baz.bar.com / => v3
                   GET boo.bar.com / => v3
                   GET multiple.prefixes.bar.com / => v3
                   GET multiple.prefixes.foo.com / => v3
                   GET foo.com / => 404
                   GET no.matching.host / => 404",
    },
    Case {
        name: "HTTPRouteListenerPortMatching and HTTPListenerIsolation",
        routes: "first  * / @l1 -> v1
                 second * / @l2 -> v2
                 both   * /both -> v3",
        requests: "GET a.test / @l1 => v1
                   GET a.test / @l2 => v2
                   GET a.test / @l3 => 404
                   GET a.test /both @l1 => v3
                   GET a.test /both @l3 => v3",
    },
    Case {
        name: "HTTPRouteInvalidNonExistentBackendRef and HTTPRouteInvalidBackendRefUnknownKind",
        routes: "ghost * / -> ghost
                 there * /there -> v1",
        requests: "GET a.test / => 500
                   GET a.test /there => v1",
    },
    Case {
        name: "HTTPRouteServiceTypes: a service without endpoints",
        routes: "empty * / -> empty",
        requests: "GET a.test / => 503",
    },
    Case {
        name: "precedence: a tie goes to the older route, then to the first by name",
        routes: "c * /a x:1 +1 -> v1
                 b * /a y:1 +2 -> v2
                 a * /b x:1 +2 -> v3
                 d * /b y:1 +2 -> v4",
        requests: "GET a.test /a x:1 y:1 => v1
                   GET a.test /a y:1 => v2
                   GET a.test /b x:1 y:1 => v3
                   GET a.test /b y:1 => v4",
    },
    Case {
        name: "precedence: a method before many header fields, those before many parameters",
        routes: "method  * / GET -> v1
                 headers * / a:1 b:1 -> v2
                 query   * / p?1 q?1 r?1 c:1 -> v3",
        requests: "GET a.test /?p=1&q=1&r=1 a:1 b:1 c:1 => v1
                   PUT a.test /?p=1&q=1&r=1 a:1 b:1 c:1 => v2
                   PUT a.test /?p=1&q=1&r=1 a:1 c:1 => v3
                   PUT a.test /?p=1&q=1 a:1 c:1 => 404",
    },
    Case {
        name: "a rule of a more specific host that asks too much gives way to a wider host",
        routes: "exact www.test /a GET -> v1
                 wild  *.test   /  x:1 -> v2
                 any   *        /  -> v3",
        requests: "GET www.test /a x:1 => v1
                   POST www.test /a x:1 => v2
                   POST www.test /a => v3
                   GET www.test /b => v3",
    },
    Case {
        name: "regular expressions: last, then as any other path",
        routes: "exact  * =/users/7 -> v1
                 prefix * /users/api -> v2
                 regex  * ~^/users/[0-9]+$ -> v3
                 method * ~^/users/ DELETE -> v4
                 wide   *.test ~/old$ -> v1",
        requests: "GET a.io /users/7 => v1
                   DELETE a.io /users/7 => v1
                   GET a.io /users/8 => v3
                   DELETE a.io /users/8 => v4
                   GET a.io /users/api/8 => v2
                   GET a.io /users/8/x => 404
                   GET www.test /users/api/old => v1
                   GET a.io /users/%41 => 404",
    },
    Case {
        name: "values: a text, a regular expression, or any; one line of a field is enough",
        routes: "regex * / x-v:~^[12]$ -> v1
                 there * /there x-debug:* -> v2
                 param * /param q?~^a.c$ -> v3
                 wider * /param q?* -> v4",
        requests: "GET a.test / x-v:1 => v1
                   GET a.test / x-v:9 x-v:2 => v1
                   GET a.test / x-v:12 => 404
                   GET a.test /there X-Debug: => v2
                   GET a.test /there => 404
                   GET a.test /param?q=a%20c => v3
                   GET a.test /param?q=a+c => v3
                   GET a.test /param?q => v4
                   GET a.test /param?p=q => 404",
    },
];

fn check(case: &Case, more: &str) {
    let world = world_of(&format!("{}\n{more}", case.routes));
    for line in case.requests.lines() {
        let (request, expected) = line.split_once("=>").unwrap();
        assert_eq!(outcome(&world, request), expected.trim(), "{}: {request}", case.name);
    }
}

#[test]
fn every_case_of_the_gateway_api_ends_where_it_has_to() {
    for case in CASES {
        check(case, "");
    }
}

/// Rules that no request of a case takes bring each host beyond a list.
#[test]
fn a_host_with_many_routes_decides_like_one_with_few() {
    for case in CASES {
        let lines = case.routes.lines().filter_map(|line| line.split_whitespace().nth(1));
        let hosts: std::collections::BTreeSet<&str> = lines.collect();
        let mut more = String::new();
        for (number, host) in hosts.into_iter().enumerate() {
            for i in 0..40 {
                more.push_str(&format!("filler-{number}-{i} {host} /filler/{i} X -> v4\n"));
            }
        }
        check(case, &more);
    }
}

/// `HTTPRouteWeight`, and the share of a backend that does not exist or has no endpoint.
#[test]
fn requests_are_split_by_weight_and_a_bad_share_fails_alone() {
    let world = world_of("split * / -> v1*70 v2*20 ghost*5 empty*5");
    let on = listener("main");
    let entry = world.table.route(&RequestView::get(&on, "a.test", "/")).unwrap();
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..10_000 {
        let ended = match entry.pick(&world.table, &Ask::first(random.u64(..))) {
            Ok(picked) => picked.service.to_string(),
            Err(PickError::UnknownService { .. }) => "500".to_owned(),
            Err(PickError::NoInstance { .. } | PickError::Full(_)) => "503".to_owned(),
        };
        *counts.entry(ended).or_default() += 1;
    }
    for (ended, share) in [("v1", 7_000), ("v2", 2_000), ("500", 500), ("503", 500)] {
        let count = counts.remove(ended).unwrap_or(0);
        assert!(count.abs_diff(share) < 300, "{ended}: {count} of {share}");
    }
    assert!(counts.is_empty());
}
