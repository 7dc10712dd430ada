//! The one place that wires the parts together: `bind` takes every socket and file or fails
//! with nothing left behind, `run` starts the parts and drains them at the end.

mod ack;
mod bind;
mod certify;
mod debounce;
mod declare;
mod follow;
mod gauges;
mod greeting;
mod keep;
mod open;
mod probe;
mod publish;
mod save;
mod session;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portolan_agent::Agent;
use portolan_discovery::model::{LeaseId, Node};
use portolan_discovery::snapshot::SavedFile;
use portolan_dns::{Dns, Zone};
use portolan_router::{Router, Table};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api;
use crate::clock;
use crate::config::Config;
use crate::controller::{Commands, Controller, Settings};
use crate::live::{Live, OpenedStore, Readiness};
use keep::Keeper;
use publish::{Publisher, Resolver};

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

/// Everything bound, nothing running.
pub struct Mesh {
    config: Config,
    saved_file: SavedFile,
    opener: open::Opener,
    store: OpenedStore,
    live: Arc<Live>,
    router: portolan_router::Bound,
    dns: Option<portolan_dns::Bound>,
    agent: Agent,
    admin: TcpListener,
    token: Option<api::Token>,
    certifier: certify::Certifier,
    registry: prometheus::Registry,
}

/// The running parts that the end has to wait for.
struct Running {
    router: Arc<Router>,
    dns: Option<Arc<Dns>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Mesh {
    /// Runs until `stop`, then drains. Returns what to tell the user at the end.
    pub async fn run(self, stop: CancellationToken) -> Result<String, StartError> {
        let drain_timeout = self.config.router.drain_timeout.unwrap_or(portolan_router::DRAIN);
        let jobs = jobs_dir(&self.config.node.data_dir);
        let running = self.start()?;
        stop.cancelled().await;
        tracing::info!(?drain_timeout, "draining");
        let drained = running.router.drain(drain_timeout).await;
        tracing::info!(?drained, "the router has ended");
        running.cancel.cancel();
        running.tasks.close();
        if tokio::time::timeout(TASKS_TIMEOUT, running.tasks.wait()).await.is_err() {
            tracing::warn!("some control tasks did not end in {TASKS_TIMEOUT:?}");
        }
        if let Some(dns) = running.dns.and_then(Arc::into_inner) {
            dns.stop().await;
        }
        Ok(greeting::farewell(&jobs))
    }

    fn start(self) -> Result<Running, StartError> {
        let readiness = Readiness::default();
        let cancel = CancellationToken::new();
        let tasks = TaskTracker::new();
        let saved = self.live.snapshot();
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
        let dns = resolver.as_ref().map(|resolver| resolver.dns.clone());
        gauges::register(&self.registry, &self.live);
        let publisher = Publisher::new(router.clone(), resolver);
        let keeper = Keeper::new(tasks.clone(), cancel.clone(), &self.registry)
            .map_err(StartError::Metrics)?;
        let parts = Parts {
            keeper,
            config: self.config,
            store: self.store,
            live: self.live,
            router: router.clone(),
            registry: self.registry,
            readiness,
            tasks: tasks.clone(),
            cancel: cancel.clone(),
        };
        parts.start_opener(self.opener);
        parts.start_data_plane(publisher, self.saved_file);
        tasks.spawn(self.agent.run(cancel.clone()));
        parts.start_certifier(self.certifier);
        parts.start_control(self.admin, self.token);
        Ok(Running { router, dns, tasks, cancel })
    }
}

/// What the control tasks are started with.
struct Parts {
    keeper: Keeper,
    config: Config,
    store: OpenedStore,
    live: Arc<Live>,
    router: Arc<Router>,
    registry: prometheus::Registry,
    readiness: Readiness,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Parts {
    fn start_opener(&self, opener: open::Opener) {
        let token = self.readiness.token("store");
        let opened = self.store.clone();
        self.tasks.spawn(opener.run(OPEN_RETRY, self.cancel.clone()));
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                _ = opened.ready() => drop(token),
                () = cancel.cancelled() => {}
            }
        });
    }

    /// What router and resolver need: the follower, the saver, the lease, the acknowledger.
    fn start_data_plane(&self, publisher: Publisher, saved: SavedFile) {
        let Self { keeper, store, live, router, cancel, .. } = self;
        let (node, publisher) = (self.node(), Arc::new(publisher));
        let lease: Arc<watch::Sender<Option<LeaseId>>> = Arc::new(watch::Sender::new(None));
        let part = (store.clone(), live.clone(), cancel.clone());
        keeper.keep("follow", {
            let (store, live, cancel) = part.clone();
            move || follow::run(store.clone(), live.clone(), publisher.clone(), cancel.clone())
        });
        keeper.keep("save", {
            let (store, live, cancel) = part.clone();
            move || save::run(store.clone(), live.clone(), saved.clone(), cancel.clone())
        });
        keeper.keep("ack", {
            let (store, live, cancel) = part;
            let (name, router, lease) = (node.name.clone(), router.clone(), lease.subscribe());
            move || {
                let (store, live, cancel) = (store.clone(), live.clone(), cancel.clone());
                ack::run(name.clone(), store, live, router.clone(), lease.clone(), cancel)
            }
        });
        keeper.keep("session", {
            let (store, cancel) = (store.clone(), cancel.clone());
            move || session::run(store.clone(), node.clone(), lease.clone(), cancel.clone())
        });
        let token = self.readiness.token("table");
        let mut connected = live.follow_connected();
        let cancel = cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                _ = connected.wait_for(|connected| *connected) => drop(token),
                () = cancel.cancelled() => {}
            }
        });
    }

    /// Follows the certificates.
    fn start_certifier(&self, certifier: certify::Certifier) {
        let (certifier, cancel) = (Arc::new(certifier), self.cancel.clone());
        self.keeper.keep("certify", move || certify::run(certifier.clone(), cancel.clone()));
    }

    /// The controller, the declarations and the admin listener.
    fn start_control(&self, admin: TcpListener, token: Option<api::Token>) {
        let node = self.config.node.name.clone();
        let controller = Arc::new(Controller::new(node.clone(), Settings::default()));
        let for_commands = self.store.clone();
        let commands = Arc::new(Commands::new(move || for_commands.now()));
        self.keeper.keep("controller", {
            let (controller, opened) = (controller.clone(), self.store.clone());
            let cancel = self.cancel.clone();
            move || {
                let (controller, opened) = (controller.clone(), opened.clone());
                let cancel = cancel.clone();
                async move {
                    tokio::select! {
                        store = opened.ready() => controller.run(store, cancel).await,
                        () = cancel.clone().cancelled_owned() => {}
                    }
                }
            }
        });
        let declarations = declare::Declarations {
            node: node.clone(),
            routes: self.config.routes.clone(),
            apps: self.config.apps.clone(),
            memory: self.config.node.data_dir.join("declared.json"),
        };
        self.tasks.spawn(declare::run(
            declarations,
            self.store.clone(),
            commands.clone(),
            self.cancel.clone(),
        ));
        let context = Arc::new(api::Context {
            node,
            store: self.store.clone(),
            live: self.live.clone(),
            router: self.router.clone(),
            listeners: self.config.listeners.iter().map(|l| (l.name.clone(), l.protocol)).collect(),
            commands,
            controller,
            jobs_dir: jobs_dir(&self.config.node.data_dir),
            registry: self.registry.clone(),
            readiness: self.readiness.clone(),
            token,
            cancel: self.cancel.clone(),
        });
        let admin = Arc::new(admin);
        self.keeper.keep("admin", move || api::serve(admin.clone(), context.clone()));
    }

    fn node(&self) -> Node {
        let config = &self.config.node;
        Node {
            name: config.name.clone(),
            addr: config.address,
            zone: config.zone.clone(),
            capacity: config.capacity,
            ports: self.config.agent.ports,
            runs_jobs: self.config.agent.run_jobs,
            cordoned: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since_ms: clock::unix_ms(),
        }
    }
}
