//! What clients see when instances fail, and what instances see when clients do.

use std::time::Duration;

use portolan_discovery::model::RouteTimeouts;
use portolan_router::Timeouts;

use super::instance::{Instance, nobody, ok};
use super::peer::within;
use super::rig::{Rig, instance, route, routed, service, until, web};

const POST: &str = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_refused_connection_is_tried_on_another_instance() {
    let alive = Instance::named("alive").await;
    let rig = Rig::web(&[nobody().await, alive.addr]);
    let mut client = rig.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "alive");
        assert_eq!(client.ask(POST).await.text(), "alive");
    }
    let retries = rig.metric("portolan_router_retries_total", &[]);
    assert!(retries > 0.0, "both are drawn sometimes");
    assert_eq!(rig.metric("portolan_router_connect_failures_total", &[]), retries);
    assert_eq!(alive.requests(), 40);
}

#[tokio::test]
async fn no_instance_is_tried_twice_and_the_reason_is_told() {
    let rig = Rig::web(&[nobody().await, nobody().await]);
    let mut client = rig.client().await;
    let response = client.ask(POST).await;
    assert_eq!(response.status(), 502);
    assert!(response.text().starts_with("upstream_connect_refused\n"), "{}", response.text());
    assert_eq!(rig.metric("portolan_router_connect_failures_total", &[]), 2.0);
    assert_eq!(rig.metric("portolan_router_retries_total", &[]), 1.0);
    rig.settled("web").await;
}

#[tokio::test]
async fn attempts_are_limited() {
    let mut gone = Vec::new();
    for _ in 0..4 {
        gone.push(nobody().await);
    }
    let rig = Rig::web(&gone);
    assert_eq!(rig.client().await.get("/").await.status(), 502);
    assert_eq!(rig.metric("portolan_router_connect_failures_total", &[]), 3.0);
}

/// Serves one request on its first connection, then closes that when the next one comes.
async fn closes_after_one() -> Instance {
    Instance::raw(|mut peer, number| async move {
        peer.request().await.unwrap();
        peer.send(ok("a")).await;
        while peer.request().await.is_some() {
            if number == 0 {
                return;
            }
            peer.send(ok("b")).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_kept_connection_that_dies_under_a_request_is_replaced() {
    let instance = closes_after_one().await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.text(), "a");
    let put = "PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.ask(put).await.text(), "a", "on a second connection, with its body");
    assert_eq!(instance.connections(), 2);
    assert_eq!(rig.metric("portolan_router_retries_total", &[]), 1.0);
}

#[tokio::test]
async fn a_request_that_must_not_be_sent_twice_is_not() {
    let instance = closes_after_one().await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.text(), "a");
    let response = client.ask(POST).await;
    assert_eq!(response.status(), 502);
    assert!(response.text().starts_with("upstream_"), "{}", response.text());
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn no_request_is_written_to_a_kept_connection_that_is_closed_already() {
    let (close, closed) = tokio::sync::watch::channel(0);
    let instance = Instance::raw(move |mut peer, number| {
        let mut closed = closed.clone();
        async move {
            peer.request().await.unwrap();
            peer.send(ok("a")).await;
            let _ = closed.wait_for(|count| *count > number).await;
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    for count in 1..20 {
        assert_eq!(client.ask(POST).await.text(), "a");
        close.send_replace(count);
        // Until the instance has seen it; the end is with us as soon as it is sent.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.metric("portolan_router_retries_total", &[]), 0.0);
}

#[tokio::test]
async fn an_instance_that_says_how_long_it_waits_is_not_written_to_later() {
    let instance = Instance::http(|_| {
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 1\r\n\r\na".to_vec()
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.get("/").await;
    // A second less than the one it waits: at most two ticks.
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.get("/").await;
    assert_eq!(instance.connections(), 2);
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_is_read_reaches_the_client() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
        // Closed with megabytes unread: the instance's kernel sends a reset.
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 50000000\r\n\r\n").await;
    let piece = vec![0; 1_000_000];
    for _ in 0..50 {
        if !client.try_send(&piece).await {
            break;
        }
    }
    let response = client.response().await;
    assert_eq!((response.status(), response.text()), (413, "big"));
    assert_eq!(response.field("connection").as_deref(), Some("close"));
}

#[tokio::test]
async fn a_response_that_is_cut_is_never_taken_for_a_whole_one() {
    for (head, old) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", true),
    ] {
        let instance = Instance::raw(move |mut peer, _| async move {
            peer.request().await.unwrap();
            peer.send(head).await;
        })
        .await;
        let rig = Rig::web(&[instance.addr]);
        let mut client = rig.client().await;
        if old {
            client.send("GET / HTTP/1.0\r\n\r\n").await;
            let (_, in_peace) = client.rest_or_reset().await;
            assert!(!in_peace, "only a reset tells an old client that something is missing");
        } else {
            client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
            let (all, _) = client.rest_or_reset().await;
            let all = String::from_utf8(all).unwrap();
            assert!(all.contains("abc") && !all.contains("\r\n0\r\n\r\n"), "{all}");
        }
        rig.ends("upstream_body_cut").await;
        rig.settled("web").await;
    }
}

#[tokio::test]
async fn a_garbled_answer_is_not_passed_on() {
    for garbage in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ] {
        let instance = Instance::http(move |_| garbage.as_bytes().to_vec()).await;
        let rig = Rig::web(&[instance.addr]);
        let mut client = rig.client().await;
        let response = client.get("/").await;
        assert_eq!(response.status(), 502, "{garbage}");
        assert!(response.text().starts_with("upstream_bad_"), "{}", response.text());
        assert_eq!(client.get("/").await.status(), 502, "the client's connection is fine");
        assert_eq!(instance.connections(), 2, "the instance's is not");
    }
}

fn quick(config: &mut portolan_router::Config) {
    let wait = Duration::from_millis(400);
    config.timeouts = Timeouts {
        client_header: wait,
        client_body: wait,
        client_idle: wait,
        first_byte: wait,
        response_idle: wait,
        ..Timeouts::DEFAULT
    };
}

#[tokio::test]
async fn a_silent_instance_is_given_up_and_not_blamed_on_the_client() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await.unwrap();
        peer.gone().await;
    })
    .await;
    let rig = Rig::with(&web(&[instance.addr]), quick);
    let mut client = rig.client().await;
    let response = client.get("/").await;
    assert_eq!(response.status(), 504);
    assert!(response.text().starts_with("upstream_timeout\n"), "{}", response.text());
    assert_eq!(client.ask(POST).await.status(), 504, "the client's connection is fine");
    rig.settled("web").await;
    assert_eq!(rig.metric("portolan_router_requests_total", &[("code", "5xx")]), 2.0);
}

#[tokio::test]
async fn a_route_may_wait_less_than_others() {
    let instance = Instance::raw(|mut peer, _| async move { peer.gone().await }).await;
    let mut patient = route("/", "web");
    patient.timeouts =
        RouteTimeouts { first_byte: Some(Duration::from_millis(100)), ..Default::default() };
    let mut whole = route("/whole", "whole");
    whole.timeouts =
        RouteTimeouts { request: Some(Duration::from_millis(100)), ..Default::default() };
    let mut records = web(&[instance.addr]);
    records.extend([routed(&patient), routed(&whole)]);
    records.push(super::rig::instance("whole", "a", instance.addr));
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.status(), 504);
    assert_eq!(client.get("/whole").await.status(), 504);
}

#[tokio::test]
async fn a_response_that_stalls_is_cut() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await.unwrap();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::with(&web(&[instance.addr]), quick);
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    let (all, _) = client.rest_or_reset().await;
    assert!(all.ends_with(b"abc"));
    rig.ends("upstream_body_timeout").await;
}

#[tokio::test]
async fn a_client_that_stalls_is_told_so() {
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), quick);
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHos").await;
    let response = client.response().await;
    assert_eq!(response.status(), 408);
    assert!(response.text().starts_with("request_timeout\n"), "{}", response.text());
    assert_eq!(client.rest().await, b"");
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhe").await;
    let response = client.response().await;
    assert_eq!(response.status(), 408);
    assert!(response.text().starts_with("body_timeout\n"), "{}", response.text());
    assert_eq!(client.rest().await, b"");
    let mut idle = rig.client().await;
    assert_eq!(idle.get("/").await.status(), 200);
    assert_eq!(idle.rest().await, b"", "an idle connection is closed without a word");
    assert_eq!(rig.client().await.rest().await, b"", "and so is one that never began");
}

