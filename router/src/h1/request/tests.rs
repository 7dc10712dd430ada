//! One row a rule: what is accepted and how it is read, what is refused and why.

use super::*;

const LIMITS: Limits = Limits::DEFAULT;

fn parse(head: &[u8]) -> Result<Option<RequestFacts>, Reason> {
    parse_within(head, &LIMITS)
}

fn parse_within(head: &[u8], limits: &Limits) -> Result<Option<RequestFacts>, Reason> {
    let mut scratch = HeadScratch::new();
    let request = parse_request(head, &mut scratch, limits)?;
    Ok(request.map(|request| request.facts()))
}

#[track_caller]
fn refused(reason: Reason, heads: &[&str]) {
    for head in heads {
        assert_eq!(parse(head.as_bytes()), Err(reason), "{head:?}");
    }
}

/// Refuses a GET of `/` with these header lines.
#[track_caller]
fn refused_lines(reason: Reason, lines: &[&str]) {
    for lines in lines {
        refused(reason, &[&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")]);
    }
}

/// The facts of a request with this start line and these header lines.
#[track_caller]
fn facts(start: &str, lines: &str) -> RequestFacts {
    let head = format!("{start}\r\nHost: a\r\n{lines}\r\n\r\n");
    let head = head.replace("\r\n\r\n\r\n", "\r\n\r\n");
    parse(head.as_bytes()).unwrap_or_else(|reason| panic!("{reason:?}: {head:?}")).unwrap()
}

#[track_caller]
fn facts_of(lines: &str) -> RequestFacts {
    facts("POST / HTTP/1.1", lines)
}

#[test]
fn a_request_is_read_in_its_parts() {
    let head = b"GET /a/%7Eb/../c?x=/y#".split_last().unwrap().1;
    let mut bytes = head.to_vec();
    bytes.extend_from_slice(
        b" HTTP/1.1\r\nHost: Example.ORG.:8080\r\nUser-Agent: x\r\nEmpty:\r\n\
          X-Request-Id: 0123456789abcdefghij\r\n\r\nbody",
    );
    let mut scratch = HeadScratch::new();
    let request = parse_request(&bytes, &mut scratch, &LIMITS).unwrap().unwrap();
    assert_eq!(request.head_len(), bytes.len() - 4);
    assert_eq!(request.method(), "GET");
    assert_eq!(request.form(), TargetForm::Origin);
    assert_eq!(request.target(), "/a/%7Eb/../c?x=/y");
    assert_eq!((request.host(), request.port()), ("example.org", Some(8080)));
    assert_eq!((request.path(), request.query()), ("/a/c", Some("x=/y")));
    assert_eq!(request.request_id(), Some("0123456789abcdefghij"));
    assert_eq!(request.header("user-agent"), Some(&b"x"[..]));
    assert_eq!(request.header("empty"), Some(&b""[..]));
    assert_eq!(request.header("missing"), None);
    assert_eq!(request.headers().count(), 4);
    let expected = RequestFacts {
        method: Method::Get,
        version: Version::V11,
        body: BodyFraming::None,
        keep_alive: true,
        expect_continue: false,
        upgrade: None,
        max_forwards: None,
    };
    assert_eq!(request.facts(), expected);
}

#[test]
fn an_incomplete_head_asks_for_more_at_every_byte() {
    let head = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for end in 0..head.len() {
        assert_eq!(parse(&head[..end]), Ok(None), "{end}");
    }
    assert!(parse(head).unwrap().is_some());
}

#[test]
fn one_line_break_before_a_request_is_ignored() {
    let mut scratch = HeadScratch::new();
    let head = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    let request = parse_request(head, &mut scratch, &LIMITS).unwrap().unwrap();
    assert_eq!(request.head_len(), head.len() - 4);
    refused(Reason::BadRequestLine, &["\r\n\r\n", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"]);
    refused(Reason::BadLineEnd, &["\n", "\rG", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"]);
    refused(Reason::BadRequestLine, &["\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"]);
}

#[test]
fn a_length_and_chunks_together_are_refused() {
    refused_lines(
        Reason::LengthAndChunked,
        &[
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "transfer-encoding:chunked\r\nCONTENT-LENGTH:0",
        ],
    );
}

#[test]
fn a_transfer_encoding_is_exactly_chunked() {
    assert_eq!(facts_of("Transfer-Encoding: chunked").body, BodyFraming::Chunked);
    assert_eq!(facts_of("transfer-encoding:Chunked").body, BodyFraming::Chunked);
    refused_lines(
        Reason::BadTransferEncoding,
        &[
            "Transfer-Encoding: chunked,",
            "Transfer-Encoding: ,chunked",
            "Transfer-Encoding: chunked\t",
            "Transfer-Encoding: chunked ",
            "Transfer-Encoding:  chunked",
            "Transfer-Encoding:\tchunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked;q=1",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding:",
        ],
    );
    refused_lines(
        Reason::UnknownTransferCoding,
        &["Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity, chunked"],
    );
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    refused(
        Reason::ChunkedInOldVersion,
        &["POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"],
    );
}

#[test]
fn a_content_length_is_one_decimal_number() {
    assert_eq!(facts_of("Content-Length: 5").body, BodyFraming::Length(5));
    assert_eq!(facts_of("Content-Length: 007").body, BodyFraming::Length(7));
    assert_eq!(facts_of("Content-Length: 0").body, BodyFraming::None);
    assert_eq!(
        facts_of("Content-Length: 18446744073709551615").body,
        BodyFraming::Length(u64::MAX)
    );
    refused_lines(
        Reason::BadContentLength,
        &[
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length: 0x5",
            "Content-Length: 5, 5",
            "Content-Length: 5 5",
            "Content-Length: 5;a",
            "Content-Length: 18446744073709551616",
            "Content-Length: 99999999999999999999999",
            "Content-Length: 1e3",
            "Content-Length:",
        ],
    );
    refused_lines(
        Reason::RepeatedContentLength,
        &[
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nX: y\r\ncontent-length: 6",
        ],
    );
}

#[test]
fn any_method_may_have_a_body() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PURGE"] {
        let start = format!("{method} / HTTP/1.1");
        assert_eq!(facts(&start, "Content-Length: 5").body, BodyFraming::Length(5), "{method}");
        assert_eq!(facts(&start, "Transfer-Encoding: chunked").body, BodyFraming::Chunked);
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_the_body() {
    let limits = Limits { body_bytes_max: 5, ..LIMITS };
    let head = |len| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
    assert!(parse_within(head(5).as_bytes(), &limits).is_ok());
    assert_eq!(parse_within(head(6).as_bytes(), &limits), Err(Reason::BodyTooLarge));
}

#[test]
fn lines_end_in_crlf_and_in_nothing_else() {
    refused(
        Reason::BadLineEnd,
        &[
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\rHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX:\ry\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\r: y\r\n\r\n",
            "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\rX",
        ],
    );
}

#[test]
fn white_space_is_refused_where_parsers_disagree_about_it() {
    refused_lines(
        Reason::FoldedHeader,
        &["X: a\r\n b", "X: a\r\n\tb", "X:\r\n b", "X: a\r\n \r\nY: b"],
    );
    refused_lines(Reason::SpaceBeforeColon, &["X : a", "X\t: a", "Transfer-Encoding : chunked"]);
    refused(
        Reason::SpaceBeforeHeader,
        &["GET / HTTP/1.1\r\n Host: a\r\n\r\n", "GET / HTTP/1.1\r\n\tX: b\r\nHost: a\r\n\r\n"],
    );
}

#[test]
fn control_bytes_are_refused_in_values_and_names() {
    refused_lines(
        Reason::BadHeaderValue,
        &["X: a\0b", "X: \x01", "X: a\x7f", "X: a\x0bb", "X: \x08"],
    );
    refused_lines(
        Reason::BadHeaderName,
        &["X\0: a", ": a", "X Y: a", "X(: a", "é: a", "X", "X;a: b", "\"X\": a"],
    );
    // A tab and bytes above ASCII are part of a value.
    assert!(parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\xe9\r\n\r\n").is_ok());
}

#[test]
fn a_request_line_is_three_words() {
    refused(
        Reason::BadRequestLine,
        &[
            "GET /\r\n",
            "GET\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET / a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.12\r\nHost: a\r\n\r\n",
            "GET / XTTP/1.1\r\nHost: a\r\n\r\n",
            "\x16\x03\x01\x02\x00\x01\x00\x01",
            "\0\0\0\0",
        ],
    );
    assert_eq!(parse(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Reason::BadRequestLine));
}

#[test]
fn another_version_is_named_as_such() {
    refused(
        Reason::UnsupportedVersion,
        &[
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/0.9\r\n\r\n",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            "GET / HTTP/3\r\nHost: a\r\n\r\n",
        ],
    );
}

#[test]
fn the_host_is_there_once_and_valid() {
    refused(Reason::MissingHost, &["GET / HTTP/1.1\r\n\r\n", "GET http://a/ HTTP/1.1\r\n\r\n"]);
    refused_lines(Reason::RepeatedHost, &["Host: a", "host: b"]);
    refused(
        Reason::BadHost,
        &[
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a/b\r\n\r\n",
            "GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            // The authority wins, but an invalid Host is refused all the same.
            "GET http://a/ HTTP/1.1\r\nHost: b/c\r\n\r\n",
        ],
    );
}

#[test]
fn an_http_1_0_request_may_name_no_host() {
    let mut scratch = HeadScratch::new();
    // What a request before it left in the scratch must not stay.
    let before = b"GET /%61 HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(parse_request(before, &mut scratch, &LIMITS).unwrap().is_some());
    let head = b"GET / HTTP/1.0\r\n\r\n";
    let request = parse_request(head, &mut scratch, &LIMITS).unwrap().unwrap();
    assert_eq!((request.host(), request.port(), request.path()), ("", None, "/"));
}

#[test]
fn the_authority_of_an_absolute_target_wins() {
    let check = |head: &str, host: &str, port, path: &str, query: Option<&str>| {
        let mut scratch = HeadScratch::new();
        let request = parse_request(head.as_bytes(), &mut scratch, &LIMITS).unwrap().unwrap();
        assert_eq!((request.host(), request.port()), (host, port), "{head:?}");
        assert_eq!((request.path(), request.query()), (path, query), "{head:?}");
    };
    let a = "HTTP/1.1\r\nHost: other.test\r\n\r\n";
    check(&format!("GET http://A.test:81/b?c {a}"), "a.test", Some(81), "/b", Some("c"));
    check(&format!("GET http://a.test {a}"), "a.test", None, "/", None);
    check(&format!("GET http://a.test?q {a}"), "a.test", None, "/", Some("q"));
    check("GET http://a.test/x/../y HTTP/1.0\r\n\r\n", "a.test", None, "/y", None);
}

#[test]
fn targets_that_fit_no_form_are_refused() {
    let line =
        |target: &str, method: &str| format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(Reason::BadTarget, &[&line("*", "GET"), &line("a:80", "GET"), &line("a", "GET")]);
    refused(Reason::BadTarget, &[&line("/", "CONNECT"), &line("http://a/", "CONNECT")]);
    refused(Reason::FragmentInTarget, &[&line("/a#b", "GET"), &line("http://a/#", "GET")]);
    refused(Reason::ConnectRefused, &[&line("a.test:443", "CONNECT")]);
    refused(
        Reason::BadPathEncoding,
        &[&line("/%00", "GET"), &line("/%", "GET"), &line("/%g1", "GET")],
    );
    let mut scratch = HeadScratch::new();
    let head = line("*", "OPTIONS");
    let request = parse_request(head.as_bytes(), &mut scratch, &LIMITS).unwrap().unwrap();
    assert_eq!((request.form(), request.path()), (TargetForm::Asterisk, "/"));
}

#[test]
fn a_long_target_is_refused_before_it_ends() {
    let limits = Limits { target_bytes_max: 100, head_bytes_max: 4096, ..LIMITS };
    let head = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(len - 1));
    assert!(parse_within(head(100).as_bytes(), &limits).unwrap().is_some());
    assert_eq!(parse_within(head(101).as_bytes(), &limits), Err(Reason::UriTooLong));
    let start = &head(1000)[..200];
    assert_eq!(parse_within(start.as_bytes(), &limits), Err(Reason::UriTooLong));
    assert_eq!(parse_within(&start.as_bytes()[..104], &limits), Ok(None));
    assert_eq!(parse_within(&start.as_bytes()[..105], &limits), Err(Reason::UriTooLong));
}

#[test]
fn a_large_head_is_refused_before_it_ends() {
    let limits = Limits { head_bytes_max: 200, headers_max: 3, ..LIMITS };
    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let head = |len: usize| format!("{start}{}\r\n\r\n", "x".repeat(len - start.len() - 4));
    assert!(parse_within(head(200).as_bytes(), &limits).unwrap().is_some());
    assert_eq!(parse_within(head(201).as_bytes(), &limits), Err(Reason::HeadersTooLarge));
    assert_eq!(parse_within(&head(300).as_bytes()[..199], &limits), Ok(None));
    assert_eq!(parse_within(&head(300).as_bytes()[..200], &limits), Err(Reason::HeadersTooLarge));
    let lines = |count| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert!(parse_within(lines(2).as_bytes(), &limits).unwrap().is_some());
    assert_eq!(parse_within(lines(3).as_bytes(), &limits), Err(Reason::TooManyHeaders));
}

#[test]
fn only_100_continue_may_be_expected() {
    assert!(facts_of("Expect: 100-Continue\r\nContent-Length: 5").expect_continue);
    assert!(!facts("POST / HTTP/1.0", "Expect: 100-continue\r\nContent-Length: 5").expect_continue);
    refused_lines(
        Reason::UnknownExpectation,
        &["Expect: 200-ok", "Expect:", "Expect: 100-continue, x"],
    );
}

#[test]
fn a_connection_is_kept_as_its_version_and_options_say() {
    for (start, lines, kept) in [
        ("GET / HTTP/1.1", "", true),
        ("GET / HTTP/1.1", "Connection: close", false),
        ("GET / HTTP/1.1", "Connection: keep-alive", true),
        ("GET / HTTP/1.1", "Connection: Keep-Alive, CLOSE", false),
        ("GET / HTTP/1.1", "Connection: x\r\nConnection: close", false),
        ("GET / HTTP/1.1", "Connection: closed", true),
        ("GET / HTTP/1.0", "", false),
        ("GET / HTTP/1.0", "Connection: Keep-Alive", true),
        ("GET / HTTP/1.0", "Connection: keep-alive, close", false),
    ] {
        assert_eq!(facts(start, lines).keep_alive, kept, "{start} {lines:?}");
    }
    let options = ["a"; 40].join(",");
    refused_lines(Reason::TooManyOptions, &[&format!("Connection: {options}")]);
}

#[test]
fn only_a_websocket_upgrade_counts() {
    let upgrade = |start, lines| facts(start, lines).upgrade;
    let get = "GET / HTTP/1.1";
    let websocket = Some(Upgrade::Websocket);
    assert_eq!(upgrade(get, "Connection: upgrade\r\nUpgrade: websocket"), websocket);
    assert_eq!(upgrade(get, "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket"), websocket);
    assert_eq!(upgrade(get, "Connection: upgrade\r\nUpgrade: h2c, websocket"), websocket);
    assert_eq!(upgrade(get, "Connection: upgrade\r\nUpgrade: h2c"), None);
    assert_eq!(upgrade(get, "Connection: upgrade\r\nUpgrade: websocket2"), None);
    assert_eq!(upgrade(get, "Upgrade: websocket"), None);
    assert_eq!(upgrade(get, "Connection: upgrade"), None);
    assert_eq!(upgrade("GET / HTTP/1.0", "Connection: upgrade\r\nUpgrade: websocket"), None);
    refused_lines(
        Reason::UpgradeWithBody,
        &[
            "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5",
            "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
        ],
    );
    // An upgrade that is not forwarded does not matter to the body.
    let lines = "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 5";
    assert_eq!(facts_of(lines).body, BodyFraming::Length(5));
}

#[test]
fn max_forwards_counts_for_trace_and_options_only() {
    let max = |start, value: &str| facts(start, &format!("Max-Forwards: {value}")).max_forwards;
    assert_eq!(max("TRACE / HTTP/1.1", "0"), Some(0));
    assert_eq!(max("OPTIONS * HTTP/1.1", "10"), Some(10));
    assert_eq!(max("OPTIONS / HTTP/1.1", "x"), None);
    assert_eq!(max("GET / HTTP/1.1", "0"), None);
}

#[test]
fn a_request_id_is_kept_only_if_it_is_safe_and_single() {
    let check = |lines: &str, expected| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        let mut scratch = HeadScratch::new();
        let request = parse_request(head.as_bytes(), &mut scratch, &LIMITS).unwrap().unwrap();
        assert_eq!(request.request_id(), expected, "{lines:?}");
    };
    check("X-Request-Id: 0123456789abcdefghi", None);
    check("X-Request-Id: 0123456789-BCDE_fgh.+=/", Some("0123456789-BCDE_fgh.+=/"));
    check("X-Request-Id: 0123456789 abcdefghij", None);
    check("X-Request-Id: 0123456789<abcdefghij", None);
    check(&format!("X-Request-Id: {}", "a".repeat(201)), None);
    let id = "X-Request-Id: 0123456789abcdefghij";
    check(&format!("{id}\r\n{id}"), None);
    check(&format!("{id}\r\n{id}\r\n{id}"), None);
    check("X: y", None);
}

#[test]
fn odd_names_are_dropped_unless_allowed() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nX_Real_IP: 1\r\nX.Y: 2\r\nX-Z: 3\r\n\r\n";
    let names = |odd_names| {
        let mut scratch = HeadScratch::new();
        let limits = Limits { odd_names, ..LIMITS };
        let request = parse_request(head, &mut scratch, &limits).unwrap().unwrap();
        assert_eq!(request.header("x.y").is_some(), odd_names);
        request.headers().count()
    };
    assert_eq!((names(false), names(true)), (2, 4));
}
