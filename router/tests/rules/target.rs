//! What is asked for (rules 19 to 25): RFC 9110 §7.2, RFC 9112 §3, RFC 3986 §6.

use portolan_discovery::model::Rule;
use portolan_router::Config;

use super::rig::{Rig, instance, route, routed};
use super::stage::{Recorder, Stage, keep, lines};

#[tokio::test]
async fn a_request_without_one_valid_host_is_refused() {
    let stage = Stage::new().await;
    stage
        .refuses_all(&[
            (19, "no host", "GET / HTTP/1.1|X: y||", 400, "missing_host"),
            (19, "no host, absolute form", "GET http://web.test/ HTTP/1.1||", 400, "missing_host"),
            (
                19,
                "two hosts",
                "GET / HTTP/1.1|Host: web.test|Host: web.test||",
                400,
                "repeated_host",
            ),
            (19, "an empty host", "GET / HTTP/1.1|Host:||", 400, "bad_host"),
            (19, "a list", "GET / HTTP/1.1|Host: web.test, b.test||", 400, "bad_host"),
            (19, "a path", "GET / HTTP/1.1|Host: web.test/x||", 400, "bad_host"),
            (19, "a user", "GET / HTTP/1.1|Host: a@web.test||", 400, "bad_host"),
            (19, "a space", "GET / HTTP/1.1|Host: web.test b||", 400, "bad_host"),
            (19, "no number as port", "GET / HTTP/1.1|Host: web.test:x||", 400, "bad_host"),
            (
                19,
                "a port that is too large",
                "GET / HTTP/1.1|Host: web.test:65536||",
                400,
                "bad_host",
            ),
            (19, "an old client's bad host", "GET / HTTP/1.0|Host: a b||", 400, "bad_host"),
            (
                19,
                "a host that loses, and is invalid",
                "GET http://web.test/ HTTP/1.1|Host: a/b||",
                400,
                "bad_host",
            ),
            (
                20,
                "an absolute form without host",
                "GET http:/// HTTP/1.1|Host: web.test||",
                400,
                "bad_host",
            ),
            (
                20,
                "a user in the authority",
                "GET http://a@web.test/ HTTP/1.1|Host: web.test||",
                400,
                "bad_host",
            ),
            (
                23,
                "a name that is not in A-labels",
                "GET / HTTP/1.1|Host: b\u{fc}cher.test||",
                400,
                "bad_host",
            ),
            (23, "two dots at the end", "GET / HTTP/1.1|Host: web.test..||", 400, "bad_host"),
            (23, "an address without brackets", "GET / HTTP/1.1|Host: ::1||", 400, "bad_host"),
            (23, "a zone in an address", "GET / HTTP/1.1|Host: [fe80::1%eth0]||", 400, "bad_host"),
            (23, "an encoded host", "GET / HTTP/1.1|Host: web%2etest||", 400, "bad_host"),
        ])
        .await;
}

#[tokio::test]
async fn a_target_of_no_form_is_refused() {
    let stage = Stage::new().await;
    stage
        .refuses_all(&[
            (
                20,
                "another scheme",
                "GET ftp://web.test/ HTTP/1.1|Host: web.test||",
                400,
                "bad_target",
            ),
            (21, "a fragment", "GET /#x HTTP/1.1|Host: web.test||", 400, "fragment_in_target"),
            (21, "an asterisk for GET", "GET * HTTP/1.1|Host: web.test||", 400, "bad_target"),
            (
                21,
                "an authority for GET",
                "GET web.test:80 HTTP/1.1|Host: web.test||",
                400,
                "bad_target",
            ),
            (21, "no slash", "GET x HTTP/1.1|Host: web.test||", 400, "bad_target"),
            (21, "a path for CONNECT", "CONNECT / HTTP/1.1|Host: web.test||", 400, "bad_target"),
            (
                25,
                "an encoded zero",
                "GET /a%00b HTTP/1.1|Host: web.test||",
                400,
                "bad_path_encoding",
            ),
            (
                25,
                "a broken encoding",
                "GET /%4 HTTP/1.1|Host: web.test||",
                400,
                "bad_path_encoding",
            ),
            (
                25,
                "an encoding without digits",
                "GET /%zz HTTP/1.1|Host: web.test||",
                400,
                "bad_path_encoding",
            ),
        ])
        .await;
}

