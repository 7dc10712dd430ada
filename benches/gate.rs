//! Instruction counts of the hot paths under callgrind. `benches/gate` runs it and holds the
//! counts against `benches/gate.toml`.
//!
//! What a case needs is made before its count begins and freed after it ends: a case gives back
//! what it was given. How long things take is for the criterion benches of the crates.
//!
//! What a hash table costs depends on where the seed puts the names. The tables of the router and
//! the resolver have random seeds, so their cases stand for the mean of many names and tables: a
//! thousand look-ups in one table of ten hosts differ by 6 % from run to run, in 200 tables by
//! 0.2 %. No case differs by 1 %.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]
#![expect(missing_docs, reason = "the macros of the bench make public items")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind, main};
use portolan::scheduler::{ClusterView, Group, Job, Plan, Standing, Want, plan};
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{
    Backend, Event, Health, HttpRule, Instance, InstanceId, JobSpec, Key, Kv, ListenerName, Node,
    NodeName, Origin, Phase, Placement, PortRange, Resources, Revision, Route, RouteName, Rule,
    Service, ServiceName, Wanted, Weight,
};
use portolan_discovery::snapshot::Snapshot;
use portolan_dns::{Cache, Client, Decision, View, Zone, ZoneConfig, answer};
use portolan_router::h1::{
    BodyFraming, BodyState, Deliver, Forward, HeadScratch, Limits, RequestFacts, Rewrite, Scheme,
    parse_request, parse_response,
};
use portolan_router::metrics::Metrics;
use portolan_router::{Ask, Compiled, Reader, RequestView, Table, TableCell};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How far a count may lie above its baseline: 3 %.
const LIMIT_PER_MILLE: u64 = 1_030;
const BASELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gate.toml");

/// The limit of the case `name`. While the table is being renewed there is none.
fn limit(name: &str) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["--cache-sim=no"]);
    if std::env::var_os("GATE_RENEW").is_none() {
        let text = std::fs::read_to_string(BASELINES).unwrap();
        let baselines: BTreeMap<String, u64> = toml::from_str(&text).unwrap();
        let Some(baseline) = baselines.get(name) else {
            panic!("{name} has no baseline: benches/gate --renew");
        };
        let most = baseline * LIMIT_PER_MILLE / 1_000;
        callgrind.hard_limits([(EventKind::Ir, most)]);
    }
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

/// Names are asked for in one mixed order, so that no two of a table follow each other.
fn mixed(count: usize) -> std::vec::IntoIter<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    order.into_iter()
}

// The records of a cluster.

const INSTANCES: usize = 3;
const SERVICES_MAX: usize = 1_000;
const PATHS: [&str; 3] = ["/", "/api", "/api/v1"];

fn put(key: Key, value: bytes::Bytes) -> Event {
    let (created, modified) = (Revision(1), Revision(1));
    Event::Put(Kv { key: key.to_string(), value, created, modified, lease: None })
}

