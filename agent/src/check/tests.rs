//! Scripts of outcomes and flips, and properties against a rule that looks at the whole history.

use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use portolan_discovery::model::{CheckKind, CheckSpec, Health};
use proptest::prelude::*;

use super::{Check, FAST, Flip, SPREAD};
use crate::probe::Outcome;

#[derive(Clone, Copy)]
struct Rule {
    rise: u8,
    fall: u8,
    start_period_s: u64,
    health: Health,
}

const PLAIN: Rule = Rule { rise: 2, fall: 3, start_period_s: 0, health: Health::Starting };

fn spec(rule: Rule) -> CheckSpec {
    CheckSpec {
        rise: NonZeroU8::new(rule.rise).unwrap(),
        fall: NonZeroU8::new(rule.fall).unwrap(),
        start_period: Duration::from_secs(rule.start_period_s),
        every: Duration::from_secs(5),
        ..CheckSpec::of(CheckKind::Tcp)
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do to begin from")]
fn start() -> Instant {
    Instant::now()
}

fn outcome(ok: bool) -> Outcome {
    Outcome { ok, detail: String::new(), took: Duration::ZERO }
}

/// Outcomes come one a second, the first at 0 s after the start.
fn check(rule: Rule, outcomes: &str, expected: &str) {
    let began = start();
    let mut check = Check::resume(&spec(rule), rule.health, began);
    let flips: Vec<_> = outcomes
        .split_whitespace()
        .zip(0..)
        .map(|(word, second)| {
            let now = began + Duration::from_secs(second);
            match check.observe(&outcome(word == "ok"), now) {
                Some(Flip::Up) => "up",
                Some(Flip::Down) => "down",
                None => "-",
            }
        })
        .collect();
    assert_eq!(flips.join(" "), expected, "after {outcomes}");
}

#[test]
fn the_first_result_decides_at_once() {
    check(PLAIN, "ok", "up");
    check(PLAIN, "fail", "down");
    check(Rule { rise: 9, fall: 9, ..PLAIN }, "fail", "down");
}

#[test]
fn a_check_flips_down_only_after_fall_failures_in_a_row() {
    check(PLAIN, "ok fail ok fail fail ok fail fail fail", "up - - - - - - - down");
    check(Rule { fall: 1, ..PLAIN }, "ok fail", "up down");
}

#[test]
fn a_check_flips_up_only_after_rise_successes_in_a_row() {
    check(PLAIN, "fail ok fail ok ok", "down - - - up");
    check(Rule { rise: 1, ..PLAIN }, "fail ok fail fail fail ok", "down up - - down up");
}

#[test]
fn failures_within_the_start_period_decide_nothing() {
    let slow = Rule { start_period_s: 3, ..PLAIN };
    check(slow, "fail fail fail fail", "- - - down");
    check(slow, "fail fail ok fail fail fail", "- - up - - down");
}

#[test]
fn a_known_health_is_held_until_there_is_evidence_against_it() {
    let up = Rule { health: Health::Up, start_period_s: 10, ..PLAIN };
    check(up, "ok fail fail ok", "- - - -");
    check(up, "fail fail fail ok ok", "- - down - up");
    let down = Rule { health: Health::Down, ..PLAIN };
    check(down, "ok", "up");
    check(down, "fail ok ok", "- - up");
}

#[test]
fn probes_are_fast_from_the_start_to_the_first_success() {
    let began = start();
    let mut check = Check::new(&spec(Rule { start_period_s: 10, ..PLAIN }), began);
    let delay = |check: &Check, after: Duration| {
        let from = began + after;
        check.next_probe(from, 100) - from
    };
    assert_eq!(check.first_probe(7), began);
    check.observe(&outcome(false), began);
    assert_eq!(delay(&check, Duration::ZERO), FAST);
    assert_eq!(delay(&check, Duration::from_secs(9)), FAST);
    assert_eq!(delay(&check, Duration::from_secs(10)), Duration::from_secs(5));
    check.observe(&outcome(true), began);
    assert_eq!(delay(&check, Duration::ZERO), Duration::from_secs(5));
}

#[test]
fn a_known_up_is_probed_fast_until_it_is_confirmed_or_lost() {
    let began = start();
    let up = Rule { health: Health::Up, fall: 2, ..PLAIN };
    let mut check = Check::resume(&spec(up), Health::Up, began);
    assert!(check.first_probe(u64::MAX) <= began + SPREAD);
    check.observe(&outcome(false), began);
    assert_eq!(check.next_probe(began, 100), began + FAST);
    assert_eq!(check.observe(&outcome(false), began), Some(Flip::Down));
    assert_eq!(check.next_probe(began, 100), began + Duration::from_secs(5));
}

#[test]
fn a_start_period_without_end_is_no_overflow() {
    let endless = CheckSpec {
        start_period: Duration::MAX,
        every: Duration::MAX,
        ..CheckSpec::of(CheckKind::Tcp)
    };
    let mut check = Check::new(&endless, start());
    assert_eq!(check.observe(&outcome(false), start()), None);
    assert!(check.next_probe(start(), 0) > start());
}

/// The rule told by its history: what a machine after `history` says.
fn by_history(rule: Rule, history: &[bool]) -> Health {
    let mut health = Health::Starting;
    for end in 1..=history.len() {
        let ok = history[end - 1];
        let in_a_row = |since: usize| {
            history[since..end].iter().rev().take_while(|result| **result == ok).count()
        };
        let since = flipped_at(rule, &history[..end - 1]);
        health = match (health, ok) {
            (Health::Starting, true) => Health::Up,
            (Health::Starting, false) if end as u64 > rule.start_period_s => Health::Down,
            (Health::Up, false) if in_a_row(since) >= usize::from(rule.fall) => Health::Down,
            (Health::Down, true) if in_a_row(since) >= usize::from(rule.rise) => Health::Up,
            (same, _) => same,
        };
    }
    health
}

/// How many results the last flip came after.
fn flipped_at(rule: Rule, history: &[bool]) -> usize {
    (1..=history.len())
        .rev()
        .find(|end| by_history(rule, &history[..*end]) != by_history(rule, &history[..end - 1]))
        .unwrap_or(0)
}

proptest! {
    #[test]
    fn flips_alternate_and_follow_the_history(
        rise in 1u8..4,
        fall in 1u8..4,
        start_period_s in 0u64..4,
        history in prop::collection::vec(any::<bool>(), 1..9),
    ) {
        let rule = Rule { rise, fall, start_period_s, health: Health::Starting };
        let began = start();
        let mut check = Check::new(&spec(rule), began);
        let mut last = None;
        for (second, ok) in history.iter().enumerate() {
            let now = began + Duration::from_secs(second as u64);
            let flip = check.observe(&outcome(*ok), now);
            prop_assert!(flip.is_none() || flip != last, "{flip:?} twice in a row");
            last = flip.or(last);
            prop_assert_eq!(check.health(), by_history(rule, &history[..=second]));
        }
    }

    #[test]
    fn the_next_probe_lies_within_a_tenth_of_the_interval(
        every_ms in 1u64..10_000_000,
        jitter: u64,
    ) {
        let every = Duration::from_millis(every_ms);
        let began = start();
        let mut check = Check::new(&CheckSpec { every, ..spec(PLAIN) }, began);
        check.observe(&outcome(true), began);
        let delay = check.next_probe(began, jitter) - began;
        prop_assert!(delay >= every * 9 / 10 && delay <= every * 11 / 10, "{delay:?}");
    }
}
