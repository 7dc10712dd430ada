//! Which route takes a request: the semantics of the Gateway API, without Kubernetes.

use portolan_discovery::model::{CacheRule, CompressRule};
use portolan_router::{Conflict, RequestView, RouteFault};

use crate::world::*;

/// One route per line: name, host, path, and optionally `@listener` and `+created_ms`.
fn routes(text: &str) -> Vec<portolan_discovery::model::Route> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut record = route(words[0], words[1], words[2]);
            for word in &words[3..] {
                match word.split_at(1) {
                    ("@", on) => record.listener = Some(listener(on)),
                    ("+", created) => record.created_ms = created.parse().unwrap(),
                    _ => panic!("{word}"),
                }
            }
            record
        })
        .collect()
}

fn world(text: &str) -> World {
    let events: Vec<_> = routes(text).iter().map(put_route).collect();
    World::of(&events)
}

/// One request per line: host, path, the name of the route (`-` for none), and optionally
/// `@listener`.
fn check(rules: &str, requests: &str) {
    let world = world(rules);
    for line in requests.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let on = listener(words.get(3).map_or("main", |word| &word[1..]));
        let request = RequestView::get(&on, words[0], words[1]);
        let found = world.table.route(&request);
        assert_eq!(found.map_or("-", |entry| entry.name.as_str()), words[2], "{request:?}");
        // The explanation comes from the same code, so it must say the same.
        let explained = world.table.explain(&request);
        assert_eq!(explained.winner, found.map(|entry| entry.name.clone()), "{request:?}");
    }
}

/// Rules for the same host beyond what a list holds, which no request of these tests takes.
fn filler(host: &str) -> String {
    (0..40).map(|i| format!("filler-{i} {host} /filler/{i}\n")).collect()
}

/// Checks with few routes per host, and again with so many that each host is a tree.
fn check_both(rules: &str, requests: &str) {
    check(rules, requests);
    let mut hosts: Vec<&str> =
        rules.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let mut more = rules.to_owned();
    for (number, host) in hosts.into_iter().enumerate() {
        more.push('\n');
        more.push_str(&filler(host).replace("filler-", &format!("filler-{number}-")));
    }
    check(&more, requests);
}

#[test]
fn an_exact_host_wins_over_wildcards_and_those_over_any() {
    check_both(
        "
        exact  www.example.org   /
        near   *.www.example.org /
        wild   *.example.org     /
        far    *.org             /
        any    *                 /
        ",
        "
        www.example.org     /   exact
        a.www.example.org   /   near
        b.a.www.example.org /   near
        api.example.org     /   wild
        b.api.example.org   /   wild
        example.org         /   far
        a.b.c.org           /   far
        org                 /   any
        example.com         /   any
        [::1]               /   any
        127.0.0.1           /   any
        wwwwexample.org     /   far
        ",
    );
}

#[test]
fn without_a_rule_for_any_an_unknown_host_has_no_route() {
    check_both(
        "
        exact www.test   /
        wild  *.api.test /
        ",
        "
        www.test     /  exact
        test         /  -
        api.test     /  -
        a.api.test   /  wild
        xapi.test    /  -
        other.test   /  -
        ",
    );
}

#[test]
fn a_request_that_no_rule_of_its_host_takes_falls_through_to_a_less_specific_host() {
    check_both(
        "
        shop   www.test  /shop
        wild   *.test    /blog
        any    *         /
        ",
        "
        www.test  /shop    shop
        www.test  /blog    wild
        www.test  /else    any
        api.test  /shop    any
        ",
    );
    check_both("shop www.test /shop", "www.test /else -");
}

#[test]
fn a_prefix_takes_whole_segments() {
    check_both(
        "
        api   a.test  /api
        deep  a.test  /api/v1
        ",
        "
        a.test  /api         api
        a.test  /api/        api
        a.test  /api/x       api
        a.test  /api//x      api
        a.test  /apis        -
        a.test  /ap          -
        a.test  /            -
        a.test  /api/v1      deep
        a.test  /api/v1/     deep
        a.test  /api/v1/x/y  deep
        a.test  /api/v10     api
        a.test  /API         -
        a.test  /x/api       -
        ",
    );
}

#[test]
fn an_exact_path_takes_nothing_else_and_wins_over_every_prefix() {
    check_both(
        "
        root    a.test  =/
        login   a.test  =/login
        slash   a.test  =/login/
        prefix  a.test  /login
        all     a.test  /
        ",
        "
        a.test  /          root
        a.test  /login     login
        a.test  /login/    slash
        a.test  /login/x   prefix
        a.test  /login//   prefix
        a.test  /logins    all
        ",
    );
}

