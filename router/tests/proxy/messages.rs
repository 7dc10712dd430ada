//! What a request and its response look like on the other side.

use portolan_router::Limits;

use super::instance::{Instance, ok};
use super::peer::Peer;
use super::rig::{Rig, until, web};

#[tokio::test]
async fn connections_to_an_instance_are_used_again() {
    let instance = Instance::named("a").await;
    let rig = Rig::web(&[instance.addr]);
    for _ in 0..3 {
        let mut client = rig.client().await;
        for _ in 0..20 {
            assert_eq!(client.get("/").await.text(), "a");
        }
    }
    assert_eq!((instance.requests(), instance.connections()), (60, 1));
    let kinds = "portolan_router_upstream_connections_total";
    assert_eq!(rig.metric(kinds, &[("kind", "opened")]), 1.0);
    assert_eq!(rig.metric(kinds, &[("kind", "reused")]), 59.0);
}

#[tokio::test]
async fn an_instance_that_wants_no_kept_connections_gets_none() {
    let instance = Instance::named("a").await;
    let mut records = web(&[instance.addr]);
    records.push(super::rig::service("web", false));
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "a");
    }
    assert_eq!(instance.connections(), 3);
}

#[tokio::test]
async fn a_request_arrives_with_its_body_and_our_fields() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    let response = client
        .ask(
            "POST /a/b?c=d HTTP/1.1\r\nHost: Web.Test:80\r\nX-Forwarded-For: 127.9.9.9\r\n\
             Connection: x-drop\r\nX-Drop: 1\r\nContent-Length: 5\r\n\r\nhello",
        )
        .await;
    let text = response.text();
    assert!(text.starts_with("POST /a/b?c=d HTTP/1.1\nHost: Web.Test:80\n"), "{text}");
    assert!(text.contains("\nX-Forwarded-For: 127.0.0.1\n"), "an untrusted peer: {text}");
    assert!(text.contains("\nX-Forwarded-Proto: http\n"), "{text}");
    assert!(text.contains(&format!("\nX-Forwarded-Port: {}\n", rig.http.port())), "{text}");
    assert!(!text.to_lowercase().contains("x-drop"), "{text}");
    assert!(text.ends_with("\n\nhello"), "{text}");
    let id = response.field("x-request-id").unwrap();
    assert!(text.contains(&format!("\nX-Request-Id: {id}\n")), "{text}");
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert!(response.field("date").unwrap().ends_with(" GMT"));
}

#[tokio::test]
async fn what_a_trusted_peer_says_of_the_client_is_believed() {
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.listeners[0].trusted_peers = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let request = "GET / HTTP/1.1\r\nHost: web.test\r\nX-Forwarded-For: 127.9.9.9\r\n\
                   X-Forwarded-Proto: https\r\nX-Request-Id: 0123456789abcdef0123\r\n\r\n";
    let response = rig.client().await.ask(request).await;
    let text = response.text();
    assert!(text.contains("\nX-Forwarded-For: 127.9.9.9, 127.0.0.1\n"), "{text}");
    assert!(text.contains("\nX-Forwarded-Proto: https\n"), "{text}");
    assert_eq!(response.field("x-request-id").unwrap(), "0123456789abcdef0123");
}

