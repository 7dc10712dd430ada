use super::*;

const RULES: Rules = Rules {
    drains: true,
    drain_timeout: Duration::from_secs(30),
    kill_timeout: Duration::from_secs(10),
};

fn now(ms: u64) -> Now {
    Now { at: Duration::from_millis(ms), unix_ms: 1_000_000 + ms }
}

/// Reads a script: `TIME EVENT` a step; answers with the actions of each, a step a line.
fn play(life: &mut Life, script: &str) -> String {
    let mut said = Vec::new();
    for step in script.split(';') {
        let (ms, word) = step.trim().split_once(' ').unwrap();
        let event = match word {
            "run" => Event::Want(Want::Run),
            "stop" => Event::Want(Want::Stop),
            "gone" => Event::Want(Want::Gone),
            "started" => Event::Started,
            "pass" => Event::Passing,
            "fail" => Event::Failing(Some("tcp: refused".into())),
            "drained" => Event::Drained,
            "tick" => Event::Tick,
            how => Event::Ended(how.to_owned()),
        };
        let actions = life.on(event, now(ms.parse().unwrap()));
        let words: Vec<String> = actions.iter().map(word_of).collect();
        said.push(if words.is_empty() { "-".to_owned() } else { words.join(" ") });
    }
    said.join("; ")
}

