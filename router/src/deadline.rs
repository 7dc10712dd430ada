//! One coarse timer wheel a worker: one entry a connection, moved by assignment.
//!
//! A wait is set by writing when it ends; the entry stays where it is queued unless the new
//! end is earlier. An entry that comes up before its end is queued again. So the many waits of
//! a kept connection cost a few stores, and no request makes a timer of the runtime.
//! Knows no clock: whoever turns the wheel says how late it is.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

/// The wheel's unit.
pub(crate) const TICK: Duration = Duration::from_millis(TICK_MS as u64);
const TICK_MS: u32 = 100;
const TICKS_PER_SECOND: u64 = 1000 / TICK_MS as u64;

/// A wait beyond the last slot is queued there and then again.
const SLOTS: usize = 1024;

const NIL: usize = usize::MAX;
const NEVER: Tick = Tick(u64::MAX);

/// A moment, in ticks since the worker began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u64);

impl Tick {
    /// The first moment that is at least `wait` later. The current tick may be almost over, so
    /// one more is added: late by less than two ticks, early never.
    pub(crate) fn after(self, wait: Duration) -> Self {
        let part = wait.subsec_millis().div_ceil(TICK_MS);
        let ticks = wait.as_secs().saturating_mul(TICKS_PER_SECOND).saturating_add(part.into());
        Self(self.0.saturating_add(ticks).saturating_add(1))
    }

    /// The worker's beginning.
    #[cfg(test)]
    pub(crate) const ZERO: Self = Self(0);

    /// The moment exactly `time` later, but for a part of a tick.
    pub(crate) fn later(self, time: Duration) -> Self {
        let ticks = time.as_secs().saturating_mul(TICKS_PER_SECOND);
        Self(self.0.saturating_add(ticks + u64::from(time.subsec_millis() / TICK_MS)))
    }

    /// The time from `earlier` to this.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        TICK.saturating_mul(u32::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(u32::MAX))
    }

    fn slot(self) -> usize {
        // Below `SLOTS`, so it fits.
        (self.0 % SLOTS as u64) as usize
    }
}

#[derive(Debug)]
struct Entry {
    due: Tick,
    /// Where it is linked; [`NEVER`] while it is in no slot.
    queued: Tick,
    previous: usize,
    next: usize,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Queue {
    entries: Slab<Entry>,
    /// The first entry of each slot.
    heads: Box<[usize]>,
}

impl Queue {
    fn link(&mut self, key: usize, at: Tick) {
        let head = std::mem::replace(&mut self.heads[at.slot()], key);
        if head != NIL {
            self.entries[head].previous = key;
        }
        let entry = &mut self.entries[key];
        (entry.queued, entry.previous, entry.next) = (at, NIL, head);
    }

    fn unlink(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        if entry.queued == NEVER {
            return;
        }
        let (slot, previous, next) = (entry.queued.slot(), entry.previous, entry.next);
        entry.queued = NEVER;
        if previous == NIL {
            self.heads[slot] = next;
        } else {
            self.entries[previous].next = next;
        }
        if next != NIL {
            self.entries[next].previous = previous;
        }
    }

    /// Links an entry where it comes up next.
    fn schedule(&mut self, key: usize, now: Tick) {
        let due = self.entries[key].due;
        if due != NEVER {
            // Never in a slot that has been turned: an end in the past is due with the next tick.
            self.link(key, Tick(due.0.clamp(now.0 + 1, now.0 + SLOTS as u64 - 1)));
        }
    }

    fn turn(&mut self, now: Tick) {
        let mut key = std::mem::replace(&mut self.heads[now.slot()], NIL);
        while key != NIL {
            let entry = &mut self.entries[key];
            let next = entry.next;
            entry.queued = NEVER;
            if entry.due <= now {
                if let Some(waker) = &entry.waker {
                    // By reference: dropping a waker could drop its task, which comes back here.
                    waker.wake_by_ref();
                }
            } else {
                self.schedule(key, now);
            }
            key = next;
        }
    }
}

/// The waits of one worker.
#[derive(Debug)]
pub(crate) struct Wheel {
    now: Cell<Tick>,
    queue: RefCell<Queue>,
}

impl Wheel {
    pub(crate) fn new() -> Rc<Self> {
        let heads = vec![NIL; SLOTS].into_boxed_slice();
        Rc::new(Self {
            now: Cell::new(Tick(0)),
            queue: RefCell::new(Queue { entries: Slab::new(), heads }),
        })
    }

