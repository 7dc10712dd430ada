//! The tasks that serve the requests of HTTP/2 clients. One that has served a request waits for the
//! next, of whichever client: to make a task, to move a request into it and to take it down again
//! costs as much as to route one.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::proxy::{self, Conn};
use crate::worker::Worker;

/// Tasks of a worker that wait for a request, at most: as many as two busy clients keep going. Each
/// holds about 1.5 KiB.
const WAITING_MAX: usize = 256;

/// Where a task finds its next request.
#[derive(Default)]
struct Lane {
    conn: Cell<Option<Box<Conn>>>,
    task: RefCell<Option<Waker>>,
}

impl Lane {
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Box<Conn>> {
        match self.conn.take() {
            Some(conn) => Poll::Ready(conn),
            None => {
                let mut task = self.task.borrow_mut();
                if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                    *task = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

/// The tasks of a worker that wait for a request.
#[derive(Default)]
pub(crate) struct Lanes(RefCell<Vec<Rc<Lane>>>);

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lanes({})", self.0.borrow().len())
    }
}

impl Lanes {
    /// Has the request of a stream served.
    pub(super) fn begin(worker: &Rc<Worker>, conn: Box<Conn>) {
        // Whoever waited last has the warmest memory.
        let waiting = worker.lanes.0.borrow_mut().pop();
        match waiting {
            Some(lane) => {
                lane.conn.set(Some(conn));
                if let Some(task) = &*lane.task.borrow() {
                    task.wake_by_ref();
                }
            }
            None => drop(tokio::task::spawn_local(run(Rc::clone(worker), conn))),
        }
    }

    /// Lets a task wait; false if enough do.
    fn put(&self, lane: &Rc<Lane>) -> bool {
        let mut waiting = self.0.borrow_mut();
        let has_room = waiting.len() < WAITING_MAX;
        if has_room {
            waiting.push(Rc::clone(lane));
        }
        has_room
    }
}

async fn run(worker: Rc<Worker>, first: Box<Conn>) {
    let lane = Rc::new(Lane { conn: Cell::new(Some(first)), task: RefCell::default() });
    loop {
        let mut conn = poll_fn(|cx| lane.poll_next(cx)).await;
        proxy::serve_one(&mut conn).await;
        drop(conn);
        if !worker.lanes.put(&lane) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_tasks_wait_than_may() {
        let (lanes, lane) = (Lanes::default(), Rc::new(Lane::default()));
        let kept = (0..2 * WAITING_MAX).filter(|_| lanes.put(&lane)).count();
        assert_eq!((kept, lanes.0.borrow().len()), (WAITING_MAX, WAITING_MAX));
    }
}
