//! A request, or a TCP connection, in the line of its service.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use crate::balance::Key;
use crate::deadline::Tick;
use crate::endpoint::InFlight;
use crate::h1::Reason;
use crate::stream::{News, Stream};
use crate::table::{Full, PickError};
use crate::worker::Client;

/// Waits until an endpoint has room; until `ends` at the latest.
pub(crate) async fn wait(
    client: &mut Client,
    full: &Full,
    ends: Option<Tick>,
) -> Result<InFlight, Reason> {
    let Full { queue, limit, .. } = full;
    let Some(place) = queue.join(limit.queue_max()) else {
        queue.metrics.full.inc();
        return Err(Reason::Overloaded);
    };
    let due = client.timer.after(limit.queue_wait());
    client.timer.set(ends.map_or(due, |ends| ends.min(due)));
    let Client { stream, timer, worker, peer, .. } = client;
    let mut watch = true;
    let mut moved = pin!(worker.moved.notified());
    poll_fn(|cx| {
        if place.is_first(cx) {
            // Before the look, so that a table that comes after it is seen.
            while moved.as_mut().poll(cx).is_ready() {
                moved.set(worker.moved.notified());
            }
            match worker.pick_first(full, Key::Source(*peer)) {
                Ok(picked) => return Poll::Ready(Ok(picked)),
                Err(PickError::Full(_)) => {}
                Err(PickError::NoInstance { .. }) => return Poll::Ready(Err(Reason::NoInstance)),
                Err(PickError::UnknownService { .. }) => {
                    return Poll::Ready(Err(Reason::BadReference));
                }
            }
        }
        if has_gone(cx, stream, &mut watch) {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        if timer.is_due() {
            queue.metrics.timeout.inc();
            return Poll::Ready(Err(Reason::QueueTimeout));
        }
        timer.watch(cx);
        Poll::Pending
    })
    .await
}

/// Whether a client has closed, as far as can be seen without reading what it sends next: bytes
/// of that hide it. A client that closes only its sending side counts as gone, as with nginx and
/// Go: the two look the same until it is too late.
pub(crate) fn has_gone(cx: &mut Context<'_>, stream: &mut Stream, watch: &mut bool) -> bool {
    if !*watch {
        return false;
    }
    match stream.poll_news(cx) {
        Poll::Pending => false,
        Poll::Ready(News::More) => {
            *watch = false;
            false
        }
        Poll::Ready(News::Closed) => true,
    }
}
