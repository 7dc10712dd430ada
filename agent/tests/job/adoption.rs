//! The agent goes and comes back; the jobs do not notice.

use std::fs;
use std::time::{Duration, Instant};

use portolan_agent::job::{running, stop_all};
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{Health, Instance, JobState, Key, Phase, Revision, Wanted};
use portolan_discovery::store::Txn;
use rustix::process::Signal;

use crate::node::{Node, eventually, job, name, server, server_after, service, worker};
use crate::process::{DEADLINE, is_alive, kill, until};
use crate::shaky::Shaky;

#[expect(clippy::disallowed_methods, reason = "a test measures")]
fn now() -> Instant {
    Instant::now()
}

/// An agent in another process has the job running and up, then is killed.
async fn killed_agent(spec: portolan_discovery::model::JobSpec) -> Node {
    let mut node = Node::new();
    node.place(spec, Wanted::Run).await;
    node.start_other();
    let told = node.dir.path().join("told");
    until("running", || told.exists().then_some(()));
    node.kill_other();
    node
}

#[tokio::test]
async fn jobs_outlive_a_killed_agent_and_are_taken_over_untouched() {
    let mut node = killed_agent(server()).await;
    let before = node.status().await.unwrap();
    let (instance, revision) = node.instance().await.unwrap();
    assert_eq!((&before.state, instance.health), (&JobState::Running, Health::Up));
    let pid = before.pid.unwrap();
    assert!(is_alive(pid));

    let began = now();
    node.start();
    // Proof that it is taken over: its health is followed again.
    fs::write(node.folder().join("work/sick"), "").unwrap();
    let (down, _) = node.instance_is("down", |it| it.health == Health::Down).await;
    println!("taken over after {:?}", now() - began);
    assert_eq!((down.addr, down.phase), (instance.addr, Phase::Active));
    assert_eq!(node.status().await.unwrap(), before);
    assert_eq!(node.processes(), [pid]);
    // Nothing was written before there was something to say.
    let kv = node.store().get(&Key::Job(name(), job()).to_string()).await.unwrap().unwrap();
    assert!(kv.modified <= revision.next(), "{kv:?} {revision}");

    // It is supervised as before.
    kill(pid, Signal::KILL);
    let after = node.is("started again", |status| status.restarts == 1).await;
    assert_eq!(after.last_exit.as_deref(), Some("signal 9"));
}

