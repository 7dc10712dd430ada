//! Datagrams through the router.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portolan_discovery::model::{
    Balancing, Event, HashBy, ListenerName, Protocol, RouteName, Rule, Weight,
};
use portolan_router::{BindError, Config, ListenerConfig, Router};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::peer::within;
use super::rig::{
    Rig, draining, instance, instance_with, listener, route, routed, service_with, until, without,
};

/// Answers each datagram with its own name before it.
struct Echo {
    addr: SocketAddr,
    seen: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Echo {
    async fn named(name: &'static str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (addr, seen) = (socket.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut datagram = vec![0; 65_535];
            loop {
                let (length, peer) = socket.recv_from(&mut datagram).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let answer = [name.as_bytes(), &datagram[..length]].concat();
                let _ = socket.send_to(&answer, peer).await;
            }
        });
        Self { addr, seen, task }
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

/// A client that takes answers only from the address that it asks.
struct Client(UdpSocket);

impl Client {
    async fn of(addr: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(addr).await.unwrap();
        Self(socket)
    }

    async fn send(&self, datagram: impl AsRef<[u8]>) {
        self.0.send(datagram.as_ref()).await.unwrap();
    }

    async fn receive(&self) -> Vec<u8> {
        let mut answer = vec![0; 65_535];
        let length = within("an answer", self.0.recv(&mut answer)).await.unwrap();
        answer.truncate(length);
        answer
    }

    async fn ask(&self, datagram: impl AsRef<[u8]>) -> String {
        self.send(datagram).await;
        String::from_utf8(self.receive().await).unwrap()
    }

    async fn is_silent(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.receive()).await.is_err()
    }
}

fn name() -> ListenerName {
    listener("udp")
}

/// The records of a service `web` behind the UDP listener.
fn records(instances: &[SocketAddr]) -> Vec<Event> {
    let ids = ["a", "b", "c", "d"];
    let mut records: Vec<Event> =
        instances.iter().zip(ids).map(|(addr, id)| instance("web", id, *addr)).collect();
    records.push(service_with("web", |service| service.balancing = Balancing::RoundRobin));
    records.push(routed(&udp_route("web")));
    records
}

fn udp_route(to: &str) -> portolan_discovery::model::Route {
    let mut udp = route("/", to);
    udp.name = RouteName::parse("udp").unwrap();
    (udp.listener, udp.rule) = (Some(name()), Rule::Udp);
    udp
}

fn rig(records: &[Event], configure: impl FnOnce(&mut Config)) -> (Rig, SocketAddr) {
    let rig = Rig::with(records, |config| {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        config.listeners.push(ListenerConfig::new(name(), any, Protocol::Udp));
        configure(config);
    });
    let addrs = rig.router.local_addrs();
    let addr = addrs.iter().find(|(listener, _)| *listener == name()).unwrap().1;
    (rig, addr)
}

fn datagrams(rig: &Rig, direction: &str) -> f64 {
    rig.metric("portolan_router_udp_datagrams_total", &[("direction", direction)])
}

#[tokio::test]
async fn each_client_gets_its_own_answers_from_the_address_that_it_asked() {
    let echo = Echo::named("e").await;
    let (rig, addr) = rig(&records(&[echo.addr]), |config| {
        config.workers = 2;
        let of_the_listener = config.listeners.last_mut().unwrap();
        of_the_listener.bind = SocketAddr::from(([127, 0, 0, 7], 0));
    });
    assert_eq!(addr.ip().to_string(), "127.0.0.7");
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::of(addr).await);
    }
    for round in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            let asked = format!("{round} {number}");
            assert_eq!(client.ask(&asked).await, format!("e{asked}"));
        }
    }
    let service = [("service", "web")];
    assert_eq!(rig.metric("portolan_router_udp_sessions_total", &service), 20.0);
    assert_eq!(rig.in_flight("web"), 20);
    until("all are counted", || datagrams(&rig, "sent") == 60.0).await;
    assert_eq!(datagrams(&rig, "received"), 60.0);
    let open = rig.metric("portolan_router_connections_open", &[("listener", "udp")]);
    assert_eq!(open, 20.0);
}

