//! Databases through the router: their own clients, by plain TCP, by TLS that ends at the router,
//! and by TLS that they end themselves; and ports that the API gives.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::ports::free_port;
use crate::stage::{PORTOLAN, Stage};

/// A server that ends with the test.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL leaves shared memory behind when it is killed. One that is gone already, or
        // does not go, must not hide why a test failed.
        let _ = kill_process(Pid::from_child(&self.child), Signal::QUIT);
        let until = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Server {
    pub fn started(stage: &Stage, mut command: Command, port: u16) -> Self {
        let log = fs::File::create(stage.dir.path().join(format!("server-{port}.log"))).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = Self { child, port };
        stage.wait("the server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        server
    }
}

/// An authority and a certificate for `db.test`.
struct Pki(PathBuf);

impl Pki {
    fn new(stage: &Stage) -> Self {
        let folder = stage.dir.path().join("pki");
        for more in [&["init"][..], &["issue"]] {
            let names = if more == ["issue"] { &["db.test"][..] } else { &[] };
            let mut command = Command::new(PORTOLAN);
            let ran = command.arg("ca").args(more).arg(&folder).args(names).output().unwrap();
            assert!(ran.status.success(), "{ran:?}");
        }
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

/// The ports of the three ways to a database.
struct Ways {
    plain: u16,
    ended: u16,
    passed_on: u16,
}

/// A router with these ways to instances at two ports: of bytes and of TLS.
fn routed(stage: &mut Stage, pki: &Pki, plain: u16, tls: u16) -> Ways {
    let ways = Ways { plain: free_port(), ended: free_port(), passed_on: free_port() };
    stage.write(&format!(
        "[[certificates]]\nname = \"db\"\nchain_file = \"{}\"\nkey_file = \"{}\"\n\
         [[listeners]]\nname = \"plain\"\nbind = \"127.0.0.1:{}\"\nprotocol = \"tcp\"\n\
         [[listeners]]\nname = \"ended\"\nbind = \"127.0.0.1:{}\"\nprotocol = \"tcp\"\ntls = {{}}\n\
         [[listeners]]\nname = \"sni\"\nbind = \"127.0.0.1:{}\"\nprotocol = \"tls\"\n\
         [[services]]\nname = \"db\"\nprotocol = \"tcp\"\ninstances = [{{ addr = \"127.0.0.1:{plain}\" }}]\n\
         [[services]]\nname = \"db-tls\"\nprotocol = \"tcp\"\ninstances = [{{ addr = \"127.0.0.1:{tls}\" }}]\n\
         [[routes]]\nlistener = \"plain\"\nservice = \"db\"\n\
         [[routes]]\nlistener = \"ended\"\nservice = \"db\"\n\
         [[routes]]\nlistener = \"sni\"\nhost = \"*.test\"\nservice = \"db-tls\"\n",
        pki.file("db.test.pem"),
        pki.file("db.test.key"),
        ways.plain,
        ways.ended,
        ways.passed_on,
    ));
    stage.up();
    ways
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn redis_cli_gets_through_by_tcp_by_tls_and_by_tls_that_is_passed_on() {
    let mut stage = Stage::set("");
    let pki = Pki::new(&stage);
    let tls_port = free_port();
    let mut command = Command::new("redis-server");
    let port = free_port();
    command
        .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()])
        .args(["--tls-port", &tls_port.to_string(), "--tls-auth-clients", "no"])
        .args(["--tls-cert-file", &pki.file("db.test.pem")])
        .args(["--tls-key-file", &pki.file("db.test.key")])
        .args(["--tls-ca-cert-file", &pki.file("ca.pem")])
        .current_dir(stage.dir.path());
    let server = Server::started(&stage, command, port);
    let ways = routed(&mut stage, &pki, server.port, tls_port);
    let ca = pki.file("ca.pem");
    let tls = ["--tls", "--cacert", &ca, "--sni", "db.test"];
    let large = "x".repeat(3_000_000);
    for (port, more) in [(ways.plain, &[][..]), (ways.ended, &tls), (ways.passed_on, &tls)] {
        let cli = |args: &[&str], input: &str| {
            let file = stage.dir.path().join("input");
            fs::write(&file, input).unwrap();
            let mut command = Command::new("redis-cli");
            command.args(["-p", &port.to_string()]).args(more).args(args);
            command.stdin(fs::File::open(file).unwrap());
            text(&command.output().unwrap())
        };
        stage.wait("an answer", || (cli(&["ping"], "").trim() == "PONG").then_some(()));
        assert_eq!(cli(&["-x", "set", "large"], &large).trim(), "OK");
        assert_eq!(cli(&["get", "large"], "").trim_end().len(), large.len());
        assert!(cli(&["incr", "count"], "").trim().parse::<u32>().is_ok());
    }
    // openssl sees the instance's own certificate; nobody else's name gets there.
    let s_client = |name: &str| {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", ways.passed_on)])
            .args(["-CAfile", &ca, "-servername", name, "-verify_hostname", "db.test"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        text(&output)
    };
    let seen = s_client("db.test");
    assert!(seen.contains("Verify return code: 0 (ok)"), "{seen}");
    let refused = s_client("db.example");
    assert!(refused.contains("unrecognized name"), "{refused}");
    let said = stage.ok(&["route", "explain", "GET", "tls://db.test", "--listener", "sni"]);
    assert!(said.contains("leads to db-tls: one of 1 instances"), "{said}");
}

/// The programs of the newest PostgreSQL that is installed.
fn postgres_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql is installed");
    let newest = versions.map(|version| version.unwrap().path()).max().unwrap();
    newest.join("bin")
}

/// PostgreSQL does not run as root: then its own user does.
fn as_postgres(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

/// Files that PostgreSQL's user may read and nobody else.
fn give_to_postgres(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let given = Command::new("chown").args(["-R", "postgres"]).arg(path).status().unwrap();
        assert!(given.success());
    }
}

fn postgres(stage: &Stage, pki: &Pki) -> Server {
    // A socket's path may have 107 bytes, and its folder must be open to its user.
    fs::set_permissions(stage.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let folder = stage.dir.path().join("pg");
    fs::create_dir(&folder).unwrap();
    for name in ["db.test.pem", "db.test.key"] {
        fs::copy(pki.file(name), folder.join(name)).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    give_to_postgres(&folder);
    let data = folder.join("data");
    let programs = postgres_programs();
    let made = as_postgres(&programs.join("initdb"))
        .args(["--no-sync", "--auth=trust", "--username=postgres", "--pgdata"])
        .arg(&data)
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let port = free_port();
    let mut command = as_postgres(&programs.join("postgres"));
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
    for setting in [
        "fsync=off".to_owned(),
        format!("unix_socket_directories={}", folder.display()),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", folder.join("db.test.pem").display()),
        format!("ssl_key_file={}", folder.join("db.test.key").display()),
    ] {
        command.args(["-c", &setting]);
    }
    command.current_dir(&folder);
    Server::started(stage, command, port)
}

#[test]
fn psql_gets_through_by_tcp_by_tls_and_by_tls_that_is_passed_on() {
    let mut stage = Stage::set("");
    let pki = Pki::new(&stage);
    let server = postgres(&stage, &pki);
    let ways = routed(&mut stage, &pki, server.port, server.port);
    let ca = pki.file("ca.pem");
    let psql = |port: u16, mode: &str, query: &str| {
        let how = format!(
            "host=db.test hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres \
             sslmode={mode} sslrootcert={ca} connect_timeout=20"
        );
        text(&Command::new("psql").args(["-X", "-A", "-t", &how, "-c", query]).output().unwrap())
    };
    // Whether the server itself has ended TLS.
    let ended_there = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let large = "select length(repeat('x', 3000000)), repeat('y', 2000000)";
    for (port, mode, expected) in [
        (ways.plain, "disable", "f"),
        (ways.ended, "verify-full", "f"),
        (ways.passed_on, "verify-full", "t"),
    ] {
        stage
            .wait("an answer", || (psql(port, mode, "select 41 + 1").trim() == "42").then_some(()));
        assert_eq!(psql(port, mode, ended_there).trim(), expected);
        assert_eq!(psql(port, mode, large).trim().len(), "3000000|".len() + 2_000_000);
    }
    // By the plain listener the client's question gets to the server, which says yes.
    assert_eq!(psql(ways.plain, "verify-full", ended_there).trim(), "t");
}

#[test]
fn a_route_is_given_a_port_by_the_api() {
    let mut stage = Stage::set("");
    // Two in a row, which no other test has.
    let mut first = free_port();
    let last = loop {
        match free_port() {
            last if last == first + 1 => break last,
            other => first = other,
        }
    };
    let (http, admin) = (stage.http, stage.admin);
    stage.write(&format!(
        "[router]\nworkers = 1\ntcp_ports = \"127.0.0.1:{first}-{last}\"\n\
         [[services]]\nname = \"self\"\nprotocol = \"tcp\"\ninstances = [{{ addr = \"{admin}\" }}]\n"
    ));
    stage.up();
    let put = |name: &str, call: Value| {
        let output = Command::new("curl")
            .args(["-s", "-X", "PUT", "-H", "Content-Type: application/json", "-d"])
            .arg(call.to_string())
            .arg(format!("http://{admin}/v1/routes/{name}"))
            .output()
            .unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let backends = json!([{ "service": "self", "weight": 1 }]);
    let call = |port: u16| json!({ "kind": "tcp", "port": port, "backends": backends });
    assert_eq!(put("a", call(0))["port"], first);
    assert_eq!(put("b", call(last))["port"], last);
    let is_served = |port: u16| {
        let url = format!("http://127.0.0.1:{port}/healthz");
        Command::new("curl").args(["-s", "-f", &url]).output().unwrap().status.success()
    };
    for port in [first, last] {
        stage.wait("the port leads there", || is_served(port).then_some(()));
    }
    let refused = |name: &str, call: Value| put(name, call)["message"].to_string();
    assert!(refused("c", call(0)).contains("none is free"));
    assert!(refused("c", call(last)).contains(&format!("port-{last} has the route")));
    assert!(refused("c", call(http.port())).contains("cannot be given"));
    let other = json!({ "port": 0, "backends": backends });
    assert!(refused("c", other).contains("only a TCP route has a port"));
}