    /// The moment as of the last turn.
    pub(crate) fn now(&self) -> Tick {
        self.now.get()
    }

    /// Turns to `elapsed` after the start and wakes whose waits have ended.
    pub(crate) fn turn(&self, elapsed: Duration) {
        let to =
            elapsed.as_secs() * TICKS_PER_SECOND + u64::from(elapsed.subsec_millis() / TICK_MS);
        // After a stall of a whole round every slot is due once.
        let first = (self.now().0 + 1).max(to.saturating_sub(SLOTS as u64 - 1));
        for tick in first..=to {
            self.now.set(Tick(tick));
            self.queue.borrow_mut().turn(Tick(tick));
        }
    }

    /// Wakes everybody who has a wait, ended or not: something else has changed.
    pub(crate) fn wake_all(&self) {
        for (_, entry) in &self.queue.borrow().entries {
            if let Some(waker) = &entry.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// An entry of its own for one connection, without a wait.
    pub(crate) fn timer(self: &Rc<Self>) -> Timer {
        let entry = Entry { due: NEVER, queued: NEVER, previous: NIL, next: NIL, waker: None };
        let key = self.queue.borrow_mut().entries.insert(entry);
        Timer { wheel: Rc::clone(self), key, due: Cell::new(NEVER) }
    }
}

/// The wait of one connection.
#[derive(Debug)]
pub(crate) struct Timer {
    wheel: Rc<Wheel>,
    key: usize,
    /// The entry's, here so that asking costs no look-up.
    due: Cell<Tick>,
}

impl Timer {
    /// What `future` comes to, unless the wait ends before.
    pub(crate) async fn in_time<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.is_due() => Poll::Ready(None),
            Poll::Pending => {
                self.watch(cx);
                Poll::Pending
            }
        })
        .await
    }

    /// The moment `wait` from now.
    pub(crate) fn after(&self, wait: Duration) -> Tick {
        self.wheel.now().after(wait)
    }

    /// Ends the wait at `due`, whatever it was before.
    pub(crate) fn set(&self, due: Tick) {
        self.due.set(due);
        let mut queue = self.wheel.queue.borrow_mut();
        let entry = &mut queue.entries[self.key];
        entry.due = due;
        if due < entry.queued {
            queue.unlink(self.key);
            queue.schedule(self.key, self.wheel.now());
        }
    }

    /// Ends the wait at `due` if it would end later.
    pub(crate) fn bring_forward(&self, due: Tick) {
        if due < self.due.get() {
            self.set(due);
        }
    }

    /// Ends the wait after `wait`.
    pub(crate) fn start(&self, wait: Duration) {
        self.set(self.after(wait));
    }

    /// Whether `moment` has come.
    pub(crate) fn has_passed(&self, moment: Tick) -> bool {
        moment <= self.wheel.now()
    }

    /// Whether the wait has ended.
    pub(crate) fn is_due(&self) -> bool {
        self.has_passed(self.due.get())
    }

    /// Says whom to wake when it ends.
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        let mut queue = self.wheel.queue.borrow_mut();
        let waker = &mut queue.entries[self.key].waker;
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            let old = waker.replace(cx.waker().clone());
            drop(queue);
            // A task may go with its last waker, and its timer with it.
            drop(old);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut queue = self.wheel.queue.borrow_mut();
        queue.unlink(self.key);
        let entry = queue.entries.remove(self.key);
        drop(queue);
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Sleeper(Timer, Arc<Count>);

