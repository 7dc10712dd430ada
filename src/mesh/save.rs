//! Keeps the last good snapshot on disk, at most once a second.

use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::Revision;
use portolan_discovery::snapshot::{SavedFile, Snapshot};
use tokio_util::sync::CancellationToken;

use crate::live::Live;
use crate::live::OpenedStore;

/// At most one save in this time: what is lost by a crash is still in the store.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// The wait before a save that failed is tried again.
const SAVE_RETRY: Duration = Duration::from_secs(5);

/// Saves each new snapshot until told to stop, and the last one then.
pub(super) async fn run(
    store: OpenedStore,
    live: Arc<Live>,
    file: SavedFile,
    cancel: CancellationToken,
) {
    let mut snapshots = live.follow();
    let mut saved: Option<Revision> = None;
    let mut failed = false;
    // What was read from the file need not be written again.
    snapshots.borrow_and_update();
    loop {
        let is_last = tokio::select! {
            changed = snapshots.changed() => changed.is_err(),
            // What could not be saved is tried again, whether anything changes or not.
            () = tokio::time::sleep(SAVE_RETRY), if failed => false,
            () = cancel.cancelled() => true,
        };
        let snapshot = snapshots.borrow_and_update().clone();
        if live.is_connected() && saved != Some(snapshot.revision) {
            match save(&store, file.clone(), snapshot.clone()).await {
                Ok(()) => (saved, failed) = (Some(snapshot.revision), false),
                Err(error) => {
                    failed = true;
                    tracing::error!(%error, "the last good table could not be saved");
                }
            }
        }
        if is_last {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(SAVE_EVERY) => {}
            () = cancel.cancelled() => {}
        }
    }
}

async fn save(
    store: &OpenedStore,
    file: SavedFile,
    snapshot: Arc<Snapshot>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let identity = store.now()?.status().await?.identity;
    tokio::task::spawn_blocking(move || file.save(&snapshot, &identity)).await??;
    Ok(())
}
