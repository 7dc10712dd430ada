use std::collections::BTreeMap;
use std::num::NonZeroU16;

use portolan_discovery::model::record::{decode, encode};
use portolan_discovery::model::{
    Event, Health, Instance, Key, Kv, Node, Origin, Phase, PortRange, Protocol, Resources, Service,
    VirtualAddress, Weight,
};
use proptest::prelude::*;

use super::*;
use crate::wire::{Name, read_name};

fn put(key: Key, value: impl Into<Vec<u8>>) -> Event {
    let (key, value) = (key.to_string(), value.into().into());
    Event::Put(Kv { key, value, created: Revision(1), modified: Revision(1), lease: None })
}

fn instance(service: &str, id: &str, addr: &str, health: Health) -> Event {
    let record = Instance {
        service: service.parse().unwrap(),
        id: id.parse().unwrap(),
        node: "n1".parse().unwrap(),
        addr: addr.parse().unwrap(),
        weight: Weight::DEFAULT,
        health,
        cause: None,
        phase: Phase::Active,
        origin: Origin::Api,
        since_ms: 0,
        labels: BTreeMap::new(),
    };
    put(Key::Instance(record.service.clone(), record.id.clone()), encode(&record))
}

fn node(name: &str, addr: &str) -> Event {
    let record = Node {
        name: name.parse().unwrap(),
        addr: addr.parse().unwrap(),
        zone: None,
        capacity: Resources::default(),
        ports: PortRange::DEFAULT,
        runs_jobs: false,
        cordoned: false,
        version: String::new(),
        since_ms: 0,
    };
    put(Key::Node(record.name.clone()), encode(&record))
}

/// A service that asks for an address of its own, or does not.
fn service(name: &str, asks: bool) -> Event {
    let service = Service {
        protocol: Protocol::Tcp,
        virtual_port: NonZeroU16::new(5432).filter(|_| asks),
        ..Service::named(name.parse().unwrap())
    };
    put(Key::Service(service.name.clone()), encode(&service))
}

/// The virtual address of a service.
fn given(service: &str, addr: &str) -> Event {
    let record =
        VirtualAddress { service: service.parse().unwrap(), address: addr.parse().unwrap() };
    put(Key::Virtual(record.service.clone()), encode(&record))
}

fn gone(key: Key) -> Event {
    Event::Delete { key: key.to_string(), revision: Revision(2) }
}

fn gone_instance(service: &str, id: &str) -> Event {
    gone(Key::Instance(service.parse().unwrap(), id.parse().unwrap()))
}

fn after(snapshot: &Snapshot, events: &[Event]) -> Snapshot {
    let (next, rejected) = snapshot.apply(events, snapshot.revision.next());
    assert_eq!(rejected, []);
    next
}

fn zone_of(events: &[Event]) -> Zone {
    Zone::compile(&after(&Snapshot::default(), events), None, &ZoneConfig::default())
}

fn wire_of(text: &str) -> Name {
    let mut wire: Vec<u8> = text
        .split('.')
        .flat_map(|label| {
            let length = u8::try_from(label.len()).unwrap();
            [&[length][..], label.as_bytes()].concat()
        })
        .collect();
    wire.push(0);
    let mut name = Name::empty();
    read_name(&wire, 0, &mut name).unwrap();
    name
}

