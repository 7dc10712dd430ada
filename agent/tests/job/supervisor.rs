//! Jobs that are placed, checked, started again and stopped.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use portolan_agent::job::logs::{self, LogError, Stream};
use portolan_discovery::model::record::decode;
use portolan_discovery::model::{
    CheckKind, Event, Health, Instance, InstanceId, JobSpec, JobState, JobStatus, Key, Origin,
    Phase, Wanted,
};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::node::{Node, eventually, fast, job, name, next, server, server_after, service, worker};
use crate::process::{DEADLINE, fixture, is_alive, kill};

#[expect(clippy::disallowed_methods, reason = "a test measures")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn a_placed_job_runs_with_its_port_and_is_up_once_its_check_passes() {
    let node = Node::with_agent();
    node.place(server_after("pwd; echo port $PORT ${PORT}; env | sort"), Wanted::Run).await;
    let status = node.is_running().await;
    let addr = status.addr.unwrap();
    assert!((node.ports.first..=node.ports.last).contains(&addr.port()), "{addr}");
    assert!(is_alive(status.pid.unwrap()));
    assert_eq!((status.restarts, status.last_exit), (0, None));
    let (instance, _) = node.is_up().await;
    assert_eq!((instance.addr, instance.phase), (addr, Phase::Active));
    assert_eq!((instance.node, instance.origin), (name(), Origin::Job(job())));
    let labels: Vec<_> = instance.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(labels, [("app", "shop"), ("process", "web"), ("release", "v1")]);

    let lines = logs::tail(&node.jobs(), &job(), 100).await.unwrap();
    let has = |text: &str| lines.iter().any(|line| line.text == text);
    let port = addr.port();
    for text in [
        node.folder().canonicalize().unwrap().join("work").display().to_string(),
        format!("port {port} {port}"),
        format!("PORT={port}"),
        format!("PORTOLAN_ADDR={addr}"),
        "PORTOLAN_APP=shop".into(),
        "PORTOLAN_JOB=shop-web-1".into(),
        "PORTOLAN_NODE=n1".into(),
        "PORTOLAN_PROCESS=web".into(),
        "PORTOLAN_RELEASE=v1".into(),
        "PORTOLAN_SERVICE=web".into(),
    ] {
        assert!(has(&text), "{text} in {lines:?}");
    }
    assert!(!lines.iter().any(|line| line.text.starts_with("CARGO")), "{lines:?}");
}

#[tokio::test]
async fn health_follows_the_checks_and_a_job_that_was_never_up_gets_no_traffic() {
    let node = Node::with_agent();
    let mut spec = server_after("touch sick");
    spec.checks[0].start_period = Duration::ZERO;
    node.place(spec, Wanted::Run).await;
    let (instance, _) = node.instance_is("a cause", |instance| instance.cause.is_some()).await;
    assert_eq!(instance.health, Health::Starting);
    assert_eq!(node.status().await.unwrap().state, JobState::Starting);
    let sick = node.folder().join("work/sick");
    fs::remove_file(&sick).unwrap();
    node.is_up().await;
    node.is_running().await;
    fs::write(&sick, "").unwrap();
    let (instance, _) = node.instance_is("down", |it| it.health == Health::Down).await;
    assert!(instance.cause.is_some());
    assert_eq!(node.status().await.unwrap().state, JobState::Running);
}

#[tokio::test]
async fn a_server_without_checks_is_up_once_it_takes_connections() {
    let node = Node::with_agent();
    let gate = node.dir.path().join("gate");
    let script = format!("until [ -e {} ]; do sleep 0.01; done", gate.display());
    node.place(JobSpec { checks: Vec::new(), ..server_after(&script) }, Wanted::Run).await;
    node.instance_is("registered", |_| true).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.instance().await.unwrap().0.health, Health::Starting);
    fs::write(&gate, "").unwrap();
    node.is_up().await;
}

#[tokio::test]
async fn a_worker_is_running_because_it_runs_or_once_its_check_passes() {
    let node = Node::with_agent();
    let status = {
        node.place(worker("echo $PORT; sleep 60"), Wanted::Run).await;
        node.is_running().await
    };
    assert_eq!(status.addr, None);
    node.unplace().await;
    eventually("forgotten", || async { node.status().await.is_none().then_some(()) }).await;

    let gate = node.dir.path().join("gate");
    let command = vec!["/usr/bin/test".into(), "-e".into(), gate.display().to_string()];
    let checks = vec![fast(CheckKind::Exec { command })];
    node.place(JobSpec { checks, ..worker("sleep 60") }, Wanted::Run).await;
    node.is("starting", |status| status.state == JobState::Starting).await;
    fs::write(&gate, "").unwrap();
    node.is_running().await;
}