#[tokio::test]
async fn a_client_that_trickles_its_head_is_cut_off_all_the_same() {
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.timeouts.client_header = Duration::from_millis(300);
    });
    let mut client = rig.client().await;
    within("the cut", async {
        client.send("GET / HTTP/1.1\r\nX-Slow: ").await;
        while client.is_silent().await {
            if !client.try_send("x").await {
                break;
            }
        }
    })
    .await;
    rig.ends("request_timeout").await;
}

#[tokio::test]
async fn every_dead_end_has_its_own_status() {
    let instance = Instance::named("a").await;
    let mut nowhere = route("/nowhere", "nowhere");
    nowhere.rule = route("/nowhere", "x").rule;
    let records = [
        super::rig::instance("web", "a", instance.addr),
        routed(&route("/web", "web")),
        routed(&nowhere),
        service("empty", true),
        routed(&route("/empty", "empty")),
    ];
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    for (path, status, reason) in [
        ("/", 404, "no_route"),
        ("/nowhere", 500, "bad_reference"),
        ("/empty", 503, "no_instance"),
        ("https://web.test/web", 421, "misdirected"),
        ("http://web.test/web", 200, "a"),
        ("/web", 200, "a"),
    ] {
        let response = client.get(path).await;
        assert_eq!((response.status(), response.text().lines().next()), (status, Some(reason)));
        assert_eq!(response.field("retry-after").is_some(), status == 503);
    }
    assert_eq!(rig.ended("no_instance"), 1.0);
    let replies = rig.metric("portolan_router_local_replies_total", &[("reason", "bad_reference")]);
    assert_eq!(replies, 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await.unwrap();
        peer.gone().await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    until("the request", || rig.in_flight("web") == 1).await;
    drop(client);
    rig.ends("client_gone").await;
    rig.settled("web").await;
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhe").await;
    until("the request", || rig.in_flight("web") == 1).await;
    client.reset();
    rig.ends("client_body_cut").await;
    rig.settled("web").await;
    let count = |code| rig.metric("portolan_router_requests_total", &[("code", code)]);
    assert_eq!((count("4xx"), count("5xx")), (2.0, 0.0), "not the instance's fault");
}

#[tokio::test]
async fn an_instance_that_is_gone_from_the_table_keeps_no_idle_connection() {
    let (closed, mut seen) = tokio::sync::mpsc::channel(1);
    let a = Instance::raw(move |mut peer, _| {
        let closed = closed.clone();
        async move {
            peer.request().await.unwrap();
            peer.send(ok("a")).await;
            peer.gone().await;
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let mut rig = Rig::web(&[a.addr]);
    assert_eq!(rig.client().await.get("/").await.text(), "a");
    let b = Instance::named("b").await;
    rig.apply(&[instance("web", "a", b.addr)]);
    within("the close", seen.recv()).await.unwrap();
    assert_eq!(rig.client().await.get("/").await.text(), "b");
}