#[tokio::test]
async fn chunks_and_trailers_pass_in_both_directions() {
    let instance = Instance::http(|request| {
        assert!(request.chunked);
        let body = String::from_utf8(request.body.clone()).unwrap();
        let trailers = request.trailers.join("|");
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             {:x}\r\n{body}\r\n{:x};ext=1\r\n{trailers}\r\n0\r\nX-Sum: 7\r\n\r\n",
            body.len(),
            trailers.len(),
        )
        .into_bytes()
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    for _ in 0..2 {
        let response = client
            .ask(
                "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Check: 9\r\n\r\n",
            )
            .await;
        assert_eq!(response.text(), "abcdefgX-Check: 9");
        assert_eq!(response.trailers, ["X-Sum: 7"]);
    }
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn a_response_without_a_body_leaves_both_connections_usable() {
    let instance = Instance::http(|request| match request.start() {
        start if start.starts_with("HEAD") => {
            b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec()
        }
        start if start.contains("/304") => {
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n".to_vec()
        }
        start if start.contains("/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    let head = client.response_head().await;
    assert_eq!((head.status(), head.field("content-length").as_deref()), (200, Some("1234")));
    client.send("GET /304 HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    assert_eq!(client.response_head().await.status(), 304);
    client.send("GET /204 HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    assert_eq!(client.response_head().await.status(), 204);
    assert_eq!(client.get("/").await.text(), "");
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn a_connection_with_bytes_that_belong_to_no_response_is_not_used_again() {
    let instance = Instance::http(|_| {
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
            .to_vec()
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
        assert_eq!(client.response_head().await.status(), 204);
    }
    assert_eq!(instance.connections(), 3);
}

#[tokio::test]
async fn a_client_that_asks_gets_permission_before_it_sends_its_body() {
    let instance = Instance::raw(|mut peer, _| async move {
        let head = peer.head().await.unwrap();
        assert!(head.iter().any(|line| line == "Expect: 100-continue"), "{head:?}");
        assert!(peer.is_silent().await, "no body before it is asked for");
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
        peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(peer.read(5).await, b"hello");
        peer.send(ok("thanks")).await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client
        .send(
            "PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    assert_eq!(client.response_head().await.status(), 103);
    assert_eq!(client.response_head().await.status(), 100);
    client.send("hello").await;
    assert_eq!(client.response().await.text(), "thanks");
}

#[tokio::test]
async fn a_refusal_instead_of_permission_reaches_the_client_and_ends_its_connection() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    let request =
        "PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let response = client.ask(request).await;
    assert_eq!((response.status(), response.field("connection").unwrap()), (401, "close".into()));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn an_old_client_gets_what_it_understands() {
    let instance = Instance::http(|request| match request.start() {
        start if start.contains("/chunked") => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
              3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
                .to_vec()
        }
        start if start.contains("/interim") => {
            [&b"HTTP/1.1 103 Early Hints\r\n\r\n"[..], &ok("plain")].concat()
        }
        _ => ok("plain"),
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let response = rig.client().await.ask("GET /chunked HTTP/1.0\r\n\r\n").await;
    assert!(!response.chunked);
    assert_eq!(response.text(), "abcde");
    let response = rig.client().await.ask("GET /interim HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.status(), response.text()), (200, "plain"));
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.ends_with(b"plain"), "an old client gets one response");
    let mut client = rig.client().await;
    for _ in 0..2 {
        let response = client.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(response.field("connection").unwrap(), "keep-alive");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_gets_chunks() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await.unwrap();
        peer.send("HTTP/1.1 200 OK\r\n\r\nfirst ").await;
        tokio::task::yield_now().await;
        peer.send("second").await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    for _ in 0..2 {
        let response = client.get("/").await;
        assert!(response.chunked);
        assert_eq!(response.text(), "first second");
    }
    let mut old = rig.client().await;
    old.send("GET / HTTP/1.0\r\n\r\n").await;
    let (all, in_peace) = old.rest_or_reset().await;
    assert!(in_peace && all.ends_with(b"\r\n\r\nfirst second"));
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client
        .send(
            "GET /1 HTTP/1.1\r\nHost: web.test\r\n\r\n\
             POST /2 HTTP/1.1\r\nHost: web.test\r\nContent-Length: 3\r\n\r\nabc\
             POST /3 HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\ndef\r\n0\r\n\r\n\
             GET /4 HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n",
        )
        .await;
    for (path, body) in [("/1", ""), ("/2", "abc"), ("/3", "def"), ("/4", "")] {
        let response = client.response().await;
        let text = response.text();
        assert!(text.contains(&format!(" {path} HTTP/1.1\n")), "{text}");
        assert!(text.ends_with(&format!("\n\n{body}")), "{text}");
    }
    assert_eq!(client.rest().await, b"");
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn a_head_may_be_as_large_as_the_limit_and_may_come_in_pieces() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    let padding = "x".repeat(Limits::DEFAULT.http.head_bytes_max - 1_000);
    let request = format!("GET / HTTP/1.1\r\nHost: web.test\r\nX-Pad: {padding}\r\n\r\n");
    for piece in request.as_bytes().chunks(5_000) {
        client.send(piece).await;
    }
    assert!(client.response().await.text().contains(&padding));
    assert_eq!(client.get("/").await.status(), 200);
}

#[tokio::test]
async fn a_request_for_the_last_hop_is_answered_by_the_router() {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    for (method, status) in [("OPTIONS", 200), ("TRACE", 501)] {
        let request = format!("{method} / HTTP/1.1\r\nHost: web.test\r\nMax-Forwards: 0\r\n\r\n");
        assert_eq!(client.ask(request).await.status(), status);
    }
    assert_eq!(instance.requests(), 0);
}

#[tokio::test]
async fn requests_are_counted_by_the_class_of_their_status() {
    let instance = Instance::http(|request| match request.start() {
        start if start.contains("/missing") => {
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()
        }
        _ => ok("a"),
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.get("/").await;
    client.get("/missing").await;
    let count = |code| {
        let labels = [("service", "web"), ("code", code)];
        rig.metric("portolan_router_requests_total", &labels)
    };
    // A request is counted when its response has left, so the client may be ahead.
    until("the count", || (count("2xx"), count("4xx"), count("5xx")) == (1.0, 1.0, 0.0)).await;
    let open = || rig.metric("portolan_router_connections_open", &[("listener", "http")]);
    assert_eq!(open(), 1.0);
    drop(client);
    until("the close", || open() == 0.0).await;
    let accepted = rig.metric("portolan_router_connections_total", &[("listener", "http")]);
    assert_eq!(accepted, 1.0);
}

#[tokio::test]
async fn a_service_gets_requests_over_connections_of_its_own_only() {
    let (a, b) = (Instance::named("a").await, Instance::named("b").await);
    let mut records = web(&[a.addr]);
    let mut other = super::rig::route("/other", "other");
    other.created_ms = 1;
    records.push(super::rig::instance("other", "b", b.addr));
    records.push(super::rig::routed(&other));
    let rig = Rig::new(&records);
    let mut client: Peer = rig.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "a");
        assert_eq!(client.get("/other/x").await.text(), "b");
    }
}

#[tokio::test]
async fn an_instance_is_told_when_its_request_came_if_that_is_wanted() {
    let now_ms = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let told = |response: &super::peer::Message| -> Vec<String> {
        let lines = response.text().lines();
        let starts = lines.filter_map(|line| line.split_once(": "));
        starts
            .filter(|(name, _)| name.eq_ignore_ascii_case("x-request-start"))
            .map(|(_, value)| value.to_owned())
            .collect()
    };
    let ask = "GET / HTTP/1.1\r\nHost: a.test\r\nx-request-start: t=7\r\n\r\n";
    let instance = Instance::echo().await;
    let rig = Rig::with(&web(&[instance.addr]), |config| config.request_start = true);
    let before = now_ms();
    let [start] = &told(&rig.client().await.ask(ask).await)[..] else { panic!("one field") };
    let start: u128 = start.strip_prefix("t=").unwrap().parse().unwrap();
    assert!((before..=now_ms()).contains(&start), "{before} {start}");

    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.request_start = true;
        config.listeners[0].trusted_peers = vec!["127.0.0.0/8".parse().unwrap()];
    });
    assert_eq!(told(&rig.client().await.ask(ask).await), ["t=7"]);
    assert_eq!(told(&rig.client().await.get("/").await).len(), 1);

    let rig = Rig::web(&[instance.addr]);
    assert_eq!(told(&rig.client().await.get("/").await), [""; 0]);
    assert_eq!(told(&rig.client().await.ask(ask).await), ["t=7"], "not ours to change");
}
