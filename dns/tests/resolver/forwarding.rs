//! What is asked of upstreams, how often, and what of it reaches the client.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use portolan_dns::{ProbeError, Upstreams, probe_upstream};

use crate::fake::{Fake, Manner};
use crate::fixture::Fixture;
use crate::live::{Live, ask, client, code, config, now, receive, wait_until};
use crate::message::{Ask, data, read};

#[test]
fn a_cached_answer_is_not_asked_for_again() {
    let fake = Fake::start(Manner::Answer);
    let live = Live::start(&[fake.addr]);
    for spelling in ["www.example.org", "WWW.Example.org", "www.example.ORG"] {
        let reply = live.ask(spelling);
        assert_eq!(data(&reply), ["192.0.2.1"]);
        assert!(!reply.metadata.authoritative && !reply.metadata.authentic_data);
    }
    assert_eq!(fake.asked().len(), 1);
    // Another type is another question.
    ask(live.addr, &Ask::new("www.example.org", RecordType::NS));
    assert_eq!(fake.asked().len(), 2);
    assert_eq!(live.metric("portolan_dns_cache_hits_total", &[]), 2);
    assert_eq!(live.metric("portolan_dns_cache_entries", &[]), 2);
    let of = |source| live.metric("portolan_dns_queries_total", &[("source", source)]);
    assert_eq!((of("upstream"), of("cache")), (2, 2));
    live.stop();
}

#[test]
fn a_cached_denial_is_not_asked_for_again_and_has_its_proof() {
    let fake = Fake::start(Manner::Answer);
    let live = Live::start(&[fake.addr]);
    for (name, expected) in [("nx.example.org", 3), ("nodata.example.org", 0)] {
        for _ in 0..3 {
            let reply = live.ask(name);
            assert_eq!((code(&reply), reply.answers.len()), (expected, 0), "{name}");
            let [soa] = &reply.authorities[..] else { panic!("{name}: {reply:?}") };
            // The smaller of the SOA's TTL (60) and its minimum (30).
            assert!(soa.ttl <= 30 && soa.ttl > 20, "{name}: {}", soa.ttl);
        }
        assert_eq!(fake.count(name), 1);
    }
    live.stop();
}

#[test]
fn a_failure_is_not_cached() {
    let fake = Fake::start(Manner::Code(2));
    let live = Live::start(&[fake.addr]);
    assert_eq!(code(&live.ask("www.example.org")), 2);
    fake.set(Manner::Answer);
    assert_eq!(code(&live.ask("www.example.org")), 0);
    live.stop();
}

#[test]
fn identical_questions_at_the_same_time_are_asked_once() {
    let fake = Fake::start(Manner::Slow(Duration::from_millis(25)));
    let live = Live::start(&[fake.addr]);
    let clients: Vec<_> = (0..10).map(|_| client(live.addr)).collect();
    for (id, socket) in (0..).zip(&clients) {
        // Each with a case of its own: that is the same question still.
        let name = if id % 2 == 0 { "same.example.org" } else { "SAME.example.org" };
        socket.send(&Ask::new(name, RecordType::A).with_id(id).bytes()).unwrap();
    }
    for (id, socket) in (0..).zip(&clients) {
        let reply = read(&receive(socket));
        assert_eq!((reply.metadata.id, data(&reply)), (id, vec!["192.0.2.1".to_owned()]));
        let name = reply.queries[0].name().to_string();
        assert_eq!(name.starts_with("same"), id % 2 == 0, "{name}");
    }
    assert_eq!(fake.asked().len(), 1);
    assert_eq!(live.metric("portolan_dns_coalesced_total", &[]), 9);
    live.stop();
}

#[test]
fn forged_replies_are_passed_over() {
    let fake = Fake::start(Manner::Forged);
    let live = Live::start(&[fake.addr]);
    assert_eq!(data(&live.ask("www.example.org")), ["192.0.2.1"]);
    let foreign = live.metric("portolan_dns_upstream_failures_total", &[("reason", "foreign")]);
    assert_eq!(foreign, 3);
    live.stop();
}

