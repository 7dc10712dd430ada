//! The agent of a node: health checks, registration and jobs.
//!
//! Knows nothing of routes, tables, zones or the controller; the store is all they share.

pub mod check;
mod clock;
pub mod job;
mod keep;
pub mod metrics;
pub mod probe;
pub mod register;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::NodeName;
use portolan_discovery::snapshot::Snapshot;
use portolan_discovery::store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::check::run::Checks;
use crate::metrics::Metrics;
use crate::register::{Declared, Parts, Registrar};

/// The longest wait for the store at the end; what is still open then is found out again at the
/// next start.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What the agent of a node is to do.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The node.
    pub node: NodeName,
    /// A folder of service files to follow.
    pub services_dir: Option<PathBuf>,
    /// The services of the main configuration; sent again when it is read again.
    pub declared: watch::Receiver<Vec<Declared>>,
    /// The records that this node serves.
    pub records: watch::Receiver<Arc<Snapshot>>,
    /// Where and how jobs run.
    pub jobs: job::Config,
}

/// Why an agent cannot work.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The jobs.
    #[error(transparent)]
    Jobs(#[from] job::BindError),
    /// The metrics are registered already.
    #[error("cannot register the agent's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The agent of one node.
pub struct Agent {
    declared: watch::Receiver<Vec<Declared>>,
    services_dir: Option<PathBuf>,
    jobs: job::Supervisor,
    parts: Parts,
}

impl Agent {
    /// Takes the folder of jobs. Nothing runs and nothing is taken over before [`Self::run`].
    pub fn bind(
        config: AgentConfig,
        store: Arc<dyn Store>,
        registry: &prometheus::Registry,
    ) -> Result<Self, BindError> {
        Self::bind_with(config, store, Metrics::register(registry)?)
    }

    /// The same with metrics of an agent that was here before, in the same process.
    pub fn bind_with(
        config: AgentConfig,
        store: Arc<dyn Store>,
        metrics: Metrics,
    ) -> Result<Self, BindError> {
        let AgentConfig { node, services_dir, declared, records, jobs } = config;
        metrics.store_pending.set(0);
        let checks = Checks::following(metrics.clone(), records);
        let registrar = Registrar::new(store, node, metrics.clone());
        let jobs = job::Supervisor::bind(jobs, registrar.clone(), checks.clone(), metrics.clone())?;
        Ok(Self { declared, services_dir, jobs, parts: Parts { registrar, checks, metrics } })
    }

    /// The checks that run, for those who show their results.
    pub fn checks(&self) -> &Checks {
        &self.parts.checks
    }

    /// Works until `cancel`. Then checks stop, jobs go on, and the records stay as they are: that
    /// an agent is away says nothing about its instances.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { declared, services_dir, jobs, parts } = self;
        let registration = keep::keep("registration", &parts.metrics, || {
            register::run::run(declared.clone(), services_dir.clone(), parts.clone())
        });
        let registration = async {
            tokio::select! {
                () = registration => {}
                () = cancel.cancelled() => {}
            }
        };
        tokio::join!(registration, jobs.run(cancel.clone()));
        parts.registrar.stop(STOP_TIMEOUT).await;
    }
}
