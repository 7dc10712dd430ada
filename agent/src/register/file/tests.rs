//! What is read, and the texts of what is refused.

use std::time::Duration;

use portolan_discovery::model::{CheckKind, NodeName, ProxyVersion, StatusRange};
use proptest::prelude::*;

use super::*;

const PG: &str = r#"
[service]
name = "pg"
protocol = "tcp"
labels = { team = "store" }

[[instance]]
id = "a"
addr = "127.0.0.1:5432"
weight = 7

[[instance]]
addr = "[::1]:5433"

[[check]]
kind = "tcp"
every = "500ms"
timeout = "1s"
rise = 1
fall = 2
start_period = "1m"
"#;

#[test]
fn a_file_declares_a_service_its_instances_and_checks() {
    let declared = FolderFile::parse("pg.toml", PG).unwrap().declared("pg.toml");
    assert_eq!(declared.origin, Origin::File("pg.toml".to_owned()));
    assert_eq!(declared.service.protocol, Protocol::Tcp);
    assert!(declared.service.keep_alive);
    assert_eq!(declared.service.labels["team"], "store");
    let ids: Vec<_> = declared.instances.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["a", "0-0-0-0-0-0-0-1-5433"]);
    assert_eq!(declared.instances[0].weight.0.get(), 7);
    assert_eq!(declared.instances[1].weight, Weight::DEFAULT);
    let check = &declared.instances[1].checks[0];
    assert_eq!((check.rise.get(), check.fall.get()), (1, 2));
    assert_eq!(check.every, Duration::from_millis(500));
    assert_eq!(check.start_period, Duration::from_secs(60));
}

