//! The one place that wires the parts together: `bind` takes every socket and file or fails
//! with nothing left behind, `run` starts the parts and drains them at the end, or leaves them
//! to a process that goes on with them.

mod ack;
mod afterlife;
mod bind;
mod certify;
mod control;
mod debounce;
mod declare;
mod follow;
mod gauges;
mod greeting;
mod heir;
mod keep;
mod open;
mod probe;
mod publish;
mod save;
mod session;
mod succession;
mod takeover;
mod tickets;
mod upgrade;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_agent::Agent;
use portolan_agent::metrics::Metrics as AgentMetrics;
use portolan_discovery::snapshot::SavedFile;
use portolan_dns::{Dns, Zone};
use portolan_router::{Router, Table};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::config::Config;
use crate::controller::{Commands, Controller, Settings};
use crate::handover::{self, Main, Program};
use crate::live::{Live, OpenedStore, Readiness, UpgradeRequest, Upgrades};
use control::{Control, Crew};
use publish::{Publisher, Resolver};
use succession::Succession;
use takeover::Origin;

pub use bind::StartError;
pub use probe::{probe, warnings};

/// The longest wait for blocking calls at the end.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest wait for control tasks at the end; the router's drain is before it.
const TASKS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a retrying opener waits for a store that is not there.
const OPEN_RETRY: Duration = Duration::from_secs(1);

/// The folder of the jobs below a data folder.
pub fn jobs_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("jobs")
}

/// What a running mesh is told from outside.
pub struct Orders {
    /// End.
    pub stop: CancellationToken,
    /// What this process was started with.
    pub program: Program,
    /// The process that leads once this one only stands for it.
    pub main: Arc<Main>,
    /// Asks for upgrades.
    pub upgrades: Upgrades,
    asked: mpsc::Receiver<UpgradeRequest>,
}

impl Orders {
    /// Orders that nobody has given yet.
    ///
    /// # Errors
    /// When the system does not tell where this process works.
    pub fn new() -> std::io::Result<Self> {
        let (upgrades, asked) = Upgrades::channel();
        Ok(Self {
            stop: CancellationToken::new(),
            program: Program::this()?,
            main: Arc::default(),
            upgrades,
            asked,
        })
    }
}

/// How the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What to tell the user.
    pub farewell: String,
    /// The exit code.
    pub code: u8,
}

/// Everything bound, nothing running.
pub struct Mesh {
    config: Config,
    saved_file: SavedFile,
    opener: Arc<open::Opener>,
    store: OpenedStore,
    live: Arc<Live>,
    router: portolan_router::Bound,
    dns: Option<portolan_dns::Bound>,
    agent: Agent,
    agent_metrics: AgentMetrics,
    admin: TcpListener,
    token: Option<api::Token>,
    certifier: certify::Certifier,
    ticket_keeper: tickets::TicketKeeper,
    registry: prometheus::Registry,
    /// The process before this one, if it was taken over from.
    origin: Option<Origin>,
}

/// What lives as long as the process serves: the data plane, and what control tasks work on.
struct Plane {
    config: Config,
    saved_file: SavedFile,
    opener: Arc<open::Opener>,
    store: OpenedStore,
    live: Arc<Live>,
    router: Arc<Router>,
    dns: Option<Arc<Dns>>,
    publisher: Arc<Publisher>,
    ticket_keeper: Arc<tickets::TicketKeeper>,
    controller: Arc<Controller>,
    commands: Arc<Commands>,
    agent_metrics: AgentMetrics,
    restarts: prometheus::IntCounterVec,
    upgrade_failures: prometheus::IntCounter,
    readiness: Readiness,
    /// The admin listener, until another process has it.
    admin: Mutex<Option<Arc<TcpListener>>>,
    /// The store is about to go to another process: no call may write.
    is_closing: Arc<AtomicBool>,
    /// Processes that were replaced and drain.
    succession: Succession,
}

/// All that runs.
struct Running {
    plane: Arc<Plane>,
    /// None while another process takes over.
    control: Option<Control>,
    /// The admin listener and the certificates.
    service: Crew,
    origin: Option<Origin>,
}

impl Mesh {
    /// Runs until it is told to stop, then drains; or until another process has taken over.
    pub async fn run(self, mut orders: Orders) -> Result<Ended, StartError> {
        let mut running = self.start(&orders.upgrades)?;
        running.tell_ready().await;
        loop {
            tokio::select! {
                () = orders.stop.cancelled() => return Ok(running.stop().await),
                Some(request) = orders.asked.recv() => {
                    if let Some(heir) = running.upgrade(&request, &orders).await {
                        return Ok(running.outlive(heir, request, &orders).await);
                    }
                    orders.upgrades.again();
                }
            }
        }
    }

