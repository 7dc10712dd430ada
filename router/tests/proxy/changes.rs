//! Tables that change under traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::instance::Instance;
use super::peer::{Peer, within};
use super::rig::{Rig, draining, instance, until, web, without};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_table_is_replaced_without_pause() {
    const CLIENTS: usize = 100;
    const REQUESTS_EACH: usize = 30;
    let fixed = Instance::named("fixed").await;
    let moving = [Instance::named("b").await, Instance::named("c").await];
    let mut rig = Rig::with(&web(&[fixed.addr, moving[0].addr, moving[1].addr]), |config| {
        config.workers = 2;
    });
    let stop = Arc::<AtomicBool>::default();
    let answered = Arc::<AtomicUsize>::default();
    let addr = rig.http;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                let mut client = Peer::connect(addr).await;
                for request in 0..REQUESTS_EACH {
                    let response = if (number + request) % 2 == 0 {
                        client.get("/").await
                    } else {
                        let post =
                            "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 2\r\n\r\nhi";
                        client.ask(post).await
                    };
                    assert_eq!(response.status(), 200, "{}", response.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let finished = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            for client in clients {
                client.await.unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        })
    };
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) && !finished.is_finished() {
        let (id, addr) = [("b", moving[0].addr), ("c", moving[1].addr)][changes % 2];
        rig.apply(&[draining("web", id, addr)]);
        tokio::task::yield_now().await;
        rig.apply(&[without("web", id)]);
        tokio::task::yield_now().await;
        rig.apply(&[instance("web", id, addr)]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        changes += 1;
    }
    within("the clients", finished).await.unwrap();
    assert_eq!(answered.load(Ordering::Relaxed), CLIENTS * REQUESTS_EACH);
    assert!(changes > 10, "{changes} changes are no test");
    let newest = rig.router.table().revision();
    within("the last table", rig.router.wait_acked(newest)).await;
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
