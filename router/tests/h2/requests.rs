//! What instances are told of a request, and which are refused.

use bytes::Bytes;

use super::caller::{Caller, request, with};
use super::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, PROTOCOL_ERROR, RESET, Raw,
    SETTINGS, asking, frame, get, text,
};
use super::instance::{Instance, ok};
use super::peer::Peer;
use super::rig::{Rig, web};

#[tokio::test]
async fn a_request_goes_on_as_http_1_and_its_answer_comes_back() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let fields = [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-kept", "yes"),
    ];
    let answer = caller.ask(with("GET", "/some/path?q=1", &fields)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = answer.text().to_ascii_lowercase();
    assert!(seen.starts_with("get /some/path?q=1 http/1.1\n"), "{seen}");
    for line in [
        "host: web.test",
        "cookie: a=1; b=2",
        "x-kept: yes",
        "te: trailers",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: web.test",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    assert!(seen.contains("via: 2.0 portolan-"), "{seen}");
    assert!(answer.field("via").unwrap().starts_with("1.1 portolan-"));
    assert!(answer.field("x-request-id").is_some() && answer.field("connection").is_none());
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let instance = Instance::http(|request| ok(request.start())).await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let mut under_way = Vec::new();
    for number in 0..100 {
        let request = request("GET", &format!("/{number}"));
        under_way.push(caller.begin(request, true).await);
    }
    for (number, exchange) in under_way.into_iter().enumerate() {
        let answer = exchange.answer().await.unwrap();
        assert_eq!(answer.text(), format!("GET /{number} HTTP/1.1"));
    }
    assert_eq!(rig.metric("portolan_router_connections_total", &[("listener", "http")]), 1.0);
    assert_eq!(rig.metric("portolan_router_h2_connections_total", &[]), 1.0);
    assert_eq!(rig.metric("portolan_router_h2_streams_total", &[]), 100.0);
    rig.settled("web").await;
}

#[tokio::test]
async fn hosts_are_checked_as_in_http_1() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let status = async |caller: &mut Caller, uri: &str, host: Option<&str>| {
        let mut request = http::Request::builder().uri(uri).body(()).unwrap();
        *request.version_mut() = http::Version::HTTP_2;
        if let Some(host) = host {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        let answer = caller.ask(request).await.unwrap();
        let reason = answer.text().lines().next().unwrap_or_default().to_owned();
        (answer.status(), reason)
    };
    for (uri, host, expected) in [
        ("http://web.test/", Some("web.test"), 200),
        ("http://web.test/", Some("WEB.test"), 200),
        ("http://web.test/", Some("other.test"), 400),
        ("http://user@web.test/", None, 400),
    ] {
        let (got, reason) = status(&mut caller, uri, host).await;
        assert_eq!(got, expected, "{uri} {host:?} {reason}");
    }
    // The library sends no request without an authority.
    let mut raw = Raw::connect(rig.http).await;
    let block = [&[0x82, 0x86, 0x84, 0][..], &text("host"), &text("web.test")].concat();
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    let head = raw.next_of(HEADERS).await.unwrap();
    assert_eq!(head.payload[0], 0x88, "200 for a request with a host only");
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0x82, 0x86, 0x84])).await;
    let head = raw.next_of(HEADERS).await.unwrap();
    assert_eq!(head.payload[0], 0x8c, "400 for one with neither");
    assert_eq!(rig.ended("missing_host"), 1.0);
}

