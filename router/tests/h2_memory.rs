//! What clients of HTTP/2 can make the router hold: many requests with large answers that nobody
//! reads, and heads that unfold. The only test of its process, because it looks at all memory.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[expect(dead_code, reason = "shared with the tests of HTTP/2, which use the rest of it")]
#[path = "h2/frames.rs"]
mod frames;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/instance.rs"]
mod instance;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/peer.rs"]
mod peer;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/rig.rs"]
mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use frames::{END_HEADERS, END_STREAM, HEADERS, Raw, WINDOW_UPDATE, frame, get, text};
use instance::Instance;
use rig::{Rig, until};

/// What the router may grow by.
const GROWTH_MAX: usize = 8 * 1024 * 1024;

/// As many as a client may have under way.
const STREAMS: u32 = 128;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes every call on to `System` as it is.
#[expect(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An instance that answers each request with more than anybody holds.
async fn endless() -> Instance {
    Instance::raw(|mut peer, _| async move {
        static PART: [u8; 64 * 1024] = [7; 64 * 1024];
        if peer.request().await.is_none() {
            return;
        }
        if !peer.try_send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await {
            return;
        }
        // Blocks for as long as nobody takes it.
        for _ in 0..1_600 {
            use tokio::io::AsyncWriteExt;
            if peer.stream_mut().write_all(&PART).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// The most that is held over a second in which nothing is read.
async fn peak() -> usize {
    let mut peak = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        peak = peak.max(HELD.load(Ordering::Relaxed));
    }
    peak
}

async fn grows_by(rig: &Rig, settings: &[(u16, u32)], opening: &[u8]) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    let mut raw = Raw::greeting(rig.http, settings).await;
    raw.send(opening).await;
    until("all requests", || rig.in_flight("web") == u64::from(STREAMS)).await;
    let growth = peak().await.saturating_sub(before);
    drop(raw);
    rig.settled("web").await;
    until("the end", || rig.router.connections() == 0).await;
    growth
}

#[tokio::test]
async fn a_client_that_reads_nothing_costs_little() {
    let instance = endless().await;
    let rig = Rig::web(&[instance.addr]);
    // What the router and the instance keep from then on.
    grows_by(&rig, &[(4, 0)], &requests(&get(), &get())).await;
    let entry = [get(), vec![0x40], text("a"), text(&"x".repeat(4_000))].concat();
    let unfolding = [get(), vec![0xbe; 6]].concat();
    let wide = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
    for (what, window, opening) in [
        ("no window", 0, requests(&get(), &get())),
        ("no window, and heads that unfold", 0, requests(&entry, &unfolding)),
        ("a byte of window", 1, requests(&get(), &get())),
        ("a window for all", 65_535, [wide.clone(), requests(&get(), &get())].concat()),
        ("windows without end", 1 << 30, [wide, requests(&entry, &unfolding)].concat()),
    ] {
        let growth = grows_by(&rig, &[(4, window)], &opening).await;
        eprintln!("{what}: {growth} bytes");
        assert!(growth <= GROWTH_MAX, "{what}: {growth} bytes");
    }
}

/// As many requests as there may be.
fn requests(first: &[u8], others: &[u8]) -> Vec<u8> {
    let block = |number| if number == 0 { first } else { others };
    (0..STREAMS)
        .flat_map(|number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, block(number)))
        .collect()
}
