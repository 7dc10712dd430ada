//! The way of a request from the client to an instance: its head, then its body as it comes.
//!
//! What is sent stays at hand until the response begins, as long as it is little: then a
//! request that met a dead connection can be sent again.

use std::task::{Context, Poll};

use crate::buffer::{Buffer, Outbox, TURN_READS_MAX, is_scarce};
use crate::h1::{BodyFraming, BodyState, Limits, Reason};
use crate::mirror::Copy;
use crate::stream::Stream;

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
    /// Gets what is queued of the body, too.
    pub(super) copy: Option<Box<Copy>>,
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
            copy: None,
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

    /// Bytes of the body that have come, without their framing.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body.content_bytes()
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
        if let Some(copy) = &mut self.copy {
            copy.rewind();
        }
    }

    /// The response has begun: nothing will be sent again.
    pub(super) fn settle(&mut self, input: &mut Buffer) {
        self.repeatable = false;
        if self.outbox.is_empty() || self.broken {
            self.let_go(input);
        }
    }

    /// Takes all that came of the request out of the input, sent or not: what remains there
    /// must be the next request.
    pub(super) fn let_go(&mut self, input: &mut Buffer) {
        self.repeatable = false;
        self.outbox.clear();
        input.consume(std::mem::take(&mut self.at));
    }

    /// Sends what there is, and reads more when all of it is sent.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
        input: &mut Buffer,
        upstream: &mut Stream,
        moved: &mut bool,
    ) -> Result<Sending, Reason> {
        if self.broken {
            return Ok(Sending::Over);
        }
        let mut reads = 0;
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
            self.repeatable &= self.at <= REPLAY_BYTES_MAX && !(self.at > 0 && is_scarce());
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
                self.let_go(input);
            }
            reads += 1;
            if reads > TURN_READS_MAX {
                cx.waker().wake_by_ref();
                return Ok(Sending::Client);
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
        let piece = self.at..self.at + progress.forward;
        if self.copy.is_some() {
            self.copy_piece(&input.data()[piece.clone()], progress.done);
        }
        self.outbox.push_data(piece);
        if progress.done {
            self.outbox.push_tail(self.body.tail());
        }
        self.at += progress.taken;
        Ok(())
    }

    #[cold]
    fn copy_piece(&mut self, piece: &[u8], is_last: bool) {
        if let Some(mut copy) = self.copy.take() {
            copy.push(piece);
            match is_last {
                true => copy.send(),
                false => self.copy = Some(copy),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const BODY_BYTES: usize = 12_000;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Inherited by what is accepted: the instance's side takes little.
        SockRef::from(&listener).set_recv_buffer_size(1).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        SockRef::from(&near).set_send_buffer_size(1).unwrap();
        (near.into(), listener.accept().await.unwrap().0)
    }

    fn upload() -> Upload {
        let framing = BodyFraming::Length(BODY_BYTES as u64);
        Upload::new(b"POST / HTTP/1.1\r\n\r\n".to_vec(), framing, Limits::DEFAULT)
    }

    /// A client that has sent a body and the beginning of its next request.
    async fn client() -> (Stream, TcpStream, Buffer) {
        let (mut near, mut far) = pair().await;
        let sending =
            async { far.write_all(&[b"x".repeat(BODY_BYTES), b"GET".to_vec()].concat()).await };
        let mut input = Buffer::default();
        let reading = async {
            while input.len() < BODY_BYTES + 3 {
                poll_fn(|cx| input.poll_fill(cx, &mut near)).await.unwrap();
            }
        };
        tokio::join!(async { sending.await.unwrap() }, reading);
        (near, far, input)
    }

    #[tokio::test]
    async fn what_an_instance_did_not_take_is_not_taken_for_the_next_request() {
        let (mut near, _far, mut input) = client().await;
        let (mut upstream, _instance) = pair().await;
        let mut upload = upload();
        let sending = poll_fn(|cx| {
            let sent = upload.poll(cx, &mut near, &mut input, &mut upstream, &mut false);
            Poll::Ready(sent.unwrap())
        })
        .await;
        assert_eq!(sending, Sending::Upstream, "the instance takes nothing");
        assert!(upload.is_read() && !upload.is_sent());
        upload.settle(&mut input);
        upload.let_go(&mut input);
        assert_eq!(input.data(), b"GET");
    }

    #[tokio::test]
    async fn a_request_is_sent_again_whole_after_it_was_half_sent() {
        let (mut near, _far, mut input) = client().await;
        let mut upload = upload();
        let (mut dead, _instance) = pair().await;
        poll_fn(|cx| {
            let sent = upload.poll(cx, &mut near, &mut input, &mut dead, &mut false);
            Poll::Ready(sent.unwrap())
        })
        .await;
        assert!(upload.is_repeatable() && !upload.is_unsent());
        upload.rewind();
        let (mut upstream, mut instance) = pair().await;
        let received = async {
            let mut bytes = vec![0; 19 + BODY_BYTES];
            instance.read_exact(&mut bytes).await.unwrap();
            bytes
        };
        let sent = poll_fn(|cx| {
            match upload.poll(cx, &mut near, &mut input, &mut upstream, &mut false).unwrap() {
                Sending::Over => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        let (received, ()) = tokio::join!(received, sent);
        assert_eq!(
            received,
            [b"POST / HTTP/1.1\r\n\r\n".to_vec(), b"x".repeat(BODY_BYTES)].concat()
        );
        upload.settle(&mut input);
        assert_eq!(input.data(), b"GET");
    }
}
