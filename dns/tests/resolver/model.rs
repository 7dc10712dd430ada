//! A second, slow opinion: the zone as a flat list of records, looked up by the book.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use portolan_dns::{Cache, Client, Decision, Reply, View, answer};
use proptest::prelude::*;

use crate::fixture::Fixture;
use crate::message::{Ask, data, read, text};

/// Records by lower-case name.
struct Model {
    records: BTreeMap<String, BTreeSet<(RecordType, String)>>,
}

impl Model {
    fn of(fixture: &Fixture) -> Self {
        let zone = fixture.config.name.to_string();
        let mut model = Self { records: BTreeMap::new() };
        for addr in &fixture.config.proxy_addrs {
            model.addr(format!("ns.dns.{zone}"), *addr);
        }
        // These exist even while nothing is below them.
        for name in ["inst", "node", "_tcp", "_tcp.inst"] {
            model.records.entry(format!("{name}.{zone}")).or_default();
        }
        for (name, node) in fixture.snapshot.nodes() {
            model.addr(format!("{name}.node.{zone}"), node.addr);
            model.pointer(node.addr, format!("{name}.node.{zone}."));
        }
        for (name, entry) in fixture.snapshot.services() {
            let own = entry.virtual_addr;
            match own {
                Some(own) => {
                    model.addr(format!("{name}.{zone}"), own.ip());
                    model.pointer(own.ip(), format!("{name}.{zone}."));
                    let target = format!("0 0 {} {name}.{zone}.", own.port());
                    model.add(format!("_{name}._tcp.{zone}"), RecordType::SRV, target);
                }
                None if entry.service.virtual_port.is_some() => {}
                None => {
                    for addr in &fixture.config.proxy_addrs {
                        model.addr(format!("{name}.{zone}"), *addr);
                    }
                }
            }
            model.records.entry(format!("{name}.{zone}")).or_default();
            model.records.entry(format!("_{name}._tcp.inst.{zone}")).or_default();
            model.records.entry(format!("{name}.inst.{zone}")).or_default();
            model.records.entry(format!("_{name}._tcp.{zone}")).or_default();
            model.records.entry(format!("leader.{name}.{zone}")).or_default();
            let up = entry.in_state(portolan_discovery::snapshot::State::Up);
            let first = up.min_by_key(|m| (m.instance.since_ms, m.instance.id.clone()));
            if let Some(leader) = first {
                model.addr(format!("leader.{name}.{zone}"), leader.instance.addr.ip());
            }
            for (id, member) in &entry.members {
                let (addr, host) = (member.instance.addr, format!("{id}.{name}.inst.{zone}"));
                model.addr(host.clone(), addr.ip());
                model.pointer(addr.ip(), format!("{host}."));
                if member.state == portolan_discovery::snapshot::State::Up {
                    model.addr(format!("{name}.inst.{zone}"), addr.ip());
                    let weight = member.instance.weight.0;
                    let target = format!("0 {weight} {} {host}.", addr.port());
                    model.add(format!("_{name}._tcp.inst.{zone}"), RecordType::SRV, target.clone());
                    if own.is_none() {
                        model.add(format!("_{name}._tcp.{zone}"), RecordType::SRV, target);
                    }
                }
            }
        }
        model
    }

    fn add(&mut self, name: String, rtype: RecordType, data: String) {
        self.records.entry(name).or_default().insert((rtype, data));
    }

    fn addr(&mut self, name: String, addr: IpAddr) {
        let rtype = if addr.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        self.add(name, rtype, addr.to_string());
    }

    fn pointer(&mut self, addr: IpAddr, name: String) {
        let reverse = match addr {
            IpAddr::V4(addr) => {
                let octets: Vec<_> = addr.octets().iter().rev().map(u8::to_string).collect();
                format!("{}.in-addr.arpa", octets.join("."))
            }
            IpAddr::V6(addr) => {
                let digits: Vec<_> =
                    format!("{:032x}", addr.to_bits()).chars().rev().map(String::from).collect();
                format!("{}.ip6.arpa", digits.join("."))
            }
        };
        self.add(reverse, RecordType::PTR, name);
    }

    /// The data of `name` by `rtype`; `None` when there is no such name.
    fn find(&self, name: &str, rtype: RecordType) -> Option<Vec<String>> {
        let name = name.to_ascii_lowercase();
        let below = format!(".{name}");
        if !self.records.keys().any(|known| *known == name || known.ends_with(&below)) {
            return None;
        }
        let records = self.records.get(&name).into_iter().flatten();
        Some(records.filter(|(t, _)| *t == rtype).map(|(_, data)| data.clone()).collect())
    }
}

