//! What the router says by itself, whom it tells what, and when a connection ends (rules 56 to
//! 58, 65 to 67).

use portolan_discovery::model::RouteName;

use super::instance::{Instance, nobody};
use super::rig::{Rig, instance, route, routed, service, until, web};
use super::stage::{Stage, keep, lines};

#[tokio::test]
async fn an_error_has_its_status_and_the_code_of_the_log() {
    // Rule 56, RFC 9209: the code is that of log and metrics.
    let silent = Instance::raw(|mut peer, _| async move { peer.gone().await }).await;
    let closing = Instance::raw(|mut peer, _| async move { drop(peer.head().await) }).await;
    let mut records = Vec::new();
    let mut serve = |path: &str, to: &str, addr: Option<std::net::SocketAddr>| {
        let mut made = route(path, to);
        made.name = RouteName::parse(to).unwrap();
        if path == "/silent" {
            made.timeouts.first_byte = Some(std::time::Duration::from_millis(100));
        }
        records.push(routed(&made));
        records.push(service(to, true));
        records.extend(addr.map(|addr| instance(to, "a", addr)));
    };
    serve("/empty", "empty", None);
    serve("/refused", "refused", Some(nobody().await));
    serve("/silent", "silent", Some(silent.addr));
    serve("/closing", "closing", Some(closing.addr));
    let mut nowhere = route("/nowhere", "nowhere");
    nowhere.name = RouteName::parse("nowhere").unwrap();
    records.push(routed(&nowhere));
    let rig = Rig::new(&records);
    for (path, status, expected) in [
        ("/", 404, "error=destination_not_found; details=\"PR no_route\""),
        ("/nowhere", 500, "error=proxy_configuration_error; details=\"PR bad_reference\""),
        ("/empty", 503, "error=destination_unavailable; details=\"SC no_instance\""),
        ("/refused", 502, "error=connection_refused; details=\"SC upstream_connect_refused\""),
        ("/silent", 504, "error=http_response_timeout; details=\"sH upstream_timeout\""),
        ("/closing", 502, "error=connection_terminated; details=\"SH upstream_closed\""),
        ("https://web.test/", 421, "error=destination_not_found; details=\"PR misdirected\""),
        ("/%00", 400, "error=http_request_error; details=\"PR bad_path_encoding\""),
    ] {
        let response = rig.client().await.get(path).await;
        assert_eq!(response.status(), status, "{path}: {}", response.text());
        let line = response.field("proxy-status").unwrap();
        let (name, rest) = line.split_once("; ").unwrap();
        assert_eq!(rest, expected, "{path}");
        assert!(name.starts_with("portolan-"), "{path}: {name}");
        assert_eq!(response.field("retry-after").is_some(), status == 503, "{path}");
    }
}

#[tokio::test]
async fn what_an_instance_says_of_its_own_proxies_passes() {
    // Rule 56: ours is for our own errors only, another one's is left as it is.
    let stage = Stage::answering(|_| {
        keep("HTTP/1.1 503 x|Proxy-Status: inner; error=dns_error|Content-Length: 0||")
    })
    .await;
    assert_eq!(
        stage.received("GET / HTTP/1.1|Host: web.test|Connection: close||").await,
        format!(
            "HTTP/1.1 503 x|Proxy-Status: inner; error=dns_error|Content-Length: 0|{}||",
            super::stage::ANSWERED
        )
    );
}

#[tokio::test]
async fn a_client_that_has_gone_takes_its_connection_to_the_back_end_with_it() {
    // Rule 57: before the answer, in its body, and in the body of the request.
    for (request, piece, reason) in [
        ("GET / HTTP/1.1|Host: web.test||", "", "client_gone"),
        (
            "GET / HTTP/1.1|Host: web.test||",
            "HTTP/1.1 200 OK|Content-Length: 9||half",
            "client_gone_in_body",
        ),
        ("GET / HTTP/1.1|Host: web.test||", "HTTP/1.1 103 x||", "client_gone"),
        ("POST / HTTP/1.1|Host: web.test|Content-Length: 9||half", "", "client_body_cut"),
        (
            "POST / HTTP/1.1|Host: web.test|Transfer-Encoding: chunked||4|half|",
            "",
            "client_body_cut",
        ),
    ] {
        for reset in [false, true] {
            let (left, mut leaving) = tokio::sync::mpsc::unbounded_channel();
            let piece = lines(piece);
            let begins = piece.clone();
            let instance = Instance::raw(move |mut peer, _| {
                let (left, piece) = (left.clone(), piece.clone());
                async move {
                    peer.head().await.unwrap();
                    peer.send(piece).await;
                    peer.gone().await;
                    left.send(()).unwrap();
                }
            })
            .await;
            let rig = Rig::web(&[instance.addr]);
            let mut client = rig.client().await;
            client.send(lines(request)).await;
            if begins.is_empty() {
                until("the request", || instance.connections() == 1).await;
            } else {
                client.response_head().await;
            }
            if reset {
                client.reset()
            } else {
                drop(client)
            }
            super::peer::within("the end", leaving.recv()).await.unwrap();
            rig.ends(reason).await;
            rig.settled("web").await;
            assert_eq!(rig.metric("portolan_router_requests_total", &[("code", "5xx")]), 0.0);
        }
    }
}

