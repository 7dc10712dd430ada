//! Opens the embedded store, now or when its file comes back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portolan_discovery::model::{Kv, LeaseId, Revision};
use portolan_discovery::store::embedded::{Create, Embedded, OpenError};
use portolan_discovery::store::{Outcome, Status, Store, StoreError, Txn, Watch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::live::{OpenedStore, Opening};

/// Keeps trying to open a store that was not there at the start.
pub(super) struct Opener {
    path: PathBuf,
    to: watch::Sender<Opening>,
}

/// Opens the store at `path`. When a saved table shows that there was a store before, a missing
/// or unusable file is no reason not to start: the saved table serves until the file is back.
pub(super) fn open(
    path: &Path,
    has_saved: bool,
    new_store: bool,
) -> Result<(Opener, OpenedStore), OpenError> {
    let create = if has_saved && !new_store { Create::Never } else { Create::IfMissing };
    let first = match Embedded::open(path, create) {
        Ok(store) => Opening::Open(Arc::new(store)),
        // Another process serves already: two would fight over the same jobs.
        Err(error @ OpenError::Locked { .. }) => return Err(error),
        Err(error) if has_saved && !new_store => {
            tracing::error!(%error, "the saved table is served until the store is back; `portolan up --new-store` begins with an empty one");
            Opening::Waiting { cause: error.to_string() }
        }
        Err(error) => return Err(error),
    };
    let (to, opened) = OpenedStore::channel(first);
    Ok((Opener { path: path.to_owned(), to }, opened))
}

impl Opener {
    /// Tries until the store is open or the process ends. Holds on to it until then.
    pub(super) async fn run(self, retry: Duration, cancel: CancellationToken) {
        while matches!(*self.to.borrow(), Opening::Waiting { .. }) {
            tokio::select! {
                () = tokio::time::sleep(retry) => {}
                () = cancel.cancelled() => return,
            }
            let path = self.path.clone();
            let opened =
                tokio::task::spawn_blocking(move || Embedded::open(&path, Create::Never)).await;
            match opened {
                Ok(Ok(store)) => {
                    tracing::info!(path = %self.path.display(), "the store is back");
                    self.to.send_replace(Opening::Open(Arc::new(store)));
                }
                Ok(Err(error)) => {
                    self.to.send_replace(Opening::Waiting { cause: error.to_string() });
                }
                Err(error) => tracing::error!(%error, "opening the store failed"),
            }
        }
        cancel.cancelled().await;
    }
}

/// The store for parts that take one at their start: until it is open, every call is told so.
pub(super) struct Late(OpenedStore);

impl Late {
    pub(super) fn new(store: OpenedStore) -> Self {
        Self(store)
    }
}

#[async_trait]
impl Store for Late {
    async fn snapshot(&self, prefix: &str) -> Result<(Vec<Kv>, Revision), StoreError> {
        self.0.now()?.snapshot(prefix).await
    }

    async fn get(&self, key: &str) -> Result<Option<Kv>, StoreError> {
        self.0.now()?.get(key).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.0.now()?.watch(prefix, after).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.0.now()?.txn(txn).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.0.now()?.lease_grant(ttl).await
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.now()?.lease_keepalive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.now()?.lease_revoke(lease).await
    }

    async fn status(&self) -> Result<Status, StoreError> {
        self.0.now()?.status().await
    }
}
