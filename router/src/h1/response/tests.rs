//! One row a rule: how a response is framed, and when its connection may be used again.

use super::*;
use crate::h1::{Version, parse_request};

const LIMITS: Limits = Limits::DEFAULT;

pub(in crate::h1) fn asked(head: &str) -> RequestFacts {
    let head = format!("{head}\r\n\r\n");
    let mut scratch = HeadScratch::new();
    parse_request(head.as_bytes(), &mut scratch, &LIMITS).unwrap().unwrap().facts()
}

fn get() -> RequestFacts {
    asked("GET / HTTP/1.1\r\nHost: a")
}

fn websocket() -> RequestFacts {
    asked("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket")
}

fn parse(head: &str, request: RequestFacts) -> Result<Option<ResponseFacts>, Reason> {
    let mut scratch = HeadScratch::new();
    let response = parse_response(head.as_bytes(), &mut scratch, &request, &LIMITS)?;
    Ok(response.map(|response| response.facts()))
}

#[track_caller]
fn check(request: RequestFacts, head: &str, expected: Result<(BodyFraming, bool), Reason>) {
    let head = head.replace('|', "\r\n") + "\r\n\r\n";
    let result = parse(&head, request).map(|facts| facts.map(|facts| (facts.body, facts.reusable)));
    assert_eq!(result, expected.map(Some), "{head:?}");
}

use BodyFraming::{Chunked, Close, Length, None as Nothing};

#[test]
fn a_body_is_framed_by_coding_then_length_then_close() {
    check(get(), "HTTP/1.1 200 OK|Content-Length: 5", Ok((Length(5), true)));
    check(get(), "HTTP/1.1 200 OK|Content-Length: 0", Ok((Nothing, true)));
    check(get(), "HTTP/1.1 200 OK|Transfer-Encoding: chunked", Ok((Chunked, true)));
    check(get(), "HTTP/1.1 200 OK|Transfer-Encoding:  CHUNKED\t", Ok((Chunked, true)));
    check(get(), "HTTP/1.1 200 OK", Ok((Close, false)));
    check(get(), "HTTP/1.1 200|Content-Length: 5", Ok((Length(5), true)));
    check(get(), "HTTP/1.1 999 x|Content-Length: 5", Ok((Length(5), true)));
}

#[test]
fn some_responses_never_have_a_body() {
    let head = asked("HEAD / HTTP/1.1\r\nHost: a");
    check(head, "HTTP/1.1 200 OK|Content-Length: 5", Ok((Nothing, true)));
    check(head, "HTTP/1.1 200 OK|Transfer-Encoding: chunked", Ok((Nothing, true)));
    check(head, "HTTP/1.1 200 OK", Ok((Nothing, true)));
    check(get(), "HTTP/1.1 204 No Content|Content-Length: 5", Ok((Nothing, true)));
    check(get(), "HTTP/1.1 304 Not Modified|Content-Length: 5", Ok((Nothing, true)));
    check(get(), "HTTP/1.1 304 Not Modified|Transfer-Encoding: chunked", Ok((Nothing, true)));
    check(get(), "HTTP/1.1 100 Continue|Content-Length: 5", Ok((Nothing, true)));
    check(get(), "HTTP/1.1 205 Reset Content|Content-Length: 0", Ok((Nothing, true)));
}

#[test]
fn a_wrong_length_is_an_error_and_an_equal_one_is_taken_once() {
    for value in
        ["x", "", "-1", "+1", "1 2", "18446744073709551616", "5, 6", "5,", "1|Content-Length: 2"]
    {
        let head = format!("HTTP/1.1 200 OK|Content-Length: {value}");
        check(get(), &head, Err(Reason::UpstreamBadLength));
    }
    check(get(), "HTTP/1.1 200 OK|Content-Length: 5|content-length: 05", Ok((Length(5), true)));
    check(get(), "HTTP/1.1 200 OK|Content-Length: 5 , 5", Ok((Length(5), true)));
}

#[test]
fn a_confused_framing_ends_the_reuse() {
    check(
        get(),
        "HTTP/1.1 200 OK|Content-Length: 5|Transfer-Encoding: chunked",
        Ok((Chunked, false)),
    );
    check(get(), "HTTP/1.1 200 OK|Transfer-Encoding: gzip|Content-Length: 5", Ok((Close, false)));
    check(
        get(),
        "HTTP/1.0 200 OK|Transfer-Encoding: chunked|Connection: keep-alive",
        Ok((Chunked, false)),
    );
    check(
        get(),
        "HTTP/1.1 200 OK|Transfer-Encoding: identity|Content-Length: 5",
        Ok((Length(5), false)),
    );
}

#[test]
fn codings_are_read_in_order() {
    check(get(), "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked", Ok((Chunked, true)));
    check(
        get(),
        "HTTP/1.1 200 OK|Transfer-Encoding: gzip|Transfer-Encoding: chunked",
        Ok((Chunked, true)),
    );
    check(get(), "HTTP/1.1 200 OK|Transfer-Encoding: gzip", Ok((Close, false)));
    for coding in ["chunked, gzip", "chunked, chunked", "chunked|Transfer-Encoding: chunked"] {
        let head = format!("HTTP/1.1 200 OK|Transfer-Encoding: {coding}");
        check(get(), &head, Err(Reason::UpstreamBadResponse));
    }
    check(
        get(),
        "HTTP/1.1 200 OK|Transfer-Encoding: gzip,| chunked",
        Err(Reason::UpstreamBadResponse),
    );
    check(get(), "HTTP/1.1 200 OK|Content-Length: 1| 2", Err(Reason::UpstreamBadLength));
}