#[test]
fn the_longest_prefix_wins_whatever_the_order_of_the_names() {
    check_both(
        "
        z  a.test  /
        c  a.test  /a
        b  a.test  /a/b
        d  a.test  /a/b/c
        a  a.test  /a/b/c/d
        ",
        "
        a.test  /            z
        a.test  /x           z
        a.test  /a           c
        a.test  /a/x         c
        a.test  /a/b         b
        a.test  /a/b/x/c/d   b
        a.test  /a/b/c/x     d
        a.test  /a/b/c/d/e   a
        ",
    );
}

#[test]
fn the_target_of_options_without_a_path_goes_to_the_whole_host_only() {
    check_both("all a.test /\napi b.test /api", "a.test * all\nb.test * -");
}

#[test]
fn a_route_of_a_listener_is_for_that_listener_only_and_wins_there() {
    check_both(
        "
        all      a.test  /     +1
        admin    a.test  /     @admin +9
        private  a.test  /api  @admin
        other    a.test  /x    @other
        ",
        "
        a.test  /      all      @main
        a.test  /      admin    @admin
        a.test  /api   all      @main
        a.test  /api   private  @admin
        a.test  /x     all      @main
        a.test  /x     admin    @admin
        a.test  /x     other    @other
        ",
    );
}

#[test]
fn a_more_specific_path_wins_over_the_listener() {
    check_both(
        "
        bound  a.test  /     @main
        deep   a.test  /api
        ",
        "
        a.test  /api  deep   @main
        a.test  /     bound  @main
        a.test  /     -      @admin
        ",
    );
}

#[test]
fn of_equal_rules_the_older_wins_then_the_first_by_name() {
    check_both(
        "
        younger  a.test  /   +2
        older    a.test  /   +1
        b        a.test  /b  +5
        a        a.test  /b  +5
        ",
        "
        a.test  /   older
        a.test  /b  a
        ",
    );
}

#[test]
fn equal_rules_are_reported_with_both_names() {
    let mut world = World::new();
    let conflict = |winner: &str, loser: &str| Conflict {
        winner: winner.parse().unwrap(),
        loser: loser.parse().unwrap(),
    };
    let events: Vec<_> = routes(
        "
        c  a.test  /  +3
        b  a.test  /  +2
        a  a.test  /  +1
        on a.test  /  @main
        in a.test  /  @main +1
        ",
    )
    .iter()
    .map(put_route)
    .collect();
    let report = world.apply(&events);
    let expected = [conflict("a", "b"), conflict("a", "c"), conflict("on", "in")];
    assert_eq!(report.conflicts, expected);
    assert_eq!(world.table.conflicts(), expected);
    // What did not change is not reported again, but it can be asked for.
    let report = world.apply(&[put_route(&route("new", "b.test", "/"))]);
    assert_eq!(report.conflicts, []);
    assert_eq!(world.table.conflicts(), expected);
}

#[test]
fn when_the_winner_goes_the_next_one_takes_over() {
    for fill in [String::new(), filler("a.test")] {
        let mut world =
            world(&format!("first a.test / +1\nsecond a.test / +2\nthird a.test / +3\n{fill}"));
        let takes = |world: &World| {
            let on = listener("main");
            world
                .table
                .route(&RequestView::get(&on, "a.test", "/"))
                .map(|entry| entry.name.to_string())
        };
        assert_eq!(takes(&world).as_deref(), Some("first"));
        world.apply(&[delete_route("first")]);
        assert_eq!(takes(&world).as_deref(), Some("second"));
        world.apply(&[delete_route("third"), delete_route("second")]);
        assert_eq!(takes(&world), None);
    }
}

#[test]
fn a_route_that_moves_leaves_nothing_behind() {
    let mut world = world("r a.test /old");
    world.apply(&[put_route(&route("r", "b.test", "/new"))]);
    let on = listener("main");
    assert!(world.table.route(&RequestView::get(&on, "a.test", "/old")).is_none());
    assert!(world.table.route(&RequestView::get(&on, "b.test", "/old")).is_none());
    assert_eq!(
        world.table.route(&RequestView::get(&on, "b.test", "/new")).unwrap().name.as_str(),
        "r"
    );
}

#[test]
fn a_tcp_route_takes_every_connection_of_its_listener() {
    let mut older = tcp_route("z", "db", "db");
    older.created_ms = 1;
    let mut younger = tcp_route("a", "db", "db");
    younger.created_ms = 2;
    let mut world = World::of(&[put_route(&younger), put_route(&older)]);
    let name = |world: &World, on: &str| {
        world.table.tcp_route(&listener(on)).map(|entry| entry.name.to_string())
    };
    assert_eq!(name(&world, "db").as_deref(), Some("z"));
    assert_eq!(name(&world, "main"), None);
    assert_eq!(world.table.conflicts().len(), 1);
    // A route for TCP takes no HTTP requests.
    assert!(world.table.route(&RequestView::get(&listener("db"), "a.test", "/")).is_none());
    world.apply(&[delete_route("z")]);
    assert_eq!(name(&world, "db").as_deref(), Some("a"));
    world.apply(&[delete_route("a")]);
    assert_eq!(name(&world, "db"), None);
}

