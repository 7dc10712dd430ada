//! What a route asks of a request, what it changes in it, and how long it waits.

use std::time::Duration;

use portolan_discovery::model::route::Matches;
use portolan_discovery::model::{
    Balancing, Host, HttpRule, Phase, Predicates, Rewrite, Route, RouteName, RouteTimeouts, Rule,
    Service, ServiceName,
};

use super::instance::{Instance, nobody, ok};
use super::peer::Peer;
use super::rig::{Rig, instance, instance_with, listener, put_service, route, routed, web};

/// Longer than a tick of the timers, shorter than any default.
const SHORT: Duration = Duration::from_millis(100);

fn rewriting(path: &str, prefix: Option<&str>, host: Option<&str>) -> Route {
    let prefix = prefix.map(|text| text.parse().unwrap());
    let host = host.map(|text| Host::parse(text).unwrap());
    Route {
        name: RouteName::parse("rewriting").unwrap(),
        rewrite: Some(Box::new(Rewrite { prefix, host })),
        ..route(path, "web")
    }
}

#[tokio::test]
async fn a_prefix_is_taken_away_and_the_rest_of_the_head_is_as_it_came() {
    let instance = Instance::echo().await;
    let mut records = web(&[instance.addr]);
    records.push(routed(&rewriting("/api", Some("/"), None)));
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    for (target, sent) in [
        ("/api", "/"),
        ("/api/users?x=/api", "/users?x=/api"),
        ("/%61pi//b.test/", "/b.test/"),
        // Of another route: not a byte is changed.
        ("/%61pis//x/./y?%41", "/%61pis//x/./y?%41"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: Web.Test\r\nX-A:  1\r\n\r\n");
        let response = client.ask(&request).await;
        let lines: Vec<&str> = response.text().lines().collect();
        assert_eq!(lines[..3], [&*format!("GET {sent} HTTP/1.1"), "Host: Web.Test", "X-A: 1"]);
    }
}

#[tokio::test]
async fn another_prefix_and_another_host_are_sent_to_each_instance_that_is_tried() {
    let instance = Instance::echo().await;
    let mut records = web(&[nobody().await, instance.addr]);
    records.push(routed(&rewriting("/a", Some("/b"), Some("inner.test"))));
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    for _ in 0..16 {
        let request = "POST /a/x HTTP/1.1\r\nHost: web.test\r\nContent-Length: 2\r\n\r\nhi";
        let response = client.ask(request).await;
        let text = response.text();
        assert!(text.starts_with("POST /b/x HTTP/1.1\nHost: inner.test\n"), "{text}");
        assert!(text.contains("\nX-Forwarded-Host: web.test\n") && text.ends_with("\n\nhi"));
    }
}

#[tokio::test]
async fn a_request_that_lacks_what_a_route_asks_goes_to_the_next_one() {
    let (plain, canary) = (Instance::named("plain").await, Instance::named("canary").await);
    let mut records = web(&[plain.addr]);
    records.push(instance("canary", "a", canary.addr));
    let mut asking = route("/", "canary");
    asking.rule = Rule::Http(HttpRule {
        predicates: Predicates::new(
            vec!["GET".parse().unwrap()],
            Matches::new([("x-env".parse().unwrap(), "canary".parse().unwrap())]).unwrap(),
            Matches::new([("v".parse().unwrap(), "~^2".parse().unwrap())]).unwrap(),
        )
        .unwrap(),
        ..HttpRule::new("*".parse().unwrap(), "/".parse().unwrap())
    });
    records.push(routed(&asking));
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    for (head, answer) in [
        ("GET /?v=2 HTTP/1.1\r\nX-ENV: canary", "canary"),
        ("GET /x?a&%76=%32 HTTP/1.1\r\nx-env: prod\r\nx-env: canary", "canary"),
        ("POST /?v=2 HTTP/1.1\r\nX-Env: canary", "plain"),
        ("GET /?v=1&v=2 HTTP/1.1\r\nX-Env: canary", "plain"),
        ("GET /?v=2 HTTP/1.1\r\nX-Env: Canary", "plain"),
        // For this hop only: it is not sent on, so nothing is chosen by it.
        ("GET /?v=2 HTTP/1.1\r\nConnection: x-env\r\nX-Env: canary", "plain"),
        ("GET / HTTP/1.1", "plain"),
    ] {
        let response = client.ask(&format!("{head}\r\nHost: a.test\r\n\r\n")).await;
        assert_eq!(response.text(), answer, "{head}");
    }
    assert_eq!((canary.requests(), plain.requests()), (2, 5));
}

/// An instance that takes connections out of its queue never: once that is full, none is made.
struct Deaf {
    addr: std::net::SocketAddr,
    _listener: socket2::Socket,
    _fill: Vec<std::net::TcpStream>,
}

fn deaf() -> Deaf {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let connect = |_| std::net::TcpStream::connect_timeout(&addr, SHORT).ok();
    Deaf { addr, _fill: (0..3).filter_map(connect).collect(), _listener: listener }
}

#[tokio::test]
async fn a_route_may_wait_less_for_a_connect() {
    let deaf = deaf();
    let mut patient = route("/", "web");
    patient.timeouts = RouteTimeouts { connect: Some(SHORT), ..RouteTimeouts::default() };
    let mut records = web(&[deaf.addr]);
    records.push(routed(&patient));
    let mut tcp = patient.clone();
    tcp.name = RouteName::parse("tcp").unwrap();
    (tcp.listener, tcp.rule) = (Some(listener("tcp")), Rule::Tcp);
    records.push(routed(&tcp));
    let rig = Rig::with(&records, |config| config.timeouts.connect = Duration::from_secs(3600));
    let response = rig.client().await.get("/").await;
    assert!(response.text().starts_with("upstream_connect_timeout\n"), "{}", response.text());
    let (bytes, _) = Peer::connect(rig.tcp).await.rest_or_reset().await;
    assert_eq!(bytes, b"");
}

#[tokio::test]
async fn a_route_may_wait_less_for_the_next_piece_of_a_body() {
    let instance = Instance::raw(|mut peer, _| async move {
        while let Some(request) = peer.request().await {
            if request.start().contains("/stall") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
                peer.gone().await;
                return;
            }
            peer.send(ok("whole")).await;
        }
    })
    .await;
    let mut patient = route("/", "web");
    patient.timeouts = RouteTimeouts { body_idle: Some(SHORT), ..RouteTimeouts::default() };
    let mut records = web(&[instance.addr]);
    records.push(routed(&patient));
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    client.send("GET /stall HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(client.rest_or_reset().await.0.ends_with(b"abc"));
    rig.ends("upstream_body_timeout").await;
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhe").await;
    let response = client.response().await;
    assert_eq!(response.status(), 408);
    assert!(response.text().starts_with("body_timeout\n"), "{}", response.text());
}

#[tokio::test]
async fn a_route_may_wait_less_for_bytes_in_a_tunnel() {
    let instance = Instance::raw(|mut peer, number| async move {
        if number == 0 {
            peer.request().await.unwrap();
            let upgraded = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            peer.send(upgraded).await;
        }
        peer.gone().await;
    })
    .await;
    let waits = RouteTimeouts { tunnel_idle: Some(SHORT), ..RouteTimeouts::default() };
    let mut patient = route("/", "web");
    patient.timeouts = waits;
    let mut tcp = patient.clone();
    tcp.name = RouteName::parse("tcp").unwrap();
    (tcp.listener, tcp.rule) = (Some(listener("tcp")), Rule::Tcp);
    let mut records = web(&[instance.addr]);
    records.extend([routed(&patient), routed(&tcp)]);
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    let request =
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.send(request).await;
    assert_eq!(client.response_head().await.status(), 101);
    client.rest_or_reset().await;
    rig.ends("tunnel_idle").await;
    Peer::connect(rig.tcp).await.rest_or_reset().await;
    super::rig::until("both tunnels", || rig.ended("tunnel_idle") == 2.0).await;
}

#[tokio::test]
async fn only_the_leader_gets_what_is_for_leaders() {
    let (old, young) = (Instance::named("old").await, Instance::named("young").await);
    let (a, b) = (young.addr, old.addr);
    let since = |id: &str, addr, since_ms, phase| {
        instance_with("web", id, addr, |record| (record.since_ms, record.phase) = (since_ms, phase))
    };
    let mut leading = route("/", "web");
    leading.backends[0].leader = true;
    let mut tcp = leading.clone();
    tcp.name = RouteName::parse("tcp").unwrap();
    (tcp.listener, tcp.rule) = (Some(listener("tcp")), Rule::Tcp);
    let mut all = route("/all", "web");
    all.name = RouteName::parse("all").unwrap();
    let records = [
        // In turn: else the one that was slow once would be left alone for seconds.
        put_service(&Service {
            balancing: Balancing::RoundRobin,
            ..Service::named(ServiceName::parse("web").unwrap())
        }),
        since("a", a, 20, Phase::Active),
        since("b", b, 10, Phase::Active),
        routed(&leading),
        routed(&tcp),
        routed(&all),
    ];
    let mut rig = Rig::new(&records);
    let mut client = rig.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "old");
    }
    assert_eq!(Peer::connect(rig.tcp).await.get("/").await.text(), "old");
    assert_eq!(young.requests(), 0);
    until_both(&mut client).await;

    rig.apply_and_wait(&[since("b", b, 30, Phase::Draining)]).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "young");
    }
    rig.apply_and_wait(&[since("b", b, 40, Phase::Active)]).await;
    assert_eq!(client.get("/").await.text(), "young", "who was away does not lead again");
    let before = old.requests();
    drop(young);
    let lost = client.get("/").await;
    assert!(matches!(lost.status(), 502 | 503), "{}", lost.start());
    assert_eq!(old.requests(), before, "nobody stands in for a leader");
}

/// Asks a route for all until both have answered.
async fn until_both(client: &mut Peer) {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        seen.insert(client.get("/all").await.text().to_owned());
        if seen.len() == 2 {
            return;
        }
    }
    panic!("only {seen:?} answers");
}
