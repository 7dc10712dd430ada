//! Registration: this node's services and instances in the store.
//!
//! [`Registrar`] owns the writes of instance records, of jobs too. [`Registration`] makes the
//! records of this node follow what is declared in configuration and files. Nothing here
//! removes an instance because a store, a file or the agent is away.

mod declared;
pub mod file;
mod files;
mod keeper;
mod registrar;
mod registration;
pub(crate) mod run;
mod wish;
mod writer;

use portolan_discovery::model::{NodeName, Origin};
use portolan_discovery::store::StoreError;

pub use declared::{Clash, Declared, DeclaredInstance};
pub use files::{FILE_BYTES_MAX, FILES_MAX, Files, Found, Unknown};
pub use keeper::Parts;
pub use registrar::Registrar;
pub use registration::Registration;
pub use writer::Written;

/// Why a record is not in the store as it was wanted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegisterError {
    /// Somebody else wrote the record.
    #[error("{key} belongs to {} of node {node}", owner(.origin))]
    Owned {
        /// The record's key.
        key: String,
        /// The owner's node.
        node: NodeName,
        /// What made the owner write it.
        origin: Origin,
    },
    /// Nothing was ever wanted of this record here.
    #[error("{key} is not registered here")]
    Unknown {
        /// The record's key.
        key: String,
    },
    /// What is stored cannot be read, so that its owner is not known.
    #[error("{key} cannot be read: {cause}")]
    Unreadable {
        /// The record's key.
        key: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The record was changed by others each time. It is tried again later.
    #[error("{key} was changed by others {times} times in a row")]
    Conflict {
        /// The record's key.
        key: String,
        /// How often it was tried.
        times: u32,
    },
    /// The store did not take the write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent stops.
    #[error("the agent stops; {key} is not written")]
    Stopped {
        /// The record's key.
        key: String,
    },
}

impl RegisterError {
    /// Whether the same write may go through later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict { .. } => true,
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// The word in metrics.
    fn word(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            Self::Store(_) => "store",
            _ => "refused",
        }
    }
}

fn owner(origin: &Origin) -> String {
    match origin {
        Origin::Config(_) => "the configuration".to_owned(),
        Origin::File(name) => format!("file {name}"),
        Origin::Job(job) => format!("job {job}"),
        Origin::Api => "the API".to_owned(),
    }
}
