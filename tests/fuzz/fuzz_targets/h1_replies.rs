//! Any bytes as an instance's stream: the codec and an independent reference agree on where each
//! response ends, and so does the client. The first byte chooses between GET and HEAD.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../router/tests/streams/compare.rs"]
mod compare;
#[path = "../../../router/tests/streams/reference.rs"]
mod reference;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, stream)) = bytes.split_first() else { return };
    compare::responses(stream, choice & 1 == 1);
    // The requests' half of the comparison is a target of its own.
    let _ = compare::requests;
});