#[test]
fn a_service_says_how_clients_are_kept_and_how_many_requests_wait() {
    let read =
        |keys: &str| FolderFile::parse("a.toml", &format!("[service]\nname = \"a\"\n{keys}"));
    let service = |keys: &str| read(keys).unwrap().declared("a.toml").service;
    assert_eq!((service("").sticky, service("").concurrency), (None, None));
    let sticky = service("sticky = { cookie = \"ID\", max_age = \"1h\" }").sticky.unwrap();
    assert_eq!((sticky.cookie.as_str(), sticky.max_age_s.unwrap().get()), ("ID", 3600));
    assert_eq!(service("sticky = { cookie = \"ID\" }").sticky.unwrap().max_age_s, None);
    let limit =
        service("in_flight_max = 2\nqueue_max = 3\nqueue_wait = \"4s\"").concurrency.unwrap();
    assert_eq!((limit.in_flight_max().get(), limit.queue_max()), (2, 3));
    assert_eq!(limit.queue_wait(), Duration::from_secs(4));
    for (keys, message) in [
        ("sticky = { cookie = \"a b\" }", "the name of a cookie is"),
        ("sticky = { cookie = \"a\", max_age = \"1ms\" }", "whole seconds"),
        ("sticky = { cookie = \"a\", age = 1 }", "unknown field `age`"),
        ("in_flight_max = 0", "nonzero"),
        ("protocol = \"sctp\"", "unknown variant `sctp`, expected one of `http`, `tcp`, `udp`"),
        ("proxy_protocol = \"v3\"", "unknown variant `v3`, expected one of `off`, `v1`, `v2`"),
        ("virtual_port = 5432", "a has a virtual_port, but does not speak tcp"),
        ("protocol = \"tcp\"\nvirtual_port = 0", "nonzero"),
        ("queue_wait = \"1s\"", "for a service with in_flight_max"),
        ("in_flight_max = 1\nqueue_max = 65537", "at most 65536"),
    ] {
        let error = read(keys).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[derive(Debug, Deserialize)]
struct Main {
    services: Vec<ServiceFile>,
}

#[test]
fn the_main_configuration_has_the_same_in_one_table() {
    let text = r#"
        [[services]]
        name = "web"
        keep_alive = false
        instances = [{ addr = "127.0.0.1:8080" }, { addr = "127.0.0.1:8081", weight = 1 }]
        checks = [{ kind = "https", path = "/health", status = [200, "300-399"], verify = false }]
    "#;
    let node = NodeName::parse("n1").unwrap();
    let main: Main = toml::from_str(text).unwrap();
    let declared = main.services[0].clone().declared(Origin::Config(node.clone()));
    assert_eq!(declared.origin, Origin::Config(node));
    assert!(!declared.service.keep_alive);
    assert_eq!(declared.instances[0].id.as_str(), "127-0-0-1-8080");
    let CheckKind::Http(http) = &declared.instances[0].checks[0].kind else { panic!("no http") };
    assert!(http.tls && !http.verify);
    assert_eq!(
        http.status,
        [StatusRange { first: 200, last: 200 }, StatusRange { first: 300, last: 399 }]
    );
}

#[test]
fn a_service_says_how_its_requests_are_spread() {
    let service = |keys: &str| {
        let text = format!("[service]\nname = \"web\"\n{keys}");
        FolderFile::parse("web.toml", &text).unwrap().declared("web.toml").service
    };
    let usual = Service::named(ServiceName::parse("web").unwrap());
    for keys in ["", "balance = \"p2c\"", "ejection = true", "ejection = {}"] {
        assert_eq!(service(keys), usual, "{keys}");
    }
    assert_eq!(service("balance = \"round_robin\"").balancing, Balancing::RoundRobin);
    assert_eq!(service("balance = \"least\"").balancing, Balancing::Least);
    let hash = service("balance = \"hash\"\nhash_by = \"header:X-User\"").balancing;
    assert_eq!(hash, Balancing::Hash("header:x-user".parse().unwrap()));
    assert_eq!(service("slow_start = \"30s\"").slow_start, Some(Duration::from_secs(30)));
    assert_eq!(service("ejection = false").ejection, None);
    for (word, expected) in
        [("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))]
    {
        let service = service(&format!("proxy_protocol = \"{word}\""));
        assert_eq!(service.proxy_protocol, expected);
    }
    let rule = service("ejection = { errors = 3, time = \"5s\", share_max = 20 }").ejection;
    let rule = rule.unwrap();
    assert_eq!((rule.errors().get(), rule.share_max().get()), (3, 20));
    assert_eq!(rule.time(), Duration::from_secs(5));
}

/// The error of a file that is a good one with `extra` as its last lines, from line 3 on.
fn error(extra: &str) -> String {
    let text = format!("[service]\nname = \"web\"\n{extra}");
    FolderFile::parse("web.toml", &text).unwrap_err().to_string()
}

#[test]
fn a_bad_file_is_refused_with_the_line_and_the_accepted_values() {
    for (extra, expected) in [
        (
            "protokoll = \"tcp\"",
            "web.toml:3: unknown field `protokoll`, expected one of `name`, `protocol`, \
             `http_version`, `keep_alive`, `sticky`, `in_flight_max`, `queue_max`, `queue_wait`, \
             `proxy_protocol`, `tls`, `virtual_port`, `balance`, `hash_by`, `slow_start`, `ejection`, `labels`",
        ),
        (
            "[[instance]]\naddr = \"127.0.0.1\"",
            "web.toml:4: invalid value: string \"127.0.0.1\", expected an address with its port \
             such as \"127.0.0.1:8080\" or \"[::1]:8080\"",
        ),
        (
            "[[instance]]\naddr = \"127.0.0.1:80\"\nweight = 0",
            "web.toml:5: invalid value: integer `0`, expected a nonzero u16",
        ),
        (
            "[[instance]]\nid = \"A\"\naddr = \"127.0.0.1:80\"",
            "web.toml:4: \"A\" has the character 'A': names are lower-case letters, digits and '-'",
        ),
        (
            "balance = \"random\"",
            "web.toml:3: unknown variant `random`, expected one of `p2c`, `round_robin`, `least`, \
             `hash`",
        ),
        (
            "balance = \"hash\"\nhash_by = \"user\"",
            "web.toml:4: \"user\" is no hash_by: expected \"header:NAME\", \"cookie:NAME\" or \
             \"source\"",
        ),
        ("ejection = { time = \"2h\" }", "web.toml:3: the time of an ejection is 1 ms to 1 hour"),
        (
            "\n[[check]]\nkind = \"ftp\"",
            "web.toml:5: unknown variant `ftp`, expected one of `http`, `https`, `tcp`, `exec`",
        ),
        (
            "\n[[check]]\nkind = \"tcp\"\nevery = \"soon\"",
            "web.toml:6: invalid value: string \"soon\", expected a duration such as \"500ms\", \
             \"5s\" or \"2m\"",
        ),
        (
            "\n[[check]]\nkind = \"tcp\"\nevery = \"1ms\"",
            "web.toml:4: every is 1ms: expected 10ms to 1day",
        ),
        (
            "\n[[check]]\nkind = \"tcp\"\npath = \"/\"",
            "web.toml:4: a check of kind \"tcp\" has no path: that is for \"http\" and \"https\"",
        ),
        (
            "\n[[check]]\nkind = \"http\"\nverify = false",
            "web.toml:4: a check of kind \"http\" has no verify: that is for \"https\"",
        ),
        (
            "\n[[check]]\nkind = \"exec\"",
            "web.toml:4: a check of kind \"exec\" needs a command such as [\"/usr/bin/true\"]",
        ),
        (
            "\n[[check]]\nkind = \"http\"\npath = \"health\"",
            "web.toml:4: path is \"health\": expected a path such as \"/health\" or \
             \"/health?deep=1\"",
        ),
        (
            "\n[[check]]\nkind = \"http\"\nstatus = [\"2xx\"]",
            "web.toml:6: invalid value: string \"2xx\", expected a status such as 200 or a range \
             such as \"200-299\"",
        ),
    ] {
        assert_eq!(error(extra), expected, "after {extra}");
    }
}

#[test]
fn two_instances_need_two_ids() {
    let extra = "[[instance]]\naddr = \"127.0.0.1:80\"\n[[instance]]\naddr = \"127.0.0.1:80\"";
    assert!(error(extra).ends_with(
        "two instances of web have the id 127-0-0-1-80: give each its own id or address"
    ));
}

#[test]
fn a_file_without_a_service_is_refused() {
    let error = FolderFile::parse("empty.toml", "").unwrap_err();
    assert!(error.message.contains("missing field `service`"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = FolderFile::parse("x.toml", &text);
    }

    #[test]
    fn no_change_of_a_good_file_makes_the_reader_panic(
        at in 0..PG.len(),
        text in "[\\[\\]a-z0-9=\"\\-.:\n ]{0,8}",
    ) {
        let changed = format!("{}{text}{}", &PG[..at], &PG[at..]);
        if let Err(error) = FolderFile::parse("x.toml", &changed) {
            prop_assert!(!error.message.is_empty());
        }
    }

    #[test]
    fn what_is_written_is_read(port in 1u16.., weight in 1u16.., every_ms in 10u64..86_400_000) {
        let text = format!(
            "[service]\nname = \"web\"\n[[instance]]\naddr = \"127.0.0.1:{port}\"\n\
             weight = {weight}\n[[check]]\nkind = \"tcp\"\nevery = \"{every_ms}ms\""
        );
        let declared = FolderFile::parse("x.toml", &text).unwrap().declared("x.toml");
        let one = &declared.instances[0];
        prop_assert_eq!(one.addr.port(), port);
        prop_assert_eq!(one.weight.0.get(), weight);
        prop_assert_eq!(one.checks[0].every, Duration::from_millis(every_ms));
    }
}
