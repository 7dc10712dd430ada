//! Overrides: an operator's word on health, with reason and expiry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InstanceId, NameError, NodeName, ServiceName};

/// What an override speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Every instance of a node: `node/NAME`.
    Node(NodeName),
    /// Every instance of a service: `service/NAME`.
    Service(ServiceName),
    /// One instance: `instance/SERVICE/ID`.
    Instance(ServiceName, InstanceId),
}

/// Why a text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Not of the three forms.
    #[error("\"{0}\" is no scope: expected node/NAME, service/NAME or instance/SERVICE/ID")]
    Form(String),
    /// A part is not a name.
    #[error("scope \"{scope}\": {source}")]
    Name {
        /// The text as given.
        scope: String,
        /// What is wrong with the part.
        source: NameError,
    },
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node/{node}"),
            Self::Service(service) => write!(f, "service/{service}"),
            Self::Instance(service, id) => write!(f, "instance/{service}/{id}"),
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let name = |source| ScopeError::Name { scope: text.to_owned(), source };
        match *text.split('/').collect::<Vec<_>>() {
            ["node", node] => Ok(Self::Node(NodeName::parse(node).map_err(name)?)),
            ["service", service] => Ok(Self::Service(ServiceName::parse(service).map_err(name)?)),
            ["instance", service, id] => Ok(Self::Instance(
                ServiceName::parse(service).map_err(name)?,
                InstanceId::parse(id).map_err(name)?,
            )),
            _ => Err(ScopeError::Form(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;
    fn try_from(text: String) -> Result<Self, ScopeError> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}

/// What the operator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Takes no traffic, whatever the checks say.
    Down,
    /// Takes traffic, whatever the checks say.
    Up,
    /// No new work; what is under way ends in peace.
    Drain,
}

/// An operator's word on health. The narrower scope wins: instance, service, node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// What it speaks of.
    pub scope: Scope,
    /// What it says.
    pub word: Word,
    /// Why, for those who find it later.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// When it was said, in milliseconds of Unix time.
    pub since_ms: u64,
    /// When it ends by itself, in milliseconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}
