//! Upstreams that fail: fresh names, one after the other, and a client that does not ask again.

use std::time::Duration;

use crate::fake::{Fake, Manner};
use crate::live::{Live, code, now};
use crate::message::data;

const NAMES: usize = 60;
/// The bar for a single look-up.
const WORST: Duration = Duration::from_millis(400);

/// Asks for fresh names and says how long the slowest took; `between` is told each number.
fn ask_all(live: &Live, mut between: impl FnMut(usize)) -> Duration {
    let mut worst = Duration::ZERO;
    for n in 0..NAMES {
        between(n);
        let start = now();
        let reply = live.ask(&format!("name-{n}.example.org"));
        worst = worst.max(start.elapsed());
        assert_eq!((code(&reply), data(&reply)), (0, vec!["192.0.2.1".to_owned()]), "name {n}");
    }
    worst
}

fn check(what: &str, manner: Manner) {
    for bad_first in [true, false] {
        let (bad, good) = (Fake::start(manner), Fake::start(Manner::Answer));
        let addrs = if bad_first { [bad.addr, good.addr] } else { [good.addr, bad.addr] };
        let live = Live::start(&addrs);
        let worst = ask_all(&live, |_| {});
        assert!(worst <= WORST, "{what}, first {bad_first}: {worst:?}");
        live.stop();
    }
}

#[test]
fn no_lookup_fails_when_one_upstream_drops_everything() {
    check("silent", Manner::Silent);
}

#[test]
fn no_lookup_fails_when_one_upstream_says_servfail() {
    check("SERVFAIL", Manner::Code(2));
}

#[test]
fn no_lookup_fails_when_one_upstream_says_refused() {
    check("REFUSED", Manner::Code(5));
}

#[test]
fn no_lookup_fails_when_one_upstream_sends_half_answers() {
    check("broken", Manner::Broken);
}

#[test]
fn no_lookup_fails_when_one_upstream_is_slow() {
    check("slow", Manner::Slow(Duration::from_millis(200)));
}

#[test]
fn no_lookup_fails_when_one_upstream_is_not_there() {
    let good = Fake::start(Manner::Answer);
    // Its port was free a moment ago.
    let absent = Fake::start(Manner::Answer).addr;
    let live = Live::start(&[absent, good.addr]);
    let worst = ask_all(&live, |_| {});
    assert!(worst <= WORST, "{worst:?}");
    live.stop();
}

#[test]
fn no_lookup_fails_when_the_preferred_upstream_dies_and_it_is_used_again_later() {
    let (first, second) = (Fake::start(Manner::Answer), Fake::start(Manner::Answer));
    let live = Live::start(&[first.addr, second.addr]);
    let worst = ask_all(&live, |n| {
        if n == 20 {
            assert_eq!((first.asked().len(), second.asked().len()), (20, 0));
            first.set(Manner::Silent);
        }
    });
    assert!(worst <= WORST, "{worst:?}");
    let hedged = first.asked().len();
    // After the first silence the second one is asked at once.
    assert!(hedged < 30, "the silent one was asked {hedged} times");

    first.set(Manner::Answer);
    let start = now();
    for n in 0.. {
        let name = format!("back-{n}.example.org");
        live.ask(&name);
        if first.count(&name) == 1 && second.count(&name) == 0 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "it is never used again");
        std::thread::sleep(Duration::from_millis(20));
    }
    live.stop();
}

#[test]
fn a_denial_is_an_answer_and_nobody_else_is_asked() {
    let (first, second) = (Fake::start(Manner::Answer), Fake::start(Manner::Answer));
    let live = Live::start(&[first.addr, second.addr]);
    for n in 0..20 {
        assert_eq!(code(&live.ask(&format!("nx-{n}.example.org"))), 3);
        assert_eq!(code(&live.ask(&format!("nodata-{n}.example.org"))), 0);
    }
    assert_eq!((first.asked().len(), second.asked().len()), (40, 0));
    live.stop();
}

#[test]
fn when_all_are_silent_the_answer_is_servfail_within_four_seconds() {
    let upstreams = [Fake::start(Manner::Silent), Fake::start(Manner::Silent)];
    let live = Live::start(&upstreams.each_ref().map(|fake| fake.addr));
    let start = now();
    assert_eq!(code(&live.ask("lost.example.org")), 2);
    let took = start.elapsed();
    assert!(took < Duration::from_millis(4500), "{took:?}");
    // A datagram may be lost: each was asked more than once.
    assert!(upstreams.iter().all(|fake| fake.asked().len() > 1));
    // Now they are known to be down, and the next one is told sooner.
    let start = now();
    assert_eq!(code(&live.ask("lost-too.example.org")), 2);
    let took = start.elapsed();
    assert!(took < Duration::from_millis(2000), "{took:?}");
    assert!(live.metric("portolan_dns_upstream_failures_total", &[("reason", "timeout")]) > 2);
    live.stop();
}

#[test]
fn when_all_say_no_the_answer_is_servfail_at_once_and_each_was_asked_once() {
    let upstreams = [Fake::start(Manner::Code(2)), Fake::start(Manner::Code(5))];
    let live = Live::start(&upstreams.each_ref().map(|fake| fake.addr));
    let start = now();
    assert_eq!(code(&live.ask("lost.example.org")), 2);
    assert!(start.elapsed() < WORST, "{:?}", start.elapsed());
    assert!(upstreams.iter().all(|fake| fake.asked().len() == 1));
    for reason in ["servfail", "refused"] {
        let failures = live.metric("portolan_dns_upstream_failures_total", &[("reason", reason)]);
        assert_eq!(failures, 1, "{reason}");
    }
    live.stop();
}

#[test]
fn one_lost_datagram_costs_a_second_and_no_answer() {
    let fake = Fake::start(Manner::Silent);
    let live = Live::start(&[fake.addr]);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| live.ask("lost-once.example.org"));
        crate::live::wait_until("the first query", || !fake.asked().is_empty());
        fake.set(Manner::Answer);
        assert_eq!(code(&asking.join().unwrap()), 0);
    });
    assert_eq!(fake.count("lost-once.example.org"), 2);
    live.stop();
}
