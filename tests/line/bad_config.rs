//! A wrong configuration gets one clear message, and nothing half-started stays.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output};

use crate::stage::{PORTOLAN, Stage};

fn up(stage: &Stage) -> Output {
    Command::new(PORTOLAN).arg("up").arg(stage.config()).output().unwrap()
}

fn check(stage: &Stage, args: &[&str]) -> Output {
    Command::new(PORTOLAN).arg("check").arg(stage.config()).args(args).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every socket of the configuration can be had again. Not always at once: a program that another
/// test is starting has copies of our sockets until it runs.
fn nothing_stays(stage: &Stage) {
    for addr in [stage.http, stage.dns, stage.admin] {
        stage.wait(&format!("{addr} is free"), || TcpListener::bind(addr).ok());
    }
    stage.wait(&format!("{} is free", stage.dns), || UdpSocket::bind(stage.dns).ok());
}

#[test]
fn each_mistake_gets_one_message_with_its_line() {
    for (rest, expected) in [
        ("[[route]]\n", "unknown field `route`"),
        (
            "[[routes]]\nservice = \"a\"\n[[routes]]\nservice = \"b\"\n",
            "the route takes the same requests",
        ),
        ("zone = 5\n", "expected a string"),
        ("[[routes]]\nservice = \"a\"\nbody_max = \"10MB\"\n", "10MB"),
        ("[[services]]\nname = \"a\"\ninstances = [{ addr = \"x\" }]\n", "x"),
    ] {
        let stage = Stage::set(rest);
        for output in [up(&stage), check(&stage, &[])] {
            let text = told(&output);
            assert_eq!(output.status.code(), Some(64), "{rest}: {text}");
            assert!(text.contains(expected), "{text} lacks {expected}");
            assert!(text.contains("p.toml:"), "{text} has no line");
            assert_eq!(text.matches("portolan: ").count(), 1, "{text}");
        }
        nothing_stays(&stage);
        assert!(!stage.data().exists());
    }
}

#[test]
fn a_missing_file_and_an_unknown_option_are_told() {
    for args in [&["up", "/nowhere/p.toml"][..], &["check", "/nowhere/p.toml"], &["up", "--hlep"]] {
        let output = Command::new(PORTOLAN).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(!told(&output).is_empty());
    }
}

#[test]
fn a_port_that_another_process_holds_is_named_and_the_others_are_let_go() {
    for which in ["http", "dns", "admin"] {
        let stage = Stage::set("");
        let addr = match which {
            "http" => stage.http,
            "dns" => stage.dns,
            _ => stage.admin,
        };
        let held = TcpListener::bind(addr).unwrap();
        let output = up(&stage);
        let text = told(&output);
        assert_eq!(output.status.code(), Some(1), "{which}: {text}");
        assert!(text.contains(&addr.to_string()), "{which}: {text}");
        drop(held);
        nothing_stays(&stage);
    }
}

#[test]
fn a_second_portolan_on_the_same_ports_is_refused_and_the_first_serves_on() {
    let stage = Stage::started("");
    let output = up(&stage);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert_eq!(stage.curl("any.test", "/", &[]).0, 404);
}

#[test]
fn a_second_portolan_on_the_same_store_is_refused() {
    let stage = Stage::started("");
    let other = Stage::set("");
    let text = fs::read_to_string(other.config()).unwrap();
    let store = stage.data().join("store.redb");
    fs::write(other.config(), format!("{text}\n[store]\npath = \"{}\"\n", store.display()))
        .unwrap();
    let output = up(&other);
    let text = told(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("store.redb"), "{text}");
    nothing_stays(&other);
}

#[test]
fn an_upstream_that_does_not_answer_is_found_by_check() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let upstream = silent.local_addr().unwrap();
    let stage = Stage::set(&format!("upstreams = [\"{upstream}\"]\n"));
    let output = check(&stage, &[]);
    let text = told(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&upstream.to_string()), "{text}");
    assert_eq!(check(&stage, &["--offline"]).status.code(), Some(0));
}
