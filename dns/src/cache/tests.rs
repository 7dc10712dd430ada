use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::wire::Rcode;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn query(name: &str, qtype: u16, flags: u16, dnssec_ok: bool) -> Vec<u8> {
    let mut query = vec![0, 1];
    query.extend_from_slice(&flags.to_be_bytes());
    query.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&qtype.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
    query
}

fn key(name: &str) -> Key {
    Key::of(&Query::read(&query(name, 1, 0x0100, false)).unwrap())
}

/// A positive answer with one record of `length` bytes, or a denial with a SOA.
fn reply(name: &str, ttl_s: u32, length: u16, rcode: Rcode) -> Arc<Reply> {
    let query = query(name, 1, 0x0100, false);
    let question = &query[12..query.len() - 11];
    let mut message = vec![0, 1, 0x81, 0x80 | rcode.0.to_be_bytes()[1], 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(question);
    message.extend_from_slice(&[0xc0, 0x0c]);
    if rcode == Rcode::NOERROR {
        message[7] = 1;
        message.extend_from_slice(&[0, 1, 0, 1]);
    } else {
        message[9] = 1;
        message.extend_from_slice(&[0, 6, 0, 1]);
    }
    message.extend_from_slice(&ttl_s.to_be_bytes());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend(std::iter::repeat_n(0xff, length.into()));
    Arc::new(Reply::read(&message, 1, question).unwrap())
}

fn positive(name: &str, ttl_s: u32) -> Arc<Reply> {
    reply(name, ttl_s, 4, Rcode::NOERROR)
}

#[test]
fn a_reply_is_found_for_as_long_as_it_holds() {
    let cache = Cache::unobserved(1 << 20);
    let key = key("example.org");
    assert!(cache.find(&key, at(100)).is_none());
    cache.insert(&key, &positive("example.org", 10), at(100));
    for (now, expected) in [(100, Some(0)), (105, Some(5)), (109, Some(9)), (110, None)] {
        assert_eq!(cache.find(&key, at(now)).map(|(_, age_s)| age_s), expected, "at {now}");
    }
    assert_eq!((cache.metrics.hits.get(), cache.metrics.misses.get()), (3, 2));
}

#[test]
fn what_changes_the_answer_is_in_the_key() {
    let base = query("example.org", 1, 0x0100, false);
    let cache = Cache::unobserved(1 << 20);
    cache.insert(&key("example.org"), &positive("example.org", 10), at(0));
    for (what, query, expected) in [
        ("the same", base, true),
        ("another case", query("EXAMPLE.Org", 1, 0x0100, false), true),
        ("no recursion", query("example.org", 1, 0, false), true),
        ("another type", query("example.org", 28, 0x0100, false), false),
        ("another name", query("example.com", 1, 0x0100, false), false),
        ("DO", query("example.org", 1, 0x0100, true), false),
        ("CD", query("example.org", 1, 0x0110, false), false),
    ] {
        let key = Key::of(&Query::read(&query).unwrap());
        assert_eq!(cache.find(&key, at(1)).is_some(), expected, "{what}");
    }
}

#[test]
fn a_life_has_a_limit_and_a_denial_s_is_shorter() {
    let cache = Cache::unobserved(1 << 20);
    let (long, denied) = (key("long.test"), key("denied.test"));
    cache.insert(&long, &positive("long.test", 1_000_000), at(0));
    cache.insert(&denied, &reply("denied.test", 1_000_000, 30, Rcode::NXDOMAIN), at(0));
    assert!(cache.find(&denied, at(3599)).is_some());
    assert!(cache.find(&denied, at(3600)).is_none());
    assert!(cache.find(&long, at(86_399)).is_some());
    assert!(cache.find(&long, at(86_400)).is_none());
}

#[test]
fn nothing_is_kept_that_does_not_hold_or_is_too_large() {
    let cache = Cache::unobserved(1 << 20);
    cache.insert(&key("zero.test"), &positive("zero.test", 0), at(0));
    cache.insert(&key("large.test"), &reply("large.test", 60, 17_000, Rcode::NOERROR), at(0));
    assert_eq!((cache.metrics.entries.get(), cache.metrics.bytes.get()), (0, 0));
}

#[test]
fn a_newer_reply_takes_the_place_of_the_old_one() {
    let cache = Cache::unobserved(1 << 20);
    let key = key("example.org");
    cache.insert(&key, &reply("example.org", 60, 400, Rcode::NOERROR), at(0));
    let bytes = cache.metrics.bytes.get();
    cache.insert(&key, &positive("example.org", 60), at(5));
    assert_eq!(cache.metrics.entries.get(), 1);
    assert_eq!(bytes - cache.metrics.bytes.get(), 396);
    assert_eq!(cache.find(&key, at(6)).unwrap().1, 1);
}

#[test]
fn what_is_asked_again_and_again_is_not_driven_out() {
    let cache = Cache::unobserved(64 << 10);
    let hot = key("hot.test");
    cache.insert(&hot, &positive("hot.test", 3600), at(0));
    for n in 0..5000 {
        let name = format!("cold-{n}.test");
        cache.insert(&key(&name), &positive(&name, 3600), at(1));
        assert!(cache.find(&hot, at(1)).is_some(), "after {n}");
    }
    assert!(cache.metrics.evictions.get() > 4000);
}

proptest! {
    #[test]
    fn the_bytes_never_pass_the_limit_and_are_counted_right(
        entries in proptest::collection::vec((0..60_u8, 1..2000_u16, 0..20_u32), 1..300),
    ) {
        let bytes_max = 64 << 10;
        let cache = Cache::unobserved(bytes_max);
        for (n, (name, length, ttl)) in entries.iter().enumerate() {
            let name = format!("n{name}.test");
            let now = at(n as u64 / 10);
            cache.insert(&key(&name), &reply(&name, *ttl, *length, Rcode::NOERROR), now);
            prop_assert!(cache.metrics.bytes.get() <= bytes_max as i64);
        }
        let mut bytes = 0;
        let mut count = 0;
        for shard in &cache.shards {
            let shard = shard.lock().unwrap();
            let slots: Vec<&Slot> = shard.slots.iter().flatten().collect();
            let names: HashSet<_> = slots.iter().map(|slot| slot.key.clone()).collect();
            prop_assert_eq!(names.len(), slots.len());
            prop_assert_eq!(shard.places.len(), slots.len());
            let in_use: usize = slots.iter().map(|slot| slot.bytes).sum();
            prop_assert_eq!(in_use, shard.bytes);
            prop_assert!(shard.bytes <= bytes_max / SHARDS);
            bytes += in_use;
            count += slots.len();
        }
        prop_assert_eq!(cache.metrics.bytes.get(), bytes as i64);
        prop_assert_eq!(cache.metrics.entries.get(), count as i64);
    }
}
