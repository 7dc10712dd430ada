//! The shim, spoken to as an agent of any version does: files, socket, lines.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{DEADLINE, fixture, is_alive, kill, marked, session, until};

struct Shim {
    dir: TempDir,
    child: Child,
    mark: String,
}

impl Shim {
    fn run(script: &str) -> Self {
        Self::order(json!({ "argv": ["/bin/sh", "-c", script] }))
    }

    fn order(changes: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mark = format!("MARK={}", dir.path().display());
        let mut order = json!({
            "run": 7,
            "addr": "127.0.0.1:20000",
            "argv": [],
            "env": { "PATH": "/usr/bin:/bin", "MARK": dir.path() },
            "cwd": dir.path(),
            "logs": { "file_bytes_max": 10 << 20, "files_max": 3 },
        });
        for (name, value) in changes.as_object().unwrap() {
            order[name] = value.clone();
        }
        fs::write(dir.path().join("job.json"), order.to_string()).unwrap();
        let child = start(dir.path());
        Self { dir, child, mark }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn connect(&self) -> BufReader<UnixStream> {
        let path = self.path("ctl.sock");
        let stream = until("the socket", || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        BufReader::new(stream)
    }

    fn ask(&self, line: &str) -> String {
        let mut talk = self.connect();
        say(&mut talk, line);
        hear(&mut talk)
    }

    fn pid(&self) -> u32 {
        let status: Value = serde_json::from_str(&self.ask("status")).unwrap();
        status["pid"].as_u64().unwrap().try_into().unwrap()
    }

    fn exit(&mut self) -> Value {
        until("the end of the shim", || self.child.try_wait().unwrap());
        serde_json::from_slice(&fs::read(self.path("exit.json")).unwrap()).unwrap()
    }

    fn output(&self) -> Vec<(char, String)> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.path("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(3, ' ');
                let stamp = parts.next().unwrap();
                assert!(stamp.starts_with("20") && stamp.ends_with('Z'), "{line}");
                let stream = parts.next().unwrap().chars().next().unwrap();
                (stream, parts.next().unwrap().to_owned())
            })
            .collect()
    }

    fn wait_for_output(&self, text: &str) {
        until(text, || {
            self.path("log/00000001.log").exists().then_some(())?;
            self.output().iter().any(|(_, line)| line == text).then_some(())
        });
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in marked(&self.mark) {
            kill(pid, Signal::KILL);
        }
    }
}

