//! What holds for any bytes at all: nothing panics, nothing depends on how the bytes arrive, and
//! what is written can be read in one way only.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    head_bytes_max: 2048,
    target_bytes_max: 256,
    headers_max: 24,
    chunk_extension_bytes_max: 16,
    trailer_bytes_max: 128,
    body_bytes_max: 1 << 20,
    odd_names: false,
};

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// Header lines with a meaning, good and bad, so that random heads reach the rules.
const LINES: &[&str] = &[
    "Host: a.test",
    "Host: [::1]:80",
    "Content-Length: 5",
    "Content-Length: 0",
    "Content-Length:5",
    "Content-Length: 5, 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding:\tchunked",
    "Connection: close",
    "Connection: keep-alive, X-A",
    "Connection: upgrade",
    "Upgrade: websocket",
    "TE: trailers",
    "Expect: 100-continue",
    "X-A: 1",
    "X-A:  2 ",
    "X_A: 3",
    "Empty:",
    "X-Forwarded-For: 1.1.1.1",
    "Forwarded: for=1.1.1.1",
    "X-Request-Id: 0123456789abcdefghij",
    "Date: x",
    "Folded: a\r\n b",
    "Space : a",
    "Lone: a \nFeed: b",
    "Cookie: \u{e9}=1",
];

const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.1",
    "POST /a/%7e/../b?c HTTP/1.1",
    "HEAD http://b.test/x HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "GET /a HTTP/1.0",
    "CONNECT a.test:1 HTTP/1.1",
    "GET /#a HTTP/1.1",
    "GET / HTTP/1.2",
];

const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 204 x",
    "HTTP/1.1 304",
    "HTTP/1.1 101 x",
    "HTTP/1.1 103 x",
    "HTTP/2 200",
];

/// What may be done to one place of a message.
#[derive(Clone, Debug)]
enum Change {
    Insert(u8),
    Replace(u8),
    Delete,
    Cut,
}

fn telling_byte() -> impl Strategy<Value = u8> {
    prop_oneof![prop::sample::select(b"\r\n\0 \t:;,/?#%.0aA_\x7f\x80\xff".to_vec()), any::<u8>(),]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        telling_byte().prop_map(Change::Insert),
        telling_byte().prop_map(Change::Replace),
        Just(Change::Delete),
        Just(Change::Cut),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, Change)]) -> Vec<u8> {
    for (place, change) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = place.index(bytes.len());
        match change {
            Change::Insert(byte) => bytes.insert(at, *byte),
            Change::Replace(byte) => bytes[at] = *byte,
            Change::Delete => drop(bytes.remove(at)),
            Change::Cut => bytes.truncate(at),
        }
    }
    bytes
}

fn head(starts: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), change()), 0..3);
    let lines = vec(prop::sample::select(LINES), 0..8);
    (prop::sample::select(starts), any::<bool>(), lines, changes).prop_map(
        |(start, host, lines, changes)| {
            let mut text = format!("{start}\r\n");
            text.push_str(if host { "Host: a.test\r\n" } else { "" });
            lines.iter().for_each(|line| text.extend([line, "\r\n"]));
            changed((text + "\r\nbody").into_bytes(), &changes)
        },
    )
}

fn request_of(bytes: &[u8]) -> Result<Option<(usize, RequestFacts)>, Reason> {
    let mut scratch = HeadScratch::new();
    let request = parse_request(bytes, &mut scratch, &LIMITS)?;
    Ok(request.map(|request| (request.head_len(), request.facts())))
}

/// The line ends are CRLF, the names tokens, and nothing else could end a line.
fn assert_clean(head: &[u8]) {
    let text = head.strip_suffix(b"\r\n\r\n").expect("a head ends in an empty line");
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\0')), "{line:?}");
        if index > 0 {
            let colon = line.iter().position(|byte| *byte == b':').expect("a header has a colon");
            assert!(line[..colon].iter().all(|byte| field::is_token_byte(*byte)), "{line:?}");
            assert!(line[colon + 1..].starts_with(b" "), "{line:?}");
        }
    }
    assert!(!text.ends_with(b"\r"));
}

fn count(head: &[u8], name: &str) -> usize {
    let lines = head.split(|byte| *byte == b'\n');
    let name = format!("{name}:").into_bytes();
    lines
        .filter(|line| {
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(&name))
        })
        .count()
}

