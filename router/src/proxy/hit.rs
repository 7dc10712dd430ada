//! Sends an answer that is kept: as it was sent, or in a coding that the client accepts, or that
//! the client has it already. Its body is shared and never copied, but for what TLS and encoders
//! make of it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::begin::RequestId;
use super::download::{PIECE, TURN_PIECES_MAX, rest};
use super::plan::{Says, Serve};
use super::{After, Conn};
use crate::buffer::Outbox;
use crate::compress::{Encoder, Verdict, Wish, judge};
use crate::h1::{
    BodyFraming, CHUNK_END, ChunkHead, Deliver, HeadScratch, LAST_CHUNK, Limits, Reason, Recode,
    Relay, RequestFacts, Response, parse_response,
};
use crate::table::RouteEntry;
use crate::worker;

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Hit {
    serve: Serve,
    facts: RequestFacts,
    id: RequestId,
    route: Arc<RouteEntry>,
    wish: Option<Wish>,
    /// The client came by https, if the route asks for that.
    is_secure: bool,
    outbox: Outbox,
    relay: Relay,
    keep_alive: bool,
    /// Encodes the body.
    encoder: Option<Box<Encoder>>,
    /// How far it has come.
    at: usize,
    written: u64,
}

impl Hit {
    pub(super) fn new(
        serve: Serve,
        facts: RequestFacts,
        id: RequestId,
        route: Arc<RouteEntry>,
        wish: Option<Wish>,
        is_secure: bool,
    ) -> Self {
        Self {
            serve,
            facts,
            id,
            route,
            wish,
            is_secure,
            outbox: Outbox::default(),
            relay: Relay::None,
            keep_alive: false,
            encoder: None,
            at: 0,
            written: 0,
        }
    }

    /// The status that the client gets.
    pub(super) fn status(&self) -> u16 {
        let mut scratch = HeadScratch::new();
        let response = self.serve.object.response(&self.facts, &mut scratch);
        match response {
            _ if self.serve.is_known => 304,
            Some(response) => response.facts().status,
            None => Reason::Internal.status(),
        }
    }

    /// Sends it.
    pub(super) async fn run(&mut self, conn: &mut Conn) -> After {
        if let Err(reason) = self.write_head(conn) {
            conn.client.worker.metrics.ended(reason);
            return After::Close;
        }
        conn.client.timer.start(conn.client.worker.timeouts.client_write);
        let sent = poll_fn(|cx| self.poll(cx, conn)).await;
        self.outbox.clear();
        if let Err(reason) = sent {
            conn.client.worker.metrics.ended(reason);
            if self.relay == (Relay::Compress { chunked: false }) {
                // A plain close would make the part look whole.
                conn.client.stream.abort();
            }
            return After::Close;
        }
        match self.keep_alive {
            true => After::Next,
            false if conn.input.is_empty() => After::Close,
            false => After::Linger,
        }
    }

    /// Writes the head for this client, and what of the body goes with it.
    fn write_head(&mut self, conn: &Conn) -> Result<(), Reason> {
        let worker = &conn.client.worker;
        let scratch = &mut *worker.scratch.borrow_mut();
        let object = Arc::clone(&self.serve.object);
        let kept = object.response(&self.facts, scratch).ok_or(Reason::Internal)?;
        let listener = &conn.client.listener;
        let hsts = if self.is_secure { self.route.hsts_line() } else { None };
        let via = match hsts {
            None => listener.response_lines(kept.version().into()),
            Some(_) => listener.response_lines_but_hsts(kept.version().into()),
        };
        let lines = [hsts.unwrap_or_default(), self.lines(conn).as_bytes()].concat();
        let date = worker.clock.date();
        let deliver = Deliver {
            request: self.facts,
            keep_alive: self.facts.keep_alive && !worker.is_draining(),
            date: &date,
            request_id: Some(self.id.as_bytes()),
            via,
            line: &lines,
        };
        let delivery = if self.serve.is_known {
            let (mut head, mut scratch) = (Vec::new(), HeadScratch::new());
            kept.write_not_modified(&mut head);
            let head = parse_response(&head, &mut scratch, &self.facts, &ANY)?;
            let head = head.ok_or(Reason::Internal)?;
            let recode = self.recode_of_known(&kept, &head);
            write(&head, &deliver, recode, self.outbox.head())?
        } else {
            let (recode, encoder) = self.recode(conn, &kept);
            self.encoder = encoder;
            write(&kept, &deliver, recode, self.outbox.head())?
        };
        (self.relay, self.keep_alive) = (delivery.relay, delivery.keep_alive);
        if self.relay == Relay::Raw {
            self.outbox.push_data(0..object.body().len());
        }
        Ok(())
    }

