//! What people and programs ask of the controller: each call is one compare-and-set
//! transaction, so that it is done whole or not at all, and done once if it is sent twice.
//!
//! Needs no leader. What follows from a command is the controller's.

mod apps;
mod data;
mod error;
mod ports;

use std::sync::Arc;

use portolan_discovery::model::{Key, Kv, Revision};
use portolan_discovery::store::{Store, StoreError, VALUE_BYTES_MAX};
use serde::de::DeserializeOwned;

use super::commit::Change;
use super::records::Stored;
use super::view;

pub use apps::{COUNT_MAX, DeployRequest, Deployed, PROCESSES_MAX, PROGRESS_DEADLINE};
pub use error::CommandError;

/// Other writers may get in between reading and writing this often in a row.
pub const CONFLICTS_MAX: u32 = 16;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed<T> {
    /// What there is now.
    pub value: T,
    /// Whether it was not so before.
    pub changed: bool,
    /// The revision at which it became so.
    pub revision: Revision,
}

impl<T> Committed<T> {
    fn without_value(self) -> Committed<()> {
        Committed { value: (), changed: self.changed, revision: self.revision }
    }
}

type Source = dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync;

/// The commands.
pub struct Commands {
    store: Box<Source>,
    /// Held by who gives a route its port: two at once would get the same one.
    ports: tokio::sync::Mutex<()>,
}

impl Commands {
    /// Commands to the store that `store` gives; it may say that there is none yet.
    pub fn new(
        store: impl Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self { store: Box::new(store), ports: tokio::sync::Mutex::default() }
    }

    fn store(&self) -> Result<Arc<dyn Store>, CommandError> {
        Ok((self.store)()?)
    }
}

/// What a command decided from the records as it read them.
struct Decided<T> {
    change: Option<Change>,
    value: T,
    /// When the value became so, if nothing is to be changed.
    since: Revision,
}

/// Writes what was decided. `None` is that somebody else was faster: read and decide again.
async fn commit<T>(
    store: &dyn Store,
    decided: Decided<T>,
) -> Result<Option<Committed<T>>, CommandError> {
    let Decided { change, value, since } = decided;
    let Some(change) = change else {
        return Ok(Some(Committed { value, changed: false, revision: since }));
    };
    let bytes = change.value_bytes_max();
    if bytes > VALUE_BYTES_MAX {
        return Err(CommandError::Invalid {
            field: "body".to_owned(),
            cause: format!("it makes a record of {bytes} bytes, more than {VALUE_BYTES_MAX}"),
            hint: "keep large values in files or in a service of their own".to_owned(),
        });
    }
    let outcome = store.txn(change.into_txn()).await?;
    let committed = Committed { value, changed: true, revision: outcome.revision };
    Ok(outcome.done.then_some(committed))
}

async fn get<T: DeserializeOwned>(
    store: &dyn Store,
    key: &Key,
) -> Result<Option<Stored<T>>, CommandError> {
    let kv = store.get(&key.to_string()).await?;
    read(kv.as_ref(), key)
}

fn read<T: DeserializeOwned>(
    kv: Option<&Kv>,
    key: &Key,
) -> Result<Option<Stored<T>>, CommandError> {
    view::read(kv, |_| true)
        .map_err(|cause| CommandError::Unreadable { key: key.to_string(), cause })
}
