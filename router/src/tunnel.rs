//! Two byte streams between two sockets, each ending on its own (half-close). Used for TCP
//! connections and for upgraded HTTP connections. Knows nothing of either.
//!
//! A direction goes through a buffer. Once it is bulky, and both sides are plain sockets, it goes
//! through a pipe of the kernel, which costs a third of it; there are few of them, so whoever gets
//! none goes through a buffer still.

mod conduit;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::io::AsyncWrite;

use crate::buffer::{Buffer, SMALL, TURN_READS_MAX};
use crate::deadline::Timer;
use crate::stream::Stream;
use conduit::Conduit;

pub(crate) use conduit::{set_lent_max as set_pipes_max, show_passed};

/// A piece of this size makes a direction bulky, a smaller one makes it small again. More than a
/// small buffer takes, so most connections never see a pipe.
const BULKY_BYTES_MIN: usize = 2 * SMALL;

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    buffer: Buffer,
    /// Empty, or what was taken last by way of it; then the buffer is empty.
    conduit: Option<Box<Conduit>>,
    counter: Option<IntCounter>,
    /// The last piece was large.
    is_bulky: bool,
    source_ended: bool,
    over: bool,
}

impl Pipe {
    /// A direction that begins with bytes that are read already.
    pub(crate) fn with(buffer: Buffer) -> Self {
        Self { buffer, ..Self::default() }
    }

    /// The same with its bytes counted.
    pub(crate) fn counted(buffer: Buffer, counter: IntCounter) -> Self {
        Self { buffer, counter: Some(counter), ..Self::default() }
    }

    /// Passes bytes on until the source has ended and the sink knows, or is about to: where both
    /// directions have ended, closing a plain socket says so too, and costs nothing more.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        is_last: bool,
        moved: &mut bool,
    ) -> Poll<Result<(), Broken>> {
        let mut reads = 0;
        while !self.over {
            if !self.buffer.is_empty() {
                let write = Pin::new(&mut *to).poll_write(cx, self.buffer.data());
                let count = ready!(write).map_err(|_| Broken::Sink)?;
                self.buffer.consume(count);
                self.count(count);
            } else if let Some(conduit) = self.conduit.as_mut().filter(|one| one.holds_some()) {
                // Only between two sockets is it filled.
                let Stream::Plain(sink) = &*to else { return Poll::Ready(Err(Broken::Sink)) };
                let count = ready!(conduit.poll_drain(cx, sink)).map_err(|_| Broken::Sink)?;
                self.count(count);
            } else if to.has_unsent() {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Broken::Sink)?;
            } else if self.source_ended {
                if !is_last || !matches!(to, Stream::Plain(_)) {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| Broken::Sink)?;
                }
                self.over = true;
            } else {
                reads += 1;
                if reads > TURN_READS_MAX {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let read = ready!(self.poll_take(cx, from, to)).map_err(|_| Broken::Source)?;
                self.is_bulky = read >= BULKY_BYTES_MIN;
                self.source_ended = read == 0;
            }
            *moved = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece; 0 is the end. Nothing is held, and while nothing comes, neither a
    /// buffer nor a pipe is.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &Stream,
    ) -> Poll<io::Result<usize>> {
        let conduit = self.conduit.take();
        if self.is_bulky
            && let (Stream::Plain(source), Stream::Plain(_)) = (&*from, to)
            && let Some(mut conduit) = conduit.or_else(conduit::lend)
            && let Some(count) = ready!(conduit.poll_fill(cx, source))?
        {
            self.conduit = Some(conduit).filter(|conduit| conduit.holds_some());
            return Poll::Ready(Ok(count));
        }
        self.buffer.poll_fill(cx, from)
    }

    fn count(&self, bytes: usize) {
        if let Some(counter) = &self.counter {
            counter.inc_by(bytes as u64);
        }
    }
}

/// Which end of a direction failed.
#[derive(Debug)]
enum Broken {
    Source,
    Sink,
}

/// How a tunnel ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides ended in peace.
    Closed,
    /// The client broke off.
    Client,
    /// The instance broke off.
    Upstream,
    /// Nothing passed for too long.
    Idle,
}

/// Relays until both directions have ended. After anything but a peaceful end the other side
/// sees a reset, so that half a stream is never taken for a whole one.
pub(crate) async fn relay(
    client: &mut Stream,
    upstream: &mut Stream,
    up: &mut Pipe,
    down: &mut Pipe,
    timer: &Timer,
    idle: Duration,
) -> End {
    let mut moved = true;
    let end = poll_fn(|cx| {
        let sent = match up.poll(cx, client, upstream, down.over, &mut moved) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(End::Client),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::Upstream),
            other => other.is_ready(),
        };
        let received = match down.poll(cx, upstream, client, up.over, &mut moved) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(End::Upstream),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(End::Client),
            other => other.is_ready(),
        };
        if sent && received {
            return Poll::Ready(End::Closed);
        }
        if std::mem::take(&mut moved) {
            timer.start(idle);
        }
        if timer.is_due() {
            return Poll::Ready(End::Idle);
        }
        timer.watch(cx);
        Poll::Pending
    })
    .await;
    if !matches!(end, End::Closed) {
        client.abort();
        upstream.abort();
    }
    end
}
