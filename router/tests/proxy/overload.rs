//! More than there is room for: the newest goes, and is told so.

use std::net::SocketAddr;
use std::time::Duration;

use portolan_router::Limits;
use tokio::net::TcpSocket;

use super::instance::{Instance, ok};
use super::peer::{Message, Peer, within};
use super::rig::{Rig, until, web};
use super::tcp::is_reset;

const GET: &str = "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n";

fn is_told(response: &Message) {
    assert_eq!(response.status(), 503, "{response:?}");
    assert_eq!(response.field("retry-after").as_deref(), Some("1"));
    assert!(response.text().starts_with("overloaded\n"), "{}", response.text());
}

fn shed(rig: &Rig, cause: &str) -> f64 {
    rig.metric("portolan_router_shed_total", &[("cause", cause)])
}

fn open(rig: &Rig, listener: &str) -> f64 {
    rig.metric("portolan_router_connections_open", &[("listener", listener)])
}

async fn connect_from(source: [u8; 4], to: SocketAddr) -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    Peer::of(within("a connection", socket.connect(to)).await.unwrap())
}

#[tokio::test]
async fn the_newest_connection_beyond_the_limit_is_told_to_come_back() {
    let instance = Instance::named("a").await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.limits = Limits { connections_max: 2, ..Limits::DEFAULT };
    });
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    assert_eq!((first.get("/").await.status(), second.get("/").await.status()), (200, 200));
    let mut third = rig.client().await;
    assert!(third.is_silent().await, "an answer before the request is a fault to some clients");
    let response = third.ask(GET).await;
    is_told(&response);
    assert_eq!(response.field("connection").as_deref(), Some("close"));
    assert_eq!(third.rest().await, b"");
    let mut head = rig.client().await;
    head.send("HEAD / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    assert_eq!(head.response_head().await.status(), 503);
    assert_eq!(head.rest().await, b"", "an answer to HEAD has no body");
    assert_eq!((first.get("/").await.status(), second.get("/").await.status()), (200, 200));
    assert_eq!((shed(&rig, "connections"), rig.ended("overloaded")), (2.0, 2.0));
    drop(first);
    until("room", || open(&rig, "http") < 2.0).await;
    assert_eq!(rig.client().await.get("/").await.text(), "a");
}

#[tokio::test]
async fn a_tcp_connection_beyond_the_limit_is_reset() {
    let instance = Instance::raw(|mut peer, _| async move { peer.gone().await }).await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.limits = Limits { connections_max: 1, ..Limits::DEFAULT };
    });
    let _first = Peer::connect(rig.tcp).await;
    until("the first", || open(&rig, "tcp") == 1.0).await;
    assert!(is_reset(&rig).await);
    assert_eq!(shed(&rig, "connections"), 1.0);
}

#[tokio::test]
async fn those_who_are_told_are_bounded_in_number_and_in_time() {
    const CROWD: usize = 200;
    let instance = Instance::named("a").await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.limits = Limits { connections_max: 1, ..Limits::DEFAULT };
    });
    let mut served = rig.client().await;
    served.get("/").await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(rig.client().await);
    }
    until("all to be shed", || shed(&rig, "connections") == CROWD as f64).await;
    // They say nothing, so they are closed: most at once, some when their time is over.
    for client in &mut crowd {
        client.gone().await;
    }
    assert_eq!(served.get("/").await.text(), "a");
    is_told(&rig.client().await.ask(GET).await);
}

