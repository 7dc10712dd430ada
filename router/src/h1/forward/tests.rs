//! What reaches the upstream: head in, head out.

use super::*;
use crate::h1::{HeadScratch, Limits, parse_request};

const ID: &str = "0123456789abcdefghij";

const PLAIN: Forward<'_> = Forward {
    peer: "127.0.0.9",
    peer_trusted: false,
    scheme: Scheme::Http,
    port: 8080,
    request_id: ID.as_bytes(),
    request_start_ms: None,
    authority_fallback: "127.0.0.1:8080",
    via: b"",
    client_lines: b"",
    rewrite: Rewrite::NONE,
};

const ADDED: &str = "X-Forwarded-For: 127.0.0.9|X-Forwarded-Host: a.test|X-Forwarded-Proto: http|\
    X-Forwarded-Port: 8080|X-Request-Id: 0123456789abcdefghij";

/// The head sent on, its lines joined by `|`. The lines of `head` are too.
fn forwarded(head: &str, forward: &Forward<'_>) -> String {
    let head = head.replace('|', "\r\n") + "\r\n\r\n";
    let mut scratch = HeadScratch::new();
    let request = parse_request(head.as_bytes(), &mut scratch, &Limits::DEFAULT).unwrap().unwrap();
    let mut out = b"before".to_vec();
    request.write_upstream(forward, &mut out);
    let text = String::from_utf8(out).unwrap();
    let text = text.strip_prefix("before").unwrap().strip_suffix("\r\n\r\n").unwrap();
    text.replace("\r\n", "|")
}

#[track_caller]
fn check(head: &str, expected: &str) {
    assert_eq!(forwarded(head, &PLAIN), expected.replace("ADDED", ADDED), "{head}");
}

#[track_caller]
fn check_trusted(head: &str, expected: &str) {
    let forward = Forward { peer_trusted: true, scheme: Scheme::Https, ..PLAIN };
    let expected = expected.replace("ID", &format!("X-Request-Id: {ID}"));
    assert_eq!(forwarded(head, &forward), expected, "{head}");
}

#[test]
fn end_to_end_lines_keep_their_order_and_case() {
    check(
        "GET /a?b HTTP/1.1|Host: a.test|aCCept: */*|Cookie: a=1|X-A: 1|cookie: b=2|X-A: 2",
        "GET /a?b HTTP/1.1|Host: a.test|aCCept: */*|Cookie: a=1|X-A: 1|cookie: b=2|X-A: 2|ADDED",
    );
    check(
        "GET / HTTP/1.1|X:  spaced \t|Host:a.test|Y:",
        "GET / HTTP/1.1|X: spaced|Host: a.test|Y: |ADDED",
    );
}

#[test]
fn the_original_path_is_sent_though_another_is_matched() {
    check(
        "GET /%61/../b/%2f?x=%zz HTTP/1.1|Host: a.test",
        "GET /%61/../b/%2f?x=%zz HTTP/1.1|Host: a.test|ADDED",
    );
}

#[test]
fn an_absolute_target_becomes_an_origin_and_its_authority_the_host() {
    check(
        "GET http://a.test/b?c HTTP/1.1|X: 1|Host: other|Y: 2",
        "GET /b?c HTTP/1.1|Host: a.test|X: 1|Y: 2|ADDED",
    );
    check("GET http://a.test HTTP/1.1|Host: a.test", "GET / HTTP/1.1|Host: a.test|ADDED");
    check("GET http://a.test?q HTTP/1.0", "GET /?q HTTP/1.1|Host: a.test|ADDED");
    check("OPTIONS http://a.test HTTP/1.1|Host: x", "OPTIONS * HTTP/1.1|Host: a.test|ADDED");
    check("OPTIONS http://a.test/ HTTP/1.1|Host: x", "OPTIONS / HTTP/1.1|Host: a.test|ADDED");
    check("OPTIONS * HTTP/1.1|Host: a.test", "OPTIONS * HTTP/1.1|Host: a.test|ADDED");
}