#[tokio::test]
async fn a_datagram_of_any_size_is_passed_on_as_it_is() {
    let echo = Echo::named("").await;
    let (rig, addr) = rig(&records(&[echo.addr]), |_| {});
    let client = Client::of(addr).await;
    for size in [0, 1, 512, 1_472, 1_501, 9_000, 65_507] {
        let datagram: Vec<u8> = (0..size).map(|at| at as u8).collect();
        client.send(&datagram).await;
        assert!(client.receive().await == datagram, "{size} bytes");
    }
    until("bytes are counted", || {
        let sent = [("direction", "sent")];
        rig.metric("portolan_router_udp_bytes_total", &sent) == 77_993.0
    })
    .await;
}

#[tokio::test]
async fn sessions_are_spread_by_policy_and_weight_and_stay_where_they_are() {
    let (a, b) = (Echo::named("a").await, Echo::named("b").await);
    let mut records = records(&[a.addr, b.addr]);
    records.push(instance_with("web", "b", b.addr, |record| {
        record.weight = Weight(300.try_into().unwrap());
    }));
    let (mut rig, addr) = rig(&records, |_| {});
    let mut all = String::new();
    for _ in 0..8 {
        let client = Client::of(addr).await;
        let first = client.ask("").await;
        for _ in 0..3 {
            assert_eq!(client.ask("").await, first);
        }
        all.push_str(&first);
    }
    assert_eq!(all.matches('b').count(), 6, "{all}");
    // Clients are told apart by their address, not by their port.
    let by_source = service_with("web", |service| {
        service.balancing = Balancing::Hash(HashBy::Source);
    });
    rig.apply_and_wait(&[by_source]).await;
    let first = Client::of(addr).await.ask("").await;
    for _ in 0..8 {
        assert_eq!(Client::of(addr).await.ask("").await, first);
    }
}

#[tokio::test]
async fn what_nobody_takes_at_one_instance_goes_to_another_one() {
    let echo = Echo::named("e").await;
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (rig, addr) = rig(&records(&[gone, echo.addr]), |_| {});
    for _ in 0..16 {
        // One datagram each: none is lost.
        assert_eq!(Client::of(addr).await.ask("x").await, "ex");
    }
    let service = [("service", "web")];
    let failures = rig.metric("portolan_router_connect_failures_total", &service);
    assert_eq!(failures, 5.0, "after that it is left alone");
    assert_eq!(rig.metric("portolan_router_ejections_total", &service), 1.0);
    assert_eq!(rig.metric("portolan_router_retries_total", &service), 5.0);
    assert_eq!(echo.seen(), 16);
}

#[tokio::test]
async fn a_session_whose_instance_dies_goes_on_at_another_one() {
    let (a, b) = (Echo::named("a").await, Echo::named("b").await);
    let (rig, addr) = rig(&records(&[a.addr, b.addr]), |_| {});
    let client = Client::of(addr).await;
    let (first, other) = match client.ask("").await.as_str() {
        "a" => (a, "b"),
        _ => (b, "a"),
    };
    first.task.abort();
    // The socket is closed when the task is gone.
    until("the instance is gone", || first.task.is_finished()).await;
    // What is lost is what nobody can know of: a datagram in the middle of a session.
    client.send("lost").await;
    rig.ends("upstream_connect_refused").await;
    assert_eq!(client.ask("").await, other);
}

#[tokio::test]
async fn what_leads_nowhere_is_dropped_and_counted() {
    let (mut rig, addr) = rig(&[], |_| {});
    let client = Client::of(addr).await;
    client.send("x").await;
    rig.ends("no_route").await;
    rig.apply_and_wait(&[routed(&udp_route("web"))]).await;
    client.send("x").await;
    rig.ends("bad_reference").await;
    rig.apply_and_wait(&[service_with("web", |_| {})]).await;
    client.send("x").await;
    rig.ends("no_instance").await;
    assert!(client.is_silent().await);
    assert_eq!(rig.metric("portolan_router_connections_open", &[("listener", "udp")]), 0.0);
}

