//! The way of a request from the client to an instance: its head, then its body as it comes.
//!
//! What is sent stays at hand until the response begins, as long as it is little: then a
//! request that met a dead connection can be sent again.

use std::task::{Context, Poll};

use tokio::net::TcpStream;

use crate::buffer::{Buffer, Outbox};
use crate::h1::{BodyFraming, BodyState, Limits, Reason};

/// The largest part of a body that is kept to be sent again.
const REPLAY_BYTES_MAX: usize = 16 * 1024;

/// What an upload waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// The client: more of the body.
    Client,
    /// The instance: room for more.
    Upstream,
    /// Nothing: all is sent, or the instance takes no more.
    Over,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Upload {
    outbox: Outbox,
    head_len: usize,
    framing: BodyFraming,
    limits: Limits,
    body: BodyState,
    /// Bytes of the input that belong to this request and are queued or sent.
    at: usize,
    /// All that is sent is still in the outbox and the input.
    repeatable: bool,
    /// The instance takes no more; its response may still come.
    broken: bool,
    written: u64,
}

impl Upload {
    /// A request with the head to send and a body of `framing` behind it.
    pub(super) fn new(head: Vec<u8>, framing: BodyFraming, limits: Limits) -> Self {
        Self {
            head_len: head.len(),
            outbox: Outbox::with_head(head),
            framing,
            limits,
            body: BodyState::request(framing, &limits),
            at: 0,
            repeatable: true,
            broken: false,
            written: 0,
        }
    }

    /// Whether the whole request has come from the client.
    pub(super) fn is_read(&self) -> bool {
        self.body.is_done()
    }

    /// Whether the whole request has been sent.
    pub(super) fn is_sent(&self) -> bool {
        self.is_read() && self.outbox.is_empty() && !self.broken
    }

    /// Whether any of the body has come.
    pub(super) fn has_body_bytes(&self) -> bool {
        self.body.content_bytes() > 0
    }

    /// Whether the request can be sent again from its first byte.
    pub(super) fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// Whether none of it has left us.
    pub(super) fn is_unsent(&self) -> bool {
        self.written == 0
    }

    /// Begins again. Needs [`Upload::is_repeatable`].
    pub(super) fn rewind(&mut self) {
        debug_assert!(self.repeatable, "what was let go cannot be sent again");
        self.outbox.rewind(self.head_len);
        self.body = BodyState::request(self.framing, &self.limits);
        (self.at, self.broken, self.written) = (0, false, 0);
    }

    /// The response has begun: nothing will be sent again.
    pub(super) fn settle(&mut self, input: &mut Buffer) {
        self.repeatable = false;
        if self.outbox.is_empty() || self.broken {
            self.let_go(input);
        }
    }

    fn let_go(&mut self, input: &mut Buffer) {
        self.outbox.clear();
        input.consume(std::mem::take(&mut self.at));
    }

    /// Sends what there is, and reads more when all of it is sent.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut TcpStream,
        input: &mut Buffer,
        upstream: &mut TcpStream,
        moved: &mut bool,
    ) -> Result<Sending, Reason> {
        if self.broken {
            return Ok(Sending::Over);
        }
        loop {
            // Also behind a head that is not sent yet: both go out in one write.
            if !self.is_read() && self.at < input.len() && self.outbox.takes_data() {
                self.queue(input)?;
            }
            if !self.outbox.is_empty() {
                let before = self.written;
                let flushed = self.outbox.poll_flush(cx, upstream, input.data(), &mut self.written);
                *moved |= self.written > before;
                match flushed {
                    Poll::Pending => return Ok(Sending::Upstream),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        // An instance may answer and close before it has read everything.
                        self.broken = true;
                        return Ok(Sending::Over);
                    }
                }
            }
            self.repeatable &= self.at <= REPLAY_BYTES_MAX;
            if !self.repeatable {
                self.let_go(input);
            }
            if self.is_read() {
                return Ok(Sending::Over);
            }
            if self.at < input.len() {
                continue;
            }
            if !input.has_room() {
                self.repeatable = false;
                self.let_go(input);
            }
            match input.poll_fill(cx, client) {
                Poll::Pending => return Ok(Sending::Client),
                Poll::Ready(Ok(1..)) => *moved = true,
                Poll::Ready(_) => return Err(Reason::ClientBodyCut),
            }
        }
    }

    /// Queues what has come of the body.
    fn queue(&mut self, input: &Buffer) -> Result<(), Reason> {
        let progress = self.body.feed(&input.data()[self.at..])?;
        self.outbox.push_data(self.at..self.at + progress.forward);
        if progress.done {
            self.outbox.push_tail(self.body.tail());
        }
        self.at += progress.taken;
        Ok(())
    }
}
