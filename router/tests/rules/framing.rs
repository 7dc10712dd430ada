//! Where a message ends (rules 1 to 18): RFC 9112 §5 to §7.

use super::peer::Peer;
use super::stage::{Stage, close, delivers_all, keep, lines};

const CHUNKED: &str = "POST / HTTP/1.1|Host: web.test|Transfer-Encoding: chunked|";

/// A POST with these lines and a whole chunked body.
fn coded(fields: &str) -> String {
    format!("POST / HTTP/1.1|Host: web.test|{fields}||3|abc|0||")
}

#[tokio::test]
async fn a_request_with_two_ends_is_refused() {
    let stage = Stage::new().await;
    stage
        .refuses_all(&[
            (
                1,
                "length, then chunks",
                &coded("Content-Length: 3|Transfer-Encoding: chunked"),
                400,
                "length_and_chunked",
            ),
            (
                1,
                "chunks, then length",
                &coded("Transfer-Encoding: chunked|Content-Length: 3"),
                400,
                "length_and_chunked",
            ),
            (
                1,
                "a length of nothing",
                &coded("Content-Length: 0|Transfer-Encoding: chunked"),
                400,
                "length_and_chunked",
            ),
            (
                4,
                "an old client",
                "POST / HTTP/1.0|Transfer-Encoding: chunked||0||",
                400,
                "chunked_in_old_version",
            ),
            (
                5,
                "equal lengths",
                "POST / HTTP/1.1|Host: web.test|Content-Length: 3|Content-Length: 3||abc",
                400,
                "repeated_content_length",
            ),
            (
                5,
                "different lengths",
                "POST / HTTP/1.1|Host: web.test|Content-Length: 3|Content-Length: 0||abc",
                400,
                "repeated_content_length",
            ),
        ])
        .await;
}

#[tokio::test]
async fn a_length_that_is_not_one_number_is_refused() {
    let stage = Stage::new().await;
    for value in [
        "3, 3",
        "3,3",
        "3, 4",
        "+3",
        "-1",
        "0x3",
        "3 3",
        "3.0",
        "3;",
        "",
        "\"3\"",
        "x",
        "18446744073709551616",
        "99999999999999999999999",
        "3\u{b2}",
    ] {
        let request = format!("POST / HTTP/1.1|Host: web.test|Content-Length: {value}||abc");
        stage.refuses(5, value, &lines(&request), 400, "bad_content_length").await;
    }
}

