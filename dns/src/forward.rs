//! Asks upstreams what neither zone nor cache can answer, and answers who waits for it.
//!
//! Lives on one thread with a runtime of its own. Identical questions are asked once. Knows
//! nothing of the cluster zone: whoever comes here was not answered from it.

mod exchange;
mod follow;
mod schedule;
mod upstream;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::answer::{Miss, Note, Source, Unserved};
use crate::cache::{Cache, Key};
use crate::clock::Clock;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::server::UdpReplies;
use crate::wire::{Asked, Reply};

pub(crate) use exchange::{Failure, Secret};
pub use exchange::{ProbeError, probe_upstream};
pub(crate) use follow::{Own, follow, read_upstreams};
use schedule::Schedule;
use upstream::Upstream;

/// The longest a client waits. Stub resolvers ask again after 5 s: by then the answer is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// The same while no upstream has answered for a while: fail fast, and let them try the next.
const ANSWER_WITHIN_WHEN_DOWN: Duration = Duration::from_millis(1500);

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum ReplyTo {
    /// A datagram to `peer`.
    Udp { socket: Arc<UdpReplies>, peer: SocketAddr },
    /// The task of a connection.
    Tcp(mpsc::Sender<Vec<u8>>),
}

/// A client that waits for an upstream.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) miss: Box<Miss>,
    pub(crate) to: ReplyTo,
}

/// What forwarding shares with the threads that answer.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) cache: Cache,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
}

/// The clients that wait for the same answer.
type Waiting = Vec<(Asked<Box<[u8]>>, ReplyTo)>;

/// Asks upstreams; not shared between threads.
#[derive(Debug)]
pub(crate) struct Forwarder {
    context: Arc<Context>,
    upstreams: RefCell<Rc<[Rc<Upstream>]>>,
    /// Who waits for which answer.
    waiting: RefCell<HashMap<Box<[u8]>, Waiting>>,
    waiters: Cell<usize>,
    sockets: Semaphore,
    secret: Secret,
}

impl Forwarder {
    pub(crate) fn new(context: Arc<Context>, upstreams: &[SocketAddr]) -> Rc<Self> {
        let forwarder = Self {
            upstreams: RefCell::new(Rc::new([])),
            waiting: RefCell::default(),
            waiters: Cell::new(0),
            sockets: Semaphore::new(context.limits.upstream_sockets_max),
            secret: Secret::default(),
            context,
        };
        forwarder.use_upstreams(upstreams);
        Rc::new(forwarder)
    }

    /// Asks these from now on; what is known of the ones that stay is kept.
    pub(crate) fn use_upstreams(&self, addrs: &[SocketAddr]) {
        let old = self.upstreams.borrow().clone();
        let new = addrs
            .iter()
            .map(|addr| {
                let known = old.iter().find(|upstream| upstream.addr == *addr).cloned();
                known.unwrap_or_else(|| Rc::new(Upstream::new(*addr)))
            })
            .collect();
        self.upstreams.replace(new);
        self.context.metrics.upstreams.set(i64::try_from(addrs.len()).unwrap_or(i64::MAX));
    }

    /// How many clients wait.
    pub(crate) fn waiters(&self) -> usize {
        self.waiters.get()
    }

    /// Answers `waiter` as soon as there is an answer, and at the latest in [`ANSWER_WITHIN`].
    pub(crate) fn take(self: &Rc<Self>, waiter: Waiter) {
        let Waiter { miss, to } = waiter;
        let Miss { key, asked } = *miss;
        if self.waiters.get() >= self.context.limits.waiting_max {
            self.context.metrics.unserved(Unserved::Busy);
            return self.deliver(&asked, &to, None, Source::None);
        }
        // The answer may have come between the look-up and now.
        if let Some((reply, age_s)) = self.context.cache.peek(&key, self.context.clock.now()) {
            return self.deliver(&asked, &to, Some((&reply, age_s)), Source::Cache);
        }
        self.waiters.set(self.waiters.get() + 1);
        let mut waiting = self.waiting.borrow_mut();
        if let Some(others) = waiting.get_mut(key.as_bytes()) {
            others.push((asked, to));
            self.context.metrics.coalesced.inc();
            return;
        }
        let question: Rc<[u8]> = (&*asked.question).into();
        waiting.insert(key.as_bytes().into(), vec![(asked, to)]);
        drop(waiting);
        tokio::task::spawn_local(self.clone().run(key, question));
    }

    async fn run(self: Rc<Self>, key: Key, question: Rc<[u8]>) {
        // However this ends, nobody is left waiting.
        let mut ending = Ending { forwarder: self.clone(), key, reply: None };
        let is_down = self.upstreams.borrow().iter().all(|upstream| upstream.is_down());
        let within = if is_down { ANSWER_WITHIN_WHEN_DOWN } else { ANSWER_WITHIN };
        let query = exchange::Question {
            dnssec_ok: ending.key.dnssec_ok(),
            checking_disabled: ending.key.checking_disabled(),
            bytes: question,
        };
        let Ok(Ok(reply)) = timeout(within, self.clone().resolve(query)).await else { return };
        let reply = Arc::new(reply);
        self.context.cache.insert(&ending.key, &reply, self.context.clock.now());
        ending.reply = Some(reply);
    }