    /// How old it is (RFC 9111 §5.1) and where it comes from (RFC 9211).
    fn lines(&self, conn: &Conn) -> String {
        let object = &self.serve.object;
        let now = worker::now();
        let (age, ttl) = (object.age(now), object.ttl(now));
        let name = conn.client.listener.router().pseudonym();
        let how = match self.serve.says {
            Says::Hit => "hit",
            Says::Revalidated => "fwd=stale; fwd-status=304",
            Says::Failed => "hit; detail=error",
        };
        format!("Age: {age}\r\nCache-Status: {name}; {how}; ttl={ttl}\r\n")
    }

    /// Whether it is compressed, and what its head says of that.
    fn recode(&self, conn: &Conn, kept: &Response<'_>) -> (Recode, Option<Box<Encoder>>) {
        let (Some(rule), Some(wish)) = (self.route.compress(), self.wish) else {
            return (Recode::NONE, None);
        };
        let verdict = judge(rule, wish, kept);
        let coding = match verdict.coding {
            Some(coding) if kept.facts().body != BodyFraming::None => coding,
            // Also in answer to HEAD, where the head is all that there is.
            _ => return (verdict.recode, None),
        };
        let metrics = &conn.client.worker.metrics;
        let encoder = Encoder::begin(coding, rule.level(coding), kept.content_length());
        if encoder.is_none() {
            metrics.not_compressed.inc();
            return (verdict.uncoded().recode, None);
        }
        metrics.compressed[coding as usize].responses.inc();
        (verdict.recode, encoder)
    }

    /// The same for a 304, which does not say the type of what it stands for.
    fn recode_of_known(&self, kept: &Response<'_>, head: &Response<'_>) -> Recode {
        let (Some(rule), Some(wish)) = (self.route.compress(), self.wish) else {
            return Recode::NONE;
        };
        let takes_type = kept.header("content-type").is_some_and(|value| rule.takes_type(value));
        if takes_type { judge(rule, wish, head).recode } else { Verdict::NONE.recode }
    }

    fn poll(&mut self, cx: &mut Context<'_>, conn: &mut Conn) -> Poll<Result<(), Reason>> {
        let client = &mut conn.client;
        let object = Arc::clone(&self.serve.object);
        let mut pieces = 0;
        loop {
            let before = self.written;
            let flushed =
                self.outbox.poll_flush(cx, &mut client.stream, object.body(), &mut self.written);
            if self.written > before {
                client.timer.start(client.worker.timeouts.client_write);
            }
            match flushed {
                Poll::Ready(Ok(())) => self.outbox.clear(),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientGoneInBody)),
                Poll::Pending if client.timer.is_due() => {
                    return Poll::Ready(Err(Reason::ClientWriteTimeout));
                }
                Poll::Pending => {
                    client.timer.watch(cx);
                    return Poll::Pending;
                }
            }
            if self.encoder.is_none() {
                return Poll::Ready(Ok(()));
            }
            if pieces == TURN_PIECES_MAX {
                rest(cx);
                return Poll::Pending;
            }
            pieces += 1;
            self.encode(object.body(), &client.worker)?;
        }
    }

    /// Encodes a piece, and queues what comes out.
    fn encode(&mut self, body: &[u8], worker: &worker::Worker) -> Result<(), Reason> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let piece = &body[self.at..body.len().min(self.at + PIECE)];
        encoder.push(piece)?;
        self.at += piece.len();
        let is_last = self.at == body.len();
        if is_last {
            encoder.finish()?;
        }
        let metrics = &worker.metrics.compressed[encoder.coding() as usize];
        metrics.bytes_in.inc_by(piece.len() as u64);
        let chunked = self.relay == Relay::Compress { chunked: true };
        let (encoded, head) = (encoder.out(), self.outbox.head());
        metrics.bytes_out.inc_by(encoded.len() as u64);
        if chunked && !encoded.is_empty() {
            head.extend_from_slice(ChunkHead::new(encoded.len()).as_bytes());
            head.append(encoded);
            head.extend_from_slice(CHUNK_END);
        } else {
            head.append(encoded);
        }
        if is_last {
            if chunked {
                head.extend_from_slice(LAST_CHUNK);
            }
            self.encoder = None;
        }
        Ok(())
    }
}

/// What was kept fits, whatever is left out of it.
const ANY: Limits =
    Limits { head_bytes_max: usize::MAX, headers_max: usize::MAX, ..Limits::DEFAULT };

fn write(
    response: &Response<'_>,
    deliver: &Deliver<'_>,
    recode: Recode,
    out: &mut Vec<u8>,
) -> Result<crate::h1::Delivery, Reason> {
    match recode.is_none() {
        true => response.write_client(deliver, out),
        false => response.write_recoded(deliver, &recode, out),
    }
}
