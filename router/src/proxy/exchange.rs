//! One request and its response: attempts at instances, both directions at once, the waits,
//! and how it ends.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use portolan_discovery::model::RetryRule;
use tracing::debug;

use super::begin::{Order, RequestId};
use super::download::{Asked, Download, Receiving};
use super::fault::{Failure, Retry, is_gateway_status};
use super::hit::Hit;
use super::pace::{self, Pace};
use super::reply::{Answer, Asker, Form, Looks};
use super::upload::{Sending, Upload};
use super::{After, Conn};
use crate::balance::{Key, Tried};
use crate::buffer::Buffer;
use crate::clock::us_at;
use crate::compress::Wish;
use crate::deadline::{Tick, Timer};
use crate::endpoint::InFlight;
use crate::h1::{Reason, RequestFacts};
use crate::pool::{Care, Upstream};
use crate::queue::has_gone;
use crate::stream::Stream;
use crate::table::RouteEntry;
use crate::tunnel::{self, End, Pipe};
use crate::upstream;
use crate::worker::{self, Client, Worker};

/// What became of one attempt.
enum Attempt {
    /// The answer is delivered.
    Over(Upstream),
    /// Its answer was not taken, and another instance is picked.
    Rejected,
    /// What is kept is served in the place of its answer.
    Stored,
    Failed(Failure),
}

/// What became of an answer.
enum Verdict {
    Delivered,
    /// Whether it is taken depends on whether there is another instance.
    Rejected,
}

/// A request that an endpoint was picked for.
#[derive(Debug)]
pub(super) struct Exchange {
    facts: RequestFacts,
    id: RequestId,
    started: Instant,
    route: Arc<RouteEntry>,
    picked: InFlight,
    /// From when on the instance has had what it needs to answer.
    asked: Instant,
    /// Whether the client's part kept it waiting, or still does.
    uploading: bool,
    /// Whether it is known how the instance answered.
    judged: bool,
    tried: Tried,
    retries: usize,
    /// When the whole request has to be over, if its route says so.
    ends: Option<Tick>,
    upload: Upload,
    pace: Pace,
    download: Download,
    /// The client came by https.
    is_secure: bool,
    /// Which coding it accepts, if the route compresses.
    wish: Option<Wish>,
    /// Any answer is taken, also one that the route would rather not have.
    takes_any: bool,
    /// The client may have gone; bytes of its next request hide that.
    watch_client: bool,
    /// What an error looks like.
    looks: Looks,
}

impl Exchange {
    /// `asked` is when the instance was picked.
    pub(super) fn new(order: Order, picked: InFlight, asked: Instant, client: &Client) -> Self {
        let Order { facts, id, looks, started, ends, route, upload, is_secure, wish, plan } = order;
        let mut download = download(client);
        download.plan = plan;
        Self {
            facts,
            id,
            started,
            route,
            picked,
            asked,
            uploading: false,
            judged: false,
            tried: Tried::none(),
            retries: 0,
            ends,
            upload,
            pace: Pace::new(client.worker.wheel.now()),
            download,
            is_secure,
            wish,
            takes_any: false,
            watch_client: true,
            looks,
        }
    }

    /// Sends the request and delivers the response, or the reason why there is none.
    pub(super) async fn run(&mut self, conn: &mut Conn) -> After {
        let mut fresh = false;
        loop {
            let failure = match self.attempt(conn, fresh).await {
                Attempt::Over(upstream) if self.download.is_switched() => {
                    return Box::pin(self.tunnel(conn, upstream.stream)).await;
                }
                Attempt::Over(upstream) => return self.finish(conn, upstream),
                Attempt::Stored => return self.serve(conn).await,
                Attempt::Rejected => {
                    fresh = false;
                    continue;
                }
                Attempt::Failed(failure) => failure,
            };
            if failure.blames_instance() && !self.judged {
                self.judged = true;
                let now = worker::now();
                conn.client.worker.failed(&self.picked, now, now - self.asked);
            }
            if !self.may_retry(conn, failure) {
                return self.fail(conn, failure.reason).await;
            }
            // What else is kept may be as dead as this one was.
            fresh = true;
        }
    }