    /// Asks one upstream after the other, and the next one early when one is slow.
    async fn resolve(self: Rc<Self>, question: exchange::Question) -> Result<Reply, Failure> {
        let upstreams = self.upstreams.borrow().clone();
        let order = upstream::order(&upstreams);
        let Some(first) = order.first() else {
            self.context.metrics.upstream_failed(Failure::NoUpstream);
            return Err(Failure::NoUpstream);
        };
        if let Some(demoted) = upstream::probe_due(&upstreams, *first, self.context.clock.now()) {
            // It answers nobody: it only shows whether the upstream is worth asking again.
            self.spawn_try(demoted.clone(), question.clone(), |_| {});
        }
        let mut schedule = Schedule::new(&order);
        let (tell, mut told) = mpsc::channel(schedule::TRIES_MAX);
        let mut last = Failure::Timeout;
        while !schedule.is_over() {
            let now = self.context.clock.now();
            if self.start_due(&mut schedule, &upstreams, now, &question, &tell) {
                continue;
            }
            let wait = schedule.next_at().map_or(ANSWER_WITHIN, |at| at.saturating_sub(now));
            // Nothing is due yet, so a wait that ends only goes round to look again.
            let Ok(Some((index, result))) = timeout(wait, told.recv()).await else { continue };
            match result {
                Ok(reply) => return Ok(reply),
                Err(failure) => {
                    last = failure;
                    let now = self.context.clock.now();
                    schedule.failed(index, failure == Failure::Timeout, now);
                }
            }
        }
        Err(last)
    }

    /// Starts the next try if it is due.
    fn start_due(
        self: &Rc<Self>,
        schedule: &mut Schedule,
        upstreams: &[Rc<Upstream>],
        now: Duration,
        question: &exchange::Question,
        tell: &mpsc::Sender<(usize, Result<Reply, Failure>)>,
    ) -> bool {
        if schedule.next_at().is_none_or(|at| at > now) {
            return false;
        }
        let started = schedule.start(now, |index| upstreams[index].hedge_after());
        let Some(started) = started else { return false };
        if let Some(late) = started.late {
            upstreams[late].is_late(started.waited);
            self.context.metrics.hedges.inc();
        }
        let (tell, index) = (tell.clone(), started.index);
        self.spawn_try(upstreams[index].clone(), question.clone(), move |result| {
            // Nobody listens when another upstream was faster.
            let _ = tell.try_send((index, result));
        });
        true
    }

    /// Asks `upstream` once. The try runs to its end even if another one was faster, so that
    /// what it shows of the upstream is not lost.
    fn spawn_try(
        self: &Rc<Self>,
        upstream: Rc<Upstream>,
        question: exchange::Question,
        then: impl FnOnce(Result<Reply, Failure>) + 'static,
    ) {
        let forwarder = self.clone();
        upstream.asked(self.context.clock.now());
        tokio::task::spawn_local(async move {
            let Forwarder { context, sockets, secret, .. } = &*forwarder;
            let result = exchange::ask(&upstream, &question, context, sockets, secret).await;
            match result {
                Ok((_, after)) => {
                    upstream.answered(after);
                    context.metrics.upstream_answered(after);
                }
                Err(failure) => {
                    upstream.failed(matches!(failure, Failure::Timeout | Failure::Unreachable));
                    context.metrics.upstream_failed(failure);
                    tracing::debug!(upstream = %upstream.addr, ?failure, "no answer");
                }
            }
            then(result.map(|(reply, _)| reply));
        });
    }

    fn finish(&self, key: &Key, reply: Option<&Reply>) {
        let Some(waiting) = self.waiting.borrow_mut().remove(key.as_bytes()) else { return };
        self.waiters.set(self.waiters.get().saturating_sub(waiting.len()));
        for (asked, to) in &waiting {
            self.deliver(asked, to, reply.map(|reply| (reply, 0)), Source::Upstream);
        }
    }

    fn deliver(
        &self,
        asked: &Asked<Box<[u8]>>,
        to: &ReplyTo,
        reply: Option<(&Reply, u32)>,
        source: Source,
    ) {
        let mut out = Vec::new();
        let note = match reply {
            Some((reply, age_s)) => {
                reply.write(asked, age_s, &mut out);
                Note { qtype: asked.qtype(), rcode: reply.rcode(), source }
            }
            None => Miss::fail(asked, &mut out),
        };
        self.context.metrics.answered(note);
        match to {
            ReplyTo::Udp { socket, peer } => socket.send(&out, peer),
            // The channel has room for each query of the connection, unless it is gone.
            ReplyTo::Tcp(connection) => drop(connection.try_send(out)),
        }
    }
}

/// Answers who waits when a question's task ends, in whatever way.
struct Ending {
    forwarder: Rc<Forwarder>,
    key: Key,
    reply: Option<Arc<Reply>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.forwarder.finish(&self.key, self.reply.as_deref());
    }
}
