//! HTTP/2 as a dialect at the edges. The exchange speaks HTTP/1.1; a request of an HTTP/2 client
//! becomes a [`Stream`](crate::stream::Stream) that reads and writes as a connection with one
//! request would, and so does a request to an instance that speaks HTTP/2. So rules, routes, retries, queues, bodies and pages are the same for both.
//!
//! Frames, windows and HPACK are the `h2` crate's. Here are the limits that it does not have, and
//! the socket under it: what it writes frame by frame leaves in few system calls.

mod flood;
mod frames;
mod inbound;
mod intake;
mod lanes;
mod link;
mod outbound;
mod outflow;
mod request;
mod response;
mod room;
mod serve;
mod wire;

use std::io;
use std::time::Duration;

use h2::Reason;
use response::Garbled;

pub(crate) use flood::Flood;
pub(crate) use inbound::Inbound;
pub(crate) use lanes::Lanes;
pub(crate) use link::{Links, open};
pub(crate) use outbound::Outbound;
pub(crate) use serve::serve;

/// What an HTTP/2 client sends first, up to where it is no request of HTTP/1.1 (RFC 9113 §3.4).
pub(crate) const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The bytes that come before its first frame.
const PREFACE_BYTES: usize = 24;

/// Requests that one connection has under way at a time.
const STREAMS_MAX: u32 = 128;

/// Bytes of one request body, and of all bodies of a connection, that a client may send before the
/// instance has taken some.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The same while memory is scarce: what every client may take for granted (RFC 9113 §6.9.2).
const WINDOW_MIN: u32 = 65_535;

/// Bytes of one answer that wait in the connection.
const STREAM_QUEUED_MAX: usize = 64 * 1024;
/// Bytes of all answers that wait in the connection; while memory is scarce.
const QUEUED_MAX: usize = 256 * 1024;
const QUEUED_SCARCE_MAX: usize = 32 * 1024;

/// Requests that were taken back before they were seen, at a time: more than [`Flood::Resets`] takes
/// of a client at once.
const RESETS_PENDING_MAX: usize = 2_000;
/// Streams that we have reset, and of which frames may still come.
const RESETS_KEPT_MAX: usize = STREAMS_MAX as usize;

/// Requests that one connection to an instance has under way at a time, whatever that allows.
const LINK_STREAMS_MAX: usize = 100;
/// Bytes of one answer that an instance may send before the client has taken some. The connection
/// has a window for all of them: who does not read holds up nobody else.
const ANSWER_WINDOW: u32 = 64 * 1024;
const LINK_WINDOW: u32 = LINK_STREAMS_MAX as u32 * ANSWER_WINDOW;

/// From here on the answers of a connection are read in small pieces: all of them may have to wait
/// for the same client.
const STREAMS_FEW: usize = 8;

/// The time for a client to read why its connection ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// The instance has done nothing of the request, and says so (RFC 9113 §8.7).
#[derive(Debug, thiserror::Error)]
#[error("the instance has not looked at the request")]
pub(crate) struct Unprocessed(#[source] h2::Error);

/// Why a stream broke off.
fn broken(error: h2::Error) -> io::Error {
    let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    // Streams that a goodbye speaks of go on; others end with it.
    if error.is_remote() && (is_refused || error.is_go_away()) {
        return io::Error::new(io::ErrorKind::ConnectionReset, Unprocessed(error));
    }
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

fn garbled(_: Garbled) -> io::Error {
    io::ErrorKind::InvalidData.into()
}
