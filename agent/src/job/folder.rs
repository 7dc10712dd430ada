//! The folder of a job: the names and forms of the files that agent and shim share.
//!
//! An agent and a shim of different versions meet here, so a form only ever gains optional
//! fields. Knows nothing of processes or the store.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::proc::Mark;

/// What the shim is to run; written by the agent before it starts the shim.
pub(crate) const ORDER: &str = "job.json";
/// Whose the processes are; written by the shim.
pub(crate) const CREW: &str = "shim.json";
/// How the run ended; written by the shim.
pub(crate) const EXIT: &str = "exit.json";
/// Held by the shim as long as it lives.
pub(crate) const LOCK: &str = "lock";
/// Where the shim answers.
pub(crate) const SOCKET: &str = "ctl.sock";
/// What the shim itself has to complain about.
pub(crate) const SHIM_LOG: &str = "shim.log";
/// The folder of what the job printed.
pub(crate) const LOGS: &str = "log";
/// The job's working directory, unless its spec names another.
pub(crate) const WORK: &str = "work";
/// What the agent remembers of the job.
pub(crate) const MEMORY: &str = "memory.json";
/// Says that the job is over and only its output is kept.
pub(crate) const OVER: &str = "over";

/// A larger file in the folder was not written by us.
const FORM_BYTES_MAX: u64 = 4 << 20;

/// How much of a job's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLimits {
    /// A file that would grow beyond this is closed and the next one begun.
    pub file_bytes_max: u64,
    /// How many files are kept.
    pub files_max: u64,
}

impl LogLimits {
    /// 10 MiB a file, three of them.
    pub(crate) const DEFAULT: Self = Self { file_bytes_max: 10 << 20, files_max: 3 };
}

/// One run of a job, ready to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Counts the starts of the job: tells this run's files from an older one's.
    pub run: u64,
    /// Where the job is to listen; the shim only repeats it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<SocketAddr>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The working directory.
    pub cwd: PathBuf,
    /// How much output is kept.
    pub logs: LogLimits,
}

/// Whose the processes of a run are, so that what a killed shim left behind can be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Crew {
    /// Which run.
    pub run: u64,
    /// The shim, leader of the session that all of them are in.
    pub shim: Mark,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "how")]
pub(crate) enum End {
    /// By itself.
    Exited {
        /// Its exit status.
        status: i32,
    },
    /// By a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// Before it began.
    Unstarted {
        /// Why, in a few words.
        cause: String,
    },
    /// Nobody saw it: the shim is gone and left no word.
    Lost,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status } => write!(f, "exit status {status}"),
            Self::Killed { signal } => write!(f, "signal {signal}"),
            Self::Unstarted { cause } => f.write_str(cause),
            Self::Lost => f.write_str("shim lost"),
        }
    }
}

/// How a run ended, for whoever comes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Which run.
    pub run: u64,
    /// How.
    #[serde(flatten)]
    pub end: End,
    /// When, in milliseconds of Unix time.
    pub at_ms: u64,
}

/// What the shim says of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Which run.
    pub run: u64,
    /// The job's process.
    pub pid: u32,
    /// Where the job is to listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<SocketAddr>,
    /// When it was started, in milliseconds of Unix time.
    pub started_ms: u64,
    /// How it ended; nothing while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// Makes a folder that only its owner can enter; its parents too.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Reads a form. Nothing when there is no such file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > FORM_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{length} bytes are more than {FORM_BYTES_MAX}"),
        ));
    }
    Ok(Some(serde_json::from_slice(&fs::read(path)?)?))
}

/// Writes a form whole or not at all, and so that a power loss keeps it.
pub(crate) fn replace<T: Serialize>(dir: &Path, name: &str, form: &T) -> io::Result<()> {
    let text = serde_json::to_vec(form)?;
    let next = dir.join(format!("{name}.next"));
    let mut file = File::create(&next)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&next, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Removes a file that may not be there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The error with the file it is about.
pub(crate) fn about(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.to_owned();
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
