//! What the agent remembers of a job between its own lives, and the folders of jobs at large.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use portolan_discovery::model::{Health, JobId, JobSpec, JobState, Placement};
use serde::{Deserialize, Serialize};

use super::client;
use super::folder::{self, MEMORY, ORDER, OVER, Order, WORK};
use super::life::{BACKOFF_MAX, Past, Rules};

/// Folders of jobs that are over, kept for their output; the oldest go first.
pub(super) const OVER_MAX: usize = 20;

/// What outlives the agent; the store may be away when it comes back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// What was wanted last.
    pub placement: Option<Placement>,
    /// The identity of the store that wanted it.
    pub store: Option<String>,
    /// The newest run that was ordered.
    pub run: u64,
    /// The newest run whose end was dealt with.
    pub closed: u64,
    /// Where the newest run listens.
    pub addr: Option<SocketAddr>,
    /// What its checks said last.
    pub health: Option<Health>,
    /// Why it is not up.
    pub cause: Option<String>,
    /// When it was up for the first time, in milliseconds of Unix time.
    pub up_since_ms: Option<u64>,
    /// How often the job was started again.
    pub restarts: u32,
    /// Ends in a row.
    pub failures: u32,
    /// How the last run ended.
    pub last_exit: Option<String>,
    /// What was said last.
    pub state: Option<JobState>,
    /// Since when that is so, in milliseconds of Unix time.
    pub since_ms: u64,
}

impl Memory {
    /// What is remembered of the job in `dir`. Damaged memory is none: the shim still knows
    /// what runs, and the store what is wanted.
    pub(super) fn load(dir: &Path) -> Self {
        let path = dir.join(MEMORY);
        let mut memory: Self = folder::read(&path)
            .unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), %error, "what was known of a job is lost");
                None
            })
            .unwrap_or_default();
        let ordered = folder::read::<Order>(&dir.join(ORDER)).ok().flatten();
        memory.run = memory.run.max(ordered.map_or(0, |order| order.run));
        memory
    }

    /// Where the job's life goes on. `begun` says whether there is a shim, or word of one, whose
    /// run was not dealt with.
    pub(super) fn past(&self, begun: bool, now: Duration, now_ms: u64) -> Past {
        if begun {
            let up = self.up_since_ms;
            return Past::Live(up.map(|ms| Duration::from_millis(now_ms.saturating_sub(ms))));
        }
        match &self.state {
            Some(JobState::Stopped) => Past::Stopped,
            Some(JobState::Backoff { until_ms, .. }) => {
                let left = Duration::from_millis(until_ms.saturating_sub(now_ms));
                Past::Waiting(now + left.min(BACKOFF_MAX))
            }
            _ => Past::Fresh,
        }
    }

    /// What the spec says of the job's end.
    pub(super) fn rules(&self) -> Rules {
        match &self.placement {
            Some(placement) => Rules {
                drains: placement.spec.service.is_some(),
                drain_timeout: placement.spec.drain_timeout,
                kill_timeout: placement.spec.kill_timeout,
            },
            None => Rules {
                drains: false,
                drain_timeout: JobSpec::DRAIN_TIMEOUT,
                kill_timeout: JobSpec::KILL_TIMEOUT,
            },
        }
    }
}

/// The jobs that have a folder and are not over.
pub(super) fn scan(jobs: &Path) -> io::Result<Vec<JobId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(jobs)? {
        let entry = entry?;
        if let Some(job) = entry.file_name().to_str().and_then(|name| JobId::parse(name).ok())
            && entry.path().is_dir()
            && !entry.path().join(OVER).exists()
        {
            found.push(job);
        }
    }
    Ok(found)
}

/// Marks a job as over, keeps its output, and deletes the folders that are too many.
pub(super) fn bury(jobs: &Path, job: &JobId) -> io::Result<()> {
    let dir = jobs.join(job.as_str());
    // First, so that a folder which the job made undeletable cannot bring it back.
    fs::write(dir.join(OVER), "")?;
    folder::remove(&dir.join(MEMORY))?;
    match fs::remove_dir_all(dir.join(WORK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut over: Vec<(SystemTime, _)> = fs::read_dir(jobs)?
        .flatten()
        .filter_map(|entry| {
            let marked = fs::metadata(entry.path().join(OVER)).ok()?.modified().ok()?;
            Some((marked, entry.path()))
        })
        .collect();
    over.sort();
    let surplus = over.len().saturating_sub(OVER_MAX);
    for (_, dir) in over.into_iter().take(surplus) {
        // The last breath of its shim may still be going on; the next burial comes by again.
        if !client::is_served(&dir) {
            fs::remove_dir_all(&dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_memory_is_none_and_the_order_still_tells_the_run() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", "{\"run\": \"x\"}"] {
            fs::write(dir.path().join(MEMORY), text).unwrap();
            assert_eq!(Memory::load(dir.path()), Memory::default(), "{text}");
        }
        let order =
            r#"{"run":5,"argv":[],"env":{},"cwd":"/","logs":{"file_bytes_max":1,"files_max":1}}"#;
        fs::write(dir.path().join(ORDER), order).unwrap();
        assert_eq!(Memory::load(dir.path()).run, 5);
    }

    #[test]
    fn a_pause_goes_on_for_what_is_left_of_it() {
        let now = Duration::from_secs(1);
        for (until_ms, expected_ms) in [(10_000, 1_000), (12_000, 3_000), (99_000_000, 31_000)] {
            let state = Some(JobState::Backoff { cause: "x".into(), until_ms });
            let memory = Memory { state, ..Memory::default() };
            let expected = Past::Waiting(Duration::from_millis(expected_ms));
            assert_eq!(memory.past(false, now, 10_000), expected, "{until_ms}");
        }
    }

    #[test]
    fn only_the_newest_jobs_that_are_over_keep_their_output() {
        let jobs = tempfile::tempdir().unwrap();
        let name = |i: usize| JobId::parse(&format!("job-{i}")).unwrap();
        for i in 0..OVER_MAX + 5 {
            let dir = jobs.path().join(name(i).as_str());
            fs::create_dir_all(dir.join(WORK)).unwrap();
            if i > 0 {
                bury(jobs.path(), &name(i)).unwrap();
                // A file system's clock may be coarse.
                let marked = SystemTime::UNIX_EPOCH + Duration::from_secs(i as u64);
                let file = fs::File::open(dir.join(OVER)).unwrap();
                file.set_modified(marked).unwrap();
            }
        }
        assert_eq!(scan(jobs.path()).unwrap(), [name(0)]);
        let kept: Vec<usize> =
            (0..OVER_MAX + 5).filter(|i| jobs.path().join(name(*i).as_str()).exists()).collect();
        assert_eq!(kept[0], 0, "a job that is not over stays");
        assert_eq!(kept.len(), 1 + OVER_MAX, "{kept:?}");
        assert_eq!(kept.last(), Some(&(OVER_MAX + 4)));
    }
}
