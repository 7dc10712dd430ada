//! A stop waits for the routers' word, and for a bounded time only.

use std::time::Duration;

use portolan_discovery::model::{Health, JobSpec, JobState, Phase, Revision, Wanted};

use crate::node::{Node, server};
use crate::process::is_alive;

async fn stays_draining(node: &Node, pid: u32) {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(is_alive(pid));
        assert_eq!(node.status().await.unwrap().state, JobState::Draining);
        assert_eq!(node.instance().await.unwrap().0.phase, Phase::Draining);
    }
}

#[tokio::test]
async fn a_job_is_told_to_end_only_after_every_router_has_let_go_of_it() {
    let node = Node::with_agent();
    node.ack(Revision(1), 0).await;
    node.place(server(), Wanted::Run).await;
    let pid = node.is_running().await.pid.unwrap();
    node.place(server(), Wanted::Stop).await;
    let since = node.is_draining().await;
    stays_draining(&node, pid).await;
    node.ack(Revision(since.0 - 1), 0).await;
    stays_draining(&node, pid).await;
    node.ack(since, 2).await;
    stays_draining(&node, pid).await;
    node.ack(since.next(), 1).await;
    stays_draining(&node, pid).await;
    node.ack(since, 0).await;
    node.is_stopped().await;
    assert_eq!(node.instance().await, None);
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_router_that_never_answers_is_waited_for_up_to_the_cap() {
    let node = Node::with_agent();
    node.ack(Revision(1), 1).await;
    let spec = || JobSpec { drain_timeout: Duration::from_millis(300), ..server() };
    node.place(spec(), Wanted::Run).await;
    node.is_running().await;
    node.place(spec(), Wanted::Stop).await;
    let began = tokio::time::Instant::now();
    node.is_stopped().await;
    assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
}

#[tokio::test]
async fn without_any_router_there_is_nothing_to_wait_for() {
    let node = Node::with_agent();
    node.place(server(), Wanted::Run).await;
    node.is_running().await;
    node.place(server(), Wanted::Stop).await;
    // The cap is the deadline of all tests: waiting for it would fail.
    node.is_stopped().await;
}

#[tokio::test]
async fn a_router_whose_first_word_is_late_is_waited_for() {
    let node = Node::with_agent();
    node.place(server(), Wanted::Run).await;
    let pid = node.is_running().await.pid.unwrap();
    node.place(server(), Wanted::Stop).await;
    let since = node.is_draining().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.ack(since, 1).await;
    // Longer than silence is waited for.
    for _ in 0..12 {
        stays_draining(&node, pid).await;
    }
    node.ack(since, 0).await;
    node.is_stopped().await;
}

#[tokio::test]
async fn a_router_that_leaves_is_not_waited_for() {
    let node = Node::with_agent();
    node.ack(Revision(1), 1).await;
    node.place(server(), Wanted::Run).await;
    node.is_running().await;
    node.place(server(), Wanted::Stop).await;
    node.is_draining().await;
    node.delete(portolan_discovery::model::Key::Ack("r1".parse().unwrap())).await;
    node.is_stopped().await;
}

#[tokio::test]
async fn a_job_that_is_wanted_again_in_time_goes_on() {
    let node = Node::with_agent();
    node.ack(Revision(1), 0).await;
    node.place(server(), Wanted::Run).await;
    let before = node.is_running().await;
    node.place(server(), Wanted::Stop).await;
    let since = node.is_draining().await;
    node.place(server(), Wanted::Run).await;
    let (instance, _) = node.instance_is("active", |it| it.phase == Phase::Active).await;
    assert_eq!(instance.health, Health::Up);
    // The late word of the router changes nothing.
    node.ack(since, 0).await;
    let after = node.is_running().await;
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(is_alive(before.pid.unwrap()));
}

#[tokio::test]
async fn a_job_that_ends_during_its_drain_is_stopped() {
    let node = Node::with_agent();
    node.ack(Revision(1), 1).await;
    node.place(server(), Wanted::Run).await;
    let pid = node.is_running().await.pid.unwrap();
    node.place(server(), Wanted::Stop).await;
    node.is_draining().await;
    crate::process::kill(pid, rustix::process::Signal::KILL);
    let status = node.is_stopped().await;
    assert_eq!(status.last_exit.as_deref(), Some("signal 9"));
    assert_eq!(node.instance().await, None);
}
