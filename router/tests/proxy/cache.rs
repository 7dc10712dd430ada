//! The response cache from socket to socket: what is served again, what is asked again, and what
//! is never kept.

#[path = "cache/alike.rs"]
mod alike;
#[path = "cache/stale.rs"]
mod stale;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portolan_discovery::model::route::{CompressRule, Levels, Matches};
use portolan_discovery::model::{CacheRule, CacheWish, Event, Hsts, HttpsRule, Route, Sticky};
use portolan_router::{Clear, Config};
use tokio::sync::Notify;

use super::instance::{Instance, nobody};
use super::peer::{Message, Peer};
use super::rig::{Rig, instance as here, route, routed, service_with, until, web, without};

fn wish() -> CacheWish {
    CacheWish::default()
}

fn cached(wish: &CacheWish) -> Route {
    let mut record = route("/", "web");
    record.cache = Some(Box::new(CacheRule::new(wish).unwrap()));
    record
}

fn records(instance: &Instance, wish: &CacheWish) -> Vec<Event> {
    let mut records = web(&[instance.addr]);
    records.push(routed(&cached(wish)));
    records
}

fn rig(instance: &Instance) -> Rig {
    rig_with(instance, &wish())
}

fn rig_with(instance: &Instance, wish: &CacheWish) -> Rig {
    Rig::new(&records(instance, wish))
}

fn answer(start: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {start}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// An instance that answers with a body that tells how many it has answered before.
async fn counting(fields: &'static str) -> Instance {
    let count = AtomicUsize::new(0);
    Instance::http(move |_| {
        answer("200 OK", fields, &format!("answer {}", count.fetch_add(1, Ordering::SeqCst)))
    })
    .await
}

const FRESH: &str = "Cache-Control: max-age=600\r\nETag: \"v1\"\r\nContent-Type: text/plain\r\n";
/// Ten seconds too old.
const STALE: &str = "Cache-Control: max-age=600\r\nAge: 610\r\nETag: \"v1\"\r\n";

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n{fields}\r\n")
}

fn status_of(response: &Message) -> String {
    let said = response.field("cache-status").expect("each answer says it");
    let (name, rest) = said.split_once("; ").unwrap();
    assert!(name.starts_with("portolan-"), "{said}");
    rest.to_owned()
}

fn results(rig: &Rig, result: &str) -> f64 {
    let labels = [("service", "web"), ("result", result)];
    rig.metric("portolan_router_cache_requests_total", &labels)
}

fn not_stored(rig: &Rig, reason: &str) -> f64 {
    rig.metric("portolan_router_cache_not_stored_total", &[("reason", reason)])
}

#[tokio::test]
async fn what_is_fresh_is_served_again_and_says_how_old_it_is() {
    let instance = counting(FRESH).await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    let first = client.get("/a?b").await;
    assert_eq!((first.text(), status_of(&first).as_str()), ("answer 0", "fwd=uri-miss; stored"));
    assert_eq!(first.field("age"), None);
    let again = client.ask(get("/a?b", "X-Request-Id: 12345678901234567890\r\n")).await;
    assert_eq!((again.status(), again.text()), (200, "answer 0"));
    assert!(status_of(&again).starts_with("hit; ttl="), "{again:?}");
    assert!(again.field("age").unwrap().parse::<u32>().unwrap() < 600);
    for name in ["etag", "cache-control", "date", "content-type", "content-length"] {
        assert_eq!(again.field(name), first.field(name), "{name}");
        assert!(again.field(name).is_some(), "{name}");
    }
    assert_eq!(again.field("x-request-id").as_deref(), Some("12345678901234567890"));
    assert!(again.field("via").unwrap().starts_with("1.1 portolan-"));
    // Another query is another resource.
    assert_eq!(client.get("/a?c").await.text(), "answer 1");
    assert_eq!((instance.requests(), instance.connections()), (2, 1));
    assert_eq!((results(&rig, "hit"), results(&rig, "miss")), (1.0, 2.0));
    let stored = rig.metric("portolan_router_cache_stored_total", &[]);
    assert_eq!((stored, rig.metric("portolan_router_cache_entries", &[])), (2.0, 2.0));
    assert!(rig.metric("portolan_router_cache_bytes", &[]) > 500.0);
    // Hits are no work of the service.
    rig.settled("web").await;
    let answered = || rig.metric("portolan_router_requests_total", &[("service", "web")]);
    until("two are counted", || answered() == 2.0).await;
}

