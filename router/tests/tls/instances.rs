//! TLS between the router and instances.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portolan_discovery::model::{Event, Protocol, ServiceTls};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::instance::ok;
use super::peer::Peer;
use super::rig::{Rig, instance, route, routed, service_with, web};

/// An instance that speaks TLS, and how many handshakes it has seen.
pub struct Secure {
    pub addr: SocketAddr,
    shaken: Arc<AtomicUsize>,
}

impl Secure {
    pub async fn new(authority: &Authority, names: &[&str], clients: Option<&Authority>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(clients.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let (chain, key) = authority.issue(names).pair();
        let config = builder.with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shaken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&shaken);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::SeqCst);
                    let mut peer = Peer::over(stream);
                    while let Some(request) = peer.request().await {
                        let name = request.start().as_bytes().to_vec();
                        let body = [&name[..], b"\n", &request.body].concat();
                        if !peer.try_send(ok(body)).await {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, shaken }
    }

    pub fn shaken(&self) -> usize {
        self.shaken.load(Ordering::SeqCst)
    }
}

fn file(dir: &Path, name: &str, text: &str) -> Option<String> {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    Some(path.to_str().unwrap().to_owned())
}

fn records(addr: SocketAddr, tls: ServiceTls) -> Vec<Event> {
    let mut records = web(&[]);
    records.push(service_with("web", |service| service.tls = Some(tls)));
    records.push(instance("web", "a", addr));
    records
}

#[tokio::test]
async fn an_instance_is_spoken_to_by_tls_and_its_connection_is_kept() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let secure = Secure::new(&authority, &["db.test"], None).await;
    let ca_file = file(dir.path(), "ca.pem", &authority.pem());
    let name = Some("db.test".parse().unwrap());
    let rig = Rig::new(&records(secure.addr, ServiceTls { ca_file, name, ..ServiceTls::DEFAULT }));
    let mut client = rig.client().await;
    for round in 0..20 {
        assert_eq!(
            client.get(&format!("/{round}")).await.text().trim(),
            format!("GET /{round} HTTP/1.1")
        );
    }
    assert_eq!(secure.shaken(), 1, "tickets of the instance do not end its connection");
    let body = "x".repeat(2_000_000);
    let head = format!("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(head).await;
    client.send(&body).await;
    let answer = client.response().await;
    assert!(answer.status() == 200 && answer.text().ends_with(&body));
}

#[tokio::test]
async fn an_instance_with_the_wrong_certificate_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let secure = Secure::new(&authority, &["db.test"], None).await;
    let ca_file = file(dir.path(), "ca.pem", &authority.pem());
    let strange = file(dir.path(), "other.pem", &other.pem());
    let named = |name: &str| Some(name.parse().unwrap());
    let default = ServiceTls::DEFAULT;
    for tls in [
        ServiceTls { ca_file: strange, name: named("db.test"), ..default.clone() },
        ServiceTls { ca_file: ca_file.clone(), name: named("other.test"), ..default.clone() },
        ServiceTls { ca_file: ca_file.clone(), ..default.clone() },
        ServiceTls { ca_file: Some("/nowhere/ca.pem".to_owned()), ..default.clone() },
    ] {
        let rig = Rig::new(&records(secure.addr, tls.clone()));
        assert_eq!(rig.client().await.get("/").await.status(), 502, "{tls:?}");
        assert_eq!(rig.ended("upstream_tls_failed"), 1.0, "{tls:?}");
    }
    assert_eq!(secure.shaken(), 0);
    let rig = Rig::new(&records(secure.addr, ServiceTls { verify: false, ..default }));
    assert_eq!(rig.client().await.get("/").await.status(), 200);
}

#[tokio::test]
async fn an_instance_that_speaks_no_tls_gets_no_plain_request() {
    let plain = super::instance::Instance::named("plain").await;
    let rig = Rig::new(&records(plain.addr, ServiceTls { verify: false, ..ServiceTls::DEFAULT }));
    assert_eq!(rig.client().await.get("/").await.status(), 502);
    assert_eq!((rig.ended("upstream_tls_failed"), plain.requests()), (1.0, 0));
}

#[tokio::test]
async fn the_router_shows_its_own_certificate_to_an_instance_that_asks() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let secure = Secure::new(&authority, &["127.0.0.1"], Some(&clients)).await;
    let ca_file = file(dir.path(), "ca.pem", &authority.pem());
    let own = clients.issue(&["router.test"]);
    let chain_file = file(dir.path(), "own.pem", &own.chain);
    let key_file = file(dir.path(), "own.key", &own.key);
    let with = ServiceTls { ca_file, chain_file, key_file, ..ServiceTls::DEFAULT };
    let without = ServiceTls { chain_file: None, key_file: None, ..with.clone() };
    let rig = Rig::new(&records(secure.addr, with));
    assert_eq!(rig.client().await.get("/").await.status(), 200);
    let rig = Rig::new(&records(secure.addr, without));
    assert_eq!(rig.client().await.get("/").await.status(), 502);
}

#[tokio::test]
async fn a_service_that_changes_to_tls_uses_no_connection_of_before() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let secure = Secure::new(&authority, &["127.0.0.1"], None).await;
    let ca_file = file(dir.path(), "ca.pem", &authority.pem());
    let loose = ServiceTls { verify: false, ..ServiceTls::DEFAULT };
    let mut rig = Rig::new(&records(secure.addr, loose));
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.status(), 200);
    let strict = ServiceTls { ca_file, ..ServiceTls::DEFAULT };
    rig.apply_and_wait(&[service_with("web", |service| service.tls = Some(strict))]).await;
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(secure.shaken(), 2);
    rig.apply_and_wait(&[service_with("web", |_| {}), routed(&route("/", "web"))]).await;
    assert_eq!(client.get("/").await.status(), 502, "it speaks nothing but TLS");
}

#[tokio::test]
async fn a_tcp_route_may_lead_to_an_instance_that_speaks_tls() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let secure = Secure::new(&authority, &["127.0.0.1"], None).await;
    let ca_file = file(dir.path(), "ca.pem", &authority.pem());
    let tls = ServiceTls { ca_file, ..ServiceTls::DEFAULT };
    let mut records = records(secure.addr, tls.clone());
    records.push(service_with("web", |service| {
        (service.protocol, service.tls) = (Protocol::Tcp, Some(tls));
    }));
    let rig = Rig::new(&records);
    let mut client = Peer::connect(rig.tcp).await;
    assert_eq!(client.get("/through").await.text().trim(), "GET /through HTTP/1.1");
    assert_eq!(secure.shaken(), 1);
}

#[tokio::test]
async fn tls_may_end_at_a_tcp_listener() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let instance = super::instance::Instance::named("plain").await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.listeners[1].tls = Some(Default::default());
    });
    rig.router.certificates().publish(super::authority::set(&[&authority.issue(&["a.test"])]));
    let shaken = super::handshakes::shake(rig.tcp, super::handshakes::client(&authority), "a.test");
    let mut client = Peer::over(shaken.await.unwrap());
    assert_eq!(client.get("/").await.text(), "plain");
    drop(client);
    rig.settled("web").await;
    let strange = super::handshakes::client(&clients);
    assert!(super::handshakes::shake(rig.tcp, strange, "a.test").await.is_err());
}
