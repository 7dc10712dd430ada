//! Apps, their immutable releases, and what is wanted of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AppName, DeploymentId, JobSpec, ProcessName, ReleaseId};

/// An app: a name with releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// The name.
    pub name: AppName,
    /// The release that serves, or is being deployed.
    pub current: ReleaseId,
    /// The number of the next release.
    pub next_release: u64,
    /// Free key-value pairs for people and programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What one process type of a release runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What to run.
    pub job: JobSpec,
}

/// A release: configuration and artifact, immutable once written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The app.
    pub app: AppName,
    /// The name, `v1`, `v2`, …
    pub id: ReleaseId,
    /// What it runs, by process type.
    pub processes: BTreeMap<ProcessName, Process>,
    /// When it was made, in milliseconds of Unix time.
    pub created_ms: u64,
    /// SHA-256 over the processes, in hex: the same content is the same release.
    pub digest: String,
}

/// The wanted count per process type of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formation {
    /// The app.
    pub app: AppName,
    /// The counts.
    pub counts: BTreeMap<ProcessName, u32>,
}

/// Where a deployment is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum DeploymentState {
    /// New jobs are coming up and old ones go.
    Running,
    /// The new release did not become healthy: the old one comes back.
    Reverting {
        /// Why, in a few words.
        cause: String,
    },
    /// Only the new release runs.
    Done,
    /// Only the old release runs.
    Reverted {
        /// Why, in a few words.
        cause: String,
    },
    /// A later deployment took over.
    Superseded,
}

impl DeploymentState {
    /// Whether nothing more will happen in it.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Running | Self::Reverting { .. })
    }
}

/// One change of an app from one release to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The app.
    pub app: AppName,
    /// The name, unique within the app.
    pub id: DeploymentId,
    /// The release that served before, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ReleaseId>,
    /// The release that is to serve.
    pub to: ReleaseId,
    /// Where it is in its life.
    #[serde(flatten)]
    pub state: DeploymentState,
    /// When it began, in milliseconds of Unix time.
    pub created_ms: u64,
    /// When the last new job became healthy (or it began), in milliseconds of Unix time.
    pub progress_ms: u64,
    /// When the state last changed, in milliseconds of Unix time.
    pub since_ms: u64,
    /// How long it may stand without progress before it is reverted, in milliseconds.
    pub progress_deadline_ms: u64,
    /// New jobs beyond the wanted count while it runs.
    pub surge: u32,
}
