//! Jobs: one running process, where it is placed and what became of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AppName, CheckSpec, JobId, NodeName, ProcessName, ReleaseId, ServiceName, millis};

/// What a job uses, or a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of one core.
    #[serde(default)]
    pub cpu_millis: u64,
    /// Mebibytes of memory.
    #[serde(default)]
    pub memory_mib: u64,
}

/// What to run and how: immutable, part of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The program and its arguments; `$PORT` and `${PORT}` in them are replaced.
    pub command: Vec<String>,
    /// The environment beside `PORT` and `PORTOLAN_*`; nothing else is inherited but `PATH`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The working directory; the job's own folder by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// The service whose instance the job is; none for a worker without a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// A fixed port; one of the node's range by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// All must pass for the instance to be up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckSpec>,
    /// What the scheduler sets aside for it.
    #[serde(default)]
    pub resources: Resources,
    /// The longest wait for requests and tunnels under way before the job is told to stop.
    #[serde(with = "millis", rename = "drain_timeout_ms")]
    pub drain_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    #[serde(with = "millis", rename = "kill_timeout_ms")]
    pub kill_timeout: Duration,
}

impl JobSpec {
    /// Default of `drain_timeout`.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
    /// Default of `kill_timeout`.
    pub const KILL_TIMEOUT: Duration = Duration::from_secs(10);
}

/// What the controller wants of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// To run, and to be restarted when it ends.
    Run,
    /// To drain, stop and stay so.
    Stop,
}

/// A job given to a node. Written by the controller, obeyed by the node's agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The job.
    pub job: JobId,
    /// The node.
    pub node: NodeName,
    /// The app it belongs to.
    pub app: AppName,
    /// Its process type.
    pub process: ProcessName,
    /// Its release.
    pub release: ReleaseId,
    /// What the controller wants of it.
    pub wanted: Wanted,
    /// What to run.
    pub spec: JobSpec,
    /// When it was placed, in milliseconds of Unix time.
    pub since_ms: u64,
}

/// Where a job is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum JobState {
    /// Started; not all checks have passed yet.
    Starting,
    /// Running, and all checks have passed at least once.
    Running,
    /// It ended or could not start, and is started again later.
    Backoff {
        /// Why, in a few words.
        cause: String,
        /// When it is started again, in milliseconds of Unix time.
        until_ms: u64,
    },
    /// No new work; it waits for the routers' acknowledgement.
    Draining,
    /// It has been told to stop.
    Stopping,
    /// It has ended because it was told to.
    Stopped,
}

/// What the agent says of a job. Written at transitions only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job.
    pub job: JobId,
    /// The node.
    pub node: NodeName,
    /// Where it is in its life.
    #[serde(flatten)]
    pub state: JobState,
    /// The process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Where it listens, if it has a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<SocketAddr>,
    /// How often it has been started again.
    #[serde(default)]
    pub restarts: u32,
    /// How the last process ended, such as `exit status 1` or `signal 9`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// When the state last changed, in milliseconds of Unix time.
    pub since_ms: u64,
}
