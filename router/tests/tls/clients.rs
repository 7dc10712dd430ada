//! Certificates of clients: who is let in, and what instances are told of them.

use std::net::SocketAddr;
use std::sync::Arc;

use portolan_discovery::model::{CacheRule, CacheWish, Protocol};
use portolan_router::{ClientCertificates, ListenerConfig, TlsSettings};
use rustls::{ClientConfig, HandshakeKind, version};

use super::authority::{Authority, Pem, set};
use super::handshakes::{client, client_with, rig, rig_with, shake, shake_with};
use super::peer::Peer;
use super::rig::{Rig, listener, route, routed, until};

fn with_certificate(authority: &Authority, pem: &Pem) -> ClientConfig {
    let (chain, key) = pem.pair();
    let plain = client(authority);
    let builder = ClientConfig::builder_with_provider(plain.crypto_provider().clone());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(authority.roots()).with_client_auth_cert(chain, key).unwrap()
}

async fn rig_for(authority: &Authority, clients: &Authority, required: bool) -> Rig {
    let asked = ClientCertificates::of(clients.pem().as_bytes(), required).unwrap();
    let (rig, instance) = rig(|tls| tls.clients = Some(asked)).await;
    rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
    std::mem::forget(instance);
    rig
}

/// What an instance sees of a request that claims to have a certificate.
async fn seen(rig: &Rig, config: ClientConfig) -> std::io::Result<String> {
    let stream = shake(rig.http, config, "a.test").await?;
    let mut peer = Peer::over(stream);
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nClient-Cert: :ZmFrZQ==:\r\n\r\n";
    if !peer.try_send(request).await {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    }
    // With TLS 1.3 a client learns that it is refused when it reads.
    match peer.head().await {
        Some(lines) => Ok(peer
            .body_of(super::peer::Message {
                lines,
                body: Vec::new(),
                trailers: Vec::new(),
                chunked: false,
            })
            .await
            .text()
            .to_owned()),
        None => Err(std::io::ErrorKind::ConnectionAborted.into()),
    }
}

#[tokio::test]
async fn an_instance_is_told_of_the_certificate_and_never_of_a_claimed_one() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let rig = rig_for(&authority, &clients, false).await;
    let without = seen(&rig, client(&authority)).await.unwrap();
    assert!(!without.contains("Client-Cert"), "{without}");
    let pem = clients.issue(&["me.test"]);
    let with = seen(&rig, with_certificate(&authority, &pem)).await.unwrap();
    let lines: Vec<&str> = with.lines().filter(|line| line.starts_with("Client-Cert")).collect();
    let body: String = pem.chain.lines().filter(|line| !line.starts_with("---")).collect();
    assert_eq!(lines, [format!("Client-Cert: :{body}:")]);
}

#[tokio::test]
async fn what_a_client_with_a_certificate_gets_is_not_kept_for_others() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let mut rig = rig_for(&authority, &clients, false).await;
    let mut cached = route("/", "web");
    let default_ttl = Some(std::time::Duration::from_secs(60));
    let wish = CacheWish { default_ttl, ..CacheWish::default() };
    cached.cache = Some(Box::new(CacheRule::new(&wish).unwrap()));
    rig.apply_and_wait(&[routed(&cached)]).await;
    let pem = clients.issue(&["me.test"]);
    let mine = seen(&rig, with_certificate(&authority, &pem)).await.unwrap();
    assert!(mine.contains("Client-Cert"), "{mine}");
    let without = seen(&rig, client(&authority)).await.unwrap();
    assert!(!without.contains("Client-Cert"), "{without}");
    assert_eq!(seen(&rig, client(&authority)).await.unwrap(), without, "that is kept");
    let mine = seen(&rig, with_certificate(&authority, &pem)).await.unwrap();
    assert!(mine.contains("Client-Cert"), "{mine}");
}

#[tokio::test]
async fn a_listener_may_require_a_certificate_of_its_authorities() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let rig = rig_for(&authority, &clients, true).await;
    assert!(seen(&rig, client(&authority)).await.is_err());
    let strange = Authority::new().issue(&["me.test"]);
    assert!(seen(&rig, with_certificate(&authority, &strange)).await.is_err());
    let known = clients.issue(&["me.test"]);
    assert!(seen(&rig, with_certificate(&authority, &known)).await.is_ok());
    let outcome = |name| rig.metric("portolan_router_tls_handshakes_total", &[("outcome", name)]);
    until("two that are refused", || outcome("bad_certificate") == 2.0).await;
    assert_eq!(outcome("full"), 1.0);
}

#[tokio::test]
async fn a_session_of_an_open_listener_is_none_of_one_that_requires_a_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    for version in [&version::TLS12, &version::TLS13] {
        let (rig, _instance) = rig_with(
            |_| {},
            |config| {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let asked = ClientCertificates::of(clients.pem().as_bytes(), true).unwrap();
                let mut inner = ListenerConfig::new(listener("inner"), any, Protocol::Http);
                inner.tls = Some(TlsSettings { clients: Some(asked), ..TlsSettings::default() });
                config.listeners.push(inner);
                let mut open = ListenerConfig::new(listener("open"), any, Protocol::Http);
                open.tls = Some(TlsSettings::default());
                config.listeners.push(open);
            },
        )
        .await;
        rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
        let addr = |name: &str| {
            let all = rig.router.local_addrs();
            all.iter().find(|(listener, _)| listener.as_str() == name).unwrap().1
        };
        // One client, which takes all of them for the same server.
        let config = Arc::new(client_with(&authority, &[version]));
        let first = shake_with(rig.http, &config, "a.test").await.unwrap();
        assert_eq!(Peer::over(first).get("/").await.status(), 200);
        let other = shake_with(addr("open"), &config, "a.test").await.unwrap();
        assert_eq!(other.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(Peer::over(other).get("/").await.status(), 200);
        let entered = match shake_with(addr("inner"), &config, "a.test").await {
            Ok(stream) => {
                Peer::over(stream).try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await
            }
            Err(_) => false,
        };
        let outcome =
            |name| rig.metric("portolan_router_tls_handshakes_total", &[("outcome", name)]);
        until("it is refused", || outcome("bad_certificate") == 1.0).await;
        assert_eq!(outcome("resumed"), 1.0, "{version:?} {entered}");
    }
}