fn put_instance(service: usize, id: usize, health: Health) -> Event {
    let octet = |value: usize| u8::try_from(value % 250).unwrap();
    let addr = Ipv4Addr::new(10, octet(service / 250), octet(service), octet(id));
    let record = Instance {
        service: service_name(service),
        id: InstanceId::parse(&format!("i{id}")).unwrap(),
        node: NodeName::parse("n1").unwrap(),
        addr: SocketAddr::from((addr, 80)),
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

fn put_route(name: &str, host: &str, path: &str, service: usize) -> Event {
    let rule = Rule::Http(HttpRule::new(host.parse().unwrap(), path.parse().unwrap()));
    let backends = vec![Backend::to(service_name(service))];
    let record = Route::new(RouteName::parse(name).unwrap(), rule, backends);
    put(Key::Route(record.name.clone()), encode(&record))
}

fn service_name(service: usize) -> ServiceName {
    ServiceName::parse(&format!("s{service}")).unwrap()
}

fn host_name(host: usize) -> String {
    format!("shop-{host}.customers.example.org")
}

fn put_services(numbers: Range<usize>) -> Vec<Event> {
    let mut events = Vec::new();
    for service in numbers {
        let record = Service::named(service_name(service));
        events.push(put(Key::Service(record.name.clone()), encode(&record)));
        events.extend((0..INSTANCES).map(|id| put_instance(service, id, Health::Up)));
    }
    events
}

fn learn(snapshot: &Snapshot, events: &[Event]) -> Snapshot {
    let (snapshot, rejected) = snapshot.apply(events, snapshot.revision.next());
    assert!(rejected.is_empty(), "{rejected:?}");
    snapshot
}

// The route table.

/// `hosts` hosts with `paths`, over at most a thousand services, all numbered from `first`.
fn routed(first: usize, hosts: usize, paths: &[&str]) -> (Snapshot, Table, Arc<Metrics>) {
    let services = SERVICES_MAX.min(hosts);
    let mut events = put_services(first..first + services);
    for host in first..first + hosts {
        for (number, path) in paths.iter().enumerate() {
            let service = first + (host * 7 + number) % services;
            events.push(put_route(&format!("r{host}-{number}"), &host_name(host), path, service));
        }
    }
    let snapshot = learn(&Snapshot::default(), &events);
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let table = Table::compile(&snapshot, None, &metrics).table;
    (snapshot, table, metrics)
}

/// Requests to one table.
struct Requests {
    reader: Reader,
    hosts: Vec<String>,
    _metrics: Arc<Metrics>,
}

struct Routing {
    tables: Vec<Requests>,
    listener: ListenerName,
    random: fastrand::Rng,
}

const REQUESTS: usize = 2_000;
/// Routes of the large table.
const ROUTES: usize = 100_000;

/// Every table has other hosts and services.
fn requests(hosts: usize, tables: usize) -> Routing {
    let table = |number: usize| {
        let first = number * hosts;
        let (_, table, metrics) = routed(first, hosts, &PATHS);
        let asked = mixed(hosts).cycle().take(REQUESTS / tables);
        Requests {
            reader: TableCell::new(table.into(), &metrics).reader(),
            hosts: asked.map(|host| host_name(first + host)).collect(),
            _metrics: metrics,
        }
    };
    Routing {
        tables: (0..tables).map(table).collect(),
        listener: ListenerName::parse("main").unwrap(),
        random: fastrand::Rng::with_seed(1),
    }
}

#[library_benchmark]
#[bench::hosts_10(args = (10, 200), setup = requests, config = limit("route_pick.hosts_10"))]
#[bench::routes_100000(
    args = (ROUTES.div_ceil(PATHS.len()), 1), setup = requests, config = limit("route_pick.routes_100000")
)]
fn route_pick(mut given: Routing) -> Routing {
    for requests in &mut given.tables {
        for host in &requests.hosts {
            let table = requests.reader.table();
            let found =
                table.find(&RequestView::get(&given.listener, host, "/api/v1/orders/17")).unwrap();
            drop(black_box(found.pick(table, &Ask::first(given.random.u64(..))).unwrap()));
        }
    }
    given
}

struct Changes {
    before: Table,
    after: Vec<Snapshot>,
    compiled: Vec<Compiled>,
    metrics: Arc<Metrics>,
}

const CHANGES: usize = 400;

/// 100,000 routes, and as many times one more record.
fn changes(event: fn(usize) -> Event) -> Changes {
    let (snapshot, before, metrics) = routed(0, ROUTES, &PATHS[..1]);
    let after = (0..CHANGES).map(|number| learn(&snapshot, &[event(number)])).collect();
    Changes { before, after, compiled: Vec::with_capacity(CHANGES), metrics }
}

fn down(number: usize) -> Event {
    put_instance(number, 1, Health::Down)
}

fn new_host(number: usize) -> Event {
    put_route(&format!("new{number}"), &format!("new-{number}.example.org"), "/", number)
}

#[library_benchmark]
#[bench::health(args = (down,), setup = changes, config = limit("compile_change.health"))]
#[bench::new_host(args = (new_host,), setup = changes, config = limit("compile_change.new_host"))]
fn compile_change(mut given: Changes) -> Changes {
    for after in &given.after {
        given.compiled.push(Table::compile(after, Some(&given.before), &given.metrics));
    }
    given
}

struct Whole {
    snapshot: Snapshot,
    metrics: Arc<Metrics>,
    compiled: Option<Compiled>,
}

/// 10,000 services with three instances each, and a route to each.
fn whole() -> Whole {
    const SERVICES: usize = 10_000;
    let mut events = put_services(0..SERVICES);
    let route = |number| put_route(&format!("r{number}"), &host_name(number), "/", number);
    events.extend((0..SERVICES).map(route));
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    Whole { snapshot: learn(&Snapshot::default(), &events), metrics, compiled: None }
}

#[library_benchmark]
#[bench::services_10000(args = (), setup = whole, config = limit("compile_all.services_10000"))]
fn compile_all(mut given: Whole) -> Whole {
    given.compiled = Some(Table::compile(&given.snapshot, None, &given.metrics));
    given
}

// The codec.

