//! What is no longer fresh: validated, served all the same, or asked for anew.

use super::*;

#[tokio::test]
async fn what_is_stale_is_served_again_when_an_instance_says_that_it_holds() {
    let instance = Instance::http(|request| match request.field("if-none-match") {
        Some(tag) => {
            assert_eq!(tag, "\"v1\"");
            b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=900\r\nX-New: 1\r\n\r\n".to_vec()
        }
        None => answer("200 OK", &format!("{STALE}X-Old: 1\r\n"), "page"),
    })
    .await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.text(), "page");
    // What the client has is between it and us.
    let again = client.ask(get("/", "If-None-Match: \"mine\"\r\n")).await;
    assert_eq!((again.status(), again.text(), instance.requests()), (200, "page", 2));
    assert!(status_of(&again).starts_with("fwd=stale; fwd-status=304; ttl="));
    for (name, value) in [("cache-control", "max-age=900"), ("x-new", "1"), ("x-old", "1")] {
        assert_eq!(again.field(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(again.field("age").as_deref(), Some("0"));
    // Now it is fresh, and has what the instance said.
    let fresh = client.ask(get("/", "If-None-Match: \"v1\"\r\n")).await;
    assert_eq!((fresh.status(), instance.requests()), (304, 2));
    assert_eq!(fresh.field("x-new").as_deref(), Some("1"));
    assert_eq!((results(&rig, "revalidated"), results(&rig, "miss")), (1.0, 1.0));
    assert_eq!(instance.connections(), 1, "the connection of a 304 is used again");
}

#[tokio::test]
async fn what_is_stale_gives_way_to_a_new_answer() {
    let count = AtomicUsize::new(0);
    let instance = Instance::http(move |request| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        assert_eq!(request.field("if-none-match").is_some(), number > 0);
        match number {
            0 => answer("200 OK", STALE, "old"),
            1 => answer("200 OK", "Cache-Control: max-age=60\r\nETag: \"v2\"\r\n", "new"),
            _ => panic!("it is fresh"),
        }
    })
    .await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    for body in ["old", "new", "new"] {
        assert_eq!(client.get("/").await.text(), body);
    }
    assert_eq!(rig.metric("portolan_router_cache_entries", &[]), 1.0);
}

#[tokio::test]
async fn a_client_may_ask_for_an_answer_of_now_unless_the_route_says_no() {
    for (obeys, expected) in [(true, 2), (false, 1)] {
        for fields in ["Cache-Control: no-cache\r\n", "Pragma: no-cache\r\n"] {
            let instance = counting(FRESH).await;
            let obey_requests = Some(obeys);
            let rig = rig_with(&instance, &CacheWish { obey_requests, ..wish() });
            let mut client = rig.client().await;
            client.get("/").await;
            client.ask(get("/", fields)).await;
            assert_eq!(instance.requests(), expected, "{fields}");
        }
    }
}

#[tokio::test]
async fn what_must_be_validated_is() {
    for said in ["no-cache", "max-age=60, no-cache"] {
        let count = AtomicUsize::new(0);
        let instance = Instance::http(move |request| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            assert_eq!(request.field("if-none-match").is_some(), number > 0, "{number}");
            match number {
                0 => answer("200 OK", &format!("Cache-Control: {said}\r\nETag: \"a\"\r\n"), "page"),
                _ => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".to_vec(),
            }
        })
        .await;
        let rig = rig(&instance);
        let mut client = rig.client().await;
        for number in 1..4 {
            assert_eq!(client.get("/").await.text(), "page");
            assert_eq!(instance.requests(), number);
        }
    }
}

