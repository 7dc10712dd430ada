//! What choosing and compiling cost. For people; the gate counts instructions.
//!
//! Budgets: match and pick 300 ns at 100,000 hosts with 3 paths each; one change 20 us at any
//! size; 100,000 hosts from nothing in 150 ms.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use portolan_discovery::model::{Event, Health};
use portolan_router::{Ask, RequestView, Table, TableCell};
use rustix::time::{ClockId, clock_gettime};

#[path = "../tests/table/world.rs"]
#[expect(dead_code, reason = "one part of it is enough here")]
mod world;

use world::*;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The CPU time of the thread: what other programs take does not count.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

const PATHS: [&str; 3] = ["/", "/api", "/api/v1"];
const SERVICES: usize = 1_000;
const INSTANCES: usize = 3;

/// `hosts` hosts with three paths each, over at most a thousand services of three instances.
fn cluster(hosts: usize) -> World {
    let services = SERVICES.min(hosts);
    let mut events: Vec<Event> = Vec::new();
    for service in 0..services {
        for instance in 0..INSTANCES {
            events.push(up(&format!("s{service}"), &format!("i{instance}")));
        }
    }
    for host in 0..hosts {
        for (number, path) in PATHS.iter().enumerate() {
            let mut record = route(&format!("r{host}-{number}"), &host_name(host), path);
            record.backends = vec![backend(&format!("s{}", (host * 7 + number) % services), 1)];
            events.push(put_route(&record));
        }
    }
    let mut world = World::new();
    world.learn(&events);
    world
}

fn host_name(host: usize) -> String {
    format!("shop-{host}.customers.example.org")
}

fn route_pick(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("route_pick");
    for hosts in [10, 10_000, 33_334, 100_000] {
        let mut world = cluster(hosts);
        world.table = world.full();
        let cell = TableCell::new(world.table.clone().into(), &world.metrics);
        let mut reader = cell.reader();
        let main = listener("main");
        let mut rng = fastrand::Rng::with_seed(1);
        let mut order: Vec<usize> = (0..hosts).collect();
        rng.shuffle(&mut order);
        // Made in the order of their use: a request has its host at hand.
        let names: Vec<String> = order.into_iter().map(host_name).collect();
        let mut names = names.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(hosts), |bencher| {
            bencher.iter(|| {
                let host = names.next().unwrap();
                let table = reader.table();
                let found =
                    table.find(&RequestView::get(&main, host, "/api/v1/orders/17")).unwrap();
                black_box(found.pick(table, &Ask::first(rng.u64(..))).unwrap());
            });
        });
    }
    group.finish();
}

fn one_change(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("one_change");
    for hosts in [10, 100_000] {
        let mut world = cluster(hosts);
        world.table = world.full();
        for (name, there, back) in [
            ("health", with_health("s3", "i1", Health::Down), with_health("s3", "i1", Health::Up)),
            (
                "route",
                put_route(&route("r5-1", &host_name(5), "/other")),
                put_route(&route("r5-1", &host_name(5), "/api")),
            ),
            ("new_host", put_route(&route("new", "new.example.org", "/")), delete_route("new")),
        ] {
            let before = world.table.clone();
            world.learn(std::slice::from_ref(&there));
            let after = Table::compile(&world.snapshot, Some(&before), &world.metrics).table;
            let snapshot = world.snapshot.clone();
            group.bench_function(BenchmarkId::new(name, hosts), |bencher| {
                bencher.iter(|| Table::compile(&snapshot, Some(&before), &world.metrics));
            });
            world.learn(&[back]);
            world.table = Table::compile(&world.snapshot, Some(&after), &world.metrics).table;
        }
    }
    group.finish();
}

fn build(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("build");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for hosts in [10_000, 100_000] {
        let world = cluster(hosts);
        group.bench_function(BenchmarkId::from_parameter(hosts), |bencher| {
            bencher.iter_batched(|| (), |()| world.full(), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = route_pick, one_change, build
}
criterion_main!(benches);
