//! TLS as the example and the README show it, asked by curl and openssl.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::ports::free_port;
use crate::stage::{PORTOLAN, Stage};

/// `examples/tls.toml` below the common part of a stage, on a free port.
struct Secure {
    stage: Stage,
    port: u16,
}

impl Secure {
    fn set() -> Self {
        let port = free_port();
        let text = include_str!("../../examples/tls.toml");
        let from = text.find("[[listeners]]\nname = \"secure\"").unwrap();
        let redirecting = format!(
            "[[listeners]]\nname = \"plain\"\nbind = \"127.0.0.1:{}\"\nredirect_https = 8443\n\n",
            free_port()
        );
        let rest = redirecting + &text[from..];
        let stage = Stage::set(&rest.replace("8443", &port.to_string()));
        let secure = Self { stage, port };
        secure.ca(&["init"], &[]);
        secure.issue();
        secure
    }

    fn started() -> Self {
        let mut secure = Self::set();
        secure.stage.up();
        secure.stage.wait_running(2);
        secure.stage.wait("the app answers", || (secure.curl("/", &[]).0 == 200).then_some(()));
        secure
    }

    fn folder(&self) -> PathBuf {
        self.stage.dir.path().join("tls")
    }

    fn ca(&self, command: &[&str], more: &[&str]) {
        let mut ran = Command::new(PORTOLAN);
        let output = ran.arg("ca").args(command).arg(self.folder()).args(more).output();
        assert!(output.unwrap().status.success());
    }

    fn issue(&self) {
        self.ca(&["issue"], &["shop.test", "*.shop.test"]);
    }

    fn curl(&self, path: &str, more: &[&str]) -> (u16, String) {
        let output = Command::new("curl")
            .args(["-s", "-i", "-m", "20", "-w", "\n%{http_code}"])
            .args(["--cacert", self.folder().join("ca.pem").to_str().unwrap()])
            .args(["--connect-to", &format!("::127.0.0.1:{}", self.port)])
            .args(more)
            .arg(format!("https://www.shop.test{path}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    fn openssl(&self, more: &[&str]) -> String {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", self.port)])
            .args(["-CAfile", self.folder().join("ca.pem").to_str().unwrap()])
            .args(more)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    fn fingerprint(&self) -> String {
        self.stage.json(&["certs"])[0]["fingerprint"].as_str().unwrap().to_owned()
    }

    fn refused(&self) -> bool {
        let url = format!("http://{}/metrics", self.stage.admin);
        let page = Command::new("curl").args(["-s", &url]).output().unwrap();
        String::from_utf8_lossy(&page.stdout).contains("portolan_certificates_refused_total 1")
    }
}

#[test]
fn curl_comes_by_https_and_is_told_to_stay_with_it() {
    let secure = Secure::started();
    let (status, text) = secure.curl("/", &[]);
    assert_eq!(status, 200);
    let text = text.to_lowercase();
    assert!(text.contains("strict-transport-security: max-age=3600\r\n"), "{text}");
    assert!(text.contains("x-forwarded-proto: https"), "{text}");
    let body = "x".repeat(100_000);
    let (status, echoed) = secure.curl("/echo", &["--data-binary", &body]);
    assert!(status == 200 && echoed.ends_with(&body));
    for version in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        assert_eq!(secure.curl("/", version).0, 200);
    }
    let plain = format!("http://127.0.0.1:{}/", secure.port);
    let output = Command::new("curl").args(["-s", "-i", &plain]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("use https"), "{text}");
    let certs = secure.stage.json(&["certs"]);
    assert_eq!(certs[0]["name"], "shop");
    assert_eq!(certs[0]["hosts"], serde_json::json!(["shop.test", "*.shop.test"]));
    assert_eq!(certs[0]["default_of"], serde_json::json!(["secure"]));
    assert!(secure.stage.ok(&["certs"]).contains("secure (default)"));
}

#[test]
fn openssl_verifies_the_certificate_and_resumes_its_session() {
    let secure = Secure::started();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = secure.stage.dir.path().join("session");
        let session = session.to_str().unwrap();
        let name = ["-servername", "www.shop.test", "-verify_hostname", "www.shop.test"];
        let first = secure.openssl(&[&name[..], &[version, "-sess_out", session]].concat());
        assert!(first.contains("Verify return code: 0 (ok)"), "{first}");
        assert!(first.contains("New, TLSv1."), "{first}");
        if version == "-tls1_2" {
            let again = secure.openssl(&[&name[..], &[version, "-sess_in", session]].concat());
            assert!(again.contains("Reused, TLSv1.2"), "{again}");
        }
    }
}

#[test]
fn a_certificate_is_renewed_while_it_runs_and_a_bad_one_is_not_taken() {
    let secure = Secure::started();
    let before = secure.fingerprint();
    secure.issue();
    let after = secure.stage.wait("the new certificate is shown", || {
        Some(secure.fingerprint()).filter(|now| *now != before)
    });
    assert_eq!(secure.curl("/", &[]).0, 200);
    fs::copy(secure.folder().join("ca.key"), secure.folder().join("shop.test.key")).unwrap();
    secure.stage.wait("the bad pair is refused", || secure.refused().then_some(()));
    assert_eq!(secure.fingerprint(), after);
    assert_eq!(secure.curl("/", &[]).0, 200);
    let log = secure.stage.log();
    assert!(log.contains("shop.test.key") && log.contains("does not belong"), "{log}");
    let key = fs::read_to_string(secure.folder().join("ca.key")).unwrap();
    assert!(!log.contains(key.lines().nth(1).unwrap()), "a key is in the log");
}

#[test]
fn a_key_of_another_certificate_is_found_before_the_start() {
    let secure = Secure::set();
    fs::copy(secure.folder().join("ca.key"), secure.folder().join("shop.test.key")).unwrap();
    let output = Command::new(PORTOLAN)
        .args(["check", "--offline", secure.stage.config().to_str().unwrap()])
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("shop.test.key") && text.contains("does not belong"), "{text}");
}
