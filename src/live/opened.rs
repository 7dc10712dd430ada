//! The store as the parts see it: there, or not yet. A store that is missing at the start is
//! opened when it comes back; router and resolver serve the saved snapshot meanwhile.

use std::sync::Arc;

use portolan_discovery::store::{Store, StoreError};
use tokio::sync::watch;

/// The store, once it is open.
#[derive(Clone)]
pub struct OpenedStore {
    state: watch::Receiver<Opening>,
}

#[derive(Clone)]
pub(crate) enum Opening {
    Waiting { cause: String },
    Open(Arc<dyn Store>),
}

impl OpenedStore {
    pub(crate) fn channel(first: Opening) -> (watch::Sender<Opening>, Self) {
        let (to, state) = watch::channel(first);
        (to, Self { state })
    }

    /// The store, or why there is none yet.
    pub fn now(&self) -> Result<Arc<dyn Store>, StoreError> {
        match &*self.state.borrow() {
            Opening::Open(store) => Ok(store.clone()),
            Opening::Waiting { cause } => Err(StoreError::Unavailable(cause.clone())),
        }
    }

    /// Waits for the store. Never returns when the process gives up on it.
    pub async fn ready(&self) -> Arc<dyn Store> {
        let mut state = self.state.clone();
        loop {
            if let Opening::Open(store) = &*state.borrow_and_update() {
                return store.clone();
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
