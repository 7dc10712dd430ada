//! The codec of the router beside the reference: a stream of messages is read by both, and what
//! the router sends on is read by the reference once more.

use portolan_router::h1::{
    BodyFraming, BodyState, CHUNK_END, ChunkHead, Deliver, Forward, HeadScratch, LAST_CHUNK,
    Limits, Phase, Reason, Relay, RequestFacts, Rewrite, Scheme, parse_request, parse_response,
};

use super::reference::{self, Message, Verdict};

/// A stream has more messages than this only if they are hardly any bytes each.
const MESSAGES_MAX: usize = 32;

const FORWARD: Forward<'_> = Forward {
    peer: "127.0.0.9",
    peer_trusted: true,
    scheme: Scheme::Http,
    port: 80,
    request_id: b"0123456789abcdefghij",
    request_start_ms: None,
    authority_fallback: "127.0.0.1:80",
    via: b"Via: 1.1 me\r\n",
    client_lines: b"",
    rewrite: Rewrite::NONE,
};

/// What the router makes of the bytes at the start of a stream.
#[derive(Debug)]
enum Ours {
    /// A message that ends there, and what is sent on of it.
    Taken { message: Message, sent: Vec<u8>, last: bool },
    /// The content goes on until the connection ends.
    UntilClose,
    /// More has to come; what has been sent on so far.
    Incomplete { sent: Vec<u8> },
    /// Refused; what had been sent on before.
    Refused { reason: Reason, sent: Vec<u8> },
}

/// Bytes that a client sends, message after message.
///
/// # Panics
/// When the two disagree.
pub fn requests(stream: &[u8]) {
    let mut rest = stream;
    for _ in 0..MESSAGES_MAX {
        let ours = request(rest);
        let theirs = reference::request(rest);
        let Some(end) = compare(ours, theirs, reference::request) else { return };
        rest = &rest[end..];
    }
}

/// Bytes that an instance sends in answer to requests of one method.
///
/// # Panics
/// When the two disagree.
pub fn responses(stream: &[u8], to_head: bool) {
    let facts = asked(to_head);
    let mut rest = stream;
    for _ in 0..MESSAGES_MAX {
        let ours = response(rest, facts);
        let theirs = reference::response(rest, to_head);
        let again = |sent: &[u8]| reference::response(sent, to_head);
        let Some(end) = compare(ours, theirs, again) else { return };
        rest = &rest[end..];
    }
}

/// Where the next message begins, if there is one.
fn compare(ours: Ours, theirs: Verdict, again: impl Fn(&[u8]) -> Verdict) -> Option<usize> {
    match (ours, theirs) {
        (Ours::Taken { message, sent, last }, Verdict::Must(theirs) | Verdict::May(theirs)) => {
            assert_eq!(message, theirs, "a message that ends elsewhere");
            match again(&sent) {
                Verdict::Must(read) | Verdict::May(read) => {
                    assert_eq!((read.end, &read.content), (sent.len(), &message.content));
                }
                other => panic!("what is sent on reads as {other:?}: {}", sent.escape_ascii()),
            }
            (!last).then_some(message.end)
        }
        (Ours::UntilClose, Verdict::UntilClose) => None,
        // What has left of a message that never came is no message either.
        (Ours::Incomplete { sent }, Verdict::Incomplete | Verdict::Refuse)
        | (
            Ours::Refused { sent, .. },
            Verdict::May(_) | Verdict::Refuse | Verdict::Incomplete | Verdict::UntilClose,
        ) => {
            let read = if sent.is_empty() { Verdict::Incomplete } else { again(&sent) };
            assert!(
                !matches!(read, Verdict::Must(_) | Verdict::May(_)),
                "half a message reads as a whole one: {}",
                sent.escape_ascii()
            );
            None
        }
        (_, Verdict::Unclear) => None,
        (Ours::Refused { reason, .. }, Verdict::Must(theirs)) => {
            panic!("refused as {reason:?}, has to be taken as {theirs:?}")
        }
        (ours, theirs) => panic!("{ours:?}, the reference: {theirs:?}"),
    }
}

