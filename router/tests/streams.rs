//! Streams of messages, valid ones and what becomes of them by changes that attackers like, read
//! by the codec and by an independent reference: any disagreement on where a message ends, and
//! every refusal of what has to be taken, is a failure. `tests/fuzz` has the same comparison
//! without end.

#[path = "streams/compare.rs"]
mod compare;
#[path = "streams/reference.rs"]
mod reference;

use proptest::collection::vec;
use proptest::prelude::*;
use reference::Verdict;

const REQUESTS: &[&str] = &[
    "GET /a HTTP/1.1|Host: a||",
    "GET /a?b=c HTTP/1.0||",
    "HEAD / HTTP/1.1|Host: a|X: y|Cookie: a=b||",
    "POST / HTTP/1.1|Host: a|Content-Length: 5||hello",
    "DELETE / HTTP/1.1|Host: a|Content-Length: 0||",
    "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||5|hello|1|x|0||",
    "PUT / HTTP/1.1|Host: a|Transfer-Encoding: chunked||005;a=b|hello|0|A: b|C: d||",
    "OPTIONS * HTTP/1.1|Host: a|Max-Forwards: 1||",
    "GET http://b/c HTTP/1.1|Host: a||",
    "POST / HTTP/1.1|Host: a|Expect: 100-continue|Content-Length: 2||ab",
    "GET / HTTP/1.1|Host: a|Connection: upgrade|Upgrade: websocket||",
    "|GET / HTTP/1.1|Host: a|Connection: keep-alive, X|X: y||",
];

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK|Content-Length: 5||hello",
    "HTTP/1.1 200 OK|Transfer-Encoding: chunked||5|hello|0||",
    "HTTP/1.1 200 OK|Transfer-Encoding: chunked||5 |hello|0;x|A: b||",
    "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked|Content-Length: 9||1|x|0||",
    "HTTP/1.1 204 No Content||",
    "HTTP/1.1 304 Not Modified|Content-Length: 5||",
    "HTTP/1.1 103 Early Hints|Link: x||",
    "HTTP/1.1 100 Continue||",
    "HTTP/1.0 200 OK|Connection: keep-alive|Content-Length: 2||ok",
    "HTTP/1.1 404 |X : y| z|Content-Length: 1||n",
    "HTTP/1.1 200 OK|X: y||until the end",
];

/// What is put into a message: ways to write one length and mean another.
const PIECES: &[&str] = &[
    "|",
    "\n",
    "\r",
    "||",
    " ",
    "\t",
    "\0",
    "\u{b}",
    ",",
    ";",
    ":",
    "0",
    "5",
    "0||",
    "0|",
    "5|hello|",
    "| x",
    "|\tx",
    "Content-Length: 5|",
    "Content-Length: 0|",
    "Content-Length: 5, 5|",
    "Content-Length: +5|",
    "Content-Length : 5|",
    "Content-Length:|",
    "Content_Length: 9|",
    "Content-Length: 18446744073709551617|",
    "Transfer-Encoding: chunked|",
    "transfer-encoding:chunked|",
    "Transfer-Encoding: chunked, chunked|",
    "Transfer-Encoding: gzip, chunked|",
    "Transfer-Encoding: identity|",
    "Transfer-Encoding:\u{b}chunked|",
    "Transfer-Encoding: x\nTransfer-Encoding: chunked|",
    "Transfer-Encoding : chunked|",
    "Host: b|",
    "Connection: close|",
    "Connection: Content-Length, Transfer-Encoding|",
    "ffffffffffffffff|",
    "00000000000000005|hello|",
    "GET /smuggled HTTP/1.1|Host: a||",
    "HTTP/1.1 200 OK|Content-Length: 0||",
    " HTTP/1.0|",
    "\u{7f}",
    "\u{e9}",
];

#[derive(Debug, Clone)]
enum Change {
    Insert(&'static str),
    Replace(u8),
    Delete(usize),
    /// A piece of the stream once more, elsewhere.
    Repeat(prop::sample::Index, usize),
    Cut,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(Change::Insert),
        1 => any::<u8>().prop_map(Change::Replace),
        2 => (1usize..4).prop_map(Change::Delete),
        1 => (any::<prop::sample::Index>(), 1usize..30).prop_map(|(at, len)| Change::Repeat(at, len)),
        1 => Just(Change::Cut),
    ]
}

/// Messages in a row, then changes; half of them where a line begins.
fn stream(messages: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<bool>(), change()), 0..4);
    (vec(prop::sample::select(messages), 1..4), changes).prop_map(|(messages, changes)| {
        let mut bytes = bytes(&messages.concat());
        for (place, at_line, change) in changes {
            let lines: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
            let at = match at_line && !lines.is_empty() {
                true => lines[place.index(lines.len())] + 1,
                false => place.index(bytes.len() + 1),
            };
            apply(&mut bytes, at, &change);
        }
        bytes
    })
}

fn bytes(text: &str) -> Vec<u8> {
    text.replace('|', "\r\n").into_bytes()
}

fn apply(stream: &mut Vec<u8>, at: usize, change: &Change) {
    let end = |len: usize| (at + len).min(stream.len());
    match change {
        Change::Insert(piece) => drop(stream.splice(at..at, bytes(piece))),
        Change::Replace(byte) => drop(stream.splice(at..end(1), [*byte])),
        Change::Delete(len) => drop(stream.drain(at..end(*len))),
        Change::Repeat(from, len) => {
            let from = from.index(stream.len() + 1);
            let piece = stream[from..stream.len().min(from + len)].to_vec();
            drop(stream.splice(at..at, piece));
        }
        Change::Cut => stream.truncate(at),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn requests_end_where_the_reference_ends_them(stream in stream(REQUESTS)) {
        compare::requests(&stream);
    }

    #[test]
    fn responses_end_where_the_reference_ends_them(
        stream in stream(RESPONSES),
        to_head in any::<bool>(),
    ) {
        compare::responses(&stream, to_head);
    }
}

#[test]
fn valid_messages_are_messages_to_the_reference_too() {
    for message in REQUESTS {
        let message = bytes(message);
        let (Verdict::Must(read) | Verdict::May(read)) = reference::request(&message) else {
            panic!("{}", message.escape_ascii());
        };
        assert_eq!(read.end, message.len());
        compare::requests(&message);
    }
    for message in RESPONSES {
        compare::responses(&bytes(message), false);
    }
    let sure = [REQUESTS[0], REQUESTS[3], REQUESTS[5]];
    for message in sure {
        assert!(matches!(reference::request(&bytes(message)), Verdict::Must(_)), "{message}");
    }
}

/// Every case that a fuzz target has kept: coverage of what it took long to find.
#[test]
fn the_corpus_of_the_fuzz_targets_is_read_alike() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus");
    for (folder, requests) in [("h1_stream", true), ("h1_replies", false)] {
        let mut count = 0;
        for entry in std::fs::read_dir(format!("{corpus}/{folder}")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            count += 1;
            match (requests, bytes.split_first()) {
                (true, _) => compare::requests(&bytes),
                (false, Some((choice, stream))) => compare::responses(stream, choice & 1 == 1),
                (false, None) => {}
            }
        }
        assert!(count > 10, "{folder} is there");
    }
}
