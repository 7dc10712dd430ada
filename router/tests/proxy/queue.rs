//! Requests that wait because all instances have as much under way as they may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portolan_discovery::model::{Concurrency, Event, RouteTimeouts};
use tokio::sync::{Semaphore, mpsc};

use super::instance::{Instance, ok};
use super::peer::{DEADLINE, Peer, within};
use super::rig::{Rig, draining, instance, route, routed, service_with, until, web};

const LENGTH: &str = "portolan_router_queue_length";
const SHED: &str = "portolan_router_queue_shed_total";

fn limited(in_flight_max: u32, queue_max: u32, wait: Duration) -> Event {
    service_with("web", |record| {
        let max = in_flight_max.try_into().unwrap();
        record.concurrency = Some(Concurrency::new(max, Some(queue_max), Some(wait)).unwrap());
    })
}

/// An instance that answers with its request's path, once it is let.
struct Gated {
    instance: Instance,
    gate: Arc<Semaphore>,
    /// The most requests that it had at once.
    most: Arc<AtomicUsize>,
    /// The paths, as they come.
    came: mpsc::UnboundedReceiver<String>,
}

impl Gated {
    async fn new() -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (tell, came) = mpsc::unbounded_channel();
        let (inner, peak) = (Arc::clone(&gate), Arc::clone(&most));
        let instance = Instance::raw(move |mut peer, _| {
            let (gate, now, most, tell) =
                (Arc::clone(&inner), Arc::clone(&now), Arc::clone(&peak), tell.clone());
            async move {
                while let Some(request) = peer.request().await {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let path = request.start().split(' ').nth(1).unwrap().to_owned();
                    tell.send(path.clone()).unwrap();
                    gate.acquire().await.unwrap().forget();
                    now.fetch_sub(1, Ordering::SeqCst);
                    let body = [path.as_bytes(), &request.body].concat();
                    if !peer.try_send(ok(body)).await {
                        return;
                    }
                }
            }
        })
        .await;
        Self { instance, gate, most, came }
    }

    fn answer(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// The path of the next request that comes.
    async fn next(&mut self) -> String {
        within("a request", self.came.recv()).await.unwrap()
    }
}

fn rig_of(gated: &Gated, limit: Event, workers: usize) -> Rig {
    let mut records = web(&[gated.instance.addr]);
    records.push(limit);
    Rig::with(&records, |config| config.workers = workers)
}

/// Sends a GET of `path` without waiting for its answer.
async fn begin(rig: &Rig, path: &str) -> Peer {
    let mut client = rig.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n")).await;
    client
}

async fn waiting(rig: &Rig, count: usize) {
    until("the line", || rig.metric(LENGTH, &[]) == count as f64).await;
}

#[tokio::test]
async fn the_limit_holds_over_workers_and_everybody_is_served() {
    let mut gated = Gated::new().await;
    let rig = rig_of(&gated, limited(2, 100, DEADLINE), 3);
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = rig.client().await;
        clients.push(tokio::spawn(async move {
            for _ in 0..10 {
                assert_eq!(client.get("/").await.status(), 200);
            }
        }));
    }
    for _ in 0..2 {
        gated.next().await;
    }
    waiting(&rig, 28).await;
    gated.answer(300);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(gated.most.load(Ordering::SeqCst), 2);
    rig.settled("web").await;
    waiting(&rig, 0).await;
}

#[tokio::test]
async fn who_came_first_is_served_first_whatever_its_worker() {
    let mut gated = Gated::new().await;
    let rig = rig_of(&gated, limited(1, 100, DEADLINE), 3);
    let _first = begin(&rig, "/first").await;
    assert_eq!(gated.next().await, "/first");
    let mut clients = Vec::new();
    for number in 0..12 {
        clients.push(begin(&rig, &format!("/{number}")).await);
        waiting(&rig, number + 1).await;
    }
    for number in 0..12 {
        gated.answer(1);
        assert_eq!(gated.next().await, format!("/{number}"));
    }
    gated.answer(1);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response().await.text(), format!("/{number}"));
    }
}

#[tokio::test]
async fn the_newest_is_shed_when_the_line_is_full() {
    let mut gated = Gated::new().await;
    let rig = rig_of(&gated, limited(1, 2, DEADLINE), 1);
    let mut clients = vec![begin(&rig, "/0").await];
    gated.next().await;
    for number in 1..3 {
        clients.push(begin(&rig, &format!("/{number}")).await);
        waiting(&rig, number).await;
    }
    let mut late = rig.client().await;
    let refused = late.get("/late").await;
    assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1".to_owned())));
    assert!(refused.text().starts_with("overloaded\n"), "{}", refused.text());
    assert_eq!(rig.metric(SHED, &[("service", "web"), ("cause", "full")]), 1.0);
    gated.answer(4);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response().await.text(), format!("/{number}"));
    }
    assert_eq!(late.get("/late").await.text(), "/late", "its connection is as good as before");
}

#[tokio::test]
async fn a_wait_has_an_end() {
    let mut gated = Gated::new().await;
    let rig = rig_of(&gated, limited(1, 10, Duration::from_millis(100)), 1);
    let mut first = begin(&rig, "/first").await;
    gated.next().await;
    let mut second = rig.client().await;
    let refused = second.get("/second").await;
    assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1".to_owned())));
    assert!(refused.text().starts_with("queue_timeout\n"), "{}", refused.text());
    assert_eq!(rig.metric(SHED, &[("service", "web"), ("cause", "timeout")]), 1.0);
    assert_eq!((rig.metric(LENGTH, &[]), rig.ended("queue_timeout")), (0.0, 1.0));
    gated.answer(2);
    assert_eq!(first.response().await.text(), "/first");
    assert_eq!(second.get("/again").await.text(), "/again");
}

