//! A new process takes over from the running one: nothing is lost, and when it cannot, nothing has
//! been.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::deploy::{Load, ask};
use crate::ports::free_port;
use crate::quickstart::{quickstart, websocket};
use crate::stage::{PATIENCE, PORTOLAN, Stage, is_alive, signal};

impl Stage {
    fn pid(&self) -> u64 {
        self.json(&["status"])["pid"].as_u64().unwrap()
    }

    fn restarts(&self) -> u64 {
        let jobs = self.json(&["ps"]);
        jobs.as_array().unwrap().iter().map(|job| job["restarts"].as_u64().unwrap()).sum()
    }

    /// `portolan upgrade`, which must succeed; the process that leads now.
    pub fn upgrade(&self) -> u64 {
        let steps = self.ok(&["--json", "upgrade"]);
        let steps: Vec<Value> =
            steps.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let stages: Vec<_> = steps.iter().map(|step| step["stage"].as_str().unwrap()).collect();
        assert_eq!(stages, ["started", "prepared", "released", "done"]);
        let last = steps.last().unwrap();
        assert_ne!(last["old_pid"], last["new_pid"]);
        assert_eq!(last["old_version"], last["new_version"]);
        last["new_pid"].as_u64().unwrap()
    }

    /// What was started serves on, and can write: nothing was changed.
    fn is_as_before(&self, pid: u64, jobs: &std::collections::BTreeMap<String, u64>) {
        assert_eq!(self.pid(), pid);
        assert!(ask(self.http));
        self.ok(&["drain", "service/nobody", "--reason", "to write something"]);
        self.ok(&["drain", "service/nobody", "--undo"]);
        assert_eq!(self.wait_running(jobs.len()), *jobs);
        assert_eq!(self.restarts(), 0);
    }

    /// Puts another program in the place of the one that runs.
    fn replace(&self, script: &str) {
        let next = self.dir.path().join("next");
        fs::write(&next, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&next, &self.program).unwrap();
    }
}

/// The example with a listener for TCP.
fn with_tcp() -> (String, SocketAddr) {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let tcp = format!(
        "[[listeners]]\nname = \"tcp\"\nbind = \"{addr}\"\nprotocol = \"tcp\"\n\n\
         [[routes]]\nlistener = \"tcp\"\nservice = \"web\"\n\n"
    );
    (tcp + &quickstart(), addr)
}

/// Something that is done again and again until the end of a test, and must never fail.
pub struct Loop {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, usize)>,
}

impl Loop {
    pub fn of(mut once: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut done, mut failed) = (0, 0);
            while !told.load(Ordering::Relaxed) {
                if once() { done += 1 } else { failed += 1 }
            }
            (done, failed)
        });
        Self { stop, thread }
    }

    pub fn judge(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let (done, failed) = self.thread.join().unwrap();
        assert_eq!(failed, 0, "{what}: {failed} failed and {done} did not");
        assert!(done > 20, "{what}: only {done} were done");
    }
}

/// Whether a name of the cluster is answered on a socket of its own.
fn resolves(dns: SocketAddr) -> bool {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    let name: Name = "web.cluster.internal.".parse().unwrap();
    message.add_query(Query::query(name, RecordType::A));
    let ask = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(dns)?;
        socket.send(&message.to_vec().unwrap())?;
        let mut reply = [0; 512];
        let length = socket.recv(&mut reply)?;
        Ok(Message::from_vec(&reply[..length]).is_ok_and(|reply| reply.answers.len() == 1))
    };
    ask().unwrap_or(false)
}

/// A request and its answer over a connection that stays.
fn ask_over(tunnel: &mut TcpStream) -> String {
    tunnel.write_all(b"GET /health HTTP/1.1\r\nHost: shop.test\r\n\r\n").unwrap();
    let mut answer = [0; 4096];
    let length = tunnel.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn two_upgrades_in_a_row_under_load_lose_nothing() {
    let (config, tcp) = with_tcp();
    let mut stage = Stage::started(&config);
    let jobs = stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    let mut load = Load::start(&stage, 30);
    let (http, dns) = (stage.http, stage.dns);
    let new_connections = Loop::of(move || ask(http));
    let names = Loop::of(move || resolves(dns));
    let mut socket = websocket(stage.http).await;
    socket.next().await.unwrap().unwrap();
    let mut tunnel = TcpStream::connect(tcp).unwrap();
    tunnel.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask_over(&mut tunnel).starts_with("HTTP/1.1 200"));
    let first = stage.pid();
    let mut leaders = vec![first];
    for round in ["one", "two"] {
        leaders.push(stage.upgrade());
        assert_eq!(stage.pid(), *leaders.last().unwrap());
        socket.send(Message::text(round)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(round));
        assert!(ask_over(&mut tunnel).starts_with("HTTP/1.1 200"));
        assert_eq!(stage.wait_running(6), jobs, "the same jobs with the same pids");
        assert_eq!(stage.restarts(), 0);
    }
    assert!(load.is_running(), "the load ended before the upgrades did: make it longer");
    let judged = load.judge();
    assert_eq!(judged.errors, [0; 5], "connect, read, write, status, timeout of {judged:?}");
    new_connections.judge("requests on new connections");
    names.judge("queries");
    drop((socket, tunnel));
    assert_eq!(stage.terminate(), Some(0), "who started it sees its end");
    stage.wait("all processes have ended", || stage.processes().is_empty().then_some(()));
}