#[test]
fn a_tls_route_takes_connections_of_its_listener_by_the_most_specific_host() {
    let mut younger = tls_route("a-younger", "sni", "*.test", "db");
    younger.created_ms = 2;
    let routes = [
        tls_route("exact", "sni", "a.b.test", "db"),
        tls_route("wide", "sni", "*.test", "db"),
        tls_route("wider", "sni", "*.b.test", "db"),
        tls_route("any", "other", "*", "db"),
        younger,
    ];
    let mut world = World::of(&routes.map(|route| put_route(&route)));
    let name = |world: &World, on: &str, host: Option<&str>| {
        let found = world.table.tls_route(&listener(on), host);
        found.map_or_else(|| "-".to_owned(), |entry| entry.name.to_string())
    };
    for (host, expected) in [
        ("a.b.test", "exact"),
        ("c.b.test", "wider"),
        ("d.a.b.test", "wider"),
        ("b.test", "wide"),
        ("test", "-"),
        ("a.example", "-"),
    ] {
        assert_eq!(name(&world, "sni", Some(host)), expected, "{host}");
        assert_eq!(name(&world, "other", Some(host)), "any");
    }
    assert_eq!(
        (name(&world, "sni", None), name(&world, "other", None)),
        ("-".into(), "any".into())
    );
    assert_eq!(name(&world, "web", Some("a.b.test")), "-");
    let conflicts = world.table.conflicts();
    assert_eq!(conflicts.len(), 1);
    assert_eq!((conflicts[0].winner.as_str(), conflicts[0].loser.as_str()), ("wide", "a-younger"));
    // A host of a TLS route takes no HTTP requests.
    assert!(world.table.route(&RequestView::get(&listener("sni"), "a.b.test", "/")).is_none());
    for (gone, expected) in [("exact", "wider"), ("wider", "wide"), ("wide", "a-younger")] {
        world.apply(&[delete_route(gone)]);
        assert_eq!(name(&world, "sni", Some("a.b.test")), expected);
    }
    world.apply(&[delete_route("a-younger")]);
    assert_eq!(name(&world, "sni", Some("a.b.test")), "-");
}

#[test]
fn a_route_that_cannot_work_is_left_out_and_reported() {
    let mut nowhere = route("nowhere", "a.test", "/");
    nowhere.backends.clear();
    let mut everywhere = tcp_route("everywhere", "db", "db");
    everywhere.listener = None;
    let mut packed = tcp_route("packed", "db", "db");
    packed.compress = Some(Box::new(CompressRule::usual()));
    let mut kept = tcp_route("kept", "db", "db");
    kept.cache = Some(Box::new(CacheRule::usual()));
    let mut world = World::new();
    let report = world.apply(&[&nowhere, &everywhere, &packed, &kept].map(put_route));
    assert_eq!(
        report.rejected,
        [
            ("everywhere".parse().unwrap(), RouteFault::NoListener),
            ("kept".parse().unwrap(), RouteFault::TcpCache),
            ("nowhere".parse().unwrap(), RouteFault::NoBackend),
            ("packed".parse().unwrap(), RouteFault::TcpCompress),
        ]
    );
    assert_eq!(world.metrics.rejected.get(), 4);
    assert!(world.table.route(&RequestView::get(&listener("main"), "a.test", "/")).is_none());
    // Mended, it works; gone, it leaves without a trace.
    let mended = put_route(&route("nowhere", "a.test", "/"));
    let gone = ["everywhere", "packed", "kept"].map(delete_route);
    world.apply(&[&[mended], &gone[..]].concat());
    assert!(world.table.route(&RequestView::get(&listener("main"), "a.test", "/")).is_some());
}

#[test]
fn a_host_grows_from_a_list_to_a_tree_and_back() {
    let mut world = World::new();
    let on = listener("main");
    let check = |world: &World, there: std::ops::Range<usize>| {
        for i in 0..40 {
            let found = world.table.route(&RequestView::get(&on, "a.test", &format!("/p{i}/x")));
            let expected = there.contains(&i).then(|| format!("r{i}"));
            assert_eq!(found.map(|entry| entry.name.to_string()), expected, "{i} of {there:?}");
        }
    };
    for i in 0..40 {
        world.apply(&[put_route(&route(&format!("r{i}"), "a.test", &format!("/p{i}")))]);
        check(&world, 0..i + 1);
    }
    for i in 0..40 {
        world.apply(&[delete_route(&format!("r{i}"))]);
        check(&world, i + 1..40);
    }
}
