//! The router's life: bind, start, publish, drain. The only part that the mesh sees running.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portolan_discovery::model::{ListenerName, Protocol, Revision, ServiceName};
use prometheus::Registry;
use rustix::process::{Resource, getrlimit};
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::cache::{Cache, StoreMetrics};
use crate::cell::TableCell;
use crate::config::{
    Config, ListenerConfig, connections_for, pipes_for, sessions_for, virtuals_for,
};
use crate::drain::Command;
use crate::h1::Via;
use crate::listener::{self, BindError, BoundListener, BoundUdp};
use crate::metrics::Metrics;
use crate::table::Table;
use crate::tls::{Certificates, Serving, Tickets, fresh_ticket_keys};
use crate::virtuals::{VIRTUAL_LISTENER, VirtualStatus, Virtuals};
use crate::worker::metrics::WorkerMetrics;
use crate::worker::{self, Start};

/// Fewer connections a worker are worth a warning: the usual soft limit of 1,024 files has not
/// been raised.
const CONNECTIONS_FEW: usize = 1_024;

/// A router whose sockets are bound; nothing runs yet.
#[derive(Debug)]
pub struct Bound {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    worker_metrics: Arc<WorkerMetrics>,
    listeners: Vec<BoundListener>,
    certificates: Arc<Certificates>,
    tickets: Arc<Tickets>,
    udp_listeners: Vec<BoundUdp>,
    virtuals: Virtuals,
    cache: Arc<Cache>,
}

/// A router that runs. Dropped, it cuts what is under way and waits for its threads.
#[derive(Debug)]
pub struct Router {
    cell: Arc<TableCell>,
    metrics: Arc<Metrics>,
    command: Command,
    moved: Arc<Notify>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    local_addrs: Vec<(ListenerName, SocketAddr)>,
    certificates: Arc<Certificates>,
    tickets: Arc<Tickets>,
    listeners: Vec<Arc<listener::Listener>>,
    /// The sockets of each listener, until the router ends: an open one would be accepted by.
    sockets: Mutex<Vec<Vec<Arc<TcpListener>>>>,
    virtuals: Virtuals,
    cache: Arc<Cache>,
}

/// The listening sockets of one listener, for a process that goes on with them.
#[derive(Debug)]
pub struct ListenerSockets {
    /// The listener.
    pub name: ListenerName,
    /// The address that was asked for; its port may be 0.
    pub bind: SocketAddr,
    /// Copies of the sockets: they accept what the originals accept.
    pub sockets: Vec<TcpListener>,
}

impl Bound {
    /// Where each listener is bound.
    pub fn local_addrs(&self) -> Vec<(ListenerName, SocketAddr)> {
        let listeners = self.listeners.iter().map(|bound| &bound.listener);
        let all = listeners.chain(self.udp_listeners.iter().map(|bound| &bound.listener));
        all.map(|listener| (listener.name.clone(), listener.local)).collect()
    }

    /// The metrics, which tables are compiled with.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The certificates of all listeners, for replacing them.
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// The tickets of all listeners, for replacing their keys.
    pub fn tickets(&self) -> &Arc<Tickets> {
        &self.tickets
    }

    /// Starts the workers with their first table.
    ///
    /// # Errors
    /// When the operating system gives no thread; what was started has ended then.
    pub fn start(mut self, initial: impl Into<Arc<Table>>) -> std::io::Result<Router> {
        let cell = TableCell::new(initial.into(), &self.metrics);
        let local_addrs = self.local_addrs();
        let router = Router {
            cell,
            metrics: Arc::clone(&self.metrics),
            command: Command::new(),
            moved: Arc::default(),
            threads: Mutex::default(),
            local_addrs,
            certificates: Arc::clone(&self.certificates),
            tickets: Arc::clone(&self.tickets),
            listeners: self.listeners.iter().map(|bound| Arc::clone(&bound.listener)).collect(),
            cache: Arc::clone(&self.cache),
            sockets: Mutex::new(self.listeners.iter().map(|bound| bound.sockets.clone()).collect()),
            virtuals: self.virtuals,
        };
        for index in 0..worker_count(&self.config) {
            let start = Start {
                index,
                config: Arc::clone(&self.config),
                cell: Arc::clone(&router.cell),
                metrics: Arc::clone(&self.worker_metrics),
                cache: Arc::clone(&self.cache),
                sockets: sockets_of(&self.listeners, index, worker_count(&self.config)),
                udp_sockets: udp_sockets_of_one_worker(&mut self.udp_listeners),
                virtuals: router.virtuals.feed(),
                order: router.command.order(),
                moved: Arc::clone(&router.moved),
            };
            let thread = std::thread::Builder::new()
                .name(format!("router-{index}"))
                .spawn(move || worker::run(start))?;
            router.threads().push(thread);
        }
        for (listener, addr) in &router.local_addrs {
            info!(%listener, %addr, "listening");
        }
        Ok(router)
    }

