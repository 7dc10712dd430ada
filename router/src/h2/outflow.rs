//! A body that is written as HTTP/1.1 and leaves by HTTP/2: as much at a time as windows and the
//! room of its connection take.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};

use super::response::trailers;
use super::room::{Piece, Room};
use super::{STREAM_QUEUED_MAX, broken, garbled};
use crate::h1::BodyState;

/// A body on its way.
#[derive(Debug)]
pub(super) struct Outflow {
    send: SendStream<Piece>,
    /// None: bytes as they are, without an end.
    body: Option<BodyState>,
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// So much of it was taken.
    pub(super) count: usize,
    /// The body has ended.
    pub(super) is_over: bool,
}

impl Outflow {
    pub(super) fn new(send: SendStream<Piece>, body: Option<BodyState>) -> Self {
        Self { send, body }
    }

    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.send.poll_reset(cx)
    }

    /// Takes a part of the next piece.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        room: &Rc<Room>,
        bytes: &[u8],
    ) -> Poll<io::Result<Taken>> {
        let Some(body) = &mut self.body else {
            let count = ready!(poll_room(cx, &mut self.send, room, bytes.len()))?;
            self.push(&bytes[..count], room, false)?;
            return Poll::Ready(Ok(Taken { count, is_over: false }));
        };
        let framing = body.framing(bytes).map_err(io::Error::other)?;
        if body.is_done() {
            let section = body.tail();
            // There is nothing but the empty line, or that neither.
            match section.len() {
                0..=2 => self.send.send_data(Piece::none(), true).map_err(broken)?,
                _ => {
                    let fields = trailers(section).map_err(garbled)?;
                    self.send.send_trailers(fields).map_err(broken)?;
                }
            }
            return Poll::Ready(Ok(Taken { count: framing, is_over: true }));
        }
        if framing > 0 {
            return Poll::Ready(Ok(Taken { count: framing, is_over: false }));
        }
        let left = usize::try_from(body.content_left()).unwrap_or(usize::MAX);
        let count = ready!(poll_room(cx, &mut self.send, room, bytes.len().min(left)))?;
        body.decode(&bytes[..count]).map_err(io::Error::other)?;
        let is_over = body.is_done();
        self.push(&bytes[..count], room, is_over)?;
        Poll::Ready(Ok(Taken { count, is_over }))
    }

    fn push(&mut self, bytes: &[u8], room: &Rc<Room>, is_last: bool) -> io::Result<()> {
        let piece = Piece::new(Bytes::copy_from_slice(bytes), room);
        self.send.send_data(piece, is_last).map_err(broken)
    }

    /// Whether only [`Outflow::end`] ends it.
    pub(super) fn has_no_end(&self) -> bool {
        self.body.is_none()
    }

    /// Ends what has no end of its own.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.send.send_data(Piece::none(), true).map_err(broken)
    }
}

/// How much of `wanted` may be sent now: what both windows and the room of the connection take.
fn poll_room(
    cx: &mut Context<'_>,
    send: &mut SendStream<Piece>,
    room: &Room,
    wanted: usize,
) -> Poll<io::Result<usize>> {
    if room.is_full(cx) {
        return Poll::Pending;
    }
    let wanted = wanted.min(STREAM_QUEUED_MAX);
    send.reserve_capacity(wanted);
    loop {
        match send.capacity() {
            0 => match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            capacity => return Poll::Ready(Ok(capacity.min(wanted))),
        }
    }
}
