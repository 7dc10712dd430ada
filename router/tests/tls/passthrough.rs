//! TLS that the router passes on: who gets where by the host that is asked for, and what becomes
//! of those who ask for none.

use std::net::SocketAddr;
use std::time::Duration;

use portolan_discovery::model::{
    Backend, Event, Protocol, ProxyVersion, Route, RouteName, Rule, ServiceName, TlsRule,
};
use portolan_router::proxy_protocol::{Parsed, parse};
use portolan_router::{Config, ProxyProtocol};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::authority::Authority;
use super::handshakes::{client, shake};
use super::instance::Instance;
use super::instances::Secure;
use super::peer::{Peer, within};
use super::rig::{Rig, instance, listener, routed, service, service_with, until};

/// A route of the listener `tcp` for a host.
fn to(host: &str, service: &str) -> Event {
    let rule = Rule::Tls(TlsRule { host: host.parse().unwrap() });
    let backends = vec![Backend::to(ServiceName::parse(service).unwrap())];
    let route = Route::new(RouteName::parse(&format!("to-{service}")).unwrap(), rule, backends);
    routed(&Route { listener: Some(listener("tcp")), ..route })
}

fn reaches(host: &str, name: &str, addr: SocketAddr) -> Vec<Event> {
    vec![service(name, true), instance(name, "a", addr), to(host, name)]
}

/// A router that passes TLS on, on its listener `tcp`.
fn rig(records: &[Event]) -> Rig {
    rig_with(records, |_| {})
}

fn rig_with(records: &[Event], configure: impl FnOnce(&mut Config)) -> Rig {
    Rig::with(records, |config| {
        config.listeners[1].protocol = Protocol::Tls;
        configure(config);
    })
}

fn passed_on(rig: &Rig, outcome: &str) -> f64 {
    rig.metric("portolan_router_tls_passed_on_total", &[("outcome", outcome)])
}

/// Whether a client that asks for `host` gets to the instance with a certificate for it.
async fn gets_there(rig: &Rig, authority: &Authority, host: &str) -> bool {
    let Ok(stream) = shake(rig.tcp, client(authority), host).await else { return false };
    Peer::over(stream).get("/x").await.text().trim() == "GET /x HTTP/1.1"
}

/// What a client of rustls says first.
fn hello(config: ClientConfig, host: &str) -> Vec<u8> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn each_host_gets_to_its_own_instance_and_the_most_specific_route_wins() {
    let authority = Authority::new();
    let hosts = [
        ("db.example.org", "exact", "db.example.org"),
        ("*.example.org", "wide", "api.example.org"),
        ("*.eu.example.org", "wider", "api.eu.example.org"),
        ("*", "other", "www.test"),
    ];
    let (mut records, mut instances) = (Vec::new(), Vec::new());
    for (pattern, name, host) in hosts {
        let secure = Secure::new(&authority, &[host], None).await;
        records.extend(reaches(pattern, name, secure.addr));
        instances.push(secure);
    }
    let rig = rig(&records);
    for (number, (_, _, host)) in hosts.iter().enumerate() {
        assert!(gets_there(&rig, &authority, host).await, "{host}");
        assert_eq!(instances[number].shaken(), 1, "{host}");
    }
    // Not for this host: the instance's certificate says so, as the router ended nothing.
    assert!(!gets_there(&rig, &authority, "b.example.org").await);
    assert_eq!((passed_on(&rig, "named"), passed_on(&rig, "other")), (4.0, 1.0));
    until("the ends", || rig.in_flight("exact") + rig.in_flight("wide") == 0).await;
}

#[tokio::test]
async fn who_asks_for_no_known_host_gets_the_route_for_any_or_an_alert() {
    let authority = Authority::new();
    let secure = Secure::new(&authority, &["a.test", "127.0.0.1"], None).await;
    let mut rig = rig(&reaches("a.test", "a", secure.addr));
    for host in ["b.test", "127.0.0.1"] {
        let refused = shake(rig.tcp, client(&authority), host).await.unwrap_err();
        assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    }
    assert_eq!((passed_on(&rig, "unknown_name"), passed_on(&rig, "no_name")), (1.0, 1.0));
    assert_eq!(rig.ended("no_route"), 2.0);
    rig.apply_and_wait(&reaches("*", "other", secure.addr)).await;
    assert!(gets_there(&rig, &authority, "127.0.0.1").await);
    assert_eq!(passed_on(&rig, "unnamed"), 1.0);
}

/// An instance that answers with what it got once that is so much.
async fn sending_back(bytes: usize) -> Instance {
    Instance::raw(move |mut peer, _| async move {
        let got = peer.read(bytes).await;
        peer.send(got).await;
    })
    .await
}

