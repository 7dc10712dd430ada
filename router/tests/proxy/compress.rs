//! Responses that are compressed on their way, as clients see them: the head, the pieces, the end.

use std::io::{Read, Write};
use std::sync::Arc;

use flate2::{Decompress, FlushDecompress, Status};
use portolan_discovery::model::route::{Coding, CompressRule, Levels};
use portolan_router::Config;
use tokio::sync::Notify;

use super::instance::Instance;
use super::peer::{Message, Peer};
use super::rig::{Rig, route, routed, until, web};

const PAGE: &str = "Content-Type: text/html\r\n";

/// Text that is shorter when it is compressed.
fn text(bytes: usize) -> String {
    (0..)
        .flat_map(|n: u64| format!("line {n} of {}\n", n * n % 977).into_bytes())
        .take(bytes)
        .map(char::from)
        .collect()
}

fn answer(start: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {start}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn compressing(instance: &Instance) -> Rig {
    compressing_with(instance, CompressRule::usual(), |_| {})
}

fn compressing_with(
    instance: &Instance,
    rule: CompressRule,
    configure: impl FnOnce(&mut Config),
) -> Rig {
    let mut records = web(&[instance.addr]);
    let mut record = route("/", "web");
    record.compress = Some(Box::new(rule));
    records.push(routed(&record));
    Rig::with(&records, configure)
}

fn get(accept: &str, fields: &str) -> String {
    let accept =
        if accept.is_empty() { String::new() } else { format!("Accept-Encoding: {accept}\r\n") };
    format!("GET / HTTP/1.1\r\nHost: web.test\r\n{accept}{fields}\r\n")
}

fn decoded(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => {
            let end = flate2::write::GzDecoder::new(&mut out).write_all(body);
            end.unwrap();
        }
        "br" => {
            brotli::Decompressor::new(body, 4096).read_to_end(&mut out).unwrap();
        }
        "zstd" => {
            out.reserve(16 << 20);
            zstd_safe::decompress(&mut out, body).unwrap();
        }
        other => panic!("{other} is no coding"),
    }
    out
}

/// The content of a response by its own account.
fn content(response: &Message) -> Vec<u8> {
    match response.field("content-encoding") {
        Some(coding) => decoded(&coding, &response.body),
        None => response.body.clone(),
    }
}

fn has(response: &Message, fields: &[(&str, Option<&str>)]) {
    for (name, value) in fields {
        assert_eq!(response.field(name).as_deref(), *value, "{name} in {:?}", response.lines);
    }
}

#[tokio::test]
async fn the_coding_is_the_clients_choice_and_the_content_the_same() {
    let page = text(100_000);
    let body = page.clone();
    let instance = Instance::http(move |_| answer("200 OK", PAGE, &body)).await;
    let rig = compressing(&instance);
    let mut client = rig.client().await;
    for (accept, coding) in [
        ("gzip", Some("gzip")),
        ("gzip, br", Some("br")),
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("br;q=0.5, gzip", Some("gzip")),
        ("gzip;q=0, identity", None),
        ("", None),
    ] {
        let response = client.ask(get(accept, "")).await;
        has(&response, &[("content-encoding", coding), ("vary", Some("Accept-Encoding"))]);
        assert_eq!(response.field("content-length").is_some(), coding.is_none());
        assert_eq!(response.chunked, coding.is_some());
        assert!(coding.is_none() || response.body.len() < page.len() / 2, "{accept}");
        assert_eq!(content(&response), page.as_bytes(), "{accept}");
    }
    assert_eq!((instance.connections(), instance.requests()), (1, 6));
    let count =
        |coding: &str| rig.metric("portolan_router_compressed_total", &[("coding", coding)]);
    assert_eq!(["zstd", "br", "gzip"].map(count), [1.0, 1.0, 2.0]);
    let bytes =
        |side: &str| rig.metric("portolan_router_compressed_bytes_total", &[("side", side)]);
    assert_eq!(bytes("in"), 400_000.0);
    assert!((1.0..200_000.0).contains(&bytes("out")));
}

