//! The way of a response from an instance to the client: interim heads, the head, the body.
//! A head and the part of the body that came with it leave in one write.

mod squeeze;

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use portolan_discovery::model::{CompressRule, RetryRule};

use super::fault::Failure;
use super::plan::{Around, Plan, Serve};
use crate::buffer::{Buffer, Outbox, TURN_READS_MAX};
use crate::compress::{Encoder, Wish};
use crate::endpoint::InFlight;
use crate::h1::{
    BodyFraming, BodyState, CHUNK_END, ChunkHead, Deliver, LAST_CHUNK, Phase, Reason, Received,
    Relay, RequestFacts, Response, ResponseFacts, parse_response,
};
use crate::listener::Listener;
use crate::stream::Stream;
use crate::table::RouteEntry;
use crate::worker::Worker;

pub(super) use squeeze::{PIECE, TURN_PIECES_MAX, rest};

/// A server that names the wait after which it closes an idle connection gets so much less of
/// it: it counts from its last write, we from our last read.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// Interim responses before the final one. A server needs one of each kind; one that sends
/// nothing else would keep its client waiting for ever.
const INTERIM_MAX: u8 = 32;

/// What a download waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// The client: room for more.
    Client,
    /// The instance: the head, or more of the body.
    Upstream,
    /// Nothing: all is delivered.
    Over,
    /// Whether an answer that its route would rather not have is to be sent on:
    /// [`Download::accept`] or another instance.
    Verdict,
}

/// What a response is read for.
pub(super) struct Asked<'r> {
    pub(super) worker: &'r Worker,
    pub(super) listener: &'r Listener,
    pub(super) request: RequestFacts,
    pub(super) id: &'r [u8],
    /// The connection of the client stays open, as far as the request is concerned.
    pub(super) keep_alive: bool,
    /// The connection to the instance has served a request before.
    pub(super) reused: bool,
    /// It speaks HTTP/2.
    pub(super) is_h2: bool,
    /// The endpoint that answers.
    pub(super) picked: &'r InFlight,
    /// The client came by https.
    pub(super) is_secure: bool,
    /// What it is told then, if not what its listener says.
    pub(super) hsts_line: Option<&'r [u8]>,
    /// Which answers may not be taken, while another instance may be asked.
    pub(super) retry: Option<&'r RetryRule>,
    /// Which answers are compressed, and what the client accepts.
    pub(super) compress: Option<(&'r CompressRule, Wish)>,
    /// The route.
    pub(super) route: &'r RouteEntry,
}

impl Asked<'_> {
    /// The lines that an answer gets more: those of the listener, and those of its own, among
    /// them those of the cache. If these are several, they are written to `several`.
    fn lines<'a>(
        &'a self,
        received: Received,
        cache: &'a [u8],
        several: &'a mut Vec<u8>,
    ) -> (&'a [u8], &'a [u8]) {
        let cookie = self.picked.new_cookie().map_or(&b""[..], |it| it.line(self.is_secure));
        let of_listener = match self.hsts_line {
            None => self.listener.response_lines(received),
            Some(_) => self.listener.response_lines_but_hsts(received),
        };
        let own = match (self.hsts_line.unwrap_or_default(), cookie, cache) {
            (one, [], []) | ([], one, []) | ([], [], one) => one,
            (hsts, cookie, cache) => {
                several.extend_from_slice(&[hsts, cookie, cache].concat());
                several
            }
        };
        (of_listener, own)
    }

    fn around(&self) -> Around<'_> {
        Around {
            worker: self.worker,
            listener: self.listener,
            route: self.route,
            request: &self.request,
        }
    }

    /// The protocol that the answer came by.
    fn received(&self, response: &Response<'_>) -> Received {
        match self.is_h2 {
            false => response.version().into(),
            true => Received::V20,
        }
    }
}

/// What was made of the bytes that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing: it takes more of them.
    More,
    /// They are queued.
    Queued,
    /// A part of them is encoded, which took its time.
    Encoded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    /// A head that the route would rather not have is in the buffer, untouched.
    Rejected {
        status: u16,
        /// All of the response is there and nothing else: the connection can be used again.
        whole: bool,
    },
    Body,
    Over,
    Switched,
}

