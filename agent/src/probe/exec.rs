//! A command that exits with 0, in a process group of its own that is killed whole in time.
//!
//! A process that leaves the group (`setsid`) is out of reach; it must not hold up the probe.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Deadline, ProbeError};

/// How much of a command's output is kept; the rest is read and dropped, so that no command
/// stops at a full pipe.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024;
/// How long the pipes of a command that has ended may stay open: then a child of it holds them,
/// and that is killed.
const PIPES_GRACE: Duration = Duration::from_millis(100);
/// How long a killed command may take to be gone before the probe ends without it.
const KILL_GRACE: Duration = Duration::from_secs(1);
/// The search path where the agent itself has none.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Runs the command of one check, never twice at once.
#[derive(Default)]
pub(super) struct Runner {
    /// A killed command that is still there, as in an uninterruptible wait for a disk.
    undead: Option<Child>,
}

impl Runner {
    pub(super) async fn run(
        &mut self,
        command: &[String],
        addr: SocketAddr,
        deadline: Deadline,
    ) -> Result<String, ProbeError> {
        if let Some(child) = &mut self.undead {
            match child.try_wait() {
                Ok(None) => return Err(ProbeError::Busy),
                Ok(Some(_)) | Err(_) => self.undead = None,
            }
        }
        let (mut child, mut group) = spawn(command, addr)?;
        let mut output = Output::default();
        let end = until_end(&mut child, &mut output, deadline, &mut group).await;
        if let Ok(status) = end {
            return judge(status?, &output);
        }
        group.kill();
        if timeout(KILL_GRACE, child.wait()).await.is_err() {
            self.undead = Some(child);
        }
        Err(ProbeError::Timeout { doing: "running the command", after: deadline.after })
    }
}

/// The group of a command: killed when the probe is dropped before the command has ended.
struct Group {
    id: Pid,
    is_over: bool,
}

impl Group {
    /// The group cannot be another's: it is killed while its leader is not reaped, or while a
    /// member holds a pipe of ours.
    fn kill(&mut self) {
        self.is_over = true;
        // It fails only when nobody is left.
        let _ = kill_process_group(self.id, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill();
        }
    }
}

fn spawn(command: &[String], addr: SocketAddr) -> Result<(Child, Group), ProbeError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(ProbeError::Setup("the command is empty".to_owned()));
    };
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(PATH));
    let failed = |source| ProbeError::Spawn { program: program.clone(), source };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .env("PORTOLAN_CHECK_ADDR", addr.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let id = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
        .expect("a child that was not waited for has a pid");
    Ok((child, Group { id, is_over: false }))
}

#[derive(Default)]
struct Output {
    out: Vec<u8>,
    err: Vec<u8>,
}

/// Waits for the command and its pipes. The outer error is the deadline.
async fn until_end(
    child: &mut Child,
    output: &mut Output,
    deadline: Deadline,
    group: &mut Group,
) -> Result<Result<ExitStatus, ProbeError>, ProbeError> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut pipes = pin!(async {
        tokio::join!(gather(out, &mut output.out), gather(err, &mut output.err));
    });
    let mut are_open = true;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = &mut pipes, if are_open => are_open = false,
            end = deadline.keep("", std::future::pending::<()>()) => end?,
        }
    };
    if are_open && timeout(PIPES_GRACE, &mut pipes).await.is_err() {
        group.kill();
    }
    group.is_over = true;
    Ok(status.map_err(|error| ProbeError::Setup(format!("the command is lost: {error}"))))
}

/// Reads to the end and keeps the beginning.
async fn gather(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 1024];
    while let Ok(length) = pipe.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
}

fn judge(status: ExitStatus, output: &Output) -> Result<String, ProbeError> {
    // What a command says of a failure is in its errors first, in its output else.
    let said = [&output.err, &output.out].into_iter().find_map(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    });
    let output = said.map(|line| format!(": {line}")).unwrap_or_default();
    // `ExitStatus` says "exit status: 1" and "signal: 9 (SIGKILL)".
    let how = status.to_string().replacen(": ", " ", 1);
    if status.success() {
        Ok(format!("{how}{output}"))
    } else {
        Err(ProbeError::Exit { how, output })
    }
}