#[tokio::test]
async fn a_coding_that_is_not_exactly_chunked_is_refused() {
    let stage = Stage::new().await;
    // Rule 2: not ending in chunked; unknown codings.
    for (value, status, reason) in [
        ("gzip", 400, "bad_transfer_encoding"),
        ("identity", 400, "bad_transfer_encoding"),
        ("chunked, gzip", 400, "bad_transfer_encoding"),
        ("gzip, chunked", 501, "unknown_transfer_coding"),
        ("identity, chunked", 501, "unknown_transfer_coding"),
    ] {
        let request = coded(&format!("Transfer-Encoding: {value}"));
        stage.refuses(2, value, &lines(&request), status, reason).await;
    }
    // Rule 3: what one parser takes for chunked and another does not.
    for fields in [
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked\t",
        "Transfer-Encoding: chunked ",
        "Transfer-Encoding:  chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked x",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked|Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked|Transfer-Encoding: identity",
        "Transfer-Encoding: identity|Transfer-Encoding: chunked",
        "Transfer-Encoding:",
    ] {
        stage.refuses(3, fields, &lines(&coded(fields)), 400, "bad_transfer_encoding").await;
    }
    for (fields, reason) in [
        ("Transfer-Encoding : chunked", "space_before_colon"),
        ("Transfer-Encoding: chun\u{b}ked", "bad_header_value"),
        ("Transfer-Encoding: x\nTransfer-Encoding: chunked", "bad_line_end"),
        ("X: y\rTransfer-Encoding: chunked", "bad_line_end"),
        ("Transfer-Encoding| : chunked", "bad_header_name"),
        ("Transfer-Encoding:| chunked", "folded_header"),
    ] {
        stage.refuses(3, fields, &lines(&coded(fields)), 400, reason).await;
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn a_head_that_two_parsers_read_differently_is_refused() {
    let stage = Stage::new().await;
    stage
        .refuses_all(&[
            (
                7,
                "LF behind the start line",
                "GET / HTTP/1.1\nHost: web.test||",
                400,
                "bad_line_end",
            ),
            (7, "LF behind a field", "GET / HTTP/1.1|Host: web.test\nX: y||", 400, "bad_line_end"),
            (7, "LF for the empty line", "GET / HTTP/1.1|Host: web.test|\n", 400, "bad_line_end"),
            (
                7,
                "CR inside a value",
                "GET / HTTP/1.1|Host: web.test|X: a\rb||",
                400,
                "bad_line_end",
            ),
            (
                7,
                "CR at the end of a value",
                "GET / HTTP/1.1|Host: web.test|X: a\r||",
                400,
                "bad_line_end",
            ),
            (9, "a folded value", "GET / HTTP/1.1|Host: web.test|X: a| b||", 400, "folded_header"),
            (
                9,
                "a value folded by a tab",
                "GET / HTTP/1.1|Host: web.test|X: a|\tb||",
                400,
                "folded_header",
            ),
            (
                10,
                "a space before the colon",
                "GET / HTTP/1.1|Host : web.test||",
                400,
                "space_before_colon",
            ),
            (
                10,
                "a tab before the colon",
                "GET / HTTP/1.1|Host: web.test|Content-Length\t: 3||abc",
                400,
                "space_before_colon",
            ),
            (
                11,
                "a space before the first field",
                "GET / HTTP/1.1| Host: web.test||",
                400,
                "space_before_header",
            ),
            (
                12,
                "NUL in a value",
                "GET / HTTP/1.1|Host: web.test|X: a\0b||",
                400,
                "bad_header_value",
            ),
            (
                12,
                "a control byte in a value",
                "GET / HTTP/1.1|Host: web.test|X: \x01||",
                400,
                "bad_header_value",
            ),
            (
                12,
                "DEL in a value",
                "GET / HTTP/1.1|Host: web.test|X: \x7f||",
                400,
                "bad_header_value",
            ),
            (12, "NUL in a name", "GET / HTTP/1.1|Host: web.test|X\0: a||", 400, "bad_header_name"),
            (
                12,
                "a name with a comma",
                "GET / HTTP/1.1|Host: web.test|X,Y: a||",
                400,
                "bad_header_name",
            ),
            (12, "no name", "GET / HTTP/1.1|Host: web.test|: a||", 400, "bad_header_name"),
            (12, "no colon", "GET / HTTP/1.1|Host: web.test|nonsense||", 400, "bad_header_name"),
            (12, "NUL in the target", "GET /\0 HTTP/1.1|Host: web.test||", 400, "bad_request_line"),
            (
                12,
                "two spaces in the start line",
                "GET  / HTTP/1.1|Host: web.test||",
                400,
                "bad_request_line",
            ),
            (
                12,
                "a tab in the start line",
                "GET\t/ HTTP/1.1|Host: web.test||",
                400,
                "bad_request_line",
            ),
            (
                18,
                "two empty lines before",
                "||GET / HTTP/1.1|Host: web.test||",
                400,
                "bad_request_line",
            ),
            (18, "an LF before", "\nGET / HTTP/1.1|Host: web.test||", 400, "bad_line_end"),
        ])
        .await;
}

#[tokio::test]
async fn one_empty_line_before_a_request_is_skipped() {
    // Rule 18: also behind a body, where old clients put it.
    let stage = Stage::new().await;
    let mut client = stage.rig.client().await;
    client.send(lines("|POST /1 HTTP/1.1|Host: web.test|Content-Length: 1||a|")).await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(client.get("/2").await.status(), 200);
    let seen = stage.normal(&stage.backend.take());
    assert!(seen.starts_with("POST /1 HTTP/1.1|"), "{seen}");
    assert!(seen.contains("||aGET /2 HTTP/1.1|"), "{seen}");
}

#[tokio::test]
async fn a_chunk_that_two_parsers_read_differently_is_refused() {
    let stage = Stage::new().await;
    let long = "x".repeat(300);
    for (rule, body, reason) in [
        (7, "3\nabc|0||".to_owned(), "bad_chunk"),
        (7, "3|abc\n0||".to_owned(), "bad_chunk"),
        (7, "3|abc|0\n|".to_owned(), "bad_chunk"),
        (7, "3;a\nb|abc|0||".to_owned(), "bad_chunk"),
        (7, "3;a\rb|abc|0||".to_owned(), "bad_chunk"),
        (8, "|3|abc|0||".to_owned(), "bad_chunk"),
        (8, "x|".to_owned(), "bad_chunk"),
        (8, "0x3|abc|0||".to_owned(), "bad_chunk"),
        (8, "+3|abc|0||".to_owned(), "bad_chunk"),
        (8, "-3|abc|0||".to_owned(), "bad_chunk"),
        (8, " 3|abc|0||".to_owned(), "bad_chunk"),
        (8, "3 |abc|0||".to_owned(), "bad_chunk"),
        (8, "3 ;a=b|abc|0||".to_owned(), "bad_chunk"),
        (8, "3|abcd|0||".to_owned(), "bad_chunk"),
        (8, "3|abc0||".to_owned(), "bad_chunk"),
        (8, "10000000000000000|abc|0||".to_owned(), "bad_chunk"),
        (8, "00000000000000003|abc|0||".to_owned(), "bad_chunk"),
        (8, format!("3;{long}|abc|0||"), "bad_chunk"),
        (8, "0|no field||".to_owned(), "bad_trailer"),
        (8, "0|X : y||".to_owned(), "bad_trailer"),
        (8, "0|X: y| z||".to_owned(), "bad_trailer"),
    ] {
        let request = lines(&format!("{CHUNKED}|{body}"));
        stage.refuses(rule, &body, &request, 400, reason).await;
    }
    let many = "X: y|".repeat(2_000);
    let request = lines(&format!("{CHUNKED}|0|{many}|"));
    stage.refuses(8, "a trailer section without end", &request, 431, "trailer_too_large").await;
}

#[tokio::test]
async fn a_body_that_goes_wrong_on_its_way_is_never_ended_at_the_back_end() {
    // Rules 7, 8: the head and a good chunk have gone on already.
    let stage = Stage::new().await;
    for (number, bad) in ["3\nabc|0||", "zz|", "3|abcX", "0|X : y||"].into_iter().enumerate() {
        let mut client = stage.rig.client().await;
        client
            .send(lines(&format!("{}|5|hello|", CHUNKED.replace("/ ", &format!("/{number} ")))))
            .await;
        stage.backend.sees("5\r\nhello\r\n").await;
        client.send(lines(bad)).await;
        let reason = if number == 3 { "bad_trailer" } else { "bad_chunk" };
        stage.refused(&mut client, bad, 400, reason).await;
        stage.rig.settled("web").await;
        let seen = stage.normal(&stage.backend.take());
        let (_, body) = seen.split_once("||").unwrap();
        assert!(body == "5|hello|" || body == "5|hello|0|", "{bad}: {body}");
    }
    assert_eq!(stage.rig.client().await.get("/").await.text(), "ok");
}

#[tokio::test]
async fn a_body_goes_on_whatever_the_method_is() {
    // Rule 13: a server that does not expect it would read it as the next request.
    let stage = Stage::new().await;
    for method in ["GET", "DELETE", "OPTIONS", "PROPFIND"] {
        for (framing, body) in [
            ("Content-Length: 5", "hello"),
            ("Transfer-Encoding: chunked", "5|hello|0||"),
            ("transfer-encoding: CHUNKED", "1;a=b;c=\"d\"|h|0004|ello|00||"),
            ("Content-Length: 0", ""),
            ("Content-Length: 005", "hello"),
        ] {
            let sent = format!("{method} /a HTTP/1.1|Host: web.test|{framing}||{body}");
            let expected = format!(
                "{method} /a HTTP/1.1|Host: web.test|{framing}|{}||{body}",
                super::stage::ASKED
            );
            assert_eq!(stage.passed(&sent).await, expected, "rule 13, {sent}");
        }
    }
    assert_eq!(stage.backend.instance.connections(), 1);
}

#[tokio::test]
async fn a_response_whose_end_is_unclear_ends_its_connection() {
    // Rules 6, 9, 10, 12: `false` is a connection that is not used again.
    let bad = |text: &str| format!("{text}||hello");
    for (rule, answer, reason) in [
        (6, bad("HTTP/1.1 200 OK|Content-Length: x"), "upstream_bad_length"),
        (6, bad("HTTP/1.1 200 OK|Content-Length: -5"), "upstream_bad_length"),
        (6, bad("HTTP/1.1 200 OK|Content-Length: 5|Content-Length: 6"), "upstream_bad_length"),
        (6, bad("HTTP/1.1 200 OK|Content-Length: 5, 6"), "upstream_bad_length"),
        (6, bad("HTTP/1.1 200 OK|Content-Length: 18446744073709551616"), "upstream_bad_length"),
        (7, bad("HTTP/1.1 200 OK|X: a\rb|Content-Length: 5"), "upstream_bad_response"),
        (9, bad("HTTP/1.1 200 OK|Transfer-Encoding: chun| ked"), "upstream_bad_response"),
        (12, bad("HTTP/1.1 200 OK|X: \0|Content-Length: 5"), "upstream_bad_response"),
        (12, bad("HTTP/1.1 200 OK|no field|Content-Length: 5"), "upstream_bad_response"),
    ] {
        let what = answer.clone();
        let stage = Stage::answering(move |_| keep(&answer)).await;
        let mut client = stage.rig.client().await;
        for connections in 1..3 {
            let response = client.get("/").await;
            assert_eq!(response.status(), 502, "rule {rule}, {what}");
            assert_eq!(response.text().lines().next(), Some(reason), "rule {rule}, {what}");
            assert_eq!(stage.backend.instance.connections(), connections, "rule {rule}, {what}");
        }
    }
}

#[tokio::test]
async fn a_response_is_repaired_where_that_is_safe() {
    delivers_all(&[
        (
            6,
            "a length beside chunks",
            "HTTP/1.1 200 OK|Content-Length: 3|Transfer-Encoding: chunked||3|abc|0||",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked|ANSWERED||3|abc|0||",
            false,
        ),
        (
            6,
            "the same length twice",
            "HTTP/1.1 200 OK|Content-Length: 3|Content-Length: 3||abc",
            "HTTP/1.1 200 OK|Content-Length: 3|ANSWERED||abc",
            true,
        ),
        (
            6,
            "the same length in a list",
            "HTTP/1.1 200 OK|Content-Length: 3, 3||abc",
            "HTTP/1.1 200 OK|Content-Length: 3|ANSWERED||abc",
            true,
        ),
        (
            7,
            "LF for line ends",
            "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
            "HTTP/1.1 200 OK|Content-Length: 3|ANSWERED||abc",
            true,
        ),
        (
            9,
            "a folded value",
            "HTTP/1.1 200 OK|X: a|  b|Content-Length: 3||abc",
            "HTTP/1.1 200 OK|X: a b|Content-Length: 3|ANSWERED||abc",
            true,
        ),
        (
            10,
            "a space before the colon",
            "HTTP/1.1 200 OK|X : a|Content-Length: 3||abc",
            "HTTP/1.1 200 OK|X: a|Content-Length: 3|ANSWERED||abc",
            true,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_response_that_has_no_body_gets_none() {
    // Rule 14: what comes behind it belongs to no response, and nobody gets it.
    for (request, answer) in [
        ("HEAD / HTTP/1.1|Host: web.test||", "HTTP/1.1 200 OK|Content-Length: 6||poison"),
        (
            "HEAD / HTTP/1.1|Host: web.test||",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||6|poison|0||",
        ),
        ("GET / HTTP/1.1|Host: web.test||", "HTTP/1.1 204 No Content||poison"),
        ("GET / HTTP/1.1|Host: web.test||", "HTTP/1.1 304 Not Modified|Content-Length: 6||poison"),
        (
            "GET / HTTP/1.1|Host: web.test||",
            "HTTP/1.1 204 No Content|Transfer-Encoding: chunked||6|poison|0||",
        ),
    ] {
        let stage = Stage::answering(move |request| match request {
            request if request.contains(" /next ") => keep("HTTP/1.1 200 OK|Content-Length: 2||ok"),
            _ => keep(answer),
        })
        .await;
        let mut client = stage.rig.client().await;
        client.send(lines(request)).await;
        let head = client.response_head().await;
        assert!(head.field("transfer-encoding").is_none(), "{answer}");
        let next = client.get("/next").await;
        assert_eq!((next.status(), next.text()), (200, "ok"), "{answer}");
        assert_eq!(stage.backend.instance.connections(), 2, "{answer}");
    }
}

#[tokio::test]
async fn bytes_behind_a_response_are_nobodys() {
    // Rule 15.
    for answer in [
        "HTTP/1.1 200 OK|Content-Length: 2||okHTTP/1.1 200 OK|Content-Length: 6||poison",
        "HTTP/1.1 200 OK|Content-Length: 0||HTTP/1.1 200 OK|Content-Length: 6||poison",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0||HTTP/1.1 200 OK||poison",
        "HTTP/1.1 200 OK|Content-Length: 2||ok|",
    ] {
        let stage = Stage::answering(move |_| keep(answer)).await;
        let mut client = stage.rig.client().await;
        for connections in 1..4 {
            let response = client.get("/").await;
            assert!(matches!(response.text(), "ok" | ""), "{answer}: {}", response.text());
            assert_eq!(stage.backend.instance.connections(), connections, "{answer}");
        }
    }
}

async fn cut(client: &mut Peer) -> String {
    let (bytes, _) = client.rest_or_reset().await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_body_that_is_cut_never_ends_well() {
    // Rule 16: chunks without a last one, fewer bytes than promised.
    for answer in [
        "HTTP/1.1 200 OK|Content-Length: 10||hello",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||5|hello|",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||a|hello",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||5|hello|0|",
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||5|hello|0|X: y|",
    ] {
        let stage = Stage::answering(move |_| close(answer)).await;
        let mut client = stage.rig.client().await;
        client.send(lines("GET / HTTP/1.1|Host: web.test||")).await;
        let text = cut(&mut client).await;
        assert!(text.contains("hello") && !text.ends_with("0\r\n\r\n"), "{answer}: {text}");
        assert!(!text.contains("X: y"), "{answer}: {text}");
        stage.rig.ends("upstream_body_cut").await;
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_framed_anew() {
    // Rule 17.
    let stage = Stage::answering(|_| close("HTTP/1.1 200 OK|X: y||hello")).await;
    assert_eq!(
        stage.received("GET / HTTP/1.1|Host: web.test|Connection: close||").await,
        format!(
            "HTTP/1.1 200 OK|X: y|Transfer-Encoding: chunked|{}||5|hello|0||",
            super::stage::ANSWERED
        )
    );
    assert_eq!(
        stage.received("GET / HTTP/1.0|Host: web.test||").await,
        format!("HTTP/1.1 200 OK|X: y|{}||hello", super::stage::ANSWERED)
    );
}