#[tokio::test]
async fn a_route_without_a_cache_keeps_nothing() {
    let instance = counting(FRESH).await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.text(), "answer 0");
    let again = client.get("/").await;
    assert_eq!((again.text(), again.field("cache-status")), ("answer 1", None));
}

#[tokio::test]
async fn without_room_for_a_cache_there_is_none() {
    let instance = counting(FRESH).await;
    let rig = Rig::with(&records(&instance, &wish()), |config| config.cache_bytes_max = 0);
    let mut client = rig.client().await;
    for number in 0..2 {
        assert_eq!(client.get("/").await.text(), format!("answer {number}"));
    }
}

#[tokio::test]
async fn answers_that_must_not_be_kept_are_not() {
    for (start, fields, reason) in [
        ("200 OK", "Cache-Control: max-age=60, no-store\r\n", "forbidden"),
        ("200 OK", "Cache-Control: max-age=60, private\r\n", "forbidden"),
        ("200 OK", "Cache-Control: public, max-age=60\r\nSet-Cookie: a=b\r\n", "set_cookie"),
        ("200 OK", "Cache-Control: max-age=60\r\nVary: *\r\n", "vary"),
        ("200 OK", "Cache-Control: max-age=60\r\nVary: X-Forwarded-For\r\n", "vary"),
        ("200 OK", "ETag: \"a\"\r\n", "no_lifetime"),
        ("200 OK", "Cache-Control: max-age=0\r\n", "no_lifetime"),
        ("200 OK", "Expires: 0\r\n", "no_lifetime"),
        ("206 Partial Content", "Cache-Control: max-age=60\r\n", "status"),
        ("500 Oh", "Cache-Control: max-age=60\r\n", "status"),
        ("302 Found", "Location: /x\r\n", "no_lifetime"),
    ] {
        let instance = Instance::http(move |_| answer(start, fields, "x")).await;
        let rig = rig(&instance);
        let mut client = rig.client().await;
        client.get("/").await;
        let again = client.get("/").await;
        assert_eq!((instance.requests(), again.field("age")), (2, None), "{start} {fields}");
        assert!(not_stored(&rig, reason) >= 1.0, "{start} {fields}");
        assert_eq!(rig.metric("portolan_router_cache_entries", &[]), 0.0);
    }
}

#[tokio::test]
async fn requests_that_are_for_one_client_go_to_an_instance_and_leave_nothing() {
    for fields in [
        "Authorization: Basic eDp5\r\n",
        "Range: bytes=0-1\r\n",
        "If-Match: \"v1\"\r\n",
        "Cache-Control: no-store\r\n",
        "Content-Length: 2\r\n",
    ] {
        let instance = counting(FRESH).await;
        let rig = rig(&instance);
        let mut client = rig.client().await;
        let body = if fields.starts_with("Content-Length") { "ab" } else { "" };
        let asked = format!("{}{body}", get("/", fields));
        assert_eq!(client.ask(&asked).await.text(), "answer 0", "{fields}");
        // Nothing was kept of it.
        assert_eq!(client.get("/").await.text(), "answer 1", "{fields}");
        // What others have is not served to it.
        let again = client.ask(&asked).await;
        assert_eq!((again.text(), status_of(&again).as_str()), ("answer 2", "fwd=bypass"));
        assert_eq!(client.get("/").await.text(), "answer 1", "{fields}");
        assert_eq!(results(&rig, "bypass"), 2.0);
    }
}

