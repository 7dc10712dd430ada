//! Certificates that the store keeps: added, replaced and removed while clients are there, and
//! shown without the store, too.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use portolan_discovery::model::record::encode;
use portolan_discovery::model::{CertificatePair, Key};
use portolan_discovery::store::embedded::{Create, Embedded};
use portolan_discovery::store::{Store, Txn};

use crate::ports::free_port;
use crate::stage::{PORTOLAN, Stage};

/// A stage with a TLS listener, a certificate of a file for `own.test`, and an authority.
pub struct Shop {
    pub stage: Stage,
    port: u16,
}

impl Shop {
    pub fn started() -> Self {
        let port = free_port();
        let stage = Stage::set(&format!(
            "\n[[listeners]]\nname = \"secure\"\nbind = \"127.0.0.1:{port}\"\ntls = {{}}\n\n\
             [[certificates]]\nname = \"own\"\nchain_file = \"tls/own.test.pem\"\n\
             key_file = \"tls/own.test.key\"\n\n\
             [[routes]]\nservice = \"web\"\n\n[[apps]]\nname = \"shop\"\n\n\
             [apps.processes.web]\ncommand = [\"portolan\", \"whoami\"]\ninstances = 1\n\
             service = \"web\"\n"
        ));
        let mut shop = Self { stage, port };
        shop.ca(&["init"], &[]);
        shop.issue("own.test");
        shop.stage.up();
        shop.stage.wait_200("shop.test", "/");
        shop
    }

    fn folder(&self) -> PathBuf {
        self.stage.dir.path().join("tls")
    }

    fn ca(&self, command: &[&str], more: &[&str]) {
        let mut ran = Command::new(PORTOLAN);
        let output = ran.arg("ca").args(command).arg(self.folder()).args(more).output();
        assert!(output.unwrap().status.success());
    }

    /// Issues a certificate for a host, another one each time; returns it as PEM.
    fn issue(&self, host: &str) -> String {
        self.ca(&["issue"], &[host]);
        leaf(&self.file(host, "pem"))
    }

    fn path(&self, host: &str, kind: &str) -> String {
        self.folder().join(format!("{host}.{kind}")).to_str().unwrap().to_owned()
    }

    fn file(&self, host: &str, kind: &str) -> String {
        fs::read_to_string(self.path(host, kind)).unwrap()
    }

    /// Adds the certificate that was issued for a host last.
    fn add(&self, name: &str, host: &str) -> String {
        let (chain, key) = (self.path(host, "pem"), self.path(host, "key"));
        self.stage.ok(&["certs", "add", name, "--chain", &chain, "--key", &key])
    }

    /// What a command that must fail says.
    fn error(&self, args: &[&str]) -> String {
        let output = self.stage.portolan(args);
        assert!(!output.status.success(), "portolan {args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The certificate that a new client is shown that asks for a host, which its authority must
    /// have signed; as PEM.
    fn shown(&self, host: &str) -> String {
        let output = self.client(host, &[]).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}\n{}", self.stage.log());
        leaf(&text)
    }

    pub fn client(&self, host: &str, more: &[&str]) -> Command {
        let mut openssl = Command::new("openssl");
        openssl
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", self.port)])
            .args(["-servername", host, "-CAfile", self.folder().join("ca.pem").to_str().unwrap()])
            .args(more);
        openssl
    }

    /// A call of the API with a body of JSON: status and answer.
    fn put(&self, name: &str, body: &serde_json::Value) -> (u16, String) {
        let file = self.stage.dir.path().join("body.json");
        fs::write(&file, serde_json::to_vec(body).unwrap()).unwrap();
        let output = Command::new("curl")
            .args(["-s", "-X", "PUT", "-w", "\n%{http_code}", "--data-binary"])
            .arg(format!("@{}", file.display()))
            .args(["-H", "content-type: application/json"])
            .arg(format!("http://{}/v1/certificates/{name}", self.stage.admin))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (answer, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), answer.to_owned())
    }

    /// The lines of the metrics that begin with these words.
    pub fn metrics(&self, begin: &str) -> Vec<String> {
        let url = format!("http://{}/metrics", self.stage.admin);
        let page = Command::new("curl").args(["-s", &url]).output().unwrap();
        let text = String::from_utf8(page.stdout).unwrap();
        text.lines().filter(|line| line.starts_with(begin)).map(str::to_owned).collect()
    }

    fn refused(&self) -> String {
        self.metrics("portolan_certificates_refused_total ").concat()
    }

