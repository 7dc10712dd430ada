//! One request of a client that speaks HTTP/2, as a stream of HTTP/1.1: what is read from it is the
//! request, what is written to it the answer. It ends after one of each.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::StatusCode;
use http::request::Parts;
use smallvec::SmallVec;
use tokio::io::ReadBuf;

use super::request::{Framing, write_head, write_trailers};
use super::response::{self, Garbled};
use super::room::{Piece, Room};
use super::{STREAM_QUEUED_MAX, STREAMS_FEW};
use crate::buffer;
use crate::h1::{BodyFraming, BodyState, CHUNK_END, ChunkHead, LAST_CHUNK};
use crate::stream::{Met, News};
use crate::upstream::Name;
use crate::worker::Worker;

/// The largest head that the exchange may write in pieces.
const HEAD_BYTES_MAX: usize = 128 * 1024;

/// What all requests of a connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) worker: Rc<Worker>,
    pub(super) met: Option<Met>,
    /// The client's end and ours.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
    pub(super) room: Rc<Room>,
    /// Requests under way.
    pub(super) open: Cell<usize>,
    /// Requests answered in full of which the connection does not know.
    pub(super) answered: Cell<u32>,
    /// The connection's task: it waits for the last request to end.
    pub(super) task: RefCell<Option<Waker>>,
    /// Under which connections to instances are kept that are for this client alone.
    pub(super) name: OnceCell<Name>,
}

/// A request under way.
#[derive(Debug)]
struct Place(Rc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        let open = self.0.open.get() - 1;
        self.0.open.set(open);
        if open == 0
            && let Some(task) = self.0.task.take()
        {
            task.wake();
        }
        if std::thread::panicking() {
            self.0.worker.metrics.panics.inc();
            tracing::error!("a request of an http/2 connection panicked");
        }
    }
}

/// Where the request is.
#[derive(Debug)]
enum Asking {
    Head(Box<Parts>),
    Body,
    Over,
}

/// Where the answer is.
#[derive(Debug)]
enum Answering {
    /// A part of its head, mostly nothing.
    Head(Vec<u8>),
    Body(SendStream<Piece>, BodyState),
    Tunnel(SendStream<Piece>),
    Over,
}

/// A request and its answer.
#[derive(Debug)]
pub(crate) struct Inbound {
    asking: Asking,
    framing: Framing,
    body: RecvStream,
    /// Of the body: what has come and is not read.
    data: Bytes,
    /// Framing that is not read.
    rest: SmallVec<[u8; 32]>,
    answering: Answering,
    respond: SendResponse<Piece>,
    is_head: bool,
    /// With what it is reset if it is given up.
    fault: Reason,
    place: Place,
}

impl Inbound {
    pub(super) fn new(
        parts: Parts,
        body: RecvStream,
        respond: SendResponse<Piece>,
        shared: &Rc<Shared>,
    ) -> Self {
        shared.open.set(shared.open.get() + 1);
        Self {
            framing: Framing::of(&parts, body.is_end_stream()),
            is_head: parts.method == http::Method::HEAD,
            asking: Asking::Head(Box::new(parts)),
            body,
            data: Bytes::new(),
            rest: SmallVec::new(),
            answering: Answering::Head(Vec::new()),
            respond,
            fault: Reason::INTERNAL_ERROR,
            place: Place(Rc::clone(shared)),
        }
    }

    fn shared(&self) -> &Shared {
        &self.place.0
    }

    pub(crate) fn met(&self) -> Option<&Met> {
        self.shared().met.as_ref()
    }

