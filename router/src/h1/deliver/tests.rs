//! What reaches the client: head in, head out, and the relay that follows.

use super::*;
use crate::h1::response::tests::asked;
use crate::h1::{HeadScratch, Limits, parse_response};

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";
const VIA: &[u8] = b"Via: 1.1 me\r\n";
const ADDED: &str = "Via: 1.1 me|Date: Sun, 06 Nov 1994 08:49:37 GMT";

fn current() -> RequestFacts {
    asked("GET / HTTP/1.1\r\nHost: a")
}

fn old() -> RequestFacts {
    asked("GET / HTTP/1.0\r\nConnection: keep-alive")
}

/// The head and the plan; lines are joined by `|` on both sides.
fn delivered(
    request: RequestFacts,
    keep_alive: bool,
    id: Option<&str>,
    head: &str,
) -> Result<(String, Delivery), Reason> {
    let head = head.replace('|', "\r\n") + "\r\n\r\n";
    let mut scratch = HeadScratch::new();
    let response = parse_response(head.as_bytes(), &mut scratch, &request, &Limits::DEFAULT);
    let deliver = Deliver {
        request,
        keep_alive,
        date: DATE,
        request_id: id.map(str::as_bytes),
        via: VIA,
        line: b"",
    };
    let mut out = Vec::new();
    let delivery = response.unwrap().unwrap().write_client(&deliver, &mut out)?;
    let text = String::from_utf8_lossy(&out).into_owned();
    Ok((text.trim_end_matches("\r\n").replace("\r\n", "|"), delivery))
}

#[track_caller]
fn check(request: RequestFacts, head: &str, expected: &str, relay: Relay, keep_alive: bool) {
    let (text, delivery) = delivered(request, request.keep_alive, None, head).unwrap();
    assert_eq!(text, expected.replace("ADDED", ADDED), "{head}");
    assert_eq!(delivery, Delivery { relay, keep_alive }, "{head}");
}

#[test]
fn end_to_end_lines_keep_their_order_and_case() {
    check(
        current(),
        "HTTP/1.1 200 Fine|Set-Cookie: a=1|X: 1|set-cookie: b=2|Date: now|Content-Length: 5|Server: x",
        "HTTP/1.1 200 Fine|Set-Cookie: a=1|X: 1|set-cookie: b=2|Date: now|Content-Length: 5|Server: x|Via: 1.1 me",
        Relay::Raw,
        true,
    );
}

#[test]
fn what_concerns_the_upstream_connection_stays_on_it() {
    check(
        current(),
        "HTTP/1.1 200 OK|Connection: close, X-Hop|X-Hop: 1|Keep-Alive: timeout=5|Upgrade: h2|\
         Proxy-Connection: x|Proxy-Authenticate: x|Content-Length: 5|Trailer: T",
        "HTTP/1.1 200 OK|Content-Length: 5|Trailer: T|ADDED",
        Relay::Raw,
        true,
    );
}

#[test]
fn a_repaired_head_is_sent_clean() {
    check(
        current(),
        "HTTP/1.0 404|X : a|  b|Y:c|Content-Length: 5, 5|Content-Length: 5|Date: 1|Date: 2",
        "HTTP/1.1 404 |X: a b|Y: c|Content-Length: 5|Date: 1|Via: 1.1 me",
        Relay::Raw,
        true,
    );
}

