//! Follows a folder of service files. A file that cannot be read keeps what it last declared;
//! only a file that is gone takes its declarations with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_discovery::model::Origin;
use tokio::time::{Instant, sleep_until};

use super::Declared;
use super::file::{FileError, FolderFile};
use crate::clock;
use crate::metrics::Metrics;

/// From one look at the folder to the next.
const POLL: Duration = Duration::from_secs(1);
/// A change counts when it looks the same after this time: nobody reads half a file.
const SETTLE: Duration = Duration::from_millis(100);
/// The largest file of services.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// The most files that are read; those after them, by name, are passed over.
pub const FILES_MAX: usize = 10_000;
/// A file that changed less than this before it was read may change again within the same tick
/// of the file system's clock.
const TICK_MS: u64 = 2_000;

/// What a folder declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// What the readable files declare now, and the others declared last.
    pub declared: Vec<Declared>,
    /// The files that cannot be read now.
    pub bad: Vec<FileError>,
    /// What is not known, and so says nothing about what should be gone.
    pub unknown: Unknown,
}

/// The files of which nothing is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// These, which could never be read since the start.
    Files(BTreeSet<String>),
    /// All: the folder itself could never be read.
    All,
}

impl Default for Unknown {
    fn default() -> Self {
        Self::Files(BTreeSet::new())
    }
}

impl Unknown {
    /// Whether it is not known what this origin declares.
    pub fn has(&self, origin: &Origin) -> bool {
        match (self, origin) {
            (Self::Files(names), Origin::File(name)) => names.contains(name),
            (Self::All, Origin::File(_)) => true,
            _ => false,
        }
    }
}

/// A folder of service files that is followed.
pub struct Files {
    folder: Arc<Mutex<Folder>>,
    metrics: Metrics,
    next_look: Instant,
    seen: u64,
}

impl Files {
    /// Follows `*.toml` in `dir`; nothing is read yet.
    pub fn watch(dir: impl Into<PathBuf>, metrics: Metrics) -> Self {
        let folder = Arc::new(Mutex::new(Folder::new(dir.into())));
        Self { folder, metrics, next_look: Instant::now(), seen: 0 }
    }

    /// The first call reads the folder; later ones return when something has changed. Safe to
    /// drop and call again.
    pub async fn next(&mut self) -> Found {
        loop {
            if let Some(found) = self.unseen() {
                return found;
            }
            sleep_until(self.next_look).await;
            self.next_look = Instant::now() + POLL;
            let folder = self.folder.clone();
            let look = tokio::task::spawn_blocking(move || lock(&folder).look(clock::unix_ms()));
            // A panic in it is a bug that the next look meets again; the last state holds.
            match look.await {
                Ok(look) => {
                    self.metrics.file_errors.inc_by(look.errors);
                    if !look.is_settled {
                        self.next_look = Instant::now() + SETTLE;
                    }
                }
                Err(error) => tracing::error!(%error, "the folder of services was not read"),
            }
        }
    }

    fn unseen(&mut self) -> Option<Found> {
        let folder = lock(&self.folder);
        if folder.version == self.seen {
            return None;
        }
        self.seen = folder.version;
        let found = folder.found();
        self.metrics.files_bad.set(i64::try_from(found.bad.len()).unwrap_or(i64::MAX));
        Some(found)
    }
}

fn lock(folder: &Mutex<Folder>) -> MutexGuard<'_, Folder> {
    folder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

type Listing = BTreeMap<String, Stamp>;

/// The folder as it was last read.
struct Folder {
    dir: PathBuf,
    /// The last look, settled or not; `None` before the first that succeeded.
    listing: Option<Listing>,
    files: BTreeMap<String, File>,
    cannot_list: Option<String>,
    /// Counts the changes.
    version: u64,
}

struct File {
    stamp: Stamp,
    /// Whether an equal stamp means an equal text.
    is_sure: bool,
    /// What was read, or why it was not.
    text: Result<String, String>,
    good: Option<Declared>,
    error: Option<FileError>,
}

struct Look {
    is_settled: bool,
    errors: u64,
}

impl Folder {
    fn new(dir: PathBuf) -> Self {
        Self { dir, listing: None, files: BTreeMap::new(), cannot_list: None, version: 0 }
    }