#[tokio::test]
async fn what_a_client_says_first_is_passed_on_as_it_came_in_whatever_pieces() {
    let whole = hello(client(&Authority::new()), "a.test");
    // Records of seven bytes, of which each comes alone.
    let pieces: Vec<Vec<u8>> = whole[5..]
        .chunks(7)
        .map(|part| [&[22, 3, 1, 0, part.len() as u8][..], part].concat())
        .chain([b"and more".to_vec()])
        .collect();
    let all = pieces.concat();
    let instance = sending_back(all.len()).await;
    let rig = rig(&reaches("*.test", "a", instance.addr));
    let mut client = Peer::connect(rig.tcp).await;
    for piece in &pieces {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert!(client.rest().await == all);
    drop(client);
    rig.settled("a").await;
}

#[tokio::test]
async fn what_is_no_hello_is_refused_in_words_of_tls_if_it_is_tls() {
    let instance = Instance::echo().await;
    let rig = rig_with(&reaches("*", "a", instance.addr), |config| {
        config.timeouts.client_header = Duration::from_millis(300);
    });
    let refused = async |bytes: &[u8]| {
        let mut client = Peer::connect(rig.tcp).await;
        client.send(bytes).await;
        client.rest_or_reset().await
    };
    let alert = |kind| (vec![21, 3, 3, 0, 2, 2, kind], true);
    assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n").await, (Vec::new(), false));
    assert_eq!(refused(&[22, 3, 1, 0, 4, 2, 0, 0, 0]).await, alert(10));
    assert_eq!(refused(&[22, 3, 1, 0, 4, 1, 0, 0, 0]).await, alert(50));
    let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xff];
    endless.resize(20_000, 0);
    endless[5 + 16_384..][..5].copy_from_slice(&[22, 3, 1, 0, 1]);
    assert_eq!(refused(&endless).await, alert(50));
    let whole = hello(client(&Authority::new()), "a.test");
    assert_eq!(refused(&whole[..100]).await, (Vec::new(), false), "the rest never comes");
    Peer::connect(rig.tcp).await.shut().await;
    for (outcome, count) in [("not_tls", 1.0), ("malformed", 3.0), ("late", 1.0), ("gone", 1.0)] {
        until(outcome, || passed_on(&rig, outcome) == count).await;
    }
    assert_eq!((rig.ended("handshake_failed"), rig.ended("handshake_timeout")), (4.0, 1.0));
    assert_eq!(instance.connections(), 0);
}

#[tokio::test]
async fn a_route_that_changes_leaves_connections_alone() {
    let authority = Authority::new();
    let secure = Secure::new(&authority, &["a.test"], None).await;
    let other = Secure::new(&authority, &["a.test"], None).await;
    let mut rig = rig(&reaches("a.test", "a", secure.addr));
    let stream = shake(rig.tcp, client(&authority), "a.test").await.unwrap();
    let mut before = Peer::over(stream);
    assert_eq!(before.get("/1").await.status(), 200);
    rig.apply_and_wait(&[
        service("b", true),
        instance("b", "b", other.addr),
        to("a.test", "b"),
        to("b.test", "a"),
    ])
    .await;
    assert_eq!(before.get("/2").await.status(), 200);
    assert!(gets_there(&rig, &authority, "a.test").await);
    assert_eq!((secure.shaken(), other.shaken()), (1, 1));
}

/// The extensions of the header that the first connection to an instance begins with.
async fn told(peer: &mut Peer) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        bytes.extend(peer.read(1).await);
        if let Parsed::Header(header) = parse(&bytes).unwrap() {
            assert_eq!(header.len, bytes.len());
            break;
        }
    }
    // Behind two IPv4 addresses with their ports.
    let mut rest = &bytes[16 + 12..];
    let mut all = Vec::new();
    while let [kind, high, low, after @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        all.push((*kind, after[..len].to_vec()));
        rest = &after[len..];
    }
    all
}

/// An instance that reads a header of version 2, and where what it says ends up.
async fn telling() -> (Instance, tokio::sync::mpsc::UnboundedReceiver<Vec<(u8, Vec<u8>)>>) {
    let (said, heard) = tokio::sync::mpsc::unbounded_channel();
    let instance = Instance::raw(move |mut peer, _| {
        let said = said.clone();
        async move {
            said.send(told(&mut peer).await).unwrap();
            peer.gone().await;
        }
    })
    .await;
    (instance, heard)
}

const ALPN: u8 = 1;
const AUTHORITY: u8 = 2;
const CHECKSUM: u8 = 3;

fn asks_for_headers() -> Event {
    service_with("a", |service| service.proxy_protocol = Some(ProxyVersion::V2))
}

