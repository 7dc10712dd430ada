//! Instances that answer badly are left alone for a while, as the real thing shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_discovery::model::{Balancing, Ejection, Service, ServiceName};

use super::instance::{Instance, nobody, ok};
use super::rig::{Rig, instance, put_service, until, web};

/// The service `web`: five errors eject for so long. In turn, as two choices leave an instance
/// that fails alone long before it is ejected.
fn ejecting(time: Option<Duration>) -> Service {
    let ejection = time.map(|time| Ejection::new(None, Some(time), None).unwrap());
    let named = Service::named(ServiceName::parse("web").unwrap());
    Service { ejection, balancing: Balancing::RoundRobin, ..named }
}

/// Longer than a test.
const LONG: Option<Duration> = Some(Duration::from_secs(600));

fn rig(time: Option<Duration>, addrs: &[std::net::SocketAddr]) -> Rig {
    let mut records = web(addrs);
    records.push(put_service(&ejecting(time)));
    Rig::new(&records)
}

/// Answers 503 while it is broken.
async fn breakable() -> (Instance, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&broken);
    let instance = Instance::http(move |_| match says.load(Ordering::SeqCst) {
        true => b"HTTP/1.1 503 Broken\r\nContent-Length: 0\r\n\r\n".to_vec(),
        false => ok("mended"),
    })
    .await;
    (instance, broken)
}

fn ejections(rig: &Rig) -> f64 {
    rig.metric("portolan_router_ejections_total", &[("service", "web")])
}

fn ejected(rig: &Rig) -> f64 {
    rig.metric("portolan_router_ejected", &[("service", "web")])
}

/// Asks until the router has ejected `count` times.
async fn ask_until_ejected(rig: &Rig, count: f64) {
    let mut client = rig.client().await;
    for _ in 0..50 {
        if ejections(rig) >= count {
            return;
        }
        client.get("/").await;
    }
    panic!("{} ejections", ejections(rig));
}

#[tokio::test]
async fn an_instance_that_answers_badly_is_left_alone() {
    let ((bad, _), good) = (breakable().await, Instance::named("good").await);
    let rig = rig(LONG, &[bad.addr, good.addr]);
    assert_eq!((ejections(&rig), ejected(&rig)), (0.0, 0.0));
    ask_until_ejected(&rig, 1.0).await;
    assert_eq!(bad.requests(), 5);
    let mut client = rig.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    assert_eq!((bad.requests(), ejections(&rig), ejected(&rig)), (5, 1.0, 1.0));
}

#[tokio::test]
async fn an_ejection_survives_a_change_of_the_table() {
    let ((bad, _), good) = (breakable().await, Instance::named("good").await);
    let mut rig = rig(LONG, &[bad.addr, good.addr]);
    ask_until_ejected(&rig, 1.0).await;
    let third = Instance::named("good").await;
    rig.apply_and_wait(&[instance("web", "c", third.addr)]).await;
    let mut client = rig.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    assert_eq!((bad.requests(), ejected(&rig)), (5, 1.0));
}

#[tokio::test]
async fn an_instance_comes_back_after_its_time_and_a_success_forgives() {
    let ((bad, broken), good) = (breakable().await, Instance::named("good").await);
    let rig = rig(Some(Duration::from_millis(300)), &[bad.addr, good.addr]);
    ask_until_ejected(&rig, 1.0).await;
    broken.store(false, Ordering::SeqCst);
    let mut client = rig.client().await;
    let mut answer = String::new();
    while answer != "mended" {
        answer = client.get("/").await.text().to_owned();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until("nobody ejected", || ejected(&rig) == 0.0).await;
    assert_eq!(ejections(&rig), 1.0);
}

#[tokio::test]
async fn a_refused_connection_and_a_broken_answer_count_as_well() {
    let garbage = Instance::http(|_| b"not http at all\r\n\r\n".to_vec()).await;
    let closing = Instance::raw(|mut peer, _| async move { drop(peer.request().await) }).await;
    let good = Instance::named("good").await;
    for bad in [nobody().await, garbage.addr, closing.addr] {
        let rig = rig(LONG, &[bad, good.addr]);
        ask_until_ejected(&rig, 1.0).await;
        let mut client = rig.client().await;
        for _ in 0..20 {
            assert_eq!(client.get("/").await.text(), "good");
        }
        assert_eq!(ejected(&rig), 1.0);
    }
}

#[tokio::test]
async fn at_most_half_are_left_alone_and_the_others_are_used_whatever_they_do() {
    let (one, other) = (breakable().await, breakable().await);
    let both = rig(LONG, &[one.0.addr, other.0.addr]);
    let mut client = both.client().await;
    for _ in 0..40 {
        assert_eq!(client.get("/").await.status(), 503);
    }
    assert_eq!((ejections(&both), ejected(&both)), (1.0, 1.0));
    assert_eq!(one.0.requests() + other.0.requests(), 40);
    let alone = rig(LONG, &[one.0.addr]);
    let mut client = alone.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status(), 503, "the only one there is");
    }
    assert_eq!(ejections(&alone), 0.0);
}

#[tokio::test]
async fn a_service_may_have_none_of_it() {
    let (one, other) = (breakable().await, breakable().await);
    let rig = rig(None, &[one.0.addr, other.0.addr]);
    let mut client = rig.client().await;
    for _ in 0..40 {
        client.get("/").await;
    }
    assert_eq!((ejections(&rig), ejected(&rig)), (0.0, 0.0));
}

#[tokio::test]
async fn a_slow_client_makes_no_instance_look_slow() {
    let instance = Instance::named("a").await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhe").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.send("llo").await;
    assert_eq!(client.response().await.text(), "a");
    until("a latency", || rig.latency("web").is_some()).await;
    let latency = rig.latency("web");
    assert!(latency.is_some_and(|latency| latency < Duration::from_millis(300)), "{latency:?}");
}

#[tokio::test]
async fn a_slow_instance_gets_little_of_the_traffic() {
    let slow = Instance::raw(|mut peer, _| async move {
        while peer.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if !peer.try_send(ok("slow")).await {
                return;
            }
        }
    })
    .await;
    let fast = Instance::named("fast").await;
    let rig = Rig::web(&[slow.addr, fast.addr]);
    let mut client = rig.client().await;
    let mut slow_answers = 0;
    for _ in 0..200 {
        slow_answers += usize::from(client.get("/").await.text() == "slow");
    }
    // One by one, so that what is under way says nothing: it is tried, and then again only when
    // its latency is forgotten.
    assert!((1..20).contains(&slow_answers), "{slow_answers}");
}
