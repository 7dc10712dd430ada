//! Connections to instances that begin with a PROXY header.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use portolan_discovery::model::route::Percent;
use portolan_discovery::model::{Event, ProxyVersion, ServiceName, route::Mirror};
use portolan_router::ProxyProtocol;
use portolan_router::proxy_protocol::{Ends, Header, Introduction, Parsed, parse, write};

use super::instance::{Instance, ok};
use super::peer::Peer;
use super::rig::{Rig, instance, route, routed, service_with, until, web};

/// The header that a connection begins with.
async fn header(peer: &mut Peer) -> Option<Header> {
    let mut bytes = Vec::new();
    loop {
        bytes.extend(peer.try_read(1).await?);
        match parse(&bytes).expect("a good header") {
            Parsed::More => {}
            Parsed::Absent => panic!("no header: {}", bytes.escape_ascii()),
            Parsed::Header(header) => return Some(header),
        }
    }
}

/// What each connection of an instance began with, in order; none is a header that names nobody.
type Seen = Arc<Mutex<Vec<Option<Ends>>>>;

/// An instance that answers requests behind a header with its client's port.
async fn introduced() -> (Instance, Seen) {
    let seen = Seen::default();
    let all = seen.clone();
    let instance = Instance::raw(move |mut peer, _| {
        let all = all.clone();
        async move {
            let Some(header) = header(&mut peer).await else { return };
            all.lock().unwrap().push(header.ends);
            let port = header.ends.map_or(0, |ends| ends.source.port());
            while peer.request().await.is_some() {
                if !peer.try_send(ok(port.to_string())).await {
                    return;
                }
            }
        }
    })
    .await;
    (instance, seen)
}

fn asking(name: &str, version: ProxyVersion) -> Event {
    service_with(name, |service| service.proxy_protocol = Some(version))
}

fn records(addr: SocketAddr, version: ProxyVersion) -> Vec<Event> {
    [web(&[addr]), vec![asking("web", version)]].concat()
}

#[tokio::test]
async fn an_instance_is_told_of_the_client_before_its_first_request() {
    for version in ProxyVersion::ALL {
        let (instance, seen) = introduced().await;
        let rig = Rig::new(&records(instance.addr, version));
        let mut client = rig.client().await;
        let port = client.local_addr().port();
        for _ in 0..3 {
            assert_eq!(client.get("/").await.text(), port.to_string());
        }
        let ends = Ends { source: client.local_addr(), destination: rig.http };
        assert_eq!(*seen.lock().unwrap(), [Some(ends)], "one connection, one header");
    }
}

