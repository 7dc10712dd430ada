//! Connections that begin with a PROXY header.

use std::net::SocketAddr;
use std::time::Duration;

use portolan_discovery::model::ProxyVersion as Version;
use portolan_router::ProxyProtocol;
use portolan_router::proxy_protocol::{Ends, Introduction, write};
use tokio::net::TcpStream;

use super::instance::Instance;
use super::peer::Peer;
use super::rig::{Rig, until, web};

const GET: &str = "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n";

fn rig(instance: SocketAddr, mode: ProxyProtocol, trusted: &str) -> Rig {
    Rig::with(&web(&[instance]), |config| {
        config.timeouts.client_header = Duration::from_millis(300);
        for listener in &mut config.listeners {
            listener.proxy_protocol = mode;
            listener.trusted_peers = vec![trusted.parse().unwrap()];
        }
    })
}

fn header(version: Version, source: &str) -> Vec<u8> {
    let ends =
        Ends { source: source.parse().unwrap(), destination: "192.0.2.1:80".parse().unwrap() };
    let mut bytes = Vec::new();
    write(version, &Introduction::of(ends), &mut bytes);
    bytes
}

fn outcome(rig: &Rig, outcome: &str) -> f64 {
    rig.metric("portolan_router_proxy_headers_total", &[("outcome", outcome)])
}

#[tokio::test]
async fn the_client_of_a_header_is_the_client_for_the_instance() {
    let instance = Instance::echo().await;
    let rig = rig(instance.addr, ProxyProtocol::Required, "127.0.0.0/8");
    for (version, source, expected) in [
        (Version::V1, "198.51.100.7:1234", "198.51.100.7"),
        (Version::V2, "198.51.100.7:1234", "198.51.100.7"),
        (Version::V2, "[2001:db8::7]:1234", "2001:db8::7"),
        (Version::V1, "[::ffff:198.51.100.8]:1", "198.51.100.8"),
    ] {
        let mut client = rig.client().await;
        // What the client says of others is not believed: it is not the proxy.
        let get = GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n");
        client.send([header(version, source), get.into_bytes()].concat()).await;
        let text = client.response().await.text().to_owned();
        assert!(text.contains(&format!("\nX-Forwarded-For: {expected}\n")), "{text}");
        assert_eq!(client.get("/").await.status(), 200, "the header comes once");
    }
    assert_eq!(outcome(&rig, "named"), 4.0);
}

#[tokio::test]
async fn a_header_may_come_in_pieces_and_alone() {
    let instance = Instance::echo().await;
    let rig = rig(instance.addr, ProxyProtocol::Required, "127.0.0.0/8");
    for version in [Version::V1, Version::V2] {
        let mut client = rig.client().await;
        for byte in header(version, "198.51.100.7:1234") {
            client.send([byte]).await;
        }
        assert!(client.ask(GET).await.text().contains("\nX-Forwarded-For: 198.51.100.7\n"));
    }
}

#[tokio::test]
async fn a_connection_of_the_proxy_itself_is_served_as_its_own() {
    let instance = Instance::echo().await;
    let rig = rig(instance.addr, ProxyProtocol::Required, "127.0.0.0/8");
    for local in [&b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"[..], b"PROXY UNKNOWN\r\n"] {
        let mut client = rig.client().await;
        client.send(local).await;
        assert!(client.ask(GET).await.text().contains("\nX-Forwarded-For: 127.0.0.1\n"));
    }
    assert_eq!(outcome(&rig, "unnamed"), 2.0);
}

#[tokio::test]
async fn without_a_header_that_has_to_be_there_nothing_reaches_an_instance() {
    let instance = Instance::echo().await;
    let rig = rig(instance.addr, ProxyProtocol::Required, "127.0.0.0/8");
    let mut broken = header(Version::V2, "198.51.100.7:1234");
    broken[12] = 0x31;
    for (bytes, expected) in [
        (GET.as_bytes(), "missing"),
        (b"PROXY TCP4 nonsense\r\nGET / HTTP/1.1\r\nHost: web.test\r\n\r\n", "bad"),
        (&broken, "bad"),
        (b"", "late"),
        (b"PROXY TCP4 198.51.100.7 ", "late"),
    ] {
        let mut client = rig.client().await;
        client.try_send(bytes).await;
        let (answer, _) = client.rest_or_reset().await;
        assert!(answer.is_empty(), "{}", answer.escape_ascii());
        until(expected, || outcome(&rig, expected) > 0.0).await;
    }
    assert_eq!((outcome(&rig, "bad"), outcome(&rig, "late")), (2.0, 2.0));
    assert_eq!(instance.requests(), 0);
}

#[tokio::test]
async fn a_header_of_a_stranger_is_not_believed() {
    let instance = Instance::echo().await;
    let stranger = "192.0.2.0/24";
    let required = rig(instance.addr, ProxyProtocol::Required, stranger);
    let named = [header(Version::V1, "198.51.100.7:1"), GET.into()].concat();
    // The reset may come before the connection looks open to the client.
    match TcpStream::connect(required.http).await {
        Ok(stream) => {
            let mut client = Peer::of(stream);
            client.try_send(&named).await;
            assert!(client.rest_or_reset().await.0.is_empty());
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    until("it is counted", || outcome(&required, "untrusted") == 1.0).await;
    let optional = rig(instance.addr, ProxyProtocol::Optional, stranger);
    assert_eq!(optional.client().await.ask(&named).await.status(), 400, "it is no request");
    assert_eq!(optional.client().await.get("/").await.status(), 200);
    assert_eq!(instance.requests(), 1);
}

#[tokio::test]
async fn where_it_is_optional_both_kinds_of_clients_are_served() {
    let instance = Instance::echo().await;
    let rig = rig(instance.addr, ProxyProtocol::Optional, "127.0.0.0/8");
    let plain = rig.client().await.get("/").await;
    assert!(plain.text().contains("\nX-Forwarded-For: 127.0.0.1\n"));
    // Its first bytes could be those of a header.
    let put = "PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(rig.client().await.ask(put).await.status(), 200);
    let mut client = rig.client().await;
    client.send(header(Version::V2, "198.51.100.7:1")).await;
    assert!(client.ask(GET).await.text().contains("\nX-Forwarded-For: 198.51.100.7\n"));
    assert_eq!((outcome(&rig, "absent"), outcome(&rig, "named")), (2.0, 1.0));
}

#[tokio::test]
async fn off_means_that_a_header_is_no_request() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let named = [header(Version::V1, "198.51.100.7:1"), GET.into()].concat();
    assert_eq!(rig.client().await.ask(named).await.status(), 400);
    assert_eq!(instance.requests(), 0);
}

#[tokio::test]
async fn of_a_tcp_connection_the_instance_gets_what_follows_the_header() {
    let instance = Instance::raw(|mut peer, _| async move {
        let all = peer.rest().await;
        peer.send(all).await;
    })
    .await;
    let rig = rig(instance.addr, ProxyProtocol::Required, "127.0.0.0/8");
    let mut client = Peer::connect(rig.tcp).await;
    client.send([&header(Version::V2, "198.51.100.7:1")[..], b"hello"].concat()).await;
    client.shut().await;
    assert_eq!(client.rest().await, b"hello");
}