fn fixture() -> impl Strategy<Value = Fixture> {
    let instances = proptest::collection::vec((0..4_u8, 0..6_u8, 0..8_u8, any::<bool>()), 0..14);
    let nodes = proptest::collection::vec((0..3_u8, 0..8_u8), 0..3);
    let asking = proptest::collection::vec((0..4_u8, proptest::option::of(0..9_u8)), 0..3);
    (instances, nodes, 0..3_u8, asking).prop_map(|(instances, nodes, idle, asking)| {
        let mut fixture = Fixture::parse("proxy 10.9.9.9");
        for (service, id, addr, is_v6) in instances {
            let addr = if is_v6 { format!("[fd00::{addr}]") } else { format!("10.0.0.{addr}") };
            fixture.add(&format!("instance s{service} i{id} {addr}:8{id}"));
        }
        for (name, addr) in nodes {
            fixture.add(&format!("node n{name} 10.0.0.{addr}"));
        }
        fixture.add(&format!("service s{idle}"));
        for (service, given) in asking {
            fixture.add(&format!("service s{service} asks 5432"));
            // Of a network that instances are of, too: an address may have several names.
            if let Some(addr) = given {
                fixture.add(&format!("virtual s{service} 10.0.0.{addr}"));
            }
        }
        fixture
    })
}

fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        (0..5_u8).prop_map(|n| format!("s{n}")),
        (0..7_u8).prop_map(|n| format!("i{n}")),
        (0..4_u8).prop_map(|n| format!("n{n}")),
        (0..5_u8).prop_map(|n| format!("_s{n}")),
        Just("inst".to_owned()),
        Just("INST".to_owned()),
        Just("node".to_owned()),
        Just("_tcp".to_owned()),
        Just("dns".to_owned()),
        Just("ns".to_owned()),
        Just("leader".to_owned()),
        "[a-zA-Z0-9_-]{1,5}",
    ];
    let below = proptest::collection::vec(part, 0..4).prop_map(|parts| parts.join("."));
    let zone = prop_oneof![Just("cluster.internal"), Just("Cluster.INTERNAL")];
    prop_oneof![
        8 => (below, zone).prop_map(|(below, zone)| {
            if below.is_empty() { zone.to_owned() } else { format!("{below}.{zone}") }
        }),
        1 => (0..9_u8).prop_map(|n| format!("{n}.0.0.10.in-addr.arpa")),
    ]
}

fn rtype() -> impl Strategy<Value = RecordType> {
    use RecordType::{A, AAAA, MX, PTR, SRV, TXT};
    prop_oneof![Just(A), Just(AAAA), Just(SRV), Just(PTR), Just(TXT), Just(MX)]
}

fn decide(fixture: &Fixture, query: &[u8], by_tcp: bool) -> (Decision, Vec<u8>) {
    let (zone, cache) = (fixture.zone(), Cache::unobserved(1 << 16));
    let view = View { zone: &zone, cache: &cache, now: Duration::ZERO };
    let client = Client { by_tcp, allowed: true };
    let mut reply = Vec::new();
    (answer(query, client, &view, &mut fastrand::Rng::new(), &mut reply), reply)
}

proptest! {
    #[test]
    fn the_zone_says_what_the_book_says(fixture in fixture(), name in name(), rtype in rtype()) {
        let model = Model::of(&fixture);
        let (decision, reply) = decide(&fixture, &Ask::new(&name, rtype).bytes(), true);
        if matches!(decision, Decision::Forward(_)) {
            prop_assert!(name.ends_with("arpa") && model.find(&name, rtype).is_none());
            return Ok(());
        }
        let message = read(&reply);
        prop_assert!(message.metadata.authoritative && !message.metadata.truncation);
        let expected = model.find(&name, rtype);
        let is_apex = name.eq_ignore_ascii_case("cluster.internal");
        let code: u16 = message.metadata.response_code.into();
        prop_assert_eq!(code == 3, expected.is_none() && !is_apex, "{}", name);
        let mut expected = expected.unwrap_or_default();
        expected.sort();
        prop_assert_eq!(data(&message), expected.clone());
        for record in &message.answers {
            // The owner is the question's, in its case.
            prop_assert_eq!(record.name.to_string(), format!("{name}."));
        }
        // No answer without its proof, no proof beside an answer.
        let proof: Vec<String> = message.authorities.iter().map(text).collect();
        prop_assert_eq!(proof.len(), usize::from(expected.is_empty()), "{:?}", proof);
    }

    #[test]
    fn a_reply_keeps_the_client_s_limit_or_says_that_it_is_cut(
        count in 1..90_u8,
        payload in proptest::option::of(0..5000_u16),
        service in any::<bool>(),
    ) {
        let mut fixture = Fixture::default();
        for n in 0..count {
            fixture.add(&format!("instance many i{n} 10.0.0.{n}:80"));
        }
        let (name, rtype) = if service {
            ("_many._tcp.cluster.internal", RecordType::SRV)
        } else {
            ("many.inst.cluster.internal", RecordType::A)
        };
        let ask = Ask { edns: payload, ..Ask::new(name, rtype) };
        let (_, reply) = decide(&fixture, &ask.bytes(), false);
        let limit = usize::from(payload.unwrap_or(0).clamp(512, 1232));
        prop_assert!(reply.len() <= limit, "{} > {}", reply.len(), limit);
        let message = read(&reply);
        let answers = if message.metadata.truncation { 0 } else { usize::from(count) };
        prop_assert_eq!(message.answers.len(), answers);
        prop_assert_eq!(message.edns.is_some(), payload.is_some());
    }

    #[test]
    fn any_bytes_get_an_answer_that_can_be_read_or_none(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        by_tcp in any::<bool>(),
    ) {
        judge(&bytes, by_tcp)?;
    }

    #[test]
    fn a_damaged_query_gets_an_answer_that_can_be_read_or_none(
        name in name(),
        edns in any::<bool>(),
        flips in proptest::collection::vec((0..80_usize, any::<u8>()), 1..4),
        cut in 0..90_usize,
    ) {
        let mut ask = Ask::new(&name, RecordType::A);
        ask.edns = edns.then_some(1232);
        let mut bytes = ask.bytes();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut.max(3));
        judge(&bytes, false)?;
    }
}