fn word_of(action: &Action) -> String {
    match action {
        Action::Say(JobState::Backoff { until_ms, .. }) => {
            format!("Backoff+{}", until_ms - 1_000_000)
        }
        Action::Say(state) => format!("{state:?}!"),
        Action::Health(health, _) => format!("{health:?}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn check(origin: Past, script: &str, expected: &str) -> Life {
    let mut life = Life::new(RULES, origin, 0, 0);
    assert_eq!(play(&mut life, script), expected, "{script}");
    life
}

const UP: &str = "0 run; 5 started; 10 pass";
const UP_SAYS: &str = "launch; register Starting!; Up Running!";

#[test]
fn a_job_is_running_once_its_checks_have_passed() {
    check(
        Past::Fresh,
        "0 run; 5 started; 6 fail; 10 pass; 20 fail; 30 pass",
        "launch; register Starting!; Starting; Up Running!; Down; Up",
    );
}

#[test]
fn an_end_takes_it_out_at_once_and_starts_it_again_after_a_growing_pause() {
    let mut life = Life::new(RULES, Past::Fresh, 0, 0);
    play(&mut life, UP);
    let mut at = 100;
    for pause in [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
        let expected = format!("deregister Backoff+{}", at + pause);
        assert_eq!(play(&mut life, &format!("{at} exit status 1")), expected);
        assert_eq!(life.deadline(), Some(Duration::from_millis(at + pause)));
        if pause > 0 {
            assert_eq!(play(&mut life, &format!("{} tick", at + pause - 1)), "-");
        }
        at += pause;
        assert_eq!(
            play(&mut life, &format!("{at} tick; {at} started")),
            "launch; register Starting!"
        );
    }
    assert_eq!(life.restarts, 8);
}

#[test]
fn a_long_time_up_earns_a_short_pause_again() {
    for (up_ms, failures) in [(59_999, 5), (60_000, 1)] {
        let mut life = Life::new(RULES, Past::Fresh, 0, 4);
        play(&mut life, UP);
        play(&mut life, &format!("{} signal 9", 10 + up_ms));
        assert_eq!(life.failures, failures, "after {up_ms} ms");
    }
    // A job that runs without ever being up earns nothing.
    let mut life = Life::new(RULES, Past::Fresh, 0, 4);
    play(&mut life, "0 run; 5 started; 90000 signal 9");
    assert_eq!(life.failures, 5);
    // What it was up before the agent came back counts.
    let mut life = Life::new(RULES, Past::Live(Some(Duration::from_secs(59))), 0, 4);
    play(&mut life, "1000 signal 9");
    assert_eq!(life.failures, 1);
}

#[test]
fn a_job_that_cannot_start_waits_like_one_that_ended() {
    check(
        Past::Fresh,
        "0 run; 5 command not found; 5 tick; 9 command not found",
        "launch; deregister Backoff+5; launch; deregister Backoff+1009",
    );
}

#[test]
fn a_stop_drains_then_terminates_then_kills() {
    check(
        Past::Fresh,
        &format!("{UP}; 20 stop; 25 drained; 10024 tick; 10025 tick; 15025 tick; 15030 signal 9"),
        &format!(
            "{UP_SAYS}; drain Draining!; terminate Stopping!; -; kill; kill; deregister Stopped!"
        ),
    );
}

#[test]
fn routers_that_never_answer_hold_a_stop_up_for_a_bounded_time() {
    check(
        Past::Fresh,
        &format!("{UP}; 20 stop; 30019 tick; 30020 tick; 30021 drained"),
        &format!("{UP_SAYS}; drain Draining!; -; terminate Stopping!; -"),
    );
}

#[test]
fn a_job_that_was_never_up_is_not_drained() {
    check(
        Past::Fresh,
        "0 run; 5 started; 6 stop; 7 exit status 0",
        "launch; register Starting!; terminate Stopping!; deregister Stopped!",
    );
}

#[test]
fn a_stop_before_the_start_is_not_lost() {
    check(
        Past::Fresh,
        "0 run; 1 stop; 5 started; 6 signal 15",
        "launch; -; terminate Stopping!; deregister Stopped!",
    );
    check(Past::Fresh, "0 run; 1 stop; 5 command not found", "launch; -; deregister Stopped!");
    check(Past::Fresh, "0 stop; 1 gone", "deregister Stopped!; deregister forget");
    check(Past::Fresh, "0 run; 1 stop; 2 run; 5 started", "launch; -; -; register Starting!");
}

#[test]
fn a_job_wanted_again_before_it_was_told_to_end_goes_on() {
    check(
        Past::Fresh,
        &format!("{UP}; 20 stop; 25 run; 26 drained; 99999 tick; 99999 exit status 1"),
        &format!("{UP_SAYS}; drain Draining!; undrain Running!; -; -; deregister Backoff+99999"),
    );
}

#[test]
fn a_job_wanted_again_after_it_was_told_to_end_is_started_anew() {
    let life = check(
        Past::Fresh,
        &format!("{UP}; 20 stop; 25 drained; 26 run; 30 signal 15; 35 started"),
        &format!(
            "{UP_SAYS}; drain Draining!; terminate Stopping!; -; deregister launch; register Starting!"
        ),
    );
    assert_eq!((life.restarts, life.failures), (0, 0));
}

#[test]
fn a_job_without_a_placement_is_stopped_and_forgotten() {
    let life = check(
        Past::Live(Some(Duration::ZERO)),
        "0 gone; 5 drained; 9 signal 15",
        "drain Draining!; terminate Stopping!; deregister forget",
    );
    assert!(life.is_over());
    check(Past::Stopped, "0 stop; 1 gone; 2 run", "-; deregister forget; -");
    check(Past::Waiting(Duration::from_secs(9)), "0 gone", "deregister forget");
}

#[test]
fn an_end_during_a_drain_is_the_end() {
    check(
        Past::Fresh,
        &format!("{UP}; 20 stop; 25 exit status 1; 30 drained; 99999 tick"),
        &format!("{UP_SAYS}; drain Draining!; deregister Stopped!; -; -"),
    );
}

#[test]
fn what_was_there_before_goes_on_where_it_was() {
    check(Past::Live(None), "0 run; 5 pass", "-; Up Running!");
    check(Past::Live(Some(Duration::ZERO)), "0 run; 5 fail", "-; Down");
    let waiting = Past::Waiting(Duration::from_secs(2));
    check(waiting, "0 run; 1999 tick; 2000 tick", "-; -; launch");
    check(Past::Stopped, "0 run", "launch");
}

#[test]
fn a_worker_without_an_address_is_not_drained() {
    let mut life = Life::new(Rules { drains: false, ..RULES }, Past::Fresh, 0, 0);
    play(&mut life, UP);
    assert_eq!(play(&mut life, "20 stop"), "terminate Stopping!");
}

proptest::proptest! {
    /// Whatever happens in whatever order: what is wanted in the end comes about, and a process
    /// is never started while another one may run.
    #[test]
    fn any_order_of_events_ends_where_it_is_wanted(
        steps in proptest::collection::vec(0u8..8, 0..60),
        last in 0u8..3,
    ) {
        let mut life = Life::new(RULES, Past::Fresh, 0, 0);
        let mut world = World::default();
        let want = |n: u8| [Want::Run, Want::Stop, Want::Gone][usize::from(n)];
        for step in steps {
            match step {
                0..3 => world.step(&mut life, Event::Want(want(step))),
                3 => world.launched(&mut life),
                4 => world.died(&mut life),
                5 => world.step(&mut life, Event::Passing),
                6 => world.step(&mut life, Event::Drained),
                _ => world.tick(&mut life),
            }
            if life.is_over() {
                return Ok(());
            }
        }
        world.step(&mut life, Event::Want(want(last)));
        for _ in 0..4 {
            world.launched(&mut life);
            world.step(&mut life, Event::Drained);
            if want(last) != Want::Run || matches!(life.stage, Stage::Stopping { .. }) {
                world.died(&mut life);
            }
            world.tick(&mut life);
        }
        match want(last) {
            Want::Run => proptest::prop_assert!(world.runs, "{life:?}"),
            Want::Stop => proptest::prop_assert_eq!(life.stage, Stage::Stopped),
            Want::Gone => proptest::prop_assert!(life.is_over(), "{life:?}"),
        }
    }
}

/// The process, as the actions make it.
#[derive(Default)]
struct World {
    ms: u64,
    launching: bool,
    runs: bool,
    registered: bool,
}

impl World {
    fn step(&mut self, life: &mut Life, event: Event) {
        self.ms += 1;
        for action in life.on(event, now(self.ms)) {
            match action {
                Action::Launch => {
                    assert!(!self.launching && !self.runs, "two processes: {life:?}");
                    self.launching = true;
                }
                Action::Register => self.registered = true,
                Action::Deregister => {
                    assert!(!self.runs, "a record goes with its process: {life:?}");
                    self.registered = false;
                }
                Action::Health(..) | Action::Drain | Action::Undrain => {
                    assert!(self.registered && self.runs, "{life:?}");
                }
                Action::Terminate | Action::Kill => assert!(self.runs, "{life:?}"),
                Action::Forget => assert!(!self.runs && !self.registered, "{life:?}"),
                Action::Say(_) => {}
            }
        }
    }

    fn launched(&mut self, life: &mut Life) {
        if std::mem::take(&mut self.launching) {
            self.runs = true;
            self.step(life, Event::Started);
        }
    }

    fn died(&mut self, life: &mut Life) {
        if std::mem::take(&mut self.launching) | std::mem::take(&mut self.runs) {
            self.step(life, Event::Ended("signal 9".into()));
        }
    }

    fn tick(&mut self, life: &mut Life) {
        if let Some(deadline) = life.deadline() {
            self.ms = self.ms.max(u64::try_from(deadline.as_millis()).unwrap());
            self.step(life, Event::Tick);
        }
    }
}
