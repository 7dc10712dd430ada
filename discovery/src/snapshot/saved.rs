//! The last known good snapshot on disk, so that a restart needs nobody.
//!
//! A header line with a checksum, then one JSON line per record. Written beside, synced and
//! renamed; the one before is kept, and read when the newest is damaged.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Rejected, Snapshot};
use crate::model::{Kv, Revision};

/// A larger file is refused: it was not written by us.
pub const SAVED_BYTES_MAX: u64 = 1 << 30;

const FORMAT: &str = "portolan-saved-1";

/// A snapshot that was read back.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The identity of the store it was taken from.
    pub store: String,
    /// The records that could not be read.
    pub rejected: Vec<Rejected>,
    /// Whether the newest file was missing or damaged and the one before it was read.
    pub is_older: bool,
}

/// Why nothing could be saved or read.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The disk said no.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{path} is damaged: {cause}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        cause: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    store: String,
    revision: Revision,
    bytes: u64,
    crc32: u32,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    value: Box<RawValue>,
}

/// The two files that hold the newest snapshot and the one before.
#[derive(Debug, Clone)]
pub struct SavedFile {
    path: PathBuf,
}

impl SavedFile {
    /// The files at `path` and `path` + `.1`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Whether there is anything to read.
    pub fn exists(&self) -> bool {
        self.path.exists() || self.beside(".1").exists()
    }

    /// Where the newest one lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Writes `snapshot`; when it returns, a crash cannot lose it.
    pub fn save(&self, snapshot: &Snapshot, store: &str) -> Result<(), SaveError> {
        let mut body = Vec::new();
        for kv in snapshot.to_kvs() {
            let value = serde_json::from_slice(&kv.value).expect("`encode` made it, as JSON");
            serde_json::to_writer(&mut body, &Line { key: kv.key, value })
                .expect("a write to memory does not fail");
            body.push(b'\n');
        }
        let header = Header {
            format: FORMAT.to_owned(),
            store: store.to_owned(),
            revision: snapshot.revision,
            bytes: body.len() as u64,
            crc32: crc32fast::hash(&body),
        };
        let mut text = serde_json::to_vec(&header).expect("a header is plain");
        text.push(b'\n');
        text.extend_from_slice(&body);
        self.replace(&text)
    }

    fn replace(&self, text: &[u8]) -> Result<(), SaveError> {
        let next = self.beside(".next");
        // The records of jobs and services are nobody else's business.
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&next).map_err(at(&next))?;
        file.write_all(text).and_then(|()| file.sync_all()).map_err(at(&next))?;
        match fs::rename(&self.path, self.beside(".1")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at(&self.path)(error));
            }
            _ => {}
        }
        fs::rename(&next, &self.path).map_err(at(&self.path))?;
        // The renames themselves must survive a power loss too.
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
        }
        Ok(())
    }

    /// Reads the newest file, or the one before when that is missing or damaged. The error is
    /// the newest file's.
    pub fn load(&self) -> Result<Saved, SaveError> {
        read(&self.path).or_else(|error| match read(&self.beside(".1")) {
            Ok(saved) => Ok(Saved { is_older: true, ..saved }),
            Err(_) => Err(error),
        })
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SaveError {
    let path = path.to_owned();
    move |source| SaveError::Io { path, source }
}

fn read(path: &Path) -> Result<Saved, SaveError> {
    let damaged = |cause: String| SaveError::Damaged { path: path.to_owned(), cause };
    let length = fs::metadata(path).map_err(at(path))?.len();
    if length > SAVED_BYTES_MAX {
        return Err(damaged(format!("{length} bytes are more than {SAVED_BYTES_MAX}")));
    }
    let text = fs::read(path).map_err(at(path))?;
    let end = text
        .iter()
        .position(|b| *b == b'\n')
        .ok_or_else(|| damaged("it has no header line".to_owned()))?;
    let header: Header =
        serde_json::from_slice(&text[..end]).map_err(|error| damaged(error.to_string()))?;
    let body = &text[end + 1..];
    if header.format != FORMAT {
        return Err(damaged(format!("its format is {} instead of {FORMAT}", header.format)));
    }
    if header.bytes != body.len() as u64 || header.crc32 != crc32fast::hash(body) {
        return Err(damaged("length or checksum do not fit".to_owned()));
    }
    let mut kvs = Vec::new();
    for line in body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let line: Line =
            serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
        kvs.push(Kv {
            key: line.key,
            value: Bytes::copy_from_slice(line.value.get().as_bytes()),
            created: header.revision,
            modified: header.revision,
            lease: None,
        });
    }
    let (snapshot, rejected) = Snapshot::from_kvs(kvs, header.revision);
    Ok(Saved { snapshot, store: header.store, rejected, is_older: false })
}
