//! Runs `router/src/cell/ledger.rs` and `router/src/queue/line.rs` under loom, with loom's own
//! parts around them:
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test --release
//! ```
#![cfg(all(test, loom))]

#[path = "../../../src/cell/ledger.rs"]
#[expect(dead_code, reason = "readers of this model do not leave")]
mod ledger;
#[path = "../../../src/queue/line.rs"]
mod line;

use ledger::{Ledger, Mark};
use line::Line;
use loom::future::block_on;
use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::future::poll_fn;
use std::task::Poll;

/// A value that knows who may free it.
struct Value {
    revision: usize,
    publisher: thread::ThreadId,
}

impl Drop for Value {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.publisher, "a reader freed {}", self.revision);
    }
}

/// Stands in for the atomic pointer: a load hands out a reference, nothing more.
struct Newest(Mutex<(u64, Arc<Value>)>);

impl Newest {
    fn load(&self) -> (u64, Arc<Value>) {
        self.0.lock().unwrap().clone()
    }
}

/// What a worker does with `Reader::table`: load, let go of the older value, then move the mark,
/// then pick.
struct Reader {
    newest: Arc<Newest>,
    cached: (u64, Arc<Value>),
    mark: Mark,
    /// Picks on the first table, counted as `EndpointState` counts what is in flight.
    in_flight: Arc<AtomicUsize>,
}

impl Reader {
    fn pick(&mut self) -> usize {
        let loaded = self.newest.load();
        if loaded.0 != self.cached.0 {
            self.cached = loaded;
            self.mark.moved_to(self.cached.0);
        }
        let revision = self.cached.1.revision;
        if revision == 0 {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        revision
    }
}

/// What `TableCell::publish` does.
fn publish(newest: &Newest, ledger: &mut Ledger<Value>, revision: usize) {
    let value = Arc::new(Value { revision, publisher: thread::current().id() });
    let sequence = ledger.next_sequence();
    ledger.publish(Arc::clone(&value));
    *newest.0.lock().unwrap() = (sequence, value);
    drop(ledger.settle());
}

#[test]
fn no_reader_frees_a_value_and_no_acknowledgement_is_early() {
    loom::model(|| {
        let first = Arc::new(Value { revision: 0, publisher: thread::current().id() });
        let newest = Arc::new(Newest(Mutex::new((0, Arc::clone(&first)))));
        let mut ledger = Ledger::new(first);
        let (_, mark) = ledger.enter();
        let cached = newest.load();
        let in_flight = Arc::new(AtomicUsize::new(0));
        let mut reader =
            Reader { newest: Arc::clone(&newest), cached, mark, in_flight: Arc::clone(&in_flight) };
        let worker = thread::spawn(move || {
            let seen = [reader.pick(), reader.pick()];
            assert!(seen[0] <= seen[1], "a revision went back");
            // Handed back, so that the model ends on the publisher's thread.
            (reader, seen[1])
        });
        publish(&newest, &mut ledger, 1);
        publish(&newest, &mut ledger, 2);
        // The count is read before anything is freed: freeing synchronises too, and here the
        // marks alone have to.
        let free = ledger.settle();
        let acked = ledger.oldest().revision;
        let counted = in_flight.load(Ordering::Relaxed);
        drop(free);
        let (reader, seen) = worker.join().unwrap();
        assert!(acked <= seen, "{acked} was acknowledged, {seen} was read");
        if acked > 0 {
            let all = in_flight.load(Ordering::Relaxed);
            assert_eq!(counted, all, "a pick on the first table was not yet seen");
        }
        drop(reader);
    });
}

/// As `InFlight::begin_below` does, with one as the limit.
fn begin(in_flight: &AtomicU32) -> bool {
    in_flight.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// As `InFlight` does when it is dropped.
fn end(in_flight: &AtomicU32, line: &Line) {
    in_flight.fetch_sub(1, Ordering::Relaxed);
    line.call();
}

/// As `queue::wait` does.
fn wait(line: &Arc<Line>, in_flight: &AtomicU32) {
    let place = Line::join(line, 8).expect("room in the line");
    block_on(poll_fn(|cx| match place.is_first(cx) && begin(in_flight) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    }));
}

#[test]
fn nobody_waits_for_ever_beside_room() {
    let mut model = loom::model::Builder::new();
    // All orders of three threads are too many; lost wake-ups need few preemptions.
    model.preemption_bound = Some(2);
    model.check(|| {
        let (line, in_flight) = (Line::new(), Arc::new(AtomicU32::new(1)));
        let waiters = [(); 2].map(|()| {
            let (line, in_flight) = (Arc::clone(&line), Arc::clone(&in_flight));
            thread::spawn(move || {
                // Loom finds a wake-up that is lost: nobody could go on.
                wait(&line, &in_flight);
                end(&in_flight, &line);
            })
        });
        end(&in_flight, &line);
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!((line.waiting(), in_flight.load(Ordering::SeqCst)), (0, 0));
    });
}
