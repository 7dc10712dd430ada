//! Nodes, and what the routers on them have acknowledged.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{InstanceId, NodeName, Resources, Revision, ServiceName};

/// A range of TCP ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// Below Linux's ephemeral ports (32,768 and up), which any client may hold.
    pub const DEFAULT: Self = Self { first: 20_000, last: 29_999 };

    /// Every port of the range, in order.
    pub fn ports(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A machine. Its record carries the node's lease: when it is gone, the node is suspect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The name.
    pub name: NodeName,
    /// The address that other nodes reach it by.
    pub addr: IpAddr,
    /// The failure domain, such as a rack or an availability zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What its jobs may use in all.
    pub capacity: Resources,
    /// The ports its jobs are given.
    pub ports: PortRange,
    /// Whether it runs jobs.
    pub runs_jobs: bool,
    /// Whether new jobs are kept away from it.
    #[serde(default)]
    pub cordoned: bool,
    /// The version of Portolan on it.
    pub version: String,
    /// When it joined, in milliseconds of Unix time.
    pub since_ms: u64,
}

/// What one router says of itself: every worker serves at least `revision`, and the
/// draining instances have this many requests and tunnels under way. Carries a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterAck {
    /// The node of the router.
    pub router: NodeName,
    /// All its workers serve this revision or a later one.
    pub revision: Revision,
    /// In flight per draining instance; zero entries are listed too.
    #[serde(default)]
    pub draining: BTreeMap<ServiceName, BTreeMap<InstanceId, u64>>,
}