    /// Goes on with sockets at a virtual address that somebody bound before, if it is wanted when
    /// the router is told for the first time where to listen.
    pub fn inherit_virtual(&self, addr: SocketAddr, sockets: Vec<TcpListener>) {
        self.virtuals.inherit(addr, sockets);
    }
}

type Sockets<S> = Vec<(Arc<listener::Listener>, S)>;

fn sockets_of(
    listeners: &[BoundListener],
    worker: usize,
    workers: usize,
) -> Sockets<Arc<TcpListener>> {
    let of_one = |bound: &BoundListener| {
        let sockets = bound.sockets.iter().skip(worker).step_by(workers);
        let both = |socket: &Arc<_>| (Arc::clone(&bound.listener), Arc::clone(socket));
        sockets.map(both).collect::<Vec<_>>()
    };
    listeners.iter().flat_map(of_one).collect()
}

fn udp_sockets_of_one_worker(listeners: &mut [BoundUdp]) -> Sockets<std::net::UdpSocket> {
    let of_one = |bound: &mut BoundUdp| {
        let socket = bound.sockets.pop().expect("one was bound for each worker");
        (Arc::clone(&bound.listener), socket)
    };
    listeners.iter_mut().map(of_one).collect()
}

impl Router {
    /// Binds every listener for every worker and registers the metrics. Nothing runs yet.
    ///
    /// # Errors
    /// When a listener's address cannot be bound, or a metric has been registered before.
    pub fn bind(config: Config, registry: &Registry) -> Result<Bound, BindError> {
        Self::bind_with(config, registry, |_| Vec::new())
    }

    /// The same, but goes on with sockets that somebody bound before, where `inherited` has some.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_with(
        mut config: Config,
        registry: &Registry,
        mut inherited: impl FnMut(&ListenerConfig) -> Vec<TcpListener>,
    ) -> Result<Bound, BindError> {
        fit_open_files(&mut config);
        let metrics = Metrics::register(registry)?;
        let worker_metrics = WorkerMetrics::register(registry, &metrics)?;
        let cache = Cache::new(config.cache_bytes_max, StoreMetrics::register(registry)?);
        let workers = worker_count(&config);
        // Its own with each start: a router must not take another one's traffic for its own.
        let router = Arc::new(Via::new(&config.via_name, fastrand::u64(..)));
        let certificates = Arc::<Certificates>::default();
        let (udp, streams): (Vec<ListenerConfig>, Vec<_>) =
            config.listeners.iter().cloned().partition(|one| one.protocol == Protocol::Udp);
        // Until others are published; they are of no period.
        let tickets = Arc::new(Tickets::new(&fresh_ticket_keys(0)?));
        let serving = serving(&streams, &certificates, &tickets)?;
        let listeners = std::iter::zip(&streams, serving)
            .map(|(config, tls)| {
                listener::bind(config, inherited(config), &router, tls, workers, &metrics)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let udp_listeners = udp
            .iter()
            .map(|listener| listener::bind_udp(listener, &router, workers, &metrics))
            .collect::<Result<Vec<_>, _>>()?;
        let max = config.limits.virtual_listeners_max;
        let virtuals = Virtuals::new(max, workers, &router, streams.iter(), &metrics);
        let config = Arc::new(config);
        Ok(Bound {
            config,
            metrics,
            worker_metrics,
            listeners,
            udp_listeners,
            virtuals,
            certificates,
            tickets,
            cache,
        })
    }

    /// Makes `table` the one that requests are served from.
    pub fn publish(&self, table: impl Into<Arc<Table>>) {
        self.cell.publish(table.into());
    }

    /// The newest table.
    pub fn table(&self) -> Arc<Table> {
        self.cell.current()
    }

    /// The revision that every worker has moved to.
    pub fn acked(&self) -> Revision {
        self.cell.acked()
    }

    /// Returns when every worker has moved to `revision` or a later one. Drop-safe.
    pub async fn wait_acked(&self, revision: Revision) {
        loop {
            let moved = self.moved.notified();
            if self.acked() >= revision {
                return;
            }
            moved.await;
        }
    }

    /// The certificates of all listeners, for replacing them.
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// The tickets of all listeners, for replacing their keys.
    pub fn tickets(&self) -> &Arc<Tickets> {
        &self.tickets
    }

    /// The metrics, which tables are compiled with.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The answers that are kept.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Where each listener is bound.
    pub fn local_addrs(&self) -> &[(ListenerName, SocketAddr)] {
        &self.local_addrs
    }

    /// Stops accepting, lets what is under way end for up to `timeout`, then cuts the rest.
    /// Returns how many connections were cut; all threads have ended then.
    pub async fn drain(&self, timeout: Duration) -> u64 {
        self.let_go_of_sockets();
        let cut = self.command.drain(timeout).await;
        self.join();
        cut
    }

    /// Listens at these virtual addresses of services and at no others, from now on. Those that
    /// cannot be bound are tried again by [`Self::retry_virtual`].
    pub fn listen_virtual<'s>(
        &self,
        wanted: impl Iterator<Item = (&'s ServiceName, SocketAddr)>,
        now: Instant,
    ) {
        self.virtuals.listen(wanted, now);
    }

    /// Tries the virtual addresses again that could not be bound, if their wait is over.
    pub fn retry_virtual(&self, now: Instant) {
        self.virtuals.retry(now);
    }

    /// How it is with each virtual address.
    pub fn virtual_status(&self) -> Vec<VirtualStatus> {
        self.virtuals.status()
    }

    /// Copies of the sockets at virtual addresses, as [`Self::sockets`].
    ///
    /// # Errors
    /// As [`Self::sockets`].
    pub fn virtual_sockets(&self) -> std::io::Result<Vec<ListenerSockets>> {
        self.virtuals.sockets()
    }

    /// Copies of all listening sockets but those at virtual addresses, for a process that goes on
    /// with them; none once the router ends.
    ///
    /// # Errors
    /// When the operating system gives no descriptor.
    pub fn sockets(&self) -> std::io::Result<Vec<ListenerSockets>> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = |(listener, sockets): (&Arc<listener::Listener>, &Vec<Arc<TcpListener>>)| {
            Ok(ListenerSockets {
                name: listener.name.clone(),
                bind: listener.bind,
                sockets: sockets.iter().map(|s| s.try_clone()).collect::<Result<_, _>>()?,
            })
        };
        self.listeners.iter().zip(sockets.iter()).map(copies).collect()
    }

    /// As [`Self::drain`], but without haste: another process serves the same addresses, so what
    /// waits in the sockets of listeners that are `taken`, by name and address, is left to it. May
    /// be dropped while it waits, and be followed by [`Self::drain`].
    pub async fn hand_over(
        &self,
        taken: impl Fn(&str, SocketAddr) -> bool,
        timeout: Duration,
    ) -> u64 {
        for listener in self.listeners.iter().filter(|l| taken(l.name.as_str(), l.bind)) {
            listener.take_away();
        }
        self.virtuals.take_away(|addr| taken(VIRTUAL_LISTENER, addr));
        self.let_go_of_sockets();
        let cut = self.command.hand_over(timeout).await;
        self.join();
        cut
    }

    /// Client connections that are open.
    pub fn connections(&self) -> u64 {
        let open = self.listeners.iter().map(|listener| listener.metrics.open.get());
        u64::try_from(open.sum::<i64>() + self.virtuals.connections()).unwrap_or(0)
    }

    fn let_go_of_sockets(&self) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.virtuals.end();
    }

    fn join(&self) {
        for thread in std::mem::take(&mut *self.threads()) {
            if thread.join().is_err() {
                error!("a worker ended with a panic");
            }
        }
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        // A list of handles is whole at any time.
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.let_go_of_sockets();
        self.command.cut();
        self.join();
    }
}

