//! Follows the configuration and the folder of files, and keeps the registration at it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::keeper::Parts;
use super::{Declared, Files, Found, Registration};

/// How often what the store kept from being done is tried again.
const TEND: Duration = Duration::from_secs(1);
/// How often all records are compared with what is wanted.
const COMPARE: Duration = Duration::from_secs(30);

/// Registers what `declared` and the files of `dir` say. Runs until it is dropped.
pub(crate) async fn run(
    mut declared: watch::Receiver<Vec<Declared>>,
    dir: Option<PathBuf>,
    parts: Parts,
) {
    let mut files = dir.map(|dir| Files::watch(dir, parts.metrics.clone()));
    let mut registration = Registration::new(parts);
    let mut found = match &mut files {
        Some(files) => files.next().await,
        None => Found::default(),
    };
    let mut tend = interval_at(Instant::now() + TEND, TEND);
    let mut compare = interval_at(Instant::now() + COMPARE, COMPARE);
    tend.set_missed_tick_behavior(MissedTickBehavior::Delay);
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut all = declared.borrow_and_update().clone();
        all.extend(found.declared.iter().cloned());
        registration.apply(all);
        registration.tend(&found.unknown).await;
        loop {
            tokio::select! {
                now = changed_files(&mut files) => {
                    found = now;
                    break;
                }
                () = changed(&mut declared) => break,
                _ = tend.tick() => registration.tend(&found.unknown).await,
                _ = compare.tick() => registration.compare_all(),
            }
        }
    }
}

/// Waits for a change of the files; for ever without a folder.
async fn changed_files(files: &mut Option<Files>) -> Found {
    match files {
        Some(files) => files.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for a change of the configuration; for ever once nobody can change it.
async fn changed(declared: &mut watch::Receiver<Vec<Declared>>) {
    if declared.changed().await.is_err() {
        std::future::pending().await
    }
}