#[tokio::test]
async fn a_sticky_service_has_no_cache() {
    let instance = counting(FRESH).await;
    let mut records = records(&instance, &wish());
    let sticky = Sticky { cookie: "ID".parse().unwrap(), max_age_s: None };
    records.push(service_with("web", |record| record.sticky = Some(sticky)));
    let rig = Rig::new(&records);
    let first = rig.client().await.get("/").await;
    assert!(first.field("set-cookie").unwrap().starts_with("ID="));
    assert_eq!(status_of(&first), "fwd=bypass");
    let other = rig.client().await.get("/").await;
    assert_eq!(other.text(), "answer 1");
    assert_ne!(other.field("set-cookie"), None);
}

#[tokio::test]
async fn cookies_are_no_reason_to_ask_but_to_guess() {
    let instance = counting(FRESH).await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    client.ask(get("/", "Cookie: a=b\r\n")).await;
    assert_eq!(client.get("/").await.text(), "answer 0");
    let guessing = counting("").await;
    let default_ttl = Some(Duration::from_secs(60));
    let rig = rig_with(&guessing, &CacheWish { default_ttl, ..wish() });
    let mut client = rig.client().await;
    client.ask(get("/", "Cookie: a=b\r\n")).await;
    assert_eq!(
        (client.get("/other").await.text(), not_stored(&rig, "no_lifetime")),
        ("answer 1", 1.0)
    );
    assert_eq!(client.get("/other").await.text(), "answer 1");
}

#[tokio::test]
async fn an_answer_is_kept_for_each_of_what_it_depends_on() {
    let instance = Instance::http(|request| {
        let language = request.field("accept-language").unwrap_or_default();
        answer("200 OK", "Cache-Control: max-age=60\r\nVary: Accept-Language\r\n", &language)
    })
    .await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    for _ in 0..2 {
        for language in ["de", "fr", "pt, en"] {
            let fields = format!("Accept-Language: {language}\r\n");
            assert_eq!(client.ask(get("/", &fields)).await.text(), language);
        }
        assert_eq!(client.get("/").await.text(), "");
    }
    assert_eq!((instance.requests(), results(&rig, "hit")), (4, 4.0));
    // There is a limit to it, and the oldest goes first.
    for number in 0..16 {
        client.ask(get("/", &format!("Accept-Language: l{number}\r\n"))).await;
    }
    assert_eq!(rig.metric("portolan_router_cache_entries", &[]), 16.0);
    client.ask(get("/", "Accept-Language: de\r\n")).await;
    assert_eq!(instance.requests(), 21);
}

#[tokio::test]
async fn the_answer_to_head_is_that_to_get_without_its_body() {
    let instance = Instance::http(|request| match request.start().starts_with("HEAD") {
        true => format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 8\r\n\r\n").into_bytes(),
        false => answer("200 OK", FRESH, "answer 0"),
    })
    .await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    // Nothing is kept of an answer to HEAD.
    for _ in 0..2 {
        client.send(get("/", "").replacen("GET", "HEAD", 1)).await;
        client.response_head().await;
    }
    assert_eq!(instance.requests(), 2);
    client.get("/").await;
    client.send(get("/", "").replacen("GET", "HEAD", 1)).await;
    let head = client.response_head().await;
    assert!(status_of(&head).starts_with("hit"));
    assert_eq!(head.field("content-length").as_deref(), Some("8"));
    assert_eq!((client.get("/").await.text(), instance.requests()), ("answer 0", 3));
}

#[tokio::test]
async fn a_client_that_has_it_already_is_told_so() {
    let fields = "Cache-Control: max-age=60\r\nETag: \"v1\"\r\n\
        Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/html\r\n";
    let instance = Instance::http(move |_| answer("200 OK", fields, "page")).await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    // The first one gets all of it: a 304 would leave nothing to keep.
    assert_eq!(client.ask(get("/", "If-None-Match: \"v1\"\r\n")).await.status(), 200);
    for (fields, status) in [
        ("If-None-Match: \"v1\"\r\n", 304),
        ("If-None-Match: \"x\", W/\"v1\"\r\n", 304),
        ("If-None-Match: *\r\n", 304),
        ("If-None-Match: \"v2\"\r\n", 200),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 304),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n", 200),
        ("If-Modified-Since: yesterday\r\n", 200),
        // The tag decides.
        ("If-None-Match: \"v2\"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 200),
    ] {
        let response = client.ask(get("/", fields)).await;
        assert_eq!(response.status(), status, "{fields}");
        assert_eq!(response.field("etag").as_deref(), Some("\"v1\""));
        assert_eq!(response.field("content-type").is_some(), status == 200);
        assert_eq!(response.field("cache-control").as_deref(), Some("max-age=60"));
    }
    assert_eq!(instance.requests(), 1);
}