    async fn attempt(&mut self, conn: &mut Conn, fresh: bool) -> Attempt {
        let kept = if fresh { None } else { self.kept(&conn.client) };
        let mut upstream = match kept {
            Some(kept) => kept,
            None => {
                let stream = match self.connect(conn).await {
                    Ok(stream) => stream,
                    Err(failure) => return Attempt::Failed(failure),
                };
                let idle_max = conn.client.worker.timeouts.upstream_idle;
                Upstream { stream, reused: false, idle_max }
            }
        };
        // The waits begin.
        let mut moved = true;
        loop {
            let polled = poll_fn(|cx| self.poll(cx, conn, &mut upstream, &mut moved)).await;
            match polled {
                Ok(Verdict::Delivered) => return Attempt::Over(upstream),
                Ok(Verdict::Rejected) if self.download.serve.is_some() => {
                    self.judge(&conn.client.worker, worker::now());
                    self.leave(conn, upstream);
                    return Attempt::Stored;
                }
                Ok(Verdict::Rejected) => match self.another(conn, true, true) {
                    Some(picked) => {
                        self.judge(&conn.client.worker, worker::now());
                        self.leave(conn, upstream);
                        self.turn_to(conn, picked);
                        return Attempt::Rejected;
                    }
                    None => {
                        self.takes_any = true;
                        self.download.accept();
                    }
                },
                Err(failure) => return Attempt::Failed(failure),
            }
        }
    }

    fn kept(&self, client: &Client) -> Option<Upstream> {
        let care = if self.facts.method.is_idempotent() { Care::Repeatable } else { Care::Once };
        let kept = upstream::kept(client, &self.picked, care)?;
        client.worker.metrics.upstream_reused.inc();
        Some(kept)
    }

