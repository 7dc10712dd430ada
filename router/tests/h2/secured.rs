//! HTTP/2 over TLS: which protocol is agreed on, and hosts of other certificates.

use std::sync::Arc;

use h2::client::Builder;
use http::Request;
use portolan_router::TlsSettings;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::{Authority, set};
use super::caller::Caller;
use super::instance::Instance;
use super::peer::within;
use super::rig::{Rig, web};

async fn rig(authority: &Authority, http2: bool) -> (Rig, Instance) {
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.listeners[0].tls = Some(TlsSettings::default());
        config.listeners[0].http2 = http2;
    });
    let certificates = [authority.issue(&["a.test", "b.test"]), authority.issue(&["c.test"])];
    rig.router.certificates().publish(set(&certificates.iter().collect::<Vec<_>>()));
    (rig, instance)
}

async fn shake(rig: &Rig, authority: &Authority, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(authority.roots()).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let tcp = TcpStream::connect(rig.http).await.unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    within("a handshake", TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap()
}

fn get(host: &str) -> Request<()> {
    Request::builder().uri(format!("https://{host}/")).body(()).unwrap()
}

#[tokio::test]
async fn the_protocol_is_agreed_on_with_tls() {
    let authority = Authority::new();
    for (http2, offered, agreed) in [
        (true, &[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (true, &[b"http/1.1", b"h2"], Some(b"h2")),
        (true, &[b"http/1.1"], Some(b"http/1.1")),
        (true, &[], None),
        (false, &[b"h2", b"http/1.1"], Some(b"http/1.1")),
    ] {
        let (rig, _instance) = rig(&authority, http2).await;
        let stream = shake(&rig, &authority, offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{http2} {offered:?}");
    }
}

#[tokio::test]
async fn a_request_over_tls_is_told_so_and_one_for_another_certificate_is_misdirected() {
    let authority = Authority::new();
    let (rig, _instance) = rig(&authority, true).await;
    let stream = shake(&rig, &authority, &[b"h2"]).await;
    let mut caller = Caller::over(stream, &Builder::new()).await;
    let answer = caller.ask(get("a.test")).await.unwrap();
    let seen = answer.text().to_ascii_lowercase();
    assert!(seen.contains("x-forwarded-proto: https\n"), "{seen}");
    for (host, status) in [("b.test", 200), ("c.test", 421), ("d.test", 200)] {
        assert_eq!(caller.ask(get(host)).await.unwrap().status(), status, "{host}");
    }
    assert_eq!(rig.ended("misdirected"), 1.0);
}

#[tokio::test]
async fn large_answers_pass_over_tls() {
    let authority = Authority::new();
    let instance = Instance::http(|_| super::instance::ok(vec![7; 5_000_000])).await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.listeners[0].tls = Some(TlsSettings::default());
    });
    rig.router.certificates().publish(set(&[&authority.issue(&["a.test"])]));
    let stream = shake(&rig, &authority, &[b"h2"]).await;
    let mut caller = Caller::over(stream, &Builder::new()).await;
    for _ in 0..3 {
        let answer = caller.ask(get("a.test")).await.unwrap();
        assert!(answer.body == vec![7; 5_000_000]);
    }
}