#[tokio::test]
async fn a_killed_job_leaves_the_table_at_once_and_is_started_again() {
    let node = Node::with_agent();
    node.place(server(), Wanted::Run).await;
    let before = node.is_running().await;
    node.is_up().await;
    let id = InstanceId::parse(job().as_str()).unwrap();
    let mut watch = node.watch(Key::Instance(service(), id)).await;
    let killed = now();
    kill(before.pid.unwrap(), Signal::KILL);
    // A check may be quicker than the shim's word: down is out of the table too.
    let events = next(&mut watch).await;
    let took = now() - killed;
    let is_out = |event: &Event| match event {
        Event::Delete { .. } => true,
        Event::Put(kv) => decode::<Instance>(&kv.value).unwrap().health == Health::Down,
    };
    assert!(events.iter().all(is_out), "{events:?}");
    // 50 ms on an idle machine; the tests beside this one make it none.
    assert!(took < Duration::from_millis(500), "{took:?}");
    println!("out of the table after {took:?}");
    let mut events = events;
    if !matches!(events[..], [Event::Delete { .. }]) {
        events = next(&mut watch).await;
    }
    assert!(matches!(events[..], [Event::Delete { .. }]), "{events:?}");

    let after = node.is("running again", |s| s.state == JobState::Running && s.restarts == 1).await;
    assert_ne!(after.pid, before.pid);
    assert_eq!(after.last_exit.as_deref(), Some("signal 9"));
    assert_eq!(after.addr, before.addr, "a port that worked is kept");
    node.is_up().await;
}

#[tokio::test]
async fn a_job_that_ends_again_and_again_is_started_less_and_less_often() {
    let node = Node::with_agent();
    let mut watch = node.watch(Key::Job(name(), job())).await;
    node.place(worker("exit 3"), Wanted::Run).await;
    let mut pauses = Vec::new();
    let mut last = None;
    while pauses.len() < 3 {
        for event in next(&mut watch).await {
            let Event::Put(kv) = event else { panic!("{event:?}") };
            let status: JobStatus = decode(&kv.value).unwrap();
            if let JobState::Backoff { cause, until_ms } = &status.state {
                assert_eq!(cause, "exit status 3");
                pauses.push(until_ms.saturating_sub(status.since_ms));
                last = Some(status);
            }
        }
    }
    // The first may be so short that the store never has it.
    let rounded: Vec<u64> = pauses.iter().map(|pause| (pause + 100) / 500).collect();
    assert!(rounded == [0, 2, 4] || rounded == [2, 4, 8], "{pauses:?}");
    let last = last.unwrap();
    assert_eq!((last.pid, last.last_exit.as_deref()), (None, Some("exit status 3")));
    assert!(last.restarts >= 2);
}