#[tokio::test]
async fn a_session_ends_when_it_is_quiet_and_not_before() {
    let echo = Echo::named("e").await;
    let (rig, addr) = rig(&records(&[echo.addr]), |config| {
        config.timeouts.udp_idle = Duration::from_millis(600);
    });
    let client = Client::of(addr).await;
    for _ in 0..10 {
        assert_eq!(client.ask("").await, "e");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let service = [("service", "web")];
    assert_eq!(rig.metric("portolan_router_udp_sessions_total", &service), 1.0);
    rig.settled("web").await;
    assert_eq!(client.ask("").await, "e");
    assert_eq!(rig.metric("portolan_router_udp_sessions_total", &service), 2.0);
}

#[tokio::test]
async fn sessions_have_a_limit_and_those_that_are_there_go_on() {
    let echo = Echo::named("e").await;
    let (rig, addr) = rig(&records(&[echo.addr]), |config| {
        config.limits.udp_sessions_max = 2;
        config.timeouts.udp_idle = Duration::from_millis(500);
    });
    let (first, second) = (Client::of(addr).await, Client::of(addr).await);
    assert_eq!((first.ask("").await, second.ask("").await), ("e".into(), "e".into()));
    let third = Client::of(addr).await;
    third.send("").await;
    let shed = || rig.metric("portolan_router_shed_total", &[("cause", "sessions")]);
    until("it is counted", || shed() == 1.0).await;
    assert_eq!(first.ask("x").await, "ex");
    rig.settled("web").await;
    assert_eq!(third.ask("").await, "e");
}

#[tokio::test]
async fn a_session_leaves_an_instance_that_is_gone_but_not_one_that_drains() {
    let (a, b) = (Echo::named("a").await, Echo::named("b").await);
    let (mut rig, addr) = rig(&records(&[a.addr]), |_| {});
    let client = Client::of(addr).await;
    assert_eq!(client.ask("").await, "a");
    rig.apply_and_wait(&[draining("web", "a", a.addr), instance("web", "b", b.addr)]).await;
    assert_eq!(client.ask("").await, "a", "only it knows what was said before");
    assert_eq!(Client::of(addr).await.ask("").await, "b");
    rig.apply_and_wait(&[without("web", "a")]).await;
    assert_eq!(client.ask("").await, "b");
    // Nor does it stay with a service that its listener leads to no more.
    let records = [instance("other", "c", a.addr), routed(&udp_route("other"))];
    rig.apply_and_wait(&records).await;
    assert_eq!(client.ask("").await, "a");
    until("the others are over", || rig.in_flight("web") <= 1).await;
}

#[tokio::test]
async fn a_drain_lets_sessions_go_on_until_they_are_quiet_and_begins_none() {
    let echo = Echo::named("e").await;
    let (rig, addr) = rig(&records(&[echo.addr]), |config| {
        config.timeouts.drain_grace = Duration::from_millis(50);
    });
    let client = Client::of(addr).await;
    assert_eq!(client.ask("").await, "e");
    let talk = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert_eq!(client.ask("x").await, "ex");
        }
        let late = Client::of(addr).await;
        late.send("").await;
        rig.ends("draining").await;
        assert!(late.is_silent().await);
    };
    let drain = rig.router.drain(Duration::from_secs(20));
    let (cut, ()) = tokio::join!(drain, talk);
    assert_eq!(cut, 0);
    assert_eq!(rig.in_flight("web"), 0);
}

#[tokio::test]
async fn a_session_that_does_not_end_in_a_drain_is_cut_and_counted() {
    let echo = Echo::named("e").await;
    let (rig, addr) = rig(&records(&[echo.addr]), |_| {});
    let client = Client::of(addr).await;
    assert_eq!(client.ask("").await, "e");
    assert_eq!(rig.router.drain(Duration::ZERO).await, 1);
    assert_eq!(rig.ended("drain_cut"), 1.0);
    assert_eq!(rig.in_flight("web"), 0);
}

#[tokio::test]
async fn a_listener_needs_an_address_of_its_own_that_nobody_has() {
    let bind = |addr: SocketAddr| {
        let listener = ListenerConfig::new(name(), addr, Protocol::Udp);
        Router::bind(Config::new(vec![listener]), &prometheus::Registry::new())
    };
    for all in ["0.0.0.0:0", "[::]:0"] {
        let error = bind(all.parse().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::UdpWildcard { .. }), "{error}");
    }
    let (_rig, addr) = rig(&[], |_| {});
    assert!(matches!(bind(addr).unwrap_err(), BindError::InUse { .. }));
}
