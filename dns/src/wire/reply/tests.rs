use proptest::prelude::*;

use super::*;

const QUESTION: &[u8] = b"\x03www\x07example\x03org\x00\x00\x01\x00\x01";

struct Record {
    owner: Vec<u8>,
    rtype: u16,
    ttl: u32,
    rdata: Vec<u8>,
}

fn record(rtype: u16, ttl: u32, rdata: &[u8]) -> Record {
    Record { owner: vec![0xc0, 12], rtype, ttl, rdata: rdata.into() }
}

fn soa(ttl: u32, minimum: u32) -> Record {
    record(rtype::SOA, ttl, &[&[0; 18][..], &minimum.to_be_bytes()].concat())
}

fn opt(rcode_high: u8) -> Record {
    let ttl = u32::from(rcode_high) << 24;
    Record { owner: vec![0], rtype: rtype::OPT, ttl, rdata: vec![] }
}

fn message(flags: u16, sections: [&[Record]; 3]) -> Vec<u8> {
    let mut message = vec![0, 7];
    message.extend_from_slice(&(0x8180 | flags).to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    for section in sections {
        message.extend_from_slice(&u16::try_from(section.len()).unwrap().to_be_bytes());
    }
    message.extend_from_slice(QUESTION);
    for record in sections.into_iter().flatten() {
        message.extend_from_slice(&record.owner);
        message.extend_from_slice(&record.rtype.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message.extend_from_slice(&record.ttl.to_be_bytes());
        message.extend_from_slice(&u16::try_from(record.rdata.len()).unwrap().to_be_bytes());
        message.extend_from_slice(&record.rdata);
    }
    message
}

fn read(message: &[u8]) -> Result<Reply, ReplyFault> {
    Reply::read(message, 7, QUESTION)
}

#[test]
fn a_life_is_the_shortest_ttl_and_a_denial_needs_a_soa() {
    let a = |ttl| record(rtype::A, ttl, &[192, 0, 2, 1]);
    let cname = |ttl| record(rtype::CNAME, ttl, &[1, b'x', 0]);
    let ns = |ttl| record(rtype::NS, ttl, &[1, b'x', 0]);
    for (what, flags, sections, expected) in [
        ("an address", 0, [&[a(60)][..], &[], &[]], Some(60)),
        ("two", 0, [&[a(60), a(30)], &[], &[]], Some(30)),
        ("an alias with its address", 0, [&[cname(20), a(60)], &[], &[]], Some(20)),
        ("glue", 0, [&[a(60)], &[ns(50)], &[a(40)]], Some(40)),
        ("zero", 0, [&[a(0)], &[], &[]], None),
        ("a TTL below zero", 0, [&[a(1 << 31)], &[], &[]], None),
        ("OPT has no TTL", 0, [&[a(60)], &[], &[opt(0)]], Some(60)),
        ("no such name", 3, [&[], &[soa(60, 5)], &[]], Some(5)),
        ("no such name, SOA about to end", 3, [&[], &[soa(2, 5)], &[]], Some(2)),
        ("nothing of that type", 0, [&[], &[soa(60, 5)], &[]], Some(5)),
        ("an alias to nothing", 0, [&[cname(3)], &[soa(60, 5)], &[]], Some(3)),
        ("no SOA", 0, [&[], &[], &[]], None),
        ("no such name, no SOA", 3, [&[], &[], &[]], None),
        ("an alias alone", 0, [&[cname(60)], &[], &[]], None),
        ("a referral", 0, [&[], &[ns(60)], &[]], None),
    ] {
        let reply = read(&message(flags, sections)).unwrap();
        let seconds = reply.lifetime().map(|lifetime| lifetime.as_secs());
        assert_eq!(seconds, expected, "{what}");
        let has_address = sections[0].iter().any(|record| record.rtype == rtype::A);
        assert_eq!(reply.is_negative(), !has_address, "{what}");
    }
}

#[test]
fn what_is_no_answer_says_why() {
    let a = [record(rtype::A, 60, &[192, 0, 2, 1])];
    let good = message(0, [&a, &[], &[]]);
    let changed = |at: usize, bytes: &[u8]| {
        let mut message = good.clone();
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    };
    let bare = |rcode: u8| vec![0, 7, 0x81, 0x80 | rcode, 0, 0, 0, 0, 0, 0, 0, 0];
    for (what, message, expected) in [
        ("another id", changed(1, &[8]), ReplyFault::Foreign),
        ("a query", changed(2, &[1]), ReplyFault::Foreign),
        ("another opcode", changed(2, &[0x91]), ReplyFault::Foreign),
        ("another name", changed(13, b"x"), ReplyFault::Foreign),
        ("another type", changed(12 + QUESTION.len() - 4, &[0, 2]), ReplyFault::Foreign),
        ("another class", changed(12 + QUESTION.len() - 2, &[0, 0x21]), ReplyFault::Foreign),
        ("no question", changed(4, &[0, 0]), ReplyFault::Foreign),
        ("two questions", changed(4, &[0, 2]), ReplyFault::Foreign),
        ("truncated", changed(2, &[0x83]), ReplyFault::Truncated),
        ("SERVFAIL", message(2, [&[], &[], &[]]), ReplyFault::Failed(Rcode::SERVFAIL)),
        ("REFUSED", message(5, [&[], &[], &[]]), ReplyFault::Failed(Rcode::REFUSED)),
        ("FORMERR", message(1, [&[], &[], &[]]), ReplyFault::NoEdns),
        ("NOTIMP", message(4, [&[], &[], &[]]), ReplyFault::NoEdns),
        ("BADVERS", message(0, [&[], &[], &[opt(1)]]), ReplyFault::NoEdns),
        ("a bare FORMERR", bare(1), ReplyFault::NoEdns),
        ("a bare REFUSED", bare(5), ReplyFault::Failed(Rcode::REFUSED)),
        ("a bare NXDOMAIN", bare(3), ReplyFault::Foreign),
    ] {
        assert_eq!(read(&message), Err(expected), "{what}");
    }
    assert!(read(&changed(13, b"W")).is_ok());
}

#[test]
fn the_case_of_a_name_does_not_matter_and_that_of_a_type_does() {
    // Type 65 (HTTPS) and 97 differ by the bit that makes 'a' of 'A'.
    assert!(same(b"\x01A\x00\x00\x41\x00\x01", b"\x01a\x00\x00\x41\x00\x01"));
    assert!(!same(b"\x01a\x00\x00\x41\x00\x01", b"\x01a\x00\x00\x61\x00\x01"));
}

#[test]
fn a_reply_cut_anywhere_is_not_taken() {
    let a = [record(rtype::A, 60, &[192, 0, 2, 1])];
    let whole = message(0, [&a, &[soa(60, 5)], &[opt(0)]]);
    assert!(read(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "cut at {length}");
    }
    // What follows the last record belongs to no one and goes no further.
    let longer = [&whole[..], b"rest"].concat();
    assert_eq!(read(&longer), read(&whole));
}

#[test]
fn what_follows_opt_goes_with_it() {
    let a = |last| record(rtype::A, 60, &[192, 0, 2, last]);
    let before = read(&message(0, [&[a(1)], &[], &[a(2)]])).unwrap();
    let after = read(&message(0, [&[a(1)], &[], &[a(2), opt(0), a(3)]])).unwrap();
    assert_eq!(before, after);
}

#[test]
fn an_unknown_type_passes_byte_for_byte() {
    let rdata: Vec<u8> = (0..=255).collect();
    let strange = [record(65_280, 60, &rdata), record(65_281, 61, b"")];
    let reply = read(&message(0, [&strange, &[], &[]])).unwrap();
    let asked = Asked { id: 9, flags: 0x0100, edns: None, by_tcp: true, question: QUESTION };
    let mut out = Vec::new();
    reply.write(&asked, 0, &mut out);
    let mut expected = message(0, [&strange, &[], &[]]);
    expected[1] = 9;
    assert_eq!(out, expected);
    reply.write(&asked, 60, &mut out);
    let ttl = 12 + QUESTION.len() + 6;
    assert_eq!(out[ttl..ttl + 4], [0; 4]);
    expected[ttl..ttl + 4].fill(0);
    let second = ttl + 6 + rdata.len() + 6;
    expected[second..second + 4].copy_from_slice(&[0, 0, 0, 1]);
    assert_eq!(out, expected);
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_reply_or_an_error(
        tail in proptest::collection::vec(any::<u8>(), 0..300),
        counts in proptest::array::uniform3(0..4_u8),
        flags in any::<u16>(),
    ) {
        let mut bytes = message(0, [&[], &[], &[]]);
        bytes[2..4].copy_from_slice(&(flags | 0x8000).to_be_bytes());
        for (n, count) in counts.iter().enumerate() {
            bytes[7 + 2 * n] = *count;
        }
        bytes.extend_from_slice(&tail);
        if let Ok(reply) = read(&bytes) {
            let asked =
                Asked { id: 7, flags: 0, edns: None, by_tcp: true, question: QUESTION };
            let mut out = Vec::new();
            reply.write(&asked, 1, &mut out);
            // What we pass on can be read again, and says the same.
            let again = Reply::read(&out, 7, QUESTION).unwrap();
            prop_assert_eq!(again.counts, reply.counts);
        }
    }

    #[test]
    fn records_pass_through_whole(
        records in proptest::collection::vec(
            (1..300_u16, 0..100_000_u32, proptest::collection::vec(any::<u8>(), 0..40)),
            0..12,
        ),
        age in 0..200_000_u32,
    ) {
        let records: Vec<Record> = records
            .iter()
            .filter(|(rtype, _, _)| *rtype != rtype::OPT)
            .map(|(rtype, ttl, rdata)| record(*rtype, *ttl, rdata))
            .collect();
        let reply = read(&message(0, [&records, &[], &[]])).unwrap();
        let asked = Asked { id: 7, flags: 0x0100, edns: None, by_tcp: true, question: QUESTION };
        let mut out = Vec::new();
        reply.write(&asked, age, &mut out);
        let older: Vec<Record> = records
            .iter()
            .map(|r| record(r.rtype, r.ttl.saturating_sub(age), &r.rdata))
            .collect();
        prop_assert_eq!(out, message(0, [&older, &[], &[]]));
    }
}