fn request(bytes: &[u8]) -> Ours {
    let limits = Limits::DEFAULT;
    let mut scratch = HeadScratch::new();
    let request = match parse_request(bytes, &mut scratch, &limits) {
        Ok(Some(request)) => request,
        Ok(None) => return Ours::Incomplete { sent: Vec::new() },
        Err(reason) => return Ours::Refused { reason, sent: Vec::new() },
    };
    let facts = request.facts();
    let head_len = request.head_len();
    let mut sent = Vec::new();
    request.write_upstream(&FORWARD, &mut sent);
    let make = || BodyState::request(facts.body, &limits);
    let body = match relayed(make(), &bytes[head_len..], sent) {
        Ok(body) => body,
        Err(ours) => return ours,
    };
    let content = content(make(), &bytes[head_len..]);
    let message = Message { end: head_len + body.taken, content, is_interim: false };
    Ours::Taken { message, sent: body.sent, last: facts.upgrade.is_some() }
}

struct Relayed {
    taken: usize,
    sent: Vec<u8>,
}

/// Feeds a body byte by byte: what has left when it goes wrong is what an instance would have got.
fn relayed(mut body: BodyState, bytes: &[u8], mut sent: Vec<u8>) -> Result<Relayed, Ours> {
    let mut taken = 0;
    while !body.is_done() {
        let Some(byte) = bytes.get(taken..taken + 1) else {
            return Err(Ours::Incomplete { sent });
        };
        match body.feed(byte) {
            Ok(progress) => {
                sent.extend_from_slice(&byte[..progress.forward]);
                taken += progress.taken;
            }
            Err(reason) => return Err(Ours::Refused { reason, sent }),
        }
    }
    sent.extend_from_slice(body.tail());
    Ok(Relayed { taken, sent })
}

/// The content of a body that is whole.
fn content(mut body: BodyState, bytes: &[u8]) -> Vec<u8> {
    let (mut content, mut at) = (Vec::new(), 0);
    while !body.is_done() {
        let payload = body.decode(&bytes[at..]).expect("it was relayed");
        content.extend_from_slice(&bytes[at..][payload.data]);
        at += payload.taken;
    }
    content
}

fn asked(to_head: bool) -> RequestFacts {
    let method = if to_head { "HEAD" } else { "GET" };
    let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut scratch = HeadScratch::new();
    let request = parse_request(head.as_bytes(), &mut scratch, &Limits::DEFAULT);
    request.expect("valid").expect("complete").facts()
}

fn response(bytes: &[u8], asked: RequestFacts) -> Ours {
    let limits = Limits::DEFAULT;
    let mut scratch = HeadScratch::new();
    let response = match parse_response(bytes, &mut scratch, &asked, &limits) {
        Ok(Some(response)) => response,
        Ok(None) => return Ours::Incomplete { sent: Vec::new() },
        Err(reason) => return Ours::Refused { reason, sent: Vec::new() },
    };
    let facts = response.facts();
    let head_len = response.head_len();
    let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    let via = FORWARD.via;
    let deliver =
        Deliver { request: asked, keep_alive: true, date, request_id: None, via, line: b"" };
    let mut sent = Vec::new();
    let delivery = match response.write_client(&deliver, &mut sent) {
        Ok(delivery) => delivery,
        Err(reason) => return Ours::Refused { reason, sent: Vec::new() },
    };
    if facts.body == BodyFraming::Close {
        encoded(delivery.relay, &bytes[head_len..], sent);
        return Ours::UntilClose;
    }
    let make = || BodyState::response(facts.body, &limits);
    let body = match relayed(make(), &bytes[head_len..], sent) {
        Ok(body) => body,
        Err(ours) => return ours,
    };
    let content = content(make(), &bytes[head_len..]);
    let is_interim = facts.phase == Phase::Interim;
    let message = Message { end: head_len + body.taken, content, is_interim };
    Ours::Taken { message, sent: body.sent, last: !facts.reusable && !is_interim }
}

/// What is cut into chunks for the client reads as what the instance sent.
fn encoded(relay: Relay, content: &[u8], mut sent: Vec<u8>) {
    assert_eq!(relay, Relay::Encode, "the client knows chunks");
    for piece in content.chunks(7) {
        sent.extend_from_slice(ChunkHead::new(piece.len()).as_bytes());
        sent.extend_from_slice(piece);
        sent.extend_from_slice(CHUNK_END);
    }
    sent.extend_from_slice(LAST_CHUNK);
    match reference::response(&sent, false) {
        Verdict::Must(read) | Verdict::May(read) => {
            assert_eq!((read.end, &*read.content), (sent.len(), content));
        }
        Verdict::Unclear => {}
        other => panic!("chunks of ours read as {other:?}: {}", sent.escape_ascii()),
    }
}
