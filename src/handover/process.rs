//! Starts the next process, and finds the one that started this.
//!
//! The line between them is the new process's standard input: nothing has to be inheritable for
//! it, so no job or probe that is started at the same moment gets a socket by mistake.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::net::{SocketType, sockopt};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};
use rustix::stdio::dup2_stdin;

use super::message::{FromNew, PROTOCOL};

/// Tells the new process by whom it was started: the number of that process.
const VARIABLE: &str = "PORTOLAN_HANDOVER";

/// What this process was started with, to start its successor with the same.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// As it was started. The path is that of the command line and not of the running file, so
    /// that a link which leads to another version now is followed.
    pub fn this() -> io::Result<Self> {
        let mut words = std::env::args_os();
        let path = match words.next().filter(|path| !path.is_empty()).map(PathBuf::from) {
            Some(path) if path.as_os_str().as_bytes().contains(&b'/') => {
                std::env::current_dir()?.join(path)
            }
            // By its name alone it is looked for in PATH, again each time.
            Some(name) => name,
            None => std::env::current_exe()?,
        };
        Ok(Self { path, args: words.collect() })
    }

    /// The file that is started, or its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it with the same arguments and environment, and a line to it.
    pub fn start(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(&self.path)
            .args(&self.args)
            .env(VARIABLE, std::process::id().to_string())
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .stdin(OwnedFd::from(theirs))
            // What the terminal tells its foreground it hears once: from us.
            .process_group(0)
            .spawn()?;
        Ok((child, ours))
    }
}

/// The line to the process that this one is to take over from, if there is one. Call it once,
/// early: standard input is empty afterwards.
pub fn predecessor() -> Option<UnixStream> {
    let pid: i32 = std::env::var(VARIABLE).ok()?.parse().ok()?;
    // A later child of the one that was meant has the variable too; and who has lost its parent
    // meanwhile has nobody to take over from.
    if getppid().map(Pid::as_raw_pid) != Some(pid) {
        return None;
    }
    let line = io::stdin().as_fd().try_clone_to_owned().ok()?;
    if sockopt::socket_type(&line) != Ok(SocketType::STREAM) {
        return None;
    }
    if let Err(error) = File::open("/dev/null").and_then(|null| Ok(dup2_stdin(null)?)) {
        tracing::warn!(%error, "standard input stays the line to the process before");
    }
    Some(UnixStream::from(line))
}

/// Says on the line why this process does not even begin.
pub fn refuse(mut line: UnixStream, cause: &str) {
    let hello = FromNew::Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    };
    for message in [hello, FromNew::Failed { cause: cause.to_owned() }] {
        if let Ok(text) = serde_json::to_string(&message) {
            // Who does not hear it sees the end of this process.
            let _ = writeln!(line, "{text}");
        }
    }
}

/// Whether a service manager can be told which process to look at. The first process of a
/// container cannot be replaced: all others end with it.
pub fn is_notified() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some() && getpid() != Pid::INIT
}

/// The process that leads, when that is another one which this one stands for.
#[derive(Debug, Default)]
pub struct Main(AtomicI32);

impl Main {
    /// From now on it is `pid`.
    pub fn set(&self, pid: u32) {
        self.0.store(i32::try_from(pid).unwrap_or(0), Ordering::Release);
    }

    /// Its number.
    pub fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.0.load(Ordering::Acquire))
    }

    /// Passes a signal on; whether there is somebody to pass it on to.
    pub fn forward(&self, signal: Signal) -> bool {
        let Some(pid) = self.pid() else { return false };
        if let Err(error) = kill_process(pid, signal) {
            tracing::debug!(%error, "a signal was not passed on");
        }
        true
    }
}
