//! Listeners at virtual addresses: several services by one port, and how such listeners come and
//! go.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portolan_discovery::model::ServiceName;
use portolan_router::{
    Config, Router, Table, VIRTUAL_LISTENER, VIRTUAL_RETRY_MAX, VIRTUAL_RETRY_MIN, VirtualStatus,
};
use prometheus::Registry;

use super::instance::Instance;
use super::peer::{DEADLINE, Peer, within};
use super::rig::{Rig, instance, until, web};

/// Says its name, then repeats what it hears.
async fn named(name: &'static str) -> Instance {
    Instance::raw(move |mut peer, _| async move {
        peer.send(name).await;
        while let Some(bytes) = peer.try_read(1).await {
            if !peer.try_send(bytes).await {
                return;
            }
        }
    })
    .await
}

fn rig(one: &Instance, two: &Instance, workers: usize) -> Rig {
    let mut records = web(&[one.addr]);
    records.push(instance("two", "a", two.addr));
    Rig::with(&records, |config| {
        config.workers = workers;
        config.limits.virtual_listeners_max = 3;
    })
}

/// Addresses of a network that no other test has, with a port that is free.
fn addrs(test: u8) -> [SocketAddr; 4] {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    [1, 2, 3, 4].map(|last| SocketAddr::new(IpAddr::from([127, 64, test, last]), port))
}

#[expect(clippy::disallowed_methods, reason = "a test is a shell")]
fn now() -> Instant {
    Instant::now()
}

/// Listens at these addresses and no others from now on.
fn listen(router: &Router, wanted: &[(&str, SocketAddr)], now: Instant) {
    let wanted: Vec<_> =
        wanted.iter().map(|(name, addr)| (ServiceName::parse(name).unwrap(), *addr)).collect();
    router.listen_virtual(wanted.iter().map(|(name, addr)| (name, *addr)), now);
}

async fn connected(addr: SocketAddr, count: usize) -> Vec<Peer> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Peer::connect(addr).await);
    }
    clients
}

async fn is_refused(addr: SocketAddr) {
    until("nobody listens", || TcpStream::connect(addr).is_err()).await;
}

fn failures(status: &[VirtualStatus]) -> Vec<Option<&str>> {
    status.iter().map(|one| one.failure.as_deref()).collect()
}

