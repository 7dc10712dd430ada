//! Bodies and trailers, cut and whole, with slow readers and fast ones.

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;

use super::caller::{Caller, request, reset_by, whole, with};
use super::instance::{Instance, ok};
use super::peer::within;
use super::rig::{Rig, until};

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn bodies_of_any_size_pass_in_both_directions() {
    let instance = Instance::http(|request| ok(&request.body)).await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    for size in [1, 16_384, 65_537, 3_000_000] {
        for says_length in [true, false] {
            let body = bytes(size);
            let length = size.to_string();
            let fields = [("content-length", length.as_str())];
            let fields = if says_length { &fields[..] } else { &[] };
            let mut exchange = caller.begin(with("POST", "/", fields), false).await;
            exchange.push(body.clone(), true).await;
            let answer = exchange.answer().await.unwrap();
            assert!(answer.body == body, "{size} {says_length}");
            assert_eq!(answer.field("content-length"), Some(length.as_str()));
        }
    }
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let instance = Instance::raw(|mut peer, _| async move {
        while let Some(request) = peer.request().await {
            assert_eq!(request.body, b"asked");
            assert_eq!(request.trailers, ["x-sum: 5"], "what must not trail is left out");
            peer.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nGrpc-Status: 0\r\nContent-Length: 3\r\n\r\n",
            )
            .await;
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    for _ in 0..2 {
        let mut exchange = caller.begin(with("POST", "/", &[("te", "trailers")]), false).await;
        exchange.push("asked", false).await;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", "5".parse().unwrap());
        trailers.insert("host", "evil.test".parse().unwrap());
        exchange.body.send_trailers(trailers).unwrap();
        let answer = exchange.answer().await.unwrap();
        assert_eq!(answer.text(), "abcde");
        let trailers = answer.trailers.unwrap();
        assert_eq!((trailers.len(), &trailers["grpc-status"]), (1, &"0".parse().unwrap()));
    }
}

#[tokio::test]
async fn a_body_ends_with_its_connection_where_it_has_no_other_end() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await;
        peer.send("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let answer = Caller::connect(rig.http).await.get("/").await;
    assert_eq!((answer.text(), answer.status()), ("until the end", 200));
}

#[tokio::test]
async fn a_cut_answer_is_reset_and_never_ends_clean() {
    let instance = Instance::raw(|mut peer, number| async move {
        peer.request().await;
        let head = "HTTP/1.1 200 OK\r\n";
        match number {
            0 => peer.send(format!("{head}Content-Length: 10\r\n\r\nabc")).await,
            1 => peer.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nab")).await,
            _ => peer.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nx")).await,
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    for number in 0..2 {
        let error = caller.ask(request("GET", "/")).await.unwrap_err();
        assert_eq!(reset_by(&error), Some(Reason::INTERNAL_ERROR), "{number}");
    }
    assert_eq!(rig.ended("upstream_body_cut"), 2.0);
    // What is seen to be broken before its head has left is answered.
    assert_eq!(caller.get("/").await.status(), 502);
}

#[tokio::test]
async fn a_client_that_cancels_ends_the_request_at_the_instance() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let mut exchange = caller.begin(request("GET", "/"), true).await;
    until("the request", || rig.in_flight("web") == 1).await;
    exchange.body.send_reset(Reason::CANCEL);
    rig.ends("client_gone").await;
    rig.settled("web").await;
    // In the middle of its body, too.
    let mut exchange = caller.begin(request("POST", "/"), false).await;
    exchange.push("begun", false).await;
    until("the request", || rig.in_flight("web") == 1).await;
    exchange.body.send_reset(Reason::CANCEL);
    rig.ends("client_body_cut").await;
    rig.settled("web").await;
    let by = |who| rig.metric("portolan_router_h2_resets_total", &[("by", who)]);
    assert_eq!((by("client"), by("router")), (2.0, 0.0));
}

#[tokio::test]
async fn a_client_that_goes_ends_all_its_requests() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let mut under_way = Vec::new();
    for _ in 0..10 {
        under_way.push(caller.begin(request("GET", "/"), true).await);
    }
    until("the requests", || rig.in_flight("web") == 10).await;
    drop((under_way, caller));
    rig.settled("web").await;
    until("the reasons", || rig.ended("client_gone") == 10.0).await;
    until("the end", || rig.router.connections() == 0).await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_whole() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.head().await;
        peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let mut exchange = caller.begin(request("POST", "/"), false).await;
    exchange.push(vec![0; 1_000], false).await;
    let response = within("an answer", &mut exchange.response).await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(whole(response.into_body()).await.unwrap().0, b"no");
    let reset = within("the reset", std::future::poll_fn(|cx| exchange.body.poll_reset(cx))).await;
    assert_eq!(reset.unwrap(), Reason::NO_ERROR);
}

#[tokio::test]
async fn a_slow_reader_holds_up_its_own_answer_only() {
    let instance = Instance::http(|request| match request.start() {
        "GET /large HTTP/1.1" => ok(bytes(20_000_000)),
        _ => ok("small"),
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut builder = Builder::new();
    // So much may be under way that it is the stream's window that holds.
    builder.initial_connection_window_size(8_000_000);
    let mut caller = Caller::with(rig.http, &builder).await;
    let exchange = caller.begin(request("GET", "/large"), true).await;
    let large = within("its head", exchange.response).await.unwrap();
    for _ in 0..20 {
        assert_eq!(caller.get("/").await.text(), "small");
    }
    let held = rig.metric("portolan_router_buffer_bytes", &[]);
    assert!(held < 1_000_000.0, "{held} bytes are held for 20 MB");
    let (body, _) = whole(large.into_body()).await.unwrap();
    assert!(body == bytes(20_000_000));
}

#[tokio::test]
async fn events_are_passed_on_as_they_come() {
    let (go, told) = tokio::sync::mpsc::channel::<()>(1);
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let instance = Instance::raw(move |mut peer, _| {
        let told = std::sync::Arc::clone(&told);
        async move {
            peer.request().await;
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while told.lock().await.recv().await.is_some() {
                peer.send("6\r\nevent\n\r\n").await;
            }
            peer.send("0\r\n\r\n").await;
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let exchange = caller.begin(request("GET", "/"), true).await;
    let mut body = within("a head", exchange.response).await.unwrap().into_body();
    for _ in 0..3 {
        go.send(()).await.unwrap();
        let event = within("an event", body.data()).await.unwrap().unwrap();
        assert_eq!(event, Bytes::from_static(b"event\n"));
    }
    drop(go);
    assert_eq!(whole(body).await.unwrap().0, b"");
}
