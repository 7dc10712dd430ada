use std::num::NonZeroU16;
use std::path::Path;

use portolan_discovery::model::{
    AppName, CacheRule, Coding, CompressRule, Hsts, HttpsRule, Origin, Protocol, Rule, TlsRule,
};

use super::*;
use crate::authority::Purpose;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/portolan/p.toml"), text)
}

/// The error of a bad configuration, as it is printed.
fn error(text: &str) -> String {
    parse(&format!("[node]\nname = \"n1\"\n{text}")).expect_err(text).to_string()
}

const SMALL: &str = r#"
[node]
name = "n1"

[[listeners]]
name = "web"
bind = "127.0.0.1:8080"

[[listeners]]
name = "pg"
bind = "127.0.0.1:5432"
protocol = "tcp"

[dns]
bind = ["127.0.0.1:5353"]

[[services]]
name = "db"
protocol = "tcp"
instances = [{ addr = "127.0.0.1:5433" }]
checks = [{ kind = "tcp" }]

[[routes]]
host = "Shop.Test"
path = "/api/"
service = "api"

[[routes]]
listener = "pg"
service = "db"

[[apps]]
name = "shop"
env = { A = "1", B = "1" }

[apps.processes.web]
command = ["serve", "--port", "${PORT}"]
instances = 3
service = "api"
env = { B = "2" }
checks = [{ kind = "http", path = "/health", every = "1s" }]
cpu = 0.5
memory = "128MiB"
"#;

#[test]
fn a_configuration_is_read_with_its_defaults() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.admin.bind, ADMIN_BIND);
    assert_eq!(config.node.data_dir, Path::new("/etc/portolan/.portolan"));
    assert_eq!(config.store_path, Path::new("/etc/portolan/.portolan/store.redb"));
    assert_eq!(config.listeners[1].protocol, Protocol::Tcp);
    assert!(config.listeners[0].via && config.router.via_name.is_none());
    assert_eq!(config.dns.as_ref().unwrap().zone.as_str(), "cluster.internal");
    assert_eq!(config.dns.as_ref().unwrap().proxy_addresses, [config.node.address]);
    let [http, tcp] = config.routes.as_slice() else { panic!("{:?}", config.routes) };
    let Rule::Http(rule) = &http.rule else { panic!("{http:?}") };
    assert_eq!((rule.host.to_string(), rule.path.to_string()), ("shop.test".into(), "/api".into()));
    assert_eq!(http.origin, Origin::Config(config.node.name.clone()));
    assert_eq!(tcp.rule, Rule::Tcp);
    assert_ne!(http.name, tcp.name);
    let app = &config.apps[0];
    assert_eq!(app.name, AppName::parse("shop").unwrap());
    let (job, count) = app.processes.values().next().unwrap();
    assert_eq!(*count, 3);
    assert_eq!(job.env["A"], "1");
    assert_eq!(job.env["B"], "2", "the process's own value wins");
    assert_eq!(job.resources, Resources { cpu_millis: 500, memory_mib: 128 });
}

#[test]
fn the_name_of_a_route_without_one_comes_from_its_rule() {
    let names = |text: &str| {
        let config = parse(text).unwrap();
        config.routes.iter().map(|route| route.name.to_string()).collect::<Vec<_>>()
    };
    let again = SMALL.replace("path = \"/api/\"", "path = \"/other\"");
    assert_eq!(names(SMALL), names(SMALL));
    assert_ne!(names(SMALL)[0], names(&again)[0]);
    assert_eq!(names(SMALL)[1], names(&again)[1]);
}

