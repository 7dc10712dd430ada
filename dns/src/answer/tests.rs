use std::sync::Arc;

use super::*;
use crate::wire::{Reply, u16_at, u32_at};
use crate::zone::ZoneConfig;

const CLIENT: Client = Client { by_tcp: false, allowed: true };
const NAME: &[u8] = b"\x03Www\x07eXample\x03org\x00\x00\x01\x00\x01";

fn query(id: u16, flags: u16, question: &[u8], opt: &[u8]) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend_from_slice(&flags.to_be_bytes());
    query.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())]);
    query.extend_from_slice(question);
    query.extend_from_slice(opt);
    query
}

/// An upstream's answer with `count` addresses.
fn upstream(question: &[u8], count: u8, ttl_s: u32) -> Vec<u8> {
    let mut message = vec![0, 9, 0x85, 0xa0, 0, 1, 0, count, 0, 0, 0, 1];
    message.extend_from_slice(question);
    for n in 0..count {
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        message.extend_from_slice(&ttl_s.to_be_bytes());
        message.extend_from_slice(&[0, 4, 192, 0, 2, n]);
    }
    // OPT with an option of the upstream's.
    message.extend_from_slice(&[0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 5, 0, 10, 0, 1, 7]);
    message
}

struct Fixture {
    zone: Zone,
    cache: Cache,
}

impl Fixture {
    fn new() -> Self {
        Self { zone: Zone::empty(&ZoneConfig::default()), cache: Cache::unobserved(1 << 20) }
    }

    fn ask(&self, query: &[u8], client: Client, now_s: u64) -> (Decision, Vec<u8>) {
        let view = View { zone: &self.zone, cache: &self.cache, now: Duration::from_secs(now_s) };
        let mut out = Vec::new();
        (answer(query, client, &view, &mut fastrand::Rng::with_seed(1), &mut out), out)
    }

    /// Lets the cache have what an upstream says to `query`.
    fn fill(&self, query: &[u8], message: &[u8], now_s: u64) {
        let (Decision::Forward(miss), _) = self.ask(query, CLIENT, now_s) else {
            panic!("it is not forwarded")
        };
        let reply = Reply::read(message, 9, miss.question()).unwrap();
        self.cache.insert(&miss.key, &Arc::new(reply), Duration::from_secs(now_s));
    }
}

#[test]
fn a_cached_answer_has_the_client_s_id_case_and_flags_and_an_older_ttl() {
    let fixture = Fixture::new();
    let lower = NAME.to_ascii_lowercase();
    fixture.fill(&query(1, 0x0100, &lower, b""), &upstream(&lower, 2, 60), 100);
    let (decision, reply) = fixture.ask(&query(7, 0x0100, NAME, b""), CLIENT, 117);
    let Decision::Reply(note) = decision else { panic!("{decision:?}") };
    assert_eq!(note, Note { qtype: 1, rcode: Rcode::NOERROR, source: Source::Cache });
    // QR, RD and RA; neither the upstream's AA nor its AD.
    assert_eq!(reply[..12], [0, 7, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
    assert_eq!(reply[12..12 + NAME.len()], *NAME);
    assert_eq!(u32_at(&reply, 12 + NAME.len() + 6), Some(43));
    assert_eq!(u32_at(&reply, 12 + NAME.len() + 16 + 6), Some(43));
    assert_eq!(reply.len(), 12 + NAME.len() + 2 * 16);
}

#[test]
fn only_who_sent_opt_gets_opt_and_it_is_ours() {
    let fixture = Fixture::new();
    fixture.fill(&query(1, 0x0100, NAME, b""), &upstream(NAME, 1, 60), 0);
    let opt = [0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0];
    let (_, reply) = fixture.ask(&query(7, 0x0100, NAME, &opt), CLIENT, 0);
    assert_eq!(u16_at(&reply, 10), Some(1));
    assert_eq!(reply[reply.len() - 11..], [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_reply_beyond_the_client_s_size_is_empty_and_says_so() {
    let fixture = Fixture::new();
    fixture.fill(&query(1, 0x0100, NAME, b""), &upstream(NAME, 60, 60), 0);
    let opt = |size: u16| {
        let [high, low] = size.to_be_bytes();
        [0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]
    };
    let whole = 12 + NAME.len() + 60 * 16;
    for (opt, by_tcp, expected) in [
        (&b""[..], false, None),
        (b"", true, Some(whole)),
        (&opt(0), false, None),
        (&opt(512), false, None),
        (&opt(1232), false, Some(whole + 11)),
        (&opt(4096), false, Some(whole + 11)),
        (&opt(512), true, Some(whole + 11)),
    ] {
        let client = Client { by_tcp, ..CLIENT };
        let (_, reply) = fixture.ask(&query(7, 0x0100, NAME, opt), client, 0);
        let truncated = reply[2] & 0x02 != 0;
        assert_eq!(truncated, expected.is_none(), "{opt:?} {by_tcp}");
        let empty = 12 + NAME.len() + opt.len();
        assert_eq!(reply.len(), expected.unwrap_or(empty), "{opt:?} {by_tcp}");
        assert_eq!(u16_at(&reply, 6), Some(if truncated { 0 } else { 60 }));
    }
}

#[test]
fn without_recursion_only_what_is_known_is_answered() {
    let fixture = Fixture::new();
    let (decision, reply) = fixture.ask(&query(7, 0, NAME, b""), CLIENT, 0);
    assert!(matches!(decision, Decision::Refuse(_, Unserved::Recursion)));
    assert_eq!(reply[2..4], [0x80, 0x85]);
    fixture.fill(&query(1, 0x0100, NAME, b""), &upstream(NAME, 1, 60), 0);
    let (decision, _) = fixture.ask(&query(7, 0, NAME, b""), CLIENT, 0);
    assert!(matches!(decision, Decision::Reply(Note { source: Source::Cache, .. })));
}

#[test]
fn a_failure_repeats_the_question() {
    let fixture = Fixture::new();
    let (decision, _) = fixture.ask(&query(7, 0x0110, NAME, b""), CLIENT, 0);
    let Decision::Forward(miss) = decision else { panic!("{decision:?}") };
    assert!(miss.key.checking_disabled() && !miss.key.dnssec_ok());
    let mut out = Vec::new();
    Miss::fail(&miss.asked, &mut out);
    assert_eq!(out, query(7, 0x8192, NAME, b""));
}

#[test]
fn who_may_not_ask_gets_no_name_and_no_forward() {
    let fixture = Fixture::new();
    let stranger = Client { by_tcp: false, allowed: false };
    for name in [NAME, b"\x07cluster\x08internal\x00\x00\x06\x00\x01"] {
        let (decision, reply) = fixture.ask(&query(7, 0x0100, name, b""), stranger, 0);
        assert!(matches!(decision, Decision::Refuse(_, Unserved::Network)), "{decision:?}");
        assert_eq!(reply[3] & 0x0f, 5);
        assert_eq!(reply.len(), 12 + name.len());
    }
}
