//! Bytes from socket to socket that the router never sees: splice(2) through a pipe of the
//! kernel. Owns the pipes, which a thread lends to its tunnels as it lends buffers. Knows nothing
//! of ends and waits.
//!
//! A pipe is filled only when it is empty. So a socket that gives nothing has nothing, and a
//! tunnel that waits for its source has no pipe.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use prometheus::IntCounter;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tracing::warn;

use crate::buffer::{LARGE, Lent};

/// What a pipe may hold: as much as a large buffer, and as that it counts as lent. A quarter of
/// what a user without privileges may make of one, so that 256 are to be had before the kernel
/// gives none of this size (`pipe-user-pages-soft`).
const BYTES_MAX: usize = LARGE;

/// Pipes that a thread keeps for the next borrower.
const KEPT_MAX: usize = 16;

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static KEPT: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    /// Pipes that are lent.
    static LENT: Cell<usize> = const { Cell::new(0) };
    static LENT_MAX: Cell<usize> = const { Cell::new(0) };
    /// Bytes that went through since the counter was told.
    static PASSED: Cell<u64> = const { Cell::new(0) };
    /// The system does not splice these sockets.
    static IS_REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Sets how many pipes this thread may lend. Before that it lends none.
pub(crate) fn set_lent_max(pipes: usize) {
    LENT_MAX.set(pipes);
}

/// Brings a counter that all threads share up to date.
pub(crate) fn show_passed(counter: &IntCounter) {
    match PASSED.take() {
        0 => {}
        passed => counter.inc_by(passed),
    }
}

/// A pipe of the kernel, given back when it is dropped. Stays on its thread.
#[derive(Debug)]
pub(super) struct Conduit {
    /// Taken by the drop alone.
    ends: Option<Ends>,
    held: usize,
    _lent: Lent,
}

/// An empty pipe; none when too many are lent, memory is scarce, or the system gives none.
pub(super) fn lend() -> Option<Box<Conduit>> {
    if LENT.get() >= LENT_MAX.get() || IS_REFUSED.get() {
        return None;
    }
    let lent = Lent::freely(BYTES_MAX)?;
    let ends = KEPT.with_borrow_mut(Vec::pop).or_else(|| open().ok())?;
    LENT.set(LENT.get() + 1);
    Some(Box::new(Conduit { ends: Some(ends), held: 0, _lent: lent }))
}

fn open() -> io::Result<Ends> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // One that stays small costs more system calls than it saves copies.
    fcntl_setpipe_size(&write, BYTES_MAX)?;
    Ok(Ends { read, write })
}

impl Conduit {
    /// Whether bytes are on their way.
    pub(super) fn holds_some(&self) -> bool {
        self.held > 0
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("only the drop takes them")
    }

    /// Takes what a socket has; 0 is its end. `None` says that the system does not do that, now
    /// or ever: nothing is lost. Needs an empty pipe.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
    ) -> Poll<io::Result<Option<usize>>> {
        debug_assert!(!self.holds_some(), "a full pipe looks like a socket without bytes");
        loop {
            let to = &self.ends().write;
            let moved = from.try_io(Interest::READABLE, || {
                Ok(splice(from, None, to, None, BYTES_MAX, SpliceFlags::NONBLOCK)?)
            });
            match moved {
                Ok(count) => {
                    self.held = count;
                    return Poll::Ready(Ok(Some(count)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(from.poll_read_ready(cx))?;
                }
                Err(error) if is_refusal(&error) => {
                    if !IS_REFUSED.replace(true) {
                        warn!(%error, "the system does not splice sockets: tunnels are copied");
                    }
                    return Poll::Ready(Ok(None));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Gives a socket what there is; returns how much it took.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        loop {
            let from = &self.ends().read;
            let moved = to.try_io(Interest::WRITABLE, || {
                Ok(splice(from, None, to, None, self.held, SpliceFlags::NONBLOCK)?)
            });
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.held -= count.min(self.held);
                    PASSED.set(PASSED.get() + count as u64);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(to.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// What a socket or a sandbox says that knows no splice(2).
fn is_refusal(error: &io::Error) -> bool {
    Errno::from_io_error(error)
        .is_some_and(|errno| matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::PERM))
}

impl Drop for Conduit {
    fn drop(&mut self) {
        LENT.set(LENT.get() - 1);
        // What was broken off has bytes of its connection in it, which are nobody else's.
        let Some(ends) = self.ends.take().filter(|_| self.held == 0 && !IS_REFUSED.get()) else {
            return;
        };
        // At the thread's end its store may be gone already: then it is just closed.
        let _ = KEPT.try_with(|kept| {
            let kept = &mut *kept.borrow_mut();
            if kept.len() < KEPT_MAX {
                kept.push(ends);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    fn kept() -> usize {
        KEPT.with_borrow(Vec::len)
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_and_the_empty_pipe_is_kept() {
        set_lent_max(1);
        let ((mut client, from), (to, mut server)) = (pair().await, pair().await);
        client.write_all(b"hello").await.unwrap();
        let mut conduit = lend().unwrap();
        assert!(lend().is_none(), "there is one");
        assert_eq!(poll_fn(|cx| conduit.poll_fill(cx, &from)).await.unwrap(), Some(5));
        assert!(conduit.holds_some());
        assert_eq!(poll_fn(|cx| conduit.poll_drain(cx, &to)).await.unwrap(), 5);
        assert!(!conduit.holds_some());
        let mut got = [0; 5];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!((&got, PASSED.get()), (b"hello", 5));
        let pending = poll_fn(|cx| Poll::Ready(conduit.poll_fill(cx, &from).is_pending())).await;
        assert!(pending);
        drop(client);
        assert_eq!(poll_fn(|cx| conduit.poll_fill(cx, &from)).await.unwrap(), Some(0));
        drop(conduit);
        assert_eq!((kept(), LENT.get()), (1, 0));
    }

    #[tokio::test]
    async fn a_pipe_with_bytes_in_it_is_nobody_elses() {
        set_lent_max(1);
        let (mut client, from) = pair().await;
        client.write_all(b"secret").await.unwrap();
        let mut conduit = lend().unwrap();
        assert_eq!(poll_fn(|cx| conduit.poll_fill(cx, &from)).await.unwrap(), Some(6));
        drop(conduit);
        assert_eq!((kept(), LENT.get()), (0, 0));
        assert!(lend().is_some());
    }

    #[tokio::test]
    async fn where_nothing_is_spliced_nothing_is_lost_or_tried_again() {
        set_lent_max(8);
        let (mut client, mut from) = pair().await;
        client.write_all(b"hello").await.unwrap();
        // What a socket gives cannot be spliced to something that is no pipe.
        let null = || OwnedFd::from(std::fs::File::create("/dev/null").unwrap());
        KEPT.with_borrow_mut(|kept| kept.push(Ends { read: null(), write: null() }));
        let mut conduit = lend().unwrap();
        assert_eq!(poll_fn(|cx| conduit.poll_fill(cx, &from)).await.unwrap(), None);
        drop(conduit);
        assert!(lend().is_none() && kept() == 0);
        let mut got = [0; 5];
        from.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    }
}