#[tokio::test]
async fn what_is_kept_brings_clients_to_https_like_any_answer() {
    let instance = counting(FRESH).await;
    let mut records = web(&[instance.addr]);
    let mut record = cached(&wish());
    let hsts = Hsts { max_age_s: 60, subdomains: false, preload: false };
    record.https = Some(Box::new(HttpsRule { redirect: None, hsts: Some(hsts) }));
    records.push(routed(&record));
    let rig = Rig::with(&records, |config| {
        config.listeners[0].trusted_peers = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let mut client = rig.client().await;
    for (proto, secure) in [("https", true), ("http", false)] {
        for _ in 0..2 {
            let fields = format!("X-Forwarded-Proto: {proto}\r\n");
            let response = client.ask(get("/", &fields)).await;
            assert_eq!(response.field("strict-transport-security").is_some(), secure, "{proto}");
        }
    }
    // How a client came is part of what is asked for.
    assert_eq!((instance.requests(), results(&rig, "hit")), (2, 2.0));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_kept() {
    let count = AtomicUsize::new(0);
    let instance = Instance::raw(move |mut peer, _| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            peer.request().await.unwrap();
            let part = match number {
                0 => format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 8\r\n\r\nhalf"),
                1 => format!(
                    "HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
                ),
                // Nobody can tell whether that is all of it.
                2 => format!("HTTP/1.1 200 OK\r\n{FRESH}\r\nhalf"),
                _ => String::from_utf8(answer("200 OK", FRESH, "complete")).unwrap(),
            };
            peer.send(part).await;
        }
    })
    .await;
    let rig = rig(&instance);
    for _ in 0..3 {
        let mut client = rig.client().await;
        client.send(get("/", "Connection: close\r\n")).await;
        client.rest_or_reset().await;
        rig.settled("web").await;
    }
    assert_eq!((not_stored(&rig, "cut"), not_stored(&rig, "framing")), (2.0, 1.0));
    assert_eq!(rig.metric("portolan_router_cache_entries", &[]), 0.0);
}

#[tokio::test]
async fn a_chunked_body_is_kept_whole_and_told_its_length() {
    let instance = Instance::http(|_| {
        format!(
            "HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
             4;a=b\r\none \r\n3\r\ntwo\r\n0\r\nX-T: 1\r\n\r\n"
        )
        .into_bytes()
    })
    .await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    let first = client.get("/").await;
    assert_eq!((first.text(), first.trailers.len(), first.chunked), ("one two", 1, true));
    let again = client.get("/").await;
    assert_eq!((again.text(), again.chunked, again.field("trailer")), ("one two", false, None));
    assert_eq!(again.field("content-length").as_deref(), Some("7"));
    // An old client that gets chunks taken apart leaves the same behind.
    let old = "GET /old HTTP/1.0\r\nHost: web.test\r\n\r\n";
    for _ in 0..2 {
        let response = rig.client().await.ask(old).await;
        assert_eq!(response.text(), "one two");
    }
    assert_eq!(instance.requests(), 2);
}

#[tokio::test]
async fn answers_without_a_body_are_kept() {
    for (start, fields) in [
        ("204 No Content", "Cache-Control: max-age=60\r\n"),
        ("301 Moved", "Cache-Control: max-age=60\r\nLocation: /x\r\nContent-Length: 0\r\n"),
        ("404 Not Found", "Cache-Control: max-age=60\r\nContent-Length: 0\r\n"),
    ] {
        let instance =
            Instance::http(move |_| format!("HTTP/1.1 {start}\r\n{fields}\r\n").into_bytes()).await;
        let rig = rig(&instance);
        let mut client = rig.client().await;
        client.get("/").await;
        let again = client.get("/").await;
        assert!(again.start().ends_with(start), "{again:?}");
        assert_eq!(again.field("content-length").is_some(), !start.starts_with("204"));
        assert_eq!(instance.requests(), 1, "{start}");
    }
}

#[tokio::test]
async fn what_is_large_is_not_kept_and_there_is_room_for_so_much_only() {
    let instance = Instance::http(|request| match request.start().contains("/chunked") {
        true => {
            let body = "x".repeat(50_000);
            format!("HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\nc350\r\n{body}\r\n0\r\n\r\n")
                .into_bytes()
        }
        false if request.start().contains("/large") => answer("200 OK", FRESH, &"x".repeat(50_000)),
        false => answer("200 OK", FRESH, &"x".repeat(30_000)),
    })
    .await;
    let wish = CacheWish { object_bytes_max: Some(40_000), ..wish() };
    let bytes_max = 1_000_000;
    let rig = Rig::with(&records(&instance, &wish), |config| config.cache_bytes_max = bytes_max);
    let mut client = rig.client().await;
    for path in ["/large", "/chunked"] {
        for _ in 0..2 {
            assert_eq!(client.get(path).await.body.len(), 50_000);
        }
    }
    assert_eq!((not_stored(&rig, "too_large"), instance.requests()), (2.0, 4));
    for number in 0..100 {
        assert_eq!(client.get(&format!("/{number}")).await.body.len(), 30_000);
        assert!(rig.router.cache().bytes() <= bytes_max);
    }
    let entries = rig.metric("portolan_router_cache_entries", &[]);
    assert!((25.0..34.0).contains(&entries), "{entries}");
    assert_eq!(rig.metric("portolan_router_cache_evicted_total", &[]), 100.0 - entries);
    assert_eq!(rig.router.cache().answers() as f64, entries);
}

#[tokio::test]
async fn a_change_makes_what_was_kept_void() {
    let count = AtomicUsize::new(0);
    let instance = Instance::http(move |request| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        match request.start().split(' ').next().unwrap() {
            "GET" => answer("200 OK", FRESH, &format!("answer {number}")),
            "POST" => answer("201 Created", "Location: /other#x\r\n", ""),
            "PATCH" => answer("409 Conflict", "", ""),
            _ => answer("200 OK", "", ""),
        }
    })
    .await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    let change = |method: &str| {
        format!("{method} / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 0\r\n\r\n")
    };
    for path in ["/", "/?q", "/other"] {
        client.get(path).await;
    }
    for method in ["PUT", "DELETE", "POST"] {
        let before = client.get("/").await.body;
        assert_eq!(client.get("/").await.body, before);
        client.ask(change(method)).await;
        assert_ne!(client.get("/").await.body, before, "{method}");
    }
    // What the answer to POST named, and nothing else.
    assert_eq!(client.get("/?q").await.text(), "answer 1");
    assert_ne!(client.get("/other").await.text(), "answer 2");
    // An error has changed nothing, and OPTIONS never does.
    let before = client.get("/").await.body;
    client.ask(change("PATCH")).await;
    client.ask(change("OPTIONS")).await;
    assert_eq!(client.get("/").await.body, before);
    assert!(rig.metric("portolan_router_cache_invalidated_total", &[]) >= 4.0);
}

