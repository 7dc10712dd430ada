//! An upgrade as it is asked for, and what it says as it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;

/// How long the new process may take for each of its two parts, unless the call says otherwise.
pub const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);
/// Steps that wait for a slow reader; more are not told.
const STEPS_WAITING_MAX: usize = 64;

/// How far an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeStage {
    /// The new process was started.
    Started,
    /// It has the sockets and found nothing wrong.
    Prepared,
    /// The old process has let go of store and jobs.
    Released,
    /// The new process serves; the old one accepts nothing more.
    Done,
    /// The old process still has connections.
    Draining,
    /// The old process has no connection any more.
    Drained,
    /// It did not go through; the old process serves on.
    Failed,
}

/// One step of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeStep {
    /// How far it is.
    pub stage: UpgradeStage,
    /// The same in words.
    pub message: String,
    /// The process that runs.
    pub old_pid: u32,
    /// Its version.
    pub old_version: String,
    /// The process that begins.
    pub new_pid: Option<u32>,
    /// Its version.
    pub new_version: Option<String>,
    /// Connections that are open in the old process.
    pub connections: u64,
}

/// What is asked of the mesh.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// How long the new process may take for each of its two parts.
    pub timeout: Duration,
    says: mpsc::Sender<UpgradeStep>,
}

impl UpgradeRequest {
    /// Tells a step to who asked, if that one still listens.
    pub fn say(&self, step: UpgradeStep) {
        let _ = self.says.try_send(step);
    }

    /// Whether nobody listens.
    pub fn is_unheard(&self) -> bool {
        self.says.is_closed()
    }
}

/// An upgrade is under way: there is one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an upgrade is under way, or this process has been replaced already")]
pub struct Busy;

/// Asks the mesh for upgrades. A clone asks the same one.
#[derive(Debug, Clone)]
pub struct Upgrades {
    requests: mpsc::Sender<UpgradeRequest>,
    busy: Arc<AtomicBool>,
}

impl Upgrades {
    /// Who asks, and what is asked.
    pub fn channel() -> (Self, mpsc::Receiver<UpgradeRequest>) {
        let (requests, asked) = mpsc::channel(1);
        (Self { requests, busy: Arc::default() }, asked)
    }

    /// Asks for an upgrade; its steps come until it is over and the old process is drained.
    pub fn ask(&self, timeout: Duration) -> Result<mpsc::Receiver<UpgradeStep>, Busy> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(Busy);
        }
        let (says, steps) = mpsc::channel(STEPS_WAITING_MAX);
        self.requests.try_send(UpgradeRequest { timeout, says }).map_err(|_| Busy)?;
        Ok(steps)
    }

    /// The last one did not go through: another may be asked for.
    pub fn again(&self) {
        self.busy.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_one_upgrade_at_a_time() {
        let (upgrades, mut asked) = Upgrades::channel();
        let steps = upgrades.ask(UPGRADE_TIMEOUT).unwrap();
        assert_eq!(upgrades.clone().ask(UPGRADE_TIMEOUT).unwrap_err(), Busy);
        let request = asked.recv().await.unwrap();
        assert_eq!(upgrades.ask(UPGRADE_TIMEOUT).unwrap_err(), Busy);
        assert!(!request.is_unheard());
        drop(steps);
        assert!(request.is_unheard());
        upgrades.again();
        assert!(upgrades.ask(UPGRADE_TIMEOUT).is_ok());
    }
}
