use std::net::SocketAddr;

use super::*;
use crate::model::{Backend, HostPattern, HttpRule, Origin, PathPattern, Rule, Weight};

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

fn instance(service: &str, id: &str, health: Health) -> Instance {
    Instance {
        service: name(service),
        id: InstanceId::parse(id).unwrap(),
        node: NodeName::parse("n1").unwrap(),
        addr: SocketAddr::from(([127, 0, 0, 1], 8080)),
        weight: Weight::DEFAULT,
        health,
        cause: None,
        phase: Phase::Active,
        origin: Origin::Api,
        since_ms: 0,
        labels: BTreeMap::new(),
    }
}

fn route(text: &str) -> Route {
    let rule = Rule::Http(HttpRule::new(HostPattern::Any, PathPattern::all()));
    Route {
        origin: Origin::Config(NodeName::parse("n1").unwrap()),
        ..Route::new(RouteName::parse(text).unwrap(), rule, vec![Backend::to(name("web"))])
    }
}

fn put<T: serde::Serialize>(key: Key, record: &T) -> Event {
    Event::Put(Kv {
        key: key.to_string(),
        value: encode(record),
        created: Revision(1),
        modified: Revision(1),
        lease: None,
    })
}

fn put_instance(record: &Instance) -> Event {
    put(Key::Instance(record.service.clone(), record.id.clone()), record)
}

fn overrule(scope: &str, word: Word) -> Event {
    let scope: Scope = scope.parse().unwrap();
    let record = Override {
        scope: scope.clone(),
        word,
        reason: "test".into(),
        by: "test".into(),
        since_ms: 0,
        until_ms: None,
    };
    put(Key::Override(scope), &record)
}

fn after(events: &[Event]) -> Snapshot {
    let (snapshot, rejected) = Snapshot::default().apply(events, Revision(7));
    assert_eq!(rejected, []);
    snapshot
}

fn state(snapshot: &Snapshot, service: &str, id: &str) -> State {
    snapshot.service(service).unwrap().members.get(id).unwrap().state
}

#[test]
fn an_override_of_the_narrower_scope_wins() {
    let up = put_instance(&instance("web", "a", Health::Up));
    for (overrides, expected) in [
        (vec![], State::Up),
        (vec![overrule("node/n1", Word::Down)], State::AdminDown),
        (vec![overrule("node/n1", Word::Down), overrule("service/web", Word::Up)], State::Up),
        (
            vec![overrule("service/web", Word::Up), overrule("instance/web/a", Word::Drain)],
            State::Draining,
        ),
        (vec![overrule("service/other", Word::Down)], State::Up),
    ] {
        // Whether the override or the instance came first makes no difference.
        let mut first = overrides.clone();
        first.push(up.clone());
        let mut last = vec![up.clone()];
        last.extend(overrides);
        assert_eq!(state(&after(&first), "web", "a"), expected);
        assert_eq!(state(&after(&last), "web", "a"), expected);
    }
}

#[test]
fn draining_is_not_down_and_no_operator_s_word_ends_it() {
    let mut draining = instance("web", "a", Health::Up);
    draining.phase = Phase::Draining;
    assert_eq!(state(&after(&[put_instance(&draining)]), "web", "a"), State::Draining);
    for word in [Word::Up, Word::Down, Word::Drain] {
        let events = [put_instance(&draining), overrule("service/web", word)];
        assert_eq!(state(&after(&events), "web", "a"), State::Draining, "{word:?}");
    }
}

#[test]
fn a_deleted_override_gives_the_word_back_to_the_checks() {
    let snapshot = after(&[
        put_instance(&instance("web", "a", Health::Down)),
        overrule("service/web", Word::Up),
    ]);
    assert_eq!(state(&snapshot, "web", "a"), State::Up);
    let key = Key::Override("service/web".parse().unwrap()).to_string();
    let (snapshot, _) =
        snapshot.apply(&[Event::Delete { key, revision: Revision(8) }], Revision(8));
    assert_eq!(state(&snapshot, "web", "a"), State::Down);
}

#[test]
fn a_record_that_cannot_be_read_leaves_the_last_good_one() {
    let good = after(&[put_instance(&instance("web", "a", Health::Up))]);
    let bad = |key: &str, value: &'static [u8]| {
        Event::Put(Kv {
            key: key.into(),
            value: value.into(),
            created: Revision(8),
            modified: Revision(8),
            lease: None,
        })
    };
    let (next, rejected) = good.apply(
        &[bad("/portolan/v1/d/i/web/a", b"{\"addr\":1}"), bad("/portolan/v1/d/zz", b"{}")],
        Revision(8),
    );
    assert_eq!(rejected.len(), 2);
    assert_eq!(state(&next, "web", "a"), State::Up);
    assert_eq!(next.revision, Revision(8));
}

