//! TCP connections with so much in them that it passes without a copy.

use std::time::Duration;

use super::instance::Instance;
use super::peer::{Peer, within};
use super::rig::{Rig, until, web};

const BYTES: usize = 8 * 1024 * 1024;
const SPLICED: &str = "portolan_router_spliced_bytes_total";

fn random(seed: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

/// Reads until the end, then sends all of it back.
async fn sending_back() -> Instance {
    Instance::raw(|mut peer, _| async move {
        let all = peer.rest().await;
        peer.send(all).await;
    })
    .await
}

async fn there_and_back(rig: &Rig, data: Vec<u8>) {
    let mut client = Peer::connect(rig.tcp).await;
    client.send(&data).await;
    client.shut().await;
    assert!(client.rest().await == data, "what came back is not what was sent");
}

/// A router that may have so many pipes.
fn with_pipes(instance: &Instance, pipes: usize) -> Rig {
    Rig::with(&web(&[instance.addr]), |config| config.limits.pipes_max = pipes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_spliced_is_whole_and_counted_and_ends_on_its_own() {
    let instance = sending_back().await;
    let rig = with_pipes(&instance, 8);
    there_and_back(&rig, random(1, BYTES)).await;
    rig.settled("web").await;
    let bytes =
        |direction| rig.metric("portolan_router_tcp_bytes_total", &[("direction", direction)]);
    assert_eq!((bytes("received"), bytes("sent")), (BYTES as f64, BYTES as f64));
    until("spliced bytes", || rig.metric(SPLICED, &[]) > BYTES as f64 / 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_beyond_the_pipes_are_copied() {
    let instance = sending_back().await;
    let rig = with_pipes(&instance, 1);
    let one = |seed| there_and_back(&rig, random(seed, BYTES / 4));
    tokio::join!(one(1), one(2), one(3), one(4), one(5));
    rig.settled("web").await;
    let without = with_pipes(&instance, 0);
    there_and_back(&without, random(9, BYTES)).await;
    // Two looks of the worker at its counts later nothing has been told.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(without.metric(SPLICED, &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_messages_follow_large_ones_and_the_other_way_round() {
    let instance = Instance::raw(|mut peer, _| async move {
        for _ in 0..3 {
            let large = peer.read(BYTES / 4).await;
            peer.send(large).await;
            for _ in 0..20 {
                let small = peer.read(100).await;
                peer.send(small).await;
            }
        }
    })
    .await;
    let rig = with_pipes(&instance, 1);
    let mut client = Peer::connect(rig.tcp).await;
    for round in 0..3 {
        let large = random(round, BYTES / 4);
        client.send(&large).await;
        assert!(client.read(large.len()).await == large);
        for number in 0..20 {
            let small = random(100 + number, 100);
            client.send(&small).await;
            assert_eq!(client.read(100).await, small);
        }
    }
    assert_eq!(client.rest().await, b"");
    drop(client);
    rig.settled("web").await;
    until("spliced bytes", || rig.metric(SPLICED, &[]) > 0.0).await;
}

/// Reads a little and then nothing until it is told that it may go.
async fn not_reading(go: tokio::sync::watch::Receiver<bool>) -> Instance {
    Instance::raw(move |mut peer, _| {
        let mut go = go.clone();
        async move {
            peer.read(100_000).await;
            within("the word", go.wait_for(|go| *go)).await.unwrap();
            let (_, in_peace) = peer.rest_or_reset().await;
            assert!(!in_peace, "half a stream must not look whole");
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pipe_that_nobody_empties_is_idle() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let instance = not_reading(gone).await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.timeouts.tcp_idle = Duration::from_millis(500);
    });
    let mut client = Peer::connect(rig.tcp).await;
    // Much more than the sockets between take.
    assert!(!client.try_send(random(1, 64 * 1024 * 1024)).await);
    rig.ends("tunnel_idle").await;
    rig.settled("web").await;
    go.send(true).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_breaks_off_in_the_middle_breaks_the_instance_off() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let instance = not_reading(gone).await;
    let rig = Rig::web(&[instance.addr]);
    let client = tokio::net::TcpStream::connect(rig.tcp).await.unwrap();
    let data = random(1, 64 * 1024 * 1024);
    let mut sent = 0;
    // Until nothing moves any more: then there are bytes in the pipe.
    while let Ok(room) = tokio::time::timeout(Duration::from_millis(300), client.writable()).await {
        room.unwrap();
        sent += client.try_write(&data[sent..]).unwrap_or(0);
    }
    assert!(sent > 100_000 && sent < data.len());
    Peer::of(client).reset();
    go.send(true).unwrap();
    rig.ends("client_gone_in_body").await;
    rig.settled("web").await;
}
