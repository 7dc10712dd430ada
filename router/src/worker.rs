//! One worker: a thread with its own runtime, listening sockets, pool, wheel and view of the
//! table. Workers share nothing that a request writes but the counts of endpoints and metrics.

pub(crate) mod clock;
pub(crate) mod metrics;
mod sources;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portolan_discovery::model::Protocol;
use prometheus::IntCounter;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::balance::{Ask, Key, RETRIES_MAX, Tried};
use crate::buffer::{self, Buffer};
use crate::cache::Cache;
use crate::cell::{self, Reader, TableCell};
use crate::clock::us_at;
use crate::config::{Config, Limits, ProxyProtocol, Timeouts};
use crate::deadline::{TICK, Timer, Wheel};
use crate::drain::{self, Order};
use crate::endpoint::{Endpoint, InFlight};
use crate::greet;
use crate::h1::HeadScratch;
use crate::h2::{Lanes, Links};
use crate::listener::{self, Listener};
use crate::pages::ErrorPages;
use crate::passthrough;
use crate::pool::Pool;
use crate::proxy::{self, RetryBudget};
use crate::shed::{self, Cause};
use crate::sticky::Token;
use crate::stream::{Secured, Stream};
use crate::table::{Full, PickError, RouteEntry, Table};
use crate::tcp;
use crate::tls;
use crate::tunnel;
use crate::udp;
use crate::upstream::Own;
use crate::virtuals;
use clock::Clock;
use metrics::WorkerMetrics;
use sources::{Source, Sources};

/// Ticks between two sweeps of the pool: a connection that its instance closed is let go
/// within a second.
const SWEEP_TICKS: u32 = 10;

/// The wait before a worker that failed is started again.
const RESTART_BACK_OFF: Duration = Duration::from_millis(100);

/// What a worker thread is started with.
pub(crate) struct Start {
    pub(crate) index: usize,
    pub(crate) config: Arc<Config>,
    pub(crate) cell: Arc<TableCell>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) sockets: Vec<(Arc<Listener>, Arc<std::net::TcpListener>)>,
    pub(crate) udp_sockets: Vec<(Arc<Listener>, std::net::UdpSocket)>,
    /// Listeners at virtual addresses, if there may be any.
    pub(crate) virtuals: Option<virtuals::Feed>,
    pub(crate) order: Order,
    /// Told when this worker has moved to a newer table.
    pub(crate) moved: Arc<Notify>,
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    Serving,
    /// Takes no connection, and ends those it has with their next response.
    Draining,
    /// Closes idle connections too.
    Closing,
}

/// What all connections of a worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    /// Instances are told when their requests came.
    tells_start: bool,
    /// What errors look like, if not like the router's short text.
    pub(crate) pages: Option<Arc<ErrorPages>>,
    pub(crate) wheel: Rc<Wheel>,
    pub(crate) clock: Clock,
    pub(crate) pool: Pool,
    /// Connections to instances that speak HTTP/2.
    pub(crate) links: Links,
    /// Tasks that wait for a request of an HTTP/2 client.
    pub(crate) lanes: Lanes,
    pub(crate) budget: RetryBudget,
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// The answers that all workers keep.
    pub(crate) cache: Arc<Cache>,
    pub(crate) scratch: RefCell<HeadScratch>,
    reader: RefCell<Reader>,
    random: RefCell<fastrand::Rng>,
    life: Cell<Life>,
    drain: CancellationToken,
    open: Cell<usize>,
    /// Sessions of UDP.
    pub(crate) sessions: Cell<usize>,
    /// Connections that are being told that there is no room.
    pub(crate) shedding: Cell<usize>,
    /// Handshakes that are under way.
    pub(crate) shaking: Cell<usize>,
    /// Copies of requests that are under way.
    pub(crate) mirrored: Cell<usize>,
    /// Kept answers that are being fetched again in the background.
    pub(crate) refreshing: Cell<usize>,
    /// Connections by source, if those are limited.
    sources: Option<Sources>,
    /// Told when a connection has ended.
    ended: Notify,
    /// Told when any worker has moved to a newer table.
    pub(crate) moved: Arc<Notify>,
}

