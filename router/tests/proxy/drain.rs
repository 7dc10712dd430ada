//! The end of a router.

use std::time::Duration;

use tokio::net::TcpStream;

use super::instance::{Instance, ok};
use super::peer::{Peer, within};
use super::rig::{Rig, until, web};

async fn slow(wait: Duration) -> Instance {
    Instance::raw(move |mut peer, _| async move {
        while peer.request().await.is_some() {
            tokio::time::sleep(wait).await;
            peer.send(ok("slow")).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_drain_waits_for_the_request_under_way_and_takes_nothing_new() {
    let instance = slow(Duration::from_millis(300)).await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    until("the request", || rig.in_flight("web") == 1).await;
    let addr = rig.http;
    let (cut, ()) =
        tokio::join!(within("the drain", rig.router.drain(Duration::from_secs(10))), async {
            let response = client.response().await;
            assert_eq!(response.text(), "slow");
            assert_eq!(response.field("connection").as_deref(), Some("close"));
            assert_eq!(client.rest().await, b"");
        });
    assert_eq!(cut, 0);
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_client_about_to_ask_gets_its_answer_and_idle_ones_are_closed() {
    let instance = Instance::named("a").await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.timeouts.drain_grace = Duration::from_secs(2);
    });
    let (mut asking, mut idle) = (rig.client().await, rig.client().await);
    asking.get("/").await;
    idle.get("/").await;
    let (cut, ()) =
        tokio::join!(within("the drain", rig.router.drain(Duration::from_secs(10))), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let response = asking.get("/").await;
            assert_eq!(
                (response.text(), response.field("connection")),
                ("a", Some("close".into()))
            );
            assert_eq!(asking.rest().await, b"");
            assert_eq!(idle.rest().await, b"");
        });
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut_and_counted() {
    let instance = slow(Duration::from_secs(60)).await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    let mut tunnel = Peer::connect(rig.tcp).await;
    until("both", || rig.in_flight("web") == 2).await;
    let cut = within("the drain", rig.router.drain(Duration::from_millis(300))).await;
    assert_eq!(cut, 2);
    client.gone().await;
    tunnel.gone().await;
    assert_eq!(rig.ended("drain_cut"), 2.0);
    assert_eq!(rig.in_flight("web"), 0);
}

#[tokio::test]
async fn a_tcp_connection_may_end_in_its_own_time() {
    let instance = Instance::raw(|mut peer, _| async move {
        assert_eq!(peer.read(2).await, b"go");
        peer.send("done").await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = Peer::connect(rig.tcp).await;
    until("the connection", || rig.in_flight("web") == 1).await;
    let (cut, ()) =
        tokio::join!(within("the drain", rig.router.drain(Duration::from_secs(10))), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.send("go").await;
            assert_eq!(client.read(4).await, b"done");
            client.shut().await;
            assert_eq!(client.rest().await, b"");
        });
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn a_router_that_is_dropped_ends_at_once() {
    let instance = slow(Duration::from_secs(60)).await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    until("the request", || rig.in_flight("web") == 1).await;
    drop(rig);
    client.gone().await;
}

#[tokio::test]
async fn a_hand_over_refuses_nobody_and_closes_no_client_that_does_nothing() {
    let instance = Instance::named("a").await;
    let records = web(&[instance.addr]);
    let first = Rig::with(&records, |config| config.workers = 3);
    let mut idle = first.client().await;
    idle.get("/").await;
    let mut tunnel = Peer::connect(first.tcp).await;
    // Fewer workers than sockets, none of which may be closed.
    let mut sockets = first.router.sockets().unwrap();
    let second = Rig::taking_over(
        &records,
        |config| config.workers = 2,
        |listener| {
            let at =
                sockets.iter().position(|s| s.name == listener.name && s.bind == listener.bind);
            sockets.remove(at.unwrap()).sockets
        },
    );
    assert_eq!((second.http, second.tcp), (first.http, first.tcp));
    let (stop, addr) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), first.http);
    let asking = {
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut asked = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(Peer::connect(addr).await.get("/").await.text(), "a");
                asked += 1;
            }
            asked
        })
    };
    let drain = async {
        let cut =
            within("the hand-over", first.router.hand_over(|_, _| true, Duration::from_secs(20)));
        assert_eq!(cut.await, 0);
    };
    let clients = async {
        // Longer than the grace of a drain that somebody waits for.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let response = idle.get("/").await;
        assert_eq!((response.text(), response.field("connection")), ("a", Some("close".into())));
        assert_eq!(tunnel.get("/").await.text(), "a", "a tunnel goes on");
        tunnel.shut().await;
        assert_eq!(tunnel.rest().await, b"");
    };
    tokio::join!(drain, clients);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(asking.await.unwrap() > 20);
    assert_eq!(first.router.connections(), 0);
}

#[tokio::test]
async fn a_hand_over_can_be_hurried() {
    let instance = Instance::named("a").await;
    let rig = Rig::web(&[instance.addr]);
    let mut idle = rig.client().await;
    idle.get("/").await;
    let unhurried = rig.router.hand_over(|_, _| false, Duration::from_secs(60));
    assert!(tokio::time::timeout(Duration::from_millis(300), unhurried).await.is_err());
    assert_eq!(rig.router.connections(), 1);
    assert_eq!(within("the drain", rig.router.drain(Duration::from_secs(10))).await, 0);
    assert_eq!(idle.rest().await, b"");
}
