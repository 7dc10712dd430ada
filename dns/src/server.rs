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

pub use socket::BindError;
use socket::Listening;
use supervise::Supervised;
pub(crate) use udp::UdpReplies;

/// Questions between the threads that answer and the one that forwards.
const HANDED_OVER_MAX: usize = 4096;
/// How long a stop waits for who waits for an upstream.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// What all threads of a resolver share.
#[derive(Debug)]
struct Shared {
    context: Arc<Context>,
    zone: ArcSwap<Zone>,
    allow: Allow,
    stop: CancellationToken,
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
    sockets: Vec<Arc<UdpReplies>>,
    threads: Vec<JoinHandle<()>>,
    /// Closed when the last thread has ended.
    ended: mpsc::Receiver<()>,
    /// Kept until the next one comes, so that the last to hold it is who publishes.
    retired: Mutex<Option<Arc<Zone>>>,
}

impl Dns {
    /// Binds every address by UDP and TCP and puts the metrics on the page of `registry`.
    pub fn bind(config: Config, registry: &Registry) -> Result<Bound, BindError> {
        let listening = config
            .bind
            .iter()
            .map(|addr| Listening::bind(*addr, config.workers))
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
        });
        let (alive, ended) = mpsc::channel(1);
        let mut dns = Dns {
            shared,
            addrs,
            sockets: Vec::new(),
            threads: Vec::new(),
            ended,
            retired: Mutex::new(None),
        };
        let (hand_over, handed_over) = mpsc::channel(HANDED_OVER_MAX);
        let mut listeners = Vec::new();
        for Listening { udp, tcp, .. } in listening {
            listeners.push(tcp);
            for socket in udp {
                dns.spawn_udp(socket, hand_over.clone(), alive.clone())?;
            }
        }
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
    pub async fn stop(mut self) {
        self.tell_to_stop();
        while self.ended.recv().await.is_some() {}
        for thread in std::mem::take(&mut self.threads) {
            // Its panics were caught and counted; here it only gives back its handle.
            let _ = thread.join();
        }
        tracing::info!(addrs = ?self.addrs, "the resolver has stopped");
    }

    fn tell_to_stop(&self) {
        self.shared.stop.cancel();
        for socket in &self.sockets {
            socket.wake();
        }
    }

    fn spawn_udp(
        &mut self,
        socket: std::net::UdpSocket,
        hand_over: mpsc::Sender<Waiter>,
        alive: mpsc::Sender<()>,
    ) -> Result<(), BindError> {
        let socket = Arc::new(UdpReplies::new(socket));
        self.sockets.push(socket.clone());
        let shared = self.shared.clone();
        let run = move || udp::serve(&socket, &shared, &hand_over);
        self.spawn("dns-udp", run, alive)
    }

    fn spawn_forward(
        &mut self,
        config: &Config,
        listeners: Vec<std::net::TcpListener>,
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
                    () = take_all(&shared, &forwarder, &mut handed_over) => {}
                    // They end with the resolver only; otherwise all is started again.
                    Some(_) = aside.join_next(), if !shared.stop.is_cancelled() => {}
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
        self.threads.push(thread);
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
) {
    loop {
        tokio::select! {
            waiter = handed_over.recv() => match waiter {
                Some(waiter) => forwarder.take(waiter),
                None => break,
            },
            () = shared.stop.cancelled() => break,
        }
    }
    let rest = async {
        while forwarder.waiters() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Who still waits then is told that there is no answer.
    let _ = tokio::time::timeout(STOP_WITHIN, rest).await;
}

fn revision(zone: &Zone) -> i64 {
    i64::try_from(zone.revision().0).unwrap_or(i64::MAX)
}