#[tokio::test]
async fn a_connection_ends_when_either_side_says_so() {
    // Rule 65.
    let stage = Stage::answering(|request| match request {
        request if request.contains("/close") => {
            keep("HTTP/1.1 200 OK|Connection: close|Content-Length: 2||ok")
        }
        _ => keep("HTTP/1.1 200 OK|Content-Length: 2||ok"),
    })
    .await;
    for (request, stays) in [
        ("GET / HTTP/1.1|Host: web.test||", true),
        ("GET / HTTP/1.1|Host: web.test|Connection: close||", false),
        ("GET / HTTP/1.1|Host: web.test|Connection: keep-alive, CLOSE||", false),
        ("GET / HTTP/1.0|Host: web.test||", false),
        ("GET / HTTP/1.0|Host: web.test|Connection: Keep-Alive||", true),
        ("GET / HTTP/1.0|Host: web.test|Connection: keep-alive, close||", false),
        ("GET /close HTTP/1.1|Host: web.test||", true),
    ] {
        let mut client = stage.rig.client().await;
        let response = client.ask(lines(request)).await;
        let said = response.field("connection");
        if stays {
            assert_ne!(said.as_deref(), Some("close"), "{request}");
            assert_eq!(client.get("/").await.text(), "ok", "{request}");
        } else {
            assert_eq!(said.as_deref(), Some("close"), "{request}");
            assert_eq!(client.rest().await, b"", "{request}");
        }
    }
    stage.rig.settled("web").await;
    assert_eq!(stage.backend.instance.connections(), 2, "closed once, after /close");
}

#[tokio::test]
async fn what_is_sent_behind_the_last_request_is_not_answered() {
    // Rule 65: the client has said that it was the last.
    let stage = Stage::new().await;
    let mut client = stage.rig.client().await;
    client
        .send(lines(
            "GET /1 HTTP/1.1|Host: web.test|Connection: close||GET /2 HTTP/1.1|Host: web.test||",
        ))
        .await;
    assert_eq!(client.response().await.text(), "ok");
    assert_eq!(client.rest().await, b"");
    assert!(!String::from_utf8(stage.backend.take()).unwrap().contains("/2"));
}

#[tokio::test]
async fn a_size_is_refused_before_it_is_buffered() {
    // Rule 66: none of the bytes has to have an end.
    let stage = Stage::new().await;
    let long = "x".repeat(100_000);
    let target = format!("GET /{long}");
    stage.refuses(66, "a target", target.as_bytes(), 414, "uri_too_long").await;
    let field = format!("GET / HTTP/1.1|Host: web.test|X: {long}");
    stage.refuses(66, "a field", &lines(&field), 431, "headers_too_large").await;
    let fields = format!("GET / HTTP/1.1|Host: web.test|{}", "A: b|".repeat(129));
    stage.refuses(66, "fields", &lines(&fields), 431, "too_many_headers").await;
    let mut small = route("/small", "web");
    small.name = RouteName::parse("small").unwrap();
    small.body_bytes_max = Some(4);
    let mut rig = Rig::new(&web(&[stage.backend.instance.addr]));
    rig.apply_and_wait(&[routed(&small)]).await;
    for body in ["Content-Length: 5||", "Transfer-Encoding: chunked||5|"] {
        let request = format!("POST /small HTTP/1.1|Host: web.test|{body}");
        let mut client = rig.client().await;
        let response = client.ask(lines(&request)).await;
        assert_eq!(response.status(), 413, "{body}");
        assert_eq!(response.field("connection").as_deref(), Some("close"), "{body}");
        assert_eq!(client.rest().await, b"", "{body}");
    }
    assert_eq!(stage.backend.take(), b"", "nothing of what was too large");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    // Rule 65: a close with bytes unread would be a reset, and the reset would win.
    let stage = Stage::new().await;
    let mut client = stage.rig.client().await;
    client.send(lines("POST / HTTP/1.1|Host: web.test|Content-Length: x||")).await;
    client.try_send(vec![b'x'; 5_000_000]).await;
    let response = client.response().await;
    assert_eq!(response.status(), 400);
    assert_eq!(client.rest().await, b"");
    assert_eq!(stage.backend.take(), b"");
}
