//! One step of a deployment, by tables.
//!
//! A table has a line per group of jobs: `v1 web 4 ready`. Further words: `fresh`, `stop` (told
//! to stop), `unsettled`, `lost` (its node is not there), `restarts=3`.

use std::time::Duration;

use portolan_discovery::model::{DeploymentState, ProcessName, ReleaseId, Wanted};

use super::deployment;
use crate::controller::deploy::{Aim, Counts, DeployJob, DeployView, step};
use crate::scheduler::Standing;

fn jobs(table: &str) -> Vec<DeployJob> {
    let mut jobs = Vec::new();
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [release, process, count, standing, flags @ ..] = &words[..] else { panic!("{line}") };
        let standing = match *standing {
            "ready" => Standing::Ready,
            "unready" => Standing::Unready,
            "unseen" => Standing::Unseen,
            "pending" => Standing::Pending,
            "failing" => Standing::Failing,
            "leaving" => Standing::Leaving,
            "ending" => Standing::Ending,
            other => panic!("{other}"),
        };
        for _ in 0..count.parse::<usize>().unwrap() {
            let restarts = flags.iter().find_map(|flag| flag.strip_prefix("restarts="));
            jobs.push(DeployJob {
                job: format!("job-{}", jobs.len()).parse().unwrap(),
                process: process.parse().unwrap(),
                release: release.parse().unwrap(),
                wanted: if flags.contains(&"stop") { Wanted::Stop } else { Wanted::Run },
                standing,
                why: (standing != Standing::Ready).then(|| format!("{standing:?}").to_lowercase()),
                settled: !flags.contains(&"unsettled"),
                fresh: flags.contains(&"fresh"),
                restarts: restarts.map_or(0, |restarts| restarts.parse().unwrap()),
                reachable: !flags.contains(&"lost"),
            });
        }
    }
    jobs
}

/// `v2: web 4, work 1`.
fn aim(text: &str) -> Aim {
    let (release, counts) = text.split_once(": ").unwrap();
    let counts = counts.split(", ").filter(|text| !text.is_empty()).map(|text| {
        let (process, count) = text.split_once(' ').unwrap();
        (process.parse::<ProcessName>().unwrap(), count.parse().unwrap())
    });
    Aim { release: release.parse().unwrap(), counts: counts.collect() }
}

fn view(from: &str, to: &str, table: &str) -> DeployView {
    DeployView {
        to: aim(to),
        from: (!from.is_empty()).then(|| aim(from)),
        jobs: jobs(table),
        unplaced: Vec::new(),
        stalled: Duration::ZERO,
    }
}

/// `v1 web 4, v2 web 1`, without those of which none is wanted.
fn shown(wanted: &Counts) -> String {
    let wanted = wanted.iter().filter(|(_, count)| **count > 0);
    let texts: Vec<String> = wanted
        .map(|((release, process), count): (&(ReleaseId, ProcessName), _)| {
            format!("{release} {process} {count}")
        })
        .collect();
    texts.join(", ")
}

fn word(next: Option<&DeploymentState>) -> &'static str {
    match next {
        None => "-",
        Some(DeploymentState::Running) => "running",
        Some(DeploymentState::Done) => "done",
        Some(DeploymentState::Reverting { .. }) => "reverting",
        Some(DeploymentState::Reverted { .. }) => "reverted",
        Some(DeploymentState::Superseded) => "superseded",
    }
}

fn check(view: &DeployView, reverting: bool, expected: &str, next: &str) {
    let mut deployment = deployment();
    deployment.surge = u32::MAX;
    if reverting {
        deployment.state = DeploymentState::Reverting { cause: "test".into() };
    }
    let step = step(view, &deployment);
    assert_eq!(
        (shown(&step.wanted).as_str(), word(step.next.as_ref())),
        (expected, next),
        "{view:#?}"
    );
}

#[test]
fn new_jobs_come_up_first_and_an_old_one_goes_for_each_that_is_healthy() {
    for (table, expected, next) in [
        ("v1 web 4 ready", "v1 web 4, v2 web 1", "-"),
        ("v1 web 4 ready\n v2 web 1 pending fresh", "v1 web 4, v2 web 1", "-"),
        ("v1 web 4 ready\n v2 web 1 unready fresh", "v1 web 4, v2 web 1", "-"),
        ("v1 web 4 ready\n v2 web 1 unseen fresh", "v1 web 4, v2 web 1", "-"),
        ("v1 web 4 ready\n v2 web 1 ready fresh unsettled", "v1 web 4, v2 web 1", "-"),
        ("v1 web 4 ready\n v2 web 1 ready fresh", "v1 web 3, v2 web 2", "-"),
        // The one that drains is not waited for.
        ("v1 web 3 ready\n v1 web 1 leaving stop\n v2 web 2 ready", "v1 web 2, v2 web 3", "-"),
        ("v1 web 1 ready\n v2 web 4 ready", "v2 web 4", "-"),
        ("v1 web 1 leaving stop\n v2 web 4 ready", "v2 web 4", "-"),
        ("v1 web 1 ending stop\n v2 web 4 ready", "v2 web 4", "-"),
        ("v2 web 4 ready", "v2 web 4", "done"),
        ("v2 web 3 ready\n v2 web 1 failing", "v2 web 4", "-"),
        // An old one that nobody can reach is stopped when its node is back.
        ("v1 web 1 ready stop lost\n v2 web 4 ready", "v2 web 4", "done"),
    ] {
        check(&view("v1: web 4", "v2: web 4", table), false, expected, next);
    }
}

