//! Fetches a kept answer again in the background, while it is served stale. Whatever happens to it
//! is told to nobody: the next request tries again.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::plan::{Around, Plan};
use crate::balance::{Key, Tried};
use crate::buffer::{self, Buffer};
use crate::endpoint::InFlight;
use crate::h1::{BodyFraming, BodyState, Phase, RequestFacts, ResponseFacts, parse_response};
use crate::listener::Listener;
use crate::pool::{Care, Upstream};
use crate::table::RouteEntry;
use crate::upstream;
use crate::worker::Worker;

/// Answers that one worker fetches again at a time; more stay stale for a little longer.
const REFRESHES_MAX: usize = 64;
/// The time for all of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of the [`REFRESHES_MAX`].
#[derive(Debug)]
struct Place(Rc<Worker>);

impl Place {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        let taken = worker.refreshing.get();
        if taken >= REFRESHES_MAX || buffer::is_scarce() {
            return None;
        }
        worker.refreshing.set(taken + 1);
        Some(Self(Rc::clone(worker)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.refreshing.set(self.0.refreshing.get() - 1);
    }
}

/// A request of ours, made of that of a client.
#[derive(Debug)]
pub(super) struct Refresh {
    pub(super) route: Arc<RouteEntry>,
    pub(super) listener: Arc<Listener>,
    pub(super) facts: RequestFacts,
    pub(super) head: Vec<u8>,
    pub(super) plan: Box<Plan>,
    /// For whom the instance is picked.
    pub(super) peer: IpAddr,
}

impl Refresh {
    /// Begins it in a task of its own, if there is room.
    pub(super) fn begin(self, worker: &Rc<Worker>) {
        if let Some(place) = Place::take(worker) {
            tokio::task::spawn_local(self.run(place));
        }
    }

    async fn run(mut self, place: Place) {
        let worker = Rc::clone(&place.0);
        let key = Key::Source(self.peer);
        let Ok(picked) = worker.pick(&self.route, key, None, &Tried::none()) else { return };
        let timer = worker.wheel.timer();
        timer.start(PATIENCE);
        let Some(Ok(Some(upstream))) = timer.in_time(self.exchange(&worker, &picked)).await else {
            return;
        };
        upstream::keep_ours(&worker, &picked, upstream);
    }

    /// Sends the request and takes its answer. The connection comes back if it can be used again.
    async fn exchange(
        &mut self,
        worker: &Rc<Worker>,
        picked: &InFlight,
    ) -> io::Result<Option<Upstream>> {
        let mut upstream = upstream::ours(worker, picked, Care::Repeatable).await?;
        upstream.stream.write_all(&self.head).await?;
        upstream.stream.flush().await?;
        let reusable = self.read_answer(worker, &mut upstream).await?;
        Ok(reusable.then_some(upstream))
    }

    /// Reads as much of an answer as is kept. Says whether the connection can be used again.
    async fn read_answer(&mut self, worker: &Worker, upstream: &mut Upstream) -> io::Result<bool> {
        let mut input = Buffer::default();
        let mut answer: Option<(ResponseFacts, BodyState)> = None;
        loop {
            if let Some((facts, body)) = &mut answer {
                let taken = body.feed(input.data()).map_err(io::Error::other)?.taken;
                self.plan.take(&input.data()[..taken]);
                input.consume(taken);
                if body.is_done() || !self.plan.is_recording() {
                    return Ok(body.is_done() && facts.reusable && input.is_empty());
                }
            } else if !input.is_empty()
                && let Some(facts) = self.read_head(worker, &mut input)?
            {
                match facts.phase {
                    Phase::Interim => {}
                    Phase::Final => {
                        let body = BodyState::response(facts.body, &worker.limits.http);
                        answer = Some((facts, body));
                    }
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
                // What ends with its connection is not kept.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Takes the next head out of the input, if it is there, and lets the cache look at it.
    fn read_head(
        &mut self,
        worker: &Worker,
        input: &mut Buffer,
    ) -> io::Result<Option<ResponseFacts>> {
        let scratch = &mut *worker.scratch.borrow_mut();
        let parsed = parse_response(input.data(), scratch, &self.facts, &worker.limits.http);
        let Some(response) = parsed.map_err(io::Error::other)? else { return Ok(None) };
        let (facts, head_len) = (response.facts(), response.head_len());
        if facts.phase == Phase::Final {
            let around = Around {
                worker,
                listener: &self.listener,
                route: &self.route,
                request: &self.facts,
            };
            // If there is something to serve instead, it is what is served already.
            let _ = self.plan.answered(&response, &around);
        }
        debug_assert!(self.facts.body == BodyFraming::None, "what is kept was asked for without");
        input.consume(head_len);
        Ok(Some(facts))
    }
}
