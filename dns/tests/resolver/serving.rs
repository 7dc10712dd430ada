//! Sockets, connections, limits, and the life of a resolver.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use portolan_dns::{BindError, Dns, Zone};
use prometheus::Registry;
use socket2::{Domain, Socket, Type};

use crate::fake::{Fake, Manner};
use crate::fixture::Fixture;
use crate::live::{Live, PATIENCE, ask, client, code, config, now, receive, wait_until};
use crate::message::{Ask, data, read, text};

#[test]
fn names_are_answered_by_udp_and_tcp_on_every_address() {
    let mut config = config(&[]);
    config.bind =
        ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"].map(|addr| addr.parse().unwrap()).into();
    let live = Live::with(config, &Fixture::parse("service web\nproxy 10.9.9.9"));
    let query = Ask::new("web.cluster.internal", RecordType::A);
    for addr in live.dns.local_addrs() {
        assert_ne!(addr.port(), 0);
        assert_eq!(data(&ask(*addr, &query)), ["10.9.9.9"], "{addr}");
        let stream = TcpStream::connect(addr).unwrap();
        let mut connection = crate::live::Connection { stream };
        assert_eq!(data(&connection.ask(&query)), ["10.9.9.9"], "{addr}");
    }
    assert_eq!(live.metric("portolan_dns_queries_total", &[("source", "zone")]), 6);
    live.stop();
}

#[test]
fn the_aaaa_of_a_name_without_one_is_empty_and_proven() {
    // musl takes NXDOMAIN for the whole name, so this has to be right on the wire.
    let live = Live::with(config(&[]), &Fixture::parse("instance web a 10.0.0.1:80"));
    for name in ["web.cluster.internal", "web.inst.cluster.internal"] {
        let reply = ask(live.addr, &Ask::new(name, RecordType::AAAA));
        assert_eq!((code(&reply), reply.answers.len()), (0, 0), "{name}");
        let [soa] = &reply.authorities[..] else { panic!("{reply:?}") };
        assert!(text(soa).starts_with("cluster.internal. 5 SOA ns.dns.cluster.internal. "));
    }
    live.stop();
}

#[test]
fn a_published_zone_is_served_at_once_and_no_query_is_lost() {
    let mut fixture = Fixture::parse("instance web a 10.0.0.1:80");
    let live = Live::with(config(&[]), &fixture);
    let socket = client(live.addr);
    for n in 0..100_u8 {
        fixture.add(&format!("instance web a 10.0.1.{n}:80"));
        let previous = live.dns.zone();
        live.dns.publish(Zone::compile(&fixture.snapshot, Some(&previous), &fixture.config));
        let query = Ask::new("web.inst.cluster.internal", RecordType::A).with_id(n.into());
        socket.send(&query.bytes()).unwrap();
        let reply = read(&receive(&socket));
        assert_eq!((reply.metadata.id, data(&reply)), (n.into(), vec![format!("10.0.1.{n}")]));
    }
    let revision = i64::try_from(fixture.snapshot.revision.0).unwrap();
    assert_eq!(live.metric("portolan_dns_zone_revision", &[]), revision);
    assert_eq!(live.dns.zone().revision(), fixture.snapshot.revision);
    live.stop();
}

#[test]
fn a_burst_is_answered_whole() {
    let live = Live::start(&[]);
    let socket = client(live.addr);
    // Fewer than a receive buffer of the default size holds.
    for id in 0..100 {
        let query = Ask::new("web.cluster.internal", RecordType::A).with_id(id);
        socket.send(&query.bytes()).unwrap();
    }
    let ids: BTreeSet<u16> = (0..100).map(|_| read(&receive(&socket)).metadata.id).collect();
    assert_eq!(ids.len(), 100);
    live.stop();
}

#[test]
fn junk_is_counted_and_costs_nobody_else() {
    let live = Live::start(&[]);
    let socket = client(live.addr);
    for junk in [&b""[..], b"x", &[0xff; 11], &[0xff; 4096], &[0x80; 12]] {
        socket.send(junk).unwrap();
    }
    socket.send(&[&[0, 7][..], &[0; 40]].concat()).unwrap();
    assert_eq!(receive(&socket)[..4], [0, 7, 0x80, 0x81]);
    assert_eq!(data(&live.ask("web.cluster.internal")), ["127.0.0.1"]);
    let unserved = |reason| live.metric("portolan_dns_unserved_total", &[("reason", reason)]);
    assert_eq!((unserved("short"), unserved("response")), (3, 2));
    live.stop();
}