    /// Looks at the folder; takes over what has settled.
    fn look(&mut self, now_ms: u64) -> Look {
        let now = match list(&self.dir) {
            Ok(now) => now,
            Err(error) => return self.cannot_list(&error),
        };
        let is_first = self.listing.is_none();
        let before = self.listing.take().unwrap_or_default();
        let mut look = Look { is_settled: true, errors: 0 };
        let mut has_changed = is_first || self.cannot_list.take().is_some();
        let names: BTreeSet<&String> =
            before.keys().chain(now.keys()).chain(self.files.keys()).collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        for name in names {
            let stamp = now.get(&name).copied();
            if !is_first && before.get(&name).copied() != stamp {
                look.is_settled = false;
                continue;
            }
            has_changed |= match stamp {
                Some(stamp) => self.take(&name, stamp, now_ms, &mut look.errors),
                None => self.files.remove(&name).is_some(),
            };
        }
        self.listing = Some(now);
        self.version += u64::from(has_changed);
        look
    }

    fn cannot_list(&mut self, error: &io::Error) -> Look {
        let text = format!("cannot be listed: {error}");
        if self.cannot_list.as_ref() == Some(&text) {
            return Look { is_settled: true, errors: 0 };
        }
        tracing::warn!(dir = %self.dir.display(), text, "the folder of services keeps its last state");
        self.cannot_list = Some(text);
        self.version += 1;
        Look { is_settled: true, errors: 1 }
    }

    /// Reads a file if it may have changed. Returns whether it has.
    fn take(&mut self, name: &str, stamp: Stamp, now_ms: u64, errors: &mut u64) -> bool {
        let old = self.files.get_mut(name);
        if old.as_ref().is_some_and(|old| old.is_sure && old.stamp == stamp) {
            return false;
        }
        let text = read(&self.dir.join(name), stamp.bytes);
        let age_ms = i128::from(now_ms) - stamp.modified_ns / 1_000_000;
        let is_sure = age_ms > i128::from(TICK_MS);
        if let Some(old) = old
            && old.text == text
        {
            old.stamp = stamp;
            old.is_sure = is_sure;
            return false;
        }
        let last_good = self.files.remove(name).and_then(|file| file.good);
        let (good, error) = match parse(name, &text) {
            Ok(declared) => {
                let instances = declared.instances.len();
                tracing::info!(file = name, service = %declared.service.name, instances, "service file read");
                (Some(declared), None)
            }
            Err(error) => {
                *errors += 1;
                tracing::warn!(%error, "a service file is bad; what it last declared stays");
                (last_good, Some(error))
            }
        };
        self.files.insert(name.to_owned(), File { stamp, is_sure, text, good, error });
        true
    }

    fn found(&self) -> Found {
        let mut bad: Vec<_> = self.files.values().filter_map(|file| file.error.clone()).collect();
        if let Some(message) = &self.cannot_list {
            let file = self.dir.display().to_string();
            bad.push(FileError { file, line: None, message: message.clone() });
        }
        let unread = self.files.iter().filter(|(_, file)| file.good.is_none());
        let unknown = match self.listing {
            Some(_) => Unknown::Files(unread.map(|(name, _)| name.clone()).collect()),
            None => Unknown::All,
        };
        let declared = self.files.values().filter_map(|file| file.good.clone()).collect();
        Found { declared, bad, unknown }
    }
}

/// The service files of a folder, in the order of their names.
fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || !name.ends_with(".toml") {
            continue;
        }
        // Follows links. One that leads nowhere at this moment is as good as gone.
        let meta = match std::fs::metadata(entry.path()) {
            Ok(meta) if meta.is_file() => meta,
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        listing.insert(name, Stamp { inode: meta.ino(), bytes: meta.len(), modified_ns });
    }
    if listing.len() > FILES_MAX {
        tracing::warn!(dir = %dir.display(), files = listing.len(), "more files than {FILES_MAX}");
        let first_over = listing.keys().nth(FILES_MAX).cloned();
        if let Some(first_over) = first_over {
            listing.split_off(&first_over);
        }
    }
    Ok(listing)
}

fn read(path: &Path, bytes: u64) -> Result<String, String> {
    if bytes > FILE_BYTES_MAX {
        return Err(format!("{bytes} bytes are more than {FILE_BYTES_MAX}"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

fn parse(name: &str, text: &Result<String, String>) -> Result<Declared, FileError> {
    match text {
        Ok(text) => FolderFile::parse(name, text).map(|file| file.declared(name)),
        Err(message) => {
            Err(FileError { file: name.to_owned(), line: None, message: message.clone() })
        }
    }
}

#[cfg(test)]
mod tests;
