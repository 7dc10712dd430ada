//! Answers that a route does not take: another instance is asked, and the client sees one answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portolan_discovery::model::{Event, RetryRule};

use super::instance::{Instance, ok};
use super::rig::{Rig, route, routed, web};

const PUT: &str = "PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhello";
const POST: &str = "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\n\r\nhello";

const BUSY: &str = "HTTP/1.1 503 Busy\r\nX-From: busy\r\nContent-Length: 4\r\n\r\nbusy";

fn retrying(attempts: u8, statuses: &[u16]) -> Event {
    let mut record = route("/", "web");
    let rule = RetryRule::new(Some(attempts), Some(statuses.to_vec())).unwrap();
    record.retry = Some(Box::new(rule));
    routed(&record)
}

async fn busy() -> Instance {
    Instance::http(|_| BUSY.into()).await
}

/// A router that retries by 503 in front of `instances`, and which of them was asked how often.
async fn rig_of(instances: &[&Instance], attempts: u8) -> Rig {
    let addrs: Vec<_> = instances.iter().map(|instance| instance.addr).collect();
    let mut records = web(&addrs);
    records.push(retrying(attempts, &[503]));
    Rig::new(&records)
}

fn retries(rig: &Rig) -> f64 {
    rig.metric("portolan_router_retries_total", &[])
}

#[tokio::test]
async fn an_answer_with_a_listed_status_is_replaced_by_that_of_another_instance() {
    let (busy, good) = (busy().await, Instance::echo().await);
    let rig = rig_of(&[&busy, &good], 2).await;
    let mut client = rig.client().await;
    for _ in 0..20 {
        let response = client.ask(PUT).await;
        assert_eq!(response.status(), 200);
        assert!(response.text().ends_with("\n\nhello"), "{}", response.text());
        let told = response.lines.join("\n").to_lowercase();
        assert!(
            !told.contains("busy") && !told.contains("attempt") && !told.contains("retr"),
            "{told}"
        );
    }
    assert_eq!(retries(&rig), busy.requests() as f64);
    assert!(busy.requests() > 0 && good.requests() == 20);
    assert_eq!(busy.connections(), 1, "read to its end, its connection is used again");
    // What is counted is counted before it ends.
    rig.settled("web").await;
    let answered = |code| rig.metric("portolan_router_requests_total", &[("code", code)]);
    assert_eq!((answered("2xx"), answered("5xx")), (20.0, 0.0));
}

#[tokio::test]
async fn an_answer_is_taken_by_default() {
    let busy = busy().await;
    let good = Instance::named("good").await;
    let rig = Rig::web(&[busy.addr, good.addr]);
    let mut client = rig.client().await;
    let mut taken = 0;
    for _ in 0..40 {
        taken += usize::from(client.get("/").await.status() == 503);
    }
    assert_eq!((taken, retries(&rig)), (busy.requests(), 0.0));
    assert!(taken > 0);
}

#[tokio::test]
async fn the_last_answer_is_taken_whole() {
    let (first, second) = (busy().await, busy().await);
    let rig = rig_of(&[&first, &second], 4).await;
    let mut client = rig.client().await;
    for _ in 0..5 {
        let response = client.get("/").await;
        assert_eq!((response.status(), response.text()), (503, "busy"));
        assert_eq!(response.field("x-from").unwrap(), "busy");
    }
    assert_eq!((first.requests(), second.requests()), (5, 5), "no instance is asked twice");
}

#[tokio::test]
async fn attempts_by_status_are_limited() {
    let all = [busy().await, busy().await, busy().await, busy().await];
    for attempts in [2, 3, 4] {
        let rig = rig_of(&all.each_ref(), attempts).await;
        let before: usize = all.iter().map(Instance::requests).sum();
        assert_eq!(rig.client().await.get("/").await.status(), 503);
        let asked = all.iter().map(Instance::requests).sum::<usize>() - before;
        assert_eq!(asked, usize::from(attempts));
    }
}

#[tokio::test]
async fn what_may_not_be_sent_twice_is_not_retried() {
    let all = [busy().await, busy().await];
    let rig = rig_of(&all.each_ref(), 2).await;
    let mut client = rig.client().await;
    assert_eq!(client.ask(POST).await.status(), 503);
    // More than is kept to be sent again.
    let body = "x".repeat(200_000);
    let put = format!("PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 200000\r\n\r\n{body}");
    assert_eq!(client.ask(put).await.status(), 503);
    assert_eq!(all.iter().map(Instance::requests).sum::<usize>(), 2);
    assert_eq!(retries(&rig), 0.0);
}

#[tokio::test]
async fn an_answer_that_says_when_to_come_back_is_taken() {
    let told = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    let told = Instance::http(|_| told.into()).await;
    let good = Instance::named("good").await;
    let rig = rig_of(&[&told, &good], 2).await;
    let mut client = rig.client().await;
    let mut taken = 0;
    for _ in 0..40 {
        let response = client.get("/").await;
        if response.status() == 503 {
            assert_eq!(response.field("retry-after").unwrap(), "7");
            taken += 1;
        }
    }
    assert_eq!((taken, retries(&rig)), (told.requests(), 0.0));
    assert!(taken > 0);
}

#[tokio::test]
async fn a_rejected_answer_whose_body_is_still_coming_never_reaches_anybody() {
    // A head in two pieces, and a body that comes while the other instance answers.
    let slow = Instance::raw(|mut peer, _| async move {
        while peer.request().await.is_some() {
            peer.send("HTTP/1.1 503 Bu").await;
            tokio::task::yield_now().await;
            peer.send("sy\r\nContent-Length: 100000\r\n\r\nsecret").await;
            if !peer.try_send("secret".repeat(20_000)).await {
                return;
            }
        }
    })
    .await;
    let good = Instance::named("good").await;
    let rig = rig_of(&[&slow, &good], 2).await;
    let mut client = rig.client().await;
    for _ in 0..20 {
        let response = client.ask(PUT).await;
        assert_eq!((response.status(), response.text()), (200, "good"));
    }
    assert_eq!(slow.connections() as f64, retries(&rig), "none of its connections is used again");
    assert!(slow.connections() > 0);
}

#[tokio::test]
async fn retries_by_status_stay_within_the_budget() {
    let all = [busy().await, busy().await];
    let rig = rig_of(&all.each_ref(), 2).await;
    let mut client = rig.client().await;
    for _ in 0..200 {
        assert_eq!(client.get("/").await.status(), 503);
    }
    // Ten at the start, a fifth of the requests, and ten a second.
    let retried = retries(&rig);
    assert!((50.0..150.0).contains(&retried), "{retried}");
}

#[tokio::test]
async fn a_status_of_the_only_instance_costs_no_budget() {
    let answers = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&answers);
    let one = Instance::http(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0..100 => BUSY.into(),
        _ => ok("good"),
    })
    .await;
    let rig = rig_of(&[&one], 2).await;
    let mut client = rig.client().await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status(), 503);
    }
    assert_eq!((client.get("/").await.text(), retries(&rig)), ("good", 0.0));
}
