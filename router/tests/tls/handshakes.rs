//! Who is shown which certificate, and what becomes of those who do not get through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::CertificateName;
use portolan_router::{Config, TlsSettings, TlsVersion, UnknownName};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::{Authority, set};
use super::instance::Instance;
use super::peer::{Peer, within};
use super::rig::{Rig, until, web};

/// A configuration of a client that trusts `authority`.
pub fn client(authority: &Authority) -> ClientConfig {
    client_with(authority, rustls::DEFAULT_VERSIONS)
}

pub fn client_with(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(versions).unwrap();
    builder.with_root_certificates(authority.roots()).with_no_client_auth()
}

/// Shakes hands with `addr` as `host`.
pub async fn shake(
    addr: SocketAddr,
    config: ClientConfig,
    host: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    shake_with(addr, &Arc::new(config), host).await
}

pub async fn shake_with(
    addr: SocketAddr,
    config: &Arc<ClientConfig>,
    host: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    within("a handshake", TlsConnector::from(Arc::clone(config)).connect(name, tcp)).await
}

/// A rig with one instance whose listener `http` speaks TLS.
pub async fn rig(change: impl FnOnce(&mut TlsSettings)) -> (Rig, Instance) {
    rig_with(change, |_| {}).await
}

pub async fn rig_with(
    change: impl FnOnce(&mut TlsSettings),
    configure: impl FnOnce(&mut Config),
) -> (Rig, Instance) {
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        let mut settings = TlsSettings::default();
        change(&mut settings);
        config.listeners[0].tls = Some(settings);
        configure(config);
    });
    (rig, instance)
}

fn outcome(rig: &Rig, outcome: &str) -> f64 {
    rig.metric("portolan_router_tls_handshakes_total", &[("outcome", outcome)])
}

/// Whether a stream was shown this certificate.
fn was_shown(stream: &TlsStream<TcpStream>, pem: &super::authority::Pem) -> bool {
    stream.get_ref().1.peer_certificates().unwrap()[0] == pem.pair().0[0]
}

#[tokio::test]
async fn a_client_is_shown_the_certificate_of_the_host_it_names() {
    let authority = Authority::new();
    let exact = authority.issue(&["www.example.org"]);
    let wide = authority.issue(&["*.example.org", "other.test"]);
    let (rig, _instance) = rig(|tls| {
        tls.default_certificate = Some(CertificateName::parse("b").unwrap());
    })
    .await;
    rig.router.certificates().publish(set(&[&exact, &wide]));
    for (host, expected) in
        [("www.example.org", &exact), ("api.example.org", &wide), ("other.test", &wide)]
    {
        let stream = shake(rig.http, client(&authority), host).await.unwrap();
        assert!(was_shown(&stream, expected), "{host}");
        assert_eq!(Peer::over(stream).get("/").await.status(), 200);
    }
    // The default one is not for this name, which the client finds out.
    let error = shake(rig.http, client(&authority), "unknown.test").await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    assert_eq!(outcome(&rig, "full"), 3.0);
}