#[tokio::test]
async fn an_instance_is_told_of_the_host_before_the_first_byte() {
    let (instance, mut heard) = telling().await;
    let mut records = reaches("*", "a", instance.addr);
    records.push(asks_for_headers());
    let rig = rig_with(&records, |config| {
        config.listeners[1].proxy_protocol = ProxyProtocol::Optional;
        config.listeners[1].trusted_peers = vec!["127.0.0.0/8".parse().unwrap()];
    });
    // A proxy in front names its client first, and then comes what the client says.
    let mut peer = Peer::connect(rig.tcp).await;
    let whole = hello(client(&Authority::new()), "A.test");
    peer.send([b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", &whole[..]].concat()).await;
    let told = within("the header", heard.recv()).await.unwrap();
    assert_eq!(told[0], (AUTHORITY, b"a.test".to_vec()));
    assert_eq!((told.len(), told[1].0), (2, CHECKSUM));
}

#[tokio::test]
async fn an_instance_behind_ended_tls_is_told_what_was_agreed_on() {
    let authority = Authority::new();
    let (instance, mut heard) = telling().await;
    let mut records = super::rig::web(&[instance.addr]);
    records.push(service_with("web", |service| service.proxy_protocol = Some(ProxyVersion::V2)));
    let rig = Rig::with(&records, |config| {
        let alpn = vec![b"redis".to_vec(), b"postgresql".to_vec()];
        let tls = portolan_router::TlsSettings { alpn, ..Default::default() };
        config.listeners[1].tls = Some(tls);
    });
    rig.router.certificates().publish(super::authority::set(&[&authority.issue(&["a.test"])]));
    let mut config = client(&authority);
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let _agreed = shake(rig.tcp, config.clone(), "a.test").await.unwrap();
    let told = within("the header", heard.recv()).await.unwrap();
    assert_eq!(told[0], (ALPN, b"postgresql".to_vec()));
    assert_eq!(told[1], (AUTHORITY, b"a.test".to_vec()));
    let _silent = shake(rig.tcp, client(&authority), "a.test").await.unwrap();
    assert_eq!(within("the header", heard.recv()).await.unwrap()[0].0, AUTHORITY);
    config.alpn_protocols = vec![b"other".to_vec()];
    assert!(shake(rig.tcp, config, "a.test").await.is_err(), "nothing in common (RFC 7301)");
}

/// What a client of PostgreSQL says first.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// An instance that is asked for TLS first, gives this answer, and sends back what follows.
async fn asked_first(answer: &'static str, bytes: usize) -> Instance {
    Instance::raw(move |mut peer, _| async move {
        assert_eq!(peer.read(8).await, SSL_REQUEST);
        peer.send(answer).await;
        if let Some(got) = peer.try_read(bytes).await {
            peer.send(got).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_client_of_postgresql_asks_for_tls_first_and_so_is_its_instance() {
    let whole = hello(client(&Authority::new()), "a.test");
    let (willing, other) = (asked_first("S", whole.len()).await, asked_first("N", 1).await);
    let mut records = reaches("a.test", "a", willing.addr);
    records.extend(reaches("b.test", "b", other.addr));
    let rig = rig(&records);
    let mut peer = Peer::connect(rig.tcp).await;
    peer.send(GSS_REQUEST).await;
    assert_eq!(peer.read(1).await, b"N");
    peer.send(&SSL_REQUEST[..3]).await;
    tokio::task::yield_now().await;
    peer.send(&SSL_REQUEST[3..]).await;
    assert_eq!(peer.read(1).await, b"S");
    peer.send(&whole).await;
    assert!(peer.rest().await == whole);
    // One without TLS gets nothing of it.
    let mut peer = Peer::connect(rig.tcp).await;
    peer.send(SSL_REQUEST).await;
    assert_eq!(peer.read(1).await, b"S");
    peer.send(hello(client(&Authority::new()), "b.test")).await;
    assert!(!peer.rest_or_reset().await.1);
    // Nor is anything taken that came with the question: it is not the client's, maybe.
    let mut peer = Peer::connect(rig.tcp).await;
    peer.send([&SSL_REQUEST[..], &whole].concat()).await;
    assert_eq!(peer.rest_or_reset().await, (Vec::new(), false));
    until("what is no TLS", || passed_on(&rig, "not_tls") == 1.0).await;
}

#[tokio::test]
async fn a_client_of_postgresql_may_ask_where_tls_ends_at_a_tcp_listener() {
    let authority = Authority::new();
    let instance = Instance::named("plain").await;
    let rig = Rig::with(&super::rig::web(&[instance.addr]), |config| {
        config.listeners[0].tls = Some(Default::default());
        config.listeners[1].tls = Some(Default::default());
    });
    rig.router.certificates().publish(super::authority::set(&[&authority.issue(&["a.test"])]));
    let ask = async |addr| {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &SSL_REQUEST).await.unwrap();
        let mut answer = [0];
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut answer);
        (within("an answer", read).await.unwrap_or(0) == 1).then_some((stream, answer))
    };
    let (stream, answer) = ask(rig.tcp).await.unwrap();
    assert_eq!(&answer, b"S");
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client(&authority)));
    let shaken = connector.connect(ServerName::try_from("a.test").unwrap(), stream);
    let mut peer = Peer::over(within("a handshake", shaken).await.unwrap());
    assert_eq!(peer.get("/").await.text(), "plain");
    assert!(ask(rig.http).await.is_none(), "nobody asks an HTTP listener");
}