#[tokio::test]
async fn what_http_2_does_not_allow_is_reset_and_reaches_no_instance() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    for (what, block) in [
        ("an upper-case name", asking("GET", &[("X-Upper", "1")])),
        ("a connection field", asking("GET", &[("connection", "close")])),
        ("a coding", asking("GET", &[("transfer-encoding", "chunked")])),
        ("an upgrade", asking("GET", &[("upgrade", "h2c")])),
        ("te", asking("GET", &[("te", "gzip")])),
        ("a line break", asking("GET", &[("x", "a\r\nb: c")])),
        ("a zero", asking("GET", &[("x", "a\0b")])),
        ("an odd name", asking("GET", &[("x y", "a")])),
        ("space at the end", asking("GET", &[("x", "a ")])),
        ("an unknown pseudo field", asking("GET", &[(":odd", "a")])),
        ("two lengths", asking("GET", &[("content-length", "1"), ("content-length", "2")])),
        ("a late pseudo field", [get(), vec![0x00], text("a"), text("b"), vec![0x84]].concat()),
        ("two paths", [get(), vec![0x84]].concat()),
        ("no method", vec![0x86, 0x84]),
        ("no path", [&[0x82, 0x86, 0x01][..], &text("web.test")].concat()),
        ("a path without a slash", [&[0x82, 0x86, 0x04][..], &text("x")].concat()),
        ("a status", [get(), vec![0x88]].concat()),
    ] {
        let mut raw = Raw::connect(rig.http).await;
        raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        // A stream's fault may count as one of the connection (RFC 9113 §5.4.2): so does the
        // library count names and values that are none.
        let end = loop {
            match raw.next().await {
                Some(end) if matches!(end.kind, RESET | GOAWAY) => break end,
                Some(_) => {}
                None => panic!("{what}"),
            }
        };
        assert_eq!(end.code(), PROTOCOL_ERROR, "{what}");
        assert!(end.kind == GOAWAY || end.stream == 1, "{what}");
    }
    assert_eq!(instance.requests(), 0);
    assert_eq!(Caller::connect(rig.http).await.get("/").await.status(), 200);
}

#[tokio::test]
async fn what_the_rules_refuse_is_answered_and_the_connection_goes_on() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let long = "x".repeat(40_000);
    for (what, request, status) in [
        ("CONNECT", http::Request::connect("a.test:80").body(()).unwrap(), 501),
        ("a zero in the path", request("GET", "/%00"), 400),
        ("a long target", request("GET", &format!("/{}", &long[..9_000])), 414),
        ("a large head", with("GET", "/", &[("x-long", &long)]), 431),
        ("many fields", with("GET", "/", &[("x", "y"); 200]), 431),
        ("an expectation", with("GET", "/", &[("expect", "luck")]), 417),
    ] {
        let answer = caller.ask(request).await.unwrap();
        assert_eq!(answer.status(), status, "{what}: {}", answer.text());
    }
    assert_eq!(instance.requests(), 0);
    assert_eq!(caller.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_head_in_parts_is_one() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut raw = Raw::connect(rig.http).await;
    let block = get();
    raw.send(frame(HEADERS, END_STREAM, 1, &block[..3])).await;
    raw.send(frame(CONTINUATION, 0, 1, &block[3..5])).await;
    raw.send(frame(CONTINUATION, END_HEADERS, 1, &block[5..])).await;
    assert_eq!(raw.next_of(HEADERS).await.unwrap().payload[0], 0x88);
}

#[tokio::test]
async fn http_2_begins_with_its_preface_and_only_there() {
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| config.listeners[1].http2 = false);
    // Byte by byte.
    let mut raw = Raw(Peer::connect(rig.http).await);
    for byte in PREFACE {
        raw.send([*byte]).await;
    }
    raw.send(frame(SETTINGS, 0, 0, &[])).await;
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &get())).await;
    assert_eq!(raw.next_of(HEADERS).await.unwrap().payload[0], 0x88);
    // Behind a request it is none.
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.status(), 200);
    client.send(PREFACE).await;
    assert_eq!(client.response().await.status(), 505);
    // A preface that is no preface.
    let mut client = rig.client().await;
    client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    client.gone().await;
    // An upgrade to it is not made.
    let mut client = rig.client().await;
    let answer = client
        .ask(
            "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: upgrade, http2-settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status(), 200);
    let seen = answer.text().to_ascii_lowercase();
    assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{seen}");
}