    /// Ends the process, changes what the store has at a key past everything that checks it, and
    /// starts again.
    pub fn meddle(&mut self, key: &Key, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        assert_eq!(self.stage.terminate(), Some(0));
        let store = Embedded::open(&self.stage.data().join("store.redb"), Create::Never).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let key = key.to_string();
        let was = runtime.block_on(store.get(&key)).unwrap().map(|kv| kv.value.to_vec());
        let txn = Txn::default().put(key, change(was.unwrap_or_default()).into());
        assert!(runtime.block_on(store.txn(txn)).unwrap().done);
        drop(store);
        self.stage.up();
        self.stage.wait_200("shop.test", "/");
    }

    /// No key may be where people look.
    fn shows_no_key(&self) {
        let own = self.file("own.test", "key");
        let stored = self.file("shop.test", "key");
        let secret = [own, stored].map(|pem| pem.lines().nth(1).unwrap().to_owned());
        let calls = ["certificates", "status", "routes", "services", "openapi.json"].map(|call| {
            let url = format!("http://{}/v1/{call}", self.stage.admin);
            String::from_utf8(Command::new("curl").args(["-s", &url]).output().unwrap().stdout)
                .unwrap()
        });
        for text in calls.into_iter().chain([self.stage.log()]) {
            assert!(!secret.iter().any(|key| text.contains(key)), "{text}");
        }
    }
}

/// The first certificate in a text, as it stands there.
fn leaf(text: &str) -> String {
    let from = text.find("-----BEGIN CERTIFICATE-----").unwrap();
    const END: &str = "-----END CERTIFICATE-----";
    let to = from + text[from..].find(END).unwrap() + END.len();
    text[from..to].replace('\r', "")
}