    async fn connect(&mut self, conn: &mut Conn) -> Result<Stream, Failure> {
        if !self.picked.http2 {
            conn.client.worker.metrics.upstream_opened.inc();
        }
        let wait = self.route.timeouts().connect.unwrap_or(conn.client.worker.timeouts.connect);
        self.start_wait(&conn.client.timer, wait);
        let ends = self.ends;
        let mut connecting = pin!(upstream::open(&conn.client, &self.picked));
        let connected = poll_fn(|cx| {
            if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
                return Poll::Ready(connected.map_err(|error| Failure::connect(&error)));
            }
            if has_gone(cx, &mut conn.client.stream, &mut self.watch_client) {
                return Poll::Ready(Err(Failure::last(Reason::ClientGone)));
            }
            let timer = &conn.client.timer;
            if timer.is_due() {
                return Poll::Ready(Err(Failure {
                    reason: Reason::UpstreamConnectTimeout,
                    retry: if is_out_of_time(ends, timer) { Retry::Never } else { Retry::Safe },
                }));
            }
            timer.watch(cx);
            Poll::Pending
        })
        .await;
        if let Err(failure) = &connected
            && !matches!(failure.reason, Reason::ClientGone | Reason::Overloaded)
        {
            self.picked.metrics.connect_failures.inc();
        }
        connected
    }

    /// Moves bytes in both directions until the response is delivered.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Conn,
        upstream: &mut Upstream,
        moved: &mut bool,
    ) -> Poll<Result<Verdict, Failure>> {
        let client = &mut conn.client;
        let sending = self.upload.poll(
            cx,
            &mut client.stream,
            &mut conn.input,
            &mut upstream.stream,
            moved,
        )?;
        let asked = Asked {
            worker: &client.worker,
            listener: &client.listener,
            request: self.facts,
            id: self.id.as_bytes(),
            // Where a request that was not read would end, nobody knows.
            keep_alive: self.facts.keep_alive
                && self.upload.is_read()
                && !client.worker.is_draining(),
            reused: upstream.reused,
            is_h2: upstream.stream.is_h2(),
            picked: &self.picked,
            is_secure: self.is_secure,
            hsts_line: if self.is_secure { self.route.hsts_line() } else { None },
            compress: self.wish.and_then(|wish| Some((self.route.compress()?, wish))),
            route: &self.route,
            retry: rule(&self.route, self.takes_any, &self.facts, self.retries),
        };
        let received =
            self.download.poll(cx, &mut client.stream, &mut upstream.stream, &asked, moved);
        if self.upload.is_repeatable() && self.download.is_settled(asked.retry) {
            self.upload.settle(&mut conn.input);
        }
        let receiving = received?;
        self.follow_upload(sending);
        match receiving {
            Receiving::Over => return Poll::Ready(Ok(Verdict::Delivered)),
            Receiving::Verdict => return Poll::Ready(Ok(Verdict::Rejected)),
            Receiving::Client | Receiving::Upstream => {}
        }
        if !self.judged && self.download.facts().is_some() {
            self.judge(&conn.client.worker, worker::now());
        }
        if sending == Sending::Over && has_gone(cx, &mut conn.client.stream, &mut self.watch_client)
        {
            return Poll::Ready(Err(self.gone_reason().into()));
        }
        let (wait, reason) = self.wait(&conn.client.worker, sending, receiving);
        let paced = self.paced(&conn.client.worker, sending, reason);
        let timer = &conn.client.timer;
        if std::mem::take(moved) {
            self.start_wait(timer, wait);
            if let Some(due) = paced {
                timer.bring_forward(due);
            }
        }
        if timer.is_due() {
            return Poll::Ready(Err(reason.into()));
        }
        timer.watch(cx);
        Poll::Pending
    }

    /// An instance is not slow because its client is: where the request takes several turns, its
    /// time counts from the end of it.
    fn follow_upload(&mut self, sending: Sending) {
        if sending != Sending::Over {
            self.uploading = true;
        } else if self.uploading && self.download.facts().is_none() {
            self.uploading = false;
            self.asked = worker::now();
        }
    }

    /// Notes how long the instance took to answer, and whether it works.
    fn judge(&mut self, worker: &Worker, now: Instant) {
        self.judged = true;
        let elapsed = now - self.asked;
        match self.download.status() {
            Some(status) if is_gateway_status(status) => {
                worker.failed(&self.picked, now, elapsed);
            }
            _ => {
                let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
                let known = (!self.uploading).then_some(elapsed_us);
                self.picked.state.answered(us_at(now), known);
            }
        }
    }

    fn gone_reason(&self) -> Reason {
        match self.download.facts() {
            Some(_) => Reason::ClientGoneInBody,
            None => Reason::ClientGone,
        }
    }

    /// What is waited for, how long, and what it means when it does not come.
    fn wait(&self, worker: &Worker, sending: Sending, receiving: Receiving) -> (Duration, Reason) {
        let timeouts = &worker.timeouts;
        if receiving == Receiving::Client {
            return (timeouts.client_write, Reason::ClientWriteTimeout);
        }
        if self.download.facts().is_some() {
            let body_idle = self.route.timeouts().body_idle.unwrap_or(timeouts.response_idle);
            return (body_idle, Reason::UpstreamBodyTimeout);
        }
        let awaits_permission = self.facts.expect_continue
            && self.upload.body_bytes() == 0
            && !self.download.had_interim();
        if sending == Sending::Client && !awaits_permission {
            // A call of gRPC may say little for long, as its answer may.
            let usual = match self.looks {
                Looks::Grpc => timeouts.response_idle,
                Looks::Page | Looks::Json => timeouts.client_body,
            };
            let body_idle = self.route.timeouts().body_idle.unwrap_or(usual);
            return (body_idle, Reason::BodyTimeout);
        }
        let first_byte = self.route.timeouts().first_byte.unwrap_or(timeouts.first_byte);
        (first_byte, Reason::UpstreamTimeout)
    }

    /// By when the client has to send more, if it is the client that is waited for.
    fn paced(&mut self, worker: &Worker, sending: Sending, reason: Reason) -> Option<Tick> {
        match (sending, reason) {
            (Sending::Over, _) => None,
            _ if self.looks == Looks::Grpc => None,
            (Sending::Client, Reason::BodyTimeout) => self.body_due(worker),
            (Sending::Client | Sending::Upstream, _) => {
                self.pace.blocked(worker.wheel.now());
                None
            }
        }
    }

    /// By when more of the request body has to come for it to keep its pace.
    fn body_due(&mut self, worker: &Worker) -> Option<Tick> {
        let rule = pace::Rule {
            bytes_per_s: worker.limits.body_rate_min,
            grace: worker.timeouts.client_body_grace,
        };
        self.pace.due(&rule, self.upload.body_bytes(), worker.wheel.now())
    }

    fn start_wait(&self, timer: &Timer, wait: Duration) {
        let due = timer.after(wait);
        timer.set(self.ends.map_or(due, |ends| ends.min(due)));
    }

    fn is_out_of_time(&self, timer: &Timer) -> bool {
        is_out_of_time(self.ends, timer)
    }

    /// Decides on another attempt after a failure.
    fn may_retry(&mut self, conn: &Conn, failure: Failure) -> bool {
        let allowed = match failure.retry {
            Retry::Never => false,
            Retry::Safe | Retry::Refused => true,
            Retry::Reused => self.facts.method.is_idempotent() || self.upload.is_unsent(),
        };
        if !allowed || self.retries >= conn.client.worker.limits.retries_max {
            return false;
        }
        match self.another(conn, failure.retry == Retry::Safe, failure.costs_budget()) {
            Some(picked) => {
                self.turn_to(conn, picked);
                true
            }
            None => false,
        }
    }

    /// Picks for another attempt from the newest table: an instance that has begun to drain is
    /// not picked again, nor is the last one if it is to be avoided.
    fn another(&mut self, conn: &Conn, avoid: bool, costs: bool) -> Option<InFlight> {
        let worker = &conn.client.worker;
        if !self.upload.is_repeatable() || self.is_out_of_time(&conn.client.timer) {
            return None;
        }
        let mut tried = self.tried;
        if avoid {
            tried.insert(self.picked.state.pool_key());
        }
        let key = self.picked.key().map_or(Key::None, Key::Again);
        let picked = worker.pick(&self.route, key, self.picked.token(), &tried).ok()?;
        // Last, so that nothing is paid for a retry that there is no instance for.
        if costs && !worker.budget.spend() {
            return None;
        }
        self.tried = tried;
        Some(picked)
    }

    /// Begins again with another pick.
    fn turn_to(&mut self, conn: &Conn, picked: InFlight) {
        self.picked = picked;
        (self.asked, self.uploading, self.judged) = (worker::now(), false, false);
        self.picked.metrics.retries.inc();
        self.retries += 1;
        self.upload.rewind();
        let plan = self.download.plan.take();
        self.download = download(&conn.client);
        self.download.plan = plan;
    }

    /// Keeps the connection of a rejected answer if nothing of that is left on it.
    fn leave(&self, conn: &mut Conn, upstream: Upstream) {
        if self.upload.is_sent() && self.download.is_rejected_whole() && self.picked.keep_alive {
            upstream::keep(&mut conn.client, &self.picked, upstream);
        }
    }

    /// The response is delivered.
    fn finish(&mut self, conn: &mut Conn, mut upstream: Upstream) -> After {
        let now = worker::now();
        self.count(self.download.facts().map_or(0, |facts| facts.status), now);
        let worker = &conn.client.worker;
        if !self.judged {
            self.judge(worker, now);
        }
        let sent = self.upload.is_sent();
        self.upload.let_go(&mut conn.input);
        if sent && self.download.keeps_upstream() && self.picked.keep_alive {
            if let Some(idle_max) = self.download.idle_max() {
                upstream.idle_max = upstream.idle_max.min(idle_max);
            }
            upstream::keep(&mut conn.client, &self.picked, upstream);
        }
        match self.download.keeps_client() {
            true => After::Next,
            false if self.upload.is_read() && conn.input.is_empty() => After::Close,
            false => After::Linger,
        }
    }

    /// Serves what is kept in the place of a response.
    async fn serve(&mut self, conn: &mut Conn) -> After {
        let Some(serve) = self.download.serve.take() else { return After::Close };
        let (id, route) = (self.id.clone(), Arc::clone(&self.route));
        let mut hit = Box::new(Hit::new(*serve, self.facts, id, route, self.wish, self.is_secure));
        self.count(hit.status(), worker::now());
        self.upload.let_go(&mut conn.input);
        hit.run(conn).await
    }

    /// There is no response, or only a part of one.
    async fn fail(&mut self, conn: &mut Conn, reason: Reason) -> After {
        if self.download.is_untold() && reason.status() != 499 {
            let stale = self.download.plan.as_mut().and_then(|plan| plan.failed());
            if let Some(serve) = stale {
                conn.client.worker.metrics.ended(reason);
                self.download.serve = Some(Box::new(serve));
                return self.serve(conn).await;
            }
        }
        self.count(reason.status(), worker::now());
        let body_read = self.upload.is_read();
        self.upload.let_go(&mut conn.input);
        let is_answerable = self.download.is_untold() && reason.status() != 499;
        if is_answerable {
            self.download.forget_answer();
            let outbox = &mut self.download.outbox;
            let answer = {
                let form = Form {
                    route: Some(Arc::clone(&self.route)),
                    looks: self.looks,
                    is_secure: self.is_secure,
                };
                let (facts, id) = (Some(self.facts), Some(&self.id));
                let asker = Asker { facts, id, form: &form, body_read };
                Answer::to(&asker, reason, conn, outbox)
            };
            return answer.send(conn, outbox).await;
        }
        conn.client.worker.metrics.ended(reason);
        debug!(
            listener = %conn.client.listener.name, peer = %conn.peer, id = %self.id,
            service = %self.picked.service, instance = %self.picked.id,
            reason = reason.as_str(), code = reason.code(), "request cut"
        );
        if self.download.ends_with_connection() {
            // A plain close would make the part look whole.
            conn.client.stream.abort();
        }
        After::Close
    }

    fn count(&self, status: u16, now: Instant) {
        let seconds = (now - self.started).as_secs_f64();
        self.picked.metrics.answered(status, seconds);
    }

    /// Relays an upgraded connection until both sides have ended; in flight all the while.
    async fn tunnel(&mut self, conn: &mut Conn, mut upstream: Stream) -> After {
        let now = worker::now();
        self.count(self.download.facts().map_or(0, |facts| facts.status), now);
        if !self.judged {
            self.judge(&conn.client.worker, now);
        }
        let client = &mut conn.client;
        let idle = self.route.timeouts().tunnel_idle.unwrap_or(client.worker.timeouts.tunnel_idle);
        let mut up = Pipe::with(std::mem::take(&mut conn.input));
        let mut down = Pipe::with(self.download.take_rest());
        let (timer, stream) = (&client.timer, &mut client.stream);
        let end = tunnel::relay(stream, &mut upstream, &mut up, &mut down, timer, idle).await;
        let reason = match end {
            End::Closed => return After::Close,
            End::Client => Reason::ClientGoneInBody,
            End::Upstream => Reason::UpstreamBodyCut,
            End::Idle => Reason::TunnelIdle,
        };
        client.worker.metrics.ended(reason);
        After::Close
    }
}

fn download(client: &Client) -> Download {
    let buffer = if client.stream.is_one_of_many() { Buffer::small() } else { Buffer::default() };
    Download::new(&client.worker, buffer)
}

fn is_out_of_time(ends: Option<Tick>, timer: &Timer) -> bool {
    ends.is_some_and(|ends| timer.has_passed(ends))
}

/// The rule of the route, while it can lead to another attempt.
fn rule<'r>(
    route: &'r RouteEntry,
    takes_any: bool,
    facts: &RequestFacts,
    retries: usize,
) -> Option<&'r RetryRule> {
    let rule = route.retry()?;
    let is_open =
        !takes_any && facts.method.is_idempotent() && retries + 1 < usize::from(rule.attempts());
    is_open.then_some(rule)
}
