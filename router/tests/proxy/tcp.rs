//! TCP connections through the router.

use std::time::Duration;

use super::instance::{Instance, nobody};
use super::peer::{Peer, within};
use super::rig::{Rig, service, until, web, without};

/// Sends back what it reads until the end, then says goodbye.
async fn echo_then_bye() -> Instance {
    Instance::raw(|mut peer, _| async move {
        let all = peer.rest().await;
        peer.send(all).await;
        peer.send("bye").await;
    })
    .await
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let instance = echo_then_bye().await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = Peer::connect(rig.tcp).await;
    client.send("hello ").await;
    until("the connection", || rig.in_flight("web") == 1).await;
    client.shut().await;
    assert_eq!(client.rest().await, b"hello bye");
    rig.settled("web").await;
    let bytes =
        |direction| rig.metric("portolan_router_tcp_bytes_total", &[("direction", direction)]);
    assert_eq!((bytes("received"), bytes("sent")), (6.0, 9.0));
    assert_eq!(rig.metric("portolan_router_tcp_connections_total", &[("service", "web")]), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_streams_pass_whole_in_both_directions_at_once() {
    const BYTES: usize = 10 * 1024 * 1024;
    let instance = Instance::raw(|mut peer, _| async move {
        for _ in 0..BYTES / 65_536 {
            let piece = peer.read(65_536).await;
            peer.send(piece).await;
        }
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut random = fastrand::Rng::with_seed(3);
    let data: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(BYTES).collect();
    let (mut reader, mut writer) =
        tokio::net::TcpStream::connect(rig.tcp).await.unwrap().into_split();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writer, &sent).await.unwrap();
        writer
    });
    let mut got = vec![0; BYTES];
    within("the echo", tokio::io::AsyncReadExt::read_exact(&mut reader, &mut got)).await.unwrap();
    assert!(got == data);
    sending.await.unwrap();
}

#[tokio::test]
async fn a_refused_connection_is_tried_on_another_instance() {
    let instance = echo_then_bye().await;
    let rig = Rig::web(&[nobody().await, instance.addr]);
    for _ in 0..10 {
        let mut client = Peer::connect(rig.tcp).await;
        client.shut().await;
        assert_eq!(client.rest().await, b"bye");
    }
    assert!(rig.metric("portolan_router_retries_total", &[]) > 0.0);
}

/// Whether a connection gets a reset: a refusal is no empty answer.
pub async fn is_reset(rig: &Rig) -> bool {
    // It may come before the client has noticed that it is connected.
    let Ok(stream) = tokio::net::TcpStream::connect(rig.tcp).await else { return true };
    let (all, in_peace) = Peer::of(stream).rest_or_reset().await;
    assert!(all.is_empty());
    !in_peace
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_is_reset_and_counted() {
    let mut rig = Rig::web(&[nobody().await]);
    assert!(is_reset(&rig).await);
    assert_eq!(rig.ended("upstream_connect_refused"), 1.0);
    rig.apply_and_wait(&[service("web", true), without("web", "a")]).await;
    assert!(is_reset(&rig).await);
    assert_eq!(rig.ended("no_instance"), 1.0);
    let lost = Rig::new(&[]);
    assert!(is_reset(&lost).await);
    assert_eq!(lost.ended("no_route"), 1.0);
}

#[tokio::test]
async fn an_idle_connection_is_cut_and_a_busy_one_is_not() {
    let instance = Instance::raw(|mut peer, _| async move {
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if !peer.try_send("x").await {
                return;
            }
        }
        peer.gone().await;
    })
    .await;
    let rig = Rig::with(&web(&[instance.addr]), |config| {
        config.timeouts.tcp_idle = Duration::from_secs(1);
    });
    let mut client = Peer::connect(rig.tcp).await;
    assert_eq!(client.read(15).await, b"xxxxxxxxxxxxxxx");
    client.gone().await;
    rig.ends("tunnel_idle").await;
    rig.settled("web").await;
}

#[tokio::test]
async fn a_side_that_breaks_off_breaks_the_other_off() {
    let instance = Instance::raw(|mut peer, _| async move {
        peer.send("abc").await;
        peer.read(1).await;
        peer.reset();
    })
    .await;
    let rig = Rig::web(&[instance.addr]);
    let mut client = Peer::connect(rig.tcp).await;
    assert_eq!(client.read(3).await, b"abc");
    client.send("x").await;
    let (_, in_peace) = client.rest_or_reset().await;
    assert!(!in_peace, "half a stream must not look whole");
    rig.ends("upstream_body_cut").await;
    rig.settled("web").await;
}
