//! Requests over TLS: what instances are told, bodies, and what is misdirected.

use portolan_discovery::model::{Event, Hsts, HttpsRule, Route, Sticky};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::authority::{Authority, set};
use super::handshakes::{client, rig, shake};
use super::instance::{Instance, ok};
use super::peer::{Peer, within};
use super::rig::{Rig, route, routed, service_with, web, without};

#[tokio::test]
async fn an_instance_is_told_that_the_client_came_by_https() {
    let authority = Authority::new();
    let (rig, _instance) = rig(|_| {}).await;
    rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nClient-Cert: :Zm9v:\r\n\
                   Client-Cert-Chain: :Zm9v:\r\nX-Forwarded-Proto: http\r\n\r\n";
    let answer = Peer::over(stream).ask(request).await;
    let seen = answer.text().to_lowercase();
    assert!(seen.contains("x-forwarded-proto: https\n"), "{seen}");
    assert!(seen.contains(&format!("x-forwarded-port: {}\n", rig.http.port())), "{seen}");
    assert!(!seen.contains("client-cert"), "{seen}");
}

#[tokio::test]
async fn bodies_of_any_size_pass_in_both_directions() {
    let authority = Authority::new();
    let instance = Instance::http(|request| ok(request.body.clone())).await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.listeners[0].tls = Some(Default::default());
    });
    rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    for size in [0_usize, 1, 16_384, 65_537, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {size}\r\n\r\n");
        let sending = async {
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&body).await.unwrap();
            write.flush().await.unwrap();
        };
        let receiving = async {
            let mut bytes = Vec::new();
            let end = loop {
                let found = bytes.windows(4).position(|window| window == b"\r\n\r\n");
                match found {
                    Some(at) if bytes.len() >= at + 4 + size => break at + 4,
                    _ => assert!(read.read_buf(&mut bytes).await.unwrap() > 0),
                }
            };
            assert!(bytes.starts_with(b"HTTP/1.1 200 "));
            bytes.split_off(end)
        };
        let ((), received) = within("a body", async { tokio::join!(sending, receiving) }).await;
        assert!(received == body, "{size}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let authority = Authority::new();
    let (rig, _instance) = rig(|_| {}).await;
    rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    let mut peer = Peer::over(stream);
    peer.send(
        ["/1", "/2", "/3"]
            .map(|path| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
            .concat(),
    )
    .await;
    for path in ["/1", "/2", "/3"] {
        assert!(peer.response().await.text().starts_with(&format!("GET {path} ")));
    }
}

#[tokio::test]
async fn a_request_for_the_host_of_another_certificate_is_misdirected() {
    let authority = Authority::new();
    let both = authority.issue(&["a.test", "b.test"]);
    let other = authority.issue(&["c.test"]);
    let (rig, _instance) = rig(|_| {}).await;
    rig.router.certificates().publish(set(&[&both, &other]));
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    let mut peer = Peer::over(stream);
    let mut status = async |host: &str| {
        peer.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.status()
    };
    assert_eq!(status("a.test").await, 200);
    assert_eq!(status("b.test").await, 200, "a connection is for all names of its certificate");
    assert_eq!(status("c.test").await, 421);
    assert_eq!(status("d.test").await, 200, "no other connection would be better");
    assert_eq!(rig.ended("misdirected"), 1.0);
}

#[tokio::test]
async fn a_client_that_closes_is_told_goodbye_and_one_that_waits_notices_the_end() {
    let authority = Authority::new();
    let (rig, instance) = rig(|_| {}).await;
    rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    let mut peer = Peer::over(stream);
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    assert_eq!(peer.ask(request).await.status(), 200);
    // An end without the word for it would be an error.
    assert_eq!(peer.rest().await, b"");
    assert_eq!(instance.requests(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_is_noticed() {
    let authority = Authority::new();
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.listeners[0].tls = Some(Default::default());
    });
    rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
    let mut stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    super::rig::until("the request", || instance.connections() > 0).await;
    stream.shutdown().await.unwrap();
    rig.ends("client_gone").await;
}

#[tokio::test]
async fn a_plain_listener_may_send_everything_to_https() {
    let rig = Rig::with(&web(&[]), |config| config.listeners[0].redirect_https = Some(443));
    let mut peer = Peer::connect(rig.http).await;
    for (target, host, expected) in [
        ("/a%20b/c?d=e", "Web.Test:8080", "https://web.test/a%20b/c?d=e"),
        ("http://web.test/x?http://y", "web.test", "https://web.test/x?http://y"),
        ("http://web.test", "web.test", "https://web.test/"),
        ("http://web.test?a", "web.test", "https://web.test/?a"),
        ("/?a=http://b", "[::1]:80", "https://[::1]/?a=http://b"),
    ] {
        let answer = peer.ask(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status(), 308);
        assert_eq!(answer.field("location").as_deref(), Some(expected), "{target}");
    }
}

#[tokio::test]
async fn browsers_are_told_to_come_by_https_only() {
    let authority = Authority::new();
    let hsts = Hsts { max_age_s: 31_536_000, subdomains: true, preload: false };
    let (rig, _instance) = rig(|tls| tls.hsts = Some(hsts)).await;
    rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    let answer = Peer::over(stream).get("/").await;
    assert_eq!(
        answer.field("strict-transport-security").as_deref(),
        Some("max-age=31536000; includeSubDomains")
    );
    assert!(answer.field("via").is_some());
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    let own = Peer::over(stream).ask(LAST_HOP).await;
    assert_eq!(own.text().trim(), "the router is here");
    assert_eq!(own.field("strict-transport-security"), answer.field("strict-transport-security"));
    // RFC 6797 §7.2: not to a client that came without TLS.
    let plain = Peer::connect(rig.http).await.ask(LAST_HOP).await;
    assert_eq!((plain.status(), plain.field("strict-transport-security")), (400, None));
}

const LAST_HOP: &str = "OPTIONS / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 0\r\n\r\n";

/// What a client gets of a route with its own word on https: the status, where it is sent, and
/// what it is told.
async fn told<S>(peer: &mut Peer<S>, fields: &str) -> (u16, Option<String>, Option<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let answer = peer.ask(format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")).await;
    assert!(answer.field("via").is_none_or(|via| via.matches("1.1 ").count() == 1));
    (answer.status(), answer.field("location"), answer.field("strict-transport-security"))
}

fn bringing_to_https(redirect: Option<u16>, max_age_s: u64) -> Event {
    let hsts = Some(Hsts { max_age_s, subdomains: false, preload: true });
    let redirect = redirect.map(|port| port.try_into().unwrap());
    routed(&Route { https: Some(Box::new(HttpsRule { redirect, hsts })), ..route("/", "web") })
}

#[tokio::test]
async fn a_route_may_bring_its_clients_to_https() {
    let instance = Instance::named("plain").await;
    let mut rig = Rig::with(&web(&[instance.addr]), |config| {
        config.listeners[0].trusted_peers = vec!["127.0.0.2/32".parse().unwrap()];
    });
    rig.apply_and_wait(&[bringing_to_https(Some(8443), 60)]).await;
    let sent = (308, Some("https://a.test:8443/x".to_owned()), None);
    let mut peer = Peer::connect(rig.http).await;
    assert_eq!(told(&mut peer, "").await, sent);
    assert_eq!(told(&mut peer, "X-Forwarded-Proto: https\r\n").await, sent, "a stranger's word");
    assert_eq!(instance.requests(), 0);
    // A proxy in front that ends TLS says so.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut peer = Peer::of(socket.connect(rig.http).await.unwrap());
    let served = (200, None, Some("max-age=60; preload".to_owned()));
    assert_eq!(told(&mut peer, "X-Forwarded-Proto: https\r\n").await, served);
    assert_eq!(told(&mut peer, "X-Forwarded-Proto: http\r\n").await, sent);
    // Without a redirect a plain request is served, and told nothing.
    rig.apply_and_wait(&[bringing_to_https(None, 60)]).await;
    assert_eq!(told(&mut peer, "").await, (200, None, None));
}

#[tokio::test]
async fn the_word_of_a_route_on_https_replaces_that_of_its_listener() {
    let authority = Authority::new();
    let listeners = Hsts { max_age_s: 31_536_000, subdomains: true, preload: false };
    let (mut rig, instance) = rig(|tls| tls.hsts = Some(listeners)).await;
    rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
    let sticky = Sticky { cookie: "to".parse().unwrap(), max_age_s: None };
    rig.apply_and_wait(&[
        bringing_to_https(Some(443), 0),
        service_with("web", |service| service.sticky = Some(sticky)),
    ])
    .await;
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    let mut peer = Peer::over(stream);
    let answer = peer.get("/").await;
    assert_eq!(
        answer.field("strict-transport-security").as_deref(),
        Some("max-age=0; preload"),
        "it takes back what browsers were told"
    );
    assert!(answer.field("set-cookie").is_some() && answer.field("via").is_some());
    drop(instance);
    rig.apply_and_wait(&[without("web", "a")]).await;
    let answer = peer.get("/").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.field("strict-transport-security").as_deref(), Some("max-age=0; preload"));
}