    pub(crate) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.shared().ends
    }

    /// Under which connections are kept that are for its client alone.
    pub(crate) fn name(&self) -> &Name {
        let shared = self.shared();
        shared.name.get_or_init(|| Name::new(&shared.worker))
    }

    pub(crate) fn is_one_of_many(&self) -> bool {
        self.shared().open.get() > STREAMS_FEW
    }

    /// Whether the client has taken the request back, or gone. It sends nothing else: one stream
    /// has one request.
    pub(crate) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        let reset = match &mut self.answering {
            Answering::Head(_) => self.respond.poll_reset(cx),
            Answering::Body(send, _) | Answering::Tunnel(send) => send.poll_reset(cx),
            Answering::Over => return Poll::Pending,
        };
        reset.map(|_| News::Closed)
    }

    /// Reads the request. Its end is that of the stream.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        loop {
            self.read_rest(room);
            if room.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match &self.asking {
                Asking::Over => return Poll::Ready(Ok(())),
                Asking::Head(_) => self.read_head(room)?,
                Asking::Body if !self.data.is_empty() => self.read_data(room),
                Asking::Body => match self.poll_data(cx) {
                    Poll::Ready(more) => more?,
                    Poll::Pending if room.filled().len() > before => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    fn read_rest(&mut self, room: &mut ReadBuf<'_>) {
        let count = self.rest.len().min(room.remaining());
        if count > 0 {
            room.put_slice(&self.rest[..count]);
            self.rest.drain(..count);
        }
    }

    #[inline]
    fn read_head(&mut self, room: &mut ReadBuf<'_>) -> io::Result<()> {
        let Asking::Head(parts) = &self.asking else { return Ok(()) };
        let mut key = [0; KEY_BYTES];
        if self.framing == Framing::Tunnel {
            key = self.shared().worker.random(tunnel_key);
        }
        let mut head = buffer::head();
        let written = write_head(parts, self.framing, &key, &mut head);
        if written.is_err() {
            self.fault = Reason::PROTOCOL_ERROR;
            return Err(io::ErrorKind::InvalidData.into());
        }
        let count = head.len().min(room.remaining());
        room.put_slice(&head[..count]);
        self.rest.extend_from_slice(&head[count..]);
        buffer::give_back_head(head);
        self.asking = match self.framing {
            Framing::None => Asking::Over,
            _ => Asking::Body,
        };
        Ok(())
    }

    /// What is taken may be sent again by the client: so it never has more under way than we hold.
    fn read_data(&mut self, room: &mut ReadBuf<'_>) {
        let count = self.data.len().min(room.remaining());
        room.put_slice(&self.data[..count]);
        self.data.advance(count);
        // Fails only for more than has come.
        let _ = self.body.flow_control().release_capacity(count);
        if self.data.is_empty() && self.framing == Framing::Chunked {
            self.rest.extend_from_slice(CHUNK_END);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.body.poll_data(cx)) {
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => {
                if self.framing == Framing::Chunked {
                    self.rest.extend_from_slice(ChunkHead::new(data.len()).as_bytes());
                }
                self.data = data;
            }
            Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            None => {
                let trailers = ready!(self.body.poll_trailers(cx)).map_err(broken)?;
                if self.framing == Framing::Chunked {
                    self.read_end(trailers);
                }
                self.asking = Asking::Over;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn read_end(&mut self, trailers: Option<http::HeaderMap>) {
        let Some(trailers) = trailers else {
            return self.rest.extend_from_slice(LAST_CHUNK);
        };
        let mut section = b"0\r\n".to_vec();
        write_trailers(&trailers, &mut section);
        self.rest.extend_from_slice(&section);
    }

    /// Takes a part of the answer.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.answering {
            Answering::Head(_) => Poll::Ready(self.write_head(bytes)),
            Answering::Body(send, body) => {
                let framing = body.framing(bytes).map_err(io::Error::other)?;
                if body.is_done() {
                    let trailers = body.tail();
                    match trailers.len() {
                        0..=2 => send.send_data(Piece::none(), true).map_err(broken)?,
                        _ => send
                            .send_trailers(response::trailers(trailers).map_err(garbled)?)
                            .map_err(broken)?,
                    }
                    self.end();
                }
                if framing > 0 {
                    return Poll::Ready(Ok(framing));
                }
                let Answering::Body(send, body) = &mut self.answering else {
                    return Poll::Ready(Err(garbled(Garbled)));
                };
                let left = usize::try_from(body.content_left()).unwrap_or(usize::MAX);
                let room = &self.place.0.room;
                let count = ready!(poll_room(cx, send, room, bytes.len().min(left)))?;
                body.decode(&bytes[..count]).map_err(io::Error::other)?;
                let piece = Piece::new(Bytes::copy_from_slice(&bytes[..count]), room);
                let is_last = body.is_done();
                send.send_data(piece, is_last).map_err(broken)?;
                if is_last {
                    self.end();
                }
                Poll::Ready(Ok(count))
            }
            Answering::Tunnel(send) => {
                let room = &self.place.0.room;
                let count = ready!(poll_room(cx, send, room, bytes.len()))?;
                let piece = Piece::new(Bytes::copy_from_slice(&bytes[..count]), room);
                send.send_data(piece, false).map_err(broken)?;
                Poll::Ready(Ok(count))
            }
            Answering::Over => Poll::Ready(Err(garbled(Garbled))),
        }
    }

    /// Takes a part of a head; sends it when it is whole.
    fn write_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Answering::Head(begun) = &mut self.answering else { return Err(garbled(Garbled)) };
        if begun.is_empty() {
            return match response::head_len(bytes) {
                Some(len) => self.answer(&bytes[..len]).map(|()| len),
                None => {
                    begun.extend_from_slice(bytes);
                    Ok(bytes.len())
                }
            };
        }
        let before = begun.len();
        begun.extend_from_slice(bytes);
        match response::head_len(begun) {
            Some(len) => {
                let mut head = std::mem::take(begun);
                head.truncate(len);
                self.answer(&head).map(|()| len - before)
            }
            None if begun.len() > HEAD_BYTES_MAX => Err(garbled(Garbled)),
            None => Ok(bytes.len()),
        }
    }

    fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut head = response::head(bytes).map_err(garbled)?;
        let status = head.response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 8441 §5: what is 101 there is 200 here.
            *head.response.status_mut() = StatusCode::OK;
            let send = self.respond.send_response(head.response, false).map_err(broken)?;
            self.answering = Answering::Tunnel(send);
            return Ok(());
        }
        if status.is_informational() {
            return self.respond.send_informational(head.response).map_err(broken);
        }
        let is_bodiless = self.is_head || matches!(status.as_u16(), 204 | 304);
        let framing = if is_bodiless { BodyFraming::None } else { head.framing };
        let is_over = framing == BodyFraming::None;
        let send = self.respond.send_response(head.response, is_over).map_err(broken)?;
        match is_over {
            true => self.end(),
            false => {
                let limits = &self.shared().worker.limits.http;
                self.answering = Answering::Body(send, BodyState::response(framing, limits));
            }
        }
        Ok(())
    }

    /// The answer is whole.
    fn end(&mut self) {
        self.answering = Answering::Over;
        let answered = &self.shared().answered;
        answered.set(answered.get().saturating_add(1));
    }

    /// Nothing more is written. An answer that is not whole then is reset when it is dropped.
    pub(crate) fn shut_down(&mut self) -> io::Result<()> {
        self.asking = Asking::Over;
        if let Answering::Tunnel(send) = &mut self.answering {
            send.send_data(Piece::none(), true).map_err(broken)?;
            self.end();
        }
        Ok(())
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if !matches!(self.answering, Answering::Over) {
            self.respond.send_reset(self.fault);
        }
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

/// 16 bytes in base64 (RFC 6455 §4.1).
const KEY_BYTES: usize = 24;

fn tunnel_key(random: &mut fastrand::Rng) -> [u8; KEY_BYTES] {
    let mut key = [b'='; KEY_BYTES];
    key[..KEY_BYTES - 3].fill_with(|| random.alphanumeric() as u8);
    // The last digit has two bits that count.
    key[KEY_BYTES - 3] = *random.choice(b"AQgw").unwrap_or(&b'A');
    key
}

fn broken(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

fn garbled(_: Garbled) -> io::Error {
    io::ErrorKind::InvalidData.into()
}