#[test]
fn the_client_s_spelling_comes_back_whatever_the_upstream_makes_of_it() {
    let fake = Fake::start(Manner::Lower);
    let live = Live::start(&[fake.addr]);
    // `ask` compares the question letter by letter.
    let reply = live.ask("wWw.ExAmPlE.oRg");
    assert_eq!(reply.answers[0].name.to_string(), "wWw.ExAmPlE.oRg.");
    live.stop();
}

#[test]
fn a_cut_reply_is_asked_for_again_by_tcp() {
    let fake = Fake::start(Manner::Cut);
    let live = Live::start(&[fake.addr]);
    assert_eq!(data(&live.ask("www.example.org")), ["192.0.2.1"]);
    assert_eq!(fake.count("www.example.org"), 2);
    live.stop();
}

#[test]
fn an_upstream_without_edns_is_asked_again_without_it_and_then_at_once() {
    let fake = Fake::start(Manner::NoEdns);
    let live = Live::start(&[fake.addr]);
    let with_edns = |name| ask(live.addr, &Ask::new(name, RecordType::A).with_edns(1232));
    let reply = with_edns("one.example.org");
    assert!(reply.edns.is_some());
    assert_eq!((data(&reply), fake.count("one.example.org")), (vec!["192.0.2.1".to_owned()], 2));
    with_edns("two.example.org");
    assert_eq!(fake.count("two.example.org"), 1);
    live.stop();
}

#[test]
fn a_reply_that_is_too_large_for_the_client_is_cut_and_whole_by_tcp() {
    let fake = Fake::start(Manner::Answer);
    let live = Live::start(&[fake.addr]);
    let plain = Ask::new("many.example.org", RecordType::A);
    let small = ask(live.addr, &plain);
    assert!(small.metadata.truncation && small.answers.is_empty());
    let large = ask(live.addr, &plain.clone().with_edns(1232));
    assert_eq!((large.metadata.truncation, large.answers.len()), (false, 60));
    let by_tcp = live.connect().ask(&plain);
    assert_eq!((by_tcp.metadata.truncation, by_tcp.answers.len()), (false, 60));
    assert_eq!(fake.count("many.example.org"), 1);
    live.stop();
}

#[test]
fn an_unknown_type_reaches_the_client_byte_for_byte() {
    let fake = Fake::start(Manner::Answer);
    let live = Live::start(&[fake.addr]);
    let mut strange = Ask::new("strange.example.org", RecordType::A);
    strange.qtype = 65_280;
    for _ in 0..2 {
        let socket = client(live.addr);
        socket.send(&strange.bytes()).unwrap();
        let reply = receive(&socket);
        let rdata: Vec<u8> = (0..=255).collect();
        assert!(reply.ends_with(&rdata), "{}", reply.escape_ascii());
    }
    assert_eq!(fake.asked().len(), 1);
    live.stop();
}

#[test]
fn names_of_the_zone_never_leave_the_house() {
    let fake = Fake::start(Manner::Answer);
    let live = Live::start(&[fake.addr]);
    for name in ["web.cluster.internal", "no.cluster.internal", "x.y.z.CLUSTER.internal"] {
        for rtype in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::ANY] {
            ask(live.addr, &Ask::new(name, rtype));
        }
    }
    assert_eq!(fake.asked(), Vec::<String>::new());
    live.stop();
}

fn write(path: &Path, upstreams: &[SocketAddr]) {
    let lines =
        upstreams.iter().map(|addr| format!("nameserver [{}]:{}\n", addr.ip(), addr.port()));
    std::fs::write(path, lines.collect::<String>()).unwrap();
}

/// Asks for fresh names until `fake` is asked.
fn wait_for(live: &Live, fake: &Fake, what: &str) {
    let mut n = 0;
    wait_until(what, || {
        n += 1;
        let name = format!("{}-{n}.example.org", what.replace(' ', "-"));
        assert_eq!(code(&live.ask(&name)), 0);
        fake.count(&name) > 0
    });
}