#[tokio::test]
async fn an_answer_from_before_a_change_is_not_kept() {
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let count = Arc::new(AtomicUsize::new(0));
    let instance = Instance::raw(move |mut peer, _| {
        let (gate, count) = (Arc::clone(&held), Arc::clone(&count));
        async move {
            while let Some(request) = peer.request().await {
                if request.start().starts_with("PUT") {
                    peer.send(answer("200 OK", "", "")).await;
                    continue;
                }
                let number = count.fetch_add(1, Ordering::SeqCst);
                if number == 0 {
                    gate.notified().await;
                }
                peer.send(answer("200 OK", FRESH, &format!("answer {number}"))).await;
            }
        }
    })
    .await;
    let rig = rig(&instance);
    let mut reader = rig.client().await;
    reader.send(get("/", "")).await;
    until("it is asked for", || instance.connections() == 1).await;
    let mut writer = rig.client().await;
    writer.ask("PUT / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 0\r\n\r\n").await;
    gate.notify_one();
    assert_eq!(reader.response().await.text(), "answer 0");
    assert_eq!(not_stored(&rig, "cleared"), 1.0);
    assert_eq!(reader.get("/").await.text(), "answer 1");
    assert_eq!(reader.get("/").await.text(), "answer 1");
}

#[tokio::test]
async fn another_host_port_or_route_is_another_resource() {
    let instance = counting(FRESH).await;
    let mut records = records(&instance, &wish());
    let mut gold = cached(&wish());
    gold.name = "gold".parse().unwrap();
    if let portolan_discovery::model::Rule::Http(rule) = &mut gold.rule {
        let matches = Matches::new([("x-gold".parse().unwrap(), "1".parse().unwrap())]).unwrap();
        rule.predicates =
            portolan_discovery::model::Predicates::new(Vec::new(), matches, Default::default())
                .unwrap();
    }
    records.push(routed(&gold));
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    let of = |host: &str, more: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
    for (number, (host, more)) in
        [("a.test", ""), ("b.test", ""), ("a.test:81", ""), ("a.test", "X-Gold: 1\r\n")]
            .into_iter()
            .enumerate()
    {
        for _ in 0..2 {
            let response = client.ask(of(host, more)).await;
            assert_eq!(response.text(), format!("answer {number}"), "{host} {more}");
        }
    }
    // The same resource by another name.
    assert_eq!(client.ask(of("A.test:80", "")).await.text(), "answer 0");
    // What nobody but a trusted proxy may say changes nothing.
    let told = "X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\n";
    assert_eq!(client.ask(of("a.test", told)).await.text(), "answer 0");
}

