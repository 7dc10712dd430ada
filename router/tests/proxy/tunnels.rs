//! Upgraded connections.

use std::time::Duration;

use super::instance::{Instance, ok};
use super::peer::Peer;
use super::rig::{Rig, draining, until, web, without};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Switches, says hello at once, then sends back what it gets until the end.
async fn switching() -> Instance {
    Instance::raw(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert!(head.iter().any(|l| l.eq_ignore_ascii_case("upgrade: websocket")), "{head:?}");
        peer.send(format!("{SWITCH}hello")).await;
        loop {
            let byte = peer.read(1).await;
            peer.send(&byte).await;
            if byte == b"." {
                peer.shut().await;
                assert_eq!(peer.rest().await, b"over");
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_outlives_table_changes() {
    let instance = switching().await;
    let mut rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send(UPGRADE).await;
    assert_eq!(client.response_head().await.status(), 101);
    assert_eq!(client.read(5).await, b"hello");
    client.send("a").await;
    assert_eq!(client.read(1).await, b"a");
    rig.apply_and_wait(&[draining("web", "a", instance.addr)]).await;
    assert_eq!(rig.in_flight("web"), 1, "a tunnel is under way until it ends");
    client.send("b").await;
    assert_eq!(client.read(1).await, b"b");
    let counted: u64 = rig.router.table().draining().map(|(_, _, count)| count).sum();
    assert_eq!(counted, 1);
    rig.apply_and_wait(&[without("web", "a")]).await;
    client.send(".").await;
    assert_eq!(client.read(1).await, b".");
    assert_eq!(client.rest().await, b"", "the instance has ended its direction");
    client.send("over").await;
    client.shut().await;
    let requests = rig.metric("portolan_router_connections_open", &[("listener", "http")]);
    assert!(requests <= 1.0);
    until("the end", || {
        rig.metric("portolan_router_connections_open", &[("listener", "http")]) == 0.0
    })
    .await;
}

#[tokio::test]
async fn what_a_client_sends_too_early_waits_for_the_switch() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.head().await.unwrap();
        assert!(peer.is_silent().await, "nothing passes before the switch");
        peer.send(SWITCH).await;
        assert_eq!(peer.read(5).await, b"early");
        peer.send("thanks").await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send(format!("{UPGRADE}early")).await;
    assert_eq!(client.response_head().await.status(), 101);
    assert_eq!(client.read(6).await, b"thanks");
}

#[tokio::test]
async fn without_a_switch_there_is_no_tunnel() {
    let instance = Instance::http(|_| ok("no")).await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    assert_eq!(client.ask(UPGRADE).await.text(), "no");
    assert_eq!(client.get("/").await.text(), "no");
    rig.settled("web").await;
}

#[tokio::test]
async fn other_protocols_are_not_switched_to() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let response = rig
        .client()
        .await
        .ask(
            "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
        .await;
    assert!(!response.text().to_lowercase().contains("h2c"), "{}", response.text());
    assert!(!response.text().to_lowercase().contains("settings"), "{}", response.text());
}

#[tokio::test]
async fn an_idle_tunnel_is_cut() {
    let instance = switching().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.timeouts.tunnel_idle = Duration::from_millis(200);
    });
    let mut client: Peer = rig.client().await;
    client.send(UPGRADE).await;
    client.response_head().await;
    client.read(5).await;
    client.gone().await;
    rig.ends("tunnel_idle").await;
    rig.settled("web").await;
}
