//! Choosing allocates nothing: a test of its own, because it replaces the allocator.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(unsafe_code, reason = "an allocator that counts has to be one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use portolan_router::{Ask, RequestView, TableCell, Tried};

#[path = "table/world.rs"]
#[expect(dead_code, reason = "one part of it is enough here")]
mod world;

use world::*;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's; the count is a thread's own and needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
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

#[test]
fn reading_matching_and_picking_allocate_nothing() {
    let mut events = vec![put_service("empty")];
    for i in 0..3 {
        events.push(weighted("web", &format!("a{i}"), 1 + i));
        events.push(up("api", &format!("b{i}")));
    }
    for i in 0..2000 {
        let mut record = route(&format!("r{i}"), &format!("h{i}.test"), "/a/b");
        record.backends = vec![backend("web", 1), backend("api", 2), backend("empty", 1)];
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
                if let Ok(picked) =
                    entry.pick(table, &Ask { tried: &tried, ..Ask::first(rng.u64(..)) })
                {
                    tried.insert(picked.state.pool_key());
                    black_box(&picked);
                }
            }
        }
    });
    assert_eq!(found, 6000);
    assert_eq!(count, 0);
}