fn judge(bytes: &[u8], by_tcp: bool) -> Result<(), TestCaseError> {
    let fixture = Fixture::parse("instance web a 10.0.0.1:80\nnode n1 10.0.0.1");
    let (decision, reply) = decide(&fixture, bytes, by_tcp);
    let is_query = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
    match decision {
        Decision::Drop(_) => prop_assert!(!is_query, "silence"),
        Decision::Forward(miss) => {
            prop_assert!(is_query);
            prop_assert!(bytes[12..].starts_with(miss.question()));
        }
        Decision::Reply(_) | Decision::Refuse(..) => {
            prop_assert!(is_query);
            let message = read(&reply);
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert!(message.metadata.recursion_available);
            prop_assert!(reply[2] & 0x80 != 0);
        }
    }
    Ok(())
}

#[test]
fn a_query_cut_at_any_length_gets_formerr_or_silence() {
    let whole = Ask::new("web.cluster.internal", RecordType::A).with_edns(1232).bytes();
    for length in 0..whole.len() {
        let (decision, reply) = decide(&Fixture::default(), &whole[..length], false);
        match decision {
            Decision::Drop(_) => assert!(length < 12, "cut at {length}"),
            _ => assert_eq!(reply[3] & 0x0f, 1, "cut at {length}"),
        }
    }
}

#[test]
fn more_addresses_than_one_answer_holds_take_turns() {
    let mut fixture = Fixture::default();
    for n in 0..600 {
        fixture.add(&format!("instance many i{n} 10.0.{}.{}:80", n / 250, n % 250));
    }
    let query = Ask::new("many.inst.cluster.internal", RecordType::A).bytes();
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let (_, reply) = decide(&fixture, &query, true);
        let answers = data(&read(&reply));
        assert_eq!(answers.len(), 256);
        assert_eq!(answers.iter().collect::<BTreeSet<_>>().len(), 256);
        seen.extend(answers);
    }
    assert_eq!(seen.len(), 600);
}

#[test]
fn addresses_come_in_any_order() {
    let mut fixture = Fixture::default();
    for n in 0..4 {
        fixture.add(&format!("instance web i{n} 10.0.0.{n}:80"));
    }
    let query = Ask::new("web.inst.cluster.internal", RecordType::A).bytes();
    let mut first = BTreeMap::new();
    for _ in 0..400 {
        let message = read(&decide(&fixture, &query, false).1);
        *first.entry(message.answers[0].data.to_string()).or_insert(0) += 1;
    }
    // 100 each on average; 50 is more than five deviations below.
    assert!(first.len() == 4 && first.values().all(|count| *count > 50), "{first:?}");
}

#[test]
fn the_largest_answers_fit_tcp() {
    let (service, zone) = ("s".repeat(62), format!("{}.test", "z".repeat(50)));
    let mut fixture = Fixture::parse(&format!("zone {zone}"));
    for n in 0..300 {
        let id = format!("{n:0>63}");
        fixture.add(&format!("instance {service} {id} 10.0.{}.{}:80", n / 250, n % 250));
    }
    for (name, rtype) in [
        (format!("_{service}._tcp.{zone}"), RecordType::SRV),
        (format!("{service}.inst.{zone}"), RecordType::A),
    ] {
        let message = read(&decide(&fixture, &Ask::new(&name, rtype).bytes(), true).1);
        assert_eq!((message.metadata.truncation, message.answers.len()), (false, 256), "{rtype}");
    }
}

#[test]
fn what_we_write_can_be_read_as_an_upstream_s_reply() {
    let fixture = Fixture::parse("instance web a 10.0.0.1:80\nproxy 10.9.9.9 fd00::9");
    for (name, rtype) in [
        ("web.cluster.internal", RecordType::A),
        ("_web._tcp.cluster.internal", RecordType::SRV),
        ("db.cluster.internal", RecordType::A),
        ("cluster.internal", RecordType::NS),
        ("1.0.0.10.in-addr.arpa", RecordType::PTR),
    ] {
        let ask = Ask::new(name, rtype).with_edns(1232);
        let (_, bytes) = decide(&fixture, &ask.bytes(), false);
        let reply = Reply::read(&bytes, ask.id, &ask.question()).unwrap();
        let code: u16 = read(&bytes).metadata.response_code.into();
        assert_eq!(reply.rcode().0, code, "{name}");
        assert!(reply.lifetime().is_some(), "{name}");
    }
}
