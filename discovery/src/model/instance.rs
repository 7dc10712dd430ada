//! An instance: one address that serves a service.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::{InstanceId, JobId, NodeName, ServiceName};

/// A share of the traffic relative to the other instances (or services), 1 to 65,535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(pub NonZeroU16);

impl Weight {
    /// The weight of whoever asks for none.
    pub const DEFAULT: Self = Self(NonZeroU16::new(100).expect("100 is not 0"));
}

impl Default for Weight {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No check has passed yet: takes no traffic, not even in a panic.
    Starting,
    /// All checks pass, or there are none.
    Up,
    /// A check fails.
    Down,
}

/// Whether new work is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// New work is welcome.
    #[default]
    Active,
    /// No new work; what is under way ends in peace.
    Draining,
}

/// Who wrote the record, and so who may change or delete it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file of this node.
    Config(NodeName),
    /// A file in the agent's folder of services, by its name.
    File(String),
    /// A job of the agent.
    Job(JobId),
    /// A call of the API.
    #[default]
    Api,
}

/// One address that serves a service. Carries no lease: it leaves by evidence only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The service.
    pub service: ServiceName,
    /// The name of the instance within the service.
    pub id: InstanceId,
    /// The node whose agent owns the record.
    pub node: NodeName,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its share of the traffic.
    #[serde(default)]
    pub weight: Weight,
    /// What the checks say.
    pub health: Health,
    /// Why it is not `Up`, in a few words; written at transitions only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Whether new work is wanted.
    #[serde(default)]
    pub phase: Phase,
    /// Who wrote the record.
    pub origin: Origin,
    /// When health or phase last changed, in milliseconds of Unix time.
    pub since_ms: u64,
    /// Free key-value pairs for people and programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The longest `cause`, in bytes; longer ones are cut at a character.
pub const CAUSE_BYTES_MAX: usize = 200;

/// Cuts `text` to [`CAUSE_BYTES_MAX`].
pub fn cause(text: &str) -> String {
    let mut end = text.len().min(CAUSE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
