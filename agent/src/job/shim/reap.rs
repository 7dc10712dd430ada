//! The end of processes: the job's, and that of everything it left behind.

use std::thread;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, kill_process_group, wait,
    waitid, waitpid,
};

use super::super::folder::End;
use super::super::proc;
use super::serve::Desk;
use crate::clock;

/// How long what the job left behind may take to die of a SIGKILL.
const ORPHANS_WAIT: Duration = Duration::from_secs(2);

/// Waits for the job's end, kills the rest of its group and notes those of its children that
/// were left to us on the way.
pub(super) fn until_end(job: Pid, desk: &Desk) -> End {
    loop {
        // Only looks: until a process is noted its number, and so its group's, is its own.
        let _ = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let mut shut = desk.hold();
        let only_look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let noted = if let Ok(Some(_)) = waitid(WaitId::Pid(job), only_look) {
            let _ = kill_process_group(job, Signal::KILL);
            waitpid(Some(job), WaitOptions::NOHANG)
        } else {
            wait(WaitOptions::NOHANG)
        };
        match noted {
            Ok(Some((pid, status))) if pid == job => {
                shut.no_more_signals();
                return end(status);
            }
            Ok(_) => {}
            Err(error) => {
                // No children: the job was noted by nobody we know.
                eprintln!("wait: {error}");
                shut.no_more_signals();
                return End::Lost;
            }
        }
    }
}

fn end(status: WaitStatus) -> End {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => End::Exited { status },
        (None, Some(signal)) => End::Killed { signal },
        (None, None) => End::Lost,
    }
}

/// Kills those that left the job's group and, with the job gone, have become our children.
pub(super) fn bury_orphans() {
    let own = getpid().as_raw_pid();
    let until = clock::now() + ORPHANS_WAIT;
    // An error says that no child is left.
    while let Ok(noted) = wait(WaitOptions::NOHANG) {
        if noted.is_some() {
            continue;
        }
        for stat in proc::all().iter().filter(|stat| stat.parent == own) {
            proc::kill(stat);
        }
        if clock::now() > until {
            eprintln!("some of what the job left behind does not die");
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}