/// A client connection and what it was accepted with.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) peer: IpAddr,
    /// What it has of its own with the instances that ask for a PROXY header.
    pub(crate) own: Option<Box<Own>>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) timer: Timer,
    pub(crate) worker: Rc<Worker>,
    /// None for a stream: its connection is what is open.
    pub(crate) open: Option<Open>,
}

impl Client {
    /// The same with a session over its connection. `received` has come already.
    pub(crate) fn secure(
        self,
        session: impl Into<rustls::Connection>,
        received: &[u8],
    ) -> Result<Self, tls::Outcome> {
        match self.stream {
            Stream::Plain(tcp) => {
                let stream = Stream::Tls(Box::new(Secured::new(tcp, session, received)));
                Ok(Self { stream, ..self })
            }
            // Nobody shakes hands twice.
            Stream::Tls(_) | Stream::Inbound(_) | Stream::Outbound(_) => {
                Err(tls::Outcome::Malformed)
            }
        }
    }
}

/// What counts a connection as open while it is held.
#[derive(Debug)]
pub(crate) struct Open {
    listener: Arc<Listener>,
    worker: Rc<Worker>,
    /// What it counts for, if sources are limited.
    source: Option<Source>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.listener.metrics.open.dec();
        let worker = &self.worker;
        worker.open.set(worker.open.get() - 1);
        if let (Some(sources), Some(source)) = (&worker.sources, self.source) {
            sources.leave(source);
        }
        worker.has_ended();
        if std::thread::panicking() {
            worker.metrics.panics.inc();
            error!(listener = %self.listener.name, "a connection panicked");
        }
    }
}

impl Worker {
    fn new(start: &Start) -> Rc<Self> {
        let Config { timeouts, mut limits, request_start, .. } = *start.config;
        // What is tried more often than can be noted would be tried twice.
        limits.retries_max = limits.retries_max.min(RETRIES_MAX);
        Rc::new(Self {
            timeouts,
            limits,
            tells_start: request_start,
            pages: Some(&start.config.error_pages).filter(|pages| !pages.is_empty()).cloned(),
            wheel: Wheel::new(),
            clock: Clock::new(wall_clock()),
            pool: Pool::new(limits.upstream_idle_max),
            links: Links::default(),
            lanes: Lanes::default(),
            budget: RetryBudget::new(),
            metrics: Arc::clone(&start.metrics),
            cache: Arc::clone(&start.cache),
            scratch: RefCell::new(HeadScratch::new()),
            reader: RefCell::new(start.cell.reader()),
            random: RefCell::new(fastrand::Rng::new()),
            life: Cell::new(Life::Serving),
            drain: CancellationToken::new(),
            open: Cell::new(0),
            sessions: Cell::new(0),
            shedding: Cell::new(0),
            shaking: Cell::new(0),
            mirrored: Cell::new(0),
            refreshing: Cell::new(0),
            sources: limits.connections_per_source_max.map(Sources::new),
            ended: Notify::new(),
            moved: Arc::clone(&start.moved),
        })
    }

    /// Reads the newest table. Nothing of it may be kept but what is cloned.
    pub(crate) fn with_table<T>(&self, read: impl FnOnce(&Table) -> T) -> T {
        read(self.reader.borrow_mut().table())
    }

    /// Picks an endpoint of `route` in the newest table.
    pub(crate) fn pick(
        &self,
        route: &RouteEntry,
        key: Key<'_>,
        token: Option<Token>,
        tried: &Tried,
    ) -> Result<InFlight, PickError> {
        let random = self.random(|rng| rng.u64(..));
        let ask = Ask { now_us: us_at(now()), token, key, tried, ..Ask::first(random) };
        self.with_table(|table| route.pick(table, &ask))
    }

