//! Listeners at virtual addresses, which come and go while the router runs. Owns when they are
//! bound, tried again and closed, and that each worker accepts from them; who gets which address is
//! somebody else's.
//!
//! One that cannot be bound waits for its next try and keeps nobody else. One that is closed leaves
//! its connections alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portolan_discovery::model::{ListenerName, Protocol, ServiceName};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::ListenerConfig;
use crate::h1::Via;
use crate::listener::{self, Listener};
use crate::metrics::{ListenerMetrics, Metrics, VirtualMetrics};
use crate::router::ListenerSockets;
use crate::table::RouteEntry;
use crate::worker::Worker;

/// The name of all listeners at virtual addresses, in metrics and for `explain`.
pub const VIRTUAL_LISTENER: &str = "virtual";

/// The first wait before a listener that could not be bound is tried again; each later one is
/// twice as long. Short, because after an upgrade the process before lets go within a moment.
pub const VIRTUAL_RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest such wait.
pub const VIRTUAL_RETRY_MAX: Duration = Duration::from_secs(5);
/// The wait of a worker that got no descriptor for a socket.
const TAKE_RETRY: Duration = Duration::from_millis(100);

/// How it is with a virtual address here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualStatus {
    /// The service.
    pub service: ServiceName,
    /// Where it is reached.
    pub addr: SocketAddr,
    /// Why nobody listens there, if so.
    pub failure: Option<String>,
}

/// All listeners at virtual addresses.
#[derive(Debug)]
pub(crate) struct Virtuals {
    maker: Maker,
    /// The most that may be bound.
    max: usize,
    metrics: VirtualMetrics,
    state: Mutex<State>,
    open: watch::Sender<Arc<[Open]>>,
}

/// What listeners are made with.
#[derive(Debug)]
struct Maker {
    workers: usize,
    router: Arc<Via>,
    metrics: ListenerMetrics,
    /// Listeners for all addresses, which share their ports with virtual ones.
    for_all: Vec<SocketAddr>,
}

#[derive(Debug, Default)]
struct State {
    /// The router ends, or another process goes on with the sockets.
    is_over: bool,
    /// Numbers the listeners.
    count: u64,
    open: BTreeMap<SocketAddr, Open>,
    failed: BTreeMap<SocketAddr, Failed>,
    /// Sockets that an earlier process has bound, until it is known who is wanted.
    inherited: BTreeMap<SocketAddr, Vec<TcpListener>>,
}

/// One that is bound.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    number: u64,
    service: ServiceName,
    listener: Arc<Listener>,
    sockets: Vec<Arc<TcpListener>>,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Failed {
    service: ServiceName,
    cause: String,
    wait: Duration,
    again_at: Instant,
}

/// What a worker follows.
pub(crate) type Feed = watch::Receiver<Arc<[Open]>>;

