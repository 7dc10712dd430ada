//! The folder's socket: lines in, one line of answer each.
//!
//! `status` says how things stand, `wait` says it when the job has ended, `signal N` goes to the
//! job's whole group. Who asks is the owner of the folder: nobody else can enter it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::super::folder::{self, Exit, Report, SOCKET};

/// Conversations at a time; one more is hung up on.
const TALKS_MAX: usize = 16;
/// Those who wait for the end; one more, and the oldest is hung up on.
const WAITERS_MAX: usize = 16;
/// The longest line of a request.
const LINE_BYTES_MAX: u64 = 64;
/// Lines of one conversation.
const LINES_MAX: usize = 10_000;
/// How long a conversation may be silent.
const TALK_TIMEOUT: Duration = Duration::from_secs(30);

/// What is told about the job, and who waits to be told.
pub(super) struct Desk {
    state: Mutex<State>,
    opened: Condvar,
    talks: AtomicUsize,
}

#[derive(Default)]
pub(super) struct State {
    report: Option<Report>,
    takes_signals: bool,
    waiters: Vec<UnixStream>,
}

impl State {
    /// From here on the job's number may be another's.
    pub(super) fn no_more_signals(&mut self) {
        self.takes_signals = false;
    }
}

impl Desk {
    /// Binds the socket and answers from then on, on a thread of its own.
    pub(super) fn bind(dir: &Path) -> io::Result<Arc<Self>> {
        let path = dir.join(SOCKET);
        folder::remove(&path)?;
        let listener = UnixListener::bind(&path).map_err(folder::about(&path))?;
        let desk = Arc::new(Self {
            state: Mutex::default(),
            opened: Condvar::new(),
            talks: AtomicUsize::new(0),
        });
        let own = Arc::clone(&desk);
        thread::Builder::new().name("serve".into()).spawn(move || own.accept(&listener))?;
        Ok(desk)
    }

    /// Keeps everyone from asking and signalling for a moment.
    pub(super) fn hold(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The job runs: answer who has asked meanwhile.
    pub(super) fn open(&self, report: Report) {
        let mut state = self.hold();
        state.report = Some(report);
        state.takes_signals = true;
        drop(state);
        self.opened.notify_all();
    }

    /// The job has ended: tell everyone who waits.
    pub(super) fn tell(&self, exit: &Exit) {
        let mut state = self.hold();
        let State { report, waiters, .. } = &mut *state;
        if let Some(report) = report {
            report.exit = Some(exit.clone());
            for mut waiter in waiters.drain(..) {
                // Whoever has left since finds it in the folder.
                let _ = waiter.write_all(&line(report));
            }
        }
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of file descriptors or memory: a moment later there may be some.
                thread::sleep(Duration::from_millis(50));
                continue;
            };
            if self.talks.fetch_add(1, Ordering::Relaxed) >= TALKS_MAX {
                self.talks.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let desk = Arc::clone(self);
            let talk = move || {
                let _ = desk.talk(stream);
                desk.talks.fetch_sub(1, Ordering::Relaxed);
            };
            if thread::Builder::new().name("talk".into()).spawn(talk).is_err() {
                self.talks.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn talk(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(TALK_TIMEOUT))?;
        stream.set_write_timeout(Some(TALK_TIMEOUT))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        for _ in 0..LINES_MAX {
            let mut text = String::new();
            lines.by_ref().take(LINE_BYTES_MAX).read_line(&mut text)?;
            let Some(text) = text.strip_suffix('\n') else { return Ok(()) };
            let mut state = self.hold();
            while state.report.is_none() {
                state = self.opened.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            let report = state.report.as_ref().expect("it was waited for above");
            let answer = match text.split_once(' ') {
                None if text == "status" => line(report),
                None if text == "wait" && report.exit.is_some() => line(report),
                None if text == "wait" => {
                    if state.waiters.len() == WAITERS_MAX {
                        state.waiters.remove(0);
                    }
                    state.waiters.push(stream);
                    return Ok(());
                }
                Some(("signal", number)) => signal(&state, report, number),
                _ => b"error unknown request\n".to_vec(),
            };
            drop(state);
            stream.write_all(&answer)?;
        }
        Ok(())
    }
}

fn signal(state: &State, report: &Report, number: &str) -> Vec<u8> {
    let named = number.parse().ok().and_then(Signal::from_named_raw);
    let group = i32::try_from(report.pid).ok().and_then(Pid::from_raw);
    let (Some(named), Some(group)) = (named, group) else {
        return b"error unknown signal\n".to_vec();
    };
    if !state.takes_signals {
        return b"ended\n".to_vec();
    }
    match kill_process_group(group, named) {
        Ok(()) => b"ok\n".to_vec(),
        Err(error) => format!("error {error}\n").into_bytes(),
    }
}

fn line(report: &Report) -> Vec<u8> {
    let mut text = serde_json::to_vec(report).expect("a report is plain");
    text.push(b'\n');
    text
}