    /// An attempt at `endpoint` ended in a gateway error, `elapsed` after it was begun.
    pub(crate) fn failed(&self, endpoint: &Endpoint, now: Instant, elapsed: Duration) {
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let ejected = self.with_table(|table| table.failed(endpoint, us_at(now), elapsed_us));
        if let Some(time) = ejected {
            info!(
                service = %endpoint.service, instance = %endpoint.id, ?time,
                "instance ejected for its errors"
            );
        }
    }

    /// Picks for the first of those who wait for a service.
    pub(crate) fn pick_first(&self, full: &Full, key: Key<'_>) -> Result<InFlight, PickError> {
        let random = self.random(|rng| rng.u64(..));
        let key = full.key.map_or(key, Key::Again);
        let first = Ask { is_first: true, token: full.token, ..Ask::first(random) };
        let ask = Ask { now_us: us_at(now()), key, ..first };
        self.with_table(|table| table.pick_of(&full.service, &ask))
    }

    /// Draws from the worker's own source.
    pub(crate) fn random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    /// Whether errors are JSON for who would rather have that.
    pub(crate) fn gives_json(&self) -> bool {
        self.pages.as_ref().is_some_and(|pages| pages.json)
    }

    /// The moment in milliseconds of Unix time, if instances are told when their requests came.
    pub(crate) fn request_start_ms(&self) -> Option<u64> {
        self.tells_start.then(|| clock::unix_ms(wall_clock()))
    }

    /// Whether connections end with their next response.
    pub(crate) fn is_draining(&self) -> bool {
        self.life.get() >= Life::Draining
    }

    /// Whether idle connections end now.
    pub(crate) fn is_closing(&self) -> bool {
        self.life.get() == Life::Closing
    }

    /// Returns when the worker begins to drain.
    pub(crate) async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Connections and sessions of UDP that are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.open.get() + self.sessions.get()
    }

    /// Tells whoever waits for that that a connection or a session has ended.
    pub(crate) fn has_ended(&self) {
        self.ended.notify_waiters();
    }

    /// Returns when nothing is under way.
    pub(crate) async fn idle(&self) {
        while self.under_way() > 0 {
            self.ended.notified().await;
        }
    }

    /// Begins to drain: listeners stop, responses say that the connection closes.
    pub(crate) fn begin_drain(&self) {
        self.life.set(self.life.get().max(Life::Draining));
        self.drain.cancel();
    }

    /// Closes idle connections from now on.
    pub(crate) fn close_idle(&self) {
        self.life.set(Life::Closing);
        self.wheel.wake_all();
    }

    /// Serves an accepted connection in a task of its own, if there is room for it.
    pub(crate) fn admit(
        self: &Rc<Self>,
        listener: &Arc<Listener>,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        // A socket for both families writes IPv4 addresses as IPv6 ones.
        let peer = peer.ip().to_canonical();
        let source = match self.room(listener, peer) {
            Ok(source) => source,
            Err(cause) => return shed::shed(self, listener, stream.into(), cause),
        };
        let client = self.accepted(listener, stream, peer, source);
        match (listener.proxy_protocol, listener.protocol) {
            (ProxyProtocol::Off, _) if listener.tls.is_some() => {
                tokio::task::spawn_local(tls::serve(client, Buffer::default()))
            }
            (ProxyProtocol::Off, Protocol::Http) => {
                tokio::task::spawn_local(proxy::serve(client, Buffer::default()))
            }
            (ProxyProtocol::Off, Protocol::Tcp | Protocol::Udp) => {
                tokio::task::spawn_local(tcp::serve(client, Buffer::default()))
            }
            (ProxyProtocol::Off, Protocol::Tls) => {
                tokio::task::spawn_local(passthrough::serve(client, Buffer::default()))
            }
            _ => tokio::task::spawn_local(greet::serve(client)),
        };
    }

    /// Whether there is room for a connection of `peer`.
    fn room(&self, listener: &Listener, peer: IpAddr) -> Result<Option<Source>, Cause> {
        if self.open.get() >= self.limits.connections_max {
            return Err(Cause::Connections);
        }
        // An HTTP connection holds no buffer before its request, which is looked at then.
        if listener.protocol != Protocol::Http && !buffer::has_room_for(buffer::SMALL) {
            return Err(Cause::Memory);
        }
        match &self.sources {
            Some(sources) if !listener.trusts(peer) => {
                sources.enter(peer).map(Some).ok_or(Cause::Source)
            }
            _ => Ok(None),
        }
    }

    fn accepted(
        self: &Rc<Self>,
        listener: &Arc<Listener>,
        stream: TcpStream,
        peer: IpAddr,
        source: Option<Source>,
    ) -> Client {
        self.open.set(self.open.get() + 1);
        listener.metrics.accepted.inc();
        listener.metrics.open.inc();
        Client {
            stream: stream.into(),
            peer,
            own: None,
            listener: Arc::clone(listener),
            timer: self.wheel.timer(),
            worker: Rc::clone(self),
            open: Some(Open { listener: Arc::clone(listener), worker: Rc::clone(self), source }),
        }
    }
}