    fn sleeper(wheel: &Rc<Wheel>) -> Sleeper {
        let timer = wheel.timer();
        let count = Arc::<Count>::default();
        timer.watch(&Context::from_waker(&Waker::from(Arc::clone(&count))));
        Sleeper(timer, count)
    }

    impl Sleeper {
        fn woken(&self) -> u32 {
            self.1.0.load(Ordering::Relaxed)
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_wait_never_ends_early_and_at_most_two_ticks_late() {
        for wait in [0, 1, 99, 100, 101, 250, 2_000, 75_000, 102_300, 102_400, 3_600_000] {
            for start in [0, 99, 100, 12_345] {
                let wheel = Wheel::new();
                wheel.turn(ms(start));
                let Sleeper(timer, count) = sleeper(&wheel);
                timer.start(ms(wait));
                let mut elapsed = start;
                while !timer.is_due() {
                    elapsed += 50;
                    wheel.turn(ms(elapsed));
                }
                assert_eq!(count.0.load(Ordering::Relaxed), 1, "woken when it is due");
                assert!(elapsed >= start + wait, "{wait} from {start} ended at {elapsed}");
                assert!(elapsed <= start + wait + 250, "{wait} from {start} ended at {elapsed}");
            }
        }
    }

    #[test]
    fn a_wait_that_is_moved_later_does_not_wake_at_its_old_end() {
        let wheel = Wheel::new();
        let sleeper = sleeper(&wheel);
        sleeper.0.start(ms(1_000));
        wheel.turn(ms(900));
        sleeper.0.start(ms(1_000));
        wheel.turn(ms(1_800));
        assert_eq!(sleeper.woken(), 0);
        wheel.turn(ms(2_100));
        assert_eq!(sleeper.woken(), 1);
    }

    #[test]
    fn a_wait_that_is_moved_earlier_wakes_at_its_new_end_only() {
        let wheel = Wheel::new();
        let sleeper = sleeper(&wheel);
        sleeper.0.start(ms(75_000));
        sleeper.0.start(ms(500));
        wheel.turn(ms(700));
        assert_eq!(sleeper.woken(), 1);
        sleeper.0.start(ms(100_000));
        wheel.turn(ms(90_000));
        assert_eq!(sleeper.woken(), 1);
    }

    #[test]
    fn a_stall_longer_than_the_wheel_wakes_everybody_who_is_due() {
        let wheel = Wheel::new();
        let all: Vec<_> = (0..2_000)
            .map(|n| {
                let sleeper = sleeper(&wheel);
                sleeper.0.start(ms(n * 50));
                sleeper
            })
            .collect();
        wheel.turn(Duration::from_secs(500));
        assert!(all.iter().all(|sleeper| sleeper.woken() == 1 && sleeper.0.is_due()));
    }

    #[test]
    fn an_end_that_has_passed_wakes_with_the_next_tick() {
        let wheel = Wheel::new();
        let sleeper = sleeper(&wheel);
        let early = sleeper.0.after(ms(100));
        wheel.turn(ms(5_000));
        sleeper.0.set(early);
        assert!(sleeper.0.is_due());
        wheel.turn(ms(5_100));
        assert_eq!(sleeper.woken(), 1);
    }

    #[test]
    fn a_dropped_timer_leaves_its_neighbours_in_place() {
        let wheel = Wheel::new();
        let mut all: Vec<_> = (0..9)
            .map(|_| {
                let sleeper = sleeper(&wheel);
                sleeper.0.start(ms(300));
                sleeper
            })
            .collect();
        for index in [8, 4, 0] {
            all.remove(index);
        }
        assert_eq!(wheel.queue.borrow().entries.len(), all.len());
        wheel.turn(ms(500));
        assert!(all.iter().all(|sleeper| sleeper.woken() == 1));
    }

    #[test]
    fn everybody_can_be_woken_at_once() {
        let wheel = Wheel::new();
        let (waiting, resting) = (sleeper(&wheel), sleeper(&wheel));
        waiting.0.start(ms(300));
        wheel.wake_all();
        assert_eq!((waiting.woken(), resting.woken()), (1, 1));
        assert!(!waiting.0.is_due());
    }
}
