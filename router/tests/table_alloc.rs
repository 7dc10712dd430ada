//! Choosing allocates nothing, and a route costs little: tests of their own, because they replace
//! the allocator.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(unsafe_code, reason = "an allocator that counts has to be one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use portolan_discovery::model::{Balancing, Concurrency, HashBy, Service, Sticky};
use portolan_router::{Ask, Key, RequestView, TableCell, Tried};

#[path = "table/world.rs"]
#[expect(dead_code, reason = "one part of it is enough here")]
mod world;

use world::*;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that the thread has taken and not given back.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn hold(bytes: usize, sign: i64) {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    HELD.with(|held| held.set(held.get() + sign * bytes));
}

// SAFETY: every call is the system allocator's; the count is a thread's own and needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        hold(layout.size(), 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(layout.size(), -1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// What a table of `hosts` hosts with three routes each holds beyond its snapshot, in bytes.
fn table_bytes(hosts: usize) -> i64 {
    let mut events = vec![up("web", "a")];
    for host in 0..hosts {
        for path in ["/", "/api", "=/login"] {
            let name = format!("r{host}-{}", path.len());
            let host = format!("shop-{host}.customers.example.org");
            let mut record = route(&name, &host, path);
            record.backends = vec![backend("web", 1)];
            events.push(put_route(&record));
        }
    }
    let mut world = World::new();
    world.learn(&events);
    let before = HELD.with(Cell::get);
    let table = black_box(world.full());
    let held = HELD.with(Cell::get) - before;
    drop(table);
    held
}

#[test]
fn a_route_costs_at_most_400_bytes_beyond_its_strings() {
    const HOSTS: usize = 20_000;
    // The text of a host and of its paths is held once for its three routes.
    const STRINGS: i64 = "shop-10000.customers.example.org/api/login".len() as i64;
    let each = (table_bytes(HOSTS) - table_bytes(0)) / HOSTS as i64 - STRINGS;
    println!("{} bytes a route", each / 3);
    assert!(each <= 3 * 400, "{} bytes a route", each / 3);
}

#[test]
fn reading_matching_and_picking_allocate_nothing() {
    let mut events = vec![put_service("empty")];
    let policies = [Balancing::RoundRobin, Balancing::Least, Balancing::Hash(HashBy::Source)];
    for (name, balancing) in ["turns", "least", "hash"].into_iter().zip(policies) {
        let slow_start = Some(Duration::from_secs(1));
        let named = Service::named(service_name(name));
        events.push(put_record(&Service { balancing, slow_start, ..named }));
        events.extend((0..3).map(|i| weighted(name, &format!("c{i}"), 1 + i)));
    }
    for i in 0..3 {
        events.push(weighted("web", &format!("a{i}"), 1 + i));
        events.push(up("api", &format!("b{i}")));
    }
    for i in 0..2000 {
        let mut record = route(&format!("r{i}"), &format!("h{i}.test"), "/a/b");
        record.backends = ["web", "api", "empty", "turns", "least", "hash"]
            .map(|service| backend(service, 1))
            .into();
        events.push(put_route(&record));
        let big = format!("/p{i}/x");
        events.push(put_route(&route(&format!("t{i}"), "*.tree.test", &big)));
        events.push(put_route(&route(&format!("g{i}"), "*", &format!("={big}"))));
    }
    let world = World::of(&events);
    let cell = TableCell::new(world.table.clone().into(), &world.metrics);
    let mut reader = cell.reader();
    let (main, mut rng) = (listener("main"), fastrand::Rng::with_seed(9));
    let requests: Vec<(String, String)> = (0..2000)
        .flat_map(|i| {
            [
                (format!("h{i}.test"), "/a/b/c".to_owned()),
                (format!("h{i}.test"), format!("/p{i}/x")),
                (format!("x.h{i}.tree.test"), format!("/p{i}/x/y")),
                (format!("none{i}.test"), "/none".to_owned()),
            ]
        })
        .collect();
    assert!(allocations(|| drop(black_box(Box::new(1)))) > 0, "the count counts");
    let mut found = 0;
    let count = allocations(|| {
        for (host, path) in &requests {
            let table = reader.table();
            let Some(entry) = table.route(&RequestView::get(&main, host, path)) else { continue };
            found += 1;
            let entry = entry.clone();
            let mut tried = Tried::none();
            for _ in 0..3 {
                let key = Key::Source([127, 0, 0, 1].into());
                let ask = Ask { key, tried: &tried, ..Ask::first(rng.u64(..)) };
                if let Ok(picked) = entry.pick(table, &ask) {
                    tried.insert(picked.state.pool_key());
                    black_box(&picked);
                }
            }
        }
    });
    assert_eq!(found, 6000);
    assert_eq!(count, 0);
}

#[test]
fn a_cookie_and_a_limit_allocate_nothing_while_there_is_room() {
    let record = Service {
        sticky: Some(Sticky { cookie: "ID".parse().unwrap(), max_age_s: None }),
        concurrency: Some(Concurrency::new(9.try_into().unwrap(), None, None).unwrap()),
        ..Service::named(service_name("web"))
    };
    let mut events = vec![put_record(&record), put_route(&route("r", "a.test", "/"))];
    events.extend((0..4).map(|i| up("web", &format!("a{i}"))));
    let world = World::of(&events);
    let main = listener("main");
    let entry = world.table.route(&RequestView::get(&main, "a.test", "/")).unwrap();
    for cookie in ["ID=0123456789abcdef; a=b", "a=b"] {
        let headers = vec![("Cookie".to_owned(), cookie.to_owned())];
        let view = RequestView { headers: &headers, ..RequestView::get(&main, "a.test", "/") };
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let count = allocations(|| {
            for random in 0..100 {
                let ask = Ask { key: Key::Request(&view, source), ..Ask::first(random << 57) };
                drop(black_box(entry.pick(&world.table, &ask).unwrap()));
            }
        });
        assert_eq!(count, 0, "{cookie}");
    }
}