/// A worker that has accepted what it cannot connect any further would fail every request.
fn fit_open_files(config: &mut Config) {
    let files = getrlimit(Resource::Nofile).current;
    let sessions_max = match config.listeners.iter().any(|l| l.protocol == Protocol::Udp) {
        true => config.limits.udp_sessions_max.min(sessions_for(files, worker_count(config))),
        false => 0,
    };
    let virtuals = virtuals_for(files, worker_count(config));
    config.limits.virtual_listeners_max = config.limits.virtual_listeners_max.min(virtuals);
    let pipes_max = config.limits.pipes_max.min(pipes_for(files, worker_count(config)));
    config.limits.udp_sessions_max = sessions_max;
    config.limits.pipes_max = pipes_max;
    // A worker has each listening socket twice: it may have to be started again.
    let listening = 2 * (config.listeners.len() + config.limits.virtual_listeners_max);
    let others = sessions_max.saturating_add(pipes_max.saturating_mul(2)) + listening;
    let connections_max = connections_for(files, worker_count(config), others);
    if connections_max < config.limits.connections_max.min(CONNECTIONS_FEW) {
        warn!(?files, connections_max, "the limit of open files allows few connections a worker");
    }
    config.limits.connections_max = config.limits.connections_max.min(connections_max);
}

/// The TLS of each listener, if it has any.
fn serving(
    listeners: &[ListenerConfig],
    certificates: &Arc<Certificates>,
    tickets: &Arc<Tickets>,
) -> Result<Vec<Option<Serving>>, BindError> {
    let serving = listeners.iter().map(|listener| {
        let Some(settings) = &listener.tls else { return Ok(None) };
        let protocols = match (listener.protocol, listener.http2) {
            (Protocol::Http, true) => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            (Protocol::Http, false) => vec![b"http/1.1".to_vec()],
            (Protocol::Tcp | Protocol::Udp | Protocol::Tls, _) => settings.alpn.clone(),
        };
        let serving = Serving::new(settings, protocols, certificates, tickets);
        serving
            .map(Some)
            .map_err(|source| BindError::Tls { listener: listener.name.clone(), source })
    });
    serving.collect()
}

fn worker_count(config: &Config) -> usize {
    config.workers.max(1)
}
