//! Any bytes as a response head: no panic, and the client reads the framing that was promised.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_router::h1::{
    BodyFraming, Deliver, HeadScratch, Limits, Relay, parse_request, parse_response,
};

const REQUESTS: [&[u8]; 4] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
];

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::DEFAULT;
    let mut scratch = HeadScratch::new();
    let asked = REQUESTS[bytes.len() % REQUESTS.len()];
    let request = parse_request(asked, &mut scratch, &limits).expect("valid").expect("complete");
    let request = request.facts();
    let Ok(Some(response)) = parse_response(bytes, &mut scratch, &request, &limits) else { return };
    let facts = response.facts();
    let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    let deliver = Deliver { request, keep_alive: request.keep_alive, date, request_id: None, via: b"Via: 1.1 me\r\n", line: b"" };
    let mut out = Vec::new();
    let Ok(delivery) = response.write_client(&deliver, &mut out) else { return };
    if out.is_empty() {
        return;
    }

    let room = Limits { head_bytes_max: 1 << 20, headers_max: 256, ..limits };
    let mut scratch = HeadScratch::new();
    let again = parse_response(&out, &mut scratch, &request, &room).expect("valid");
    let again = again.expect("complete");
    assert_eq!(again.head_len(), out.len());
    let body = match delivery.relay {
        Relay::Encode => BodyFraming::Chunked,
        Relay::Decode | Relay::UntilClose => BodyFraming::Close,
        Relay::None | Relay::Raw | Relay::Tunnel => facts.body,
        Relay::Compress { .. } => unreachable!("only a recoded head asks for it"),
    };
    assert_eq!((again.facts().status, again.facts().body), (facts.status, body));
    assert_eq!(again.facts().phase, facts.phase);
});