    fn start(self, upgrades: &Upgrades) -> Result<Running, StartError> {
        let readiness = Readiness::default();
        let saved = self.live.snapshot();
        let certifier = Arc::new(self.certifier);
        certifier.follow(&saved);
        let ticket_keeper = Arc::new(self.ticket_keeper);
        ticket_keeper.follow(&saved);
        let metrics = self.router.metrics().clone();
        let table = Table::compile(&saved, None, &metrics).table;
        let router = Arc::new(self.router.start(table).map_err(StartError::Thread)?);
        let resolver = match self.dns {
            Some(bound) => {
                let config = bind::zone_config(&self.config);
                let dns = Arc::new(bound.start(Zone::compile(&saved, None, &config))?);
                Some(Resolver { dns, config })
            }
            None => None,
        };
        let restarts = keep::register(&self.registry).map_err(StartError::Metrics)?;
        let succession = Succession::new(self.store.clone());
        let upgrade_failures =
            gauges::register(&self.registry, &self.live, succession.predecessors());
        let is_closing = Arc::new(AtomicBool::new(false));
        let plane = Arc::new(Plane {
            commands: Arc::new(control::commands(&self.store, &is_closing)),
            controller: Arc::new(Controller::new(
                self.config.node.name.clone(),
                Settings {
                    virtual_addresses: self.config.virtual_addresses,
                    ..Settings::default()
                },
            )),
            saved_file: self.saved_file,
            opener: self.opener,
            store: self.store,
            live: self.live,
            dns: resolver.as_ref().map(|resolver| resolver.dns.clone()),
            publisher: Arc::new(Publisher::new(
                router.clone(),
                certifier.clone(),
                ticket_keeper.clone(),
                resolver,
            )),
            ticket_keeper,
            router,
            agent_metrics: self.agent_metrics,
            restarts,
            upgrade_failures,
            readiness,
            admin: Mutex::default(),
            is_closing,
            succession,
            config: self.config,
        });
        let mut origin = self.origin;
        if let Some(origin) = &mut origin {
            origin.enter(&plane.succession);
        }
        plane.publisher.begin(&saved);
        let control = Some(Control::start(&plane, self.agent));
        let service = Crew::default();
        plane.follow_certificates(&service, certifier);
        plane.retry_virtual(&service);
        plane.serve_admin(&service, self.admin, self.token, self.registry, upgrades.clone());
        Ok(Running { plane, control, service, origin })
    }
}

impl Plane {
    fn drain_timeout(&self) -> Duration {
        self.config.router.drain_timeout.unwrap_or(portolan_router::DRAIN)
    }

    fn admin(&self) -> MutexGuard<'_, Option<Arc<TcpListener>>> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the certificates, until `service` ends: connections that are open by then need none.
    fn follow_certificates(&self, service: &Crew, certifier: Arc<certify::Certifier>) {
        let cancel = service.cancel.clone();
        let keeper = service.keeper(&self.restarts);
        keeper.keep("certify", move || certify::run(certifier.clone(), cancel.clone()));
    }

    /// Tries virtual addresses again that could not be bound, until `service` ends.
    fn retry_virtual(&self, service: &Crew) {
        if self.config.virtual_addresses.is_none() {
            return;
        }
        let (publisher, cancel) = (self.publisher.clone(), service.cancel.clone());
        let keeper = service.keeper(&self.restarts);
        keeper.keep("virtual", move || publisher.clone().retry_virtual(cancel.clone()));
    }

    /// The admin listener, until `service` ends.
    fn serve_admin(
        &self,
        service: &Crew,
        admin: TcpListener,
        token: Option<api::Token>,
        registry: prometheus::Registry,
        upgrades: Upgrades,
    ) {
        let context = Arc::new(api::Context {
            node: self.config.node.name.clone(),
            store: self.store.clone(),
            live: self.live.clone(),
            router: self.router.clone(),
            listeners: self.config.listeners.iter().map(|l| (l.name.clone(), l.protocol)).collect(),
            ports: self.config.port_listeners(),
            virtual_addresses: self.config.virtual_addresses,
            tls: self.config.tls_listeners(),
            certificate_files: self.config.certificates.iter().map(|c| c.name.clone()).collect(),
            commands: self.commands.clone(),
            controller: self.controller.clone(),
            jobs_dir: jobs_dir(&self.config.node.data_dir),
            registry,
            readiness: self.readiness.clone(),
            predecessors: self.succession.predecessors().clone(),
            upgrades,
            token,
            cancel: service.cancel.clone(),
        });
        let keeper = service.keeper(&self.restarts);
        let admin = Arc::new(admin);
        *self.admin() = Some(admin.clone());
        keeper.keep("admin", move || api::serve(admin.clone(), context.clone()));
    }
}

impl Running {
    /// Drains and ends everything; the jobs go on.
    async fn stop(self) -> Ended {
        let Self { plane, control, service, .. } = self;
        handover::notify("STOPPING=1");
        plane.succession.tell_stopping();
        let drain_timeout = plane.drain_timeout();
        tracing::info!(?drain_timeout, "draining");
        let drained = plane.router.drain(drain_timeout).await;
        tracing::info!(?drained, "the router has ended");
        service.cancel.cancel();
        if let Some(control) = control {
            let lease = control.stop().await;
            session::farewell(&plane.store, lease).await;
        }
        service.end().await;
        plane.opener.close("the node is stopping").await;
        let farewell = greeting::farewell(&jobs_dir(&plane.config.node.data_dir));
        if let Some(dns) = &plane.dns {
            dns.stop().await;
        }
        Ended { farewell, code: 0 }
    }
}
