//! Opens the embedded store, now or when its file comes back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use portolan_discovery::model::{Kv, LeaseId, Revision};
use portolan_discovery::store::embedded::{Create, Embedded, OpenError};
use portolan_discovery::store::{Outcome, Status, Store, StoreError, Txn, Watch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::live::{OpenedStore, Opening};

/// Keeps trying to open a store that was not there at the start, and closes it at the end.
pub(super) struct Opener {
    path: PathBuf,
    to: watch::Sender<Opening>,
    open: Mutex<Option<Arc<Embedded>>>,
}

/// Opens the store at `path`. When a saved table shows that there was a store before, a missing
/// or unusable file is no reason not to start: the saved table serves until the file is back.
pub(super) fn open(
    path: &Path,
    has_saved: bool,
    new_store: bool,
) -> Result<(Opener, OpenedStore), OpenError> {
    let mut open = None;
    let create = if has_saved && !new_store { Create::Never } else { Create::IfMissing };
    let first = match Embedded::open(path, create) {
        Ok(store) => {
            let store = Arc::new(store);
            open = Some(store.clone());
            Opening::Open(store)
        }
        // Another process serves already: two would fight over the same jobs.
        Err(error @ OpenError::Locked { .. }) => return Err(error),
        Err(error) if has_saved && !new_store => {
            tracing::error!(%error, "the saved table is served until the store is back; `portolan up --new-store` begins with an empty one");
            Opening::Waiting { cause: error.to_string() }
        }
        Err(error) => return Err(error),
    };
    let (to, opened) = OpenedStore::channel(first);
    Ok((Opener { path: path.to_owned(), to, open: Mutex::new(open) }, opened))
}

impl Opener {
    /// Closes the store, whoever holds it, and tells `cause` to all who ask for it. Another
    /// process can open it then.
    pub(super) async fn close(&self, cause: &str) {
        self.to.send_replace(Opening::Waiting { cause: cause.to_owned() });
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(store) = open else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "the store was not closed as it should");
        }
    }

    /// Tries until the store is open or the process ends.
    pub(super) async fn run(&self, retry: Duration, cancel: CancellationToken) {
        while matches!(*self.to.borrow(), Opening::Waiting { .. }) {
            let path = self.path.clone();
            let opened =
                tokio::task::spawn_blocking(move || Embedded::open(&path, Create::Never)).await;
            match opened {
                Ok(Ok(store)) => {
                    tracing::info!(path = %self.path.display(), "the store is back");
                    let store = Arc::new(store);
                    let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                    *open = Some(store.clone());
                    self.to.send_replace(Opening::Open(store));
                    continue;
                }
                Ok(Err(error)) => {
                    self.to.send_replace(Opening::Waiting { cause: error.to_string() });
                }
                Err(error) => tracing::error!(%error, "opening the store failed"),
            }
            tokio::select! {
                () = tokio::time::sleep(retry) => {}
                () = cancel.cancelled() => return,
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
