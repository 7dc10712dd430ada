//! A service: a name with instances.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ServiceName;

/// What a service speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// Bytes.
    Tcp,
}

/// What all instances of a service have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The name.
    pub name: ServiceName,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether connections to instances are kept for the next request.
    #[serde(default = "yes")]
    pub keep_alive: bool,
    /// Free key-value pairs for people and programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Service {
    /// A service of which only the name is known: instances may come before the record.
    pub fn named(name: ServiceName) -> Self {
        Self { name, protocol: Protocol::Http, keep_alive: true, labels: BTreeMap::new() }
    }
}

fn yes() -> bool {
    true
}
