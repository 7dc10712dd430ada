//! `portolan upgrade`: asks the running process to let its new file take over, and tells how that
//! goes.

use std::time::Duration;

use super::Failure;
use super::client::Client;
use super::table::say;
use crate::api::{UpgradeCall, UpgradeStage, UpgradeStep};

/// Asks for an upgrade. An error when it did not go through: the old process serves on then.
pub(super) async fn upgrade(
    client: &Client,
    json: bool,
    timeout: Duration,
    wait: bool,
) -> Result<(), Failure> {
    let call = UpgradeCall { timeout_ms: u64::try_from(timeout.as_millis()).ok() };
    let mut steps = client.post_events("/v1/upgrade", &call).await?;
    let mut is_done = false;
    while let Some(event) = steps.next().await {
        let step: UpgradeStep = serde_json::from_str(&event.data)?;
        match (json, step.stage) {
            (true, _) => say!("{}", serde_json::to_string(&step)?),
            (false, UpgradeStage::Failed) => {}
            (false, _) => say!("{}", step.message),
        }
        match step.stage {
            UpgradeStage::Failed => return Err(failed(&step).into()),
            UpgradeStage::Drained => return Ok(()),
            UpgradeStage::Done if !wait => return Ok(()),
            UpgradeStage::Done => is_done = true,
            _ => {}
        }
    }
    // The old process may end before its last word is sent.
    if is_done { Ok(()) } else { Err("the process ended before the upgrade was over".into()) }
}

fn failed(step: &UpgradeStep) -> String {
    format!(
        "{}\n  process {} (portolan {}) serves on as before",
        step.message, step.old_pid, step.old_version
    )
}