/// Runs a worker on this thread until the order to stop; starts it again after a failure.
pub(crate) fn run(mut start: Start) {
    let panics = start.metrics.panics.clone();
    let index = start.index;
    supervise(index, &panics, || {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(main(&mut start))
    });
    debug!(worker = index, "worker ended");
}

/// Why a worker has to be started again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("its runtime or a socket failed")]
    Io(#[from] std::io::Error),
    #[error("a background task of it ended")]
    TaskEnded,
}

fn supervise(index: usize, panics: &IntCounter, mut run: impl FnMut() -> Result<(), Failure>) {
    loop {
        match catch_unwind(AssertUnwindSafe(&mut run)) {
            Ok(Ok(())) => return,
            Ok(Err(cause)) => error!(worker = index, %cause, "worker failed and is started again"),
            Err(_) => error!(worker = index, "worker panicked and is started again"),
        }
        panics.inc();
        std::thread::sleep(RESTART_BACK_OFF);
    }
}

async fn main(start: &mut Start) -> Result<(), Failure> {
    let worker = Worker::new(start);
    buffer::set_lent_max(worker.limits.buffer_bytes_max);
    tunnel::set_pipes_max(worker.limits.pipes_max);
    cell::this_thread_reads();
    let mut background = JoinSet::new();
    background.spawn_local(tick(Rc::clone(&worker)));
    background.spawn_local(follow(Rc::clone(&worker), Arc::clone(&start.moved)));
    let mut listeners = JoinSet::new();
    for (listener, socket) in &start.sockets {
        // The original stays, for the case that this worker fails and is started again.
        let socket = TcpListener::from_std(socket.try_clone()?)?;
        let (worker, listener) = (Rc::clone(&worker), Arc::clone(listener));
        listeners.spawn_local(async move {
            let until = worker.draining();
            listener::accept(Rc::clone(&worker), listener, socket, until).await;
        });
    }
    if let Some(feed) = start.virtuals.clone() {
        let workers = start.config.workers.max(1);
        listeners.spawn_local(virtuals::serve(Rc::clone(&worker), feed, start.index, workers));
    }
    let mut sessions = JoinSet::new();
    for (listener, socket) in &start.udp_sockets {
        let socket = UdpSocket::from_std(socket.try_clone()?)?;
        sessions.spawn_local(udp::serve(Rc::clone(&worker), Arc::clone(listener), socket));
    }
    let mut order = start.order.clone();
    let serve = async {
        tokio::select! {
            _ = background.join_next() => Err(Failure::TaskEnded),
            Some(_) = listeners.join_next() => Err(Failure::TaskEnded),
            Some(_) = sessions.join_next() => Err(Failure::TaskEnded),
            () = order.drain_given() => Ok(()),
        }
    };
    serve.await?;
    // Closed for good: a listener's own copy goes when its task has taken what is accepted.
    start.sockets.clear();
    start.virtuals = None;
    tokio::select! {
        _ = background.join_next() => Err(Failure::TaskEnded),
        () = drain::run(&worker, &mut listeners, &mut order) => Ok(()),
    }
}