#[tokio::test]
async fn the_head_says_nothing_that_is_true_of_other_bytes_only() {
    let fields = "Content-Type: text/html\r\nETag: \"v1\"\r\nAccept-Ranges: bytes\r\n\
        Content-MD5: x\r\nDigest: sha-256=x\r\nContent-Digest: sha-256=:x:\r\n\
        Repr-Digest: sha-256=:x:\r\nVary: Cookie\r\nX-Kept: 1\r\n";
    let instance = Instance::http(move |_| answer("200 OK", fields, &text(5000))).await;
    let rig = compressing(&instance);
    let mut client = rig.client().await;
    let response = client.ask(get("gzip", "")).await;
    has(
        &response,
        &[
            ("etag", Some("W/\"v1\"")),
            ("accept-ranges", None),
            ("content-md5", None),
            ("digest", None),
            ("content-digest", None),
            ("repr-digest", None),
            ("content-length", None),
            ("vary", Some("Cookie, Accept-Encoding")),
            ("x-kept", Some("1")),
        ],
    );
    let plain = client.ask(get("", "")).await;
    has(
        &plain,
        &[
            ("etag", Some("\"v1\"")),
            ("accept-ranges", Some("bytes")),
            ("content-digest", Some("sha-256=:x:")),
            ("content-length", Some("5000")),
            ("vary", Some("Cookie, Accept-Encoding")),
        ],
    );
}

#[tokio::test]
async fn what_may_not_be_changed_is_sent_as_it_came() {
    let instance = Instance::http(|request| {
        let path = request.start().split(' ').nth(1).unwrap();
        let page = text(5000);
        match path {
            "/coded" => {
                answer("200 OK", "Content-Type: text/html\r\nContent-Encoding: br\r\n", &page)
            }
            "/kept" => answer(
                "200 OK",
                "Content-Type: text/html\r\nCache-Control: no-transform\r\n",
                &page,
            ),
            "/part" => answer(
                "206 Partial Content",
                "Content-Type: text/html\r\nContent-Range: bytes 0-4999/9000\r\n",
                &page,
            ),
            "/image" => answer("200 OK", "Content-Type: image/png\r\n", &page),
            "/events" => answer("200 OK", "Content-Type: text/event-stream\r\n", &page),
            _ => answer("200 OK", "Content-Type: text/html\r\n", "short"),
        }
    })
    .await;
    let rig = compressing(&instance);
    let mut client = rig.client().await;
    for path in ["/coded", "/kept", "/part", "/image", "/events", "/short"] {
        let request = get("gzip", "").replacen(" / ", &format!(" {path} "), 1);
        let response = client.ask(request).await;
        let length = if path == "/short" { "5" } else { "5000" };
        has(&response, &[("content-length", Some(length))]);
        let vary = (path == "/short").then_some("Accept-Encoding");
        has(&response, &[("vary", vary)]);
        assert_eq!(response.field("content-encoding").is_some(), path == "/coded");
    }
    let must = client.ask(get("gzip, identity;q=0", "")).await;
    has(&must, &[("content-encoding", Some("gzip"))]);
    assert_eq!(content(&must), b"short");
}

#[tokio::test]
async fn a_request_for_a_part_gets_bytes_as_they_are() {
    let instance = Instance::http(|_| answer("200 OK", PAGE, &text(5000))).await;
    let rig = compressing(&instance);
    let response = rig.client().await.ask(get("gzip", "Range: bytes=0-4999\r\n")).await;
    has(&response, &[("content-encoding", None), ("vary", Some("Accept-Encoding"))]);
    assert_eq!(response.body.len(), 5000);
}

#[tokio::test]
async fn the_answer_to_head_is_that_to_get_without_its_body() {
    let instance = Instance::http(|request| match request.start().starts_with("HEAD") {
        true => format!("HTTP/1.1 200 OK\r\n{PAGE}ETag: \"a\"\r\nContent-Length: 5000\r\n\r\n")
            .into_bytes(),
        false => answer("200 OK", &format!("{PAGE}ETag: \"a\"\r\n"), &text(5000)),
    })
    .await;
    let rig = compressing(&instance);
    let mut client = rig.client().await;
    client.send(get("gzip", "").replacen("GET", "HEAD", 1)).await;
    let head = client.response_head().await;
    let full = client.ask(get("gzip", "")).await;
    for response in [&head, &full] {
        has(
            response,
            &[
                ("content-encoding", Some("gzip")),
                ("content-length", None),
                ("etag", Some("W/\"a\"")),
                ("vary", Some("Accept-Encoding")),
            ],
        );
    }
    assert_eq!(content(&full), text(5000).as_bytes());
}

