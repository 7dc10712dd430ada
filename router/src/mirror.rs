//! Copies of requests for another service. An answer is read and thrown away; whatever happens to
//! a copy is counted and nothing else: its request knows nothing of it.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::route::Percent;
use tokio::io::AsyncWriteExt;

use crate::balance::Ask;
use crate::buffer::{self, Buffer};
use crate::clock::us_at;
use crate::endpoint::InFlight;
use crate::h1::{
    BodyFraming, BodyState, Limits, Phase, RequestFacts, ResponseFacts, parse_response,
};
use crate::pool::{Care, Upstream};
use crate::table::RouteEntry;
use crate::upstream;
use crate::worker::{self, Worker};

/// The largest body that is copied: it is held until the copy is sent.
pub const MIRRORED_BODY_BYTES_MAX: u64 = 64 * 1024;

/// Copies that one worker has under way; no more are made then. With the largest bodies they
/// hold 16 MiB.
pub const MIRRORED_MAX: usize = 256;

/// The time for a copy to be sent and answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered, whatever the answer was.
    Answered,
    /// It could not be sent, or had no whole answer in time.
    Failed,
    /// No instance takes traffic.
    NoInstance,
    /// There were [`MIRRORED_MAX`] already, or memory is scarce.
    NoRoom,
    /// Its body is too large or of unknown length, or it asks for another protocol.
    Unfit,
    /// The client did not send all of it.
    Cut,
}

impl Outcome {
    /// Every outcome, in declaration order: the label set of a metric.
    pub(crate) const ALL: [Self; 6] =
        [Self::Answered, Self::Failed, Self::NoInstance, Self::NoRoom, Self::Unfit, Self::Cut];

    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::NoInstance => "no_instance",
            Self::NoRoom => "no_room",
            Self::Unfit => "unfit",
            Self::Cut => "cut",
        }
    }
}

/// One of the [`MIRRORED_MAX`]; when it goes, the outcome is counted.
#[derive(Debug)]
struct Place {
    worker: Rc<Worker>,
    outcome: Outcome,
}

impl Place {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        let taken = worker.mirrored.get();
        if taken >= MIRRORED_MAX || buffer::is_scarce() {
            return None;
        }
        worker.mirrored.set(taken + 1);
        Some(Self { worker: Rc::clone(worker), outcome: Outcome::Cut })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let worker = &self.worker;
        worker.mirrored.set(worker.mirrored.get() - 1);
        worker.metrics.mirrored(self.outcome);
    }
}

/// A copy that grows while its request is sent.
#[derive(Debug)]
pub(crate) struct Copy {
    place: Place,
    route: Arc<RouteEntry>,
    facts: RequestFacts,
    bytes: Vec<u8>,
    head_len: usize,
}

impl Copy {
    /// A copy of a request with this head, if it is of the part that has one, and there is room.
    /// One that has no body is on its way at once.
    #[inline(never)]
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        route: &Arc<RouteEntry>,
        percent: Percent,
        facts: RequestFacts,
        head: &[u8],
    ) -> Option<Box<Self>> {
        if !percent.has(worker.random(|rng| rng.u8(..100))) {
            return None;
        }
        let body = match facts.body {
            _ if facts.upgrade.is_some() => None,
            BodyFraming::None => Some(0),
            BodyFraming::Length(length) => {
                usize::try_from(length).ok().filter(|_| length <= MIRRORED_BODY_BYTES_MAX)
            }
            BodyFraming::Chunked | BodyFraming::Close => None,
        };
        let Some(body) = body else {
            worker.metrics.mirrored(Outcome::Unfit);
            return None;
        };
        let Some(place) = Place::take(worker) else {
            worker.metrics.mirrored(Outcome::NoRoom);
            return None;
        };
        let mut bytes = Vec::with_capacity(head.len() + body);
        bytes.extend_from_slice(head);
        let route = Arc::clone(route);
        let copy = Box::new(Self { place, route, facts, bytes, head_len: head.len() });
        if body == 0 {
            copy.send();
            return None;
        }
        Some(copy)
    }

    /// Takes a piece of the body.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// The body comes again from its beginning.
    pub(crate) fn rewind(&mut self) {
        self.bytes.truncate(self.head_len);
    }

    /// Sends it in a task of its own: it is whole.
    pub(crate) fn send(self) {
        tokio::task::spawn_local(self.run());
    }

    async fn run(mut self) {
        let worker = Rc::clone(&self.place.worker);
        self.place.outcome = Outcome::Failed;
        let Some(picked) = self.pick(&worker) else {
            self.place.outcome = Outcome::NoInstance;
            return;
        };
        let timer = worker.wheel.timer();
        timer.start(PATIENCE);
        let exchanged = timer.in_time(self.exchange(&worker, &picked)).await;
        let Some(Ok(upstream)) = exchanged else { return };
        self.place.outcome = Outcome::Answered;
        if let Some(upstream) = upstream {
            upstream::keep_ours(&worker, &picked, upstream);
        }
    }

    fn pick(&self, worker: &Worker) -> Option<InFlight> {
        let random = worker.random(|rng| rng.u64(..));
        let ask = Ask { now_us: us_at(worker::now()), ..Ask::first(random) };
        worker.with_table(|table| self.route.pick_mirror(table, &ask))
    }

    /// Sends the copy and reads its answer. The connection comes back if it can be used again.
    async fn exchange(
        &self,
        worker: &Rc<Worker>,
        picked: &InFlight,
    ) -> io::Result<Option<Upstream>> {
        let mut upstream = upstream::ours(worker, picked, Care::Once).await?;
        upstream.stream.write_all(&self.bytes).await?;
        upstream.stream.flush().await?;
        let reusable = self.read_answer(worker, &mut upstream).await?;
        Ok(reusable.then_some(upstream))
    }

    /// Reads an answer to its end. Says whether the connection can be used again.
    async fn read_answer(&self, worker: &Worker, upstream: &mut Upstream) -> io::Result<bool> {
        let limits = &worker.limits.http;
        let mut input = Buffer::default();
        let mut answer: Option<(ResponseFacts, BodyState)> = None;
        loop {
            if let Some((facts, body)) = &mut answer {
                let progress = body.feed(input.data()).map_err(io::Error::other)?;
                input.consume(progress.taken);
                if progress.done {
                    return Ok(facts.reusable && input.is_empty());
                }
            } else if let Some(facts) = self.head(worker, &mut input, limits)? {
                match facts.phase {
                    Phase::Interim => {}
                    Phase::Final => answer = Some((facts, BodyState::response(facts.body, limits))),
                    // Not asked for.
                    Phase::Switch(_) => return Err(io::ErrorKind::InvalidData.into()),
                }
                continue;
            }
            if !input.has_room() && !input.grow() {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let read = std::future::poll_fn(|cx| input.poll_fill(cx, &mut upstream.stream)).await?;
            if read == 0 {
                let is_whole = answer.is_some_and(|(facts, _)| facts.body == BodyFraming::Close);
                return if is_whole { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Takes the next head out of the input, if it is there.
    fn head(
        &self,
        worker: &Worker,
        input: &mut Buffer,
        limits: &Limits,
    ) -> io::Result<Option<ResponseFacts>> {
        let scratch = &mut *worker.scratch.borrow_mut();
        let parsed = parse_response(input.data(), scratch, &self.facts, limits);
        let Some(response) = parsed.map_err(io::Error::other)? else { return Ok(None) };
        let (facts, head_len) = (response.facts(), response.head_len());
        input.consume(head_len);
        Ok(Some(facts))
    }
}
