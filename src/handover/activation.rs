//! Sockets that the service manager has bound (`sd_listen_fds(3)`). The one place that makes
//! owned files of numbers.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::io::{FdFlags, fcntl_setfd};

/// The first passed file; fixed by the protocol.
const FIRST: RawFd = 3;
/// More is a mistake of somebody.
const COUNT_MAX: RawFd = 1_024;

/// The passed files. Call it once, before anything else is opened: they are nobody else's.
pub(super) fn passed() -> Vec<OwnedFd> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<RawFd>().ok();
    let is_ours = number("LISTEN_PID") == RawFd::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").filter(|_| is_ours).unwrap_or(0);
    (FIRST..FIRST + count.clamp(0, COUNT_MAX)).filter_map(own).collect()
}

fn own(fd: RawFd) -> Option<OwnedFd> {
    if !Path::new(&format!("/proc/self/fd/{fd}")).exists() {
        tracing::warn!(fd, "the service manager speaks of a file that is not open");
        return None;
    }
    // SAFETY: it is open, as was just seen, and no part of this process owns it: it was there
    // when the process began, for us alone as LISTEN_PID says, and `passed` is called once.
    #[expect(unsafe_code, reason = "a number is all that the protocol gives")]
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // Our children are not meant.
    if let Err(error) = fcntl_setfd(&fd, FdFlags::CLOEXEC) {
        tracing::warn!(%error, "a passed file will be inherited by child processes");
    }
    Some(fd)
}