#[test]
fn a_phrase_outside_ascii_is_left_out() {
    let head = b"HTTP/1.1 200 \xe9t\xe9\r\nContent-Length: 0\r\n\r\n";
    let mut scratch = HeadScratch::new();
    let request = current();
    let response = parse_response(head, &mut scratch, &request, &Limits::DEFAULT).unwrap().unwrap();
    let deliver =
        Deliver { request, keep_alive: true, date: DATE, request_id: None, via: VIA, line: b"" };
    let mut out = Vec::new();
    response.write_client(&deliver, &mut out).unwrap();
    assert!(out.starts_with(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n"), "{out:?}");
}

#[test]
fn chunks_pass_to_a_current_client_and_are_taken_apart_for_an_old_one() {
    let head = "HTTP/1.1 200 OK|transfer-encoding: Chunked|X: y";
    let sent = "HTTP/1.1 200 OK|X: y|Transfer-Encoding: chunked|ADDED";
    check(current(), head, sent, Relay::Raw, true);
    let sent = "HTTP/1.1 200 OK|X: y|ADDED|Connection: close";
    check(old(), head, sent, Relay::Decode, false);
}

#[test]
fn a_body_without_an_end_is_cut_into_chunks_or_ends_with_the_connection() {
    let head = "HTTP/1.1 200 OK|X: y|Connection: close";
    let sent = "HTTP/1.1 200 OK|X: y|Transfer-Encoding: chunked|ADDED";
    check(current(), head, sent, Relay::Encode, true);
    let sent = "HTTP/1.1 200 OK|X: y|ADDED|Connection: close";
    check(old(), head, sent, Relay::UntilClose, false);
}

#[test]
fn a_length_beside_chunks_is_taken_out() {
    check(
        current(),
        "HTTP/1.1 200 OK|Content-Length: 5|Transfer-Encoding: chunked",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked|ADDED",
        Relay::Raw,
        true,
    );
}

#[test]
fn other_codings_are_named_or_refused() {
    check(
        current(),
        "HTTP/1.1 200 OK|Transfer-Encoding: gzip, identity|Transfer-Encoding: chunked",
        "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked|ADDED",
        Relay::Raw,
        true,
    );
    check(
        current(),
        "HTTP/1.1 200 OK|Transfer-Encoding: gzip",
        "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked|ADDED",
        Relay::Encode,
        true,
    );
    let refused = delivered(old(), true, None, "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked");
    assert_eq!(refused, Err(Reason::UpstreamBadCoding));
}

#[test]
fn a_response_without_a_body_announces_what_it_may() {
    let head = asked("HEAD / HTTP/1.1\r\nHost: a");
    let check = |request, head, sent| check(request, head, sent, Relay::None, true);
    check(head, "HTTP/1.1 200 OK|Content-Length: 5", "HTTP/1.1 200 OK|Content-Length: 5|ADDED");
    check(head, "HTTP/1.1 200 OK|Transfer-Encoding: chunked", "HTTP/1.1 200 OK|ADDED");
    let sent = "HTTP/1.1 304 Not Modified|Content-Length: 5|ADDED";
    check(current(), "HTTP/1.1 304 Not Modified|Content-Length: 5", sent);
    check(current(), "HTTP/1.1 204 Gone|Content-Length: 0", "HTTP/1.1 204 Gone|ADDED");
    let sent = "HTTP/1.1 200 OK|Content-Length: 0|ADDED";
    check(current(), "HTTP/1.1 200 OK|Content-Length: 0", sent);
}

#[test]
fn an_old_client_is_told_that_the_connection_stays() {
    check(
        old(),
        "HTTP/1.1 200 OK|Content-Length: 5",
        "HTTP/1.1 200 OK|Content-Length: 5|ADDED|Connection: keep-alive",
        Relay::Raw,
        true,
    );
}

#[test]
fn a_connection_that_is_to_close_says_so() {
    let head = "HTTP/1.1 200 OK|Connection: keep-alive|Content-Length: 5|Date: x";
    let (text, delivery) = delivered(current(), false, None, head).unwrap();
    assert_eq!(text, "HTTP/1.1 200 OK|Content-Length: 5|Date: x|Via: 1.1 me|Connection: close");
    assert!(!delivery.keep_alive);
}

#[test]
fn interim_responses_pass_to_current_clients_only() {
    let head = "HTTP/1.1 103 Early Hints|Link: </a>|Connection: close|Content-Length: 5";
    check(current(), head, "HTTP/1.1 103 Early Hints|Link: </a>", Relay::None, true);
    check(old(), head, "", Relay::None, true);
    let head = "HTTP/1.1 100 Continue";
    check(current(), head, "HTTP/1.1 100 Continue", Relay::None, true);
}

#[test]
fn a_switch_opens_a_tunnel() {
    let request = asked("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket");
    check(
        request,
        "HTTP/1.1 101 Switching Protocols|Upgrade: WebSocket|Connection: Upgrade|\
         Sec-WebSocket-Accept: x",
        "HTTP/1.1 101 Switching Protocols|Sec-WebSocket-Accept: x|Connection: upgrade|\
         Upgrade: websocket|Via: 1.1 me",
        Relay::Tunnel,
        false,
    );
}

#[test]
fn the_request_id_is_answered_if_asked_for() {
    let head = "HTTP/1.1 200 OK|X-Request-Id: theirs|Content-Length: 5|Date: x";
    let (text, _) = delivered(current(), true, Some("ours"), head).unwrap();
    assert_eq!(text, "HTTP/1.1 200 OK|Content-Length: 5|Date: x|Via: 1.1 me|X-Request-Id: ours");
    let (text, _) = delivered(current(), true, None, head).unwrap();
    assert_eq!(text, "HTTP/1.1 200 OK|X-Request-Id: theirs|Content-Length: 5|Date: x|Via: 1.1 me");
}
