//! The end of a connection whose client still sends. Knows nothing of what was said on it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::buffer::Buffer;
use crate::deadline::Timer;
use crate::stream::Stream;

/// The most that is read from a client that was answered.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// RFC 9112 §9.6: closing with unread bytes resets the connection, and the reset may overtake
/// the response. So the sending side is closed first, and what the client still sends is read,
/// for `wait` at most.
pub(crate) async fn linger(stream: &mut Stream, timer: &Timer, wait: Duration) {
    timer.start(wait);
    let mut left = BYTES_MAX;
    let mut shut = false;
    // Holds no memory while nothing comes: thousands may be refused at once.
    let mut buffer = Buffer::default();
    poll_fn(|cx| {
        loop {
            if !shut {
                match Pin::new(&mut *stream).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            match buffer.poll_fill(cx, stream) {
                Poll::Ready(Ok(count @ 1..)) if left > 0 => {
                    left = left.saturating_sub(count);
                    buffer.consume(count);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if timer.is_due() => return Poll::Ready(()),
                Poll::Pending => {
                    timer.watch(cx);
                    return Poll::Pending;
                }
            }
        }
    })
    .await;
}