/// Each with the place and a part of the message.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_is_wrong_is_told_with_line_and_accepted_values() {
    let listener = "[[listeners]]\nname = \"web\"\nbind = \"127.0.0.1:8080\"\n";
    for (text, place, parts) in [
        ("[nod]\n".to_owned(), "p.toml:3:", &["unknown field `nod`", "`node`"][..]),
        ("[dns]\nbin = []\n".to_owned(), "p.toml:4:", &["unknown field `bin`", "`bind`"]),
        ("[router]\nconnect_timeout = \"soon\"\n".to_owned(), "p.toml:4:", &["soon", "500ms"]),
        (
            "[router]\nvia_name = \"1 2\"\n".to_owned(),
            "p.toml:4:",
            &["via_name is \"1 2\"", "expected a letter"],
        ),
        ("[router]\nworkers = 0\n".to_owned(), "p.toml:4:", &["workers is 0", "1 to 256"]),
        ("[router]\nconnections_max = 0\n".to_owned(), "p.toml:4:", &["nonzero"]),
        (
            "[[listeners]]\nname = \"a\"\nbind = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\n"
                .to_owned(),
            "p.toml:6:",
            &["PROXY headers of nobody", "set trusted"],
        ),
        (
            "[[listeners]]\nname = \"web\"\nbind = \"8080\"\n".to_owned(),
            "p.toml:5:",
            &["invalid socket address"],
        ),
        (
            "[[listeners]]\nname = \"Web\"\nbind = \"127.0.0.1:1\"\n".to_owned(),
            "p.toml:4:",
            &["'W'", "lower-case"],
        ),
        (
            format!("{listener}{listener}"),
            "p.toml:7:",
            &["listener \"web\" is there already, at line 5"],
        ),
        (
            "[[listeners]]\nname = \"web\"\nbind = \"127.0.0.1:7070\"\n".to_owned(),
            "p.toml:5:",
            &["admin.bind both bind 127.0.0.1:7070"],
        ),
        (
            format!("{listener}[[listeners]]\nname = \"b\"\nbind = \"0.0.0.0:8080\"\n"),
            "p.toml:8:",
            &["listener \"web\" both bind 0.0.0.0:8080"],
        ),
        (
            "[admin]\nbind = \"0.0.0.0:7070\"\n".to_owned(),
            "p.toml:4:",
            &["without admin.token_file", "127.0.0.1:7070"],
        ),
        (
            "[admin]\ntoken_file = \"missing\"\n".to_owned(),
            "p.toml:4:",
            &["there is no file /etc/portolan/missing"],
        ),
        (
            "[agent]\nservices_dir = \"missing\"\n".to_owned(),
            "p.toml:4:",
            &["there is no folder /etc/portolan/missing"],
        ),
        ("[dns]\nbind = []\n".to_owned(), "p.toml:4:", &["dns.bind is empty"]),
        (
            "[dns]\nbind = [\"127.0.0.1:53\"]\nzone = \"a..b\"\n".to_owned(),
            "p.toml:5:",
            &["a..b", "cluster.internal"],
        ),
        ("[[routes]]\nhost = \"a\"\n".to_owned(), "p.toml:3:", &["where it leads", "backends"]),
        (
            "[[routes]]\nhost = \"a:80\"\nservice = \"a\"\n".to_owned(),
            "p.toml:4:",
            &["a:80", "*.example.org"],
        ),
        (
            "[[routes]]\npath = \"api\"\nservice = \"a\"\n".to_owned(),
            "p.toml:4:",
            &["api", "=/login"],
        ),
        (
            "[[routes]]\nhost = \"a\"\nservice = \"a\"\n[[routes]]\nhost = \"A\"\nservice = \"b\"\n"
                .to_owned(),
            "p.toml:6:",
            &["takes the same requests as the one at line 3"],
        ),
        (
            "[[routes]]\npath = \"~^/(\"\nservice = \"a\"\n".to_owned(),
            "p.toml:4:",
            &["^/(", "unclosed group"],
        ),
        (
            "[[routes]]\nmethods = [\"GET\", \"post\"]\nservice = \"a\"\n".to_owned(),
            "p.toml:4:",
            &["\"post\" is no method", "capitals"],
        ),
        (
            "[[routes]]\nheaders = { x-a = \"1\", X-A = \"2\" }\nservice = \"a\"\n".to_owned(),
            "p.toml:4:",
            &["x-a is named twice"],
        ),
        (
            "[[routes]]\nquery = { v = false }\nservice = \"a\"\n".to_owned(),
            "p.toml:4:",
            &["true for any value"],
        ),
        (
            "[[routes]]\nrewrite = { prefx = \"/\" }\nservice = \"a\"\n".to_owned(),
            "p.toml:4:",
            &["unknown field `prefx`", "`prefix`"],
        ),
        (
            "[[routes]]\npath = \"=/a\"\nrewrite = { prefix = \"/\" }\nservice = \"a\"\n".to_owned(),
            "p.toml:5:",
            &["only the prefix", "{ host = "],
        ),
        (
            "[[routes]]\nleader = true\nbackends = [{ service = \"a\" }]\n".to_owned(),
            "p.toml:3:",
            &["says leader for none", "leader = true }"],
        ),
        (
            "[[routes]]\nservice = \"a\"\nmirror = { service = \"b\", percent = 101 }\n".to_owned(),
            "p.toml:5:",
            &["101 % is not 1 to 100"],
        ),
        (
            "[[listeners]]\nname = \"t\"\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n[[routes]]\nlistener = \"t\"\nservice = \"a\"\nmirror = { service = \"b\" }\n".to_owned(),
            "p.toml:10:",
            &["mirrors nothing"],
        ),
        (
            "[[routes]]\nidle_timeout = \"1s\"\nservice = \"a\"\n".to_owned(),
            "p.toml:4:",
            &["unknown field `idle_timeout`", "`tunnel_idle_timeout`"],
        ),
        (
            "[[routes]]\nmethods = [\"GET\"]\nservice = \"a\"\n[[routes]]\nmethods = [\"GET\", \"GET\"]\nservice = \"b\"\n"
                .to_owned(),
            "p.toml:6:",
            &["takes the same requests as the one at line 3"],
        ),
        (
            format!("{listener}[[routes]]\nlistener = \"wbe\"\nservice = \"a\"\n"),
            "p.toml:7:",
            &["no listener \"wbe\"", "expected one of: web"],
        ),
        ("[[apps]]\nname = \"a\"\nprocesses = {}\n".to_owned(), "p.toml:3:", &["runs nothing"]),
        (
            "[[apps]]\nname = \"a\"\n[apps.processes.w]\ncommand = []\n".to_owned(),
            "p.toml:3:",
            &["has no command"],
        ),
        (
            "[[apps]]\nname = \"a\"\n[apps.processes.w]\ncommand = [\"x\"]\nchecks = [{ kind = \"ping\" }]\n"
                .to_owned(),
            "p.toml:7:",
            &["ping", "http"],
        ),
        (
            "[[apps]]\nname = \"a\"\n[apps.processes.w]\ncommand = [\"x\"]\nchecks = [{ kind = \"tcp\" }]\n"
                .to_owned(),
            "p.toml:3:",
            &["checks but no service"],
        ),
        ("[[services]]\nname = \"a\"\n[[services]]\nname = \"a\"\n".to_owned(), "p.toml:5:", &[
            "is there already, at line 3",
        ]),
        ("a = \n".to_owned(), "p.toml:3:", &[]),
    ] {
        let error = error(&text);
        assert!(error.contains(place), "{text}\n{error}");
        for part in parts {
            assert!(error.contains(part), "{text}\n{error}\nlacks {part}");
        }
    }
}

