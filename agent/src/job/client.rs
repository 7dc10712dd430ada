//! The agent's side of a job's folder: starting a shim, talking to it, finding how a run ended.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::folder::{
    self, CREW, Crew, EXIT, End, Exit, LOCK, ORDER, Order, Report, SHIM_LOG, SOCKET,
};
use super::proc;

/// How long a shim may take to answer once it is started.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a shim may take to answer one request.
const TALK_TIMEOUT: Duration = Duration::from_secs(5);
/// Between tries of what will come about in a moment.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// The longest answer of a shim.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// `sockaddr_un` has room for 108 bytes with the zero at the end.
const SOCKET_PATH_MAX: usize = 107;

/// How a shim is started: the program, and the arguments before `--dir DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimProgram {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments.
    pub args: Vec<OsString>,
}

impl ShimProgram {
    /// This very program, with the sub-command `shim`.
    pub fn current() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, args: vec!["shim".into()] })
    }

    fn command(&self) -> Command {
        // After an upgrade the file may be gone; the program that runs can still be started.
        let own = Path::new("/proc/self/exe");
        let is_there = !self.program.is_absolute() || self.program.exists();
        let mut command = Command::new(if is_there { &self.program } else { own });
        command.args(&self.args);
        command
    }
}

/// What came of a start.
pub(super) enum Launched {
    /// The job runs.
    Runs(Report),
    /// It has ended already, or could not be started.
    Ended(End),
}

