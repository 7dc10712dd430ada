//! Says why jobs are not placed, node by node.

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
}

/// `0 of 3 nodes: 2 memory, 1 cordoned`, the most frequent reason first.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.is_empty() {
            return f.write_str("0 of 0 nodes: no node has joined");
        }
        let total = self.nodes.len();
        write!(f, "0 of {total} node{}: ", if total == 1 { "" } else { "s" })?;
        let mut tally: Vec<_> = self.tally().into_iter().collect();
        tally.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
        for (at, (reason, count)) in tally.into_iter().enumerate() {
            write!(f, "{}{count} {reason}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