#[test]
fn a_stranger_is_refused_by_udp_and_tcp() {
    let mut config = config(&[]);
    config.allow = vec!["10.0.0.0/8".parse().unwrap()];
    let live = Live::with(config, &Fixture::parse("service web"));
    let query = Ask::new("web.cluster.internal", RecordType::A);
    assert_eq!(code(&ask(live.addr, &query)), 5);
    assert_eq!(code(&live.connect().ask(&query)), 5);
    assert_eq!(live.metric("portolan_dns_unserved_total", &[("reason", "network")]), 2);
    live.stop();
}

#[test]
fn queries_on_one_connection_are_answered_as_they_are_ready() {
    let fake = Fake::start(Manner::Slow(Duration::from_millis(25)));
    let live = Live::start(&[fake.addr]);
    let mut connection = live.connect();
    let name = |id| {
        let name = if id == 0 { "slow.example.org" } else { "web.cluster.internal" };
        Ask::new(name, RecordType::A).with_id(id)
    };
    connection.send(&(0..50).map(name).collect::<Vec<_>>());
    let ids: Vec<u16> = (0..50).map(|_| connection.receive().unwrap().metadata.id).collect();
    // The one that had to be forwarded was asked first and is answered last.
    assert_eq!(ids[49], 0);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 50);
    // The connection goes on, also when a query comes a byte at a time.
    let query = name(7).bytes();
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    for byte in length.iter().chain(&query) {
        connection.stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(connection.receive().unwrap().metadata.id, 7);
    live.stop();
}

#[test]
fn more_queries_than_may_be_under_way_wait_their_turn() {
    let fake = Fake::start(Manner::Slow(Duration::from_millis(10)));
    let mut config = config(&[fake.addr]);
    config.limits.tcp_pipeline_max = 2;
    let live = Live::with(config, &Fixture::default());
    let mut connection = live.connect();
    let asks: Vec<Ask> = (0..12)
        .map(|id| Ask::new(&format!("n{id}.example.org"), RecordType::A).with_id(id))
        .collect();
    connection.send(&asks);
    let ids: BTreeSet<u16> = (0..12).map(|_| connection.receive().unwrap().metadata.id).collect();
    assert_eq!(ids.len(), 12);
    live.stop();
}