#[test]
fn a_quarter_comes_up_at_once() {
    for (count, surge) in [(1, 1), (4, 1), (5, 2), (8, 2), (10, 3), (40, 10)] {
        let (from, to) = (format!("v1: web {count}"), format!("v2: web {count}"));
        let table = format!("v1 web {count} ready");
        check(&view(&from, &to, &table), false, &format!("v1 web {count}, v2 web {surge}"), "-");
    }
}

#[test]
fn fewer_come_up_at_once_when_the_deployment_says_so() {
    let mut deployment = deployment();
    deployment.surge = 2;
    let step = step(&view("v1: web 40", "v2: web 40", "v1 web 40 ready"), &deployment);
    assert_eq!(shown(&step.wanted), "v1 web 40, v2 web 2");
}

#[test]
fn what_is_healthy_never_falls_below_what_is_wanted() {
    for (table, expected) in [
        // A new one that fell ill gives its turn back, but an old one is not brought up again.
        ("v1 web 2 ready\n v2 web 2 ready\n v2 web 1 unready", "v1 web 2, v2 web 3"),
        ("v1 web 2 ready\n v2 web 1 ready\n v2 web 2 unready", "v1 web 2, v2 web 3"),
        // Old ones that do not serve go first, but not before their time.
        ("v1 web 3 ready\n v1 web 1 failing", "v1 web 4, v2 web 1"),
        ("v1 web 3 ready\n v1 web 1 failing\n v2 web 1 ready", "v1 web 3, v2 web 2"),
    ] {
        check(&view("v1: web 4", "v2: web 4", table), false, expected, "-");
    }
}

#[test]
fn the_count_may_change_under_way() {
    let table = "v1 web 3 ready\n v2 web 1 ready\n v2 web 1 pending";
    check(&view("v1: web 8", "v2: web 8", table), false, "v1 web 3, v2 web 7", "-");
    check(&view("v1: web 2", "v2: web 2", table), false, "v1 web 1, v2 web 2", "-");
    check(&view("v1: web 0", "v2: web 0", table), false, "", "-");
    check(&view("v1: web 0", "v2: web 0", ""), false, "", "done");
}

#[test]
fn a_first_release_comes_up_all_at_once() {
    check(&view("", "v1: web 4", ""), false, "v1 web 4", "-");
    check(&view("", "v1: web 4", "v1 web 4 ready fresh"), false, "v1 web 4", "done");
}

#[test]
fn process_types_go_side_by_side_and_those_that_end_go_last() {
    let old = "v1 web 2 ready\n v1 work 3 ready\n v1 cron 1 ready\n";
    let (from, to) = ("v1: web 2, work 3, cron 1", "v2: web 2, work 3");
    check(&view(from, to, old), false, "v1 cron 1, v1 web 2, v1 work 3, v2 web 1, v2 work 1", "-");
    let table = "v1 cron 1 ready\n v1 work 1 ready\n v2 web 2 ready\n v2 work 2 ready";
    check(&view(from, to, table), false, "v1 cron 1, v1 work 1, v2 web 2, v2 work 3", "-");
    let table = "v1 cron 1 ready\n v2 web 2 ready\n v2 work 3 ready";
    check(&view(from, to, table), false, "v2 web 2, v2 work 3", "-");
}

#[test]
fn a_deployment_that_overtook_another_keeps_what_serves_of_both() {
    // v2 was half way over v1 when v3 came.
    let table = "v1 web 2 ready\n v2 web 2 ready\n v2 web 1 pending";
    check(&view("v1: web 4", "v3: web 4", table), false, "v1 web 2, v2 web 2, v3 web 1", "-");
    let table = "v1 web 2 ready\n v2 web 2 ready\n v3 web 1 ready";
    check(&view("v1: web 4", "v3: web 4", table), false, "v1 web 2, v2 web 1, v3 web 2", "-");
    // A first release that never served is not kept.
    check(&view("", "v2: web 2", "v1 web 2 pending"), false, "v2 web 2", "-");
    // The way back to the release that still serves.
    let table = "v1 web 3 ready\n v2 web 1 ready\n v2 web 1 pending";
    check(&view("v1: web 4", "v1: web 4", table), false, "v1 web 4, v2 web 1", "-");
}