#[tokio::test]
async fn an_absolute_target_decides_the_host() {
    // Rule 20; the peer's X-Forwarded-Host is the authority too.
    let stage = Stage::new().await;
    stage
        .passes_all(&[
            (20, "another Host", "GET http://web.test/a?b HTTP/1.1|Host: b.test|X: y||", "GET /a?b HTTP/1.1|Host: web.test|X: y|ASKED||"),
            (20, "no path", "GET http://web.test HTTP/1.1|Host: b.test||", "GET / HTTP/1.1|Host: web.test|ASKED||"),
            (20, "only a query", "GET HTTP://web.test?a HTTP/1.1|Host: b.test||", "GET /?a HTTP/1.1|Host: web.test|ASKED||"),
            (20, "an old client", "GET http://web.test/ HTTP/1.0||", "GET / HTTP/1.1|Host: web.test|Via: 1.0 ME|X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: web.test|X-Forwarded-Proto: http|X-Forwarded-Port: PORT|X-Request-Id: ID||"),
            (21, "the server itself", "OPTIONS * HTTP/1.1|Host: web.test||", "OPTIONS * HTTP/1.1|Host: web.test|ASKED||"),
            (21, "the server itself, absolute", "OPTIONS http://web.test HTTP/1.1|Host: b.test||", "OPTIONS * HTTP/1.1|Host: web.test|ASKED||"),
            (25, "what is matched is not what is sent", "GET /%61/../b/%2f?x=%zz HTTP/1.1|Host: web.test||", "GET /%61/../b/%2f?x=%zz HTTP/1.1|Host: web.test|ASKED||"),
        ])
        .await;
}

/// A router with a route for `host` and `path` alone.
async fn only(host: &str, path: &str) -> (Rig, Recorder) {
    let backend = Recorder::new(|_| keep("HTTP/1.1 200 OK|Content-Length: 2||ok")).await;
    let mut only = route(path, "web");
    let Rule::Http(rule) = &mut only.rule else { unreachable!("it is a route of HTTP") };
    rule.host = host.parse().unwrap();
    let records = [instance("web", "a", backend.instance.addr), routed(&only)];
    (Rig::with(&records, |_: &mut Config| {}), backend)
}

#[tokio::test]
async fn a_host_is_compared_without_case_port_and_final_dot() {
    // Rule 23.
    for (pattern, hosts) in [
        (
            "web.test",
            &["web.test", "WEB.Test", "web.test:80", "web.test.", "web.test.:8080", "web.test:"][..],
        ),
        ("xn--bcher-kva.test", &["XN--bcher-kva.test", "xn--bcher-kva.test."]),
        ("[::1]", &["[::1]", "[0:0::1]:80"]),
    ] {
        let Ok(_) = pattern.parse::<portolan_discovery::model::HostPattern>() else {
            // Routes for addresses need no pattern: they match any host.
            continue;
        };
        let (rig, backend) = only(pattern, "/").await;
        let mut client = rig.client().await;
        for host in hosts {
            let request = format!("GET / HTTP/1.1|Host: {host}||");
            assert_eq!(client.ask(lines(&request)).await.status(), 200, "{host}");
            let seen = String::from_utf8(backend.take()).unwrap();
            assert!(seen.contains(&format!("\r\nHost: {host}\r\n")), "as it was sent: {seen}");
        }
        for host in ["b.test", "xweb.test", "web.testx", "a.web.test", "[::2]"] {
            let request = format!("GET / HTTP/1.1|Host: {host}||");
            assert_eq!(client.ask(lines(&request)).await.status(), 404, "{host}");
        }
        assert_eq!(backend.take(), b"");
    }
}

#[tokio::test]
async fn a_path_is_matched_as_what_it_means() {
    // Rule 25: two spellings of one path take one route, and an encoded slash is none.
    let (rig, backend) = only("*", "/private").await;
    let mut client = rig.client().await;
    for (path, status) in [
        ("/private", 200),
        ("/private/a", 200),
        ("/%70rivate", 200),
        ("/a/../private", 200),
        ("/./private/.", 200),
        ("/%2e%2e/private", 200),
        ("/private?a=/../..", 200),
        ("/privatex", 404),
        ("/private/..", 404),
        ("/private%2Fa", 404),
        ("/a%2F..%2Fprivate", 404),
        ("/private%5C..", 404),
        ("/Private", 404),
        ("//private", 404),
    ] {
        assert_eq!(client.get(path).await.status(), status, "{path}");
        let seen = String::from_utf8(backend.take()).unwrap();
        assert_eq!(seen.starts_with(&format!("GET {path} HTTP/1.1\r\n")), status == 200, "{path}");
    }
}
