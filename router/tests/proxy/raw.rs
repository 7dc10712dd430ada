//! Requests that are none: the right status, a closed connection, and nothing at the instance.

use super::instance::Instance;
use super::rig::Rig;

async fn check(cases: &[(&str, Vec<u8>, u16)]) {
    let instance = Instance::echo().await;
    let rig = Rig::web(&[instance.addr]);
    for (what, bytes, status) in cases {
        let mut client = rig.client().await;
        client.try_send(bytes).await;
        let response = client.response().await;
        assert_eq!(response.status(), *status, "{what}: {}", response.text());
        assert_eq!(response.field("connection").as_deref(), Some("close"), "{what}");
        let reason = response.text().lines().next().unwrap().to_owned();
        assert_eq!(client.rest().await, b"", "{what}");
        assert!(rig.ended(&reason) > 0.0, "{what} is counted as {reason}");
    }
    assert_eq!(instance.requests(), 0, "nothing of it reaches an instance");
    assert_eq!(rig.client().await.get("/").await.status(), 200, "others are served");
}

fn get(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes()
}

fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: web.test\r\n{lines}\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_request_whose_target_is_unclear_is_refused() {
    check(&[
        ("no host", get(""), 400),
        ("two hosts", get("Host: a.test\r\nHost: b.test\r\n"), 400),
        ("an invalid host", get("Host: a/b\r\n"), 400),
        ("a fragment", b"GET /#x HTTP/1.1\r\nHost: web.test\r\n\r\n".to_vec(), 400),
        ("a path without slash", b"GET x HTTP/1.1\r\nHost: web.test\r\n\r\n".to_vec(), 400),
        ("an encoded zero", b"GET /%00 HTTP/1.1\r\nHost: web.test\r\n\r\n".to_vec(), 400),
        ("CONNECT", b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n".to_vec(), 501),
        ("HTTP/3.0", b"GET / HTTP/3.0\r\nHost: web.test\r\n\r\n".to_vec(), 505),
    ])
    .await;
}

#[tokio::test]
async fn a_request_whose_end_is_unclear_is_refused() {
    check(&[
        (
            "length and chunks",
            post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            400,
        ),
        ("two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), 400),
        ("a signed length", post("Content-Length: +3\r\n", "abc"), 400),
        ("an odd coding", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 400),
        ("an unknown coding", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501),
        ("chunks inside", post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), 400),
        (
            "chunks of an old client",
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            400,
        ),
        ("an unknown expectation", post("Expect: luck\r\nContent-Length: 1\r\n", "a"), 417),
    ])
    .await;
}

#[tokio::test]
async fn a_head_that_is_malformed_is_refused() {
    check(&[
        ("a space before the colon", get("Host : web.test\r\n"), 400),
        ("a bare LF", b"GET / HTTP/1.1\nHost: web.test\n\n".to_vec(), 400),
        ("a folded line", get("Host: web.test\r\nX-A: b\r\n c\r\n"), 400),
        ("a space before the first field", get(" Host: web.test\r\n"), 400),
        ("a control byte", get("Host: web.test\r\nX-A: \x01\r\n"), 400),
        ("binary junk", (0..200).map(|n| (n * 37 % 256) as u8).collect(), 400),
        ("a TLS client", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        ("nothing but words", b"hello there\r\n\r\n".to_vec(), 400),
    ])
    .await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_before_it_is_complete() {
    let long = |count: usize| "x".repeat(count);
    check(&[
        ("a long target", format!("GET /{}", long(40_000)).into_bytes(), 414),
        ("a long field", get(&format!("Host: web.test\r\nX-Long: {}", long(40_000))), 431),
        ("many fields", get(&format!("Host: web.test\r\n{}", "A: b\r\n".repeat(300))), 431),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_is_malformed_is_refused() {
    let instance = Instance::raw(|mut peer, _| async move { peer.gone().await }).await;
    let rig = Rig::web(&[instance.addr]);
    for (body, reason) in [
        ("xyz\r\n", "bad_chunk"),
        ("3\r\nabcX", "bad_chunk"),
        ("3\nabc\r\n", "bad_chunk"),
        ("fffffffffffffffff\r\n", "bad_chunk"),
        ("0\r\nbad trailer\r\n\r\n", "bad_trailer"),
    ] {
        let mut client = rig.client().await;
        let response = client.ask(post("Transfer-Encoding: chunked\r\n", body)).await;
        assert_eq!(response.status(), 400, "{body:?}");
        assert_eq!(response.text().lines().next(), Some(reason), "{body:?}");
        assert_eq!(client.rest().await, b"", "{body:?}");
    }
    rig.settled("web").await;
}