#[test]
fn a_record_under_another_s_key_is_refused() {
    let record = instance("web", "a", Health::Up);
    let elsewhere = put(Key::Instance(name("web"), InstanceId::parse("b").unwrap()), &record);
    let (next, rejected) = Snapshot::default().apply(&[elsewhere], Revision(1));
    assert_eq!(rejected.len(), 1);
    assert!(next.service("web").is_none_or(|entry| entry.members.is_empty()));
}

#[test]
fn only_what_changed_is_listed_and_the_rest_is_shared() {
    let before = after(&[
        put_instance(&instance("web", "a", Health::Up)),
        put_instance(&instance("db", "a", Health::Up)),
        put(Key::Route(RouteName::parse("r").unwrap()), &route("r")),
    ]);
    let (next, _) = before.apply(&[put_instance(&instance("web", "a", Health::Down))], Revision(9));
    let changes = next.changes_since(&before);
    assert_eq!(changes.services, [name("web")]);
    assert_eq!(changes.routes, []);
    assert!(Arc::ptr_eq(next.service("db").unwrap(), before.service("db").unwrap()));
}

#[test]
fn a_service_without_record_and_instances_is_gone() {
    let snapshot = after(&[put_instance(&instance("web", "a", Health::Up))]);
    let key = Key::Instance(name("web"), InstanceId::parse("a").unwrap()).to_string();
    let (next, _) = snapshot.apply(&[Event::Delete { key, revision: Revision(8) }], Revision(8));
    assert!(next.service("web").is_none());
    assert_eq!(next.changes_since(&snapshot).services, [name("web")]);
}

#[test]
fn a_whole_reading_deletes_what_is_gone_and_keeps_what_it_cannot_read() {
    let before = after(&[
        put_instance(&instance("web", "a", Health::Up)),
        put_instance(&instance("web", "b", Health::Up)),
        put(Key::Route(RouteName::parse("r").unwrap()), &route("r")),
    ]);
    let mut kvs = before.to_kvs();
    kvs.retain(|kv| !kv.key.ends_with("/b"));
    for kv in kvs.iter_mut().filter(|kv| kv.key.ends_with("/a")) {
        kv.value = b"{".as_slice().into();
    }
    let (next, rejected) = before.caught_up(kvs, Revision(9));
    assert_eq!(rejected.len(), 1);
    assert_eq!(state(&next, "web", "a"), State::Up);
    assert!(!next.service("web").unwrap().members.contains_key("b"));
    assert!(next.route("r").is_some());
    assert_eq!(next.changes_since(&before).routes, []);
}

fn everything() -> Snapshot {
    after(&[
        put(Key::Service(name("web")), &Service::named(name("web"))),
        put_instance(&instance("web", "a", Health::Up)),
        put(Key::Route(RouteName::parse("r").unwrap()), &route("r")),
        overrule("instance/web/a", Word::Drain),
    ])
}

#[test]
fn a_saved_snapshot_is_read_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = SavedFile::at(folder.path().join("saved"));
    assert!(!file.exists());
    let snapshot = everything();
    file.save(&snapshot, "store-1").unwrap();
    let saved = file.load().unwrap();
    assert_eq!(saved.store, "store-1");
    assert!(!saved.is_older && saved.rejected.is_empty());
    assert_eq!(saved.snapshot.revision, snapshot.revision);
    assert_eq!(saved.snapshot.changes_since(&snapshot), Changes::default());
    assert_eq!(state(&saved.snapshot, "web", "a"), State::Draining);
}

#[test]
fn a_damaged_saved_file_gives_way_to_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let file = SavedFile::at(&path);
    file.save(&Snapshot::default(), "s").unwrap();
    file.save(&everything(), "s").unwrap();
    let whole = std::fs::read(&path).unwrap();
    let body = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    for at in 0..whole.len() {
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(file.load().unwrap().is_older, "cut at {at}");
    }
    for at in body..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x20;
        std::fs::write(&path, &flipped).unwrap();
        assert!(file.load().unwrap().is_older, "flipped at {at}");
    }
}

fn pair(name: &str, key: &str) -> CertificatePair {
    CertificatePair::new(name.parse().unwrap(), "chain".into(), key.into(), 0).unwrap()
}

