//! Any bytes as a query: no panic, and silence, a reply that repeats id and question, or a
//! question to forward.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use portolan_dns::{Cache, Client, Decision, View, Zone, ZoneConfig, answer};

fuzz_target!(|bytes: &[u8]| {
    let zone = Zone::empty(&ZoneConfig::default());
    let cache = Cache::unobserved(1 << 16);
    let view = View { zone: &zone, cache: &cache, now: Duration::ZERO };
    let by_tcp = bytes.len() % 2 == 0;
    let client = Client { by_tcp, allowed: true };
    let mut rng = fastrand::Rng::with_seed(1);
    let mut out = Vec::new();
    let is_query = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
    match answer(bytes, client, &view, &mut rng, &mut out) {
        Decision::Drop(_) => assert!(!is_query),
        Decision::Forward(miss) => assert!(bytes[12..].starts_with(miss.question())),
        Decision::Reply(_) | Decision::Refuse(..) => {
            assert!(is_query && out[..2] == bytes[..2] && out[2] & 0x80 != 0);
            assert!(by_tcp || out.len() <= 1232);
            assert!(out[5] == 0 || bytes[12..].starts_with(&out[12..out.len().min(17)]));
        }
    }
});
