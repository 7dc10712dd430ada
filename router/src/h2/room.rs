//! How much of all answers may wait in one connection, whatever the windows of its client say: a
//! client that asks for much and reads nothing costs no more than this.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes};

use super::{QUEUED_MAX, QUEUED_SCARCE_MAX};
use crate::buffer::{self, Held};

/// What waits in one connection, and who waits for it to leave.
#[derive(Debug, Default)]
pub(super) struct Room(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    queued: Held,
    waiting: Vec<Waker>,
}

impl Room {
    /// Whether nothing more is taken; then `cx` is woken when something is again.
    pub(super) fn is_full(&self, cx: &Context<'_>) -> bool {
        let mut state = self.0.borrow_mut();
        let max = if buffer::is_scarce() { QUEUED_SCARCE_MAX } else { QUEUED_MAX };
        // The first piece is always taken: memory that others hold must not stop everybody.
        let is_full = state.queued.bytes() >= max;
        if is_full && !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        is_full
    }

    fn enter(&self, bytes: usize) {
        let queued = &mut self.0.borrow_mut().queued;
        queued.set(queued.bytes() + bytes);
    }

    fn leave(&self, bytes: usize) {
        let mut state = self.0.borrow_mut();
        let left = state.queued.bytes() - bytes;
        state.queued.set(left);
        // Half empty, so that nobody is woken for each piece.
        if left <= QUEUED_SCARCE_MAX.max(QUEUED_MAX / 2) && !state.waiting.is_empty() {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// A piece of an answer that waits in its connection.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    room: Option<(Rc<Room>, usize)>,
}

impl Piece {
    pub(super) fn new(bytes: Bytes, room: &Rc<Room>) -> Self {
        let count = bytes.len();
        room.enter(count);
        Self { bytes, room: Some((Rc::clone(room), count)) }
    }

    /// Nothing: it ends a body.
    pub(super) fn none() -> Self {
        Self { bytes: Bytes::new(), room: None }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some((room, count)) = self.room.take() {
            room.leave(count);
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_full_room_wakes_those_who_wait_when_half_of_it_has_left() {
        let (room, count) = (Rc::new(Room::default()), Arc::<Count>::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let mut pieces = Vec::new();
        while !room.is_full(&cx) {
            pieces.push(Piece::new(Bytes::from(vec![0; 16 * 1024]), &room));
        }
        assert_eq!(pieces.len() * 16 * 1024, QUEUED_MAX);
        assert!(room.is_full(&cx), "asked twice, woken once");
        while count.0.load(Ordering::Relaxed) == 0 {
            assert!(pieces.pop().is_some(), "somebody is woken");
        }
        assert_eq!((pieces.len() * 16 * 1024, room.is_full(&cx)), (QUEUED_MAX / 2, false));
        drop(pieces);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(room.0.borrow().queued.bytes(), 0);
    }
}