#[test]
fn an_http_1_0_request_goes_on_as_http_1_1() {
    check(
        "POST /a HTTP/1.0|Host: a.test|Connection: keep-alive|Expect: 100-continue|Content-Length: 5",
        "POST /a HTTP/1.1|Host: a.test|Content-Length: 5|ADDED",
    );
    let without = ADDED.replace("X-Forwarded-Host: a.test|", "");
    let expected = format!("GET /a?b HTTP/1.1|Host: 127.0.0.1:8080|X: y|{without}");
    assert_eq!(forwarded("GET /a?b HTTP/1.0|X: y", &PLAIN), expected);
}

#[test]
fn what_concerns_the_connection_stays_on_it() {
    check(
        "GET / HTTP/1.1|Host: a.test|Connection: keep-alive, X-Hop,x-hop2|Keep-Alive: timeout=5|\
         Proxy-Connection: x|Proxy-Authorization: x|Proxy-Authenticate: x|X-hop: 1|X-Hop2: 2|\
         HTTP2-Settings: x|Upgrade: h2c|TE: gzip|Trailer: X|X: 1",
        "GET / HTTP/1.1|Host: a.test|Trailer: X|X: 1|ADDED",
    );
}

#[test]
fn a_connection_header_cannot_take_out_what_belongs_to_us_or_the_recipient() {
    check(
        "POST / HTTP/1.1|Host: a.test|Connection: Host, Content-Length, X-Forwarded-For, \
         Authorization, X-Request-Id, Cookie, Content-Type|Authorization: b|Cookie: c|\
         Content-Type: d|Content-Length: 5",
        "POST / HTTP/1.1|Host: a.test|Authorization: b|Cookie: c|Content-Type: d|\
         Content-Length: 5|ADDED",
    );
    check(
        "POST / HTTP/1.1|Host: a.test|Connection: transfer-encoding|Transfer-Encoding: chunked",
        "POST / HTTP/1.1|Host: a.test|Transfer-Encoding: chunked|ADDED",
    );
}

#[test]
fn odd_names_are_not_sent_on() {
    check(
        "GET / HTTP/1.1|Host: a.test|X_Forwarded_For: 1|Content_Length: 5|a.b: 1",
        "GET / HTTP/1.1|Host: a.test|ADDED",
    );
}

#[test]
fn a_stranger_cannot_say_who_it_is() {
    check(
        "GET / HTTP/1.1|Host: a.test|X-Forwarded-For: 1.1.1.1|Forwarded: for=1.1.1.1|\
         X-Forwarded-Host: x|X-Forwarded-Proto: https|X-Forwarded-Port: 1|X-Real-IP: 1.1.1.1|\
         X-Forwarded-Prefix: /x|X-Request-Id: forged",
        "GET / HTTP/1.1|Host: a.test|ADDED",
    );
}

#[test]
fn a_trusted_proxy_is_believed_and_appended_to() {
    check_trusted(
        "GET / HTTP/1.1|Host: a.test|X-Forwarded-For: 1.1.1.1, 2.2.2.2|X: y|\
         X-Forwarded-For: 3.3.3.3|X-Forwarded-For:|X-Forwarded-Host: b.test|\
         X-Forwarded-Proto: http|X-Forwarded-Port: 81|X-Real-IP: 1.1.1.1",
        "GET / HTTP/1.1|Host: a.test|X: y|X-Forwarded-Host: b.test|X-Forwarded-Proto: http|\
         X-Forwarded-Port: 81|X-Real-IP: 1.1.1.1|\
         X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.9|ID",
    );
    check_trusted(
        "GET / HTTP/1.1|Host: a.test|X-Forwarded-Proto: https",
        "GET / HTTP/1.1|Host: a.test|X-Forwarded-Proto: https|X-Forwarded-For: 127.0.0.9|\
         X-Forwarded-Host: a.test|ID",
    );
    check_trusted(
        "GET / HTTP/1.1|Host: a.test|Forwarded: for=1.1.1.1",
        "GET / HTTP/1.1|Host: a.test|X-Forwarded-For: 127.0.0.9|X-Forwarded-Host: a.test|\
         X-Forwarded-Proto: https|X-Forwarded-Port: 8080|\
         Forwarded: for=1.1.1.1, for=127.0.0.9;proto=https|ID",
    );
}