#[tokio::test]
async fn a_client_can_ask_again_with_the_tag_that_it_was_given() {
    let instance = Instance::http(|request| match request.field("if-none-match") {
        Some(tags) if tags.contains("\"v1\"") => {
            b"HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n".to_vec()
        }
        _ => answer("200 OK", &format!("{PAGE}ETag: \"v1\"\r\n"), &text(5000)),
    })
    .await;
    let rig = compressing(&instance);
    let mut client = rig.client().await;
    let tag = client.ask(get("gzip", "")).await.field("etag").unwrap();
    let again = client.ask(get("gzip", &format!("If-None-Match: {tag}\r\n"))).await;
    assert_eq!(again.status(), 304);
    has(&again, &[("etag", Some("W/\"v1\"")), ("vary", Some("Accept-Encoding"))]);
    let plain = client.ask(get("", "If-None-Match: \"v1\"\r\n")).await;
    has(&plain, &[("etag", Some("\"v1\""))]);
}

#[tokio::test]
async fn an_old_client_gets_it_until_the_connection_closes() {
    let instance = Instance::http(|_| answer("200 OK", PAGE, &text(50_000))).await;
    let rig = compressing(&instance);
    let mut client = rig.client().await;
    let request =
        "GET / HTTP/1.0\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n\r\n";
    let response = client.ask(request).await;
    has(&response, &[("content-encoding", Some("gzip")), ("connection", Some("close"))]);
    has(&response, &[("transfer-encoding", None), ("content-length", None)]);
    assert_eq!(content(&response), text(50_000).as_bytes());
}

/// The page of 30,000 bytes in each coding, on one connection.
async fn in_each_coding(rig: &Rig) -> Vec<Message> {
    let mut client = rig.client().await;
    let mut responses = Vec::new();
    for coding in ["gzip", "br", "zstd"] {
        let response = client.ask(get(coding, "")).await;
        has(&response, &[("content-encoding", Some(coding))]);
        assert_eq!(content(&response), text(30_000).as_bytes(), "{coding}");
        responses.push(response);
    }
    responses
}

#[tokio::test]
async fn chunked_bodies_are_compressed_and_trailers_kept() {
    let instance = Instance::http(|_| {
        let page = text(30_000);
        let (first, second) = page.split_at(9_999);
        let (one, two) = (first.len(), second.len());
        format!(
            "HTTP/1.1 200 OK\r\n{PAGE}Transfer-Encoding: chunked\r\n\r\n\
             {one:x};a=b\r\n{first}\r\n{two:x}\r\n{second}\r\n\
             0\r\nServer-Timing: a;dur=1\r\nContent-Digest: sha-256=:x:\r\nETag: \"x\"\r\n\r\n",
        )
        .into_bytes()
    })
    .await;
    let rig = compressing(&instance);
    for response in in_each_coding(&rig).await {
        assert_eq!(response.trailers, ["Server-Timing: a;dur=1"]);
    }
    assert_eq!(instance.connections(), 1, "read to its end, its connection is used again");
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_compressed() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await.unwrap();
        peer.send(format!("HTTP/1.1 200 OK\r\n{PAGE}\r\n{}", text(30_000))).await;
    })
    .await;
    let rig = compressing(&instance);
    in_each_coding(&rig).await;
}

/// An instance that sends `pieces` as chunks, each when the client has got the one before.
async fn by_pieces(kind: &'static str, pieces: usize, next: Arc<Notify>) -> Instance {
    Instance::raw(move |mut peer, _| {
        let next = Arc::clone(&next);
        async move {
            peer.request().await.unwrap();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            peer.send(head).await;
            for piece in 0..pieces {
                let data = format!("data: {piece}\n\n");
                peer.send(format!("{:x}\r\n{data}\r\n", data.len())).await;
                next.notified().await;
            }
            peer.send("0\r\n\r\n").await;
            peer.request().await;
        }
    })
    .await
}

/// The next chunk; none at the end.
async fn chunk(client: &mut Peer) -> Option<Vec<u8>> {
    let mut size = String::new();
    while !size.ends_with("\r\n") {
        size.push(char::from(client.read(1).await[0]));
    }
    let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
    let data = client.read(size).await;
    assert_eq!(client.read(2).await, b"\r\n");
    (size > 0).then_some(data)
}

#[tokio::test]
async fn each_piece_can_be_decoded_before_the_next_one_is_sent() {
    let next = Arc::new(Notify::new());
    let instance = by_pieces("text/plain", 20, Arc::clone(&next)).await;
    let rig = compressing(&instance);
    let mut client = rig.client().await;
    client.send(get("gzip", "")).await;
    has(&client.response_head().await, &[("content-encoding", Some("gzip"))]);
    let mut decoder = Decompress::new_gzip(15);
    let mut seen = Vec::with_capacity(4096);
    for piece in 0..20 {
        let wanted: String = (0..=piece).map(|n| format!("data: {n}\n\n")).collect();
        while seen.len() < wanted.len() {
            let data = chunk(&mut client).await.expect("more of the stream");
            decoder.decompress_vec(&data, &mut seen, FlushDecompress::Sync).unwrap();
        }
        assert_eq!(seen, wanted.as_bytes());
        next.notify_one();
    }
    let mut status = Status::Ok;
    while let Some(data) = chunk(&mut client).await {
        status = decoder.decompress_vec(&data, &mut seen, FlushDecompress::Finish).unwrap();
    }
    assert_eq!(status, Status::StreamEnd);
}

