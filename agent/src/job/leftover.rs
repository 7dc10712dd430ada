//! Jobs that go on while no agent supervises them: how many there are, and how to end them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::client::{self, Signalled};
use super::supervisor::{self, BindError};

/// Between looks whether a job has ended.
const PAUSE: Duration = Duration::from_millis(20);
/// After SIGKILL nothing but the kernel can hold a process up.
const KILL_WAIT: Duration = Duration::from_secs(5);

fn served(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut served = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() && client::is_served(&path) {
            served.push(path);
        }
    }
    Ok(served)
}

/// How many jobs in the folder run, with or without an agent. 0 for a folder that cannot be read.
pub fn running(dir: &Path) -> usize {
    served(dir).map_or(0, |jobs| jobs.len())
}

/// Ends all jobs in the folder: SIGTERM, and SIGKILL after `kill_timeout`. Returns how many
/// there were; refused while an agent supervises them.
pub async fn stop_all(dir: &Path, kill_timeout: Duration) -> Result<usize, BindError> {
    if !dir.exists() {
        return Ok(0);
    }
    let _lock = supervisor::lock(dir)?;
    let jobs = served(dir).map_err(|source| BindError::Folder { path: dir.to_owned(), source })?;
    let count = jobs.len();
    let mut stops = JoinSet::new();
    for job in jobs {
        stops.spawn(async move { stop(&job, kill_timeout).await });
    }
    stops.join_all().await;
    Ok(count)
}

async fn stop(dir: &Path, kill_timeout: Duration) {
    for (signal, wait) in [(Signal::TERM, kill_timeout), (Signal::KILL, KILL_WAIT)] {
        match client::signal(dir, signal.as_raw()).await {
            Ok(Signalled::Sent) => {}
            Ok(Signalled::Ended) => return,
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "its shim does not answer"),
        }
        let ended = async {
            while client::is_served(dir) {
                sleep(PAUSE).await;
            }
        };
        if timeout(wait, ended).await.is_ok() {
            return;
        }
    }
    client::kill_shim(dir);
}