#[tokio::test]
async fn a_route_that_has_changed_begins_anew_and_other_changes_keep_what_there_is() {
    let instance = counting(FRESH).await;
    let mut rig = rig(&instance);
    let mut client = rig.client().await;
    client.get("/").await;
    let other = counting(FRESH).await;
    rig.apply_and_wait(&[here("other", "x", other.addr)]).await;
    assert_eq!((client.get("/").await.text(), instance.requests()), ("answer 0", 1));
    let mut changed = cached(&wish());
    changed.body_bytes_max = Some(5);
    rig.apply_and_wait(&[routed(&changed)]).await;
    assert_eq!(client.get("/").await.text(), "answer 1");
    // Back again, it is the route that it was.
    rig.apply_and_wait(&[routed(&cached(&wish()))]).await;
    assert_eq!(client.get("/").await.text(), "answer 0");
}

#[tokio::test]
async fn it_can_be_cleared_by_route_host_and_path() {
    let instance = counting(FRESH).await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    let cache = rig.router.cache();
    let fill = [("a.test", "/"), ("a.test", "/x?1"), ("a.test", "/x?2"), ("b.test", "/x")];
    for (what, cleared) in [
        (Clear::default(), 4),
        (Clear { route: Some("to-web".parse().unwrap()), ..Clear::default() }, 4),
        (Clear { route: Some("other".parse().unwrap()), ..Clear::default() }, 0),
        (Clear { host: Some("a.test".into()), ..Clear::default() }, 3),
        (Clear { path: Some("/x".into()), ..Clear::default() }, 3),
        (Clear { host: Some("A.test".into()), path: Some("/x".into()), ..Clear::default() }, 2),
    ] {
        for (host, path) in fill {
            client.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        }
        assert_eq!(cache.answers(), 4);
        assert_eq!(cache.clear(&what), cleared, "{what:?}");
        assert_eq!(cache.answers(), 4 - cleared);
    }
    cache.clear(&Clear::default());
    assert_eq!(cache.bytes(), 0, "nothing is left of what was there");
}

fn text(lines: usize) -> String {
    (0..lines).map(|n| format!("line {n} of {}\n", n * n % 977)).collect()
}

fn gunzip(body: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(body).read_to_end(&mut out).unwrap();
    out
}