#[tokio::test]
async fn what_may_be_stale_is_served_at_once_and_fetched_again() {
    let count = AtomicUsize::new(0);
    let gate = Arc::new(Notify::new());
    let open = Arc::clone(&gate);
    let instance = Instance::raw(move |mut peer, _| {
        let (gate, number) = (Arc::clone(&gate), count.fetch_add(1, Ordering::SeqCst));
        async move {
            let mut number = number;
            while let Some(request) = peer.request().await {
                assert_eq!(request.field("cookie"), None);
                if number > 0 {
                    gate.notified().await;
                }
                let fields = if number == 0 { STALE } else { FRESH };
                peer.send(answer("200 OK", fields, &format!("answer {number}"))).await;
                number += 1;
            }
        }
    })
    .await;
    let wish = CacheWish { stale_while_revalidate: Some(Duration::from_secs(60)), ..wish() };
    let rig = rig_with(&instance, &wish);
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.text(), "answer 0");
    // The instance holds the second answer back; nobody waits for it.
    for _ in 0..3 {
        let stale = client.get("/").await;
        assert_eq!(stale.text(), "answer 0");
        assert!(status_of(&stale).starts_with("hit; ttl=-1"), "{stale:?}");
    }
    assert_eq!(results(&rig, "stale"), 3.0);
    open.notify_one();
    until("the new answer", || rig.metric("portolan_router_cache_stored_total", &[]) == 2.0).await;
    let fresh = client.get("/").await;
    assert_eq!((fresh.text(), results(&rig, "hit")), ("answer 1", 1.0));
    assert_eq!(instance.connections(), 1, "kept and used again");
    assert_eq!(results(&rig, "miss"), 1.0, "what happens in the background is no request");
}

#[tokio::test]
async fn what_must_not_be_stale_is_not() {
    for said in ["must-revalidate", "proxy-revalidate", "s-maxage=600"] {
        let count = AtomicUsize::new(0);
        let instance = Instance::http(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0 => answer(
                "200 OK",
                &format!("Cache-Control: max-age=600, {said}\r\nAge: 610\r\nETag: \"a\"\r\n"),
                "old",
            ),
            1 => answer("503 No", "", "broken"),
            _ => answer("200 OK", "", "new"),
        })
        .await;
        let stale = Some(Duration::from_secs(60));
        let wish = CacheWish { stale_while_revalidate: stale, stale_if_error: stale, ..wish() };
        let rig = rig_with(&instance, &wish);
        let mut client = rig.client().await;
        assert_eq!(client.get("/").await.text(), "old");
        assert_eq!(client.get("/").await.text(), "broken", "{said}");
    }
}

fn serves_errors() -> CacheWish {
    CacheWish { stale_if_error: Some(Duration::from_secs(3600)), ..wish() }
}

#[tokio::test]
async fn what_is_stale_is_served_when_an_instance_fails() {
    let count = AtomicUsize::new(0);
    let instance = Instance::http(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => answer("200 OK", STALE, "page"),
        _ => answer("503 No", "", "broken"),
    })
    .await;
    let rig = rig_with(&instance, &serves_errors());
    let mut client = rig.client().await;
    client.get("/").await;
    for _ in 0..3 {
        let stale = client.get("/").await;
        assert_eq!((stale.status(), stale.text()), (200, "page"));
    }
    assert_eq!(results(&rig, "stale"), 3.0);
    // What was never kept is not served.
    assert_eq!(client.get("/other").await.status(), 503);
    // Nor to who wants it from an instance.
    assert_eq!(client.ask(get("/", "Cache-Control: no-cache\r\n")).await.status(), 503);
    assert_eq!(instance.connections(), 1, "the connection of a short error is used again");
}

#[tokio::test]
async fn what_is_stale_is_served_when_no_instance_is_there() {
    let instance = counting(STALE).await;
    let mut rig = rig_with(&instance, &serves_errors());
    let mut client = rig.client().await;
    client.get("/").await;
    // Nobody listens.
    let away = nobody().await;
    rig.apply_and_wait(&[here("web", "a", away)]).await;
    let stale = client.get("/").await;
    assert_eq!((stale.status(), stale.text()), (200, "answer 0"));
    assert!(status_of(&stale).starts_with("hit; detail=error; ttl=-"), "{stale:?}");
    assert_eq!(rig.ended("upstream_connect_refused"), 1.0);
    // Nobody is known.
    rig.apply_and_wait(&[without("web", "a")]).await;
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(client.get("/other").await.status(), 503);
}
