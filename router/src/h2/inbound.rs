//! One request of a client that speaks HTTP/2, as a stream of HTTP/1.1: what is read from it is the
//! request, what is written to it the answer. It ends after one of each.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, StatusCode};
use tokio::io::ReadBuf;

use super::intake::Intake;
use super::outflow::Outflow;
use super::request::{Framing, write_head};
use super::response::{self, Garbled};
use super::room::{Piece, Room};
use super::{STREAMS_FEW, broken, garbled};
use crate::buffer;
use crate::h1::{BodyFraming, BodyState};
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

/// Where the answer is.
#[derive(Debug)]
enum Answering {
    /// A part of its head, mostly nothing.
    Head(Vec<u8>),
    /// Its body, or what comes through a tunnel.
    Body(Outflow),
    Over,
}

/// A request and its answer.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// The request's head, until it is read.
    head: Vec<u8>,
    framing: Framing,
    intake: Intake,
    answering: Answering,
    respond: SendResponse<Piece>,
    is_head: bool,
    place: Place,
}

impl Inbound {
    /// None for what cannot be written as HTTP/1.1: that is reset.
    pub(super) fn new(
        request: Request<RecvStream>,
        mut respond: SendResponse<Piece>,
        shared: &Rc<Shared>,
    ) -> Option<Self> {
        let (parts, body) = request.into_parts();
        let framing = Framing::of(&parts, body.is_end_stream());
        let (is_chunked, has_none) = (framing == Framing::Chunked, framing == Framing::None);
        let key = match framing {
            Framing::Tunnel => shared.worker.random(tunnel_key),
            _ => [0; KEY_BYTES],
        };
        let mut head = buffer::head();
        if write_head(&parts, framing, &key, &mut head).is_err() {
            buffer::give_back_head(head);
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return None;
        }
        shared.open.set(shared.open.get() + 1);
        Some(Self {
            is_head: parts.method == http::Method::HEAD,
            head,
            framing,
            intake: Intake::new(body, is_chunked, has_none),
            answering: Answering::Head(Vec::new()),
            respond,
            place: Place(Rc::clone(shared)),
        })
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
            Answering::Body(outflow) => outflow.poll_reset(cx),
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
        let has_head = !self.head.is_empty();
        if has_head {
            self.intake.put(&self.head, room);
            buffer::give_back_head(std::mem::take(&mut self.head));
        }
        self.intake.poll_read(cx, room, has_head)
    }

    /// Takes a part of the answer.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.answering {
            Answering::Head(_) => Poll::Ready(self.write_head(bytes)),
            Answering::Body(outflow) => {
                let taken = ready!(outflow.poll_write(cx, &self.place.0.room, bytes))?;
                if taken.is_over {
                    self.end();
                }
                Poll::Ready(Ok(taken.count))
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
            self.answering = Answering::Body(Outflow::new(send, None));
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
                let body = BodyState::response(framing, &self.shared().worker.limits.http);
                self.answering = Answering::Body(Outflow::new(send, Some(body)));
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
        self.intake.end();
        if self.framing == Framing::Tunnel
            && let Answering::Body(outflow) = &mut self.answering
            && outflow.has_no_end()
        {
            outflow.end()?;
            self.end();
        }
        Ok(())
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if !matches!(self.answering, Answering::Over) {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
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
