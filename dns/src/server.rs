//! The sockets and threads of the resolver: bound first, then started, then stopped.

mod socket;
mod supervise;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, CacheLimits};
use crate::clock::Clock;
use crate::config::{Allow, Config, Upstreams};
use crate::forward::{self, Context, Forwarder, Own, Waiter};
use crate::metrics::Metrics;
use crate::zone::Zone;

use socket::Listening;
pub use socket::{BindError, Inherited};
use supervise::Supervised;
pub(crate) use udp::UdpReplies;

/// Questions between the threads that answer and the one that forwards.
const HANDED_OVER_MAX: usize = 4096;
/// How long a stop waits for who waits for an upstream.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// How long a hand-over waits for that, and for connections by TCP: longer than the longest
/// answer of an upstream takes, and than a connection may do nothing by default.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(15);

/// What all threads of a resolver share.
#[derive(Debug)]
struct Shared {
    context: Arc<Context>,
    zone: ArcSwap<Zone>,
    allow: Allow,
    /// No more is read from the bound sockets.
    stop: CancellationToken,
    /// No more is waited for either; follows `stop`.
    end: CancellationToken,
}

/// A resolver with its sockets, which answers nobody yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    metrics: Metrics,
    listening: Vec<Listening>,
}

/// A resolver that answers. Dropped, it stops without waiting.
#[derive(Debug)]
pub struct Dns {
    shared: Arc<Shared>,
    addrs: Vec<SocketAddr>,
    /// Until the resolver has ended: an open one is bound.
    listening: Mutex<Vec<Shareable>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Closed when the last thread has ended.
    ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
    /// Kept until the next one comes, so that the last to hold it is who publishes.
    retired: Mutex<Option<Arc<Zone>>>,
}

/// The sockets of one address, as they can be shared.
#[derive(Debug)]
struct Shareable {
    bind: SocketAddr,
    udp: Vec<Arc<UdpReplies>>,
    tcp: Arc<std::net::TcpListener>,
}

/// The sockets of one address, for a process that goes on with them.
#[derive(Debug)]
pub struct AddressSockets {
    /// The address that was asked for; its port may be 0.
    pub bind: SocketAddr,
    /// Copies of the sockets by UDP.
    pub udp: Vec<std::net::UdpSocket>,
    /// A copy of the socket by TCP.
    pub tcp: std::net::TcpListener,
}

impl Dns {
    /// Binds every address by UDP and TCP and puts the metrics on the page of `registry`.
    pub fn bind(config: Config, registry: &Registry) -> Result<Bound, BindError> {
        Self::bind_with(config, registry, |_| Inherited::default())
    }

    /// The same, but goes on with sockets that somebody bound before, where `inherited` has some.
    pub fn bind_with(
        config: Config,
        registry: &Registry,
        mut inherited: impl FnMut(SocketAddr) -> Inherited,
    ) -> Result<Bound, BindError> {
        let listening = config
            .bind
            .iter()
            .map(|addr| Listening::bind(*addr, config.workers, inherited(*addr)))
            .collect::<Result<_, _>>()?;
        let metrics = Metrics::register(registry)?;
        Ok(Bound { config, metrics, listening })
    }
}

impl Bound {
    /// The addresses it listens on, in the order of the configuration.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listening.iter().map(|listening| listening.addr).collect()
    }

    /// Starts the threads; `zone` is answered from now on.
    pub fn start(self, zone: Zone) -> Result<Dns, BindError> {
        let addrs = self.local_addrs();
        let Self { config, metrics, listening } = self;
        metrics.zone_revision.set(revision(&zone));
        let limits = CacheLimits {
            bytes_max: config.limits.cache_bytes_max,
            ttl_max: config.limits.ttl_max,
            negative_ttl_max: config.limits.negative_ttl_max,
        };
        let cache = Cache::new(limits, metrics.cache.clone());
        let clock = Clock::start();
        let shared = Arc::new(Shared {
            context: Arc::new(Context { cache, metrics, clock, limits: config.limits.clone() }),
            zone: ArcSwap::from_pointee(zone),
            allow: Allow(config.allow.clone()),
            stop: CancellationToken::new(),
            end: CancellationToken::new(),
        });
        let (alive, ended) = mpsc::channel(1);
        let mut dns = Dns {
            shared,
            addrs,
            listening: Mutex::default(),
            threads: Mutex::default(),
            ended: tokio::sync::Mutex::new(ended),
            retired: Mutex::new(None),
        };
        let (hand_over, handed_over) = mpsc::channel(HANDED_OVER_MAX);
        let mut listeners = Vec::new();
        for Listening { bind, udp, tcp, .. } in listening {
            let udp: Vec<_> = udp.into_iter().map(UdpReplies::new).map(Arc::new).collect();
            listeners.push(tcp.clone());
            for socket in &udp {
                dns.spawn_udp(socket.clone(), hand_over.clone(), alive.clone())?;
            }
            dns.listening().push(Shareable { bind, udp, tcp });
        }
        // The questions end when the last thread that asks has.
        drop(hand_over);
        dns.spawn_forward(&config, listeners, handed_over, alive)?;
        tracing::info!(addrs = ?dns.addrs, zone = %config.zone.name, "the resolver answers");
        Ok(dns)
    }
}

impl Dns {
    /// The addresses it listens on, in the order of the configuration.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The zone that is being answered.
    pub fn zone(&self) -> Arc<Zone> {
        self.shared.zone.load_full()
    }

