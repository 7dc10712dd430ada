//! Copies of requests for another service, which their requests know nothing of.

use std::sync::{Arc, Mutex};

use portolan_discovery::model::route::{Mirror, Percent};
use portolan_discovery::model::{Event, ServiceName};
use portolan_router::{MIRRORED_BODY_BYTES_MAX, MIRRORED_MAX};

use super::instance::{Instance, nobody, ok};
use super::peer::Message;
use super::rig::{Rig, instance, route, routed, until};

const MIRRORED: &str = "portolan_router_mirrored_total";

fn records(web: &Instance, shadow: std::net::SocketAddr, percent: u8) -> Vec<Event> {
    let mut mirrored = route("/", "web");
    mirrored.mirror = Some(Box::new(Mirror {
        service: ServiceName::parse("shadow").unwrap(),
        percent: Percent::try_from(percent).unwrap(),
    }));
    vec![instance("web", "a", web.addr), instance("shadow", "a", shadow), routed(&mirrored)]
}

fn count(rig: &Rig, outcome: &str) -> f64 {
    rig.metric(MIRRORED, &[("outcome", outcome)])
}

async fn counts(rig: &Rig, outcome: &str, expected: f64) {
    until(outcome, || count(rig, outcome) == expected).await;
}

/// An instance that keeps what it gets, and answers something that nobody should see.
async fn recorder() -> (Instance, Arc<Mutex<Vec<Message>>>) {
    let seen = Arc::<Mutex<Vec<Message>>>::default();
    let log = Arc::clone(&seen);
    let instance = Instance::http(move |request| {
        log.lock().unwrap().push(request.clone());
        let long = "x".repeat(100_000);
        if request.start().starts_with("HEAD") {
            b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n".to_vec()
        } else {
            ok(long)
        }
    })
    .await;
    (instance, seen)
}

#[tokio::test]
async fn a_copy_has_the_head_and_the_body_of_its_request() {
    let web = Instance::echo().await;
    let (shadow, seen) = recorder().await;
    let rig = Rig::new(&records(&web, shadow.addr, 100));
    let mut client = rig.client().await;
    let body = "b".repeat(MIRRORED_BODY_BYTES_MAX as usize);
    let get = client.get("/a?b").await;
    counts(&rig, "answered", 1.0).await;
    let length = body.len();
    let post = format!("POST /p HTTP/1.1\r\nHost: web.test\r\nContent-Length: {length}\r\n\r\n");
    client.send(post).await;
    for piece in body.as_bytes().chunks(10_000) {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    let post = client.response().await;
    counts(&rig, "answered", 2.0).await;
    let seen = seen.lock().unwrap();
    for (response, copy) in [&get, &post].into_iter().zip(seen.iter()) {
        let sent = format!("{}\n\n{}", copy.lines.join("\n"), str::from_utf8(&copy.body).unwrap());
        assert_eq!(response.text(), sent, "the same bytes");
    }
    assert_eq!((seen.len(), shadow.connections()), (2, 1), "its connection is used again");
    assert_eq!(rig.metric("portolan_router_requests_total", &[("service", "shadow")]), 0.0);
}

#[tokio::test]
async fn the_answer_to_head_has_no_body_for_a_copy_either() {
    let web = Instance::http(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n".to_vec()).await;
    let (shadow, _) = recorder().await;
    let rig = Rig::new(&records(&web, shadow.addr, 100));
    let mut client = rig.client().await;
    for asked in 1..=3 {
        client.send("HEAD / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
        assert_eq!(client.response_head().await.status(), 200);
        counts(&rig, "answered", f64::from(asked)).await;
    }
    assert_eq!(shadow.connections(), 1);
}

#[tokio::test]
async fn what_cannot_be_copied_is_counted_and_served() {
    let web = Instance::named("web").await;
    let (shadow, seen) = recorder().await;
    let rig = Rig::new(&records(&web, shadow.addr, 100));
    let mut client = rig.client().await;
    let length = MIRRORED_BODY_BYTES_MAX as usize + 1;
    let large = format!("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {length}\r\n\r\n");
    client.send(large).await;
    assert_eq!(client.ask("x".repeat(length)).await.text(), "web");
    let chunked = "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                   1\r\nx\r\n0\r\n\r\n";
    assert_eq!(client.ask(chunked).await.text(), "web");
    let upgrade =
        "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(client.ask(upgrade).await.text(), "web");
    assert_eq!((count(&rig, "unfit"), seen.lock().unwrap().len()), (3.0, 0));

    let mut gone = rig.client().await;
    gone.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhe").await;
    until("the request", || rig.in_flight("web") == 1).await;
    drop(gone);
    counts(&rig, "cut", 1.0).await;
    assert_eq!(seen.lock().unwrap().len(), 0, "half a request is none");
}

#[tokio::test]
async fn what_goes_wrong_with_a_copy_does_not_touch_its_request() {
    let web = Instance::named("web").await;
    let rig = Rig::new(&records(&web, nobody().await, 100));
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.text(), "web");
    counts(&rig, "failed", 1.0).await;
    for answer in ["nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"] {
        let shadow = Instance::raw(move |mut peer, _| async move {
            peer.request().await.unwrap();
            peer.send(answer).await;
        })
        .await;
        let rig = Rig::new(&records(&web, shadow.addr, 100));
        assert_eq!(rig.client().await.get("/").await.text(), "web");
        counts(&rig, "failed", 1.0).await;
        rig.settled("shadow").await;
    }
    let mut lonely = records(&web, web.addr, 100);
    lonely.remove(1);
    let rig = Rig::new(&lonely);
    assert_eq!(rig.client().await.get("/").await.text(), "web");
    counts(&rig, "no_instance", 1.0).await;
    assert_eq!(rig.metric("portolan_router_terminations_total", &[]), 0.0);
}

#[tokio::test]
async fn a_part_is_copied_and_never_more_than_there_is_room_for() {
    let web = Instance::named("web").await;
    let silent = Instance::raw(|mut peer, _| async move { peer.gone().await }).await;
    let rig = Rig::new(&records(&web, silent.addr, 100));
    let mut client = rig.client().await;
    let more = 10;
    for _ in 0..MIRRORED_MAX + more {
        assert_eq!(client.get("/").await.text(), "web", "nobody waits for a copy");
    }
    assert_eq!(count(&rig, "no_room"), more as f64);
    assert_eq!(rig.in_flight("shadow"), MIRRORED_MAX as u64);
    drop(silent);
    counts(&rig, "failed", MIRRORED_MAX as f64).await;
    rig.settled("shadow").await;

    let (shadow, seen) = recorder().await;
    let rig = Rig::new(&records(&web, shadow.addr, 10));
    let mut client = rig.client().await;
    for _ in 0..500 {
        client.get("/").await;
    }
    rig.settled("shadow").await;
    let copies = seen.lock().unwrap().len();
    // 50 expected; as far off as this once in a million runs at most.
    assert!((15..=95).contains(&copies), "{copies}");
}