fn put_pair(at: &str, pair: &CertificatePair) -> Event {
    put(Key::Certificate(at.parse().unwrap()), pair)
}

#[test]
fn a_certificate_that_is_refused_leaves_the_last_good_one_also_when_all_is_read_again() {
    let judge = |new: &CertificatePair, _: Option<&CertificatePair>| match new.key_pem() {
        "bad" => Err("it is bad".to_owned()),
        _ => Ok(()),
    };
    let first = after(&[put_pair("web", &pair("web", "good")), put_pair("api", &pair("api", "a"))]);
    for event in [put_pair("web", &pair("web", "bad")), put_pair("web", &pair("api", "good"))] {
        let (next, rejected) =
            first.apply_judged(std::slice::from_ref(&event), Revision(8), &judge);
        assert_eq!(rejected.len(), 1);
        assert_eq!(next.certificate("web"), first.certificate("web"));
        assert_eq!(next.certificates_since(&first), []);
        let Event::Put(kv) = event else { unreachable!() };
        let (next, rejected) = first.caught_up_judged(vec![kv], Revision(9), &judge);
        assert_eq!(rejected.len(), 1);
        assert_eq!(next.certificate("web"), first.certificate("web"));
        assert_eq!(next.certificate("api"), None, "that one is not there any more");
    }
    // What is known is not judged again: it may have expired since.
    let never = |_: &CertificatePair, _: Option<&CertificatePair>| Err("never".to_owned());
    let (same, rejected) =
        first.apply_judged(&[put_pair("web", &pair("web", "good"))], Revision(8), &never);
    assert!(rejected.is_empty() && same.certificates_since(&first).is_empty());
    let gone = Event::Delete { key: "/portolan/v1/d/cert/web".to_owned(), revision: Revision(8) };
    let (next, rejected) = first.apply_judged(&[gone], Revision(8), &never);
    assert_eq!((next.certificate("web"), rejected), (None, vec![]));
    assert_eq!(next.certificates_since(&first).len(), 1);
}

#[test]
fn certificates_are_saved_where_only_the_owner_reads() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = SavedFile::at(dir.path().join("table.saved"));
    let snapshot = after(&[put_pair("web", &pair("web", "key"))]);
    file.save(&snapshot, "store").unwrap();
    let loaded = file.load().unwrap();
    assert_eq!(loaded.snapshot.certificate("web"), snapshot.certificate("web"));
    assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_service_is_reached_at_its_virtual_address_while_it_asks_for_one() {
    let port = std::num::NonZeroU16::new(5432);
    let db = Service {
        protocol: crate::model::Protocol::Tcp,
        virtual_port: port,
        ..Service::named(name("db"))
    };
    let key = Key::Service(db.name.clone());
    let given = VirtualAddress { service: name("db"), address: [127, 64, 3, 7].into() };
    let events = [put(key.clone(), &db), put(Key::Virtual(name("db")), &given)];
    let addr = |snapshot: &Snapshot| snapshot.service("db").and_then(|entry| entry.virtual_addr);
    let (snapshot, rejected) = Snapshot::default().apply(&events, Revision(1));
    assert_eq!(rejected, []);
    assert_eq!(addr(&snapshot), Some("127.64.3.7:5432".parse().unwrap()));
    assert_eq!(snapshot.virtual_addrs().count(), 1);
    let (saved, _) = Snapshot::from_kvs(snapshot.to_kvs(), Revision(1));
    assert_eq!(addr(&saved), addr(&snapshot), "a saved table has it too");
    // Gone, or without a wish: the address is still its own, but leads nowhere.
    let silent = Service { virtual_port: None, ..db.clone() };
    let http = Service { protocol: crate::model::Protocol::Http, ..db.clone() };
    let gone = Event::Delete { key: key.to_string(), revision: Revision(2) };
    for event in [put(key.clone(), &silent), put(key.clone(), &http), gone] {
        let (next, _) = snapshot.apply(&[event], Revision(2));
        assert_eq!((addr(&next), next.virtual_addrs().count()), (None, 0));
        assert_eq!(next.virtuals().count(), 1);
        assert_eq!(next.changes_since(&snapshot).services, [name("db")]);
    }
    let other = VirtualAddress { service: name("other"), ..given };
    let (next, rejected) = snapshot.apply(&[put(Key::Virtual(name("db")), &other)], Revision(2));
    assert_eq!((addr(&next), rejected.len()), (addr(&snapshot), 1));
}