#[tokio::test]
async fn a_listener_may_do_without() {
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| config.listeners[0].http2 = false);
    let mut client = rig.client().await;
    client.send(PREFACE).await;
    assert_eq!(client.response().await.status(), 505);
}

#[tokio::test]
async fn interim_answers_are_passed_on() {
    let instance = Instance::raw(|mut peer, _| async move {
        while peer.head().await.is_some() {
            peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(peer.read(4).await, b"body");
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
            peer.send(ok("done")).await;
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let asked = with("POST", "/", &[("expect", "100-continue"), ("content-length", "4")]);
    let mut exchange = caller.begin(asked, false).await;
    let mut interims = Vec::new();
    let first = super::peer::within("permission", async {
        std::future::poll_fn(|cx| exchange.response.poll_informational(cx)).await
    });
    interims.push(first.await.unwrap().unwrap().status().as_u16());
    exchange.push(Bytes::from_static(b"body"), true).await;
    let second = super::peer::within("hints", async {
        std::future::poll_fn(|cx| exchange.response.poll_informational(cx)).await
    });
    let hints = second.await.unwrap().unwrap();
    assert_eq!(hints.headers()["link"], "</a>");
    interims.push(hints.status().as_u16());
    assert_eq!((interims, exchange.answer().await.unwrap().text()), (vec![100, 103], "done"));
}

#[tokio::test]
async fn an_answer_without_a_body_ends_with_its_head() {
    let instance = Instance::http(|request| match request.start() {
        "HEAD / HTTP/1.1" => b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n".to_vec(),
        "GET /204 HTTP/1.1" => b"HTTP/1.1 204 No\r\n\r\n".to_vec(),
        "GET /304 HTTP/1.1" => b"HTTP/1.1 304 No\r\nETag: x\r\n\r\n".to_vec(),
        _ => ok(""),
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let head = caller.ask(request("HEAD", "/")).await.unwrap();
    assert_eq!((head.field("content-length"), head.text()), (Some("12"), ""));
    for (path, status) in [("/204", 204), ("/304", 304), ("/0", 200)] {
        let exchange = caller.begin(request("GET", path), true).await;
        let response = super::peer::within("an answer", exchange.response).await.unwrap();
        assert_eq!(response.status(), status);
        assert!(response.body().is_end_stream(), "{path}");
    }
}

#[tokio::test]
async fn a_stream_beyond_the_limit_is_refused_and_no_request_is_lost() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut raw = Raw::connect(rig.http).await;
    for number in 0..129 {
        let stream = 2 * number + 1;
        raw.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get())).await;
    }
    let reset = raw.next_of(RESET).await.unwrap();
    assert_eq!((reset.stream, reset.code()), (257, 7), "REFUSED_STREAM");
    drop(raw);
    rig.settled("web").await;
}

#[tokio::test]
async fn a_fault_in_the_frames_ends_the_connection_with_its_code() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    for (what, bytes, code) in [
        ("DATA for nobody", frame(0, 0, 1, b"x"), 1),
        ("a frame of an odd size", frame(SETTINGS, 0, 0, b"x"), 1),
        ("an even stream", frame(HEADERS, END_HEADERS, 2, &get()), 1),
        ("a block that is none", frame(HEADERS, END_HEADERS, 1, &[0xff; 40]), 1),
        ("a frame that is too large", frame(0, 0, 0, &vec![0; 20_000]), 6),
    ] {
        let mut raw = Raw::connect(rig.http).await;
        raw.flood(&bytes, 1).await;
        let goaway = raw.next_of(GOAWAY).await.unwrap_or_else(|| panic!("{what}"));
        assert_eq!(goaway.code(), code, "{what}");
    }
    let goaways = |code| rig.metric("portolan_router_h2_goaways_total", &[("code", code)]);
    assert_eq!((goaways("protocol_error"), goaways("frame_size_error")), (4.0, 1.0));
    let mut caller = Caller::connect(rig.http).await;
    assert_eq!(caller.get("/").await.status(), 200);
}