const REQUEST: &[u8] = b"GET /shop/items/4711?page=2 HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\n\
    Upgrade-Insecure-Requests: 1\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: example\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 1024\r\n\
    Connection: keep-alive\r\n\
    ETag: \"5f3c-1a2b3c4d\"\r\n\
    Cache-Control: max-age=60\r\n\r\n";
const FORWARD: Forward<'_> = Forward {
    peer: "127.0.0.9",
    peer_trusted: false,
    scheme: Scheme::Http,
    port: 8080,
    request_id: b"0123456789abcdef0123456789abcdef",
    request_start_ms: None,
    authority_fallback: "127.0.0.1:8080",
    via: b"Via: 1.1 portolan-0123456789ab\r\n",
    client_lines: b"",
    rewrite: Rewrite::NONE,
};

struct Codec {
    scratch: HeadScratch,
    out: Vec<u8>,
    facts: RequestFacts,
}

/// Both messages have gone through once: what is found out about the processor is known then.
fn codec() -> Codec {
    let mut scratch = HeadScratch::new();
    let request = parse_request(REQUEST, &mut scratch, &Limits::DEFAULT).unwrap().unwrap();
    let facts = request.facts();
    answered(asked(Codec { scratch, out: Vec::with_capacity(4096), facts }))
}

#[inline(always)]
fn asked(mut given: Codec) -> Codec {
    given.out.clear();
    let request = parse_request(black_box(REQUEST), &mut given.scratch, &Limits::DEFAULT);
    request.unwrap().unwrap().write_upstream(black_box(&FORWARD), &mut given.out);
    given
}

#[inline(always)]
fn answered(mut given: Codec) -> Codec {
    given.out.clear();
    let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    let deliver = Deliver {
        request: given.facts,
        keep_alive: true,
        date,
        request_id: None,
        via: FORWARD.via,
        line: b"",
    };
    let response =
        parse_response(black_box(RESPONSE), &mut given.scratch, &given.facts, &Limits::DEFAULT);
    response.unwrap().unwrap().write_client(black_box(&deliver), &mut given.out).unwrap();
    given
}

#[library_benchmark]
#[bench::browser(args = (), setup = codec, config = limit("h1_request.browser"))]
fn h1_request(given: Codec) -> Codec {
    asked(given)
}

#[library_benchmark]
#[bench::small(args = (), setup = codec, config = limit("h1_response.small"))]
fn h1_response(given: Codec) -> Codec {
    answered(given)
}

/// 16 chunks of 1 KiB.
fn chunks() -> Vec<u8> {
    let chunk = [b"400\r\n".as_slice(), &[b'x'; 1024], b"\r\n"].concat();
    let body = [chunk.repeat(16).as_slice(), b"0\r\n\r\n"].concat();
    h1_chunked_once(&body);
    body
}

#[inline(always)]
fn h1_chunked_once(body: &[u8]) {
    let mut state = BodyState::response(BodyFraming::Chunked, &Limits::DEFAULT);
    assert!(state.feed(black_box(body)).unwrap().done);
}

#[library_benchmark]
#[bench::kib_16(args = (), setup = chunks, config = limit("h1_chunked.kib_16"))]
fn h1_chunked(body: Vec<u8>) -> Vec<u8> {
    h1_chunked_once(&body);
    body
}

// The resolver.

const NAMES: usize = 1_000;

struct Queries {
    zone: Zone,
    cache: Cache,
    queries: Vec<Vec<u8>>,
    random: fastrand::Rng,
    out: Vec<u8>,
}

/// One query for the A record of `PREFIX<n>SUFFIX` for each of a thousand services.
fn queries(prefix: &str, suffix: &str) -> Queries {
    let query = |service: usize| {
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in format!("{prefix}{service}{suffix}").split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 0, 1, 0, 1]);
        query
    };
    let snapshot = learn(&Snapshot::default(), &put_services(0..NAMES));
    Queries {
        zone: Zone::compile(&snapshot, None, &ZoneConfig::default()),
        cache: Cache::unobserved(32 << 20),
        queries: mixed(NAMES).map(query).collect(),
        random: fastrand::Rng::with_seed(1),
        out: Vec::with_capacity(1232),
    }
}

#[library_benchmark]
#[bench::service(
    args = ("s", ".cluster.internal"), setup = queries, config = limit("dns_answer.service")
)]
#[bench::instances(
    args = ("s", ".inst.cluster.internal"), setup = queries, config = limit("dns_answer.instances")
)]
#[bench::nxdomain(
    args = ("x", ".cluster.internal"), setup = queries, config = limit("dns_answer.nxdomain")
)]
fn dns_answer(mut given: Queries) -> Queries {
    let view = View { zone: &given.zone, cache: &given.cache, now: Duration::ZERO };
    let client = Client { by_tcp: false, allowed: true };
    for query in &given.queries {
        let decision = answer(query, client, &view, &mut given.random, &mut given.out);
        assert!(matches!(black_box(decision), Decision::Reply(_)));
    }
    given
}