#[test]
fn a_change_of_resolv_conf_is_followed_and_an_empty_one_is_not() {
    let (first, second) = (Fake::start(Manner::Answer), Fake::start(Manner::Answer));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    write(&path, &[first.addr]);
    let mut config = config(&[]);
    config.upstreams = Upstreams::ResolvConf(path.clone());
    let live = Live::with(config, &Fixture::default());
    live.ask("before.example.org");
    assert_eq!(first.count("before.example.org"), 1);

    write(&path, &[second.addr]);
    wait_for(&live, &second, "the second");
    std::fs::write(&path, "# nothing\n").unwrap();
    // Longer than from one look at the file to the next.
    let start = now();
    while start.elapsed() < Duration::from_millis(1300) {
        assert_eq!(code(&live.ask(&format!("{:?}.example.org", start.elapsed()))), 0);
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::remove_file(&path).unwrap();
    // Put in its place by a rename, as NetworkManager does.
    let aside = folder.path().join("aside");
    write(&aside, &[first.addr]);
    std::fs::rename(&aside, &path).unwrap();
    wait_for(&live, &first, "the first again");
    assert_eq!(live.metric("portolan_dns_upstreams", &[]), 1);
    live.stop();
}

#[test]
fn a_resolv_conf_that_appears_later_is_read_then() {
    let fake = Fake::start(Manner::Answer);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let mut config = config(&[]);
    config.upstreams = Upstreams::ResolvConf(path.clone());
    let live = Live::with(config, &Fixture::parse("service web"));
    assert_eq!(code(&live.ask("www.example.org")), 2);
    assert_eq!(code(&live.ask("web.cluster.internal")), 0);
    write(&path, &[fake.addr]);
    wait_until("an answer", || code(&live.ask("www.example.org")) == 0);
    live.stop();
}

#[test]
fn the_resolver_does_not_ask_itself() {
    let fake = Fake::start(Manner::Answer);
    // The port is known only after binding, so it is written into the file.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let mut config = config(&[]);
    config.upstreams = Upstreams::ResolvConf(path.clone());
    let registry = prometheus::Registry::new();
    let bound = portolan_dns::Dns::bind(config, &registry).unwrap();
    let addr = bound.local_addrs()[0];
    write(&path, &[addr]);
    let dns = bound.start(Fixture::default().zone()).unwrap();
    let live = Live { dns, addr, registry };
    let start = now();
    assert_eq!(code(&live.ask("www.example.org")), 2);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // One query came in, and it was the client's.
    assert_eq!(live.metric("portolan_dns_queries_total", &[]), 1);
    write(&path, &[addr, fake.addr]);
    wait_until("the other one", || code(&live.ask("www.example.org")) == 0);
    live.stop();
}

#[test]
fn who_waits_when_too_many_do_is_told_at_once() {
    let fake = Fake::start(Manner::Silent);
    let mut config = config(&[fake.addr]);
    config.limits.waiting_max = 3;
    let live = Live::with(config, &Fixture::default());
    let waiting: Vec<_> = (0..3)
        .map(|n| {
            let socket = client(live.addr);
            let name = format!("waits-{n}.example.org");
            socket.send(&Ask::new(&name, RecordType::A).bytes()).unwrap();
            socket
        })
        .collect();
    wait_until("three questions", || fake.asked().len() >= 3);
    let start = now();
    assert_eq!(code(&live.ask("one-more.example.org")), 2);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(live.metric("portolan_dns_unserved_total", &[("reason", "busy")]), 1);
    // A stop leaves nobody without an answer.
    live.stop();
    for socket in &waiting {
        assert_eq!(code(&read(&receive(socket))), 2);
    }
}

#[test]
fn a_probe_says_whether_an_upstream_is_there() {
    for manner in [Manner::Answer, Manner::Code(5), Manner::NoEdns, Manner::Cut, Manner::Broken] {
        let fake = Fake::start(manner);
        let took = probe_upstream(fake.addr, Duration::from_secs(5)).unwrap();
        assert!(took < Duration::from_secs(5), "{manner:?}");
    }
    let silent = Fake::start(Manner::Silent);
    let error = probe_upstream(silent.addr, Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, ProbeError::Timeout { .. }), "{error}");
    assert_eq!(error.to_string(), format!("{} did not answer within 100ms", silent.addr));
    let absent = Fake::start(Manner::Answer).addr;
    let error = probe_upstream(absent, Duration::from_secs(5)).unwrap_err();
    assert!(matches!(error, ProbeError::Io { .. }), "{error}");
}
