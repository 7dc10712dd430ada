//! Changes under load: not one request may be lost.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::quickstart::quickstart;
use crate::stage::{Stage, signal};

/// wrk sends GET and POST in turn, and tells at the end what went wrong.
const SCRIPT: &str = r#"
local n = 0
request = function()
    n = n + 1
    if n % 2 == 0 then
        return wrk.format("POST", "/echo", { Host = "shop.test" }, string.rep("x", 1000))
    end
    return wrk.format("GET", "/", { Host = "shop.test" })
end
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests,
        e.connect, e.read, e.write, e.status, e.timeout))
end
"#;

/// A load by wrk that runs until it is ended.
pub struct Load {
    child: Child,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Judged {
    pub requests: u64,
    pub errors: Vec<u64>,
}

impl Load {
    pub fn start(stage: &Stage, seconds: u32) -> Self {
        let script = stage.dir.path().join("load.lua");
        fs::write(&script, SCRIPT).unwrap();
        let child = Command::new("wrk")
            .args(["-t1", "-c16", "--timeout", "30s"])
            .arg(format!("-d{seconds}s"))
            .arg("-s")
            .arg(&script)
            .arg(format!("http://{}/", stage.http))
            .stdout(Stdio::piped())
            .spawn()
            .expect("wrk is installed by tests/run");
        Self { child }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn judge(self) -> Judged {
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("RESULT "))
            .unwrap_or_else(|| panic!("wrk told nothing: {text}"));
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        Judged { requests: numbers[0], errors: numbers[1..].to_vec() }
    }
}

#[test]
fn deploy_scale_and_rollback_lose_no_request() {
    let stage = Stage::started(&quickstart());
    stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    let mut load = Load::start(&stage, 40);
    stage.ok(&["scale", "shop", "web=5"]);
    stage.ok(&["scale", "shop", "web=2"]);
    stage.ok(&["deploy", "shop", "--env", "GREETING=second"]);
    assert!(stage.wait_200("shop.test", "/").contains("second"));
    stage.ok(&["rollback", "shop"]);
    assert!(stage.wait_200("shop.test", "/").contains("hello from the shop"));
    assert!(load.is_running(), "the load ended before the changes did: make it longer");
    let judged = load.judge();
    assert_eq!(judged.errors, [0; 5], "connect, read, write, status, timeout of {judged:?}");
    assert!(judged.requests > 100, "{judged:?}");
}

#[test]
fn a_release_that_never_becomes_healthy_is_reverted_by_itself() {
    let stage = Stage::started(&quickstart());
    stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    let bad = stage.dir.path().join("bad.toml");
    let text = fs::read_to_string(stage.config()).unwrap();
    fs::write(
        &bad,
        text.replace("path = \"/health\"", "path = \"/ws\"")
            .replace("name = \"shop\"\n", "name = \"shop\"\nprogress_deadline = \"5s\"\n"),
    )
    .unwrap();
    let before = stage.json(&["apps", "shop"])["app"]["release"].clone();
    let load = Load::start(&stage, 20);
    let output = stage.portolan(&["deploy", "shop", "--file", bad.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("reverted"), "{told}");
    assert_eq!(stage.json(&["apps", "shop"])["app"]["release"], before);
    stage.wait_running(6);
    assert_eq!(load.judge().errors, [0; 5]);
    // What serves already is no failure, whatever became of the deployment before.
    let config = stage.config();
    assert!(stage.ok(&["deploy", "shop", "--file", config.to_str().unwrap()]).contains("serves"));
}

/// One request of its own connection; whether a 200 came back.
pub fn ask(router: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(router)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer.starts_with(b"HTTP/1.1 200 "))
    };
    ask().unwrap_or(false)
}

#[test]
fn a_killed_instance_costs_only_what_was_under_way_on_it_and_comes_back() {
    /// After this, no request may notice.
    const NOTICE: Duration = Duration::from_millis(100);
    let stage = Stage::started(&quickstart());
    let before = stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, router) = (stop.clone(), stage.http);
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                let mut asked = 0;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    asked += 1;
                    if !ask(router) {
                        failed.push(began);
                    }
                }
                (asked, failed)
            })
        })
        .collect();
    let (job, pid) = before.iter().find(|(job, _)| job.contains("-web-")).unwrap();
    let killed = Instant::now();
    signal(u32::try_from(*pid).unwrap(), "KILL");
    let after = stage.wait("it is started again", || {
        let running = stage.running();
        (running.len() == 6 && running.get(job) != Some(pid)).then_some(running)
    });
    assert!(after.contains_key(job), "the job is the same, with another process: {after:?}");
    // The clients go on for a while after all is well again.
    std::thread::sleep(NOTICE * 3);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (asked, failed) = client.join().unwrap();
        assert!(asked > 5, "only {asked} requests were made");
        let late: Vec<_> = failed
            .iter()
            .filter_map(|began| began.checked_duration_since(killed + NOTICE))
            .collect();
        assert!(late.is_empty(), "requests failed {late:?} after {NOTICE:?}");
    }
    let jobs = stage.json(&["ps"]);
    let job = jobs.as_array().unwrap().iter().find(|view| view["id"] == job.as_str()).unwrap();
    assert_eq!(job["restarts"], 1, "{job}");
    assert!(job["last_exit"].as_str().unwrap().contains('9'), "{job}");
}

#[test]
fn a_drained_instance_takes_no_new_request_until_it_is_given_back() {
    let stage = Stage::started(&quickstart());
    stage.wait_running(6);
    stage.wait_200("shop.test", "/");
    let web: Vec<_> = stage.running().into_keys().filter(|job| job.contains("-web-")).collect();
    let scope = format!("instance/web/{}", web[0]);
    stage.ok(&["drain", &scope, "--reason", "a test"]);
    for _ in 0..50 {
        assert!(!stage.wait_200("shop.test", "/").contains(&web[0]));
    }
    let instances = stage.json(&["instances", "--state", "draining"]);
    assert_eq!(instances.as_array().unwrap().len(), 1, "{instances}");
    assert!(instances[0]["cause"].as_str().unwrap().contains("a test"), "{instances}");
    stage.ok(&["drain", &scope, "--undo"]);
    stage.wait("it takes requests again", || {
        stage.wait_200("shop.test", "/").contains(&web[0]).then_some(())
    });
}