#[tokio::test]
async fn two_services_are_reached_by_the_same_port_and_one_that_goes_leaves_its_connections_be() {
    let (one, two) = (named("1").await, named("2").await);
    let rig = rig(&one, &two, 3);
    let [first, second, ..] = addrs(1);
    let both = [("web", first), ("two", second)];
    listen(&rig.router, &both, now());
    for _ in 0..20 {
        for (addr, expected) in [(first, b"1"), (second, b"2")] {
            let mut client = Peer::connect(addr).await;
            assert_eq!(client.read(1).await, expected);
        }
    }
    assert_eq!(failures(&rig.router.virtual_status()), [None, None]);
    let listeners = |state| rig.metric("portolan_router_virtual_listeners", &[("state", state)]);
    assert_eq!((listeners("listening"), listeners("failed")), (2.0, 0.0));
    let name = [("listener", VIRTUAL_LISTENER)];
    assert_eq!(rig.metric("portolan_router_connections_total", &name), 40.0);
    let mut open = Peer::connect(first).await;
    assert_eq!(open.read(1).await, b"1");
    // Said again, nothing changes.
    listen(&rig.router, &both, now());
    listen(&rig.router, &both[1..], now());
    is_refused(first).await;
    open.send("x").await;
    assert_eq!(open.read(1).await, b"x");
    assert_eq!(Peer::connect(second).await.read(1).await, b"2");
    // The same address is somebody else's now.
    listen(&rig.router, &[("two", first)], now());
    is_refused(second).await;
    assert_eq!(Peer::connect(first).await.read(1).await, b"2");
    assert_eq!(rig.router.virtual_status().len(), 1);
    drop(open);
    until("no connection", || rig.router.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_connected_when_a_listener_goes_is_served() {
    let (one, two) = (named("1").await, named("2").await);
    let rig = rig(&one, &two, 2);
    let [addr, ..] = addrs(2);
    for _ in 0..20 {
        listen(&rig.router, &[("web", addr)], now());
        // So many are spread over all workers: each of these has begun to accept.
        for mut client in connected(addr, 64).await {
            assert_eq!(client.read(1).await, b"1");
        }
        let mut clients: Vec<_> =
            (0..8).map(|_| TcpStream::connect_timeout(&addr, DEADLINE).unwrap()).collect();
        listen(&rig.router, &[], now());
        for client in &mut clients {
            let mut byte = [0];
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"1");
        }
        is_refused(addr).await;
    }
}

#[tokio::test]
async fn an_address_in_use_is_tried_again_ever_more_rarely_and_keeps_nobody_else() {
    let (one, two) = (named("1").await, named("2").await);
    let rig = rig(&one, &two, 1);
    let [taken, free, ..] = addrs(3);
    let held = std::net::TcpListener::bind(taken).unwrap();
    let mut now = now();
    listen(&rig.router, &[("web", taken), ("two", free)], now);
    assert_eq!(Peer::connect(free).await.read(1).await, b"2");
    let cause = format!("{taken} is in use");
    assert_eq!(failures(&rig.router.virtual_status()), [Some(&*cause), None]);
    let count = || rig.metric("portolan_router_virtual_bind_failures_total", &[]);
    assert_eq!(count(), 1.0);
    let (mut wait, mut expected) = (VIRTUAL_RETRY_MIN, 1.0);
    for _ in 0..10 {
        now += wait - Duration::from_millis(1);
        rig.router.retry_virtual(now);
        // A change of the table is no reason to hurry, either.
        listen(&rig.router, &[("web", taken), ("two", free)], now);
        assert_eq!(count(), expected);
        now += Duration::from_millis(1);
        rig.router.retry_virtual(now);
        expected += 1.0;
        assert_eq!(count(), expected);
        wait = (wait * 2).min(VIRTUAL_RETRY_MAX);
    }
    drop(held);
    rig.router.retry_virtual(now + VIRTUAL_RETRY_MAX);
    assert_eq!(Peer::connect(taken).await.read(1).await, b"1");
    assert_eq!(failures(&rig.router.virtual_status()), [None, None]);
    assert_eq!(rig.metric("portolan_router_virtual_listeners", &[("state", "failed")]), 0.0);
}

#[tokio::test]
async fn no_more_are_bound_than_may_be_and_the_next_one_comes_when_one_goes() {
    let (one, two) = (named("1").await, named("2").await);
    let rig = rig(&one, &two, 1);
    let all = addrs(4).map(|addr| ("web", addr));
    let now = now();
    listen(&rig.router, &all, now);
    let status = rig.router.virtual_status();
    let expected = [None, None, None, Some("3 are listened at, and no more may be")];
    assert_eq!(failures(&status), expected);
    assert!(TcpStream::connect(all[3].1).is_err());
    listen(&rig.router, &all[1..], now + VIRTUAL_RETRY_MIN);
    assert_eq!(failures(&rig.router.virtual_status()), [None; 3]);
    assert_eq!(Peer::connect(all[3].1).await.read(1).await, b"1");
    // A router that was not told of any listens at none.
    let none = Rig::web(&[one.addr]);
    listen(&none.router, &all[..1], now);
    let status = none.router.virtual_status();
    assert_eq!(failures(&status), [Some("this router listens at no virtual addresses")]);
}

/// Connects again and again, and counts how often nobody answered.
fn knocking(addr: SocketAddr, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<(u32, u32)> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let ask = || -> std::io::Result<bool> {
            let mut client = TcpStream::connect_timeout(&addr, DEADLINE)?;
            client.set_read_timeout(Some(DEADLINE))?;
            client.write_all(b"x")?;
            let mut said = [0; 2];
            client.read_exact(&mut said)?;
            Ok(said == *b"1x")
        };
        let (mut good, mut bad) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            match ask() {
                Ok(true) => good += 1,
                _ => bad += 1,
            }
        }
        (good, bad)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sockets_go_to_another_router_and_nobody_notices() {
    let (one, two) = (named("1").await, named("2").await);
    let [kept, unwanted, ..] = addrs(5);
    let mut rig = rig(&one, &two, 2);
    let wanted = [("web", kept), ("two", unwanted)];
    listen(&rig.router, &wanted, now());
    let stop = Arc::default();
    let clients = [knocking(kept, &stop), knocking(kept, &stop)];
    for _ in 0..5 {
        let registry = Registry::new();
        let mut config = Config::new(Vec::new());
        config.workers = 2;
        config.limits.virtual_listeners_max = 3;
        let bound = Router::bind(config, &registry).unwrap();
        for sockets in rig.router.virtual_sockets().unwrap() {
            assert_eq!(sockets.name.as_str(), VIRTUAL_LISTENER);
            bound.inherit_virtual(sockets.bind, sockets.sockets);
        }
        let table = Table::compile(rig.snapshot(), None, bound.metrics()).table;
        let next = bound.start(table).unwrap();
        listen(&next, &wanted[..1], now());
        assert_eq!(failures(&next.virtual_status()), [None]);
        let old = std::mem::replace(&mut rig.router, next);
        let taken = |name: &str, addr| name == VIRTUAL_LISTENER && addr == kept;
        assert_eq!(within("the end", old.hand_over(taken, DEADLINE)).await, 0);
        assert_eq!(old.virtual_status(), []);
        // One that drains is not told to listen any more.
        listen(&old, &wanted[1..], now());
        is_refused(unwanted).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (good, bad) = client.join().unwrap();
        assert!(bad == 0 && good > 10, "{good} answers, {bad} failures");
    }
    within("the end", rig.router.drain(DEADLINE)).await;
    is_refused(kept).await;
}

#[tokio::test]
async fn what_becomes_of_a_connection_is_explained_by_the_route_that_it_takes() {
    let (one, two) = (named("1").await, named("2").await);
    let rig = rig(&one, &two, 1);
    let table = rig.router.table();
    let service = |name: &str| ServiceName::parse(name).unwrap();
    let route = Arc::new(portolan_router::RouteEntry::virtual_of(&service("two")));
    let explanation = table.explain_virtual(&route);
    assert_eq!(explanation.listener.as_str(), VIRTUAL_LISTENER);
    let [backend] = explanation.backends.as_slice() else { panic!("{explanation:?}") };
    assert!(backend.exists && backend.service == service("two"));
    assert_eq!(backend.endpoints[0].addr, two.addr);
}
