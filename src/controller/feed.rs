//! Follows one prefix of the store: all of it first, then its changes, for as long as the
//! process lives. Knows nothing of what the records mean.

use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::{Event, Kv, Revision};
use portolan_discovery::store::{Store, StoreError, WatchEvent};
use tokio::sync::mpsc;

/// Words that wait for a slow reader; then the watch itself waits, and may be lost.
const WORDS_MAX: usize = 64;
/// The first wait after the store was lost; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait before the store is asked again.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What is said of a prefix, in the order of revisions.
#[derive(Debug)]
pub(super) enum Word {
    /// Everything, as it was at a revision. Forgets all that was said before.
    All(Vec<Kv>, Revision),
    /// What changed at a revision.
    Changes(Vec<Event>, Revision),
    /// Nothing else changed up to a revision.
    Current(Revision),
    /// The store is lost; all is said again when it is back.
    Lost(String),
}

/// Follows `prefix` until the receiver is dropped.
pub(super) fn follow(store: Arc<dyn Store>, prefix: &'static str) -> mpsc::Receiver<Word> {
    let (to, words) = mpsc::channel(WORDS_MAX);
    tokio::spawn(async move {
        tokio::select! {
            () = say_all(store, prefix, &to) => {}
            () = to.closed() => {}
        }
    });
    words
}

async fn say_all(store: Arc<dyn Store>, prefix: &'static str, to: &mpsc::Sender<Word>) {
    let mut wait = RETRY_MIN;
    loop {
        let mut heard = false;
        let lost = match follow_once(store.as_ref(), prefix, to, &mut heard).await {
            Ok(Ended::Reader) => return,
            Ok(Ended::Watch(reason)) => reason,
            Err(error) => error.to_string(),
        };
        tracing::debug!(prefix, lost, "reading all of the prefix again");
        if to.send(Word::Lost(lost)).await.is_err() {
            return;
        }
        wait = if heard { RETRY_MIN } else { (wait * 2).min(RETRY_MAX) };
        tokio::time::sleep(wait).await;
    }
}

enum Ended {
    /// Nobody listens any more.
    Reader,
    /// The watch is of no more use, and why.
    Watch(String),
}

async fn follow_once(
    store: &dyn Store,
    prefix: &str,
    to: &mpsc::Sender<Word>,
    heard: &mut bool,
) -> Result<Ended, StoreError> {
    let (kvs, revision) = store.snapshot(prefix).await?;
    let mut watch = store.watch(prefix, revision).await?;
    let mut word = Word::All(kvs, revision);
    loop {
        if to.send(word).await.is_err() {
            return Ok(Ended::Reader);
        }
        *heard = true;
        word = match watch.next().await {
            WatchEvent::Batch { revision, events } => Word::Changes(events, revision),
            WatchEvent::Progress(revision) => Word::Current(revision),
            WatchEvent::Compacted { oldest } => {
                return Ok(Ended::Watch(format!("what came before {oldest} is forgotten")));
            }
            WatchEvent::Lost(reason) => return Ok(Ended::Watch(reason)),
        };
    }
}