#[tokio::test]
async fn a_listener_may_refuse_names_without_a_certificate() {
    let authority = Authority::new();
    let pem = authority.issue(&["a.test"]);
    let (rig, _instance) = rig(|tls| tls.unknown_name = UnknownName::Refuse).await;
    rig.router.certificates().publish(set(&[&pem]));
    let error = shake(rig.http, client(&authority), "b.test").await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    rig.ends("handshake_failed").await;
    assert_eq!(outcome(&rig, "unknown_name"), 1.0);
    shake(rig.http, client(&authority), "a.test").await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_swapped_without_touching_connections() {
    let authority = Authority::new();
    let (old, new) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let (rig, _instance) = rig(|_| {}).await;
    rig.router.certificates().publish(set(&[&old]));
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    assert!(was_shown(&stream, &old));
    let mut kept = Peer::over(stream);
    assert_eq!(kept.get("/").await.status(), 200);
    rig.router.certificates().publish(set(&[&new]));
    let stream = shake(rig.http, client(&authority), "a.test").await.unwrap();
    assert!(was_shown(&stream, &new));
    assert_eq!(kept.get("/").await.status(), 200);
}

#[tokio::test]
async fn old_and_new_versions_are_spoken_and_the_oldest_can_be_chosen() {
    let authority = Authority::new();
    let pem = authority.issue(&["a.test"]);
    for version_min in [TlsVersion::V12, TlsVersion::V13] {
        let (rig, _instance) = rig(|tls| tls.version_min = version_min).await;
        rig.router.certificates().publish(set(&[&pem]));
        for (version, number) in [(&version::TLS12, 12), (&version::TLS13, 13)] {
            let shaken = shake(rig.http, client_with(&authority, &[version]), "a.test").await;
            match (version_min, number) {
                (TlsVersion::V13, 12) => {
                    let error = shaken.unwrap_err().to_string();
                    assert!(error.contains("ProtocolVersion"), "{error}");
                    until("its count", || outcome(&rig, "nothing_common") == 1.0).await;
                }
                _ => {
                    let stream = shaken.unwrap();
                    assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
                    assert_eq!(Peer::over(stream).get("/").await.status(), 200);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_its_session_with_any_worker() {
    let authority = Authority::new();
    let pem = authority.issue(&["a.test"]);
    for version in [&version::TLS12, &version::TLS13] {
        let (rig, _instance) = rig_with(|_| {}, |config| config.workers = 4).await;
        rig.router.certificates().publish(set(&[&pem]));
        let mut config = client_with(&authority, &[version]);
        config.resumption = Resumption::in_memory_sessions(64);
        let config = Arc::new(config);
        for round in 0..12 {
            let stream = shake_with(rig.http, &config, "a.test").await.unwrap();
            let mut peer = Peer::over(stream);
            // Tickets come behind the handshake.
            assert_eq!(peer.get("/").await.status(), 200);
            let kind = peer.stream().get_ref().1.handshake_kind().unwrap();
            let expected = if round == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
            assert_eq!(kind, expected, "{version:?} round {round}");
        }
        assert_eq!((outcome(&rig, "full"), outcome(&rig, "resumed")), (1.0, 11.0));
    }
}

#[tokio::test]
async fn keys_are_exchanged_in_a_way_that_a_quantum_computer_does_not_break() {
    let authority = Authority::new();
    let pem = authority.issue(&["a.test"]);
    let (rig, _instance) = rig(|_| {}).await;
    rig.router.certificates().publish(set(&[&pem]));
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.sort_by_key(|group| group.name() != NamedGroup::X25519MLKEM768);
    let config = ClientConfig::builder_with_provider(Arc::new(provider));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(authority.roots()).with_no_client_auth();
    let stream = shake(rig.http, config, "a.test").await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn only_what_is_served_is_offered() {
    let authority = Authority::new();
    let pem = authority.issue(&["a.test"]);
    let (rig, _instance) = rig(|_| {}).await;
    rig.router.certificates().publish(set(&[&pem]));
    let mut config = client(&authority);
    config.alpn_protocols = vec![b"h3".to_vec(), b"http/1.1".to_vec()];
    let stream = shake(rig.http, config, "a.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut config = client(&authority);
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    let error = shake(rig.http, config, "a.test").await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn a_plain_request_is_told_that_the_port_speaks_tls() {
    let (rig, _instance) = rig(|_| {}).await;
    let mut peer = Peer::connect(rig.http).await;
    let answer = peer.get("/").await;
    assert_eq!(answer.status(), 400);
    assert!(answer.text().contains("use https"), "{}", answer.text());
    assert_eq!(peer.rest().await, b"");
    drop(peer);
    rig.ends("plain_http").await;
    assert_eq!(outcome(&rig, "plain_http"), 1.0);
}

#[tokio::test]
async fn who_says_nothing_useful_is_closed_in_time() {
    let (rig, _instance) = rig(|tls| tls.handshake_timeout = Duration::from_millis(200)).await;
    let connect = || async { TcpStream::connect(rig.http).await.unwrap() };
    let mut silent = connect().await;
    // A record that says it is long, of which little comes.
    let mut slow = connect().await;
    slow.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await.unwrap();
    let mut strange = connect().await;
    strange.write_all(&[0, 1, 2, 3]).await.unwrap();
    let mut large = connect().await;
    large.write_all(&[22, 3, 1, 64, 0, 1, 0, 255, 255]).await.unwrap();
    large.write_all(&vec![0; 70_000]).await.ok();
    for peer in [&mut silent, &mut slow, &mut strange, &mut large] {
        let mut bytes = Vec::new();
        let _ = within("the end", peer.read_to_end(&mut bytes)).await;
    }
    until("two that are late", || outcome(&rig, "late") == 2.0).await;
    until("two that are malformed", || outcome(&rig, "malformed") == 2.0).await;
    until("their reasons", || rig.ended("handshake_failed") == 2.0).await;
    assert_eq!(rig.ended("handshake_timeout"), 2.0);
}