#[test]
fn standing_still_ends_in_a_revert_unless_only_old_jobs_are_left() {
    let stalled = |from, table, seconds| {
        let mut view = view(from, "v2: web 4", table);
        view.stalled = Duration::from_secs(seconds);
        view
    };
    let table = "v1 web 4 ready\n v2 web 1 pending fresh";
    check(&stalled("v1: web 4", table, 119), false, "v1 web 4, v2 web 1", "-");
    check(&stalled("v1: web 4", table, 120), false, "v1 web 4", "reverting");
    let table = "v1 web 1 leaving stop\n v2 web 4 ready";
    check(&stalled("v1: web 4", table, 999), false, "v2 web 4", "-");
    // What was never placed stands still as well.
    check(&stalled("v1: web 4", "v1 web 4 ready", 120), false, "v1 web 4", "reverting");
    check(&stalled("", "v2 web 4 pending fresh", 120), false, "", "reverting");
}

#[test]
fn a_new_job_that_crashes_again_and_again_ends_it_at_once() {
    for (flags, next) in [
        ("failing fresh restarts=2", "-"),
        ("failing fresh restarts=3", "reverting"),
        ("pending fresh restarts=3", "reverting"),
        ("ready fresh restarts=3", "-"),
        // One that is to stop anyway, and one that was there before.
        ("failing fresh stop restarts=3", "-"),
        ("failing restarts=9", "-"),
    ] {
        let view = view("v1: web 4", "v2: web 4", &format!("v1 web 4 ready\n v2 web 1 {flags}"));
        assert_eq!(word(step(&view, &deployment()).next.as_ref()), next, "{flags}");
    }
}

#[test]
fn a_revert_brings_the_old_release_back_before_the_new_one_goes() {
    for (table, expected, next) in [
        ("v1 web 2 ready\n v2 web 2 ready\n v2 web 1 failing", "v1 web 4, v2 web 2", "-"),
        ("v1 web 3 ready\n v1 web 1 pending\n v2 web 2 ready", "v1 web 4, v2 web 1", "-"),
        ("v1 web 3 ready\n v1 web 1 ready unsettled\n v2 web 2 ready", "v1 web 4, v2 web 1", "-"),
        ("v1 web 3 ready\n v1 web 1 unseen\n v2 web 2 unseen", "v1 web 4, v2 web 1", "-"),
        ("v1 web 4 ready\n v2 web 2 ready", "v1 web 4", "-"),
        ("v1 web 4 ready\n v2 web 2 leaving stop", "v1 web 4", "-"),
        ("v1 web 4 ready", "v1 web 4", "reverted"),
        ("v1 web 3 ready\n v1 web 1 failing", "v1 web 4", "-"),
        ("v1 web 4 ready\n v2 web 1 ready stop lost", "v1 web 4", "reverted"),
    ] {
        check(&view("v1: web 4", "v2: web 4", table), true, expected, next);
    }
}

#[test]
fn a_revert_whose_old_release_does_not_come_back_takes_nothing_away_that_serves() {
    let mut view = view("v1: web 4", "v2: web 4", "v1 web 2 pending\n v2 web 2 ready");
    view.stalled = Duration::from_secs(999);
    check(&view, true, "v1 web 4, v2 web 2", "-");
    view.jobs = jobs("v1 web 4 failing\n v2 web 2 leaving stop");
    check(&view, true, "v1 web 4", "-");
    view.jobs = jobs("v1 web 4 failing");
    check(&view, true, "v1 web 4", "reverted");
    view.stalled = Duration::from_secs(119);
    check(&view, true, "v1 web 4", "-");
}

#[test]
fn a_first_release_that_fails_leaves_nothing_running() {
    check(&view("", "v1: web 2", "v1 web 2 failing"), true, "", "-");
    check(&view("", "v1: web 2", "v1 web 1 ending stop"), true, "", "-");
    check(&view("", "v1: web 2", ""), true, "", "reverted");
}

#[test]
fn the_cause_of_a_revert_says_what_was_missing_and_why() {
    let mut view = view("v1: web 4", "v2: web 4", "v1 web 4 ready\n v2 web 1 pending fresh");
    view.stalled = Duration::from_secs(120);
    view.unplaced = vec!["0 of 1 node: 1 memory".to_owned()];
    let Some(DeploymentState::Reverting { cause }) = step(&view, &deployment()).next else {
        panic!("it goes on")
    };
    assert_eq!(
        cause,
        "no new job became healthy in 120s: 0 of 4 web healthy, 0 of 1 node: 1 memory, \
         job-4: pending"
    );
    view.jobs[4].restarts = 3;
    let Some(DeploymentState::Reverting { cause }) = step(&view, &deployment()).next else {
        panic!("it goes on")
    };
    assert_eq!(cause, "job-4 was started again 3 times: pending");
}

#[test]
fn a_deployment_that_is_over_wants_nothing_of_its_own() {
    let mut deployment = deployment();
    for state in [DeploymentState::Done, DeploymentState::Superseded] {
        deployment.state = state;
        let step = step(&view("v1: web 1", "v2: web 1", "v1 web 1 ready"), &deployment);
        assert_eq!((step.wanted.len(), step.next), (0, None));
    }
}