    /// Answers `zone` from now on: no query is lost, none sees half of it.
    pub fn publish(&self, zone: Zone) {
        self.shared.context.metrics.zone_revision.set(revision(&zone));
        let old = self.shared.zone.swap(Arc::new(zone));
        // A worker holds a zone for one batch, so the one before the last is ours alone.
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        *retired = Some(old);
    }

    /// Stops: no query is read any more, who waits for an upstream is answered within
    /// a second, then all threads have ended.
    pub async fn stop(&self) {
        self.tell_to_stop();
        self.ended().await;
    }

    /// Copies of all its sockets, for a process that goes on with them.
    pub fn sockets(&self) -> std::io::Result<Vec<AddressSockets>> {
        let copies = |listening: &Shareable| {
            Ok(AddressSockets {
                bind: listening.bind,
                udp: listening.udp.iter().map(|s| s.copy()).collect::<Result<_, _>>()?,
                tcp: listening.tcp.try_clone()?,
            })
        };
        self.listening().iter().map(copies).collect()
    }

    /// Stops when another process reads the same sockets: what this one has read it answers,
    /// connections by TCP end as they always do.
    pub async fn hand_over(&self) {
        // Nobody is woken: that would end the other one's wait too, for good.
        self.shared.stop.cancel();
        let end = self.shared.end.clone();
        let in_time = tokio::time::timeout(HAND_OVER_WITHIN, self.ended()).await;
        if in_time.is_err() {
            end.cancel();
            self.ended().await;
        }
    }

    fn listening(&self) -> std::sync::MutexGuard<'_, Vec<Shareable>> {
        // A list is whole at any time.
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ended(&self) {
        while self.ended.lock().await.recv().await.is_some() {}
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // Its panics were caught and counted; here it only gives back its handle.
            let _ = thread.join();
        }
        self.listening().clear();
        tracing::info!(addrs = ?self.addrs, "the resolver has stopped");
    }

    fn tell_to_stop(&self) {
        self.shared.stop.cancel();
        self.shared.end.cancel();
        for socket in self.listening().iter().flat_map(|listening| &listening.udp) {
            socket.wake();
        }
    }

    fn spawn_udp(
        &mut self,
        socket: Arc<UdpReplies>,
        hand_over: mpsc::Sender<Waiter>,
        alive: mpsc::Sender<()>,
    ) -> Result<(), BindError> {
        let shared = self.shared.clone();
        let run = move || udp::serve(&socket, &shared, &hand_over);
        self.spawn("dns-udp", run, alive)
    }

    fn spawn_forward(
        &mut self,
        config: &Config,
        listeners: Vec<Arc<std::net::TcpListener>>,
        mut handed_over: mpsc::Receiver<Waiter>,
        alive: mpsc::Sender<()>,
    ) -> Result<(), BindError> {
        let own = Own(self.addrs.clone());
        let upstreams = forward::read_upstreams(&config.upstreams, &own);
        let source = config.upstreams.clone();
        let shared = self.shared.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime needs an epoll descriptor and a pipe");
            let forwarder = Forwarder::new(shared.context.clone(), &upstreams);
            let local = LocalSet::new();
            let mut aside = JoinSet::new();
            if let Upstreams::ResolvConf(path) = &source {
                let follow = forward::follow(path.clone(), own.clone(), forwarder.clone());
                aside.spawn_local_on(follow, &local);
            }
            let open = tcp::Open::default();
            for listener in &listeners {
                let listener = listener.try_clone().expect("a descriptor is free for the copy");
                let accept = tcp::accept(listener, open.clone(), shared.clone(), forwarder.clone());
                aside.spawn_local_on(accept, &local);
            }
            local.block_on(&runtime, async {
                tokio::select! {
                    () = take_all(&shared, &forwarder, &mut handed_over, &open) => {}
                    () = one_failed(&shared, &mut aside) => {}
                }
            });
        };
        self.spawn("dns-forward", run, alive)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        run: impl FnMut() + Send + 'static,
        alive: mpsc::Sender<()>,
    ) -> Result<(), BindError> {
        let shared = self.shared.clone();
        let supervised = Supervised { name, stop: shared.stop.clone() };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                supervised.run(run, || shared.context.metrics.restarts.inc());
                drop(alive);
            })
            .map_err(|source| BindError::Thread { source })?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

/// Hands every question to the forwarder until the resolver stops, then waits for the rest.
async fn take_all(
    shared: &Shared,
    forwarder: &std::rc::Rc<Forwarder>,
    handed_over: &mut mpsc::Receiver<Waiter>,
    open: &tcp::Open,
) {
    loop {
        tokio::select! {
            waiter = handed_over.recv() => match waiter {
                Some(waiter) => forwarder.take(waiter),
                None => break,
            },
            () = shared.end.cancelled() => break,
        }
    }
    let rest = async {
        while forwarder.waiters() > 0 || !shared.end.is_cancelled() && !open.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = async {
        shared.end.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    tokio::select! {
        () = rest => {}
        // Who still waits then is told that there is no answer.
        () = limit => {}
    }
}

/// Returns when a task has ended although the resolver goes on: all is started again then.
async fn one_failed(shared: &Shared, aside: &mut JoinSet<()>) {
    while aside.join_next().await.is_some() {
        if !shared.stop.is_cancelled() {
            return;
        }
    }
    std::future::pending().await
}

fn revision(zone: &Zone) -> i64 {
    i64::try_from(zone.revision().0).unwrap_or(i64::MAX)
}
