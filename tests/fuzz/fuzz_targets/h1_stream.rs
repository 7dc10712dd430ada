//! Any bytes as a client's stream: the codec and an independent reference agree on where each
//! request ends, and so does whoever gets what is sent on.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../router/tests/streams/compare.rs"]
mod compare;
#[path = "../../../router/tests/streams/reference.rs"]
mod reference;

fuzz_target!(|bytes: &[u8]| {
    compare::requests(bytes);
    // The responses' half of the comparison is a target of its own.
    let _ = compare::responses;
});
