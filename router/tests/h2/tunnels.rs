//! WebSocket inside a connection (RFC 8441).

use bytes::Bytes;
use h2::Reason;
use h2::ext::Protocol;
use http::Request;

use super::caller::{Caller, whole};
use super::instance::{Instance, ok};
use super::peer::within;
use super::rig::{Rig, until};

fn tunnel(protocol: &'static str) -> Request<()> {
    Request::connect("http://web.test/chat")
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("origin", "http://web.test")
        .body(())
        .unwrap()
}

/// An instance that sends back what comes through the tunnel.
async fn echo() -> Instance {
    Instance::raw(|mut peer, _| async move {
        let Some(head) = peer.head().await else { return };
        let has = |line: &str| head.iter().any(|seen| seen.eq_ignore_ascii_case(line));
        assert_eq!(head[0], "GET /chat HTTP/1.1");
        assert!(has("upgrade: websocket") && has("connection: upgrade"), "{head:?}");
        let key = head.iter().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        assert_eq!(key.len(), 24);
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello",
        )
        .await;
        loop {
            match peer.some().await {
                bytes if bytes.is_empty() => return,
                bytes if bytes == b"cut" => return peer.reset(),
                bytes => peer.send(bytes).await,
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_websocket_passes_in_both_directions_and_ends_in_peace() {
    let instance = echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    until("the setting", || caller.send.is_extended_connect_protocol_enabled()).await;
    let mut exchange = caller.begin(tunnel("websocket"), false).await;
    let response = within("an answer", &mut exchange.response).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut body = response.into_body();
    let part = within("the first", body.data()).await.unwrap().unwrap();
    assert_eq!(part, "hello");
    for word in ["one", "two"] {
        exchange.push(word, false).await;
        assert_eq!(within("an echo", body.data()).await.unwrap().unwrap(), word);
    }
    // Beside it, requests go on.
    exchange.body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(whole(body).await.unwrap().0, b"");
    rig.settled("web").await;
}

#[tokio::test]
async fn a_websocket_that_is_cut_is_reset() {
    let instance = echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    until("the setting", || caller.send.is_extended_connect_protocol_enabled()).await;
    let mut exchange = caller.begin(tunnel("websocket"), false).await;
    let response = within("an answer", &mut exchange.response).await.unwrap();
    exchange.push("cut", false).await;
    let error = whole(response.into_body()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    rig.settled("web").await;
}

#[tokio::test]
async fn an_instance_may_refuse_and_other_protocols_are_not_tunnelled() {
    let instance = Instance::http(|request| {
        assert!(request.field("upgrade").is_none_or(|token| token == "websocket"));
        ok("no tunnel")
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    until("the setting", || caller.send.is_extended_connect_protocol_enabled()).await;
    let answer = caller.begin(tunnel("websocket"), false).await.answer().await.unwrap();
    assert_eq!((answer.status(), answer.text()), (200, "no tunnel"));
    let answer = caller.begin(tunnel("other"), false).await.answer().await.unwrap();
    assert_eq!((answer.status(), answer.text()), (200, "no tunnel"));
}
