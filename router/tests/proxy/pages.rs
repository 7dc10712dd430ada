//! What clients see when the router answers itself.

use std::sync::Arc;

use portolan_discovery::model::PageSetName;
use portolan_router::{Config, ErrorPage, ErrorPages, PAGE_BYTES_MAX, PageKind, PageSet};

use super::instance::{Instance, nobody};
use super::peer::Message;
use super::rig::{Rig, instance, route, routed, service, until, web};

const JSON: &str = "Accept: application/json\r\n";

fn set(pages: &[(&str, PageKind, &str)]) -> PageSet {
    let mut set = PageSet::default();
    for (is_for, kind, text) in pages {
        set.insert(is_for.parse().unwrap(), ErrorPage::parse(*kind, text).unwrap());
    }
    set
}

fn with(pages: ErrorPages) -> impl FnOnce(&mut Config) {
    |config| config.error_pages = Arc::new(pages)
}

fn ask(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: web.test\r\n{fields}\r\n")
}

fn kind(response: &Message) -> String {
    response.field("content-type").unwrap()
}

/// A shop with pages of its own and without instances, and an instance that refuses.
async fn shop(pages: ErrorPages) -> Rig {
    let mut shop = route("/shop", "shop");
    shop.error_pages = Some(PageSetName::parse("shop").unwrap());
    let mut odd = route("/odd", "odd");
    odd.error_pages = Some(PageSetName::parse("unknown").unwrap());
    let dead = nobody().await;
    let records = [
        service("shop", true),
        routed(&shop),
        service("odd", true),
        routed(&odd),
        instance("dead", "a", dead),
        routed(&route("/dead", "dead")),
    ];
    Rig::with(&records, with(pages))
}

#[tokio::test]
async fn a_page_is_shown_by_status_class_and_route() {
    let mut pages = ErrorPages {
        default: set(&[
            ("404", PageKind::Html, "<p>{{status}} {{phrase}} {{reason}} {{request_id}}"),
            ("5xx", PageKind::Text, "oops {{status}}"),
        ]),
        ..ErrorPages::default()
    };
    let own = set(&[("503", PageKind::Html, "<p>the shop is closed")]);
    pages.named.insert(PageSetName::parse("shop").unwrap(), own);
    let rig = shop(pages).await;
    let mut client = rig.client().await;
    let id = "X-Request-Id: 0123456789/abcdefghij\r\n";
    let lost = client.ask(ask("GET", "/", id)).await;
    let shown = "<p>404 Not Found no_route 0123456789&#47;abcdefghij";
    assert_eq!((lost.status(), lost.text()), (404, shown));
    assert_eq!(kind(&lost), "text/html; charset=utf-8");
    assert!(lost.field("proxy-status").unwrap().contains("details=\"PR no_route\""));
    assert_eq!(lost.field("x-request-id").as_deref(), Some("0123456789/abcdefghij"));

    let closed = client.ask(ask("GET", "/shop", JSON)).await;
    assert_eq!((closed.status(), closed.text()), (503, "<p>the shop is closed"));
    assert!(closed.field("retry-after").is_some());
    let odd = client.get("/odd").await;
    assert_eq!(
        (odd.status(), odd.text(), &*kind(&odd)),
        (503, "oops 503", "text/plain; charset=utf-8")
    );
    let dead = client.get("/dead").await;
    assert_eq!((dead.status(), dead.text()), (502, "oops 502"), "an instance failed");
    let bad = client.ask("GET / HTTP/1.1\r\nHost: a b\r\n\r\n").await;
    assert!(bad.text().starts_with("bad_host\n"), "{} has no page", bad.status());
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn the_answer_to_head_has_the_length_of_the_page_and_no_page() {
    let pages = ErrorPages {
        default: set(&[("404", PageKind::Html, "<p>{{status}}")]),
        ..ErrorPages::default()
    };
    let rig = shop(pages).await;
    let mut client = rig.client().await;
    client.send(ask("HEAD", "/", "")).await;
    assert_eq!(client.response_head().await.field("content-length").as_deref(), Some("6"));
    assert_eq!(client.get("/").await.text(), "<p>404", "nothing came in between");
}

#[tokio::test]
async fn whoever_prefers_json_gets_it_from_wherever_the_error_comes() {
    let pages = ErrorPages {
        default: set(&[("404", PageKind::Html, "<p>lost")]),
        json: true,
        ..ErrorPages::default()
    };
    let rig = shop(pages).await;
    let mut client = rig.client().await;
    for (path, status, reason) in [
        ("/", 404, "no_route"),
        ("/shop", 503, "no_instance"),
        ("/dead", 502, "upstream_connect_refused"),
    ] {
        let response = client.ask(ask("GET", path, JSON)).await;
        let id = response.field("x-request-id").unwrap();
        let expected =
            format!("{{\"status\":{status},\"reason\":\"{reason}\",\"request_id\":\"{id}\"}}\n");
        assert_eq!((response.status(), response.text()), (status, &*expected));
        assert_eq!(kind(&response), "application/json");
    }
    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    assert_eq!(client.ask(ask("GET", "/", browser)).await.text(), "<p>lost");
    let plain = client.ask(ask("GET", "/dead", browser)).await;
    assert!(plain.text().starts_with("upstream_connect_refused\n"), "{}", plain.text());
}

#[tokio::test]
async fn a_large_page_is_sent_whole_and_its_memory_is_let_go() {
    let text = "x".repeat(PAGE_BYTES_MAX);
    let pages =
        ErrorPages { default: set(&[("4xx", PageKind::Text, &text)]), ..ErrorPages::default() };
    let rig = shop(pages).await;
    let mut client = rig.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), text);
    }
    let lent = || rig.metric("portolan_router_buffer_bytes", &[]);
    until("all memory given back", || lent() == 0.0).await;
}

#[tokio::test]
async fn without_room_the_text_is_short() {
    let instance = Instance::named("a").await;
    let pages =
        ErrorPages { default: set(&[("503", PageKind::Text, "busy")]), ..ErrorPages::default() };
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        with(pages)(config);
        config.limits.buffer_bytes_max = 1;
    });
    let response = rig.client().await.get("/").await;
    assert_eq!(response.status(), 503);
    assert!(response.text().starts_with("overloaded\n"), "{}", response.text());
}