/// A client with a connection that it keeps.
struct Kept {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Kept {
    fn to(shop: &Shop, host: &str) -> Self {
        let mut child = shop
            .client(host, &["-quiet", "-verify_quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    /// Asks over the connection; the status of the answer.
    fn ask(&mut self, host: &str) -> String {
        write!(self.input, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it is closed: {lines:?}");
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_ascii_lowercase());
        }
        let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.output.read_exact(&mut body).unwrap();
        lines[0].clone()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_certificate_is_added_replaced_and_removed_and_no_connection_notices() {
    let shop = Shop::started();
    let own = shop.shown("own.test");
    assert_eq!(shop.shown("shop.test"), own, "nothing else is there to show");
    let first = shop.issue("shop.test");
    let said = shop.add("shop", "shop.test");
    assert_eq!(said, "shop is shown for shop.test, 89 days\n");
    assert_eq!(shop.shown("shop.test"), first);
    assert_eq!(shop.shown("own.test"), own);
    let mut kept = Kept::to(&shop, "shop.test");
    assert_eq!(kept.ask("shop.test"), "http/1.1 200 ok");

    let second = shop.issue("shop.test");
    assert_ne!(first, second);
    shop.add("shop", "shop.test");
    assert_eq!(shop.shown("shop.test"), second);
    assert_eq!(kept.ask("shop.test"), "http/1.1 200 ok");

    let certs = shop.stage.json(&["certs"]);
    let sources: Vec<_> = certs.as_array().unwrap().iter().map(|cert| &cert["source"]).collect();
    assert_eq!(sources, ["file", "store"]);
    assert_eq!(certs[1]["hosts"], serde_json::json!(["shop.test"]));
    let table = shop.stage.ok(&["certs"]);
    assert!(table.starts_with("CERTIFICATE  SOURCE  HOSTS"), "{table}");
    let of_store = "portolan_certificate_days_left{certificate=\"shop\"}";
    assert_eq!(shop.metrics(of_store), [format!("{of_store} 89")]);

    assert_eq!(shop.stage.ok(&["certs", "remove", "shop"]), "shop is gone from the store\n");
    assert_eq!(shop.shown("shop.test"), own);
    assert_eq!(kept.ask("shop.test"), "http/1.1 200 ok");
    assert_eq!(shop.metrics(of_store), Vec::<String>::new());
    let said = shop.error(&["certs", "remove", "shop"]);
    assert!(said.contains("there is no certificate \"shop\""), "{said}");
    shop.shows_no_key();
}

#[test]
fn what_is_no_good_or_a_file_s_is_not_taken_into_the_store() {
    let shop = Shop::started();
    shop.issue("shop.test");
    let (chain, key) = (shop.path("shop.test", "pem"), shop.path("shop.test", "key"));
    let said = shop.error(&["certs", "add", "own", "--chain", &chain, "--key", &key]);
    assert!(said.contains("belongs to the configuration file of node n1"), "{said}");
    let said = shop.error(&["certs", "remove", "own"]);
    assert!(said.contains("belongs to the configuration file of node n1"), "{said}");
    let other = shop.path("own.test", "key");
    let said = shop.error(&["certs", "add", "shop", "--chain", &chain, "--key", &other]);
    assert!(said.contains("key: ") && said.contains("does not belong"), "{said}");
    let said = shop.error(&["certs", "add", "shop", "--chain", "/none", "--key", &key]);
    assert!(said.contains("cannot read /none"), "{said}");

    let (chain, key) = (shop.file("shop.test", "pem"), shop.file("shop.test", "key"));
    let call = |chain: &str, key: &str| serde_json::json!({ "chain": chain, "key": key });
    for (name, body, status, text) in [
        ("own", call(&chain, &key), 409, "belongs to"),
        ("shop", call(&chain, ""), 400, "no private key"),
        ("shop", call("", &key), 400, "no certificate"),
        ("shop", call(&chain, &"x".repeat((64 << 10) + 1)), 413, "more than 65536"),
        ("shop", call(&"x".repeat((256 << 10) + 1), &key), 413, "more than 262144"),
        ("shop", serde_json::json!({ "chain": chain }), 400, "expected chain and key"),
        ("S H", call(&chain, &key), 400, ""),
    ] {
        let (got, answer) = shop.put(&name.replace(' ', "%20"), &body);
        assert_eq!(got, status, "{name}: {answer}");
        assert!(answer.contains(text), "{name}: {answer}");
    }
    assert_eq!(shop.stage.json(&["certs"]).as_array().unwrap().len(), 1);
    shop.shows_no_key();
}

#[test]
fn a_bad_record_leaves_the_last_good_certificate_whatever_restarts() {
    let mut shop = Shop::started();
    let good = shop.issue("shop.test");
    shop.add("shop", "shop.test");
    let pair = CertificatePair::new(
        "shop".parse().unwrap(),
        shop.file("shop.test", "pem"),
        shop.file("own.test", "key"),
        0,
    );
    let key = Key::Certificate("shop".parse().unwrap());
    for bad in [encode(&pair.unwrap()).to_vec(), b"{\"name\":".to_vec()] {
        shop.meddle(&key, |_| bad);
        shop.stage.wait("the record is refused", || {
            (shop.refused() == "portolan_certificates_refused_total 1").then_some(())
        });
        assert_eq!(shop.shown("shop.test"), good);
    }
    let log = shop.stage.log();
    assert!(log.contains("d/cert/shop") && log.contains("does not belong"), "{log}");
    // What is saved beside the store has the good one still.
    shop.stage.kill();
    shop.stage.up();
    assert_eq!(shop.shown("shop.test"), good);
    shop.shows_no_key();

    // One that cannot even be read is in nobody's way.
    shop.stage.ok(&["certs", "remove", "shop"]);
    assert_eq!(shop.shown("shop.test"), shop.shown("own.test"));
    let next = shop.issue("shop.test");
    shop.add("shop", "shop.test");
    assert_eq!(shop.shown("shop.test"), next);
}

#[test]
fn certificates_outlive_a_restart_an_upgrade_and_the_store() {
    let mut shop = Shop::started();
    let first = shop.issue("shop.test");
    shop.add("shop", "shop.test");
    let mut kept = Kept::to(&shop, "shop.test");
    assert_eq!(kept.ask("shop.test"), "http/1.1 200 ok");
    shop.stage.ok(&["upgrade"]);
    assert_eq!(shop.shown("shop.test"), first);
    let second = shop.issue("shop.test");
    shop.add("shop", "shop.test");
    assert_eq!(shop.shown("shop.test"), second);
    drop(kept);
    assert_eq!(shop.stage.terminate(), Some(0));
    shop.stage.up();
    assert_eq!(shop.shown("shop.test"), second);
    // A store that is away is waited for; what it had is shown meanwhile.
    assert_eq!(shop.stage.terminate(), Some(0));
    let store = shop.stage.data().join("store.redb");
    fs::rename(&store, store.with_extension("away")).unwrap();
    shop.stage.up();
    assert_eq!(shop.shown("shop.test"), second);
    let said = shop.error(&["certs", "remove", "shop"]);
    assert!(said.contains("unavailable"), "{said}");
    assert_eq!(shop.shown("shop.test"), second);
}