/// Starts a shim for `order`. The error is what the job's operator is told.
pub(super) async fn launch(
    shim: &ShimProgram,
    dir: &Path,
    order: &Order,
) -> Result<Launched, String> {
    let prepared = {
        let (dir, order) = (dir.to_owned(), order.clone());
        blocking(move || prepare(&dir, &order)).await
    };
    let log = prepared.map_err(|error| format!("the job's folder cannot be written: {error}"))?;
    let mut child = shim
        .command()
        .arg("--dir")
        .arg(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(false)
        .spawn()
        .map_err(|error| format!("the shim cannot be started: {error}"))?;
    let answer = async {
        let mut pause = PAUSE_MIN;
        loop {
            // A shim that is leaving may still answer for the run before.
            match ask::<Report>(dir, "status").await {
                Ok(report) if report.run == order.run => return Some(report),
                _ => sleep(pause).await,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    };
    let launched = tokio::select! {
        report = answer => report,
        _ = child.wait() => None,
        () = sleep(START_TIMEOUT) => {
            let _ = child.kill().await;
            let own = dir.to_owned();
            blocking(move || kill_strays(&own)).await;
            return Err(format!("the shim did not answer within {START_TIMEOUT:?}"));
        }
    };
    if let Some(report) = launched {
        // Noted when it ends, whether anybody asks or not.
        tokio::spawn(async move { child.wait().await });
        return Ok(Launched::Runs(report));
    }
    match folder::read::<Exit>(&dir.join(EXIT)) {
        Ok(Some(exit)) if exit.run == order.run => Ok(Launched::Ended(exit.end)),
        _ => Err(format!("the shim failed: {}", last_complaint(dir))),
    }
}

fn prepare(dir: &Path, order: &Order) -> io::Result<File> {
    folder::make(dir)?;
    if order.cwd.starts_with(dir) {
        folder::make(&order.cwd)?;
    }
    folder::remove(&dir.join(EXIT))?;
    folder::remove(&dir.join(CREW))?;
    folder::replace(dir, ORDER, order)?;
    File::create(dir.join(SHIM_LOG))
}

fn last_complaint(dir: &Path) -> String {
    let text = fs::read(dir.join(SHIM_LOG)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().last().unwrap_or("it said nothing").to_owned()
}

/// What became of a signal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Signalled {
    /// It was sent.
    Sent,
    /// There was nobody left to send it to.
    Ended,
}

/// Has the shim send a signal to the job's whole group.
pub(super) async fn signal(dir: &Path, number: i32) -> io::Result<Signalled> {
    let answer = talk(dir, &format!("signal {number}")).await?;
    match answer.as_str() {
        "ok" => Ok(Signalled::Sent),
        "ended" => Ok(Signalled::Ended),
        other => Err(io::Error::other(format!("the shim answers: {other}"))),
    }
}

/// What the shim says of the run.
pub(super) async fn status(dir: &Path) -> io::Result<Report> {
    ask(dir, "status").await
}

/// Waits for the end of a run that was started, whoever started it.
pub(super) async fn until_end(dir: &Path, run: u64) -> End {
    loop {
        if let Ok(Some(exit)) = wait(dir).await
            && exit.run == run
        {
            return exit.end;
        }
        let own = dir.to_owned();
        if let Some(end) = blocking(move || look(&own, run)).await {
            return end;
        }
        sleep(PAUSE_MAX).await;
    }
}

/// Asks the shim to say when it is over. An error or nothing says only that it will not.
async fn wait(dir: &Path) -> io::Result<Option<Exit>> {
    let mut stream = timeout(TALK_TIMEOUT, connect(dir)).await??;
    stream.write_all(b"wait\n").await?;
    Ok(read::<Report>(stream).await?.exit)
}

/// How the run ended, if its shim is gone; kills what a shim that was killed has left.
fn look(dir: &Path, run: u64) -> Option<End> {
    if is_served(dir) {
        return None;
    }
    match folder::read::<Exit>(&dir.join(EXIT)) {
        Ok(Some(exit)) if exit.run == run => return Some(exit.end),
        Err(error) => tracing::error!(dir = %dir.display(), %error, "{EXIT} cannot be read"),
        Ok(_) => {}
    }
    let killed = kill_strays(dir);
    tracing::error!(dir = %dir.display(), killed, "a shim is gone without a word, its job is killed");
    Some(End::Lost)
}

fn crew(dir: &Path) -> Option<Crew> {
    folder::read(&dir.join(CREW)).ok().flatten()
}

fn kill_strays(dir: &Path) -> usize {
    crew(dir).map_or(0, |crew| proc::kill_strays(&crew.shim))
}

/// Kills a shim that does not do what it is asked to.
pub(super) fn kill_shim(dir: &Path) {
    if let Some(crew) = crew(dir)
        && crew.shim.kill()
    {
        tracing::error!(dir = %dir.display(), "a shim that does not answer is killed");
    }
}

/// Whether anything was started for the run: a shim that got far enough to tell.
pub(super) fn was_begun(dir: &Path, run: u64) -> bool {
    let exit = folder::read::<Exit>(&dir.join(EXIT)).ok().flatten();
    exit.is_some_and(|exit| exit.run == run) || crew(dir).is_some_and(|crew| crew.run == run)
}

/// Whether a shim lives in the folder.
pub(super) fn is_served(dir: &Path) -> bool {
    let Ok(lock) = OpenOptions::new().read(true).open(dir.join(LOCK)) else { return false };
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}

async fn ask<T: DeserializeOwned>(dir: &Path, request: &str) -> io::Result<T> {
    Ok(serde_json::from_str(&talk(dir, request).await?)?)
}

async fn talk(dir: &Path, request: &str) -> io::Result<String> {
    let talk = async {
        let mut stream = connect(dir).await?;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        line(stream).await
    };
    timeout(TALK_TIMEOUT, talk).await?
}

async fn read<T: DeserializeOwned>(stream: UnixStream) -> io::Result<T> {
    Ok(serde_json::from_str(&line(stream).await?)?)
}

async fn line(stream: UnixStream) -> io::Result<String> {
    let mut text = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut text).await?;
    match text.strip_suffix('\n') {
        Some(text) => Ok(text.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn connect(dir: &Path) -> io::Result<UnixStream> {
    let path = dir.join(SOCKET);
    if path.as_os_str().as_bytes().len() <= SOCKET_PATH_MAX {
        return UnixStream::connect(path).await;
    }
    let held = File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", held.as_raw_fd());
    UnixStream::connect(path).await
}

/// Runs work that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down; nobody will ask for the result.
            Err(_) => std::future::pending().await,
        },
    }
}
