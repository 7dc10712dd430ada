//! The socket under a connection. The library writes a frame at a time and asks for each to be on
//! its way; here they are gathered, and leave when the connection has had its turn.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flood::{Allowance, Flood};
use super::frames::{Frame, Frames, Kind};
use crate::buffer::{self, Buffer, Held};
use crate::stream::Stream;
use crate::worker::Worker;

/// Bytes that are gathered before the socket has to take some; while memory is scarce.
const GATHERED_MAX: usize = 128 * 1024;
const GATHERED_SCARCE_MAX: usize = 16 * 1024;

/// Room for gathering that a thread keeps: one connection has its turn at a time.
const SPARE_BYTES_MAX: usize = 2 * GATHERED_MAX;

/// Codes of RFC 9113 §7.
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

thread_local! {
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A socket and what goes through it.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: Stream,
    /// What came before the library was asked.
    received: Buffer,
    gathered: Vec<u8>,
    /// Bytes of it that the socket has.
    at: usize,
    held: Held,
    /// An instance is not watched: it is ours.
    watch: Option<Watch>,
}

/// Who looks at the frames of a client.
#[derive(Debug)]
struct Watch {
    worker: Rc<Worker>,
    inward: Frames,
    outward: Frames,
    allowance: Allowance,
    flood: Option<Flood>,
    heads: Heads,
}

/// Heads of requests that have come whole, and what became of them.
#[derive(Debug, Default)]
struct Heads {
    last: u32,
    come: u64,
    /// There were too many at a time.
    refused: u64,
    /// They were no requests.
    faults: u64,
}

impl Watch {
    fn received(&mut self, bytes: &[u8]) {
        let Self { worker, inward, allowance, flood, heads, .. } = self;
        let now = worker.wheel.now();
        inward.pass(bytes, |frame| {
            if frame.kind == Kind::Headers && frame.stream > heads.last {
                heads.last = frame.stream;
                heads.come += 1;
            }
            if frame.kind == Kind::Reset {
                worker.metrics.h2.resets_received.inc();
            }
            if flood.is_none() {
                *flood = allowance.received(&frame, now).err();
            }
        });
    }

    fn sent(&mut self, bytes: &[u8]) {
        let Self { worker, outward, allowance, flood, heads, .. } = self;
        outward.pass(bytes, |frame: Frame| {
            let [first, second] = frame.words;
            let judged = match frame.kind {
                Kind::Data if frame.len > 0 => {
                    allowance.sent_data();
                    Ok(())
                }
                Kind::GoAway => {
                    worker.metrics.h2.goaway(second);
                    Ok(())
                }
                Kind::Reset => {
                    worker.metrics.h2.resets_sent.inc();
                    let now = worker.wheel.now();
                    match first {
                        NO_ERROR | INTERNAL_ERROR | CANCEL => Ok(()),
                        // More requests than it may have: as if it took them back.
                        REFUSED_STREAM => {
                            heads.refused += 1;
                            allowance.refused(now)
                        }
                        _ => allowance.fault(now),
                    }
                }
                _ => Ok(()),
            };
            if flood.is_none() {
                *flood = judged.err();
            }
        });
    }
}

impl Wire {
    /// The socket of a client, of whom `received` has come already; `preface` bytes come before
    /// its first frame.
    pub(super) fn of_client(
        stream: Stream,
        received: Buffer,
        preface: usize,
        worker: &Rc<Worker>,
    ) -> Self {
        let watch = Watch {
            worker: Rc::clone(worker),
            inward: Frames::after(preface),
            outward: Frames::after(0),
            allowance: Allowance::new(worker.wheel.now()),
            flood: None,
            heads: Heads::default(),
        };
        Self { received, watch: Some(watch), ..Self::of_instance(stream) }
    }

    /// The socket of an instance.
    pub(super) fn of_instance(stream: Stream) -> Self {
        Self {
            stream,
            received: Buffer::default(),
            gathered: Vec::new(),
            at: 0,
            held: Held::default(),
            watch: None,
        }
    }

    /// What the client does too often, if it does.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.watch.as_ref()?.flood
    }

    /// So many requests have been taken so far. The library answers itself what it does not take for
    /// one; so does whoever only sends such.
    pub(super) fn taken(&mut self, count: u64) {
        if self.gathered.len() - self.at >= GATHERED_SCARCE_MAX {
            // It may not have come to all of them.
            return;
        }
        let Some(watch) = &mut self.watch else { return };
        let Watch { worker, allowance, flood, heads, .. } = watch;
        // One may not have come whole.
        let others = heads.come.saturating_sub(count + heads.refused + 1);
        while heads.faults < others {
            heads.faults += 1;
            if flood.is_none() {
                *flood = allowance.fault(worker.wheel.now()).err();
            }
        }
    }

    /// Requests were answered in full.
    pub(super) fn answered(&mut self, count: u32) {
        if let Some(watch) = &mut self.watch {
            watch.allowance.answered(count);
        }
    }

    /// Gives the socket what was gathered.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.gathered.len() {
            let stream = Pin::new(&mut self.stream);
            match stream.poll_write(cx, &self.gathered[self.at..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(count) => self.at += count?,
                Poll::Pending => {
                    self.held.set(self.gathered.capacity());
                    return Poll::Pending;
                }
            }
        }
        if self.at > 0 {
            self.at = 0;
            self.held.set(0);
            let mut spare = std::mem::take(&mut self.gathered);
            spare.clear();
            if spare.capacity() <= SPARE_BYTES_MAX {
                SPARE.set(spare);
            }
        }
        if self.stream.has_unsent() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let max = if buffer::is_scarce() { GATHERED_SCARCE_MAX } else { GATHERED_MAX };
        if self.gathered.len() - self.at >= max {
            ready!(self.poll_send(cx))?;
        }
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.take();
        }
        if let Some(watch) = &mut self.watch {
            watch.sent(bytes);
        }
        self.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.flood().is_some() {
            // Nothing more is read; whoever sees to the connection ends it.
            return Poll::Pending;
        }
        let before = room.filled().len();
        if self.received.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, room))?;
        } else {
            let count = self.received.len().min(room.remaining());
            room.put_slice(&self.received.data()[..count]);
            self.received.consume(count);
        }
        if let Some(watch) = &mut self.watch {
            watch.received(&room.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

/// The library's end of it.
#[derive(Debug)]
pub(super) struct Io(pub(super) Rc<RefCell<Wire>>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_receive(cx, room)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, bytes)
    }

    /// Later, with what else there is.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        ready!(wire.poll_send(cx))?;
        Pin::new(&mut wire.stream).poll_shutdown(cx)
    }
}