#[tokio::test]
async fn an_unchanged_record_is_not_written_when_its_job_is_taken_over() {
    let mut node = killed_agent(server()).await;
    let (_, revision) = node.instance().await.unwrap();
    let writes = node.mood.writes();
    node.start();
    // Longer than any check of the job needs to come by.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(node.instance().await.unwrap().1, revision);
    assert_eq!(node.mood.writes(), writes);
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_reported_later() {
    for (script, expected) in [
        ("until [ -e go ]; do sleep 0.01; done; exit 7", "exit status 7"),
        ("until [ -e go ]; do sleep 0.01; done; kill -9 $$", "signal 9"),
    ] {
        let mut node = killed_agent(worker(script)).await;
        let before = node.status().await.unwrap();
        fs::write(node.folder().join("work/go"), "").unwrap();
        until("its end", || (!is_alive(before.pid.unwrap())).then_some(()));
        until("the shim's end", || node.shims().is_empty().then_some(()));
        node.start();
        let after = node.is("reported", |status| status.restarts >= 1).await;
        assert_eq!(after.last_exit.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn a_record_goes_when_its_job_ended_while_the_agent_was_away() {
    let mut node = killed_agent(server_after("")).await;
    let pid = node.status().await.unwrap().pid.unwrap();
    kill(pid, Signal::KILL);
    until("the shim's end", || node.shims().is_empty().then_some(()));
    // The port is taken meanwhile: the old address must not stay in the table.
    let (old, _) = node.instance().await.unwrap();
    let stranger = std::net::TcpListener::bind(old.addr).unwrap();
    node.start();
    let (new, _) = node.instance_is("elsewhere", |it| it.addr != old.addr).await;
    assert_ne!(new.addr, old.addr);
    drop(stranger);
}

#[tokio::test]
async fn what_a_killed_shim_left_behind_is_found_later() {
    let mut node = killed_agent(server()).await;
    let pid = node.status().await.unwrap().pid.unwrap();
    for shim in node.shims() {
        kill(shim, Signal::KILL);
    }
    until("the shim's end", || node.shims().is_empty().then_some(()));
    assert!(is_alive(pid));
    node.start();
    let after = node.is("running again", |s| s.state == JobState::Running && s.restarts == 1).await;
    assert_eq!(after.last_exit.as_deref(), Some("shim lost"));
    assert_eq!(node.processes(), [after.pid.unwrap()]);
}

#[tokio::test]
async fn a_stop_that_nobody_saw_is_done_later() {
    let mut node = killed_agent(server()).await;
    node.ack(Revision(1), 0).await;
    node.place(server(), Wanted::Stop).await;
    node.start();
    let since = node.is_draining().await;
    node.ack(since, 0).await;
    node.is_stopped().await;
}

#[tokio::test]
async fn a_placement_that_went_away_meanwhile_stops_its_job() {
    let mut node = killed_agent(server()).await;
    node.unplace().await;
    node.start();
    eventually("forgotten", || async {
        (node.status().await.is_none() && node.instance().await.is_none()).then_some(())
    })
    .await;
    eventually("nothing to run", || async { node.processes().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn with_the_store_away_jobs_are_taken_over_and_started_again() {
    let mut node = killed_agent(server()).await;
    let before = node.status().await.unwrap();
    node.mood.go(true);
    node.start();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.processes(), [before.pid.unwrap()], "nothing is stopped");
    kill(before.pid.unwrap(), Signal::KILL);
    let pid = eventually("a new process", || async {
        node.processes().into_iter().find(|pid| Some(*pid) != before.pid)
    })
    .await;
    node.mood.go(false);
    let after = node.is("reported", |status| status.restarts == 1).await;
    assert_eq!(after.pid, Some(pid));
}

#[tokio::test]
async fn an_empty_store_that_is_another_one_stops_nothing() {
    let mut node = killed_agent(server()).await;
    let pid = node.status().await.unwrap().pid.unwrap();
    node.store = None;
    fs::rename(node.dir.path().join("store.redb"), node.dir.path().join("lost.redb")).unwrap();
    let (store, mood) = Shaky::open(node.dir.path());
    (node.store, node.mood) = (Some(store), mood);
    assert_eq!(node.status().await, None);
    node.start();
    // It even comes back by itself: the job says again what it is.
    assert_eq!(node.is_running().await.pid, Some(pid));
    node.is_up().await;
    assert!(is_alive(pid));
}

#[tokio::test]
async fn without_its_memory_a_job_is_still_taken_over() {
    for damage in ["", "{\"run\":"] {
        let mut node = killed_agent(server()).await;
        let before = node.status().await.unwrap();
        fs::write(node.folder().join("memory.json"), damage).unwrap();
        let began = now();
        node.start();
        fs::write(node.folder().join("work/sick"), "").unwrap();
        // What the record says counts: the start period of a new job does not come again.
        node.instance_is("down", |it| it.health == Health::Down).await;
        assert!(now() - began < Duration::from_secs(9), "{:?}", now() - began);
        fs::remove_file(node.folder().join("work/sick")).unwrap();
        node.is_up().await;
        let after = node.is_running().await;
        assert_eq!((after.pid, after.addr), (before.pid, before.addr));
    }
}

#[tokio::test]
async fn records_of_jobs_that_are_no_longer_here_are_removed() {
    let mut node = killed_agent(server()).await;
    let mut lost = node.status().await.unwrap();
    lost.job = "lost".parse().unwrap();
    node.put(Key::Job(name(), lost.job.clone()), &lost).await;
    let (mine, _) = node.instance().await.unwrap();
    let of = |id: &str, node: &str, origin| {
        let id = id.parse().unwrap();
        let node = node.parse().unwrap();
        Instance { id, node, origin, ..mine.clone() }
    };
    use portolan_discovery::model::Origin;
    let job_origin = || Origin::Job("lost".parse().unwrap());
    for record in [
        of("lost", "n1", job_origin()),
        of("far", "n2", job_origin()),
        of("api", "n1", Origin::Api),
    ] {
        let key = Key::Instance(service(), record.id.clone()).to_string();
        assert!(node.store().txn(Txn::default().put(key, encode(&record))).await.unwrap().done);
    }
    node.start();
    let left = || async {
        let (kvs, _) = node.store().snapshot("/portolan/").await.unwrap();
        kvs.into_iter().map(|kv| kv.key).filter(|key| key.ends_with("/lost")).count()
    };
    eventually("the lost to go", || async { (left().await == 0).then_some(()) }).await;
    for id in ["far", "api", job().as_str()] {
        let key = Key::Instance(service(), id.parse().unwrap()).to_string();
        assert!(node.store().get(&key).await.unwrap().is_some(), "{id}");
    }
}

#[tokio::test]
async fn an_agent_that_stops_leaves_its_jobs_alone() {
    let mut node = Node::with_agent();
    node.place(server(), Wanted::Run).await;
    let before = node.is_running().await;
    let (_, revision) = node.is_up().await;
    node.stop().await;
    assert!(is_alive(before.pid.unwrap()));
    assert_eq!(node.instance().await.unwrap().1, revision);
    node.start();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.status().await.unwrap(), before);
}

#[tokio::test]
async fn jobs_without_an_agent_can_be_counted_and_ended() {
    let mut node = killed_agent(server()).await;
    assert_eq!(running(&node.jobs()), 1);
    node.start();
    let refused = stop_all(&node.jobs(), DEADLINE).await.unwrap_err().to_string();
    assert!(refused.starts_with("another agent"), "{refused}");
    node.stop().await;
    assert_eq!(stop_all(&node.jobs(), DEADLINE).await.unwrap(), 1);
    assert_eq!((running(&node.jobs()), node.processes()), (0, vec![]));
    assert_eq!(stop_all(&node.jobs(), DEADLINE).await.unwrap(), 0);
    assert_eq!(stop_all(&node.dir.path().join("none"), DEADLINE).await.unwrap(), 0);

    // One that ignores SIGTERM.
    let mut node = killed_agent(worker("trap '' TERM; while :; do sleep 0.05; done")).await;
    assert_eq!(stop_all(&node.jobs(), Duration::from_millis(100)).await.unwrap(), 1);
    assert!(node.processes().is_empty());
    // An agent that comes back finds the end, and what is still wanted.
    node.start();
    let after = node.is("started again", |status| status.restarts == 1).await;
    assert_eq!(after.last_exit.as_deref(), Some("signal 9"));
}