#[tokio::test]
async fn events_are_compressed_by_their_own_name_only_and_never_held_back() {
    for (types, coding) in [(None, None), (Some("text/event-stream"), Some("zstd"))] {
        let types = types.map(|name| vec![name.parse().unwrap()]);
        let rule = CompressRule::new(None, None, types, Levels::default()).unwrap();
        let next = Arc::new(Notify::new());
        let instance = by_pieces("text/event-stream", 3, Arc::clone(&next)).await;
        let rig = compressing_with(&instance, rule, |_| {});
        let mut client = rig.client().await;
        client.send(get("zstd", "")).await;
        has(&client.response_head().await, &[("content-encoding", coding)]);
        for _ in 0..3 {
            chunk(&mut client).await.expect("an event");
            next.notify_one();
        }
        while chunk(&mut client).await.is_some() {}
    }
}

#[tokio::test]
async fn a_body_that_is_cut_is_cut_for_the_client_too() {
    for version in ["1.1", "1.0"] {
        let instance = Instance::raw(|mut peer, _| async move {
            peer.request().await.unwrap();
            let half = text(40_000);
            peer.send(format!("HTTP/1.1 200 OK\r\n{PAGE}Content-Length: 80000\r\n\r\n{half}"))
                .await;
        })
        .await;
        let rig = compressing(&instance);
        let mut client = rig.client().await;
        client
            .send(format!("GET / HTTP/{version}\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"))
            .await;
        let (bytes, in_peace) = client.rest_or_reset().await;
        assert!(!bytes.ends_with(b"0\r\n\r\n"), "no clean end");
        assert_eq!(in_peace, version == "1.1", "an old client needs a reset to see that");
        rig.ends("upstream_body_cut").await;
    }
}

#[tokio::test]
async fn without_room_answers_are_sent_as_they_are() {
    let instance = Instance::http(|_| answer("200 OK", PAGE, &text(5000))).await;
    let rig = compressing_with(&instance, CompressRule::usual(), |config| {
        config.limits.buffer_bytes_max = 1 << 20;
    });
    let response = rig.client().await.ask(get("gzip", "")).await;
    has(&response, &[("content-encoding", None), ("vary", Some("Accept-Encoding"))]);
    assert_eq!(content(&response), text(5000).as_bytes());
    assert_eq!(rig.metric("portolan_router_not_compressed_total", &[]), 1.0);
}

#[tokio::test]
async fn what_encoders_hold_is_given_back() {
    let instance = Instance::http(|_| answer("200 OK", PAGE, &text(500_000))).await;
    let rig = compressing(&instance);
    for accept in ["gzip", "br", "zstd"] {
        let mut client = rig.client().await;
        client.send(get(accept, "")).await;
        client.response_head().await;
        drop(client);
    }
    rig.settled("web").await;
    until("no buffer held", || rig.metric("portolan_router_buffer_bytes", &[]) == 0.0).await;
}

#[tokio::test]
async fn small_requests_are_served_beside_a_large_body_that_is_compressed() {
    let instance = Instance::http(|request| match request.start().contains("/large") {
        true => answer("200 OK", PAGE, &text(16 << 20)),
        false => answer("200 OK", "Content-Type: image/png\r\n", "small"),
    })
    .await;
    let rule = CompressRule::new(
        Some(vec![Coding::Gzip]),
        None,
        None,
        Levels { gzip: Some(9), ..Levels::default() },
    );
    let rig = compressing_with(&instance, rule.unwrap(), |_| {});
    let mut large = rig.client().await;
    large.send(get("gzip", "").replacen(" / ", " /large ", 1)).await;
    let large_is_read = tokio::spawn(async move { large.response().await });
    let mut small = rig.client().await;
    let mut served = 0;
    while !large_is_read.is_finished() {
        assert_eq!(small.ask(get("gzip", "")).await.text(), "small");
        served += 1;
    }
    let response = large_is_read.await.unwrap();
    assert_eq!(decoded("gzip", &response.body).len(), 16 << 20);
    assert!(served >= 20, "{served} in the time of 16 MiB: each turn is short");
}
