//! Encoders hold no more than is counted for them: a test of its own, because it replaces the
//! allocator. Zstandard, which has its own, is measured beside its code.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(unsafe_code, reason = "an allocator that counts has to be one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use portolan_discovery::model::Coding;
use portolan_router::compress::{Encoder, memory_max};

struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static HIGHEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's; the counts are a thread's own and need no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.get() + layout.size();
        HELD.set(held);
        HIGHEST.set(HIGHEST.get().max(held));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most that was held while a body was encoded in pieces as a relay does.
fn held(coding: Coding, level: u8, length: Option<u64>, body: &[u8], flushed: bool) -> usize {
    let before = HELD.get();
    HIGHEST.set(before);
    let mut encoder = Encoder::begin(coding, level, length).unwrap();
    for piece in body.chunks(16 * 1024) {
        encoder.push(piece).unwrap();
        if flushed {
            encoder.flush().unwrap();
        }
        encoder.out().clear();
    }
    encoder.finish().unwrap();
    drop(encoder);
    assert_eq!(HELD.get(), before, "all of it is given back");
    HIGHEST.get() - before
}

#[test]
fn encoders_hold_no_more_than_is_counted() {
    let mut random = 1u64;
    let mut noise = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 56) as u8
    };
    let text: Vec<u8> = (0..200_000u32)
        .flat_map(|n| format!("<li id={n}>item {} of {}</li>\n", n % 97, n / 7).into_bytes())
        .take(1_500_000)
        .collect();
    let noise: Vec<u8> = (0..600_000).map(|_| noise()).collect();
    for coding in [Coding::Gzip, Coding::Br] {
        for level in coding.levels() {
            let mut highest = 0;
            for body in [&text[..], &text[..5_000], &noise[..]] {
                for length in [None, Some(body.len() as u64)] {
                    highest = highest.max(held(coding, level, length, body, false));
                    highest = highest.max(held(coding, level, length, body, true));
                }
            }
            println!("{coding} {level}: {highest}");
            let counted = memory_max(coding, level);
            assert!(highest <= counted, "{coding} {level} holds {highest}, {counted} is counted");
        }
    }
}
