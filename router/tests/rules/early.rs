//! Interim responses, and answers that come before the request is over (rules 36 to 40):
//! RFC 9110 §10.1.1, §15.2; RFC 9112 §9.

use super::instance::{Instance, ok};
use super::rig::Rig;
use super::stage::{ASKED, Stage, close, keep, lines};

const EXPECTING: &str = "PUT / HTTP/1.1|Host: web.test|Content-Length: 5|Expect: 100-continue||";

#[tokio::test]
async fn an_expectation_goes_on_and_any_other_is_refused() {
    // Rule 36.
    let stage = Stage::new().await;
    stage
        .refuses_all(&[
            (
                36,
                "another",
                "PUT / HTTP/1.1|Host: web.test|Content-Length: 5|Expect: luck||hello",
                417,
                "unknown_expectation",
            ),
            (
                36,
                "one more",
                "PUT / HTTP/1.1|Host: web.test|Content-Length: 5|Expect: 100-continue, x||hello",
                417,
                "unknown_expectation",
            ),
        ])
        .await;
    stage
        .passes_all(&[
            (36, "a body that does not wait", "PUT / HTTP/1.1|Host: web.test|Expect: 100-Continue|Content-Length: 5||hello", "PUT / HTTP/1.1|Host: web.test|Expect: 100-Continue|Content-Length: 5|ASKED||hello"),
            (36, "an old client cannot mean it", "PUT / HTTP/1.0|Host: web.test|Expect: 100-continue|Content-Length: 5||hello", "PUT / HTTP/1.1|Host: web.test|Content-Length: 5|Via: 1.0 ME|X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: web.test|X-Forwarded-Proto: http|X-Forwarded-Port: PORT|X-Request-Id: ID||hello"),
        ])
        .await;
}

#[tokio::test]
async fn a_final_answer_needs_no_permission_before_it() {
    // Rule 36: the body was never asked for; what the client would send next is unknown.
    let instance = Instance::raw(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send(ok("no need")).await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    let response = client.ask(lines(EXPECTING)).await;
    assert_eq!((response.status(), response.text()), (200, "no need"));
    assert_eq!(response.field("connection").as_deref(), Some("close"));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn interim_responses_pass_in_order_to_a_client_that_knows_them() {
    // Rules 36 and 37: several early hints, then the answer; an old client gets only that.
    let answer = "HTTP/1.1 103 Early Hints|Link: </a>|Connection: x||HTTP/1.1 102 Processing||\
                  HTTP/1.1 103 Early Hints|Link: </b>||HTTP/1.1 200 OK|Content-Length: 2||ok";
    let stage = Stage::answering(move |_| keep(answer)).await;
    let last = format!("HTTP/1.1 200 OK|Content-Length: 2|{}||ok", super::stage::ANSWERED);
    assert_eq!(
        stage.received("GET / HTTP/1.1|Host: web.test|Connection: close||").await,
        format!(
            "HTTP/1.1 103 Early Hints|Link: </a>||HTTP/1.1 102 Processing||\
             HTTP/1.1 103 Early Hints|Link: </b>||{last}"
        )
    );
    assert_eq!(stage.received("GET / HTTP/1.0|Host: web.test||").await, last);
    assert_eq!(stage.backend.instance.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_comes_early_is_delivered_and_ends_both_connections() {
    // Rule 38: the rest of the body is not waited for, and what follows it is no request.
    let instance = Instance::raw(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        peer.gone().await;
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = rig.client().await;
    client.send(lines("POST / HTTP/1.1|Host: web.test|Content-Length: 1000||abc")).await;
    let response = client.response().await;
    assert_eq!((response.status(), response.text()), (403, "no"));
    assert_eq!(response.field("connection").as_deref(), Some("close"));
    client.try_send(lines("GET /smuggled HTTP/1.1|Host: web.test||")).await;
    assert_eq!(client.rest().await, b"");
    rig.settled("web").await;
    assert_eq!(rig.client().await.get("/").await.status(), 403, "on a connection of its own");
    assert_eq!(instance.connections(), 2);
}

#[tokio::test]
async fn an_early_answer_survives_the_reset_behind_it() {
    // Rule 39: the back end closes with the body unread, so its kernel sends a reset.
    for chunked in [false, true] {
        let instance = Instance::raw(|mut peer, _| async move {
            peer.head().await.unwrap();
            peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
            peer.reset();
        })
        .await;
        let rig = Rig::web(&[instance.addr]);
        let mut client = rig.client().await;
        let framing =
            if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 30000000" };
        client.send(lines(&format!("POST / HTTP/1.1|Host: web.test|{framing}||"))).await;
        let mut piece = vec![b'x'; 1_000_000];
        if chunked {
            piece.splice(..0, *b"f4240\r\n");
            piece.extend(b"\r\n");
        }
        for _ in 0..30 {
            if !client.try_send(&piece).await {
                break;
            }
        }
        let response = client.response().await;
        assert_eq!((response.status(), response.text()), (413, "big"));
        assert_eq!(response.field("connection").as_deref(), Some("close"));
    }
}

#[tokio::test]
async fn a_body_that_is_not_at_hand_any_more_is_not_sent_again() {
    // Rule 40: a kept connection dies under an idempotent request of which a part has gone.
    let stage = Stage::answering(|request| match request {
        request if request.starts_with("GET") => keep("HTTP/1.1 200 OK|Content-Length: 2||ok"),
        _ => close(""),
    })
    .await;
    let mut client = stage.rig.client().await;
    assert_eq!(client.get("/").await.text(), "ok");
    let body = "x".repeat(100_000);
    let put = format!("PUT / HTTP/1.1|Host: web.test|Content-Length: 100000||{body}");
    let response = client.ask(lines(&put)).await;
    assert_eq!(response.status(), 502, "{}", response.text());
    stage.rig.settled("web").await;
    assert_eq!(stage.backend.instance.connections(), 1);
    assert_eq!(stage.rig.metric("portolan_router_retries_total", &[]), 0.0);
    let seen = stage.normal(&stage.backend.take());
    assert_eq!(seen.matches("PUT / HTTP/1.1|").count(), 1);
}

#[tokio::test]
async fn a_body_that_is_at_hand_is_sent_again_whole() {
    // Rule 40, the other half: it was little, and all of it is kept until the answer begins.
    let stage = Stage::answering(|request| match request {
        request if request.contains("/again") => close(""),
        _ => keep("HTTP/1.1 200 OK|Content-Length: 2||ok"),
    })
    .await;
    let mut client = stage.rig.client().await;
    assert_eq!(client.get("/").await.text(), "ok");
    stage.backend.take();
    let put = "PUT /again HTTP/1.1|Host: web.test|Transfer-Encoding: chunked||5|hello|0|X: y||";
    assert_eq!(client.ask(lines(put)).await.status(), 502, "the second one died too");
    stage.rig.settled("web").await;
    let once = format!(
        "PUT /again HTTP/1.1|Host: web.test|Transfer-Encoding: chunked|{ASKED}||5|hello|0|X: y||"
    );
    assert_eq!(stage.normal(&stage.backend.take()), once.repeat(2));
    assert_eq!(stage.backend.instance.connections(), 2);
}
