//! Tables that change under traffic.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use portolan_discovery::model::{Balancing, Event, RouteName, Service, ServiceName, Weight};
use tokio::task::JoinSet;

use super::instance::Instance;
use super::peer::{Peer, within};
use super::rig::{
    Rig, draining, instance, instance_with, put_service, route, routed, service, until, web,
    without,
};

/// Clients that send GET and POST in turn until they are stopped, and count their responses.
struct Load {
    stop: Arc<AtomicBool>,
    /// Failures are allowed now.
    forgiving: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(addr: SocketAddr, clients: usize) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            forgiving: Arc::default(),
            answered: Arc::default(),
            clients: JoinSet::new(),
        };
        for number in 0..clients {
            let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
            let forgiving = Arc::clone(&load.forgiving);
            load.clients.spawn(async move {
                let mut client = Peer::connect(addr).await;
                let mut turn = number;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let response = match turn % 2 {
                        0 => client.get("/").await,
                        _ => client.ask(POST).await,
                    };
                    if !forgiving.load(Ordering::Relaxed) {
                        assert_eq!(response.status(), 200, "{}", response.text());
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Fails the test if any request has failed.
    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = within("the clients", self.clients.join_next()).await {
            ended.unwrap();
        }
        self.answered()
    }
}

const POST: &str = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stops_after_its_drain_takes_no_request_with_it() {
    let mut instances = vec![Instance::named("x").await, Instance::named("x").await];
    let mut rig = Rig::with(&web(&[instances[0].addr, instances[1].addr]), |config| {
        config.workers = 2;
    });
    let load = Load::start(rig.http, 16);
    for round in 0..30 {
        let enough = load.answered() + 50;
        until("some traffic", || load.answered() > enough).await;
        let next = Instance::named("x").await;
        let (old_id, new_id) = (format!("r{round}"), format!("r{}", round + 1));
        let (old_id, old) = match round {
            0 => ("a", instances.remove(0)),
            _ => (old_id.as_str(), instances.pop().unwrap()),
        };
        rig.apply_and_wait(&[instance("web", &new_id, next.addr)]).await;
        rig.apply_and_wait(&[draining("web", old_id, old.addr)]).await;
        let under_way = || rig.router.table().draining().map(|(_, _, count)| count).sum::<u64>();
        until("nothing under way", || under_way() == 0).await;
        drop(old);
        rig.apply(&[without("web", old_id)]);
        instances.push(next);
    }
    assert!(load.end().await > 30 * 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_dies_fails_what_it_had_under_way_and_nothing_later() {
    let (a, b) = (Instance::named("a").await, Instance::named("b").await);
    let dying = Instance::named("c").await;
    let mut records = web(&[a.addr, b.addr, dying.addr]);
    // Nobody learns from what fails, so that it goes on failing.
    let named = Service::named(ServiceName::parse("web").unwrap());
    records.push(put_service(&Service {
        balancing: Balancing::RoundRobin,
        ejection: None,
        ..named
    }));
    let rig = Rig::with(&records, |config| config.workers = 2);
    let load = Load::start(rig.http, 16);
    until("some traffic", || dying.requests() > 200).await;
    load.forgiving.store(true, Ordering::Relaxed);
    drop(dying);
    tokio::time::sleep(Duration::from_millis(100)).await;
    load.forgiving.store(false, Ordering::Relaxed);
    // The table still has it: every third request meets it first.
    let enough = load.answered() + 1_500;
    until("more traffic", || load.answered() > enough).await;
    load.end().await;
    assert!(rig.metric("portolan_router_retries_total", &[]) > 200.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_table_is_replaced_without_pause() {
    const CLIENTS: usize = 100;
    const REQUESTS: usize = 3_000;
    let fixed = Instance::named("fixed").await;
    let moving = [Instance::named("b").await, Instance::named("c").await];
    let mut rig = Rig::with(&web(&[fixed.addr, moving[0].addr, moving[1].addr]), |config| {
        config.workers = 2;
    });
    let load = Load::start(rig.http, CLIENTS);
    let mut changes = 0;
    while load.answered() < REQUESTS || changes < 50 {
        let (id, addr) = [("b", moving[0].addr), ("c", moving[1].addr)][changes % 2];
        rig.apply(&[draining("web", id, addr)]);
        tokio::task::yield_now().await;
        rig.apply(&[without("web", id)]);
        tokio::task::yield_now().await;
        rig.apply(&[instance("web", id, addr)]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        changes += 1;
    }
    assert!(load.end().await >= REQUESTS);
    let newest = rig.router.table().revision();
    within("the last table", rig.router.wait_acked(newest)).await;
    let freed = rig.metric("portolan_router_tables_freed_by_workers_total", &[]);
    assert_eq!(freed, 0.0, "a worker freed a table");
}

#[tokio::test]
async fn idle_workers_acknowledge_a_table_at_once() {
    let instance = Instance::named("a").await;
    let mut rig = Rig::with(&web(&[instance.addr]), |config| config.workers = 4);
    for _ in 0..20 {
        let before = rig.router.acked();
        let revision = rig.apply(&[super::rig::instance("web", "a", instance.addr)]);
        assert!(revision > before);
        tokio::time::timeout(Duration::from_secs(2), rig.router.wait_acked(revision))
            .await
            .expect("nothing has to happen for it");
        assert_eq!(rig.router.acked(), revision);
    }
}

#[tokio::test]
async fn after_the_acknowledgement_a_draining_instance_gets_nothing_new() {
    let (a, b) = (Instance::named("a").await, Instance::named("b").await);
    let mut rig = Rig::with(&web(&[a.addr, b.addr]), |config| config.workers = 2);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(rig.client().await);
    }
    for client in &mut clients {
        client.get("/").await;
    }
    rig.apply_and_wait(&[draining("web", "a", a.addr)]).await;
    let before = a.requests();
    for client in &mut clients {
        for _ in 0..5 {
            assert_eq!(client.get("/").await.text(), "b");
        }
    }
    assert_eq!(a.requests(), before);
}

#[tokio::test]
async fn a_request_under_way_keeps_its_draining_instance_counted() {
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = Instance::raw(move |mut peer, _| {
        let mut released = released.clone();
        async move {
            peer.request().await.unwrap();
            released.wait_for(|go| *go).await.unwrap();
            peer.send(super::instance::ok("slow")).await;
        }
    })
    .await;
    let mut rig = Rig::web(&[slow.addr]);
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    until("the request", || rig.in_flight("web") == 1).await;
    rig.apply_and_wait(&[draining("web", "a", slow.addr)]).await;
    let under_way = || rig.router.table().draining().map(|(_, _, count)| count).sum::<u64>();
    assert_eq!(under_way(), 1);
    release.send_replace(true);
    assert_eq!(client.response().await.text(), "slow");
    until("nothing under way", || under_way() == 0).await;
}

/// What a table change may be, and nothing of it is about the instance `a` of `web` at `addr` but
/// its weight.
fn every_kind(addr: SocketAddr, other: SocketAddr) -> Vec<Vec<Event>> {
    let weighted = |weight: u16| {
        instance_with("web", "a", addr, |record| record.weight = Weight(weight.try_into().unwrap()))
    };
    let mut special = route("/special", "web");
    special.name = RouteName::parse("special").unwrap();
    let mut timed = route("/", "web");
    timed.timeouts.request = Some(Duration::from_secs(60));
    vec![
        vec![instance("web", "b", other)],
        vec![weighted(7)],
        vec![draining("web", "b", other)],
        vec![without("web", "b")],
        vec![service("web", true)],
        vec![routed(&special)],
        vec![routed(&timed)],
        vec![service("other", true), instance("other", "a", other)],
        vec![without("other", "a")],
        vec![weighted(100)],
    ]
}

#[tokio::test]
async fn kept_connections_and_counts_survive_every_kind_of_change() {
    let (release, released) = tokio::sync::watch::channel(false);
    let instance = Instance::raw(move |mut peer, _| {
        let mut released = released.clone();
        async move {
            while let Some(request) = peer.request().await {
                if request.start().starts_with("GET /slow") {
                    released.wait_for(|go| *go).await.unwrap();
                }
                peer.send(super::instance::ok("a")).await;
            }
        }
    })
    .await;
    let other = Instance::named("a").await;
    let mut rig = Rig::web(&[instance.addr]);
    let mut slow = rig.client().await;
    slow.send("GET /slow HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    let mut client = rig.client().await;
    client.get("/").await;
    until("both connections", || instance.connections() == 2).await;
    for change in every_kind(instance.addr, other.addr) {
        rig.apply_and_wait(&change).await;
        until("the one request", || rig.in_flight("web") == 1).await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.status(), 200);
        }
        assert_eq!(instance.connections(), 2, "{change:?} has cost a kept connection");
    }
    release.send_replace(true);
    assert_eq!(slow.response().await.text(), "a");
    rig.settled("web").await;
}
