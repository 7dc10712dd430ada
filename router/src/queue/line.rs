//! A line: who waits, in order, and who is woken. All of it is here, so that a model can run it.
//! Knows nothing of requests.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::task::{Context, Waker};

#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(all(test, loom)))]
use std::sync::{Arc, Mutex, MutexGuard};

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(all(test, loom))]
use loom::sync::{Arc, Mutex, MutexGuard};

/// A line.
#[derive(Debug)]
pub(crate) struct Line {
    /// Its length, to be read without the lock.
    waiting: AtomicU32,
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Places {
    next_ticket: u64,
    /// By ticket.
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    waker: Option<Waker>,
}

impl Line {
    pub(crate) fn new() -> Arc<Self> {
        let places = Mutex::new(Places { next_ticket: 0, waiters: VecDeque::new() });
        Arc::new(Self { waiting: AtomicU32::new(0), places })
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Joins the end, unless there are `max` in the line.
    pub(crate) fn join(line: &Arc<Self>, max: u32) -> Option<Place> {
        let mut places = line.places();
        if line.waiting() >= max {
            return None;
        }
        let ticket = places.next_ticket;
        places.next_ticket += 1;
        places.waiters.push_back(Waiter { ticket, waker: None });
        line.note_length(&places);
        // With the other one in `call`: either who makes room sees the one that waits, or that one
        // sees the room.
        fence(Ordering::SeqCst);
        Some(Place { line: Arc::clone(line), ticket })
    }

    /// There is room, perhaps: the first looks again.
    pub(crate) fn call(&self) {
        fence(Ordering::SeqCst);
        if self.waiting() > 0 {
            let first = self.places().first();
            wake(first);
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // They are whole between any two statements.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_length(&self, places: &Places) {
        let length = u32::try_from(places.waiters.len()).unwrap_or(u32::MAX);
        self.waiting.store(length, Ordering::Relaxed);
    }
}

/// Never under the lock: a waker may run or drop a task, which may leave the line.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A place in a line, left when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    line: Arc<Line>,
    ticket: u64,
}

impl Place {
    /// Whether it is the first. If so, the task is woken when there may be room, else when it
    /// becomes the first.
    pub(crate) fn is_first(&self, cx: &mut Context<'_>) -> bool {
        let mut places = self.line.places();
        let Some(index) = places.index(self.ticket) else { return false };
        let kept = &mut places.waiters[index].waker;
        let old = match kept {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => kept.replace(cx.waker().clone()),
        };
        drop(places);
        drop(old);
        index == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.line.places();
        let Some(index) = places.index(self.ticket) else { return };
        let left = places.waiters.remove(index);
        self.line.note_length(&places);
        let next = if index == 0 { places.first() } else { None };
        drop(places);
        drop(left);
        wake(next);
    }
}

impl Places {
    fn index(&self, ticket: u64) -> Option<usize> {
        self.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()
    }

    fn first(&self) -> Option<Waker> {
        self.waiters.front().and_then(|waiter| waiter.waker.clone())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Client {
        place: Place,
        bell: Arc<Bell>,
    }

    impl Client {
        fn of(line: &Arc<Line>) -> Self {
            let client = Self { place: Line::join(line, 8).expect("room"), bell: Arc::default() };
            client.looks();
            client
        }

        /// Looks whether it is the first; a bell that was rung is silent again.
        fn looks(&self) -> bool {
            let waker = Waker::from(Arc::clone(&self.bell));
            self.place.is_first(&mut Context::from_waker(&waker))
        }

        fn was_called(&self) -> bool {
            self.bell.0.swap(0, Ordering::SeqCst) > 0
        }
    }

    #[test]
    fn only_the_first_is_called_and_who_leaves_calls_the_next() {
        let line = Line::new();
        let [a, b, c] = [(); 3].map(|()| Client::of(&line));
        assert_eq!([a.looks(), b.looks(), c.looks()], [true, false, false]);
        line.call();
        assert_eq!([a.was_called(), b.was_called(), c.was_called()], [true, false, false]);
        drop(a.place);
        assert_eq!([b.was_called(), c.was_called()], [true, false]);
        assert!(b.looks());
        assert_eq!(line.waiting(), 2);
    }

    #[test]
    fn who_leaves_from_the_middle_calls_nobody() {
        let line = Line::new();
        let [a, b, c] = [(); 3].map(|()| Client::of(&line));
        drop(b.place);
        assert_eq!([a.was_called(), c.was_called()], [false, false]);
        drop(a.place);
        assert!(c.was_called() && c.looks());
    }

    #[test]
    fn a_full_line_takes_nobody_until_somebody_leaves() {
        let line = Line::new();
        assert!(Line::join(&line, 0).is_none());
        let first = Line::join(&line, 2).unwrap();
        let _second = Line::join(&line, 2).unwrap();
        assert!(Line::join(&line, 2).is_none());
        drop(first);
        assert!(Line::join(&line, 2).is_some());
    }

    #[test]
    fn an_empty_line_is_called_in_vain() {
        let line = Line::new();
        line.call();
        drop(Line::join(&line, 1));
        assert_eq!(line.waiting(), 0);
    }
}