#[test]
fn when_a_request_came_is_said_by_whoever_is_believed() {
    let head = "GET / HTTP/1.1|Host: a.test|x-request-start: t=1|Connection: x-request-start";
    let forward = Forward { request_start_ms: Some(1_700_000_000_123), ..PLAIN };
    let made = "X-Request-Start: t=1700000000123";
    assert_eq!(forwarded(head, &forward), format!("GET / HTTP/1.1|Host: a.test|{ADDED}|{made}"));
    let trusted = Forward { peer_trusted: true, ..forward };
    let kept = format!("GET / HTTP/1.1|Host: a.test|x-request-start: t=1|{ADDED}");
    assert_eq!(forwarded(head, &trusted), kept);
    let bare = "GET / HTTP/1.1|Host: a.test";
    assert_eq!(forwarded(bare, &trusted), format!("{bare}|{ADDED}|{made}"));
    assert_eq!(forwarded(head, &PLAIN), kept, "left alone where none is made");
}

#[test]
fn an_ipv6_peer_stands_in_brackets_where_the_syntax_asks_for_them() {
    let forward = Forward { peer: "::1", peer_trusted: true, ..PLAIN };
    let head = forwarded("GET / HTTP/1.1|Host: a.test|Forwarded: for=_x", &forward);
    assert!(head.contains("|X-Forwarded-For: ::1|"), "{head}");
    assert!(head.contains("|Forwarded: for=_x, for=\"[::1]\";proto=http|"), "{head}");
}

#[test]
fn an_upgrade_and_te_are_asked_for_anew() {
    check(
        "GET / HTTP/1.1|Host: a.test|Connection: Upgrade, keep-alive|Upgrade: h2c, WebSocket|\
         Sec-WebSocket-Key: x",
        "GET / HTTP/1.1|Host: a.test|Sec-WebSocket-Key: x|ADDED|Connection: upgrade|\
         Upgrade: websocket",
    );
    check(
        "GET / HTTP/1.1|Host: a.test|TE: deflate;q=0.5, Trailers|Connection: TE",
        "GET / HTTP/1.1|Host: a.test|ADDED|Connection: TE|TE: trailers",
    );
    check(
        "GET / HTTP/1.1|Host: a.test|TE: trailers|Upgrade: websocket|Connection: TE, upgrade",
        "GET / HTTP/1.1|Host: a.test|ADDED|Connection: upgrade, TE|Upgrade: websocket|TE: trailers",
    );
}

#[test]
fn a_body_keeps_its_framing() {
    check(
        "POST / HTTP/1.1|Host: a.test|transfer-encoding:Chunked|Expect: 100-continue",
        "POST / HTTP/1.1|Host: a.test|transfer-encoding: Chunked|Expect: 100-continue|ADDED",
    );
    check(
        "POST / HTTP/1.1|Host: a.test|content-length:  7 ",
        "POST / HTTP/1.1|Host: a.test|content-length: 7|ADDED",
    );
}

#[test]
fn we_add_ourselves_behind_everybody_else_who_passed_it_on() {
    let forward = Forward { via: b"Via: 1.1 me\r\n", ..PLAIN };
    let head = "GET / HTTP/1.1|Host: a.test|via: 1.0 fred|Connection: Via|X: y|Via: 1.1 joe (x)";
    assert_eq!(
        forwarded(head, &forward),
        format!(
            "GET / HTTP/1.1|Host: a.test|via: 1.0 fred|X: y|Via: 1.1 joe (x)|Via: 1.1 me|{ADDED}"
        )
    );
}

#[test]
fn max_forwards_is_counted_down_where_it_counts() {
    check(
        "OPTIONS / HTTP/1.1|Host: a.test|Max-Forwards: 10|X: y",
        "OPTIONS / HTTP/1.1|Host: a.test|Max-Forwards: 9|X: y|ADDED",
    );
    check(
        "GET / HTTP/1.1|Host: a.test|Max-Forwards: 10",
        "GET / HTTP/1.1|Host: a.test|Max-Forwards: 10|ADDED",
    );
}

