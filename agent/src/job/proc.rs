//! What `/proc` knows of processes: enough to tell a process from a later one with its number.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process and no other: a number alone is handed out again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub start_ticks: u64,
    /// Which start of the machine that was.
    pub boot: String,
}

/// The fields of `/proc/PID/stat` that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub pid: i32,
    pub state: u8,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    pub start_ticks: u64,
}

impl Stat {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Dead, and only waiting to be noted.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// The second field is the program's name in brackets and may hold anything, brackets too.
fn parse(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|b| *b == b'(')?;
    let close = text.iter().rposition(|b| *b == b')')?;
    let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        pid,
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// Tells one start of the machine from another.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

impl Mark {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Stat::of(pid).map(|stat| Self { pid, start_ticks: stat.start_ticks, boot: boot() })
    }

    /// Kills that very process.
    pub(crate) fn kill(&self) -> bool {
        self.is_there() && Stat::of(self.pid).is_some_and(|stat| kill(&stat))
    }

    /// Whether that very process is still there, dead or alive.
    fn is_there(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now == *self)
    }
}

/// Every process of the machine.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Stat::of)
        .collect()
}

/// Kills what a lost shim left running and returns how many processes that were. `shim` is as
/// it marked itself; it is known to be gone.
pub(crate) fn kill_strays(shim: &Mark) -> usize {
    // A session's number is not handed out again while a process is in it. So when a living
    // leader is not the shim, the number was free in between and the session is a stranger's.
    let is_taken = Stat::of(shim.pid).is_some_and(|stat| !stat.is_zombie()) && !shim.is_there();
    if shim.boot != boot() || is_taken {
        return 0;
    }
    let of_shim = |stat: &Stat| {
        stat.session == shim.pid && stat.pid != shim.pid && stat.start_ticks >= shim.start_ticks
    };
    all().iter().filter(|stat| of_shim(stat) && !stat.is_zombie() && kill(stat)).count()
}

/// Kills this very process, not a later one with its number.
pub(crate) fn kill(stat: &Stat) -> bool {
    let Some(pid) = Pid::from_raw(stat.pid) else { return false };
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    Stat::of(stat.pid).is_some_and(|now| now.start_ticks == stat.start_ticks)
        && pidfd_send_signal(&held, Signal::KILL).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_s_name_cannot_shift_the_fields() {
        let text = b"42 (a) R 1 (b c) S 7 40 39 0 -1 4194304 1 0 0 0 1 2 3 4 20 0 1 0 777 9 9 9\n";
        let expected =
            Stat { pid: 42, state: b'S', parent: 7, group: 40, session: 39, start_ticks: 777 };
        assert_eq!(parse(text), Some(expected));
        for cut in 0..text.len() - 12 {
            let _ = parse(&text[..cut]);
        }
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let own = Mark::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_there());
        assert!(!Mark { start_ticks: own.start_ticks + 1, ..own.clone() }.is_there());
        assert!(!Mark { boot: "another".into(), ..own }.is_there());
    }
}
