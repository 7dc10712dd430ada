//! The router's life: bind, start, publish, drain. The only part that the mesh sees running.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use portolan_discovery::model::{ListenerName, Revision};
use prometheus::Registry;
use rustix::process::{Resource, getrlimit};
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::cell::TableCell;
use crate::config::{Config, ListenerConfig, connections_for};
use crate::drain::Command;
use crate::h1::Via;
use crate::listener::{self, BindError, BoundListener};
use crate::metrics::Metrics;
use crate::table::Table;
use crate::tls::{self, Certificates, Serving};
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
}

impl Bound {
    /// Where each listener is bound.
    pub fn local_addrs(&self) -> Vec<(ListenerName, SocketAddr)> {
        self.listeners
            .iter()
            .map(|bound| (bound.listener.name.clone(), bound.listener.local))
            .collect()
    }

    /// The metrics, which tables are compiled with.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The certificates of all listeners, for replacing them.
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
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
        };
        for index in 0..worker_count(&self.config) {
            let start = Start {
                index,
                config: Arc::clone(&self.config),
                cell: Arc::clone(&router.cell),
                metrics: Arc::clone(&self.worker_metrics),
                sockets: self.sockets_of_one_worker(),
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

    fn sockets_of_one_worker(&mut self) -> Vec<(Arc<listener::Listener>, std::net::TcpListener)> {
        self.listeners
            .iter_mut()
            .map(|bound| {
                let socket = bound.sockets.pop().expect("one was bound for each worker");
                (Arc::clone(&bound.listener), socket)
            })
            .collect()
    }
}

impl Router {
    /// Binds every listener for every worker and registers the metrics. Nothing runs yet.
    ///
    /// # Errors
    /// When a listener's address cannot be bound, or a metric has been registered before.
    pub fn bind(mut config: Config, registry: &Registry) -> Result<Bound, BindError> {
        fit_open_files(&mut config);
        let metrics = Metrics::register(registry)?;
        let worker_metrics = WorkerMetrics::register(registry, &metrics)?;
        let workers = worker_count(&config);
        // Its own with each start: a router must not take another one's traffic for its own.
        let router = Arc::new(Via::new(&config.via_name, fastrand::u64(..)));
        let certificates = Arc::<Certificates>::default();
        let serving = serving(&config.listeners, &certificates)?;
        let listeners = std::iter::zip(&config.listeners, serving)
            .map(|(listener, tls)| listener::bind(listener, &router, tls, workers, &metrics))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Bound { config: Arc::new(config), metrics, worker_metrics, listeners, certificates })
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

    /// The metrics, which tables are compiled with.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Where each listener is bound.
    pub fn local_addrs(&self) -> &[(ListenerName, SocketAddr)] {
        &self.local_addrs
    }

    /// Stops accepting, lets what is under way end for up to `timeout`, then cuts the rest.
    /// Returns how many connections were cut; all threads have ended then.
    pub async fn drain(&self, timeout: Duration) -> u64 {
        let cut = self.command.drain(timeout).await;
        self.join();
        cut
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
        self.command.cut();
        self.join();
    }
}

/// A worker that has accepted what it cannot connect any further would fail every request.
fn fit_open_files(config: &mut Config) {
    let files = getrlimit(Resource::Nofile).current;
    let connections_max = connections_for(files, worker_count(config));
    if connections_max < config.limits.connections_max.min(CONNECTIONS_FEW) {
        warn!(?files, connections_max, "the limit of open files allows few connections a worker");
    }
    config.limits.connections_max = config.limits.connections_max.min(connections_max);
}

/// The TLS of each listener, if it has any; all with the same keys for tickets.
fn serving(
    listeners: &[ListenerConfig],
    certificates: &Arc<Certificates>,
) -> Result<Vec<Option<Serving>>, BindError> {
    let mut tickets = None;
    let serving = listeners.iter().map(|listener| {
        let Some(settings) = &listener.tls else { return Ok(None) };
        let failed = |source| BindError::Tls { listener: listener.name.clone(), source };
        let tickets = match &mut tickets {
            Some(tickets) => tickets,
            none => none.insert(tls::tickets().map_err(failed)?),
        };
        let serving = Serving::new(settings, listener.protocol, certificates, tickets);
        serving.map(Some).map_err(failed)
    });
    serving.collect()
}

fn worker_count(config: &Config) -> usize {
    config.workers.max(1)
}