#[test]
fn what_was_written_reads_as_the_same_request() {
    let head = "POST http://a.test/b?c HTTP/1.1|Host: x|Transfer-Encoding: chunked|TE: trailers";
    let text = forwarded(head, &PLAIN).replace('|', "\r\n") + "\r\n\r\n";
    let (mut first, mut second) = (HeadScratch::new(), HeadScratch::new());
    let head = head.replace('|', "\r\n") + "\r\n\r\n";
    let before = parse_request(head.as_bytes(), &mut first, &Limits::DEFAULT).unwrap().unwrap();
    let after = parse_request(text.as_bytes(), &mut second, &Limits::DEFAULT).unwrap().unwrap();
    assert_eq!(before.facts(), after.facts());
    assert_eq!((before.host(), before.path()), (after.host(), after.path()));
    assert_eq!(after.request_id(), Some(ID));
}

#[track_caller]
fn check_rewritten(prefix: Option<(&str, &str)>, host: Option<&str>, head: &str, expected: &str) {
    let forward = Forward { rewrite: Rewrite { prefix, host }, ..PLAIN };
    assert_eq!(forwarded(head, &forward), expected.replace("ADDED", ADDED), "{head}");
}

#[test]
fn another_prefix_takes_the_place_of_the_one_that_was_matched() {
    for (matched, replacement, target, sent) in [
        ("/a", "/b", "/a", "/b"),
        ("/a", "/b", "/a/", "/b/"),
        ("/a", "/b", "/a/x", "/b/x"),
        ("/a", "/b", "/a/x/", "/b/x/"),
        ("/a", "/b", "/a?x=/a/y", "/b?x=/a/y"),
        ("/a", "/b/c", "/a/x?", "/b/c/x?"),
        ("/a", "/b", "/a//x//y", "/b/x//y"),
        ("/a", "", "/a", "/"),
        ("/a", "", "/a/", "/"),
        ("/a", "", "/a/x", "/x"),
        ("/a", "", "/a?q", "/?q"),
        ("/a", "", "/a//evil.test/x", "/evil.test/x"),
        ("/a", "", "/a////", "/"),
        ("/a", "", "/%61/x%2Fy/%7e", "/x%2Fy/~"),
        ("/a", "", "/c/../a/b", "/b"),
        ("/a", "", "/a/..%2fx", "/..%2Fx"),
        ("", "/b", "/", "/b/"),
        ("", "/b", "/x", "/b/x"),
        ("", "", "/x", "/x"),
        ("/a/b", "/a", "/a/b/b", "/a/b"),
        ("/a", "/b", "http://a.test/a/x", "/b/x"),
        ("", "/b", "http://a.test", "/b/"),
    ] {
        let prefix = Some((matched, replacement));
        let head = format!("GET {target} HTTP/1.1|Host: a.test|X: 1");
        let expected = format!("GET {sent} HTTP/1.1|Host: a.test|X: 1|ADDED");
        check_rewritten(prefix, None, &head, &expected);
    }
}

#[test]
fn the_server_itself_has_no_prefix() {
    let prefix = Some(("", "/b"));
    let head = "OPTIONS * HTTP/1.1|Host: a.test";
    check_rewritten(prefix, None, head, "OPTIONS * HTTP/1.1|Host: a.test|ADDED");
    let head = "OPTIONS http://a.test HTTP/1.1|Host: a.test";
    check_rewritten(prefix, None, head, "OPTIONS * HTTP/1.1|Host: a.test|ADDED");
}

#[test]
fn another_host_is_sent_and_the_client_s_is_told() {
    check_rewritten(
        None,
        Some("inner.test"),
        "GET /%61//x?y HTTP/1.1|A: 1|Host: a.test|B: 2",
        "GET /%61//x?y HTTP/1.1|Host: inner.test|A: 1|B: 2|ADDED",
    );
    check_rewritten(
        Some(("/a", "")),
        Some("inner.test"),
        "GET http://a.test/a/x HTTP/1.1|Host: b.test",
        "GET /x HTTP/1.1|Host: inner.test|ADDED",
    );
    let added = ADDED.replace("|X-Forwarded-Host: a.test", "");
    let forward = Forward { rewrite: Rewrite { prefix: None, host: Some("inner.test") }, ..PLAIN };
    let sent = forwarded("GET / HTTP/1.0", &forward);
    assert_eq!(sent, format!("GET / HTTP/1.1|Host: inner.test|{added}"));
}