/// A response on its way.
#[derive(Debug)]
pub(super) struct Download {
    buffer: Buffer,
    pub(super) outbox: Outbox,
    /// Bytes of the buffer that are done with once the outbox is empty.
    spent: usize,
    stage: Stage,
    relay: Relay,
    body: BodyState,
    facts: Option<ResponseFacts>,
    keep_alive: bool,
    begun: bool,
    /// Interim responses so far.
    interims: u8,
    /// A part of the next head is there: from then on there is no more time for the rest.
    head_begun: bool,
    idle_max: Option<Duration>,
    written: u64,
    /// Encodes the body.
    encoder: Option<Box<Encoder>>,
    /// What the cache wants of it, if the route has one.
    pub(super) plan: Option<Box<Plan>>,
    /// What is served in its place.
    pub(super) serve: Option<Box<Serve>>,
}

impl Download {
    pub(super) fn new(worker: &Worker, buffer: Buffer) -> Self {
        Self {
            buffer,
            outbox: Outbox::default(),
            spent: 0,
            stage: Stage::Head,
            relay: Relay::None,
            body: BodyState::response(BodyFraming::None, &worker.limits.http),
            facts: None,
            keep_alive: false,
            begun: false,
            interims: 0,
            head_begun: false,
            idle_max: None,
            written: 0,
            encoder: None,
            plan: None,
            serve: None,
        }
    }

    /// Whether the answer is there, or a part of it: from then on no other instance is asked.
    pub(super) fn is_settled(&self, retry: Option<&RetryRule>) -> bool {
        if retry.is_none() { self.begun } else { self.facts.is_some() }
    }

    /// The status of the answer, also of one that is rejected.
    pub(super) fn status(&self) -> Option<u16> {
        match self.stage {
            Stage::Rejected { status, .. } => Some(status),
            _ => self.facts.map(|facts| facts.status),
        }
    }

    /// Sends a rejected answer on after all.
    pub(super) fn accept(&mut self) {
        debug_assert!(matches!(self.stage, Stage::Rejected { .. }));
        self.stage = Stage::Head;
    }

    /// Whether a rejected answer leaves a connection behind that can serve another request.
    pub(super) fn is_rejected_whole(&self) -> bool {
        matches!(self.stage, Stage::Rejected { whole: true, .. })
    }

    /// Whether the instance has said something before its answer.
    pub(super) fn had_interim(&self) -> bool {
        self.interims > 0
    }

    /// The answer, once the client is to get it: from then on there can be no other.
    pub(super) fn facts(&self) -> Option<ResponseFacts> {
        self.facts
    }

    /// Whether the client has got nothing of an answer: then it can still be given another.
    pub(super) fn is_untold(&self) -> bool {
        self.facts.is_none() || self.written == 0
    }

    /// Takes an answer back that has not left. Interim heads before it are not worth keeping.
    pub(super) fn forget_answer(&mut self) {
        if self.facts.is_some() {
            self.outbox.clear();
        }
    }

    /// Both directions are a tunnel now; [`Download::take_rest`] has its first bytes.
    pub(super) fn is_switched(&self) -> bool {
        self.stage == Stage::Switched
    }

    /// Whether the client's connection stays open, as its head said.
    pub(super) fn keeps_client(&self) -> bool {
        self.keep_alive
    }

    /// Whether the connection to the instance can serve another request.
    pub(super) fn keeps_upstream(&self) -> bool {
        self.stage == Stage::Over
            && self.buffer.is_empty()
            && self.facts.is_some_and(|facts| facts.reusable)
    }

    /// How long the instance keeps an idle connection, if it said so and we asked.
    pub(super) fn idle_max(&self) -> Option<Duration> {
        self.idle_max
    }

    /// Only the end of the connection tells the client where the body ends.
    pub(super) fn ends_with_connection(&self) -> bool {
        use Relay::{Compress, Decode, UntilClose};
        matches!(self.relay, Decode | UntilClose | Compress { chunked: false })
    }

    /// What has come behind the head.
    pub(super) fn take_rest(&mut self) -> Buffer {
        std::mem::take(&mut self.buffer)
    }