#[tokio::test]
async fn a_connection_that_was_opened_for_a_client_serves_no_other_one_and_ends_with_it() {
    let (instance, seen) = introduced().await;
    let rig = Rig::new(&records(instance.addr, ProxyVersion::V2));
    let mut clients = [rig.client().await, rig.client().await, rig.client().await];
    for _ in 0..3 {
        for client in &mut clients {
            let port = client.local_addr().port();
            assert_eq!(client.get("/").await.text(), port.to_string());
        }
    }
    assert_eq!(instance.connections(), 3);
    // Nor is one that is idle used for somebody who comes later.
    drop(clients);
    let mut client = rig.client().await;
    let port = client.local_addr().port();
    assert_eq!(client.get("/").await.text(), port.to_string());
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn what_was_kept_for_a_client_is_closed_when_it_goes() {
    let open = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = open.clone();
    let instance = Instance::raw(move |mut peer, _| {
        let count = count.clone();
        async move {
            if header(&mut peer).await.is_none() {
                return;
            }
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            while peer.request().await.is_some() {
                peer.send(ok("x")).await;
            }
            count.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        }
    })
    .await;
    let rig = Rig::new(&records(instance.addr, ProxyVersion::V1));
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(open.load(std::sync::atomic::Ordering::SeqCst), 1);
    drop(client);
    until("its connection is closed", || open.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn who_a_proxy_in_front_names_is_the_client_for_the_instance() {
    let named = Ends {
        source: "198.51.100.7:1234".parse().unwrap(),
        destination: "192.0.2.1:443".parse().unwrap(),
    };
    for version in ProxyVersion::ALL {
        let (instance, seen) = introduced().await;
        let rig = Rig::with(&records(instance.addr, version), |config| {
            for listener in &mut config.listeners {
                listener.proxy_protocol = ProxyProtocol::Required;
                listener.trusted_peers = vec!["127.0.0.0/8".parse().unwrap()];
            }
        });
        let mut first = Vec::new();
        write(ProxyVersion::V2, &Introduction::of(named), &mut first);
        let mut client = rig.client().await;
        client.send(first).await;
        assert_eq!(client.get("/").await.text(), "1234");
        // A connection of the proxy's own is that of its socket.
        let mut check = rig.client().await;
        check.send(ProxyVersion::V1.of_our_own()).await;
        assert_eq!(check.get("/").await.text(), check.local_addr().port().to_string());
        assert_eq!(seen.lock().unwrap()[0], Some(named));
    }
}

#[tokio::test]
async fn of_a_tcp_connection_the_header_comes_first_and_then_what_the_client_sends() {
    let instance = Instance::raw(|mut peer, _| async move {
        let Some(header) = header(&mut peer).await else { return };
        peer.send(format!("{}\n", header.ends.unwrap().source)).await;
        let all = peer.rest().await;
        peer.send(all).await;
    })
    .await;
    for version in ProxyVersion::ALL {
        let rig = Rig::new(&records(instance.addr, version));
        let mut client = Peer::connect(rig.tcp).await;
        let expected = format!("{}\nhello", client.local_addr());
        // The server speaks first, as many do: the header does not wait for the client.
        let greeting = client.read(expected.len() - 5).await;
        client.send("hello").await;
        client.shut().await;
        let all = [greeting, client.rest().await].concat();
        assert_eq!(String::from_utf8(all).unwrap(), expected);
    }
}

#[tokio::test]
async fn a_client_of_a_socket_for_both_families_has_the_address_of_its_own() {
    let (instance, seen) = introduced().await;
    let rig = Rig::with(&records(instance.addr, ProxyVersion::V1), |config| {
        for listener in &mut config.listeners {
            listener.bind = "[::]:0".parse().unwrap();
        }
    });
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for ip in [loopback, "::1".parse().unwrap()] {
        let mut client = Peer::connect(SocketAddr::new(ip, rig.http.port())).await;
        assert_eq!(client.get("/").await.status(), 200);
        let ends = seen.lock().unwrap().pop().unwrap().unwrap();
        assert_eq!((ends.source, ends.destination.ip()), (client.local_addr(), ip));
    }
}

#[tokio::test]
async fn a_copy_is_the_router_s_own_request() {
    let (instance, _seen) = introduced().await;
    let (shadow, copied) = introduced().await;
    let mut mirrored = route("/", "web");
    let to = ServiceName::parse("shadow").unwrap();
    mirrored.mirror = Some(Box::new(Mirror { service: to, percent: Percent::ALL }));
    let mut records = records(instance.addr, ProxyVersion::V2);
    records.extend([
        routed(&mirrored),
        super::rig::instance("shadow", "s", shadow.addr),
        asking("shadow", ProxyVersion::V2),
    ]);
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    for count in 1..=2 {
        assert_eq!(client.get("/").await.status(), 200);
        let answered = [("outcome", "answered")];
        let copies = || rig.metric("portolan_router_mirrored_total", &answered);
        until("the copy is answered", || copies() == f64::from(count)).await;
    }
    assert_eq!(*copied.lock().unwrap(), [None, None], "nobody's, and not for others");
}

#[tokio::test]
async fn a_service_that_begins_to_ask_gets_no_connection_from_before() {
    let plain = Instance::named("plain").await;
    let mut rig = Rig::web(&[plain.addr]);
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.text(), "plain");
    rig.apply_and_wait(&[asking("web", ProxyVersion::V1)]).await;
    // The instance has not been told: to it the header is a bad request, on a new connection.
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    client.response().await;
    assert_eq!(plain.connections(), 2);
    let (instance, _seen) = introduced().await;
    rig.apply_and_wait(&[instance_at(instance.addr)]).await;
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.text(), client.local_addr().port().to_string());
}

fn instance_at(addr: SocketAddr) -> Event {
    instance("web", "a", addr)
}