// Names of elsewhere that were not asked for before: each becomes a question for an upstream.
#[library_benchmark]
#[bench::elsewhere(args = ("s", ".example.org"), setup = queries, config = limit("dns_miss.elsewhere"))]
fn dns_miss(mut given: Queries) -> Queries {
    let view = View { zone: &given.zone, cache: &given.cache, now: Duration::ZERO };
    let client = Client { by_tcp: false, allowed: true };
    for query in &given.queries {
        let decision = answer(query, client, &view, &mut given.random, &mut given.out);
        assert!(matches!(black_box(decision), Decision::Forward(_)));
    }
    given
}

// The scheduler.

const NODES: usize = 20;
const GROUPS: usize = 10;
const JOBS: u32 = 200;

fn node(number: usize) -> Node {
    Node {
        name: NodeName::parse(&format!("n{number}")).unwrap(),
        addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
        zone: Some(format!("z{}", number % 3)),
        capacity: Resources { cpu_millis: 16_000, memory_mib: 65_536 },
        ports: PortRange { first: 20_000, last: 20_999 },
        runs_jobs: true,
        cordoned: false,
        version: "1".into(),
        since_ms: 0,
    }
}

fn spec(number: usize) -> JobSpec {
    JobSpec {
        command: vec!["serve".into()],
        env: BTreeMap::new(),
        dir: None,
        service: Some(service_name(number)),
        port: None,
        checks: Vec::new(),
        resources: Resources { cpu_millis: 250, memory_mib: 256 * (1 + number as u64 % 4) },
        drain_timeout: Duration::from_secs(1),
        kill_timeout: Duration::from_secs(1),
    }
}

fn group(number: usize) -> Group {
    Group {
        app: format!("app{number}").parse().unwrap(),
        process: "web".parse().unwrap(),
        release: "v1".parse().unwrap(),
    }
}

/// 200 jobs in ten groups are wanted on 20 nodes in three zones; none is there.
fn empty_cluster() -> ClusterView<'static> {
    // The view borrows what it shows, and a case owns what it is given.
    let nodes: &'static [Node] = (0..NODES).map(node).collect::<Vec<_>>().leak();
    let specs: &'static [JobSpec] = (0..GROUPS).map(spec).collect::<Vec<_>>().leak();
    let want = |spec| Want { count: JOBS / u32::try_from(GROUPS).unwrap(), spec };
    ClusterView {
        nodes: nodes.iter().map(|node| (&node.name, node)).collect(),
        jobs: Vec::new(),
        wanted: specs.iter().enumerate().map(|(n, spec)| (group(n), want(spec))).collect(),
        held: BTreeSet::new(),
        reserved: BTreeSet::new(),
    }
}

/// The same with all jobs there, and half of two groups to be made up for by two others.
fn full_cluster() -> ClusterView<'static> {
    let mut view = empty_cluster();
    let placed: &'static [Placement] = plan(&view, 1).place.leak();
    assert!(placed.iter().all(|placement| placement.wanted == Wanted::Run));
    let job = |placement| Job { placement, standing: Standing::Ready, port: None };
    view.jobs = placed.iter().map(job).collect();
    for (number, want) in view.wanted.values_mut().enumerate() {
        match number {
            0 | 1 => want.count /= 2,
            2 | 3 => want.count += want.count / 2,
            _ => {}
        }
    }
    view
}

#[library_benchmark]
#[bench::first_200(args = (), setup = empty_cluster, config = limit("plan_jobs.first_200"))]
#[bench::moved_20_of_200(args = (), setup = full_cluster, config = limit("plan_jobs.moved_20_of_200"))]
fn plan_jobs(view: ClusterView<'static>) -> (Plan, ClusterView<'static>) {
    (plan(&view, 2), view)
}

library_benchmark_group!(name = router, benchmarks = [route_pick, compile_change, compile_all]);
library_benchmark_group!(name = codec_h1, benchmarks = [h1_request, h1_response, h1_chunked]);
library_benchmark_group!(name = resolver, benchmarks = [dns_answer, dns_miss]);
library_benchmark_group!(name = scheduler, benchmarks = plan_jobs);
main!(library_benchmark_groups = router, codec_h1, resolver, scheduler);
