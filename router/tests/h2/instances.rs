//! Instances that speak HTTP/2, for clients of any version.

use bytes::Bytes;
use h2::Reason;
use h2::server::Builder;
use http::Response;
use portolan_discovery::model::ServiceTls;

use super::authority::Authority;
use super::caller::{Caller, push, request, whole, with};
use super::peer::{Peer, within};
use super::rig::{Rig, until, without};
use super::server::{Call, Server, tls, web_h2, web_h2_by};

/// Sends back what it gets: the head as the body's first part.
async fn echo(mut call: Call) {
    let mut text = format!("{} {}\n", call.head.method(), call.head.uri());
    for (name, value) in call.head.headers() {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    let (received, _) = whole(call.body).await.unwrap();
    let mut all = text.into_bytes();
    all.push(b'\n');
    all.extend_from_slice(&received);
    let response = Response::builder().header("x-answer", "yes").body(()).unwrap();
    let mut send = call.respond.send_response(response, false).unwrap();
    push(&mut send, all.into(), true).await;
}

#[tokio::test]
async fn a_client_of_http_1_is_served_by_an_instance_of_http_2() {
    let server = Server::new(echo).await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut client = Peer::connect(rig.http).await;
    let answer = client
        .ask(
            "POST /a%20b?q=1 HTTP/1.1\r\nHost: web.test:8080\r\nX-Upper: Case\r\n\
             Connection: TE, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nUpgrade: h2c\r\n\
             Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status(), 200);
    assert!(answer.chunked && answer.field("x-answer").as_deref() == Some("yes"));
    assert!(answer.field("via").unwrap().starts_with("2.0 portolan-"));
    let seen = answer.text();
    assert!(seen.starts_with("POST http://web.test:8080/a%20b?q=1\n"), "{seen}");
    assert!(seen.contains("x-upper: Case\n") && seen.contains("te: trailers\n"), "{seen}");
    assert!(seen.contains("via: 1.1 portolan-") && seen.ends_with("\n\nbody"), "{seen}");
    for gone in ["x-hop", "connection", "upgrade", "transfer-encoding", "host:"] {
        assert!(!seen.lines().any(|line| line.starts_with(gone)), "{gone} in {seen}");
    }
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!((server.connections(), server.calls()), (1, 4));
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let server = Server::new(|mut call| async move {
        let path = call.head.uri().path().to_owned();
        let (status, length) = match path.as_str() {
            "/204" => (204, None),
            "/304" => (304, Some("5")),
            "/head" => (200, Some("5")),
            _ => (200, None),
        };
        let mut response = Response::builder().status(status);
        if let Some(length) = length {
            response = response.header("content-length", length);
        }
        call.respond.send_response(response.body(()).unwrap(), true).unwrap();
    })
    .await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut client = Peer::connect(rig.http).await;
    client.send("HEAD /head HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    let head = within("a head", client.head()).await.unwrap();
    assert!(head.iter().any(|line| line == "content-length: 5"), "{head:?}");
    for (path, status, length) in
        [("/204", 204, None), ("/304", 304, Some("5")), ("/empty", 200, Some("0"))]
    {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n")).await;
        let head = within("a head", client.head()).await.unwrap();
        assert!(head[0].starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}");
        let said = head.iter().find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(said, length, "{path}");
    }
}

#[tokio::test]
async fn bodies_of_any_size_pass_in_both_directions() {
    let server = Server::new(|mut call| async move {
        let (body, _) = whole(call.body).await.unwrap();
        let response = Response::builder().header("content-length", body.len());
        let mut send = call.respond.send_response(response.body(()).unwrap(), false).unwrap();
        push(&mut send, body.into(), true).await;
    })
    .await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut caller = Caller::connect(rig.http).await;
    let mut client = Peer::connect(rig.http).await;
    for size in [1, 16_384, 65_537, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let mut exchange = caller.begin(request("POST", "/"), false).await;
        exchange.push(body.clone(), true).await;
        assert!(exchange.answer().await.unwrap().body == body, "{size}");
        if size < 100_000 {
            let head =
                format!("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {size}\r\n\r\n");
            let answer = client.ask([head.as_bytes(), &body].concat()).await;
            assert!(answer.body == body, "{size}");
        }
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn requests_share_a_connection_as_far_as_it_goes() {
    let (go, told) = tokio::sync::watch::channel(false);
    let serve = move |call: Call| {
        let mut told = told.clone();
        async move {
            told.wait_for(|go| *go).await.unwrap();
            call.answer("done").await;
        }
    };
    let mut builder = Builder::new();
    builder.max_concurrent_streams(20);
    let server = Server::with(builder, None, usize::MAX, serve).await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut caller = Caller::connect(rig.http).await;
    // The limit is known from then on.
    go.send(true).unwrap();
    assert_eq!(caller.get("/").await.text(), "done");
    go.send(false).unwrap();
    let mut under_way = Vec::new();
    for _ in 0..50 {
        under_way.push(caller.begin(request("GET", "/"), true).await);
    }
    until("all calls", || server.calls() == 51).await;
    assert_eq!(server.connections(), 3);
    go.send(true).unwrap();
    for exchange in under_way {
        assert_eq!(exchange.answer().await.unwrap().text(), "done");
    }
    let used = |kind| rig.metric("portolan_router_upstream_connections_total", &[("kind", kind)]);
    assert_eq!(used("opened"), 3.0);
}

#[tokio::test]
async fn what_an_instance_refuses_is_asked_again() {
    let server = Server::new(|mut call| async move {
        match call.number {
            0 | 2 => call.respond.send_reset(Reason::REFUSED_STREAM),
            _ => call.answer("done").await,
        }
    })
    .await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut caller = Caller::connect(rig.http).await;
    assert_eq!(caller.get("/").await.text(), "done");
    // Also what must not be sent twice: nothing was done of it.
    let mut exchange = caller.begin(request("POST", "/"), false).await;
    exchange.push("body", true).await;
    assert_eq!(exchange.answer().await.unwrap().text(), "done");
    assert_eq!(server.calls(), 4);
    assert_eq!(rig.metric("portolan_router_retries_total", &[]), 2.0);
}

#[tokio::test]
async fn no_request_is_lost_when_an_instance_says_goodbye() {
    let serve = |call: Call| async move { call.answer("done").await };
    let server = Server::with(Builder::new(), None, 10, serve).await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut caller = Caller::connect(rig.http).await;
    for round in 0..20 {
        let mut under_way = Vec::new();
        for _ in 0..8 {
            let mut exchange = caller.begin(request("POST", "/"), false).await;
            exchange.push("body", true).await;
            under_way.push(exchange);
        }
        for exchange in under_way {
            assert_eq!(exchange.answer().await.unwrap().text(), "done", "{round}");
        }
    }
    assert!(server.connections() >= 10, "{}", server.connections());
}

#[tokio::test]
async fn a_kept_connection_that_has_ended_is_replaced() {
    let server = Server::new(|call| async move { call.answer("first").await }).await;
    let addr = server.addr;
    let rig = Rig::new(&web_h2(&[addr]));
    let mut caller = Caller::connect(rig.http).await;
    assert_eq!(caller.get("/").await.text(), "first");
    drop(server);
    until("the end", || std::net::TcpStream::connect(addr).is_err()).await;
    assert_eq!(caller.get("/").await.status(), 502);
    assert_eq!(rig.ended("upstream_connect_refused"), 1.0);
}

#[tokio::test]
async fn a_cut_answer_is_cut_for_the_client() {
    let (cut, told) = tokio::sync::watch::channel(0);
    let server = Server::new(move |mut call| {
        let mut told = told.clone();
        async move {
            let mut send = call.respond.send_response(Response::new(()), false).unwrap();
            push(&mut send, Bytes::from_static(b"half"), false).await;
            told.wait_for(|cuts| *cuts > call.number).await.unwrap();
            send.send_reset(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut caller = Caller::connect(rig.http).await;
    let exchange = caller.begin(request("GET", "/"), true).await;
    let mut body = within("a head", exchange.response).await.unwrap().into_body();
    assert_eq!(within("a part", body.data()).await.unwrap().unwrap(), "half");
    cut.send(1).unwrap();
    assert_eq!(whole(body).await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    let mut client = Peer::connect(rig.http).await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    within("a head", client.head()).await.unwrap();
    assert_eq!(client.read(9).await, b"4\r\nhalf\r\n");
    cut.send(2).unwrap();
    assert_eq!(client.rest().await, b"");
    until("both", || rig.ended("upstream_body_cut") == 2.0).await;
}

#[tokio::test]
async fn a_client_that_cancels_ends_the_call() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::new(move |mut call| {
        let tell = tell.clone();
        async move {
            let reset = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
            tell.send(reset.unwrap()).unwrap();
        }
    })
    .await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut caller = Caller::connect(rig.http).await;
    let mut exchange = caller.begin(request("GET", "/"), true).await;
    until("the call", || server.calls() == 1).await;
    exchange.body.send_reset(Reason::CANCEL);
    assert_eq!(within("the reset", told.recv()).await, Some(Reason::CANCEL));
    let mut client = Peer::connect(rig.http).await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    until("the call", || server.calls() == 2).await;
    drop(client);
    assert_eq!(within("the reset", told.recv()).await, Some(Reason::CANCEL));
    assert_eq!(server.connections(), 1);
    rig.settled("web").await;
}

#[tokio::test]
async fn interim_answers_are_passed_on() {
    let server = Server::new(|mut call| async move {
        let hints = Response::builder().status(103).header("link", "</a>").body(()).unwrap();
        call.respond.send_informational(hints).unwrap();
        call.answer("done").await;
    })
    .await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut client = Peer::connect(rig.http).await;
    client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    let hints = within("hints", client.head()).await.unwrap();
    assert!(hints[0].starts_with("HTTP/1.1 103 ") && hints[1] == "link: </a>", "{hints:?}");
    assert_eq!(client.response().await.text(), "done");
}

#[tokio::test]
async fn http_2_is_agreed_on_with_an_instance_that_speaks_tls() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let settings =
        || ServiceTls { ca_file: Some(file.to_str().unwrap().to_owned()), ..ServiceTls::DEFAULT };
    for (protocols, status) in [(&[&b"h2"[..]][..], 200), (&[b"http/1.1"], 502), (&[], 502)] {
        let acceptor = tls(&authority, &["127.0.0.1"], protocols);
        let serve = |call: Call| async move {
            let uri = call.head.uri().to_string();
            call.answer(uri).await;
        };
        let server = Server::with(Builder::new(), Some(acceptor), usize::MAX, serve).await;
        let rig = Rig::new(&web_h2_by(&[server.addr], Some(settings())));
        let mut client = Peer::connect(rig.http).await;
        let answer = client.get("/x").await;
        assert_eq!(answer.status(), status, "{protocols:?} {}", answer.text());
        match status {
            200 => assert_eq!(answer.text(), "https://web.test/x"),
            _ => assert_eq!(rig.ended("upstream_tls_failed"), 1.0),
        }
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_instance_and_when_nobody_needs_it() {
    let server = Server::new(|call| async move { call.answer("done").await }).await;
    let mut rig = Rig::new(&web_h2(&[server.addr]));
    assert_eq!(Peer::connect(rig.http).await.get("/").await.status(), 200);
    assert_eq!(server.ended(), 0);
    rig.apply_and_wait(&[without("web", "a")]).await;
    until("the end", || server.ended() == 1).await;
    let rig = Rig::with(&web_h2(&[server.addr]), |config| {
        config.timeouts.upstream_idle = std::time::Duration::from_millis(100);
    });
    assert_eq!(Peer::connect(rig.http).await.get("/").await.status(), 200);
    until("the end", || server.ended() == 2).await;
}

#[tokio::test]
async fn an_instance_that_sends_much_to_a_client_that_does_not_read_waits() {
    let (tell, told) = tokio::sync::watch::channel(0);
    let tell = std::sync::Arc::new(tell);
    let server = Server::new(move |mut call| {
        let tell = std::sync::Arc::clone(&tell);
        async move {
            if call.head.uri().path() != "/large" {
                return call.answer("small").await;
            }
            let mut send = call.respond.send_response(Response::new(()), false).unwrap();
            // 100 MB, as windows allow.
            for _ in 0..6_400 {
                let mut part = Bytes::from_static(&[7; 16_384]);
                while !part.is_empty() {
                    send.reserve_capacity(part.len());
                    let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                    let Some(Ok(room)) = room else { return };
                    let piece = part.split_to(room.min(part.len()));
                    tell.send_modify(|sent| *sent += piece.len());
                    send.send_data(piece, false).unwrap();
                }
            }
            send.send_data(Bytes::new(), true).unwrap();
        }
    })
    .await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    // Its own connection has room beside what it does not read.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(8_000_000);
    let mut caller = Caller::with(rig.http, &builder).await;
    let mut slow = Peer::connect(rig.http).await;
    slow.send("GET /large HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    within("a head", slow.head()).await.unwrap();
    let mut exchange = caller.begin(request("GET", "/large"), true).await;
    let large = within("a head", exchange.response).await.unwrap();
    // Others are served over the same connection meanwhile.
    for _ in 0..50 {
        assert_eq!(caller.get("/small").await.text(), "small");
    }
    assert_eq!(server.connections(), 1);
    // The kernel holds some MB for the client of HTTP/1.1.
    let sent = *told.borrow();
    assert!(sent < 16_000_000, "{sent} bytes were sent");
    let held = rig.metric("portolan_router_buffer_bytes", &[]);
    assert!(held < 2_000_000.0, "{held} bytes are held");
    exchange.body.send_reset(Reason::CANCEL);
    drop((slow, large));
    rig.settled("web").await;
}

#[tokio::test]
async fn fields_of_a_client_of_http_2_reach_an_instance_of_http_2() {
    let server = Server::new(echo).await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let mut caller = Caller::connect(rig.http).await;
    let fields = [("te", "trailers"), ("cookie", "a=1"), ("cookie", "b=2"), ("x-a", "b")];
    let answer = caller.ask(with("GET", "/x", &fields)).await.unwrap();
    let seen = answer.text();
    for line in ["GET http://web.test/x", "te: trailers", "cookie: a=1; b=2", "x-a: b"] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    assert!(seen.contains("via: 2.0 portolan-") && answer.field("via").unwrap().starts_with("2.0"));
}