fn find(zone: &Zone, text: &str) -> String {
    match zone.find(&wire_of(text)) {
        Found::Instances(members) => {
            let v4 = members.v4.iter().map(ToString::to_string);
            let v6 = members.v6.iter().map(ToString::to_string);
            v4.chain(v6).collect::<Vec<_>>().join(" ")
        }
        Found::Targets(members) => {
            let targets = members.targets.iter();
            targets.map(|t| format!("{}:{}", t.id, t.port)).collect::<Vec<_>>().join(" ")
        }
        Found::Instance(addr) | Found::Node(addr) => addr.to_string(),
        Found::Reverse(owners) => {
            owners.iter().map(|owner| format!("{owner:?}")).collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn each_name_has_what_it_stands_for() {
    use Health::{Down, Up};
    let zone = zone_of(&[
        instance("web", "a", "10.0.0.1:8080", Up),
        instance("web", "b", "10.0.0.2:8081", Up),
        instance("web", "c", "10.0.0.2:8082", Up),
        instance("web", "d", "[fd00::1]:8080", Up),
        instance("web", "e", "10.0.0.3:8080", Down),
        node("n1", "10.0.0.1"),
    ]);
    for (name, expected) in [
        ("cluster.internal", "Apex"),
        ("web.cluster.internal", "Proxy"),
        ("ns.dns.cluster.internal", "Proxy"),
        ("dns.cluster.internal", "Empty"),
        ("inst.cluster.internal", "Empty"),
        ("node.cluster.internal", "Empty"),
        ("_tcp.cluster.internal", "Empty"),
        ("web.inst.cluster.internal", "10.0.0.1 10.0.0.2 fd00::1"),
        ("_web._tcp.cluster.internal", "a:8080 b:8081 c:8082 d:8080"),
        ("e.web.inst.cluster.internal", "10.0.0.3"),
        ("n1.node.cluster.internal", "10.0.0.1"),
        ("db.cluster.internal", "Missing"),
        ("db.inst.cluster.internal", "Missing"),
        ("x.web.inst.cluster.internal", "Missing"),
        ("web._tcp.cluster.internal", "Missing"),
        ("__web._tcp.cluster.internal", "Missing"),
        ("_web._udp.cluster.internal", "Missing"),
        ("x.web.cluster.internal", "Missing"),
        ("x.n1.node.cluster.internal", "Missing"),
        ("x.y.z.web.inst.cluster.internal", "Missing"),
        ("web.cluster.internal.cluster.internal", "Missing"),
        ("\u{e4}.cluster.internal", "Missing"),
        ("internal", "Outside"),
        ("xcluster.internal", "Outside"),
        ("web.cluster.internal.example.org", "Outside"),
        ("1.0.0.10.in-addr.arpa", "Node(\"n1\") Instance(\"web\", \"a\")"),
        ("2.0.0.10.in-addr.arpa", "Instance(\"web\", \"b\") Instance(\"web\", \"c\")"),
        ("01.0.0.10.in-addr.arpa", "Outside"),
        ("0.0.10.in-addr.arpa", "Outside"),
        ("x.1.0.0.10.in-addr.arpa", "Outside"),
        ("4.0.0.10.in-addr.arpa", "Outside"),
        ("256.0.0.10.in-addr.arpa", "Outside"),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            "Instance(\"web\", \"d\")",
        ),
        ("10.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", "Outside"),
    ] {
        assert_eq!(find(&zone, name), expected, "{name}");
    }
}

#[test]
fn the_leader_has_a_name_of_its_own_which_is_empty_while_nobody_leads() {
    use Health::{Down, Starting, Up};
    let since = |id: &str, health, since_ms: u64| {
        let Event::Put(kv) = instance("web", id, &format!("10.0.0.{since_ms}:80"), health) else {
            panic!("a put");
        };
        let mut record: Instance = decode(&kv.value).unwrap();
        record.since_ms = since_ms;
        put(Key::Instance(record.service.clone(), record.id.clone()), encode(&record))
    };
    let lead = |events: &[Event]| find(&zone_of(events), "leader.web.cluster.internal");
    assert_eq!(lead(&[since("a", Up, 3), since("b", Up, 2), since("c", Down, 1)]), "10.0.0.2");
    assert_eq!(lead(&[since("a", Up, 3)]), "10.0.0.3");
    assert_eq!(lead(&[since("a", Starting, 1)]), "Empty");
    assert_eq!(lead(&[]), "Missing");
    // What was there before stays what it was.
    let taken = zone_of(&[
        instance("leader", "a", "10.0.0.1:80", Up),
        instance("dns", "a", "10.0.0.3:80", Up),
        node("leader", "10.0.0.2"),
    ]);
    for (name, expected) in [
        ("leader.inst.cluster.internal", "10.0.0.1"),
        ("leader.node.cluster.internal", "10.0.0.2"),
        ("leader.dns.cluster.internal", "10.0.0.3"),
        ("leader.leader.cluster.internal", "10.0.0.1"),
        ("leader.x.cluster.internal", "Missing"),
    ] {
        assert_eq!(find(&taken, name), expected, "{name}");
    }
}

#[test]
fn a_label_that_holds_the_zone_s_bytes_is_not_the_zone() {
    let mut name = Name::empty();
    let wire = b"\x12x\x07cluster\x08internal\x00".to_vec();
    // One label of 18 bytes; the root's zero comes after it.
    assert!(read_name(&wire, 0, &mut name).is_ok());
    assert!(matches!(zone_of(&[]).find(&name), Found::Outside));
}

#[test]
fn few_that_are_up_bring_those_that_are_down_along() {
    use Health::{Down, Starting, Up};
    for (healths, expected) in [
        (&[Up, Up, Down][..], "10.0.0.0 10.0.0.1"),
        (&[Up, Down], "10.0.0.0"),
        (&[Up, Down, Down], "10.0.0.0 10.0.0.1 10.0.0.2"),
        (&[Down, Down], "10.0.0.0 10.0.0.1"),
        (&[Up, Starting, Starting], "10.0.0.0"),
        (&[Starting], ""),
    ] {
        let events: Vec<Event> = healths
            .iter()
            .enumerate()
            .map(|(n, health)| {
                instance("web", &format!("i{n}"), &format!("10.0.0.{n}:80"), *health)
            })
            .collect();
        assert_eq!(find(&zone_of(&events), "web.inst.cluster.internal"), expected, "{healths:?}");
    }
}

#[test]
fn instances_whose_results_were_forgotten_stay_until_they_are_judged() {
    use Health::{Down, Starting, Up};
    let config = ZoneConfig::default();
    let mut snapshot = Snapshot::default();
    let mut zone = Zone::empty(&config);
    for (health, addr, expected) in [
        (Up, "10.0.0.1:80", "10.0.0.1"),
        (Starting, "10.0.0.1:80", "10.0.0.1"),
        (Down, "10.0.0.1:80", "10.0.0.1"),
        (Starting, "10.0.0.1:80", "10.0.0.1"),
        (Starting, "10.0.0.2:80", ""),
        (Starting, "10.0.0.1:80", ""),
    ] {
        snapshot = after(&snapshot, &[instance("web", "a", addr, health)]);
        zone = Zone::compile(&snapshot, Some(&zone), &config);
        assert_eq!(find(&zone, "web.inst.cluster.internal"), expected, "{health:?} {addr}");
    }
}

#[test]
fn a_change_leaves_what_did_not_change_as_it_was() {
    let config = ZoneConfig::default();
    let first = after(
        &Snapshot::default(),
        &[
            instance("web", "a", "10.0.0.1:80", Health::Up),
            instance("db", "a", "10.0.0.2:80", Health::Up),
        ],
    );
    let before = Zone::compile(&first, None, &config);
    let second = after(&first, &[gone_instance("web", "a")]);
    let zone = Zone::compile(&second, Some(&before), &config);
    assert!(Arc::ptr_eq(&zone.services["db"], &before.services["db"]));
    assert_eq!(find(&zone, "web.cluster.internal"), "Missing");
    assert_eq!(find(&zone, "1.0.0.10.in-addr.arpa"), "Outside");
    assert_eq!(find(&before, "web.cluster.internal"), "Proxy");
    assert!(zone.revision() > before.revision());
    // Another name for the zone is another zone.
    let other = ZoneConfig { name: "corp.test".parse().unwrap(), ..config };
    let renamed = Zone::compile(&second, Some(&zone), &other);
    assert_eq!(find(&renamed, "db.corp.test"), "Proxy");
    assert_eq!(find(&renamed, "db.cluster.internal"), "Outside");
}

fn any_event() -> impl Strategy<Value = Event> {
    let health = prop_oneof![Just(Health::Up), Just(Health::Down)];
    prop_oneof![
        4 => (0..4_u8, 0..4_u8, 0..4_u8, health).prop_map(|(service, id, addr, health)| {
            let (service, id) = (format!("s{service}"), format!("i{id}"));
            instance(&service, &id, &format!("10.0.0.{addr}:80"), health)
        }),
        2 => (0..4_u8, 0..4_u8)
            .prop_map(|(service, id)| gone_instance(&format!("s{service}"), &format!("i{id}"))),
        1 => (0..3_u8, 0..4_u8)
            .prop_map(|(name, addr)| node(&format!("n{name}"), &format!("10.0.0.{addr}"))),
        1 => (0..4_u8, any::<bool>()).prop_map(|(name, asks)| service(&format!("s{name}"), asks)),
        1 => (0..4_u8, 0..4_u8)
            .prop_map(|(name, addr)| given(&format!("s{name}"), &format!("10.0.0.{addr}"))),
        1 => (0..3_u8).prop_map(|name| gone(Key::Node(format!("n{name}").parse().unwrap()))),
    ]
}

proptest! {
    #[test]
    fn a_zone_made_step_by_step_is_the_one_made_at_once(
        batches in proptest::collection::vec(proptest::collection::vec(any_event(), 1..6), 1..10),
    ) {
        let config = ZoneConfig::default();
        let mut snapshot = Snapshot::default();
        let mut zone = Zone::empty(&config);
        for batch in &batches {
            snapshot = after(&snapshot, batch);
            zone = Zone::compile(&snapshot, Some(&zone), &config);
        }
        let whole = Zone::compile(&snapshot, None, &config);
        prop_assert_eq!(zone.reverse.len(), whole.reverse.len());
        prop_assert_eq!(zone.services.len(), whole.services.len());
        for n in 0..4 {
            for name in [
                format!("s{n}.cluster.internal"),
                format!("s{n}.inst.cluster.internal"),
                format!("_s{n}._tcp.cluster.internal"),
                format!("_s{n}._tcp.inst.cluster.internal"),
                format!("leader.s{n}.cluster.internal"),
                format!("i{n}.s0.inst.cluster.internal"),
                format!("n{n}.node.cluster.internal"),
                format!("{n}.0.0.10.in-addr.arpa"),
            ] {
                prop_assert_eq!(find(&zone, &name), find(&whole, &name), "{}", name);
            }
        }
    }
}