#[tokio::test]
async fn one_kept_answer_is_compressed_for_who_wants_it_so() {
    let page = text(10_000);
    let body = page.clone();
    let instance = Instance::http(move |request| {
        assert_eq!(request.field("accept-encoding"), None, "one answer for all");
        let fields = format!("{FRESH}Vary: Accept-Encoding, X-Other\r\n");
        answer("200 OK", &fields, &body)
    })
    .await;
    let mut records = web(&[instance.addr]);
    let mut record = cached(&wish());
    record.compress =
        Some(Box::new(CompressRule::new(None, None, None, Levels::default()).unwrap()));
    records.push(routed(&record));
    let rig = Rig::new(&records);
    let mut client = rig.client().await;
    for round in 0..2 {
        let packed = client.ask(get("/", "Accept-Encoding: gzip\r\n")).await;
        assert_eq!(packed.field("content-encoding").as_deref(), Some("gzip"), "{round}");
        assert_eq!(packed.field("etag").as_deref(), Some("W/\"v1\""));
        assert!(packed.chunked && gunzip(&packed.body) == page.as_bytes());
        let plain = client.get("/").await;
        assert_eq!((plain.field("content-encoding"), plain.text()), (None, page.as_str()));
        assert_eq!(plain.field("vary").as_deref(), Some("Accept-Encoding, X-Other"));
    }
    let weak = client.ask(get("/", "Accept-Encoding: gzip\r\nIf-None-Match: W/\"v1\"\r\n")).await;
    assert_eq!((weak.status(), weak.field("etag").as_deref()), (304, Some("W/\"v1\"")));
    // Until the connection closes, for who knows no chunks.
    let old = "GET / HTTP/1.0\r\nHost: web.test\r\nAccept-Encoding: gzip\r\n\r\n";
    let old = rig.client().await.ask(old).await;
    assert!(!old.chunked && gunzip(&old.body) == page.as_bytes());
    assert_eq!((instance.requests(), results(&rig, "hit")), (1, 5.0));
    assert_eq!(rig.metric("portolan_router_compressed_total", &[("coding", "gzip")]), 3.0);
}

#[tokio::test]
async fn requests_one_behind_the_other_are_answered_in_order() {
    let instance = counting(FRESH).await;
    let rig = rig(&instance);
    let mut client = rig.client().await;
    client.get("/a").await;
    client.send([get("/a", ""), get("/b", ""), get("/a", "")].concat()).await;
    for body in ["answer 0", "answer 1", "answer 0"] {
        assert_eq!(client.response().await.text(), body);
    }
    client.send(get("/a", "Connection: close\r\n")).await;
    let last = client.response().await;
    assert_eq!((last.text(), last.field("connection").as_deref()), ("answer 0", Some("close")));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_large_answer_comes_whole_to_a_slow_reader() {
    let body: Arc<String> = Arc::new((0..500_000).map(|n| format!("{n:07}\n")).collect());
    let sent = Arc::clone(&body);
    let instance = Instance::http(move |_| answer("200 OK", FRESH, &sent)).await;
    let rig = rig_with(&instance, &CacheWish { object_bytes_max: Some(8 << 20), ..wish() });
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.body.len(), body.len());
    let mut slow = rig.client().await;
    slow.send(get("/", "")).await;
    let head = slow.response_head().await;
    assert!(status_of(&head).starts_with("hit"));
    // Others are served while it takes its time.
    for _ in 0..3 {
        assert_eq!(client.get("/").await.body.len(), body.len());
    }
    assert_eq!(slow.body_of(head).await.text(), *body);
}

#[tokio::test]
async fn all_workers_have_one_cache() {
    let instance = counting(FRESH).await;
    let workers = |config: &mut Config| config.workers = 4;
    let rig = Rig::with(&records(&instance, &wish()), workers);
    rig.client().await.get("/").await;
    for _ in 0..40 {
        let mut client: Peer = rig.client().await;
        assert_eq!(client.get("/").await.text(), "answer 0");
    }
    assert_eq!(instance.requests(), 1);
}