impl Virtuals {
    /// At most `max` of them, beside `others`.
    pub(crate) fn new<'l>(
        max: usize,
        workers: usize,
        router: &Arc<Via>,
        others: impl Iterator<Item = &'l ListenerConfig>,
        metrics: &Metrics,
    ) -> Self {
        let is_for_all = |addr: &SocketAddr| addr.ip().is_unspecified();
        let maker = Maker {
            workers,
            router: Arc::clone(router),
            metrics: match max {
                0 => ListenerMetrics::detached(),
                _ => metrics.listener(&name()),
            },
            for_all: others.map(|listener| listener.bind).filter(is_for_all).collect(),
        };
        let (state, open) = (Mutex::default(), watch::Sender::new(Arc::from([])));
        Self { maker, max, metrics: metrics.virtuals.clone(), state, open }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves the maps whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a worker follows; nothing, if there are never any.
    pub(crate) fn feed(&self) -> Option<Feed> {
        (self.max > 0).then(|| self.open.subscribe())
    }

    /// Sockets to go on with, bound by an earlier process.
    pub(crate) fn inherit(&self, addr: SocketAddr, sockets: Vec<TcpListener>) {
        self.state().inherited.entry(addr).or_default().extend(sockets);
    }

    /// Listens at these addresses and at no others.
    pub(crate) fn listen<'s>(
        &self,
        wanted: impl Iterator<Item = (&'s ServiceName, SocketAddr)>,
        now: Instant,
    ) {
        let mut state = self.state();
        if state.is_over {
            return;
        }
        let wanted: BTreeMap<SocketAddr, &ServiceName> =
            wanted.map(|(service, addr)| (addr, service)).collect();
        let is_wanted = |addr: &SocketAddr, service: &ServiceName| {
            wanted.get(addr).is_some_and(|wanted| *wanted == service)
        };
        let before = state.open.len();
        state.failed.retain(|addr, failed| is_wanted(addr, &failed.service));
        state.open.retain(|addr, open| {
            let stays = is_wanted(addr, &open.service);
            if !stays {
                open.closed.cancel();
                info!(service = %open.service, %addr, "no longer listening");
            }
            stays
        });
        let mut changed = state.open.len() != before;
        for (addr, service) in wanted {
            if !state.open.contains_key(&addr) && state.is_due(addr, now) {
                changed |= self.open(&mut state, addr, service, now);
            }
        }
        // Whoever may come to need these binds them anew.
        state.inherited.clear();
        self.publish(&state, changed);
    }

    /// Tries those again whose wait is over.
    pub(crate) fn retry(&self, now: Instant) {
        let mut state = self.state();
        let due = state.failed.iter().filter(|(_, failed)| failed.again_at <= now);
        let due: Vec<_> = due.map(|(addr, failed)| (*addr, failed.service.clone())).collect();
        if due.is_empty() || state.is_over {
            return;
        }
        let mut changed = false;
        for (addr, service) in due {
            changed |= self.open(&mut state, addr, &service, now);
        }
        self.publish(&state, changed);
    }

    /// Binds one; whether that went well.
    fn open(
        &self,
        state: &mut State,
        addr: SocketAddr,
        service: &ServiceName,
        now: Instant,
    ) -> bool {
        let inherited = state.inherited.remove(&addr).unwrap_or_default();
        let made = match self.max {
            0 => Err("this router listens at no virtual addresses".to_owned()),
            max if state.open.len() >= max => {
                Err(format!("{max} are listened at, and no more may be"))
            }
            _ => self.maker.listener(addr, service, inherited).map_err(|e| e.to_string()),
        };
        match made {
            Ok((listener, sockets)) => {
                info!(%service, %addr, "listening");
                state.failed.remove(&addr);
                state.count += 1;
                let (number, closed) = (state.count, CancellationToken::new());
                let service = service.clone();
                state.open.insert(addr, Open { number, service, listener, sockets, closed });
                true
            }
            Err(cause) => {
                self.metrics.failures.inc();
                let wait = match state.failed.get(&addr) {
                    Some(failed) => (failed.wait * 2).min(VIRTUAL_RETRY_MAX),
                    None => {
                        warn!(%service, %addr, cause, "cannot listen; trying again");
                        VIRTUAL_RETRY_MIN
                    }
                };
                let (service, again_at) = (service.clone(), now + wait);
                state.failed.insert(addr, Failed { service, cause, wait, again_at });
                false
            }
        }
    }

    fn publish(&self, state: &State, changed: bool) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.listening.set(number(state.open.len()));
        self.metrics.failed.set(number(state.failed.len()));
        if changed {
            self.open.send_replace(state.open.values().cloned().collect());
        }
    }

    /// How it is with each, by address.
    pub(crate) fn status(&self) -> Vec<VirtualStatus> {
        let state = self.state();
        let open = state.open.iter().map(|(addr, open)| (addr, &open.service, None));
        let failed = state.failed.iter();
        let failed = failed.map(|(addr, one)| (addr, &one.service, Some(one.cause.clone())));
        let mut all: Vec<_> = open
            .chain(failed)
            .map(|(addr, service, failure)| VirtualStatus {
                service: service.clone(),
                addr: *addr,
                failure,
            })
            .collect();
        all.sort_by_key(|one| one.addr);
        all
    }

    /// Copies of all sockets, for a process that goes on with them.
    pub(crate) fn sockets(&self) -> io::Result<Vec<ListenerSockets>> {
        let copies = |(addr, open): (&SocketAddr, &Open)| {
            Ok(ListenerSockets {
                name: name(),
                bind: *addr,
                sockets: open.sockets.iter().map(|s| s.try_clone()).collect::<Result<_, _>>()?,
            })
        };
        self.state().open.iter().map(copies).collect()
    }

    /// Leaves what waits at these addresses to another process, which has the same sockets.
    pub(crate) fn take_away(&self, taken: impl Fn(SocketAddr) -> bool) {
        let state = self.state();
        for (_, open) in state.open.iter().filter(|(addr, _)| taken(**addr)) {
            open.listener.take_away();
        }
    }

    /// Lets go of all sockets for good: an open one would be accepted by.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        for open in state.open.values() {
            open.closed.cancel();
        }
        *state = State { is_over: true, ..State::default() };
        self.publish(&state, true);
    }

    /// Connections that are open, also of listeners that are closed.
    pub(crate) fn connections(&self) -> i64 {
        self.maker.metrics.open.get()
    }
}

