//! Upgrades and CONNECT (rules 41 to 47): RFC 9110 §7.8, §9.3.6.

use std::time::Duration;

use super::instance::Instance;
use super::rig::{Rig, web};
use super::stage::{Stage, keep, lines};

const UPGRADE: &str = "GET /ws HTTP/1.1|Host: web.test|Connection: Upgrade|Upgrade: websocket|\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==|Sec-WebSocket-Version: 13||";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols|Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Accept: x||";

#[tokio::test]
async fn only_a_websocket_is_asked_for() {
    // Rule 41: `h2c` would be a second protocol that nobody checks.
    let stage = Stage::new().await;
    stage
        .passes_all(&[
            (41, "h2c", "GET / HTTP/1.1|Host: web.test|Connection: Upgrade, HTTP2-Settings|Upgrade: h2c|HTTP2-Settings: AAMAAABk||", "GET / HTTP/1.1|Host: web.test|ASKED||"),
            (41, "h2c beside it", "GET / HTTP/1.1|Host: web.test|Connection: Upgrade|Upgrade: h2c, WebSocket||", "GET / HTTP/1.1|Host: web.test|ASKED|Connection: upgrade|Upgrade: websocket||"),
            (41, "TLS", "OPTIONS * HTTP/1.1|Host: web.test|Connection: Upgrade|Upgrade: TLS/1.0||", "OPTIONS * HTTP/1.1|Host: web.test|ASKED||"),
            (41, "without the option", "GET / HTTP/1.1|Host: web.test|Upgrade: websocket||", "GET / HTTP/1.1|Host: web.test|ASKED||"),
            (41, "an old client", "GET / HTTP/1.0|Host: web.test|Connection: Upgrade|Upgrade: websocket||", "GET / HTTP/1.1|Host: web.test|Via: 1.0 ME|X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: web.test|X-Forwarded-Proto: http|X-Forwarded-Port: PORT|X-Request-Id: ID||"),
        ])
        .await;
}

#[tokio::test]
async fn an_upgrade_with_a_body_and_connect_are_refused() {
    let stage = Stage::new().await;
    let tunnel = "CONNECT web.test:80 HTTP/1.1|Host: web.test:80||GET /inside HTTP/1.1|Host: a||";
    stage
        .refuses_all(&[
            (43, "a length", "GET / HTTP/1.1|Host: web.test|Connection: Upgrade|Upgrade: websocket|Content-Length: 2||ab", 400, "upgrade_with_body"),
            (43, "chunks", "GET / HTTP/1.1|Host: web.test|Connection: Upgrade|Upgrade: websocket|Transfer-Encoding: chunked||0||", 400, "upgrade_with_body"),
            (45, "CONNECT, its payload at once", tunnel, 501, "connect_refused"),
            (45, "CONNECT to a port of ours", "CONNECT 127.0.0.1:80 HTTP/1.1|Host: 127.0.0.1||", 501, "connect_refused"),
        ])
        .await;
}

#[tokio::test]
async fn nothing_passes_before_the_switch_and_nothing_else_after_a_refusal() {
    // Rule 42: bytes behind the request are the tunnel's or those of the next request, and only
    // the answer tells. Here it is no 101, so they are a request, and are read as one.
    let stage = Stage::answering(|_| keep("HTTP/1.1 200 OK|Content-Length: 2||ok")).await;
    let mut client = stage.rig.client().await;
    client.send(lines(&format!("{UPGRADE}GET /next HTTP/1.1|Host: web.test|X_Odd: 1||"))).await;
    assert_eq!(client.response().await.text(), "ok");
    assert_eq!(client.response().await.text(), "ok");
    let seen = stage.normal(&stage.backend.take());
    let (_, next) = seen.split_once("||").unwrap();
    assert!(next.starts_with("GET /next HTTP/1.1|Host: web.test|Via: "), "{seen}");
}

#[tokio::test]
async fn the_switch_is_announced_in_our_own_words() {
    // Rule 42, and 26 for what the answer says of its connection.
    let instance = Instance::raw(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert!(head.iter().any(|line| line == "Upgrade: websocket"), "{head:?}");
        assert!(peer.is_silent().await, "nothing before the switch");
        peer.send(lines(&SWITCH.replace("Upgrade|", "Upgrade, X-Hop|X-Hop: 1|"))).await;
        assert_eq!(peer.read(5).await, b"early");
        peer.send("done").await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send(lines(&format!("{UPGRADE}early"))).await;
    let head = client.response_head().await;
    assert_eq!(head.start(), "HTTP/1.1 101 Switching Protocols");
    assert_eq!(head.field("connection").as_deref(), Some("upgrade"));
    assert_eq!(head.field("upgrade").as_deref(), Some("websocket"));
    assert_eq!(head.field("sec-websocket-accept").as_deref(), Some("x"));
    assert_eq!((head.field("x-hop"), head.field("content-length")), (None, None));
    assert_eq!(client.rest().await, b"done");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_an_error() {
    // Rule 44.
    for (request, answer) in [
        ("GET / HTTP/1.1|Host: web.test||", SWITCH.to_owned()),
        (UPGRADE, SWITCH.replace("websocket", "h2c")),
        (UPGRADE, SWITCH.replace("Connection: Upgrade|", "")),
        (UPGRADE, SWITCH.replace("Upgrade: websocket|", "")),
    ] {
        let what = answer.clone();
        let stage = Stage::answering(move |_| keep(&answer)).await;
        let mut client = stage.rig.client().await;
        let response = client.ask(lines(request)).await;
        assert_eq!(response.status(), 502, "{what}");
        assert!(response.text().starts_with("upstream_bad_upgrade\n"), "{}", response.text());
        stage.rig.settled("web").await;
    }
}

#[tokio::test]
async fn each_direction_of_a_tunnel_ends_on_its_own_and_silence_ends_both() {
    // Rule 47.
    let instance = Instance::raw(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send(lines(SWITCH)).await;
        assert_eq!(peer.rest().await, b"from the client");
        peer.send("from the server").await;
    })
    .await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.timeouts.tunnel_idle = Duration::from_millis(300);
    });
    let mut client = rig.client().await;
    client.send(lines(UPGRADE)).await;
    assert_eq!(client.response_head().await.status(), 101);
    client.send("from the client").await;
    client.shut().await;
    assert_eq!(client.rest().await, b"from the server");
    let mut idle = rig.client().await;
    idle.send(lines(UPGRADE)).await;
    assert_eq!(idle.response_head().await.status(), 101);
    idle.gone().await;
    rig.ends("tunnel_idle").await;
    rig.settled("web").await;
}
