//! Says why jobs are not placed, node by node.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use portolan_discovery::model::NodeName;
use serde::Serialize;

use super::Group;

/// Why a node does not take a job. The first one that holds is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The node runs no jobs.
    RunsNoJobs,
    /// An operator keeps new jobs away.
    Cordoned,
    /// Another job has the fixed port.
    PortTaken(u16),
    /// Every port that the node gives to jobs is taken.
    NoPortLeft,
    /// Too little memory is free.
    Memory,
    /// Too little processor time is free.
    Cpu,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunsNoJobs => f.write_str("runs no jobs"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::PortTaken(port) => write!(f, "port {port} taken"),
            Self::NoPortLeft => f.write_str("no port left"),
            Self::Memory => f.write_str("memory"),
            Self::Cpu => f.write_str("cpu"),
        }
    }
}

/// Jobs that are wanted but fit nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What they are.
    pub group: Group,
    /// How many of them.
    pub missing: u32,
    /// Why each node does not take one.
    pub nodes: BTreeMap<NodeName, Reason>,
}

impl Refusal {
    /// How many nodes give each reason.
    pub fn tally(&self) -> BTreeMap<Reason, usize> {
        let mut tally = BTreeMap::new();
        for reason in self.nodes.values() {
            *tally.entry(*reason).or_default() += 1;
        }
        tally
    }

    /// `0 of 3 nodes: 2 memory, 1 cordoned`, the most frequent reason first.
    pub fn reasons(&self) -> String {
        if self.nodes.is_empty() {
            return "0 of 0 nodes: no node has joined".to_owned();
        }
        let total = self.nodes.len();
        let mut tally: Vec<_> = self.tally().into_iter().collect();
        tally.sort_by_key(|(reason, count)| (Reverse(*count), *reason));
        let tally: Vec<String> =
            tally.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        format!("0 of {total} node{}: {}", if total == 1 { "" } else { "s" }, tally.join(", "))
    }
}

/// `shop web v2: 2 not placed, 0 of 3 nodes: 2 memory, 1 cordoned`.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Group { app, process, release } = &self.group;
        write!(f, "{app} {process} {release}: {} not placed, {}", self.missing, self.reasons())
    }
}
