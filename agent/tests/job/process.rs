//! Processes as `/proc` shows them, deadlines, and the program that the tests start.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Nothing here takes longer, on the slowest machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The example that is shim, server and agent in turn.
pub fn fixture() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("examples/job_fixture");
    assert!(path.exists(), "first: cargo build -p portolan-agent --examples");
    path
}

/// Asks again until the answer is there.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let mut left = DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(!left.is_zero(), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
        left = left.saturating_sub(Duration::from_millis(2));
    }
}

fn stat(pid: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after = &text[text.rfind(')')? + 2..];
    Some(after.split(' ').map(str::to_owned).collect())
}

/// Whether the process is there and not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat(&pid.to_string()).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

/// The session of a process.
pub fn session(pid: u32) -> Option<u32> {
    stat(&pid.to_string())?.get(3)?.parse().ok()
}

/// Every living process whose environment has `mark`.
pub fn marked(mark: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|b| *b == 0).any(|item| item == mark.as_bytes()) && is_alive(*pid)
        })
        .collect()
}

/// Sends a signal to one process.
pub fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Every living process that was started with this argument.
pub fn with_argument(argument: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).any(|item| item == argument.as_bytes()) && is_alive(*pid)
        })
        .collect()
}