#[test]
fn a_route_may_ask_and_change_more_than_host_and_path() {
    let text = r#"
[[routes]]
path = "/shop"
methods = ["POST", "GET"]
headers = { X-Env = "canary", x-debug = true }
query = { v = "~^[12]$" }
rewrite = { prefix = "/", host = "inner.test" }
connect_timeout = "1s"
body_idle_timeout = "2s"
tunnel_idle_timeout = "3s"
leader = true
mirror = { service = "next", percent = 5 }
service = "shop"

[[routes]]
path = "/shop"
backends = [{ service = "shop" }, { service = "old", leader = true }]
"#;
    let config = Config::parse(Path::new("p.toml"), text).unwrap();
    let [asking, plain] = &config.routes[..] else { panic!("{:?}", config.routes) };
    let Rule::Http(rule) = &asking.rule else { panic!("{asking:?}") };
    let asked = serde_json::to_string(&rule.predicates).unwrap();
    assert_eq!(
        asked,
        r#"{"methods":["GET","POST"],"headers":{"x-debug":true,"x-env":"canary"},"query":{"v":"~^[12]$"}}"#
    );
    let rewrite = serde_json::to_string(&asking.rewrite).unwrap();
    assert_eq!(rewrite, r#"{"prefix":"/","host":"inner.test"}"#);
    let waits = [asking.timeouts.connect, asking.timeouts.body_idle, asking.timeouts.tunnel_idle];
    assert_eq!(waits, [1, 2, 3].map(|s| Some(Duration::from_secs(s))));
    assert_ne!(asking.name, plain.name, "what is asked is a part of the name");
    assert!(plain.rewrite.is_none());
    let leaders = |route: &Route| route.backends.iter().map(|b| b.leader).collect::<Vec<_>>();
    assert_eq!((leaders(asking), leaders(plain)), (vec![true], vec![false, true]));
    let mirror = serde_json::to_string(&asking.mirror).unwrap();
    assert_eq!(mirror, r#"{"service":"next","percent":5}"#);
}

#[test]
fn error_pages_are_read_at_once_and_blamed_in_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("busy.html", "<p>{{status}}");
    write("oops.json", "{\"id\":\"{{request_id}}\"}");
    write("odd.html", "{{colour}}");
    write("big.txt", &"x".repeat(64 * 1024 + 1));
    let parse = |text: &str| Config::parse(&dir.path().join("p.toml"), text);
    let config = parse(
        "[error_pages]\njson = true\n\"503\" = \"busy.html\"\n[error_pages.shop]\n\"5xx\" = \"oops.json\"\n\
         [[routes]]\nservice = \"a\"\nerror_pages = \"shop\"\n",
    );
    let config = config.unwrap();
    assert!(config.error_pages.json && config.error_pages.named.len() == 1);
    assert_eq!(config.routes[0].error_pages.as_ref().unwrap().as_str(), "shop");
    for (text, place, part) in [
        ("\"503\" = \"missing.html\"", "p.toml:2:9:", "missing.html: No such file"),
        ("\"503\" = \"busy\"", "p.toml:2:9:", "expected a file of .html"),
        ("\"503\" = \"odd.html\"", "p.toml:2:9:", "{{colour}} is unknown"),
        ("\"503\" = \"big.txt\"", "p.toml:2:9:", "it has 65537 bytes"),
        ("\"200\" = \"busy.html\"", "p.toml:2:9:", "\"400\" to \"599\""),
        ("\"503\" = 5", "p.toml:2:9:", "the page for 503 is no path"),
        ("json = \"yes\"", "p.toml:2:8:", "\"json\" is no key"),
        ("[error_pages.Shop]", "p.toml:2:", "character 'S'"),
        (
            "[[routes]]\nservice = \"a\"\nerror_pages = \"x\"",
            "p.toml:4:15:",
            "no error pages \"x\"",
        ),
    ] {
        let error = parse(&format!("[error_pages]\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(part), "{text}\n{error}");
    }
}

#[test]
fn a_route_says_which_answers_are_cached() {
    let read = |more: &str| {
        let text =
            format!("[router]\ncache_bytes_max = \"2MiB\"\n[[routes]]\nservice = \"a\"\n{more}");
        Config::parse(Path::new("p.toml"), &text)
    };
    assert_eq!(read("").unwrap().router.cache_bytes_max, Some(2 << 20));
    let cache = |more: &str| read(more).unwrap().routes[0].cache.clone();
    assert_eq!((cache(""), cache("cache = false")), (None, None));
    assert_eq!(cache("cache = true"), Some(Box::new(CacheRule::usual())));
    assert_eq!(cache("[routes.cache]"), cache("cache = true"));
    let some = cache(
        "[routes.cache]\nobject_bytes_max = \"2KiB\"\ndefault_ttl = \"7s\"\nheuristic = true\n\
         stale_while_revalidate = \"1m\"\nstale_if_error = \"1h\"\nwait = \"0s\"\nobey_requests = false",
    );
    let some = some.unwrap();
    assert_eq!((some.object_bytes_max(), some.heuristic()), (2048, true));
    assert_eq!((some.default_ttl().unwrap().as_secs(), some.obey_requests()), (7, false));
    let stale = (some.stale_while_revalidate().as_secs(), some.stale_if_error().as_secs());
    assert_eq!((stale, some.wait().as_secs()), ((60, 3600), 0));
    for (more, message) in [
        ("cache = 1", "true, false or a table"),
        ("cache = { object_bytes_max = 0 }", "p.toml:5:9: object_bytes_max is"),
        ("cache = { wait = \"2m\" }", "wait is at most 60 s"),
        ("cache = { ttl = \"5s\" }", "unknown field `ttl`"),
    ] {
        let error = read(more).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let tcp = "[[listeners]]\nname = \"t\"\nbind = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n\
        [[routes]]\nlistener = \"t\"\nservice = \"a\"\ncache = true";
    let error = Config::parse(Path::new("p.toml"), tcp).unwrap_err().to_string();
    assert!(error.contains("a route of a TCP, UDP or TLS listener caches nothing"), "{error}");
}

#[test]
fn a_route_says_which_answers_are_compressed() {
    let read = |more: &str| {
        let text = format!("[[routes]]\nservice = \"a\"\n{more}");
        Config::parse(Path::new("p.toml"), &text)
    };
    let compress = |more: &str| read(more).unwrap().routes[0].compress.clone();
    assert_eq!((compress(""), compress("compress = false")), (None, None));
    let all = compress("compress = true").unwrap();
    assert_eq!(*all, CompressRule::usual());
    assert_eq!(compress("compress = {}"), Some(all));
    let some = compress(
        "compress = { codings = [\"gzip\"], min_bytes = \"2KiB\", types = [\"text/html\"], level = { gzip = 1 } }",
    );
    let some = some.unwrap();
    assert_eq!((some.codings(), some.min_bytes()), (&[Coding::Gzip][..], 2048));
    assert_eq!((some.types(), some.level(Coding::Gzip)), (vec!["text/html"], 1));
    for (more, message) in [
        ("compress = 1", "true, false or a table"),
        ("compress = { codings = [] }", "p.toml:3:12: codings are"),
        ("compress = { codings = [\"deflate\"] }", "unknown variant `deflate`"),
        ("compress = { level = { br = 11 } }", "the level of br is 1 to 5"),
        ("compress = { types = [\"html\"] }", "\"html\" is no media type"),
        ("compress = { min = 5 }", "unknown field `min`"),
    ] {
        let error = read(more).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let tcp = "[[listeners]]\nname = \"t\"\nbind = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n\
        [[routes]]\nlistener = \"t\"\nservice = \"a\"\ncompress = true";
    let error = Config::parse(Path::new("p.toml"), tcp).unwrap_err().to_string();
    assert!(
        error.contains("p.toml:8:12: a route of a TCP, UDP or TLS listener compresses nothing"),
        "{error}"
    );
}

#[test]
fn a_route_says_which_answers_are_tried_again() {
    let read = |more: &str| {
        let text = format!("[[routes]]\nservice = \"a\"\n{more}");
        Config::parse(Path::new("p.toml"), &text)
    };
    let retry = |more: &str| read(more).unwrap().routes[0].retry.clone();
    assert_eq!(retry(""), None);
    let all = retry("retry = {}").unwrap();
    assert_eq!((all.attempts(), all.statuses()), (2, &[502, 503, 504][..]));
    let some = retry("retry = { attempts = 3, statuses = [503] }").unwrap();
    assert_eq!((some.attempts(), some.statuses()), (3, &[503][..]));
    for (more, message) in [
        ("retry = { attempts = 5 }", "p.toml:3:9: attempts are 2 to 4"),
        ("retry = { statuses = [200] }", "p.toml:3:9: statuses are"),
        ("retry = { tries = 2 }", "unknown field `tries`"),
    ] {
        let error = read(more).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nowhere/p.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/p.toml: cannot read"), "{error}");
}

#[test]
fn every_example_is_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            match path.file_name().unwrap().to_str().unwrap() {
                "tls.toml" => with_certificates(&path),
                _ => Config::load(&path),
            }
            .unwrap_or_else(|error| panic!("{error}"));
            read += 1;
        }
    }
    assert!(read > 0);
}

/// Reads an example after the commands that it begins with.
fn with_certificates(path: &Path) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let now_s = crate::clock::unix_s();
    let (authority, names) = (folder.path().join("tls"), ["shop.test".to_owned()]);
    crate::authority::init(&authority, now_s).unwrap();
    crate::authority::issue(&authority, &names, Purpose::Server, now_s, 90).unwrap();
    let copy = folder.path().join("tls.toml");
    std::fs::copy(path, &copy).unwrap();
    Config::load(&copy)
}

#[test]
fn what_is_wrong_with_tls_is_said_where_it_stands() {
    let listener =
        |more: &str| error(&format!("[[listeners]]\nname = \"a\"\nbind = \"127.0.0.1:0\"\n{more}"));
    for (more, expected) in [
        ("tls = {}\nredirect_https = 443", ":7:18: a listener with tls would redirect to itself"),
        ("protocol = \"tcp\"\nredirect_https = 443", "UDP or TLS listener has no requests"),
        ("redirect_https = 0", "redirect_https is 0"),
        ("protocol = \"tls\"\ntls = {}", ":7:7: a listener of TLS passes it on"),
        ("protocol = \"tls\"\nredirect_https = 443", "listener has no requests to redirect"),
        ("tls = { alpn = [\"h2\"] }", ":6:16: alpn is for a TCP listener"),
        ("protocol = \"tcp\"\ntls = { alpn = [] }", ":7:16: alpn has no name"),
        ("protocol = \"tcp\"\nhttp2 = true", ":7:9: only a listener of HTTP speaks HTTP/2"),
        ("http2 = \"yes\"", "invalid type"),
        ("tls = { client_certificates = \"optional\" }", "without client_ca_file"),
        ("tls = { client_ca_file = \"/nowhere/ca.pem\" }", "there is no file /nowhere/ca.pem"),
        ("tls = { version_min = \"1.1\" }", "unknown variant `1.1`, expected `1.2` or `1.3`"),
        ("tls = { ciphers = \"all\" }", "unknown field `ciphers`"),
    ] {
        let said = listener(more);
        assert!(said.contains(expected), "{said}");
    }
    let pair = "name = \"a\"\nchain_file = \"/etc/hostname\"\nkey_file = \"/etc/hostname\"\n";
    let said = error(&format!("[[certificates]]\n{pair}"));
    assert!(said.contains(":5:14: certificate \"a\": /etc/hostname with"), "{said}");
}

/// A key that the reference names is read, and one that it lacks is unknown.
#[test]
fn the_reference_names_each_key() {
    for setting in reference::settings().filter(|s| s.table != "[checks]") {
        let text = match setting.table {
            "[apps.processes.NAME]" => {
                format!(
                    "[[apps]]\nname = \"a\"\n[apps.processes.w]\n{} = 1979-05-27\n",
                    setting.key
                )
            }
            table => format!("{table}\n{} = 1979-05-27\n", setting.key),
        };
        let error = error(&text);
        let unknown = format!("unknown field `{}`", setting.key);
        assert!(!error.contains(&unknown), "{}.{}: {error}", setting.table, setting.key);
    }
}

#[test]
fn the_page_in_docs_is_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIG.md");
    if std::env::var_os("PORTOLAN_UPDATE_DOCS").is_some() {
        std::fs::write(&path, reference::page()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == reference::page(),
        "docs/CONFIG.md is old: run `cargo run -- reference > docs/CONFIG.md`"
    );
}

#[test]
fn a_udp_listener_has_a_port_beside_tcp_and_one_address() {
    let file = |bind: &str, more: &str| {
        format!(
            "[[listeners]]\nname = \"u\"\nbind = \"{bind}\"\nprotocol = \"udp\"\n{more}\n\
             [[listeners]]\nname = \"t\"\nbind = \"127.0.0.1:53\"\nprotocol = \"tcp\"\n\
             [[routes]]\nlistener = \"u\"\nservice = \"a\"\n"
        )
    };
    let config = parse(&format!("[node]\nname = \"n1\"\n{}", file("127.0.0.1:53", ""))).unwrap();
    assert_eq!((&config.routes[0].rule, config.listeners[0].protocol), (&Rule::Udp, Protocol::Udp));
    for (text, place, part) in [
        (file("0.0.0.0:53", ""), "p.toml:5:", "could leave by another address"),
        (file("[::]:53", ""), "p.toml:5:", "name the address that clients ask"),
        (
            file("127.0.0.1:53", "trusted = [\"::1/128\"]\nproxy_protocol = \"optional\""),
            "p.toml:8:",
            "takes no PROXY headers",
        ),
        (
            file("127.0.0.1:53", "") + "host = \"a.test\"",
            "p.toml:",
            "TCP or UDP listener has no host",
        ),
        (
            file("127.0.0.1:53", "") + "[dns]\nbind = [\"127.0.0.1:53\"]",
            "p.toml:",
            "both bind 127.0.0.1:53",
        ),
    ] {
        let error = error(&text);
        assert!(error.contains(place) && error.contains(part), "{text}\n{error}");
    }
}

#[test]
fn a_listener_that_passes_tls_on_has_routes_by_host() {
    let file = |more: &str| {
        format!(
            "[[listeners]]\nname = \"t\"\nbind = \"127.0.0.1:5433\"\n\
             protocol = \"tls\"\n[[services]]\nname = \"db\"\nprotocol = \"tcp\"\n\
             [[routes]]\nlistener = \"t\"\nservice = \"db\"\n{more}"
        )
    };
    let more = "host = \"*.db.test\"\n[[routes]]\nlistener = \"t\"\nservice = \"db\"";
    let config = parse(&format!("[node]\nname = \"n1\"\n{}", file(more))).unwrap();
    let rule = |host: &str| Rule::Tls(TlsRule { host: host.parse().unwrap() });
    assert_eq!(config.routes[0].rule, rule("*.db.test"));
    assert_eq!(config.routes[1].rule, rule("*"), "the one for what has no other");
    assert!(config.routes.iter().all(|route| route.name.as_str().starts_with("t-tls-")));
    for (more, part) in [
        ("path = \"/x\"", "has no path"),
        ("methods = [\"GET\"]", "has no path, methods"),
        ("mirror = { service = \"db\" }", "mirrors nothing"),
        ("retry = {}", "has no status"),
        ("compress = true", "compresses nothing"),
        ("rewrite = { host = \"a.test\" }", "rewrites nothing"),
        ("[[routes]]\nlistener = \"t\"\nservice = \"db\"", "takes the same requests"),
        ("[[services]]\nname = \"s\"\nprotocol = \"tls\"", "unknown variant `tls`"),
    ] {
        let error = error(&file(more));
        assert!(error.contains(part), "{more}\n{error}");
    }
}

#[test]
fn a_route_may_bring_its_clients_to_https() {
    let https = |more: &str| {
        let text = format!("[node]\nname = \"n1\"\n[[routes]]\nservice = \"a\"\n{more}");
        parse(&text).map(|config| config.routes[0].https.clone())
    };
    let rule = https("redirect_https = 8443\nhsts = { max_age = \"1h\", preload = true }").unwrap();
    let hsts = Hsts { max_age_s: 3600, subdomains: false, preload: true };
    let redirect = NonZeroU16::new(8443);
    assert_eq!(rule.as_deref(), Some(&HttpsRule { redirect, hsts: Some(hsts) }));
    assert_eq!(https("").unwrap(), None);
    for (more, part) in [
        ("redirect_https = 0", "p.toml:5:18: invalid value: integer `0`"),
        ("hsts = { subdomains = true }", "p.toml:5:8: missing field `max_age`"),
    ] {
        let error = https(more).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let tcp = "[[listeners]]\nname = \"t\"\nbind = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n\
        [[routes]]\nlistener = \"t\"\nservice = \"a\"\nredirect_https = 443";
    assert!(error(tcp).contains("brings nobody to https"));
}

#[test]
fn ports_that_routes_can_be_given_are_listeners_and_nobody_elses() {
    let file = |ports: &str, more: &str| {
        format!(
            "[[services]]\nname = \"db\"\nprotocol = \"tcp\"\n[router]\ntcp_ports = \"{ports}\"\n{more}"
        )
    };
    let route = |more: &str| format!("[[routes]]\nservice = \"db\"\n{more}\n");
    let more = route("port = 30001") + "[[listeners]]\nname = \"w\"\nbind = \"127.0.0.1:80\"";
    let text = file("127.0.0.1:30000-30002", &more);
    let config = parse(&format!("[node]\nname = \"n1\"\n{text}")).unwrap();
    let binds: Vec<_> = config.listeners.iter().map(|l| (l.name.as_str(), l.bind.port())).collect();
    assert_eq!(
        binds,
        [("w", 80), ("port-30000", 30000), ("port-30001", 30001), ("port-30002", 30002)]
    );
    assert_eq!(config.routes[0].listener, Some(port_listener(30001)));
    assert_eq!((&config.routes[0].rule, config.port_listeners().len()), (&Rule::Tcp, 3));
    let twice = route("port = 30001") + &route("name = \"again\"\nport = 30001");
    let both = "[[listeners]]\nname = \"w\"\nbind = \"127.0.0.1:1\"\n".to_owned()
        + &route("port = 30001\nlistener = \"w\"");
    let taken = |bind: &str, name: &str| {
        format!("[[listeners]]\nname = \"{name}\"\nbind = \"{bind}\"\nprotocol = \"tcp\"")
    };
    let job = "[[apps]]\nname = \"a\"\n[apps.processes.p]\ncommand = [\"x\"]\nport = 30002";
    for (ports, more, part) in [
        ("0.0.0.0:30000-31000", "", "1001 ports, more than 1000"),
        ("0.0.0.0:29999-30001", "", "jobs are given the ports 20000-29999"),
        ("0.0.0.0:30000-30002", job, "process p has the port 30002"),
        ("0.0.0.0:30000-30002", &twice, "takes the same requests"),
        ("0.0.0.0:30000-30002", &both, "names a port and a listener"),
        ("0.0.0.0:30000-30002", &route("port = 30003"), "port 30003 is not one of 30000-30002"),
        ("0.0.0.0:30000-30002", &route("port = 30000\nhost = \"a\""), "has no host"),
        ("0.0.0.0:30000-30002", &taken("127.0.0.1:30001", "t"), "both bind 0.0.0.0:30001"),
        ("0.0.0.0:30000-30002", &taken("127.0.0.1:1", "port-30002"), "has the name of one of"),
        ("0.0.0.0:30000-30002", "[admin]\nbind = \"127.0.0.1:30000\"", "admin.bind both bind"),
        ("30000-30002", "", "expected an address and ports"),
    ] {
        let error = error(&file(ports, more));
        assert!(error.contains(part), "{ports} {more}\n{error}");
    }
    assert!(error(&route("port = 30001")).contains("set router.tcp_ports"));
}

#[test]
fn virtual_addresses_are_of_a_range_that_nothing_else_of_the_file_uses() {
    let service = |more: &str| format!("[[services]]\nname = \"db\"\nprotocol = \"tcp\"\n{more}\n");
    let file = |range: &str, more: &str| {
        format!(
            "[router]\nvirtual_addresses = \"{range}\"\n{more}\n{}",
            service("virtual_port = 5432")
        )
    };
    let read = |text: &str| parse(&format!("[node]\nname = \"n1\"\n{text}")).unwrap();
    // A listener for all addresses shares its port with them.
    let all = "[[listeners]]\nname = \"all\"\nbind = \"0.0.0.0:5432\"\nprotocol = \"tcp\"";
    for range in ["127.64.0.0/16", "fd00:7::/64", "10.9.8.0/30"] {
        let config = read(&file(range, all));
        assert_eq!(config.virtual_addresses.unwrap().to_string(), range);
        assert_eq!(config.services[0].service.virtual_port, NonZeroU16::new(5432));
    }
    assert_eq!(read(&service("")).virtual_addresses, None);
    let place = error(&file("127.64.0.0/31", ""));
    assert!(place.starts_with("/etc/portolan/p.toml:4:21: router.virtual_addresses: "), "{place}");
    assert!(place.ends_with("such as \"127.64.0.0/16\" or \"fd00:7::/64\""), "{place}");
    let bind = |what: &str| format!("{what}bind = \"127.64.0.9:1\"");
    let named = |name: &str| format!("[[listeners]]\nname = \"{name}\"\n");
    for (range, more, part) in [
        ("127.64.0.0/31", String::new(), "has too few addresses: expected a prefix of /8 to /30"),
        ("127.64.0.0", String::new(), "is no range of addresses"),
        ("127.64.0.9/16", String::new(), "expected 127.64.0.0/16"),
        ("239.0.0.0/16", String::new(), "multicast"),
        ("127.0.0.0/8", String::new(), "has 127.0.0.1, which node.address uses"),
        ("127.64.0.0/16", bind("[admin]\n"), "has 127.64.0.9, which admin.bind uses"),
        ("127.64.0.0/16", bind(&named("w")), "which listener \"w\" uses"),
        ("127.64.0.0/16", "[dns]\nbind = [\"127.64.0.9:53\"]".into(), "which dns.bind uses"),
        (
            "127.64.0.0/16",
            "[dns]\nbind = [\"127.0.0.1:53\"]\nproxy_addresses = [\"127.64.0.9\"]".into(),
            "which dns.proxy_addresses uses",
        ),
        (
            "127.64.0.0/16",
            "[[services]]\nname = \"a\"\ninstances = [{ addr = \"127.64.0.9:1\" }]".into(),
            "service \"a\" has an instance at 127.64.0.9:1",
        ),
        (
            "127.64.0.0/16",
            named("virtual") + "bind = \"127.0.0.1:1\"",
            "has the name of all virtual ones",
        ),
    ] {
        let error = error(&file(range, &more));
        assert!(error.contains(part), "{range} {more}\n{error}");
    }
    let alone = error(&service("virtual_port = 5432"));
    assert!(alone.contains("set router.virtual_addresses"), "{alone}");
    let http = "[[services]]\nname = \"web\"\nvirtual_port = 80";
    let error = error(&format!("[router]\nvirtual_addresses = \"127.64.0.0/16\"\n{http}"));
    assert!(error.contains("does not speak tcp"), "{error}");
}