fn check_request(bytes: &[u8]) {
    let mut scratch = HeadScratch::new();
    let Ok(Some(request)) = parse_request(bytes, &mut scratch, &LIMITS) else { return };
    let facts = request.facts();
    assert!(request.path().starts_with('/'));
    assert!(request.host() == request.host().to_ascii_lowercase());
    for trusted in [false, true] {
        let forward = Forward {
            peer: "127.0.0.9",
            peer_trusted: trusted,
            scheme: Scheme::Http,
            port: 80,
            request_id: request.request_id().map_or(b"jihgfedcba9876543210", str::as_bytes),
            request_start_ms: Some(1),
            authority_fallback: "127.0.0.1:80",
            via: b"Via: 1.1 me\r\n",
            client_lines: b"",
            rewrite: Rewrite::NONE,
        };
        let mut out = Vec::new();
        request.write_upstream(&forward, &mut out);
        assert_clean(&out);
        assert_eq!(count(&out, "host"), 1);
        assert_eq!(count(&out, "x-forwarded-for"), 1);
        assert_eq!(count(&out, "x-request-id"), 1);
        assert!(count(&out, "x-request-start") == 1 || trusted);
        assert!(count(&out, "content-length") + count(&out, "transfer-encoding") <= 1);
        assert_eq!(count(&out, "keep-alive"), 0);
        let mut scratch = HeadScratch::new();
        let limits = Limits { head_bytes_max: 1 << 16, headers_max: 64, ..LIMITS };
        let again = parse_request(&out, &mut scratch, &limits).unwrap().unwrap();
        let expected = RequestFacts {
            version: Version::V11,
            keep_alive: true,
            max_forwards: facts.max_forwards.map(|left| left.saturating_sub(1)),
            ..facts
        };
        assert_eq!((again.head_len(), again.facts()), (out.len(), expected));
        assert_eq!((again.path(), again.query()), (request.path(), request.query()));
        assert_eq!(again.request_id().map(str::as_bytes), Some(forward.request_id));
        if !request.host().is_empty() {
            assert_eq!((again.host(), again.port()), (request.host(), request.port()));
        }
        check_rewrite(&request, &forward);
    }
}

/// Its first segment is taken away or replaced: the rest of the path is the one that was matched,
/// and the head is still one.
fn check_rewrite(request: &Request<'_>, forward: &Forward<'_>) {
    let path = request.path();
    let end = path[1..].find('/').map_or(path.len(), |at| at + 1);
    let (matched, rest) = if path == "/" { ("", path) } else { path.split_at(end) };
    for replacement in ["", "/b"] {
        let rewrite = Rewrite { prefix: Some((matched, replacement)), host: Some("inner.test") };
        let mut out = Vec::new();
        request.write_upstream(&Forward { rewrite, ..*forward }, &mut out);
        assert_clean(&out);
        let mut scratch = HeadScratch::new();
        let limits = Limits { head_bytes_max: 1 << 16, headers_max: 64, ..LIMITS };
        let again = parse_request(&out, &mut scratch, &limits).unwrap().unwrap();
        assert_eq!((again.head_len(), again.host()), (out.len(), "inner.test"));
        assert_eq!((again.method(), again.query()), (request.method(), request.query()));
        assert_eq!(again.facts().body, request.facts().body);
        let below = rest.trim_start_matches('/');
        let expected = match (replacement, below.len() < rest.len()) {
            _ if again.form() == TargetForm::Asterisk => "/".to_owned(),
            ("", _) | (_, true) => format!("{replacement}/{below}"),
            _ => replacement.to_owned(),
        };
        assert_eq!(again.path(), expected, "{path}");
        assert!(!again.target().starts_with("//"));
    }
}

fn check_response(bytes: &[u8], request: RequestFacts) {
    let mut scratch = HeadScratch::new();
    let Ok(Some(response)) = parse_response(bytes, &mut scratch, &request, &LIMITS) else { return };
    let facts = response.facts();
    assert!(!facts.reusable || facts.body != BodyFraming::Close);
    let keep_alive = request.keep_alive;
    let deliver =
        Deliver { request, keep_alive, date: DATE, request_id: Some(b"id"), via: b"", line: b"" };
    let mut out = Vec::new();
    let Ok(delivery) = response.write_client(&deliver, &mut out) else { return };
    if out.is_empty() {
        assert_eq!((request.version, facts.phase), (Version::V10, Phase::Interim));
        return;
    }
    assert_clean(&out);
    assert!(count(&out, "content-length") + count(&out, "transfer-encoding") <= 1);
    assert!(count(&out, "date") <= 1);
    let mut scratch = HeadScratch::new();
    let limits = Limits { head_bytes_max: 1 << 16, headers_max: 64, ..LIMITS };
    let again = parse_response(&out, &mut scratch, &request, &limits).unwrap().unwrap().facts();
    let body = match delivery.relay {
        Relay::Encode => BodyFraming::Chunked,
        Relay::Compress { .. } => unreachable!("nothing is recoded"),
        Relay::Decode | Relay::UntilClose => BodyFraming::Close,
        Relay::None | Relay::Raw | Relay::Tunnel => facts.body,
    };
    assert_eq!((again.status, again.phase, again.body), (facts.status, facts.phase, body));
    if facts.phase == Phase::Final {
        assert_eq!(again.reusable, delivery.keep_alive, "the client reads another promise");
    }
}

/// Requests of every kind that the framing of a response depends on.
fn asked() -> impl Strategy<Value = RequestFacts> {
    let heads = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    prop::sample::select(heads.to_vec())
        .prop_map(|head| request_of(head.as_bytes()).unwrap().unwrap().1)
}