/// An instance with an answer that is larger than all that the kernel holds.
async fn endless() -> Instance {
    Instance::raw(|mut peer, _| async move {
        while let Some(request) = peer.request().await {
            if request.start() == "GET / HTTP/1.1" {
                peer.send(ok("a")).await;
                continue;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
            while peer.try_send([b'x'; 65_536]).await {}
            return;
        }
    })
    .await
}

#[tokio::test]
async fn beyond_the_memory_limit_new_requests_are_told_to_come_back() {
    const MAX: usize = 1024 * 1024;
    // The request that finds it out holds one itself.
    const SMALL: usize = 16 * 1024;
    let instance = endless().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.limits = Limits { buffer_bytes_max: MAX, ..Limits::DEFAULT };
    });
    let held = || rig.metric("portolan_router_buffer_bytes", &[]);
    let mut served = rig.client().await;
    assert_eq!(served.get("/").await.text(), "a");
    let mut stuck = Vec::new();
    while held() < (MAX - SMALL) as f64 {
        let mut client = rig.client().await;
        client.send("GET /large HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
        let count = stuck.len();
        stuck.push(client);
        assert!(count < 200, "{} are held for {count} clients that do not read", held());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(stuck.len() >= 40, "a client that does not read may hold a small buffer only");
    is_told(&served.get("/").await);
    assert!(shed(&rig, "memory") >= 1.0);
    assert!(is_reset(&rig).await);
    stuck.clear();
    until("the memory", || held() == 0.0).await;
    assert_eq!(served.get("/").await.text(), "a", "the connection has not suffered");
}

#[tokio::test]
async fn heads_that_come_slowly_hold_what_they_have_and_no_more() {
    let instance = Instance::named("a").await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.limits = Limits { buffer_bytes_max: 128 * 1024, ..Limits::DEFAULT };
    });
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut client = rig.client().await;
        client.send("GET / HTTP/1.1\r\nHost: ").await;
        slow.push(client);
    }
    // A hundred small buffers would be ten times what there is.
    assert_eq!(rig.client().await.get("/").await.text(), "a");
    for client in &mut slow {
        client.send("web.test\r\nX-A: b").await;
    }
    for client in &mut slow {
        assert_eq!(client.ask("\r\n\r\n").await.text(), "a", "nothing is lost on the way");
    }
    until("the memory", || rig.metric("portolan_router_buffer_bytes", &[]) == 0.0).await;
}

#[tokio::test]
async fn one_source_has_no_more_connections_than_its_share() {
    let instance = Instance::named("a").await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.limits = Limits { connections_per_source_max: Some(2), ..Limits::DEFAULT };
        config.listeners[0].trusted_peers = vec!["127.0.0.9/32".parse().unwrap()];
    });
    let mut first = rig.client().await;
    let _second = rig.client().await;
    first.get("/").await;
    is_told(&rig.client().await.ask(GET).await);
    assert_eq!(shed(&rig, "source"), 1.0);
    assert_eq!(connect_from([127, 0, 0, 2], rig.http).await.get("/").await.text(), "a");
    let mut trusted = Vec::new();
    for _ in 0..4 {
        let mut client = connect_from([127, 0, 0, 9], rig.http).await;
        assert_eq!(client.get("/").await.text(), "a", "a proxy stands for many");
        trusted.push(client);
    }
    drop(first);
    until("room", || open(&rig, "http") <= 5.0).await;
    assert_eq!(rig.client().await.get("/").await.text(), "a");
}

const UPLOAD: &str = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 100000\r\n\r\n";

fn paced(rate: u32) -> impl FnOnce(&mut portolan_router::Config) {
    move |config| {
        config.limits.body_rate_min = rate;
        config.timeouts.client_body_grace = Duration::from_millis(500);
    }
}

#[tokio::test]
async fn a_body_that_dribbles_is_ended_although_it_never_stalls() {
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), paced(1_000));
    let mut client = rig.client().await;
    client.send(UPLOAD).await;
    let mut sent = 0;
    while client.is_silent().await {
        client.try_send("x").await;
        sent += 1;
        assert!(sent < 200, "nobody ends it");
    }
    assert_eq!(client.response().await.status(), 408);
    assert_eq!(rig.ended("body_timeout"), 1.0);
    rig.settled("web").await;
}

#[tokio::test]
async fn a_body_that_comes_in_pieces_with_pauses_is_fine() {
    let instance = Instance::http(|request| ok(request.body.len().to_string())).await;
    let rig = Rig::with(&web(&[instance.addr]), paced(10_000));
    let mut client = rig.client().await;
    client.send(UPLOAD).await;
    for _ in 0..4 {
        client.send(vec![b'x'; 25_000]).await;
        // Longer than the grace.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(client.response().await.text(), "100000");
}

#[tokio::test]
async fn an_instance_that_takes_a_body_slowly_is_not_held_against_the_client() {
    let instance = Instance::raw(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert!(head[0].starts_with("POST"));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        peer.read(30_000_000).await;
        peer.send(ok("a")).await;
    })
    .await;
    let rig = Rig::with(&web(&[instance.addr]), paced(20_000_000));
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 30000000\r\n\r\n").await;
    client.send(vec![0; 30_000_000]).await;
    assert_eq!(client.response().await.text(), "a");
}