#[tokio::test]
async fn the_time_of_the_whole_request_ends_a_wait_too() {
    let mut gated = Gated::new().await;
    let rig = rig_of(&gated, limited(1, 10, DEADLINE * 10), 1);
    let _first = begin(&rig, "/first").await;
    gated.next().await;
    let mut record = route("/short", "web");
    record.name = "short".parse().unwrap();
    let request = Some(Duration::from_millis(100));
    record.timeouts = RouteTimeouts { request, ..RouteTimeouts::default() };
    let mut rig = rig;
    rig.apply_and_wait(&[routed(&record)]).await;
    assert_eq!(rig.client().await.get("/short").await.status(), 503);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_line() {
    let mut gated = Gated::new().await;
    let rig = rig_of(&gated, limited(1, 2, DEADLINE), 1);
    let mut first = begin(&rig, "/first").await;
    gated.next().await;
    let gone = begin(&rig, "/gone").await;
    waiting(&rig, 1).await;
    let mut stays = begin(&rig, "/stays").await;
    waiting(&rig, 2).await;
    drop(gone);
    waiting(&rig, 1).await;
    rig.ends("client_gone").await;
    gated.answer(2);
    assert_eq!(gated.next().await, "/stays", "no instance hears of who has gone");
    assert_eq!(first.response().await.text(), "/first");
    assert_eq!(stays.response().await.text(), "/stays");
}

#[tokio::test]
async fn a_table_with_more_room_is_seen_by_who_waits() {
    let mut gated = Gated::new().await;
    let mut rig = rig_of(&gated, limited(1, 10, DEADLINE), 2);
    let _first = begin(&rig, "/first").await;
    gated.next().await;
    let mut clients = Vec::new();
    for number in 1..6 {
        clients.push(begin(&rig, &format!("/{number}")).await);
        waiting(&rig, number).await;
    }
    // Another instance, a higher limit, none at all: each lets more of them go on.
    let other = Instance::named("other").await;
    rig.apply(&[instance("web", "b", other.addr), limited(1, 10, DEADLINE)]);
    for client in &mut clients {
        assert_eq!(client.response().await.text(), "other");
    }
    rig.apply_and_wait(&[draining("web", "b", other.addr)]).await;
    let _more = [begin(&rig, "/a").await, begin(&rig, "/b").await, begin(&rig, "/c").await];
    waiting(&rig, 3).await;
    rig.apply(&[limited(2, 10, DEADLINE)]);
    gated.next().await;
    waiting(&rig, 2).await;
    rig.apply(&[service_with("web", |_| {})]);
    gated.next().await;
    gated.next().await;
    waiting(&rig, 0).await;
}

#[tokio::test]
async fn who_waits_is_told_when_there_is_nobody_left_to_wait_for() {
    let mut gated = Gated::new().await;
    let mut rig = rig_of(&gated, limited(1, 10, DEADLINE), 1);
    let _first = begin(&rig, "/first").await;
    gated.next().await;
    let mut second = begin(&rig, "/second").await;
    waiting(&rig, 1).await;
    rig.apply(&[draining("web", "a", gated.instance.addr)]);
    let refused = second.response().await;
    assert!(refused.text().starts_with("no_instance\n"), "{}", refused.text());
}

#[tokio::test]
async fn a_full_instance_is_passed_over_and_a_tunnel_takes_its_place() {
    let switching = || {
        Instance::raw(|mut peer, _| async move {
            peer.head().await.unwrap();
            peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n").await;
            peer.send("Upgrade: websocket\r\n\r\n").await;
            peer.gone().await;
        })
    };
    let all = [switching().await, switching().await, switching().await];
    let mut records = web(&all.each_ref().map(|one| one.addr));
    records.push(limited(1, 0, DEADLINE));
    let rig = Rig::new(&records);
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        let mut client = rig.client().await;
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade\r\n").await;
        client.send("Upgrade: websocket\r\n\r\n").await;
        assert_eq!(client.response_head().await.status(), 101);
        tunnels.push(client);
    }
    assert_eq!(all.each_ref().map(Instance::connections), [1, 1, 1]);
    assert_eq!(rig.client().await.get("/").await.status(), 503);
}

#[tokio::test]
async fn a_request_that_waited_is_sent_whole() {
    let mut gated = Gated::new().await;
    let rig = rig_of(&gated, limited(1, 10, DEADLINE), 1);
    let _first = begin(&rig, "/first").await;
    gated.next().await;
    let body = "x".repeat(100_000);
    let mut client = rig.client().await;
    let head = "POST /p HTTP/1.1\r\nHost: web.test\r\nContent-Length: 100000\r\n\r\n";
    // A part of the body comes with the head, the rest after the wait.
    client.send(format!("{head}{}", &body[..10])).await;
    waiting(&rig, 1).await;
    gated.answer(2);
    client.send(&body[10..]).await;
    assert_eq!(client.response().await.text(), format!("/p{body}"));
}

#[tokio::test]
async fn a_tcp_connection_waits_too() {
    let mut gated = Gated::new().await;
    let rig = rig_of(&gated, limited(1, 10, DEADLINE), 1);
    let mut first = begin(&rig, "/first").await;
    gated.next().await;
    let mut second = Peer::connect(rig.tcp).await;
    second.send("GET /second HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    waiting(&rig, 1).await;
    gated.answer(2);
    assert_eq!(first.response().await.text(), "/first");
    assert_eq!(second.response().await.text(), "/second");
}
