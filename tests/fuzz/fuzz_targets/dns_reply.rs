//! Any bytes as an upstream's reply: no panic; the id and the question in front are the right
//! ones, so that the records behind them are reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_dns::Reply;

const QUESTION: &[u8] = b"\x03www\x07example\x03org\x00\x00\x01\x00\x01";

fuzz_target!(|bytes: &[u8]| {
    let _ = Reply::read(bytes, 7, QUESTION);
    let Some((counts, records)) = bytes.split_first_chunk::<3>() else { return };
    let [answers, authorities, additionals] = counts.map(|count| count % 8);
    let head = [0, 7, 0x81, 0x80, 0, 1, 0, answers, 0, authorities, 0, additionals];
    let message = [&head[..], QUESTION, records].concat();
    if let Ok(reply) = Reply::read(&message, 7, QUESTION) {
        assert!(reply.lifetime().is_none_or(|lifetime| !lifetime.is_zero()));
    }
});