#[test]
fn a_client_that_has_said_all_still_gets_its_replies() {
    let fake = Fake::start(Manner::Slow(Duration::from_millis(25)));
    let live = Live::start(&[fake.addr]);
    let mut connection = live.connect();
    connection.send(&[Ask::new("www.example.org", RecordType::A)]);
    connection.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(data(&connection.receive().unwrap()), ["192.0.2.1"]);
    assert_eq!(connection.receive().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    live.stop();
}

#[test]
fn a_connection_that_does_nothing_is_closed() {
    let mut config = config(&[]);
    config.limits.tcp_idle_timeout = Duration::from_millis(200);
    let live = Live::with(config, &Fixture::default());
    let mut idle = live.connect();
    // Half a length is not a query either.
    idle.stream.write_all(&[0]).unwrap();
    let start = now();
    let mut buffer = [0; 1];
    assert_eq!(idle.stream.read(&mut buffer).unwrap(), 0);
    assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
    wait_until("no connection", || live.metric("portolan_dns_tcp_connections", &[]) == 0);
    live.stop();
}

#[test]
fn one_client_cannot_take_every_connection() {
    let mut config = config(&[]);
    config.limits.tcp_connections_per_client_max = 2;
    let live = Live::with(config, &Fixture::parse("service web"));
    let query = Ask::new("web.cluster.internal", RecordType::A);
    let mut open: Vec<_> = (0..2).map(|_| live.connect()).collect();
    for connection in &mut open {
        assert_eq!(code(&connection.ask(&query)), 0);
    }
    let mut third = live.connect();
    // A reset or an end: it is not served.
    assert!(!matches!(third.stream.read(&mut [0]), Ok(1..)));
    assert_eq!(live.metric("portolan_dns_unserved_total", &[("reason", "busy")]), 1);
    drop(open);
    wait_until("a free place", || {
        let mut connection = live.connect();
        connection.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        connection.send(std::slice::from_ref(&query));
        connection.receive().is_ok()
    });
    live.stop();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let query = |addr| {
        let mut config = config(&[]);
        config.bind = vec![addr];
        Dns::bind(config, &Registry::new()).unwrap_err()
    };
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = query(udp.local_addr().unwrap());
    let expected = format!("cannot listen on {} by UDP: ", udp.local_addr().unwrap());
    assert!(error.to_string().starts_with(&expected), "{error}");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = query(tcp.local_addr().unwrap());
    let expected = format!("cannot listen on {} by TCP: ", tcp.local_addr().unwrap());
    assert!(error.to_string().starts_with(&expected), "{error}");
    // With a process that shares its port, each of the two would get half of the queries.
    let shared = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    shared.set_reuse_port(true).unwrap();
    shared.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let addr = shared.local_addr().unwrap().as_socket().unwrap();
    let error = query(addr);
    let expected = format!("cannot listen on {addr} by UDP: ");
    assert!(error.to_string().starts_with(&expected), "{error}");
    // So would another resolver.
    let live = Live::start(&[]);
    assert!(matches!(query(live.addr), BindError::Address { addr, .. } if addr == live.addr));
    live.stop();
}

#[test]
fn after_a_stop_the_port_is_free_and_a_new_resolver_can_have_it() {
    let live = Live::start(&[]);
    let addr = live.addr;
    assert_eq!(code(&live.ask("web.cluster.internal")), 0);
    let connection = live.connect();
    let start = now();
    live.stop();
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    let mut config = config(&[]);
    config.bind = vec![addr];
    let live = Live::with(config, &Fixture::parse("service web"));
    assert_eq!(code(&live.ask("web.cluster.internal")), 0);
    drop(connection);
    live.stop();
}

#[test]
fn metrics_twice_on_one_page_are_an_error() {
    let registry = Registry::new();
    let _bound = Dns::bind(config(&[]), &registry).unwrap();
    let error = Dns::bind(config(&[]), &registry).unwrap_err();
    assert!(matches!(error, BindError::Metrics { .. }), "{error}");
}

#[test]
fn a_hand_over_loses_no_query_and_the_next_resolver_goes_on_with_the_same_sockets() {
    let fake = Fake::start(Manner::Slow(Duration::from_millis(300)));
    let fixture = Fixture::parse("instance web a 10.0.0.1:80");
    let first = Live::with(config(&[fake.addr]), &fixture);
    let addr = first.addr;
    let mut kept = first.connect();
    assert_eq!(data(&kept.ask(&Ask::new("web.inst.cluster.internal", RecordType::A))).len(), 1);
    let waiting = client(addr);
    waiting.send(&Ask::new("slow.example.org", RecordType::A).bytes()).unwrap();
    let mut sockets = first.dns.sockets().unwrap();
    let registry = Registry::new();
    let mut config = config(&[fake.addr]);
    // Fewer threads than sockets, none of which may be closed.
    config.workers = std::num::NonZeroUsize::MIN;
    let bound = Dns::bind_with(config, &registry, |bind| {
        let at = sockets.iter().position(|sockets| sockets.bind == bind).unwrap();
        let portolan_dns::AddressSockets { udp, tcp, .. } = sockets.remove(at);
        portolan_dns::Inherited { udp, tcp: Some(tcp) }
    });
    let second = bound.unwrap().start(fixture.zone()).unwrap();
    assert_eq!(second.local_addrs(), [addr]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = std::thread::spawn(move || runtime.block_on(first.dns.hand_over()));
    let query = Ask::new("web.inst.cluster.internal", RecordType::A);
    let until = now() + Duration::from_millis(1500);
    while now() < until {
        // A socket of its own for each, so that the kernel spreads them over all of ours.
        assert_eq!(data(&ask(addr, &query)), ["10.0.0.1"]);
    }
    let answered = read(&receive(&waiting));
    assert_eq!(code(&answered), 0, "who waited for an upstream has its answer");
    assert_eq!(data(&kept.ask(&query)).len(), 1, "a connection that was open is still served");
    drop(kept);
    ended.join().unwrap();
    for _ in 0..50 {
        assert_eq!(data(&ask(addr, &query)), ["10.0.0.1"]);
    }
}