#[test]
fn a_connection_is_reused_as_its_version_and_options_say() {
    for (head, reusable) in [
        ("HTTP/1.1 200 OK", true),
        ("HTTP/1.1 200 OK|Connection: close", false),
        ("HTTP/1.1 200 OK|Connection: keep-alive", true),
        ("HTTP/1.1 200 OK|Connection: x, Close", false),
        ("HTTP/1.0 200 OK", false),
        ("HTTP/1.0 200 OK|Connection: keep-alive", true),
    ] {
        check(get(), &format!("{head}|Content-Length: 5"), Ok((Length(5), reusable)));
    }
}

#[test]
fn interim_responses_are_told_from_the_final_one() {
    let phase = |status: &str| {
        let head = format!("HTTP/1.1 {status}\r\nLink: x\r\n\r\n");
        parse(&head, get()).map(|facts| facts.unwrap().phase)
    };
    assert_eq!(phase("100 Continue"), Ok(Phase::Interim));
    assert_eq!(phase("103 Early Hints"), Ok(Phase::Interim));
    assert_eq!(phase("199 x"), Ok(Phase::Interim));
    assert_eq!(phase("200 OK"), Ok(Phase::Final));
    assert_eq!(phase("099 x"), Err(Reason::UpstreamBadResponse));
}

#[test]
fn a_switch_must_be_the_one_that_was_asked_for() {
    let phase = |lines: &str, request| {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n\r\n");
        parse(&head, request).map(|facts| facts.unwrap())
    };
    let good = "Connection: Upgrade\r\nUpgrade: WebSocket";
    let facts = phase(good, websocket()).unwrap();
    assert_eq!(facts.phase, Phase::Switch(Upgrade::Websocket));
    assert_eq!((facts.body, facts.reusable), (Nothing, false));
    let bad = Err(Reason::UpstreamBadUpgrade);
    assert_eq!(phase(good, get()), bad);
    assert_eq!(phase("Connection: upgrade\r\nUpgrade: h2c", websocket()), bad);
    assert_eq!(phase("Upgrade: websocket", websocket()), bad);
    assert_eq!(phase("Connection: upgrade", websocket()), bad);
    // A refusal is an answer as any other.
    let refusal =
        parse("HTTP/1.1 400 x\r\nContent-Length: 5\r\n\r\n", websocket()).unwrap().unwrap();
    assert_eq!((refusal.phase, refusal.body), (Phase::Final, Length(5)));
}

#[test]
fn what_rfc_9112_lets_a_proxy_repair_is_taken() {
    check(get(), "HTTP/1.1 200 OK|Content-Length : 5", Ok((Length(5), true)));
    check(get(), "HTTP/1.1 200 OK|X: a|  b|Content-Length: 5", Ok((Length(5), true)));
    assert!(parse("HTTP/1.1 200 OK\nContent-Length: 5\n\n", get()).unwrap().is_some());
}

#[test]
fn garbage_is_refused() {
    for head in [
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 OK\r\n X: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX\0: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        "<html>",
        "SSH-2.0-x\r\n",
    ] {
        assert_eq!(parse(head, get()), Err(Reason::UpstreamBadResponse), "{head:?}");
    }
}

#[test]
fn an_incomplete_head_asks_for_more_at_every_byte() {
    let head = "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 5\r\n\r\n";
    for end in 0..head.len() {
        assert_eq!(parse(&head[..end], get()), Ok(None), "{end}");
    }
    assert!(parse(head, get()).unwrap().is_some());
}

#[test]
fn a_large_head_is_refused() {
    let limits = Limits { head_bytes_max: 100, headers_max: 2, ..LIMITS };
    let parse = |head: &str| {
        let mut scratch = HeadScratch::new();
        let response = parse_response(head.as_bytes(), &mut scratch, &get(), &limits)?;
        Ok(response.map(|response| response.head_len()))
    };
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100));
    assert_eq!(parse(&large), Err(Reason::UpstreamHeadTooLarge));
    assert_eq!(parse("HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n\r\nbody"), Ok(Some(31)));
    assert_eq!(
        parse("HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n"),
        Err(Reason::UpstreamHeadTooLarge)
    );
}

#[test]
fn headers_can_be_asked_for() {
    let head = b"HTTP/1.1 200 OK\r\nRetry-After: 5\r\nX: y\r\n\r\n";
    let mut scratch = HeadScratch::new();
    let response = parse_response(head, &mut scratch, &get(), &LIMITS).unwrap().unwrap();
    assert_eq!(response.header("retry-after"), Some(&b"5"[..]));
    assert_eq!(response.headers().count(), 2);
    assert_eq!(get().version, Version::V11);
}
