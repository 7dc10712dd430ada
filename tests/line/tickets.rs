//! Clients of TLS that come back: after a restart, an upgrade and changes of the keys for tickets,
//! asked by openssl.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use portolan_discovery::model::record::{decode, encode};
use portolan_discovery::model::{Key, TICKET_PERIOD_MS, TicketKeys};

use crate::certificates::Shop;

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

impl Shop {
    /// A request on a connection of its own; whether it has resumed the session in `from`. Its own
    /// session is left in `to`.
    fn visit(&self, version: &str, from: Option<&str>, to: &str) -> bool {
        let folder = self.stage.dir.path();
        let path = |name: &str| folder.join(format!("{name}{version}")).display().to_string();
        let mut openssl = self.client("own.test", &[version, "-ign_eof", "-sess_out", &path(to)]);
        if let Some(from) = from {
            openssl.args(["-sess_in", &path(from)]);
        }
        let mut child = openssl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let request = "GET / HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\n\r\n";
        child.stdin.as_mut().unwrap().write_all(request.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}\n{}", self.stage.log());
        let is_new = text.contains("New, TLSv1.");
        assert_ne!(is_new, text.contains("Reused, TLSv1."), "{text}");
        !is_new
    }

    /// First visits, with each version.
    fn first_visits(&self) {
        self.metric("portolan_ticket_keys_shared", "1");
        for version in VERSIONS {
            assert!(!self.visit(version, None, "first"));
        }
    }

    /// Whether those who were here first resume their sessions, with each version.
    fn first_come_back(&self) -> [bool; 2] {
        VERSIONS.map(|version| self.visit(version, Some("first"), "later"))
    }

    fn metric(&self, name: &str, value: &str) {
        self.stage.wait(&format!("{name} is {value}"), || {
            (self.metrics(&format!("{name} ")) == [format!("{name} {value}")]).then_some(())
        });
    }

    /// Makes the keys older than they are, while nobody runs, and waits until others are in force.
    fn pass(&mut self, periods: f64) {
        let ms = (periods * TICKET_PERIOD_MS as f64) as u64;
        self.meddle(&Key::Tickets, |record| {
            let mut keys: TicketKeys = decode(&record).unwrap();
            keys.since_ms -= ms;
            encode(&keys).to_vec()
        });
        self.metric("portolan_ticket_keys_rotations_total", "1");
        // What is written later is not served before.
        self.stage.ok(&["drain", "service/nobody", "--reason", "to wait for it"]);
        self.stage.ok(&["drain", "service/nobody", "--undo"]);
    }
}

#[test]
fn sessions_outlive_a_restart_an_upgrade_and_the_store() {
    let mut shop = Shop::started();
    shop.first_visits();
    assert_eq!(shop.first_come_back(), [true; 2]);
    assert_eq!(shop.stage.terminate(), Some(0));
    shop.stage.up();
    assert_eq!(shop.first_come_back(), [true; 2], "after a restart");
    shop.stage.ok(&["upgrade"]);
    assert_eq!(shop.first_come_back(), [true; 2], "after an upgrade");
    assert_eq!(shop.stage.terminate(), Some(0));
    let store = shop.stage.data().join("store.redb");
    fs::rename(&store, store.with_extension("away")).unwrap();
    shop.stage.up();
    assert_eq!(shop.first_come_back(), [true; 2], "while the store is away");
}

#[test]
fn sessions_outlive_one_change_of_keys_and_not_two() {
    let mut shop = Shop::started();
    shop.first_visits();
    shop.pass(1.5);
    assert_eq!(shop.first_come_back(), [true; 2]);
    // openssl keeps the new ticket of a session that goes on only with TLS 1.3.
    assert!(shop.visit("-tls1_3", Some("first"), "second"));
    assert!(!shop.visit("-tls1_2", None, "second"));
    shop.pass(1.5);
    assert_eq!(shop.first_come_back(), [false; 2]);
    for version in VERSIONS {
        assert!(shop.visit(version, Some("second"), "later"), "of the period before");
    }
}

#[test]
fn a_record_that_cannot_be_read_is_told_of_and_keys_are_shown_nowhere() {
    let mut shop = Shop::started();
    shop.first_visits();
    let ask = |shop: &Shop, call: &str| {
        let url = format!("http://{}{call}", shop.stage.admin);
        let output = Command::new("curl").args(["-s", "-m", "2", &url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let events = ask(&shop, "/v1/events?after=0");
    assert!(events.contains("\"kind\":\"tickets\""), "{events}");
    let mut secrets = Vec::new();
    shop.meddle(&Key::Tickets, |record| {
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        secrets =
            ["current", "next"].map(|key| record[key].as_str().unwrap()[32..].to_owned()).into();
        assert_eq!(secrets[0].len(), 64);
        // What is said of it would show the key.
        serde_json::to_vec(&serde_json::json!({ "current": [secrets[0]] })).unwrap()
    });
    shop.metric("portolan_ticket_keys_refused_total", "1");
    assert_eq!(shop.first_come_back(), [true; 2], "the last good ones are saved");

    assert_eq!(shop.stage.terminate(), Some(0));
    for saved in ["table.saved", "table.saved.1"] {
        fs::remove_file(shop.stage.data().join(saved)).unwrap();
    }
    shop.stage.up();
    shop.metric("portolan_ticket_keys_refused_total", "1");
    shop.metric("portolan_ticket_keys_shared", "0");
    assert_eq!(shop.first_come_back(), [false; 2]);
    assert!(shop.visit("-tls1_3", Some("later"), "last"), "it has keys of its own");
    let log = shop.stage.log();
    assert!(log.contains("the keys for tickets cannot be read"), "{log}");

    for text in [
        log,
        events,
        ask(&shop, "/v1/status"),
        ask(&shop, "/v1/certificates"),
        ask(&shop, "/metrics"),
    ] {
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "{text}");
    }
}