fn chunk_text() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "5\r\nhello\r\n",
        "1\r\nx\r\n",
        "3;a=b\r\nabc\r\n",
        "0\r\n",
        "0\r\n\r\n",
        "A: b\r\n",
        "\r\n",
        "Content-Length: 5\r\n",
        "00\r\n",
        "2 \r\nab\r\n",
        "ffffffffffffffff\r\n",
        "A: b\n",
    ];
    let changes = vec((any::<prop::sample::Index>(), change()), 0..2);
    (vec(prop::sample::select(pieces.to_vec()), 0..8), changes)
        .prop_map(|(pieces, changes)| changed(pieces.concat().into_bytes(), &changes))
}

/// Everything that feeding `bytes` in these pieces makes visible.
fn fed(mut body: BodyState, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool, u64), Reason> {
    let (mut sent, mut taken) = (Vec::new(), 0);
    for piece in pieces {
        let progress = body.feed(piece)?;
        assert!(progress.forward <= progress.taken && progress.taken <= piece.len());
        assert!(progress.done || progress.taken == piece.len());
        sent.extend_from_slice(&piece[..progress.forward]);
        taken += progress.taken;
        if progress.done {
            sent.extend_from_slice(body.tail());
            break;
        }
    }
    Ok((sent, taken, body.is_done(), body.content_bytes()))
}

fn decoded(mut body: BodyState, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool, u64), Reason> {
    let (mut data, mut taken) = (Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && !body.is_done() {
            let payload = body.decode(rest)?;
            assert!(payload.taken > 0 && payload.data.end <= payload.taken);
            data.extend_from_slice(&rest[payload.data]);
            taken += payload.taken;
            rest = &rest[payload.taken..];
        }
    }
    Ok((data, taken, body.is_done(), body.content_bytes()))
}

fn split<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut from = 0;
    let pieces = cuts.into_iter().map(|to| {
        let piece = &bytes[from..to];
        from = to;
        piece
    });
    pieces.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(telling_byte(), 0..256), request in asked()) {
        check_request(&bytes);
        check_response(&bytes, request);
    }

    #[test]
    fn a_request_that_is_taken_is_sent_on_with_the_same_meaning(bytes in head(REQUEST_LINES)) {
        check_request(&bytes);
    }

    #[test]
    fn a_response_that_is_taken_is_sent_on_with_the_same_meaning(
        bytes in head(STATUS_LINES),
        request in asked(),
    ) {
        check_response(&bytes, request);
    }

    #[test]
    fn a_request_head_reads_the_same_however_it_arrives(bytes in head(REQUEST_LINES)) {
        let whole = request_of(&bytes);
        for end in 0..bytes.len() {
            match request_of(&bytes[..end]) {
                Ok(None) => {}
                Ok(some) => prop_assert_eq!(Ok(some), whole),
                Err(_) => prop_assert!(whole.is_err(), "refused at {} only", end),
            }
        }
    }

    #[test]
    fn a_body_reads_the_same_however_it_arrives(
        bytes in chunk_text(),
        places in vec(any::<prop::sample::Index>(), 0..8),
        length in prop::option::of(0u64..40),
        of_response in any::<bool>(),
    ) {
        let framing = length.map_or(BodyFraming::Chunked, BodyFraming::Length);
        let body = || if of_response {
            BodyState::response(framing, &LIMITS)
        } else {
            BodyState::request(framing, &LIMITS)
        };
        let pieces = split(&bytes, &places);
        let whole = fed(body(), &[&bytes]);
        prop_assert_eq!(&fed(body(), &pieces), &whole);
        let data = decoded(body(), &[&bytes]);
        prop_assert_eq!(&decoded(body(), &pieces), &data);
        // Both ways of reading agree on everything but the bytes.
        match (whole, data) {
            (Ok((sent, taken, done, content)), Ok((data, also_taken, also_done, also_content))) => {
                prop_assert_eq!((taken, done, content), (also_taken, also_done, also_content));
                prop_assert_eq!(data.len() as u64, content);
                if done {
                    // What was relayed reads as the same content to the next hop.
                    let again = decoded(body(), &[&sent]);
                    prop_assert_eq!(again, Ok((data, sent.len(), true, content)));
                }
            }
            (whole, data) => prop_assert_eq!(whole.err(), data.err()),
        }
    }

    #[test]
    fn what_is_cut_into_chunks_is_put_together_again(
        pieces in vec(vec(any::<u8>(), 1..600), 0..6),
        places in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut encoded = Vec::new();
        for piece in &pieces {
            encoded.extend_from_slice(ChunkHead::new(piece.len()).as_bytes());
            encoded.extend_from_slice(piece);
            encoded.extend_from_slice(CHUNK_END);
        }
        encoded.extend_from_slice(LAST_CHUNK);
        let body = || BodyState::response(BodyFraming::Chunked, &LIMITS);
        let data = pieces.concat();
        let len = data.len() as u64;
        let parts = split(&encoded, &places);
        prop_assert_eq!(decoded(body(), &parts), Ok((data, encoded.len(), true, len)));
        let raw = Ok((encoded.clone(), encoded.len(), true, len));
        prop_assert_eq!(fed(body(), &parts), raw);
    }
}