#[test]
fn what_the_old_process_has_under_way_is_waited_for_and_it_hears_of_changes() {
    // An instance that is told to stop has no time to end what is under way.
    let hasty = quickstart().replace("instances = 3", "instances = 3\nkill_timeout = \"100ms\"");
    assert!(hasty.contains("kill_timeout"));
    let stage = Stage::started(&hasty);
    stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    // On a kept connection of the old process, so that it routes by tables of the new one.
    let mut kept = TcpStream::connect(stage.http).unwrap();
    kept.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask_over(&mut kept).starts_with("HTTP/1.1 200"));
    let mut slow = TcpStream::connect(stage.http).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(b"GET /slow?ms=6000 HTTP/1.1\r\nHost: shop.test\r\n\r\n").unwrap();
    stage.upgrade();
    let status = stage.json(&["status"]);
    assert_eq!(status["draining"].as_array().unwrap().len(), 1, "{status}");
    // Every instance is replaced; none may stop before the slow request has its answer.
    stage.ok(&["deploy", "shop", "--env", "GREETING=second"]);
    let answer = {
        kept.write_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").unwrap();
        let mut answer = String::new();
        kept.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(answer.contains("greeting: second"), "{answer}");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stage.wait("nothing drains any more", || {
        stage.json(&["status"])["draining"].as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn a_new_program_that_is_bad_changes_nothing() {
    let stage = Stage::started(&quickstart());
    let jobs = stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    let pid = stage.pid();
    let refused = |args: &[&str], expected: &str| {
        let output = stage.portolan(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(expected), "{told} lacks {expected}");
        assert!(told.contains("serves on as before"), "{told}");
        stage.is_as_before(pid, &jobs);
    };
    stage.replace("exit 3");
    refused(&["upgrade"], "ended before it was started: exit status: 3");
    stage.replace("exec sleep 1000");
    refused(&["upgrade", "--timeout", "1s"], "was not started within 1s");
    fs::remove_file(&stage.program).unwrap();
    refused(&["upgrade"], "cannot be started");
    // It says hello, hears what there is, and falls silent.
    stage.replace(
        "echo '{\"hello\":{\"protocol\":1,\"version\":\"9\",\"pid\":1}}' >&0; exec sleep 1000",
    );
    refused(&["upgrade", "--timeout", "1s"], "was not prepared within 1s");
    // It takes everything and falls silent: this is the only time that the store is closed.
    stage.replace(
        "echo '{\"hello\":{\"protocol\":1,\"version\":\"9\",\"pid\":1}}' >&0\n\
         echo '{\"prepared\":{\"taken\":[]}}' >&0; exec sleep 1000",
    );
    refused(&["upgrade", "--timeout", "1s"], "was not ready within 1s");
    stage.replace("echo '{\"hello\":{\"protocol\":99,\"version\":\"9\",\"pid\":1}}' >&0");
    refused(&["upgrade"], "ended before it was started");
    stage.replace(&format!("exec {PORTOLAN} \"$@\""));
    let good = fs::read_to_string(stage.config()).unwrap();
    fs::write(stage.config(), format!("{good}\n[nonsense]\n")).unwrap();
    refused(&["upgrade"], "unknown field `nonsense`");
    // The jobs are where they are, whatever is said of the store.
    let store = stage.dir.path().join(".portolan/store.redb");
    let moved = format!("[store]\npath = {store:?}\n{good}").replacen(
        "[node]",
        "[node]\ndata_dir = \"elsewhere\"",
        1,
    );
    assert!(store.exists() && moved.contains("data_dir"), "{good}");
    fs::write(stage.config(), moved).unwrap();
    refused(&["upgrade"], "node.data_dir of the configuration is");
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let listener = format!("[[listeners]]\nname = \"more\"\nbind = \"{taken}\"\n");
    fs::write(stage.config(), format!("{good}\n{listener}")).unwrap();
    refused(&["upgrade"], &taken.to_string());
    let url = format!("http://{}/metrics", stage.admin);
    let metrics = Command::new("curl").args(["-s", &url]).output().unwrap();
    assert!(String::from_utf8_lossy(&metrics.stdout).contains("portolan_upgrade_failures_total 9"));
    drop(held);
    // The same again, and the port is free: it is bound by the new process.
    stage.upgrade();
    assert!(ask(taken), "the new listener serves");
    fs::write(stage.config(), good).unwrap();
    stage.upgrade();
    assert!(TcpStream::connect(taken).is_err(), "the listener is gone again");
    assert_eq!(stage.wait_running(6), jobs);
}

/// An upgrade up to a stage, and the number of the new process.
fn upgrade_until(stage: &Stage, until: &str) -> (Child, u32) {
    let mut child = Command::new(PORTOLAN)
        .args(["--json", "upgrade"])
        .env("PORTOLAN_API", stage.admin.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        let step: Value = serde_json::from_str(&line).unwrap();
        if step["stage"] == until {
            return (child, u32::try_from(step["new_pid"].as_u64().unwrap()).unwrap());
        }
    }
    let ended = child.wait();
    panic!("it never came to {until}, {ended:?}:\n{}", stage.log());
}

#[test]
fn when_the_new_process_is_killed_in_the_middle_the_old_one_serves_on() {
    let stage = Stage::started(&quickstart());
    let jobs = stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    let pid = stage.pid();
    // One that does not go on by itself, so that it dies where it is to.
    for (script, until) in [
        ("exec sleep 1000", "started"),
        (
            "echo '{\"hello\":{\"protocol\":1,\"version\":\"9\",\"pid\":1}}' >&0\n\
             echo '{\"prepared\":{\"taken\":[]}}' >&0; exec sleep 1000",
            "released",
        ),
    ] {
        stage.replace(script);
        let (mut upgrade, new) = upgrade_until(&stage, until);
        signal(new, "KILL");
        stage.wait("the upgrade has failed", || upgrade.try_wait().unwrap());
        stage.is_as_before(pid, &jobs);
    }
}

#[test]
fn when_the_old_process_is_killed_in_the_middle_the_new_one_serves() {
    for until in ["started", "prepared", "released"] {
        let mut stage = Stage::started(&quickstart());
        let jobs = stage.wait_running(6);
        stage.wait_200("shop.test", "/");
        let old = stage.started_pid();
        let (mut upgrade, new) = upgrade_until(&stage, until);
        stage.kill();
        let _ = upgrade.wait();
        assert!(!is_alive(old.into()));
        stage.wait("the new process leads", || {
            let output = stage.portolan(&["--json", "status"]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["pid"] == new && status["store"]["connected"] == true).then_some(())
        });
        stage.is_as_before(new.into(), &jobs);
        assert!(resolves(stage.dns));
    }
}

#[test]
fn who_started_the_first_process_sees_how_the_last_one_ends() {
    let mut stage = Stage::started(&quickstart());
    stage.wait_200("shop.test", "/");
    stage.upgrade();
    let leader = stage.upgrade();
    stage.wait("the one between has ended", || (stage.processes().len() == 2).then_some(()));
    // The listeners are nobody's but the leader's: once it is gone they can be bound again.
    signal(u32::try_from(leader).unwrap(), "KILL");
    assert_eq!(stage.ended(), Some(128 + 9));
    stage.up();
    assert!(ask(stage.http) && resolves(stage.dns));
}

#[test]
fn sigusr2_upgrades_and_a_service_manager_is_told_who_leads() {
    let mut stage = Stage::set(&quickstart());
    let path = stage.dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hears = |expected: &str| loop {
        let mut text = [0; 4096];
        let length = manager.recv(&mut text).unwrap_or_else(|_| panic!("never {expected}"));
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        if text.lines().any(|line| line.starts_with(expected)) {
            return text;
        }
    };
    stage.env.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
    stage.up();
    hears("READY=1");
    let old = stage.started_pid();
    signal(old, "USR2");
    assert!(hears("RELOADING=1").contains("MONOTONIC_USEC="));
    let told = hears("MAINPID=");
    let new: u64 = told.trim().strip_prefix("MAINPID=").unwrap().parse().unwrap();
    hears("READY=1");
    assert_eq!(stage.pid(), new);
    assert_eq!(stage.ended(), Some(0), "nobody waits for it, so it does not stay");
    assert!(stage.wait_200("shop.test", "/").contains("hello"));
    signal(u32::try_from(new).unwrap(), "TERM");
    hears("STOPPING=1");
    stage.wait("it has ended", || stage.processes().is_empty().then_some(()));
}

#[test]
fn sockets_that_a_service_manager_has_bound_are_gone_on_with() {
    let mut stage = Stage::set(&quickstart());
    let held = TcpListener::bind(stage.http).unwrap();
    let waiting = TcpStream::connect(stage.http).unwrap();
    let program = stage.dir.path().join("activate");
    let script = format!(
        "#!/bin/sh\nexec env LISTEN_PID=$$ LISTEN_FDS=1 {PORTOLAN} \"$@\" 3<&0 0</dev/null\n"
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    stage.program = program;
    stage.up_with(Stdio::from(std::os::fd::OwnedFd::from(held)));
    stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    drop(waiting);
}
