//! The shim: a small program that starts one job, keeps its output and its end, and outlives
//! the agent.
//!
//! Plain threads, no runtime. Knows its folder and nothing else: neither the store nor the
//! agent, which finds it by the folder's socket.

mod capture;
mod reap;
mod serve;

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, getpid, set_child_subreaper, setsid};

use self::capture::{Pump, Sink};
use self::serve::Desk;
use super::folder::{self, CREW, Crew, EXIT, End, Exit, LOCK, LOGS, ORDER, Order, Report};
use super::proc::Mark;
use crate::clock;

/// How long a new shim waits for the one before it to leave: longer than what the dead and
/// their output may take.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long the last output may take to be read once every process is dead.
const OUTPUT_WAIT: Duration = Duration::from_secs(1);
/// How often, and how far apart, writing down the end is tried: the disk may be full.
const EXIT_TRIES: u32 = 20;
const EXIT_PAUSE: Duration = Duration::from_millis(500);
/// `EX_USAGE` of sysexits.
const USAGE: u8 = 64;

/// Runs the shim; `args` are those after the sub-command: `--dir DIR`. Call it before any
/// thread is started. It returns when the job has ended and its end is written down.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some(dir) = parse(args) else {
        eprintln!("usage: shim --dir DIR");
        return ExitCode::from(USAGE);
    };
    match run(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shim of {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Option<PathBuf> {
    let mut args = args.into_iter();
    let (flag, dir) = (args.next()?, args.next()?);
    (flag == "--dir" && args.next().is_none()).then(|| PathBuf::from(dir))
}

fn run(dir: &Path) -> io::Result<()> {
    // Out of the terminal's reach. It fails only for the leader of a group: a shim that was
    // started by hand, where the terminal's word is wanted.
    let _ = setsid();
    set_child_subreaper(Some(getpid()))?;
    // From here on every path is relative: the path of a socket has 108 bytes at most.
    std::env::set_current_dir(dir)?;
    let dir = Path::new(".");
    let _lock = lock(&dir.join(LOCK))?;
    let order: Order = folder::read(&dir.join(ORDER))?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no {ORDER}")))?;
    let shim = Mark::of(getpid().as_raw_pid())
        .ok_or_else(|| io::Error::other("/proc does not show this process"))?;
    folder::replace(dir, CREW, &Crew { run: order.run, shim })?;

    let desk = Arc::new(Desk::bind(dir)?);
    // Whoever asks meanwhile is answered once there is something to say.
    let exit = match start(&order, &desk) {
        Ok((pid, pumps)) => {
            let end = reap::until_end(pid, &desk);
            let exit = Exit { run: order.run, end, at_ms: clock::unix_ms() };
            desk.tell(&exit);
            reap::bury_orphans();
            for pump in pumps {
                pump.finish(OUTPUT_WAIT);
            }
            exit
        }
        Err(cause) => {
            Exit { run: order.run, end: End::Unstarted { cause }, at_ms: clock::unix_ms() }
        }
    };
    write_down(dir, &exit)
}

/// One shim per folder, for as long as its process lives.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    let until = clock::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if clock::now() < until => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another shim serves this folder"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Starts the job; the error is what its operator is told.
fn start(order: &Order, desk: &Arc<Desk>) -> Result<(Pid, [Pump; 2]), String> {
    let (program, args) = order.argv.split_first().ok_or("the command is empty")?;
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs(&order.env)
        .current_dir(&order.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| why(&error, program, &order.cwd))?;
    let pid = Pid::from_child(&child);
    desk.open(Report {
        run: order.run,
        pid: child.id(),
        addr: order.addr,
        started_ms: clock::unix_ms(),
        exit: None,
    });
    let sink = Arc::new(Mutex::new(Sink::open(Path::new(LOGS), order.logs)));
    let out = child.stdout.take().expect("it was asked for above");
    let err = child.stderr.take().expect("it was asked for above");
    // The child is not waited for through `child`: `reap` notes its end.
    Ok((pid, [Pump::start(b'O', out, &sink), Pump::start(b'E', err, &sink)]))
}

fn why(error: &io::Error, program: &str, cwd: &Path) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if !cwd.is_dir() => {
            format!("working directory not found: {}", cwd.display())
        }
        io::ErrorKind::NotFound => format!("command not found: {program}"),
        io::ErrorKind::PermissionDenied => format!("not allowed to run: {program}"),
        _ => format!("cannot run {program}: {error}"),
    }
}

fn write_down(dir: &Path, exit: &Exit) -> io::Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        match folder::replace(dir, EXIT, exit) {
            Err(error) if tries == EXIT_TRIES => return Err(error),
            Err(error) if tries == 1 => eprintln!("{EXIT}: {error}"),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
        thread::sleep(EXIT_PAUSE);
    }
}
