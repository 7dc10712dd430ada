//! Back ends that do it wrong (rules 6, 14 to 16, 56, 58): each is answered with 502 or 504, or
//! its body is cut. The next request, of the same client if its connection stays and of another
//! one, gets its own answer from the same instance.

use std::sync::Arc;
use std::time::Duration;

use portolan_router::{Config, Timeouts};
use tokio::sync::Notify;

use super::instance::{Instance, ok};
use super::peer::{Peer, within};
use super::rig::{Rig, web};
use super::stage::lines;

/// What a back end does once it has said its piece.
#[derive(Debug, Clone, Copy)]
enum Then {
    Close,
    Reset,
    Silence,
    /// Says the piece again until nobody listens.
    Again,
    /// Says the last byte again, one at a time.
    Trickle,
}
use Then::{Again, Close, Reset, Silence, Trickle};

/// What the client sees.
#[derive(Debug, Clone, Copy)]
enum Sees {
    /// An answer of the router, on a connection that stays.
    Error(u16, &'static str),
    /// A response of which the end is missing, on a connection that ends.
    Cut(&'static str),
    /// The response, up to where it ended.
    Body(&'static str),
}
use Sees::{Body, Cut, Error};

/// Does it wrong for paths with `bad`, otherwise says the path.
async fn backend(piece: Vec<u8>, then: Then) -> Instance {
    Instance::raw(move |mut peer, _| {
        let piece = piece.clone();
        async move {
            while let Some(request) = peer.request().await {
                let path = request.start().split(' ').nth(1).unwrap().to_owned();
                if !path.contains("bad") {
                    peer.send(ok(path)).await;
                    continue;
                }
                if !peer.try_send(&piece).await {
                    return;
                }
                match then {
                    Close => return,
                    Reset => return peer.reset(),
                    // What is good is asked for on another connection.
                    Silence => return peer.gone().await,
                    Again => while peer.try_send(&piece).await {},
                    Trickle => {
                        let last = *piece.last().unwrap();
                        while peer.try_send([last]).await {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
                return;
            }
        }
    })
    .await
}

fn quick(config: &mut Config) {
    // Long enough for an honest answer on a busy machine.
    let wait = Duration::from_millis(700);
    config.timeouts = Timeouts { first_byte: wait, response_idle: wait, ..Timeouts::DEFAULT };
}

/// The next response that is not interim.
async fn answer(client: &mut Peer) -> super::peer::Message {
    loop {
        let response = client.response_head().await;
        if response.status() >= 200 {
            return client.body_of(response).await;
        }
    }
}

/// One case, on a fresh connection to the instance and on a kept one.
async fn check(what: &str, piece: Vec<u8>, then: Then, sees: Sees) {
    for kept in [false, true] {
        let what = format!("{what}, {then:?}, kept: {kept}");
        let instance = backend(piece.clone(), then).await;
        let rig = Rig::with(&web(&[instance.addr]), quick);
        let mut client = rig.client().await;
        if kept {
            assert_eq!(client.get("/first").await.text(), "/first", "{what}");
        }
        client.send(lines("GET /bad HTTP/1.1|Host: web.test||")).await;
        match sees {
            Error(status, reason) => {
                let response = answer(&mut client).await;
                assert_eq!(response.status(), status, "{what}: {}", response.text());
                assert_eq!(response.text().lines().next(), Some(reason), "{what}");
                assert_eq!(client.get("/same").await.text(), "/same", "{what}");
            }
            Cut(reason) => {
                let (bytes, _) = client.rest_or_reset().await;
                let text = String::from_utf8_lossy(&bytes).into_owned();
                assert!(text.starts_with("HTTP/1.1 200 "), "{what}: {text}");
                assert!(!text.ends_with("\r\n0\r\n\r\n"), "{what}: {text}");
                rig.ends(reason).await;
            }
            Body(body) => {
                assert_eq!(answer(&mut client).await.text(), body, "{what}");
                assert_eq!(client.get("/same").await.text(), "/same", "{what}");
            }
        }
        for path in ["/other/1", "/other/2"] {
            let response = rig.client().await.get(path).await;
            assert_eq!((response.status(), response.text()), (200, path), "{what}");
        }
        within(&what, rig.settled("web")).await;
    }
}

async fn check_all(cases: &[(&str, &str, Then, Sees)]) {
    for (what, piece, then, sees) in cases {
        check(what, lines(piece), *then, *sees).await;
    }
}

#[tokio::test]
async fn an_instance_that_does_not_answer() {
    check_all(&[
        ("nothing", "", Close, Error(502, "upstream_closed")),
        ("nothing", "", Reset, Error(502, "upstream_reset")),
        ("nothing", "", Silence, Error(504, "upstream_timeout")),
        ("half a head", "HTTP/1.1 200 OK|Content-Le", Close, Error(502, "upstream_closed")),
        ("half a head", "HTTP/1.1 200 OK|Content-Le", Reset, Error(502, "upstream_reset")),
        ("half a head", "HTTP/1.1 200 OK|Content-Le", Silence, Error(504, "upstream_timeout")),
        ("a head that never ends", "HTTP/1.1 200 OK|X: y", Trickle, Error(504, "upstream_timeout")),
        ("only an interim response", "HTTP/1.1 103 x||", Close, Error(502, "upstream_closed")),
        ("only an interim response", "HTTP/1.1 103 x||", Silence, Error(504, "upstream_timeout")),
        ("a storm of them", "HTTP/1.1 103 x||", Again, Error(502, "upstream_too_many_interim")),
        (
            "a storm of another kind",
            "HTTP/1.1 100 Continue|X: y||",
            Again,
            Error(502, "upstream_too_many_interim"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_instance_whose_answer_is_none() {
    check_all(&[
        ("another protocol", "SSH-2.0-OpenSSH_9.2|", Silence, Error(502, "upstream_bad_response")),
        ("HTTP/0.9", "<html>hello</html>|", Close, Error(502, "upstream_bad_response")),
        ("HTTP/2", "\0\0\x12\x04\0\0\0\0\0\0\0", Silence, Error(502, "upstream_bad_response")),
        ("a TLS alert", "\x15\x03\x03\0\x02\x02\x28", Close, Error(502, "upstream_bad_response")),
        ("a later version", "HTTP/2.0 200 OK||", Close, Error(502, "upstream_bad_response")),
        ("a status of two digits", "HTTP/1.1 20 OK||", Close, Error(502, "upstream_bad_response")),
        (
            "a status of four digits",
            "HTTP/1.1 2000 OK||",
            Close,
            Error(502, "upstream_bad_response"),
        ),
        ("a status below 100", "HTTP/1.1 099 OK||", Close, Error(502, "upstream_bad_response")),
        (
            "an empty line before",
            "|HTTP/1.1 200 OK|Content-Length: 2||ok",
            Silence,
            Error(502, "upstream_bad_response"),
        ),
        ("a request", "GET / HTTP/1.1|Host: a||", Silence, Error(502, "upstream_bad_response")),
        ("no field", "HTTP/1.1 200 OK|nonsense||", Silence, Error(502, "upstream_bad_response")),
        (
            "a switch",
            "HTTP/1.1 101 x|Upgrade: websocket|Connection: upgrade||",
            Silence,
            Error(502, "upstream_bad_upgrade"),
        ),
        (
            "no length",
            "HTTP/1.1 200 OK|Content-Length: ten||",
            Silence,
            Error(502, "upstream_bad_length"),
        ),
        (
            "no chunk, at once",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||xyz|",
            Silence,
            Error(502, "upstream_bad_chunk"),
        ),
    ])
    .await;
    let garbage: Vec<u8> = (0..5_000_u32).map(|n| (n * 7 + n / 256) as u8).collect();
    check("garbage", garbage, Silence, Error(502, "upstream_bad_response")).await;
}

#[tokio::test]
async fn an_instance_whose_head_is_too_large() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(300_000)).into_bytes();
    check("a long field", long, Silence, Error(502, "upstream_head_too_large")).await;
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1_000)).into_bytes();
    check("many fields", many, Silence, Error(502, "upstream_head_too_large")).await;
    let endless = b"X-Endless: yes\r\n".repeat(100);
    let endless = [b"HTTP/1.1 200 OK\r\n".to_vec(), endless].concat();
    check("fields without end", endless, Again, Error(502, "upstream_bad_response")).await;
}

#[tokio::test]
async fn an_instance_whose_body_is_not_as_announced() {
    check_all(&[
        (
            "a long length",
            "HTTP/1.1 200 OK|Content-Length: 10||half",
            Close,
            Cut("upstream_body_cut"),
        ),
        (
            "a long length",
            "HTTP/1.1 200 OK|Content-Length: 10||half",
            Reset,
            Cut("upstream_body_cut"),
        ),
        (
            "a long length",
            "HTTP/1.1 200 OK|Content-Length: 10||half",
            Silence,
            Cut("upstream_body_timeout"),
        ),
        (
            "chunks without end",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||4|half|",
            Close,
            Cut("upstream_body_cut"),
        ),
        (
            "chunks without end",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||4|half|",
            Silence,
            Cut("upstream_body_timeout"),
        ),
        (
            "half a trailer section",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||0|X: y|",
            Close,
            Cut("upstream_body_cut"),
        ),
        (
            "a short length",
            "HTTP/1.1 200 OK|Content-Length: 2||okay, and more",
            Silence,
            Body("ok"),
        ),
        (
            "two answers",
            "HTTP/1.1 200 OK|Content-Length: 2||okHTTP/1.1 200 OK|Content-Length: 6||poison",
            Silence,
            Body("ok"),
        ),
        ("an answer without end", "HTTP/1.1 200 OK|Content-Length: 2||ok", Again, Body("ok")),
        (
            "bytes behind the last chunk",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0||poison",
            Silence,
            Body("ok"),
        ),
        ("a close behind it", "HTTP/1.1 200 OK|Content-Length: 2||ok", Close, Body("ok")),
        (
            "a reset behind it",
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0||",
            Reset,
            Body("ok"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_goes_wrong_on_its_way_is_cut() {
    let read = Arc::new(Notify::new());
    let go_on = Arc::clone(&read);
    let instance = Instance::raw(move |mut peer, _| {
        let go_on = Arc::clone(&go_on);
        async move {
            peer.request().await.unwrap();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
            go_on.notified().await;
            peer.send("nonsense\r\n").await;
            peer.gone().await;
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send(lines("GET / HTTP/1.1|Host: web.test||")).await;
    assert_eq!(client.response_head().await.status(), 200);
    assert_eq!(client.read(10).await, b"5\r\nhello\r\n");
    // The client has that much: now it is too late for another answer.
    read.notify_one();
    assert_eq!(client.rest_or_reset().await.0, b"");
    rig.ends("upstream_bad_chunk").await;
    rig.settled("web").await;
}

#[tokio::test]
async fn an_instance_that_speaks_unasked_is_not_listened_to() {
    // A kept connection on which something comes is of no more use, whatever it is: servers say
    // 408 there before they close.
    for method in ["GET", "POST"] {
        let (said, mut saying) = tokio::sync::mpsc::unbounded_channel();
        let instance = Instance::raw(move |mut peer, number| {
            let said = said.clone();
            async move {
                peer.request().await.unwrap();
                peer.send(ok(number.to_string())).await;
                // The answer has to be taken for whole before.
                tokio::time::sleep(Duration::from_millis(50)).await;
                peer.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 6\r\n\r\npoison").await;
                said.send(()).unwrap();
                peer.gone().await;
            }
        })
        .await;
        let rig = Rig::web(&[instance.addr]);
        let mut client = rig.client().await;
        for number in 0..5 {
            let request = format!("{method} / HTTP/1.1|Host: web.test|Content-Length: 0||");
            let response = client.ask(lines(&request)).await;
            assert_eq!((response.status(), response.text()), (200, &*number.to_string()));
            within("the poison", saying.recv()).await.unwrap();
        }
        assert_eq!(rig.metric("portolan_router_retries_total", &[]), 0.0);
    }
}

#[tokio::test]
async fn an_instance_that_does_not_read_is_given_up() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.head().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let rig = Rig::with(&web(&[instance.addr]), quick);
    let mut client = rig.client().await;
    client.send(lines("POST / HTTP/1.1|Host: web.test|Content-Length: 50000000||")).await;
    let piece = vec![b'x'; 1_000_000];
    for _ in 0..50 {
        if !client.try_send(&piece).await {
            break;
        }
    }
    let response = client.response().await;
    assert_eq!(response.status(), 504);
    assert!(response.text().starts_with("upstream_timeout\n"), "{}", response.text());
    rig.settled("web").await;
}