    /// Delivers what there is, and reads more when all of it is delivered.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Stream,
        upstream: &mut Stream,
        asked: &Asked<'_>,
        moved: &mut bool,
    ) -> Result<Receiving, Failure> {
        let (mut reads, mut pieces) = (0, 0);
        loop {
            if !self.outbox.is_empty() {
                let before = self.written;
                let flushed =
                    self.outbox.poll_flush(cx, client, self.buffer.data(), &mut self.written);
                *moved |= self.written > before;
                match flushed {
                    Poll::Pending => return Ok(Receiving::Client),
                    Poll::Ready(Ok(())) => self.outbox.clear(),
                    Poll::Ready(Err(_)) => return Err(self.client_gone()),
                }
            }
            self.buffer.consume(std::mem::take(&mut self.spent));
            match self.stage {
                Stage::Over | Stage::Switched => return Ok(Receiving::Over),
                Stage::Rejected { .. } => return Ok(Receiving::Verdict),
                Stage::Head | Stage::Body => {}
            }
            if !self.buffer.is_empty() {
                match self.advance(asked)? {
                    Step::More => {}
                    Step::Queued => continue,
                    Step::Encoded => {
                        (*moved, pieces) = (true, pieces + 1);
                        if pieces < squeeze::TURN_PIECES_MAX {
                            continue;
                        }
                        squeeze::rest(cx);
                        return Ok(Receiving::Upstream);
                    }
                }
            }
            if !self.buffer.has_room() && !self.buffer.grow() {
                return Err(Reason::UpstreamHeadTooLarge.into());
            }
            reads += 1;
            if reads > TURN_READS_MAX {
                cx.waker().wake_by_ref();
                return Ok(Receiving::Upstream);
            }
            match self.buffer.poll_fill(cx, upstream) {
                Poll::Pending if self.encoder.is_some() && self.flush_encoder(asked)? => {}
                Poll::Pending => return Ok(Receiving::Upstream),
                Poll::Ready(Ok(1..)) => {
                    self.begun = true;
                    *moved |= !(self.stage == Stage::Head && self.head_begun);
                    self.head_begun = true;
                }
                Poll::Ready(Ok(0)) => self.ended(None, asked)?,
                Poll::Ready(Err(error)) => self.ended(Some(&error), asked)?,
            }
        }
    }

    fn client_gone(&self) -> Failure {
        let answered = self.facts.is_some();
        Failure::last(if answered { Reason::ClientGoneInBody } else { Reason::ClientGone })
    }

    /// Makes something of what is in the buffer.
    fn advance(&mut self, asked: &Asked<'_>) -> Result<Step, Failure> {
        if self.stage == Stage::Head && !self.read_head(asked)? {
            return Ok(Step::More);
        }
        if self.stage == Stage::Body && !self.buffer.is_empty() {
            let step = self.pass_body(asked)?;
            if let Some(plan) = &mut self.plan {
                plan.take(&self.buffer.data()[..self.spent]);
            }
            return Ok(step);
        }
        Ok(Step::Queued)
    }

    fn read_head(&mut self, asked: &Asked<'_>) -> Result<bool, Reason> {
        let scratch = &mut *asked.worker.scratch.borrow_mut();
        let limits = &asked.worker.limits.http;
        let parsed = parse_response(self.buffer.data(), scratch, &asked.request, limits)?;
        let Some(response) = parsed else { return Ok(false) };
        let facts = response.facts();
        if facts.phase == Phase::Interim && self.interims == INTERIM_MAX {
            return Err(Reason::UpstreamTooManyInterim);
        }
        if asked.retry.is_some_and(|rule| is_rejected(rule, &response)) {
            let whole = is_whole(&facts, self.buffer.len() - response.head_len());
            self.stage = Stage::Rejected { status: facts.status, whole };
            return Ok(true);
        }
        if facts.phase != Phase::Interim
            && let Some(plan) = &mut self.plan
            && let Some(serve) = plan.answered(&response, &asked.around())
        {
            let whole = is_whole(&facts, self.buffer.len() - response.head_len());
            self.stage = Stage::Rejected { status: facts.status, whole };
            self.serve = Some(Box::new(serve));
            return Ok(true);
        }
        let date = asked.worker.clock.date();
        let mut several = Vec::new();
        let kept = self.plan.as_ref().map_or(&b""[..], |plan| plan.lines());
        let (via, line) = asked.lines(asked.received(&response), kept, &mut several);
        let deliver = Deliver {
            request: asked.request,
            keep_alive: asked.keep_alive,
            date: &date,
            request_id: Some(asked.id),
            via,
            line,
        };
        let delivery = match asked.compress {
            None => response.write_client(&deliver, self.outbox.head())?,
            Some(_) => {
                let (encoder, head) = (&mut self.encoder, self.outbox.head());
                squeeze::write_head(&response, &deliver, asked, encoder, head)?
            }
        };
        match facts.phase {
            Phase::Interim => {
                self.interims += 1;
                self.head_begun = false;
            }
            Phase::Switch(_) => (self.stage, self.facts) = (Stage::Switched, Some(facts)),
            Phase::Final => {
                if !asked.reused {
                    self.idle_max = keep_alive_timeout(&response);
                }
                self.facts = Some(facts);
                self.relay = delivery.relay;
                self.keep_alive = delivery.keep_alive;
                self.body = BodyState::response(facts.body, limits);
                let over = delivery.relay == Relay::None || self.body.is_done();
                self.stage = if over { Stage::Over } else { Stage::Body };
            }
        }
        let head_len = response.head_len();
        if let BodyFraming::Length(length) = facts.body {
            self.buffer.expect(length);
        }
        self.buffer.consume(head_len);
        Ok(true)
    }

    /// Queues what has come of the body.
    fn pass_body(&mut self, asked: &Asked<'_>) -> Result<Step, Reason> {
        if matches!(self.relay, Relay::Decode | Relay::Compress { .. }) {
            return self.change_body(asked);
        }
        let progress = self.body.feed(self.buffer.data())?;
        let is_chunk = self.relay == Relay::Encode && progress.forward > 0;
        if is_chunk {
            self.outbox.head().extend_from_slice(ChunkHead::new(progress.forward).as_bytes());
        }
        self.outbox.push_data(0..progress.forward);
        if is_chunk {
            self.outbox.push_tail(CHUNK_END);
        }
        if progress.done {
            self.outbox.push_tail(self.body.tail());
            self.stage = Stage::Over;
        }
        self.spent = progress.taken;
        Ok(Step::Queued)
    }

    /// Queues what becomes of what has come of a body that is not sent on as it is.
    fn change_body(&mut self, asked: &Asked<'_>) -> Result<Step, Reason> {
        match self.relay {
            Relay::Decode => self.decode().map(|()| Step::Queued),
            _ => self.compress(asked).map(|()| Step::Encoded),
        }
    }

    /// Takes chunks apart for a client that does not know them. Copies: such clients are rare.
    fn decode(&mut self) -> Result<(), Reason> {
        let data = self.buffer.data();
        let head = self.outbox.head();
        while self.spent < data.len() && !self.body.is_done() {
            let rest = &data[self.spent..];
            let payload = self.body.decode(rest)?;
            head.extend_from_slice(&rest[payload.data]);
            self.spent += payload.taken;
        }
        if self.body.is_done() {
            self.stage = Stage::Over;
        }
        Ok(())
    }

    /// The instance has closed or reset the connection.
    fn ended(&mut self, error: Option<&io::Error>, asked: &Asked<'_>) -> Result<(), Failure> {
        if self.stage == Stage::Head {
            return Err(Failure::closed(error, asked.reused, self.begun));
        }
        if error.is_some() {
            // A reset is no end, even where the end of the connection is that of the body.
            return Err(Reason::UpstreamBodyCut.into());
        }
        self.body.close()?;
        match self.relay {
            Relay::Encode => self.outbox.push_tail(LAST_CHUNK),
            Relay::Compress { .. } => self.end_compressed(asked)?,
            _ => {}
        }
        self.stage = Stage::Over;
        Ok(())
    }
}

/// Whether another instance is to answer. One that says when to come back speaks for all.
fn is_rejected(rule: &RetryRule, response: &Response<'_>) -> bool {
    let facts = response.facts();
    facts.phase == Phase::Final
        && rule.rejects(facts.status)
        && response.header("retry-after").is_none()
}

/// Whether a response with `rest` bytes behind its head ends there, and its connection does not.
fn is_whole(facts: &ResponseFacts, rest: usize) -> bool {
    let is_over = match facts.body {
        BodyFraming::None => rest == 0,
        BodyFraming::Length(length) => length == rest as u64,
        BodyFraming::Chunked | BodyFraming::Close => false,
    };
    is_over && facts.reusable
}

/// `Keep-Alive: timeout=5`: not in any RFC, but what Node, Apache and others say and do. To use
/// the connection up to our own limit would be to write requests into a closing door.
fn keep_alive_timeout(response: &Response<'_>) -> Option<Duration> {
    let value = std::str::from_utf8(response.header("keep-alive")?).ok()?;
    let timeout = value.split(',').find_map(|item| item.trim().strip_prefix("timeout="))?;
    let timeout = Duration::from_secs(timeout.parse().ok()?);
    Some(timeout.saturating_sub(KEEP_ALIVE_MARGIN))
}
