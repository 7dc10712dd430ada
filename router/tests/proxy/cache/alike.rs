//! Many requests for one thing: one goes to an instance, the others wait for it.

use super::*;

#[tokio::test]
async fn of_many_requests_for_one_thing_one_goes_to_an_instance() {
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let instance = Instance::raw(move |mut peer, _| {
        let gate = Arc::clone(&held);
        async move {
            while peer.request().await.is_some() {
                gate.notified().await;
                peer.send(answer("200 OK", FRESH, &"x".repeat(100_000))).await;
            }
        }
    })
    .await;
    let rig = rig(&instance);
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = rig.client().await;
        client.send(get("/", "")).await;
        clients.push(client);
    }
    until("one is sent on", || instance.connections() == 1).await;
    let waits = || rig.metric("portolan_router_cache_waits_total", &[("service", "web")]);
    until("49 wait", || waits() == 49.0).await;
    gate.notify_one();
    for client in &mut clients {
        let response = client.response().await;
        assert_eq!((response.status(), response.body.len()), (200, 100_000));
    }
    assert_eq!((instance.connections(), results(&rig, "hit")), (1, 49.0));
    assert_eq!(results(&rig, "miss"), 1.0);
    // Their connections are as before.
    for client in &mut clients {
        assert_eq!(client.get("/").await.body.len(), 100_000);
    }
}

#[tokio::test]
async fn requests_do_not_wait_for_what_is_not_kept() {
    // After the first, whose answer tells that nothing is kept, an answer comes only when all
    // others are there.
    let all = Arc::new(tokio::sync::Barrier::new(19));
    let count = Arc::new(AtomicUsize::new(0));
    let instance = Instance::raw(move |mut peer, _| {
        let (all, count) = (Arc::clone(&all), Arc::clone(&count));
        async move {
            while peer.request().await.is_some() {
                if count.fetch_add(1, Ordering::SeqCst) > 0 {
                    all.wait().await;
                }
                peer.send(answer("200 OK", "Cache-Control: no-store\r\n", "mine")).await;
            }
        }
    })
    .await;
    let rig = rig(&instance);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = rig.client().await;
        client.send(get("/", "")).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.response().await.text(), "mine");
    }
    assert_eq!((results(&rig, "pass"), results(&rig, "miss")), (19.0, 1.0));
}

#[tokio::test]
async fn when_there_is_no_answer_those_that_wait_do_not_try_one_after_the_other() {
    // The first connection is closed without an answer; then one comes only when all are there.
    let all = Arc::new(tokio::sync::Barrier::new(9));
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let instance = Instance::raw(move |mut peer, number| {
        let (all, gate) = (Arc::clone(&all), Arc::clone(&held));
        async move {
            peer.request().await.unwrap();
            if number == 0 {
                return gate.notified().await;
            }
            all.wait().await;
            peer.send(answer("200 OK", FRESH, "page")).await;
            peer.gone().await;
        }
    })
    .await;
    // Longer than any wait of a test.
    let wait = Some(Duration::from_secs(60));
    let rig = rig_with(&instance, &CacheWish { wait, ..wish() });
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = rig.client().await;
        client.send(get("/", "")).await;
        clients.push(client);
    }
    until("one is sent on", || instance.connections() == 1).await;
    until("the others wait", || rig.metric("portolan_router_cache_waits_total", &[]) == 9.0).await;
    gate.notify_one();
    let mut statuses = Vec::new();
    for client in &mut clients {
        statuses.push(client.response().await.status());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [[200; 9].as_slice(), &[502]].concat());
}

#[tokio::test]
async fn a_request_waits_for_as_long_as_its_route_says() {
    let count = AtomicUsize::new(0);
    let instance = Instance::raw(move |mut peer, _| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            while peer.request().await.is_some() {
                if number == 0 {
                    return peer.gone().await;
                }
                peer.send(answer("200 OK", FRESH, "page")).await;
            }
        }
    })
    .await;
    let rig = rig_with(&instance, &CacheWish { wait: Some(Duration::from_millis(200)), ..wish() });
    let mut hanging = rig.client().await;
    hanging.send(get("/", "")).await;
    until("the first", || instance.connections() == 1).await;
    assert_eq!(rig.client().await.get("/").await.text(), "page");
    assert_eq!((results(&rig, "pass"), instance.connections()), (1.0, 2));
    until("the first one still hangs", || rig.in_flight("web") == 1).await;
}

#[tokio::test]
async fn when_the_one_that_fetches_leaves_another_one_fetches() {
    let count = AtomicUsize::new(0);
    let instance = Instance::raw(move |mut peer, _| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            while peer.request().await.is_some() {
                if number == 0 {
                    // Half of it, and then nothing until the client has gone.
                    let half = format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 8\r\n\r\nhalf");
                    peer.send(half).await;
                    return peer.gone().await;
                }
                peer.send(answer("200 OK", FRESH, "complete")).await;
            }
        }
    })
    .await;
    let rig = rig(&instance);
    let mut leaving = rig.client().await;
    leaving.send(get("/", "")).await;
    leaving.response_head().await;
    let mut waiting = rig.client().await;
    waiting.send(get("/", "")).await;
    let waits = || rig.metric("portolan_router_cache_waits_total", &[]);
    until("the other waits", || waits() == 1.0).await;
    drop(leaving);
    assert_eq!(waiting.response().await.text(), "complete");
    assert_eq!((instance.connections(), not_stored(&rig, "cut")), (2, 1.0));
    assert_eq!(rig.client().await.get("/").await.text(), "complete");
    assert_eq!(instance.connections(), 2);
}

#[tokio::test]
async fn one_that_waits_may_leave() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await.unwrap();
        peer.gone().await;
    })
    .await;
    let rig = rig(&instance);
    let mut first = rig.client().await;
    first.send(get("/", "")).await;
    until("the first", || instance.connections() == 1).await;
    let mut waiting = rig.client().await;
    waiting.send(get("/", "")).await;
    until("it waits", || rig.metric("portolan_router_cache_waits_total", &[]) == 1.0).await;
    drop(waiting);
    rig.ends("client_gone").await;
    assert_eq!(rig.in_flight("web"), 1);
}
