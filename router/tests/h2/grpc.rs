//! Calls of gRPC as they look on the wire: all four kinds, statuses, deadlines, cancellation.

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};

use super::caller::{Caller, push, whole, with};
use super::peer::within;
use super::rig::{Rig, until};
use super::server::{Call, Server, status, web_h2};

/// A message with its prefix.
fn message(text: &str) -> Bytes {
    let len = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0], &len[..], text.as_bytes()].concat().into()
}

fn call(method: &str) -> Request<()> {
    let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "5S")];
    with("POST", &format!("/test.Service/{method}"), &fields)
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

/// A server with a method of each kind.
async fn serve(mut call: Call) {
    assert_eq!(call.head.headers()["te"], "trailers");
    assert_eq!(call.head.headers()["grpc-timeout"], "5S");
    match call.head.uri().path().rsplit('/').next().unwrap() {
        "Unary" => {
            let (asked, _) = whole(call.body).await.unwrap();
            let mut send = call.respond.send_response(head(), false).unwrap();
            push(&mut send, asked.into(), false).await;
            send.send_trailers(status("0")).unwrap();
        }
        "ServerStream" => {
            let mut send = call.respond.send_response(head(), false).unwrap();
            for number in 0..100 {
                push(&mut send, message(&number.to_string()), false).await;
            }
            send.send_trailers(status("0")).unwrap();
        }
        "ClientStream" => {
            let (asked, _) = whole(call.body).await.unwrap();
            let mut send = call.respond.send_response(head(), false).unwrap();
            push(&mut send, message(&asked.len().to_string()), false).await;
            send.send_trailers(status("0")).unwrap();
        }
        "Both" => {
            let mut send = call.respond.send_response(head(), false).unwrap();
            while let Some(part) = call.body.data().await {
                let Ok(part) = part else { return };
                call.body.flow_control().release_capacity(part.len()).unwrap();
                push(&mut send, part, false).await;
            }
            send.send_trailers(status("0")).unwrap();
        }
        "Fails" => {
            let mut response = head();
            response.headers_mut().extend(status("9"));
            call.respond.send_response(response, true).unwrap();
        }
        _ => {
            let reset = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
            assert_eq!(reset.unwrap(), Reason::CANCEL);
        }
    }
}

async fn stage() -> (Server, Rig, Caller) {
    let server = Server::new(serve).await;
    let rig = Rig::new(&web_h2(&[server.addr]));
    let caller = Caller::connect(rig.http).await;
    (server, rig, caller)
}

#[tokio::test]
async fn unary_and_streams_of_one_side() {
    let (_server, _rig, mut caller) = stage().await;
    for size in [0, 10, 4 * 1024 * 1024] {
        let asked = message(&"x".repeat(size));
        let mut exchange = caller.begin(call("Unary"), false).await;
        exchange.push(asked.clone(), true).await;
        let answer = exchange.answer().await.unwrap();
        assert!(answer.body == asked, "{size}");
        assert_eq!(answer.field("content-type"), Some("application/grpc"));
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    }
    let mut exchange = caller.begin(call("ServerStream"), false).await;
    exchange.push(message("all"), true).await;
    let answer = exchange.answer().await.unwrap();
    let expected: Vec<u8> = (0..100).flat_map(|number| message(&number.to_string())).collect();
    assert_eq!((answer.body, answer.trailers.unwrap()), (expected, status("0")));
    let mut exchange = caller.begin(call("ClientStream"), false).await;
    for _ in 0..100 {
        exchange.push(message("part"), false).await;
    }
    exchange.body.send_data(Bytes::new(), true).unwrap();
    let answer = exchange.answer().await.unwrap();
    assert_eq!(answer.body, message("900"));
}

#[tokio::test]
async fn both_directions_flow_while_both_are_open() {
    let (_server, rig, mut caller) = stage().await;
    let mut exchange = caller.begin(call("Both"), false).await;
    // The head comes before anything is said.
    let response = within("a head", &mut exchange.response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for number in 0..20 {
        let said = message(&format!("number {number}"));
        exchange.push(said.clone(), false).await;
        let heard = within("an echo", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(heard.len()).unwrap();
        assert_eq!(heard, said);
    }
    exchange.body.send_data(Bytes::new(), true).unwrap();
    let (rest, trailers) = whole(body).await.unwrap();
    assert_eq!((rest.len(), trailers.unwrap()), (0, status("0")));
    rig.settled("web").await;
}

#[tokio::test]
async fn a_call_that_fails_has_its_status_and_no_body() {
    let (_server, _rig, mut caller) = stage().await;
    let mut exchange = caller.begin(call("Fails"), false).await;
    exchange.push(message("x"), true).await;
    let response = within("a head", exchange.response).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["grpc-status"]),
        (200, &"9".parse().unwrap())
    );
    assert!(response.body().is_end_stream());
}

#[tokio::test]
async fn a_call_that_is_cancelled_ends_at_the_instance() {
    let (server, rig, mut caller) = stage().await;
    let mut exchange = caller.begin(call("Waits"), false).await;
    exchange.push(message("x"), false).await;
    until("the call", || server.calls() == 1).await;
    exchange.body.send_reset(Reason::CANCEL);
    rig.settled("web").await;
    // In the middle of both directions.
    let mut exchange = caller.begin(call("Both"), false).await;
    exchange.push(message("x"), false).await;
    let mut body = within("a head", exchange.response).await.unwrap().into_body();
    within("an echo", body.data()).await.unwrap().unwrap();
    exchange.body.send_reset(Reason::CANCEL);
    rig.settled("web").await;
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn what_the_router_answers_is_a_status_of_grpc() {
    let rig = Rig::new(&web_h2(&[]));
    let mut caller = Caller::connect(rig.http).await;
    let exchange = caller.begin(call("Unary"), true).await;
    let response = within("a head", exchange.response).await.unwrap();
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["grpc-status"], "14");
    assert_eq!(headers["grpc-message"], "no instance of the service takes traffic");
    assert!(headers["proxy-status"].to_str().unwrap().contains("no_instance"));
    assert!(response.body().is_end_stream());
    // Who speaks no gRPC gets what it always got.
    assert_eq!(caller.get("/").await.status(), 503);
}
