//! Any bytes as a request head: no panic, and what is sent on reads as the same request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_router::h1::{Forward, HeadScratch, Limits, Rewrite, Scheme, parse_request};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::DEFAULT;
    let mut scratch = HeadScratch::new();
    let Ok(Some(request)) = parse_request(bytes, &mut scratch, &limits) else { return };
    let forward = Forward {
        peer: "127.0.0.9",
        peer_trusted: bytes.len() % 2 == 0,
        scheme: Scheme::Http,
        port: 80,
        request_id: request.request_id().map_or(b"0123456789abcdefghij", str::as_bytes),
        request_start_ms: (bytes.len() % 3 == 0).then_some(1),
        authority_fallback: "127.0.0.1:80",
        via: b"Via: 1.1 me\r\n",
        client_lines: b"",
        rewrite: Rewrite::NONE,
    };
    let mut out = Vec::new();
    request.write_upstream(&forward, &mut out);

    let room = Limits { head_bytes_max: 1 << 20, headers_max: 256, ..limits };
    let mut scratch = HeadScratch::new();
    let again = parse_request(&out, &mut scratch, &room).expect("valid").expect("complete");
    assert_eq!(again.head_len(), out.len());
    assert_eq!(again.facts().body, request.facts().body);
    assert_eq!(again.facts().upgrade, request.facts().upgrade);
    assert_eq!(again.method(), request.method());
    assert_eq!((again.path(), again.query()), (request.path(), request.query()));
    assert!(request.host().is_empty() || again.host() == request.host());
    // Any part of a head asks for more, or is refused as the whole would have been.
    for end in (0..request.head_len()).step_by(7) {
        let mut scratch = HeadScratch::new();
        assert!(matches!(parse_request(&bytes[..end], &mut scratch, &limits), Ok(None)));
    }
});
