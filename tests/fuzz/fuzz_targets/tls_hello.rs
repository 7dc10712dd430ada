//! Any bytes as a client's first message: no panic, and no answer that more bytes change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_router::hello::{Hello, read};

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    for end in 0..bytes.len() {
        let part = read(&bytes[..end]);
        assert!(part == Ok(Hello::More) || part == whole);
    }
    if let Ok(Hello::Whole(Some(host))) = whole {
        assert!(!host.is_empty() && host.bytes().all(|byte| !byte.is_ascii_uppercase()));
    }
});
