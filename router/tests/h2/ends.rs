//! How connections end: idle ones, late ones, and those of a router that drains.

use std::time::Duration;

use super::caller::{Caller, request};
use super::frames::{GOAWAY, HEADERS, PREFACE, Raw};
use super::instance::{Instance, ok};
use super::peer::{Peer, within};
use super::rig::{Rig, until, web};

#[tokio::test]
async fn a_connection_without_requests_ends_with_a_goodbye() {
    let instance = Instance::named("a").await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.timeouts.client_idle = Duration::from_millis(200);
    });
    let mut caller = Caller::connect(rig.http).await;
    caller.get("/").await;
    caller.end().await.unwrap();
    let mut raw = Raw::connect(rig.http).await;
    assert_eq!(raw.next_of(GOAWAY).await.unwrap().code(), 0);
}

#[tokio::test]
async fn a_request_under_way_keeps_its_connection() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.request().await;
        tokio::time::sleep(Duration::from_millis(800)).await;
        peer.send(ok("late")).await;
    })
    .await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.timeouts.client_idle = Duration::from_millis(100);
    });
    assert_eq!(Caller::connect(rig.http).await.get("/").await.text(), "late");
}

#[tokio::test]
async fn who_does_not_greet_in_time_is_closed() {
    let rig = Rig::with(&web(&[]), |config| {
        config.timeouts.client_header = Duration::from_millis(200);
    });
    for begun in [&PREFACE[..5], &PREFACE[..18]] {
        let mut client = rig.client().await;
        client.send(begun).await;
        within("the end", client.gone()).await;
    }
    until("the end of all", || rig.router.connections() == 0).await;
}

#[tokio::test]
async fn a_drain_says_goodbye_at_once_and_requests_under_way_end_well() {
    let (go, told) = tokio::sync::watch::channel(false);
    let instance = Instance::raw(move |mut peer, _| {
        let mut told = told.clone();
        async move {
            while peer.request().await.is_some() {
                told.wait_for(|go| *go).await.unwrap();
                peer.send(ok("done")).await;
            }
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut caller = Caller::connect(rig.http).await;
    let mut idle = Raw::connect(rig.http).await;
    let under_way = caller.begin(request("GET", "/"), true).await;
    until("the request", || rig.in_flight("web") == 1).await;
    let drained = within("the drain", rig.router.drain(Duration::from_secs(10)));
    let served = async {
        assert_eq!(idle.next_of(GOAWAY).await.unwrap().code(), 0);
        // The client knows: it would begin a new connection for another request.
        within("the goodbye", async {
            while caller.send.clone().ready().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        go.send(true).unwrap();
        assert_eq!(under_way.answer().await.unwrap().text(), "done");
        caller.end().await.unwrap();
    };
    let (cut, ()) = tokio::join!(drained, served);
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn a_client_that_ignores_the_goodbye_does_not_hold_up_a_drain() {
    let instance = Instance::named("a").await;
    let rig = Rig::web(&[instance.addr]);
    let mut raw = Raw::connect(rig.http).await;
    raw.send(super::frames::frame(HEADERS, 5, 1, &super::frames::get())).await;
    assert!(raw.next_of(HEADERS).await.is_some());
    let mut silent = Peer::connect(rig.http).await;
    silent.send(PREFACE).await;
    let cut = within("the drain", rig.router.drain(Duration::from_secs(15))).await;
    assert_eq!(cut, 0);
}
