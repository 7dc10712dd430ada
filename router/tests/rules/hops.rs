//! What ends at this hop, what is added on it, and what passes untouched (rules 26 to 35, 60, 62,
//! 68): RFC 9110 §6.5, §7.6.

use super::instance::Instance;
use super::rig::{Rig, instance, web};
use super::stage::{ASKED, Stage, delivers_all, keep, lines};

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn what_concerns_the_clients_connection_stays_on_it() {
    let stage = Stage::new().await;
    stage
        .passes_all(&[
            (
                26,
                "every field of a hop",
                "GET / HTTP/1.1|Host: web.test|Connection: keep-alive, X-Hop,x-hop2|Keep-Alive: timeout=5|\
                 Proxy-Connection: keep-alive|TE: gzip, deflate;q=0.5|Trailer: X|Upgrade: foo|\
                 Proxy-Authorization: Basic x|Proxy-Authenticate: x|X-HOP: 1|X-Hop2: 2|X: y||",
                "GET / HTTP/1.1|Host: web.test|Trailer: X|X: y|ASKED||",
            ),
            (
                26,
                "options over two lines",
                "GET / HTTP/1.1|Host: web.test|Connection: a|A: 1|connection:b|B: 2||",
                "GET / HTTP/1.1|Host: web.test|ASKED||",
            ),
            (
                27,
                "options that are not the client's to name",
                "POST / HTTP/1.1|Host: web.test|Connection: Host, Content-Length, Authorization, Cookie, \
                 X-Forwarded-For, X-Forwarded-Proto, X-Real-IP, Forwarded, Via, X-Request-Id, Cache-Control|\
                 Authorization: b|Cookie: c|Cache-Control: d|Via: 1.1 e|Content-Length: 2||ab",
                "POST / HTTP/1.1|Host: web.test|Authorization: b|Cookie: c|Cache-Control: d|Via: 1.1 e|\
                 Content-Length: 2|ASKED||ab",
            ),
            (
                27,
                "the framing",
                "POST / HTTP/1.1|Host: web.test|Connection: Transfer-Encoding|Transfer-Encoding: chunked||2|ab|0||",
                "POST / HTTP/1.1|Host: web.test|Transfer-Encoding: chunked|ASKED||2|ab|0||",
            ),
            (
                28,
                "a client that takes trailers",
                "GET / HTTP/1.1|Host: web.test|TE: trailers, deflate;q=0.5|Connection: TE||",
                "GET / HTTP/1.1|Host: web.test|ASKED|Connection: TE|TE: trailers||",
            ),
            (
                28,
                "one that forgets the option",
                "GET / HTTP/1.1|Host: web.test|TE: trailers||",
                "GET / HTTP/1.1|Host: web.test|ASKED|Connection: TE|TE: trailers||",
            ),
            (
                32,
                "order, case and white space",
                "GET / HTTP/1.1|X-A: 1|hOST: web.test|b:2|X-A:\t3 |Cookie: a=1|Empty:|cookie: b=2||",
                "GET / HTTP/1.1|X-A: 1|hOST: web.test|b: 2|X-A: 3|Cookie: a=1|Empty: |cookie: b=2|ASKED||",
            ),
            (
                35,
                "names in any case",
                "POST / HTTP/1.1|HOST: web.test|CONNECTION: X|x: y|CONTENT-LENGTH: 1||a",
                "POST / HTTP/1.1|HOST: web.test|CONTENT-LENGTH: 1|ASKED||a",
            ),
            (
                60,
                "a stranger that says who it is",
                "GET / HTTP/1.1|Host: web.test|X-Forwarded-For: 127.9.9.9|X-Forwarded-Proto: https|\
                 X-Forwarded-Host: x|X-Forwarded-Port: 1|X-Forwarded-Prefix: /|X-Real-IP: 127.9.9.9|\
                 Forwarded: for=127.9.9.9||",
                "GET / HTTP/1.1|Host: web.test|ASKED||",
            ),
            (
                62,
                "names that a CGI reads as others",
                "GET / HTTP/1.1|Host: web.test|X_Forwarded_For: 1|Content_Length: 5|Transfer.Encoding: chunked|_: 1||",
                "GET / HTTP/1.1|Host: web.test|ASKED||",
            ),
        ])
        .await;
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_added_to() {
    // Rule 60: the syntax of each field is its own, IPv6 in brackets and quotes only in Forwarded.
    let answer = |_: &str| keep("HTTP/1.1 200 OK|Content-Length: 2||ok");
    let stage = Stage::with(answer, |config| {
        config.listeners[0].bind = "[::1]:0".parse().unwrap();
        config.listeners[0].trusted_peers = vec!["::1/128".parse().unwrap()];
    })
    .await;
    stage
        .passes_all(&[(
            60,
            "all of them",
            "GET / HTTP/1.1|Host: web.test|X-Forwarded-For: 127.9.9.9|Forwarded: for=127.9.9.9|\
             X-Forwarded-Proto: https|X-Real-IP: 127.9.9.9|X-Forwarded-For: 127.8.8.8||",
            "GET / HTTP/1.1|Host: web.test|X-Forwarded-Proto: https|X-Real-IP: 127.9.9.9|Via: 1.1 ME|\
             X-Forwarded-For: 127.9.9.9, 127.8.8.8, ::1|X-Forwarded-Host: web.test|\
             Forwarded: for=127.9.9.9, for=\"[::1]\";proto=http|X-Request-Id: ID||",
        )])
        .await;
}

#[tokio::test]
async fn what_concerns_the_back_ends_connection_stays_on_it() {
    delivers_all(&[
        (
            26,
            "every field of a hop",
            "HTTP/1.1 200 OK|Connection: keep-alive, X-Hop|Keep-Alive: timeout=50|X-Hop: 1|Upgrade: h2|\
             Proxy-Connection: x|Proxy-Authenticate: x|TE: x|Trailer: T|Content-Length: 2||ok",
            "HTTP/1.1 200 OK|Trailer: T|Content-Length: 2|ANSWERED||ok",
            true,
        ),
        (
            27,
            "options that are not the back end's to name",
            "HTTP/1.1 200 OK|Connection: Set-Cookie, Content-Length, Date, Via, X-Request-Id|Set-Cookie: a|\
             Content-Length: 2||ok",
            "HTTP/1.1 200 OK|Set-Cookie: a|Content-Length: 2|ANSWERED||ok",
            true,
        ),
        (
            32,
            "cookies are never joined",
            "HTTP/1.1 200 OK|Set-Cookie: a=1, b|X: 1|set-cookie: c=2|X: 2|Content-Length: 2||ok",
            "HTTP/1.1 200 OK|Set-Cookie: a=1, b|X: 1|set-cookie: c=2|X: 2|Content-Length: 2|ANSWERED||ok",
            true,
        ),
        (
            33,
            "a date that is there stays as it is",
            "HTTP/1.1 200 OK|Date: yesterday|Server: me|Content-Length: 2||ok",
            "HTTP/1.1 200 OK|Date: yesterday|Server: me|Content-Length: 2|Via: 1.1 ME|X-Request-Id: ID|\
             Connection: close||ok",
            true,
        ),
        (
            68,
            "one date and one length",
            "HTTP/1.1 200 OK|Date: a|Content-Length: 2|date: b|content-length: 2||ok",
            "HTTP/1.1 200 OK|Date: a|Content-Length: 2|Via: 1.1 ME|X-Request-Id: ID|Connection: close||ok",
            true,
        ),
        (
            30,
            "an old back end",
            "HTTP/1.0 200 OK|Via: 1.1 fred|Content-Length: 2||ok",
            "HTTP/1.1 200 OK|Via: 1.1 fred|Content-Length: 2|Via: 1.0 ME|Date: DATE|X-Request-Id: ID|\
             Connection: close||ok",
            false,
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_of_the_router_has_each_field_once() {
    // Rule 68.
    let rig = Rig::new(&[]);
    let mut client = rig.client().await;
    let response = client.get("/").await;
    assert_eq!(response.status(), 404);
    for name in ["date", "content-length", "content-type", "proxy-status", "x-request-id"] {
        let lines = response.lines.iter().filter(|line| {
            line.get(..=name.len()).is_some_and(|l| l.eq_ignore_ascii_case(&format!("{name}:")))
        });
        assert_eq!(lines.count(), 1, "{name}: {:?}", response.lines);
    }
    assert_eq!(response.field("server"), None);
}

#[tokio::test]
async fn trailers_pass_both_ways_without_those_that_come_too_late() {
    // Rule 29: what frames, routes or authenticates was decided on without them.
    let stage = Stage::answering(|_| {
        keep(
            "HTTP/1.1 200 OK|Content-Type: application/grpc|Trailer: grpc-status|\
             Transfer-Encoding: chunked||2|ok|0|grpc-status: 0|Content-Length: 5|Set-Cookie: a|\
             Transfer-Encoding: chunked|grpc-message: fine||",
        )
    })
    .await;
    let request = "POST / HTTP/1.1|Host: web.test|Connection: TE, close|TE: trailers|\
                   Transfer-Encoding: chunked||2|ab|0;last|X-Sum: 7|Host: other|Authorization: a|\
                   Content-Length: 1|X-Forwarded-For: 127.9.9.9|Via: 1.1 x|X-Last: 8||";
    assert_eq!(
        stage.received(request).await,
        "HTTP/1.1 200 OK|Content-Type: application/grpc|Trailer: grpc-status|\
         Transfer-Encoding: chunked|Via: 1.1 ME|Date: DATE|X-Request-Id: ID|Connection: close||\
         2|ok|0|grpc-status: 0|grpc-message: fine||"
    );
    assert_eq!(
        stage.normal(&stage.backend.take()),
        format!(
            "POST / HTTP/1.1|Host: web.test|Transfer-Encoding: chunked|{ASKED}|Connection: TE|\
             TE: trailers||2|ab|0;last|X-Sum: 7|X-Last: 8||"
        )
    );
}

#[tokio::test]
async fn a_message_says_whom_it_has_passed() {
    // Rule 30.
    let stage = Stage::new().await;
    stage
        .passes_all(&[
            (
                30,
                "the first",
                "GET / HTTP/1.1|Host: web.test||",
                "GET / HTTP/1.1|Host: web.test|ASKED||",
            ),
            (
                30,
                "behind others",
                "GET / HTTP/1.1|Host: web.test|Via: 1.0 fred, 2 joe (a, b)|via: 1.1 x||",
                "GET / HTTP/1.1|Host: web.test|Via: 1.0 fred, 2 joe (a, b)|via: 1.1 x|ASKED||",
            ),
            (
                30,
                "others of the same name",
                "GET / HTTP/1.1|Host: web.test|Via: 1.1 portolan||",
                "GET / HTTP/1.1|Host: web.test|Via: 1.1 portolan|ASKED||",
            ),
        ])
        .await;
}

#[tokio::test]
async fn a_request_that_comes_back_is_refused() {
    // Rule 30: the router is its own instance.
    let mut rig = Rig::new(&web(&[]));
    rig.apply_and_wait(&[instance("web", "a", rig.http)]).await;
    let mut client = rig.client().await;
    let response = client.get("/").await;
    assert_eq!(response.status(), 508);
    assert!(response.text().starts_with("loop_detected\n"), "{}", response.text());
    let status = response.field("proxy-status").unwrap();
    assert!(status.contains("; error=proxy_loop_detected; "), "{status}");
    assert_eq!(rig.ended("loop_detected"), 1.0, "the second time, not later");
    rig.settled("web").await;
}

#[tokio::test]
async fn two_routers_in_a_row_are_no_loop() {
    // Rule 30: an edge and an internal router of one cluster have the same name.
    let backend = Instance::echo().await;
    let internal = Rig::web(&[backend.addr]);
    let edge = Rig::web(&[internal.http]);
    let response = edge.client().await.get("/").await;
    assert_eq!(response.status(), 200);
    let count = |text: &str| text.matches("1.1 portolan-").count();
    assert_eq!(count(response.text()), 2, "{}", response.text());
    assert_eq!(count(&response.field("via").unwrap()), 2);
}

#[tokio::test]
async fn a_listener_may_stay_unnamed() {
    // Rule 30, opted out of; and a name of one's own.
    let backend = Instance::echo().await;
    let rig = Rig::with(&web(&[backend.addr]), |config| config.listeners[0].via = false);
    let response = rig.client().await.get("/").await;
    assert_eq!(response.field("via"), None);
    assert!(!response.text().to_lowercase().contains("via"), "{}", response.text());
    let rig = Rig::with(&web(&[backend.addr]), |config| {
        config.via_name = portolan_router::ViaName::parse("edge").unwrap();
    });
    let response = rig.client().await.get("/").await;
    assert!(response.field("via").unwrap().starts_with("1.1 edge-"), "{:?}", response.lines);
}

#[tokio::test]
async fn a_request_is_counted_down_and_answered_at_the_last_hop() {
    // Rule 31.
    let stage = Stage::new().await;
    stage
        .passes_all(&[
            (
                31,
                "OPTIONS",
                "OPTIONS / HTTP/1.1|Host: web.test|Max-Forwards: 5||",
                "OPTIONS / HTTP/1.1|Host: web.test|Max-Forwards: 4|ASKED||",
            ),
            (
                31,
                "TRACE",
                "TRACE / HTTP/1.1|Host: web.test|Max-Forwards: 1||",
                "TRACE / HTTP/1.1|Host: web.test|Max-Forwards: 0|ASKED||",
            ),
            (
                31,
                "a method that does not count",
                "GET / HTTP/1.1|Host: web.test|Max-Forwards: 0||",
                "GET / HTTP/1.1|Host: web.test|Max-Forwards: 0|ASKED||",
            ),
        ])
        .await;
    let mut client = stage.rig.client().await;
    for (method, status) in [("OPTIONS", 200), ("TRACE", 501)] {
        let request = format!("{method} / HTTP/1.1|Host: web.test|Max-Forwards: 0|X-Secret: x||");
        let response = client.ask(lines(&request)).await;
        assert_eq!(response.status(), status);
        assert!(!response.text().contains("secret"), "{}", response.text());
    }
    assert_eq!(stage.backend.take(), b"");
}
