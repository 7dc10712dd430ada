//! A stage: one `portolan up` in a folder of its own, with free ports, and the ways to ask it.
//! Dropping it ends the process and its jobs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ports::{Block, free_port};

/// Nothing here needs longer on a machine that works; a slow one gets all of it.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");

pub struct Stage {
    pub dir: tempfile::TempDir,
    /// What is started; a link to the real program unless a test puts something else there.
    pub program: PathBuf,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    child: Option<Child>,
    /// Of its jobs.
    ports: Block,
    pub http: SocketAddr,
    pub dns: SocketAddr,
    pub admin: SocketAddr,
}

impl Stage {
    /// Writes a configuration of a node with one HTTP listener and a resolver, and `rest` below.
    pub fn set(rest: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addr = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let program = dir.path().join("portolan");
        std::os::unix::fs::symlink(PORTOLAN, &program).unwrap();
        let (http, dns, admin) = (addr(), addr(), addr());
        let stage = Self {
            dir,
            program,
            env: Vec::new(),
            child: None,
            ports: Block::claim(),
            http,
            dns,
            admin,
        };
        stage.write(rest);
        stage
    }

    /// Writes the configuration again, with other content below the common part.
    pub fn write(&self, rest: &str) {
        let Self { http, dns, admin, .. } = self;
        let ports = self.ports.ports();
        let (first, last) = (ports.start(), ports.end());
        let text = format!(
            "[node]\nname = \"n1\"\n\n[admin]\nbind = \"{admin}\"\n\n[agent]\nports = \"{first}-{last}\"\n\n\
             [[listeners]]\nname = \"web\"\nbind = \"{http}\"\n\n[dns]\nbind = [\"{dns}\"]\n{rest}"
        );
        fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("p.toml")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join(".portolan")
    }

    pub fn started(rest: &str) -> Self {
        let mut stage = Self::set(rest);
        stage.up();
        stage
    }

    /// Starts `portolan up` and waits until it has greeted.
    pub fn up(&mut self) {
        self.up_with(Stdio::null());
    }

    /// The same with this standard input.
    pub fn up_with(&mut self, stdin: Stdio) {
        assert!(self.child.is_none(), "it is up already");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("portolan.log"))
            .unwrap();
        let mut child = Command::new(&self.program)
            .arg("up")
            .arg(self.config())
            .env("PORTOLAN_LOG", "info")
            .envs(self.env.clone())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let greeted =
            stdout.lines().map_while(Result::ok).any(|line| line.contains("portolan status"));
        self.child = Some(child);
        assert!(greeted, "it did not start:\n{}", self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("portolan.log")).unwrap_or_default()
    }

    /// SIGKILL, as a crash of the process.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; returns the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        signal(self.child.as_ref().unwrap().id(), "TERM");
        self.ended()
    }

    /// Waits until the started process has ended; returns the exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    /// The process that was started.
    pub fn started_pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The processes that run this configuration.
    pub fn processes(&self) -> Vec<u32> {
        let config = self.config().into_os_string().into_encoded_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = words.split(|byte| *byte == 0);
            if words.any(|word| word == b"up") && words.any(|word| word == config) {
                found.push(pid);
            }
        }
        found
    }

    /// A command of the CLI, asked of this stage.
    pub fn portolan(&self, args: &[&str]) -> Output {
        Command::new(PORTOLAN)
            .args(args)
            .env("PORTOLAN_API", self.admin.to_string())
            .output()
            .unwrap()
    }

    /// The same, which must succeed; its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.portolan(args);
        assert!(
            output.status.success(),
            "portolan {args:?} failed: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// Waits until `done` says so; `what` is told when it never does.
    pub fn wait<T>(&self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = done() {
                return value;
            }
            assert!(
                Instant::now() < until,
                "{what}: not so after {PATIENCE:?}\n{}\n{}",
                String::from_utf8_lossy(&self.portolan(&["ps"]).stdout),
                self.log()
            );
            std::thread::sleep(POLL);
        }
    }

    /// The pids of the running jobs, by job.
    pub fn running(&self) -> BTreeMap<String, u64> {
        let Some(jobs) = self.portolan_json(&["ps"]) else { return BTreeMap::new() };
        jobs.as_array()
            .unwrap()
            .iter()
            .filter(|job| job["state"] == "running")
            // One that died while nobody watched has no process until that is found out.
            .filter_map(|job| Some((job["id"].as_str()?.to_owned(), job["pid"].as_u64()?)))
            .collect()
    }

    fn portolan_json(&self, args: &[&str]) -> Option<Value> {
        let mut all = vec!["--json"];
        all.extend(args);
        let output = self.portolan(&all);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    pub fn wait_running(&self, count: usize) -> BTreeMap<String, u64> {
        self.wait(&format!("{count} jobs run"), || {
            let running = self.running();
            (running.len() == count).then_some(running)
        })
    }

    /// curl, with its answer and status.
    pub fn curl(&self, host: &str, path: &str, more: &[&str]) -> (u16, String) {
        let output = Command::new("curl")
            .args(["-s", "-m", "20", "-w", "\n%{http_code}", "-H", &format!("Host: {host}")])
            .args(more)
            .arg(format!("http://{}{path}", self.http))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// Waits until the answer is a 200.
    pub fn wait_200(&self, host: &str, path: &str) -> String {
        self.wait(&format!("{host}{path} answers 200"), || {
            let (status, body) = self.curl(host, path, &[]);
            (status == 200).then_some(body)
        })
    }

    /// dig's short answer, or with other options all of it.
    pub fn dig(&self, args: &[&str]) -> String {
        let output = Command::new("dig")
            .args([&format!("@{}", self.dns.ip()), "-p", &self.dns.port().to_string()])
            .args(["+time=5", "+tries=1"])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

pub fn is_alive(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        let stopped = Command::new(PORTOLAN).arg("stop").arg(self.config()).output();
        if std::thread::panicking() {
            eprintln!("-- log of portolan\n{}\n-- stop: {stopped:?}", self.log());
        }
    }
}
