//! The clients that people have, each with the server that it is made for: gRPC's own library in
//! all its kinds of call, WebSockets over HTTP/1.1 and HTTP/2, curl by every version of HTTP.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::ports::free_port;
use crate::stage::{PORTOLAN, Stage};

/// A Python with the libraries of `clients/requirements.txt`.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/bin/python");
    assert!(python.exists(), "{} is not there: tests/run makes it", python.display());
    python
}

fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/line/clients").join(name));
    command
}

/// A server of one of the scripts; it ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn started(name: &str) -> Self {
        let mut child = script(name).arg("serve").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { port: line.trim().parse().unwrap(), child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a script's client part; its output if it was content.
fn content(name: &str, args: &[&str]) -> String {
    let output = script(name).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}\n{text}{errors}");
    text
}

const HOST: &str = "shop.test";

/// A stage with a plain and a TLS listener for one service.
struct Line {
    stage: Stage,
    secure: u16,
}

impl Line {
    fn to(service: &str) -> Self {
        let secure = free_port();
        let stage = Stage::set(&format!(
            "\n[[listeners]]\nname = \"secure\"\nbind = \"127.0.0.1:{secure}\"\ntls = {{}}\n\n\
             [[certificates]]\nname = \"shop\"\nchain_file = \"tls/shop.test.pem\"\n\
             key_file = \"tls/shop.test.key\"\n\n\
             [[routes]]\nservice = \"app\"\n\n[[services]]\nname = \"app\"\n{service}\n"
        ));
        let mut line = Self { stage, secure };
        line.ca(&["init"], &[]);
        line.ca(&["issue"], &[HOST, "localhost"]);
        line.stage.up();
        line
    }

    fn ca(&self, command: &[&str], more: &[&str]) {
        let folder = self.stage.dir.path().join("tls");
        let output =
            Command::new(PORTOLAN).arg("ca").args(command).arg(folder).args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn ca_file(&self) -> String {
        self.stage.dir.path().join("tls/ca.pem").to_str().unwrap().to_owned()
    }
}

#[test]
fn grpc_calls_of_every_kind_pass_with_and_without_tls() {
    let server = Server::started("grpc_calls.py");
    let line = Line::to(&format!(
        "http_version = \"h2\"\ninstances = [{{ addr = \"127.0.0.1:{}\" }}]",
        server.port
    ));
    let plain = line.stage.http.to_string();
    let secure = format!("127.0.0.1:{}", line.secure);
    for args in [&["call", &plain][..], &["call", &secure, &line.ca_file(), HOST]] {
        let said = content("grpc_calls.py", args);
        assert!(said.ends_with("200 at once ok\n"), "{said}");
    }
}

#[test]
fn grpc_calls_of_every_kind_pass_through_tcp() {
    let server = Server::started("grpc_calls.py");
    let port = free_port();
    let stage = Stage::started(&format!(
        "\n[[listeners]]\nname = \"calls\"\nbind = \"127.0.0.1:{port}\"\nprotocol = \"tcp\"\n\n\
         [[routes]]\nlistener = \"calls\"\nservice = \"app\"\n\n\
         [[services]]\nname = \"app\"\nprotocol = \"tcp\"\ninstances = [{{ addr = \"127.0.0.1:{}\" }}]\n",
        server.port
    ));
    let said = content("grpc_calls.py", &["call", &format!("127.0.0.1:{port}")]);
    assert!(said.ends_with("200 at once ok\n"), "{said}");
    drop(stage);
}

#[test]
fn websockets_pass_over_both_versions_with_and_without_tls() {
    let server = Server::started("websocket_calls.py");
    let line = Line::to(&format!("instances = [{{ addr = \"127.0.0.1:{}\" }}]", server.port));
    let (ca, plain) = (line.ca_file(), line.stage.http.port().to_string());
    let (plain_url, url) =
        (format!("ws://localhost:{plain}/chat"), format!("wss://localhost:{}/chat", line.secure));
    let secure = line.secure.to_string();
    for args in [
        &["h1", &plain_url][..],
        &["h1", &url, &ca],
        &["h2", "127.0.0.1", &plain, HOST],
        &["h2", "127.0.0.1", &secure, HOST, &ca],
    ] {
        let said = content("websocket_calls.py", args);
        assert!(said.contains("close ok\n"), "{args:?} {said}");
    }
}

#[test]
fn curl_gets_the_same_answer_by_every_version() {
    // A file server that everybody has.
    let folder = tempfile::tempdir().unwrap();
    let content = "0123456789".repeat(100_000);
    std::fs::write(folder.path().join("file"), &content).unwrap();
    let port = free_port();
    let mut files = Command::new(python())
        .args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()])
        .arg("--directory")
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let line = Line::to(&format!("instances = [{{ addr = \"127.0.0.1:{port}\" }}]"));
    line.stage.wait_200(HOST, "/file");
    let plain = format!("http://{HOST}:{}/file", line.stage.http.port());
    let secure = format!("https://{HOST}:{}/file", line.secure);
    for (version, url, expected) in [
        ("--http1.0", &plain, "1.1"),
        ("--http1.1", &plain, "1.1"),
        ("--http2-prior-knowledge", &plain, "2"),
        // Asks for an upgrade, which is not given: HTTP/1.1 it stays.
        ("--http2", &plain, "1.1"),
        ("--http1.1", &secure, "1.1"),
        ("--http2", &secure, "2"),
    ] {
        let output = Command::new("curl")
            .args(["-s", "-m", "60", "-w", "\n%{http_version} %{http_code}", version])
            .args(["--cacert", &line.ca_file(), "--connect-to", "::127.0.0.1:"])
            .arg(url)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, how) = text.rsplit_once('\n').unwrap();
        assert_eq!(how, format!("{expected} 200"), "{version} {url}");
        assert!(body == content, "{version} {url}");
    }
    files.kill().unwrap();
    files.wait().unwrap();
}