/// Turns the wheel, and everything else that goes by time.
async fn tick(worker: Rc<Worker>) {
    let started = tokio::time::Instant::now();
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut until_sweep, mut ticks_seen) = (SWEEP_TICKS, 0);
    loop {
        let now = interval.tick().await;
        let elapsed = now - started;
        worker.wheel.turn(elapsed);
        worker.clock.tick(wall_clock());
        let ticks = elapsed.as_millis() / TICK.as_millis();
        worker.budget.ticks(u32::try_from(ticks - ticks_seen).unwrap_or(u32::MAX));
        ticks_seen = ticks;
        buffer::show_lent(&worker.metrics.buffer_bytes);
        tunnel::show_passed(&worker.metrics.spliced_bytes);
        until_sweep -= 1;
        if until_sweep == 0 {
            until_sweep = SWEEP_TICKS;
            sweep(&worker).await;
        }
    }
}

async fn sweep(worker: &Worker) {
    worker.links.sweep(worker.wheel.now());
    tokio::task::unconstrained(async { worker.pool.sweep(worker.wheel.now()) }).await;
}

/// Moves on to newer tables even when no request does, and closes what they have no use for.
async fn follow(worker: Rc<Worker>, moved: Arc<Notify>) {
    let mut wake = worker.reader.borrow().wake();
    loop {
        worker.with_table(|_| ());
        moved.notify_waiters();
        wake.changed().await;
        sweep(&worker).await;
    }
}

/// The moment, for measuring requests.
#[expect(clippy::disallowed_methods, reason = "the worker is the shell that has the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the worker is the shell that has the clock")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Start {
        let registry = prometheus::Registry::new();
        let metrics = crate::metrics::Metrics::register(&registry).unwrap();
        Start {
            index: 0,
            config: Arc::new(Config::new(Vec::new())),
            cell: TableCell::new(Arc::new(Table::empty()), &metrics),
            metrics: WorkerMetrics::register(&registry, &metrics).unwrap(),
            cache: Cache::new(0, crate::cache::StoreMetrics::register(&registry).unwrap()),
            sockets: Vec::new(),
            udp_sockets: Vec::new(),
            virtuals: None,
            order: drain::Command::new().order(),
            moved: Arc::default(),
        }
    }

    #[test]
    fn a_connection_that_panics_is_counted_and_takes_nobody_with_it() {
        let start = start();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let worker = Worker::new(&start);
            let config = crate::config::ListenerConfig::new(
                portolan_discovery::model::ListenerName::parse("http").unwrap(),
                "127.0.0.1:0".parse().unwrap(),
                portolan_discovery::model::Protocol::Http,
            );
            let registry = prometheus::Registry::new();
            let metrics = crate::metrics::Metrics::register(&registry).unwrap();
            let router = Arc::new(crate::h1::Via::new(&crate::h1::ViaName::product(), 0));
            let bound = listener::bind(&config, Vec::new(), &router, None, 1, &metrics).unwrap();
            let stream = TcpStream::connect(bound.listener.local).await.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let client = worker.accepted(&bound.listener, stream, peer, None);
            let panicking = tokio::task::spawn_local(async move {
                let _client = client;
                panic!("a test's panic");
            });
            assert_eq!(worker.under_way(), 1);
            assert!(panicking.await.is_err());
            worker.idle().await;
            assert_eq!((worker.under_way(), start.metrics.panics.get()), (0, 1));
            assert_eq!(bound.listener.metrics.open.get(), 0);
        });
    }

    #[test]
    fn a_worker_that_fails_or_panics_is_counted_and_started_again() {
        let panics = IntCounter::new("panics", "panics").unwrap();
        let mut runs = 0;
        supervise(0, &panics, || {
            runs += 1;
            match runs {
                1 => panic!("a test's panic"),
                2 => Err(Failure::TaskEnded),
                _ => Ok(()),
            }
        });
        assert_eq!((runs, panics.get()), (3, 2));
    }
}
