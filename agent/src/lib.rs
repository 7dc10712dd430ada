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
}

/// The agent of one node.
pub struct Agent {
    config: AgentConfig,
    parts: Parts,
}

impl Agent {
    /// An agent that does nothing yet. Fails only when its metrics are registered already.
    pub fn new(
        config: AgentConfig,
        store: Arc<dyn Store>,
        registry: &prometheus::Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let checks = Checks::new(metrics.clone());
        let registrar = Registrar::new(store, config.node.clone(), metrics.clone());
        Ok(Self { config, parts: Parts { registrar, checks, metrics } })
    }

    /// The checks that run, for those who show their results.
    pub fn checks(&self) -> &Checks {
        &self.parts.checks
    }

    /// Works until `cancel`. Then checks stop and the records stay as they are: that an agent
    /// is away says nothing about its instances.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { config, parts } = self;
        let registration = keep::keep("registration", &parts.metrics, || {
            let (declared, dir) = (config.declared.clone(), config.services_dir.clone());
            register::run::run(declared, dir, parts.clone())
        });
        tokio::select! {
            () = registration => {}
            () = cancel.cancelled() => {}
        }
        parts.registrar.stop(STOP_TIMEOUT).await;
    }
}