#[tokio::test]
async fn a_command_that_is_not_there_is_a_clear_cause() {
    let node = Node::with_agent();
    for (command, cause) in [
        (vec!["/no/such".to_owned()], "command not found: /no/such"),
        (vec![], "the command is empty"),
    ] {
        node.place(JobSpec { command, ..server() }, Wanted::Run).await;
        node.is(cause, |status| {
            matches!(&status.state, JobState::Backoff { cause: said, .. } if said == cause)
        })
        .await;
        assert_eq!(node.instance().await, None);
        node.unplace().await;
        eventually("forgotten", || async { node.status().await.is_none().then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_stubborn_job_is_killed_with_all_that_it_started() {
    let node = Node::with_agent();
    let script = "trap '' TERM; (trap '' TERM; sleep 60; sleep 60) & setsid sleep 60 & \
                  echo ready; while :; do sleep 0.05; done";
    let kill_timeout = Duration::from_millis(200);
    node.place(JobSpec { kill_timeout, ..worker(script) }, Wanted::Run).await;
    node.is_running().await;
    let logs = node.jobs();
    eventually("ready", || async {
        let lines = logs::tail(&logs, &job(), 1).await.ok()?;
        (lines.first()?.text == "ready").then_some(())
    })
    .await;
    let asked = now();
    node.place(JobSpec { kill_timeout, ..worker(script) }, Wanted::Stop).await;
    node.is("stopping", |status| status.state == JobState::Stopping).await;
    let status = node.is_stopped().await;
    assert!(now() - asked >= kill_timeout);
    assert_eq!((status.pid, status.last_exit.as_deref()), (None, Some("signal 9")));
    eventually("nothing to be left", || async { node.processes().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_polite_job_is_given_the_time_to_end() {
    let node = Node::with_agent();
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.02; done";
    node.place(worker(script), Wanted::Run).await;
    let jobs = node.jobs();
    eventually("ready", || async { logs::tail(&jobs, &job(), 1).await.ok()?.pop() }).await;
    node.place(worker(script), Wanted::Stop).await;
    assert_eq!(node.is_stopped().await.last_exit.as_deref(), Some("exit status 0"));
    // The shell may have something to say about it too.
    eventually("its last words", || async {
        let last = logs::tail(&jobs, &job(), 3).await.ok()?;
        last.iter().find(|line| line.text == "bye" && line.stream == Stream::Out).map(|_| ())
    })
    .await;
    // And it runs again when it is wanted again.
    node.place(worker(script), Wanted::Run).await;
    assert_eq!(node.is_running().await.restarts, 0);
}

#[tokio::test]
async fn output_is_followed_across_rotations_without_a_gap() {
    const LINES: u32 = 160_000;
    let node = Node::with_agent();
    let command = vec![fixture().display().to_string(), "print".into(), LINES.to_string()];
    node.place(JobSpec { command, ..worker("") }, Wanted::Run).await;
    let jobs = node.jobs();
    let mut follow =
        eventually("output", || async { logs::follow(&jobs, &job(), 10_000).await.ok() }).await;
    let mut next = None;
    while next != Some(LINES) {
        let line = timeout(DEADLINE, follow.next()).await.unwrap().unwrap().unwrap();
        let number: u32 = line.text.parse().unwrap();
        assert_eq!(number, next.unwrap_or(number));
        next = Some(number + 1);
    }
    let kept = fs::read_dir(node.folder().join("log")).unwrap().count();
    assert!(kept >= 2, "{kept} files of 10 MiB for 20 MB");
    let last = logs::tail(&jobs, &job(), 3).await.unwrap();
    let last: Vec<u32> = last.iter().map(|line| line.text.parse().unwrap()).collect();
    assert_eq!(last, [LINES - 3, LINES - 2, LINES - 1]);
}

#[tokio::test]
async fn a_port_that_a_stranger_has_is_passed_over() {
    let mut node = Node::new();
    let stranger = TcpListener::bind(("127.0.0.1", node.ports.first)).unwrap();
    node.start();
    node.place(server(), Wanted::Run).await;
    let status = node.is_running().await;
    assert_eq!(status.addr.unwrap().port(), node.ports.first + 1);
    assert_eq!(status.restarts, 0);
    drop(stranger);
}

#[tokio::test]
async fn a_fixed_port_is_waited_for() {
    let mut node = Node::new();
    let port = node.ports.last;
    let stranger = TcpListener::bind(("127.0.0.1", port)).unwrap();
    node.start();
    node.place(JobSpec { port: Some(port), ..server() }, Wanted::Run).await;
    let cause = format!("port {port} is taken by another program");
    node.is(
        &cause,
        |status| matches!(&status.state, JobState::Backoff { cause: said, .. } if *said == cause),
    )
    .await;
    drop(stranger);
    assert_eq!(node.is_running().await.addr.unwrap().port(), port);
}

#[tokio::test]
async fn a_forgotten_job_leaves_only_its_output() {
    let node = Node::with_agent();
    node.place(server_after("echo hello"), Wanted::Run).await;
    let pid = node.is_running().await.pid.unwrap();
    node.unplace().await;
    eventually("forgotten", || async { node.status().await.is_none().then_some(()) }).await;
    assert_eq!(node.instance().await, None);
    assert!(!is_alive(pid));
    eventually("its folder put away", || async {
        let is_done = node.folder().join("over").exists() && !node.folder().join("work").exists();
        is_done.then_some(())
    })
    .await;
    let lines = logs::tail(&node.jobs(), &job(), 10).await.unwrap();
    assert_eq!(lines[0].text, "hello");
    let stranger = "nobody".parse().unwrap();
    assert!(matches!(logs::tail(&node.jobs(), &stranger, 1).await, Err(LogError::NoJob(_))));
    // The same job may come back.
    node.place(server_after("echo again"), Wanted::Run).await;
    node.is_running().await;
    let lines = logs::tail(&node.jobs(), &job(), 1).await.unwrap();
    assert_eq!(lines[0].text, "again");
}

#[tokio::test]
async fn whatever_is_wanted_in_whatever_haste_comes_about_in_the_end() {
    let node = Node::with_agent();
    let spec = || JobSpec { kill_timeout: Duration::from_secs(1), ..server() };
    for round in 0..12u64 {
        node.place(spec(), Wanted::Run).await;
        tokio::time::sleep(Duration::from_millis(round * 4)).await;
        match round % 3 {
            0 => node.place(spec(), Wanted::Stop).await,
            1 => node.unplace().await,
            _ => {
                node.place(spec(), Wanted::Stop).await;
                node.unplace().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(40 - round * 3)).await;
    }
    eventually("forgotten", || async {
        (node.status().await.is_none() && node.instance().await.is_none()).then_some(())
    })
    .await;
    eventually("nothing to run", || async { node.processes().is_empty().then_some(()) }).await;

    node.place(spec(), Wanted::Stop).await;
    node.place(spec(), Wanted::Run).await;
    let status = node.is_running().await;
    assert_eq!(node.processes(), [status.pid.unwrap()]);
    node.place(spec(), Wanted::Stop).await;
    node.is_stopped().await;
    assert_eq!(node.instance().await, None);
    eventually("nothing to run", || async { node.processes().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_job_placed_to_be_stopped_is_not_started() {
    let node = Node::with_agent();
    let mark = node.dir.path().join("ran");
    node.place(worker(&format!("touch {}", mark.display())), Wanted::Stop).await;
    node.is_stopped().await;
    assert!(!mark.exists());
}

#[tokio::test]
async fn without_its_shim_a_job_is_killed_and_started_anew() {
    let node = Node::with_agent();
    node.place(server(), Wanted::Run).await;
    let before = node.is_running().await;
    let shims = node.shims();
    assert_eq!(shims.len(), 1);
    kill(shims[0], Signal::KILL);
    let after = node.is("running again", |s| s.state == JobState::Running && s.restarts == 1).await;
    assert_eq!(after.last_exit.as_deref(), Some("shim lost"));
    assert!(!is_alive(before.pid.unwrap()));
    assert_eq!(node.processes(), [after.pid.unwrap()]);
}

#[tokio::test]
async fn while_the_store_is_away_jobs_are_kept_running() {
    let node = Node::with_agent();
    node.place(server(), Wanted::Run).await;
    let before = node.is_running().await;
    node.mood.go(true);
    kill(before.pid.unwrap(), Signal::KILL);
    let pid = eventually("a new process", || async {
        node.processes().into_iter().find(|pid| Some(*pid) != before.pid)
    })
    .await;
    node.mood.go(false);
    let after = node.is("running again", |s| s.state == JobState::Running && s.restarts == 1).await;
    assert_eq!(after.pid, Some(pid));
    node.is_up().await;
}

#[tokio::test]
async fn a_placement_that_cannot_be_read_changes_nothing() {
    let node = Node::with_agent();
    node.place(server(), Wanted::Run).await;
    let before = node.is_running().await;
    node.put(Key::Placement(name(), job()), &"nonsense").await;
    let other = node.placement(worker("sleep 60"), Wanted::Run);
    let other = portolan_discovery::model::Placement { job: "other".parse().unwrap(), ..other };
    node.put(Key::Placement(name(), other.job.clone()), &other).await;
    eventually("the other", || async {
        let key = Key::Job(name(), other.job.clone()).to_string();
        node.store().get(&key).await.unwrap()
    })
    .await;
    assert_eq!(node.status().await.unwrap(), before);
    assert!(is_alive(before.pid.unwrap()));
}

#[tokio::test]
async fn one_folder_has_one_agent() {
    let node = Node::with_agent();
    let error = node.supervisor().err().unwrap().to_string();
    assert!(error.starts_with("another agent supervises the jobs in /"), "{error}");
}