impl State {
    /// Whether it is time to bind it.
    fn is_due(&self, addr: SocketAddr, now: Instant) -> bool {
        self.failed.get(&addr).is_none_or(|failed| failed.again_at <= now)
    }
}

impl Maker {
    fn listener(
        &self,
        addr: SocketAddr,
        service: &ServiceName,
        inherited: Vec<TcpListener>,
    ) -> io::Result<(Arc<Listener>, Vec<Arc<TcpListener>>)> {
        let same_family = |other: &&SocketAddr| other.is_ipv4() == addr.is_ipv4();
        let mut for_all = self.for_all.iter().filter(same_family);
        let shares_port = for_all.any(|other| other.port() == addr.port());
        let sockets = listener::bind_virtual(addr, inherited, self.workers, shares_port)?;
        let config = ListenerConfig::new(name(), addr, Protocol::Tcp);
        let route = RouteEntry::virtual_of(service);
        let listener =
            Listener::at_virtual(&config, &self.router, self.metrics.clone(), Arc::new(route));
        Ok((Arc::new(listener), sockets.into_iter().map(Arc::new).collect()))
    }
}

/// [`VIRTUAL_LISTENER`], read.
pub(crate) fn name() -> ListenerName {
    ListenerName::parse(VIRTUAL_LISTENER).expect("a constant name")
}

/// Accepts from all of them for worker `index` of `workers`, until it drains. Returns before only
/// when something has panicked.
pub(crate) async fn serve(worker: Rc<Worker>, mut feed: Feed, index: usize, workers: usize) {
    let mut tasks = JoinSet::new();
    let mut served = BTreeSet::new();
    loop {
        let open = Arc::clone(&feed.borrow_and_update());
        served.retain(|number| open.iter().any(|one| one.number == *number));
        let mut lacks = false;
        for one in open.iter().filter(|one| !served.contains(&one.number)).collect::<Vec<_>>() {
            match one.sockets_of(index, workers) {
                Ok(sockets) => {
                    served.insert(one.number);
                    for socket in sockets {
                        tasks.spawn_local(one.accept(&worker, socket));
                    }
                }
                Err(error) => {
                    worker.metrics.accept_errors.inc();
                    warn!(addr = %one.listener.bind, %error, "a worker cannot take a socket yet");
                    lacks = true;
                }
            }
        }
        // Held on to, it would keep sockets open that are to be closed.
        drop(open);
        tokio::select! {
            biased;
            () = worker.draining() => break,
            // Whoever would send has ended: the order to drain comes.
            changed = feed.changed() => if changed.is_err() {
                worker.draining().await;
                break;
            },
            Some(ended) = tasks.join_next() => if ended.is_err() {
                return;
            },
            () = tokio::time::sleep(TAKE_RETRY), if lacks => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

impl Open {
    /// One worker's share of the sockets. The originals stay, for the case that the worker fails
    /// and is started again.
    fn sockets_of(
        &self,
        worker: usize,
        workers: usize,
    ) -> io::Result<Vec<tokio::net::TcpListener>> {
        let share = self.sockets.iter().skip(worker).step_by(workers);
        share.map(|socket| tokio::net::TcpListener::from_std(socket.try_clone()?)).collect()
    }

    fn accept(
        &self,
        worker: &Rc<Worker>,
        socket: tokio::net::TcpListener,
    ) -> impl Future<Output = ()> + use<> {
        let (worker, listener) = (Rc::clone(worker), Arc::clone(&self.listener));
        let closed = self.closed.clone();
        async move {
            let until = async {
                tokio::select! {
                    () = worker.draining() => {}
                    () = closed.cancelled() => {}
                }
            };
            listener::accept(Rc::clone(&worker), listener, socket, until).await;
        }
    }
}
