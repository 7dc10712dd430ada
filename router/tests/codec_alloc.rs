//! The codec allocates nothing once its scratch has grown: a test of its own, because it replaces
//! the allocator.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(unsafe_code, reason = "an allocator that counts has to be one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use portolan_router::h1::{
    BodyFraming, BodyState, Client, Deliver, Forward, HeadScratch, Limits, Reason, Rewrite, Scheme,
    parse_request, parse_response, write_error,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's; the count is a thread's own and needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

const REQUESTS: [&[u8]; 4] = [
    b"GET /a?b HTTP/1.1\r\nHost: www.example.org:80\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n",
    b"GET http://a.test/%61/../b HTTP/1.1\r\nHost: [::1]\r\nX-Forwarded-For: a\r\nForwarded: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: x, TE\r\nX: y\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-Odd: a\tb \r\n\r\n",
];

const RESPONSES: [&[u8]; 3] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: x\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.0 404 Gone\r\nX : a\r\n b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
];

fn pass_all(scratch: &mut HeadScratch, out: &mut Vec<u8>) {
    let limits = Limits::DEFAULT;
    let forward = Forward {
        peer: "127.0.0.9",
        peer_trusted: true,
        scheme: Scheme::Http,
        port: 80,
        request_id: b"0123456789abcdefghij",
        request_start_ms: Some(1_700_000_000_000),
        authority_fallback: "127.0.0.1:80",
        via: b"Via: 1.1 portolan-0123456789ab\r\n",
        client_lines: b"",
        rewrite: Rewrite::NONE,
    };
    for bytes in REQUESTS {
        out.clear();
        let request = parse_request(bytes, scratch, &limits).unwrap().unwrap();
        request.write_upstream(&forward, out);
        let facts = request.facts();
        for bytes in RESPONSES {
            let response = parse_response(bytes, scratch, &facts, &limits).unwrap().unwrap();
            let deliver = Deliver {
                request: facts,
                keep_alive: true,
                date: DATE,
                request_id: None,
                via: forward.via,
                line: b"",
            };
            // A coding that an old client cannot read is refused, and that is free too.
            let _ = response.write_client(&deliver, out);
        }
        let client = Client {
            request: Some(facts),
            keep_alive: true,
            date: DATE,
            request_id: None,
            pseudonym: "portolan-0123456789ab",
            line: b"",
        };
        write_error(Reason::NoRoute, &client, out);
    }
    let mut body = BodyState::request(BodyFraming::Chunked, &limits);
    assert!(body.feed(b"5\r\nhello\r\n0\r\n\r\n").unwrap().done);
}

#[test]
fn messages_pass_without_an_allocation() {
    let (mut scratch, mut out) = (HeadScratch::new(), Vec::new());
    pass_all(&mut scratch, &mut out);
    let before = ALLOCATIONS.with(Cell::get);
    pass_all(&mut scratch, &mut out);
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert!(before > 0, "the counter counts");
}