fn start(dir: &Path) -> Child {
    let log = fs::File::create(dir.join("shim.log")).unwrap();
    Command::new(fixture())
        .args(["shim", "--dir"])
        .arg(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn say(talk: &mut BufReader<UnixStream>, line: &str) {
    talk.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn hear(talk: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    talk.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn output_and_exit_status_are_kept() {
    let mut shim = Shim::run("echo out; echo err >&2; printf 'no end'; exit 3");
    let exit = shim.exit();
    assert_eq!(
        (&exit["run"], &exit["how"], &exit["status"]),
        (&json!(7), &json!("exited"), &json!(3))
    );
    assert!(exit["at_ms"].as_u64().unwrap() > 1_700_000_000_000);
    let mut output = shim.output();
    output.sort();
    let expected = [('E', "err"), ('O', "no end"), ('O', "out")];
    assert_eq!(output, expected.map(|(stream, text)| (stream, text.to_owned())));
}

#[test]
fn a_job_has_the_environment_it_was_given_its_own_group_and_no_input() {
    let mut shim = Shim::run("env | sort; cat; echo group $(cut -d' ' -f5 /proc/$$/stat) $$");
    shim.exit();
    let lines: Vec<String> = shim.output().into_iter().map(|(_, line)| line).collect();
    let own = ["_=", "PWD=", "OLDPWD=", "SHLVL="];
    let env: Vec<&String> = lines[..lines.len() - 1]
        .iter()
        .filter(|line| !own.iter().any(|name| line.starts_with(name)))
        .collect();
    assert_eq!(env, [&shim.mark, "PATH=/usr/bin:/bin"]);
    let group: Vec<&str> = lines.last().unwrap().split(' ').collect();
    assert_eq!(group[1], group[2], "{lines:?}");
}

#[test]
fn a_command_that_is_not_there_is_said_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, missing) = (dir.path().join("plain"), dir.path().join("missing"));
    fs::write(&plain, "").unwrap();
    for (order, cause) in [
        (json!({ "argv": ["/no/such"] }), "command not found: /no/such".to_owned()),
        (json!({ "argv": ["no-such-word"] }), "command not found: no-such-word".to_owned()),
        (json!({ "argv": [plain] }), format!("not allowed to run: {}", plain.display())),
        (json!({ "argv": [] }), "the command is empty".to_owned()),
        (
            json!({ "argv": ["/bin/true"], "cwd": missing }),
            format!("working directory not found: {}", missing.display()),
        ),
    ] {
        let exit = Shim::order(order).exit();
        assert_eq!((&exit["how"], &exit["cause"]), (&json!("unstarted"), &json!(cause)));
    }
}

#[test]
fn whoever_waits_is_told_and_whoever_comes_later_reads_it() {
    let mut shim = Shim::run("echo ready; read x < /dev/zero; sleep 60");
    let mut waiters: Vec<_> = (0..3).map(|_| shim.connect()).collect();
    for waiter in &mut waiters {
        say(waiter, "status");
        let status: Value = serde_json::from_str(&hear(waiter)).unwrap();
        assert_eq!(status["addr"], "127.0.0.1:20000");
        assert_eq!(status.get("exit"), None);
        say(waiter, "wait");
    }
    assert_eq!(shim.ask("signal 9"), "ok");
    for waiter in &mut waiters {
        let report: Value = serde_json::from_str(&hear(waiter)).unwrap();
        assert_eq!(report["exit"]["how"], "killed");
        assert_eq!(report["exit"]["signal"], 9);
    }
    let exit = shim.exit();
    assert_eq!((&exit["how"], &exit["signal"]), (&json!("killed"), &json!(9)));
}

#[test]
fn nonsense_is_answered_and_harms_nobody() {
    let shim = Shim::run("sleep 60");
    let pid = shim.pid();
    for line in
        ["", "stop", "signal", "signal x", "signal 0", "signal 4096", "status now", "wait 9"]
    {
        assert!(shim.ask(line).starts_with("error "), "{line}");
    }
    // A line without an end, a flood, a peer that leaves, and more peers than are served.
    let mut talk = shim.connect();
    talk.get_mut().write_all(&[b'x'; 1000]).unwrap();
    assert_eq!(hear(&mut talk), "");
    let silent: Vec<_> = (0..40).map(|_| shim.connect()).collect();
    drop(silent);
    until("an answer", || {
        let mut talk = shim.connect();
        talk.get_mut().write_all(b"status\n").ok()?;
        let mut line = String::new();
        talk.read_line(&mut line).ok()?;
        line.contains("pid").then_some(())
    });
    assert!(is_alive(pid));
}

#[test]
fn waiters_that_went_away_leave_room_for_others() {
    let shim = Shim::run("sleep 60");
    for _ in 0..40 {
        let mut talk = shim.connect();
        say(&mut talk, "status");
        hear(&mut talk);
        say(&mut talk, "wait");
    }
    let mut last = shim.connect();
    say(&mut last, "status");
    hear(&mut last);
    say(&mut last, "wait");
    // Served in its turn before the signal is.
    until("the wait to be noted", || shim.ask("status").contains("pid").then_some(()));
    shim.ask("signal 15");
    assert!(hear(&mut last).contains("\"signal\":15"));
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let mut shim = Shim::run(
        "sh -c 'trap \"echo child got it; exit\" TERM; echo ready; while :; do sleep 0.05; done' & \
         trap 'wait; echo parent got it; exit 5' TERM; wait",
    );
    shim.wait_for_output("ready");
    assert_eq!(shim.ask("signal 15"), "ok");
    assert_eq!(shim.exit()["status"], 5);
    let lines: Vec<String> = shim.output().into_iter().map(|(_, line)| line).collect();
    assert!(lines.contains(&"child got it".to_owned()), "{lines:?}");
    assert!(lines.contains(&"parent got it".to_owned()), "{lines:?}");
}

#[test]
fn nothing_that_a_job_started_outlives_it() {
    // One in the group that ignores SIGTERM, one that left the group and the session.
    let mut shim = Shim::run(
        "sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & \
         setsid sh -c 'trap \"\" TERM HUP; echo away; while :; do sleep 0.1; done' & \
         sleep 0.05; until [ -s log/00000001.log ]; do sleep 0.01; done; exit 0",
    );
    let exit = shim.exit();
    assert_eq!(exit["status"], 0, "{exit}");
    assert_eq!(marked(&shim.mark), Vec::<u32>::new());
}

#[test]
fn children_left_behind_are_noted_while_the_job_runs() {
    let shim = Shim::run("for i in 1 2 3; do (sleep 0 &) ; done; echo ready; exec sleep 60");
    shim.wait_for_output("ready");
    let own = shim.child.id();
    until("no zombies", || {
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).ok()?;
        (children.split_whitespace().count() == 1).then_some(())
    });
}

#[test]
fn the_shim_is_in_a_session_of_its_own_and_alone_in_its_folder() {
    let shim = Shim::run("sleep 60");
    let pid = shim.pid();
    assert_eq!(session(pid), Some(shim.child.id()));
    // A second one waits for the first to leave, then gives up; the first goes on.
    let mut second = start(shim.dir.path());
    let status = until("the second to give up", || second.try_wait().unwrap());
    assert!(!status.success());
    assert_eq!(shim.pid(), pid);
    let log = fs::read_to_string(shim.path("shim.log")).unwrap();
    assert!(log.contains("another shim serves this folder"), "{log}");
}

#[test]
fn a_socket_path_longer_than_the_kernel_takes_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(120)).join("y".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    let order = json!({
        "run": 1, "argv": ["/bin/true"], "env": {}, "cwd": "/",
        "logs": { "file_bytes_max": 1000, "files_max": 3 },
    });
    fs::write(deep.join("job.json"), order.to_string()).unwrap();
    let mut child = start(&deep);
    let status = until("the end", || child.try_wait().unwrap());
    assert!(status.success());
    assert!(deep.join("exit.json").exists());
}

#[test]
fn output_beyond_the_limit_is_rotated() {
    let mut shim = Shim::order(json!({
        "argv": ["/bin/sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done"],
        "logs": { "file_bytes_max": 8000, "files_max": 3 },
    }));
    shim.exit();
    let files: Vec<_> = fs::read_dir(shim.path("log")).unwrap().map(|f| f.unwrap()).collect();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 8000));
    let lines = shim.output();
    assert_eq!(lines.last().unwrap().1, "line 1999");
    assert!(lines.len() > 300, "{}", lines.len());
}

#[test]
fn without_its_order_the_shim_says_so_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start(dir.path());
    assert!(!until("the end", || child.try_wait().unwrap()).success());
    let log = fs::read_to_string(dir.path().join("shim.log")).unwrap();
    assert!(log.contains("no job.json"), "{log}");
}
