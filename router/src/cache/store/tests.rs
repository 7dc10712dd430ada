use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use portolan_discovery::model::CacheRule;
use prometheus::Registry;
use proptest::prelude::*;

use super::*;
use crate::cache::object::{Asking, Known};
use crate::cache::policy::{Arrival, Life};
use crate::cache::{Recorder, Recording};
use crate::h1::{HeadScratch, Limits, RequestFacts, parse_request, parse_response};

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

fn cache(bytes_max: usize) -> Arc<Cache> {
    Cache::new(bytes_max, StoreMetrics::register(&Registry::new()).unwrap())
}

fn key(uri: &str) -> Key {
    Key { uri: format!("http://a{uri}").into(), facet: (*b"facet").into() }
}

#[expect(clippy::disallowed_methods, reason = "a test is its own shell")]
fn now() -> Instant {
    Instant::now()
}

fn facts() -> RequestFacts {
    let mut scratch = HeadScratch::new();
    let asked = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    parse_request(asked, &mut scratch, &Limits::DEFAULT).unwrap().unwrap().facts()
}

fn look(cache: &Arc<Cache>, key: &Key, headers: &dyn Headers, now: Instant) -> Look {
    let question = Question::default();
    let looking = Looking { question: &question, now, may_fetch: true, may_wait: true };
    cache.look(key.clone(), headers, &looking)
}

fn fetch(cache: &Arc<Cache>, key: &Key, headers: &dyn Headers, now: Instant) -> Permit {
    match look(cache, key, headers, now) {
        Look::Fetch(permit, _) => permit,
        other => panic!("{other:?}"),
    }
}

/// Fetches an answer with this body.
fn fill(cache: &Arc<Cache>, key: &Key, headers: &dyn Headers, body: &[u8], now: Instant) {
    let permit = fetch(cache, key, headers, now);
    let _ = keep(permit, headers, "max-age=60", body, now);
}

fn keep(
    permit: Permit,
    headers: &dyn Headers,
    said: &str,
    body: &[u8],
    came: Instant,
) -> Result<(), NotKept> {
    let (mut scratch, request) = (HeadScratch::new(), facts());
    let head = format!(
        "HTTP/1.1 200 OK\r\nCache-Control: {said}\r\nVary: X\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let response = parse_response(head.as_bytes(), &mut scratch, &request, &Limits::DEFAULT);
    let recording = Recording {
        route: &"r".parse().unwrap(),
        request: &request,
        headers,
        ignored: None,
        date: DATE,
        limits: &Limits::DEFAULT,
    };
    let (rule, question) = (CacheRule::usual(), Question::default());
    let arrival = Arrival { now_s: 784_111_777, delay: Duration::ZERO };
    let asking = Asking { rule: &rule, question: &question, arrival, came };
    let response = response.unwrap().unwrap();
    let mut recorder =
        Recorder::begin(permit, &response, &recording, &asking).map_err(|(_, why)| why)?;
    recorder.push(body);
    recorder.end().map_err(|(_, why)| why)
}

fn is_hit(cache: &Arc<Cache>, key: &Key, headers: &dyn Headers, now: Instant) -> bool {
    matches!(look(cache, key, headers, now), Look::Hit(_))
}

#[test]
fn what_was_kept_is_found_until_it_is_stale() {
    let (cache, start) = (cache(1 << 20), now());
    fill(&cache, &key("/"), &(), b"body", start);
    let Look::Hit(object) = look(&cache, &key("/"), &(), start) else { panic!() };
    assert_eq!((&object.body()[..], object.age(start)), (&b"body"[..], 0));
    assert!(is_hit(&cache, &key("/"), &(), start + Duration::from_secs(59)));
    let later = start + Duration::from_secs(60);
    assert!(matches!(look(&cache, &key("/"), &(), later), Look::Fetch(_, Some(_))));
    assert!(matches!(look(&cache, &key("/other"), &(), start), Look::Fetch(_, None)));
    let other = Key { facet: (*b"other").into(), ..key("/") };
    assert!(matches!(look(&cache, &other, &(), start), Look::Fetch(_, None)));
}

#[test]
fn one_fetches_and_the_others_wait_until_it_is_over() {
    let (cache, now) = (cache(1 << 20), now());
    let permit = fetch(&cache, &key("/"), &(), now);
    let Look::Wait(done) = look(&cache, &key("/"), &(), now) else { panic!() };
    assert!(matches!(look(&cache, &key("/?"), &(), now), Look::Fetch(..)));
    assert_eq!(done.has_changed().ok(), Some(false));
    drop(permit);
    assert!(done.has_changed().is_err(), "its sender is gone");
    assert!(matches!(look(&cache, &key("/"), &(), now), Look::Fetch(..)));
}

#[test]
fn so_many_wait_and_no_more() {
    let (cache, now) = (cache(1 << 20), now());
    let _permit = fetch(&cache, &key("/"), &(), now);
    let waiting: Vec<_> = (0..WAITERS_MAX).map(|_| look(&cache, &key("/"), &(), now)).collect();
    assert!(waiting.iter().all(|look| matches!(look, Look::Wait(_))));
    assert!(matches!(look(&cache, &key("/"), &(), now), Look::Pass(None)));
    drop(waiting);
    assert!(matches!(look(&cache, &key("/"), &(), now), Look::Wait(_)));
}

#[test]
fn one_that_is_slow_gives_up_its_place_and_what_it_brings_does_not_undo_what_is_newer() {
    let (cache, start) = (cache(1 << 20), now());
    let slow = fetch(&cache, &key("/"), &(), start);
    let later = start + SLOW_AFTER;
    let quick = fetch(&cache, &key("/"), &(), later);
    assert!(matches!(look(&cache, &key("/"), &(), later), Look::Wait(_)));
    assert_eq!(keep(quick, &(), "max-age=60", b"new", later), Ok(()));
    assert_eq!(keep(slow, &(), "max-age=60", b"old", start), Err(NotKept::Cleared));
    let Look::Hit(object) = look(&cache, &key("/"), &(), later) else { panic!() };
    assert_eq!(&object.body()[..], b"new");
}

#[test]
fn what_is_not_kept_is_known_for_a_while() {
    let (cache, start) = (cache(1 << 20), now());
    let permit = fetch(&cache, &key("/"), &(), start);
    permit.mark(Mark::Passes, Duration::from_secs(9), start);
    drop(permit);
    assert!(matches!(look(&cache, &key("/"), &(), start), Look::Pass(None)));
    let other = Key { facet: (*b"other").into(), ..key("/") };
    assert!(matches!(look(&cache, &other, &(), start), Look::Fetch(..)));
    let later = start + Duration::from_secs(9);
    fill(&cache, &key("/"), &(), b"x", later);
    assert!(is_hit(&cache, &key("/"), &(), later));
}

#[test]
fn what_is_under_way_is_not_kept_once_it_is_void() {
    let (cache, now) = (cache(1 << 20), now());
    for clear in [true, false] {
        let permit = fetch(&cache, &key("/"), &(), now);
        match clear {
            true => assert_eq!(cache.clear(&Clear::default()), 0),
            false => cache.invalidate(&key("/").uri),
        }
        // The next ones do not wait for it.
        assert!(matches!(look(&cache, &key("/"), &(), now), Look::Fetch(..)));
        permit.mark(Mark::Passes, Duration::from_secs(9), now);
        assert_eq!(keep(permit, &(), "max-age=60", b"x", now), Err(NotKept::Cleared));
        assert!(matches!(look(&cache, &key("/"), &(), now), Look::Fetch(..)));
        assert_eq!((cache.bytes(), cache.answers()), (0, 0));
    }
}

#[test]
fn what_is_asked_for_again_stays_and_what_is_asked_for_once_goes() {
    let (cache, now) = (cache(2 << 20), now());
    let body = vec![b'x'; 20_000];
    let popular: Vec<Key> = (0..10).map(|n| key(&format!("/popular/{n}"))).collect();
    popular.iter().for_each(|key| fill(&cache, key, &(), &body, now));
    for number in 0..1_000 {
        for key in &popular {
            assert!(is_hit(&cache, key, &(), now), "{number} {key:?}");
        }
        fill(&cache, &key(&format!("/once/{number}")), &(), &body, now);
        assert!(cache.bytes() <= 2 << 20);
    }
    assert!(cache.answers() > 80);
}

#[test]
fn what_is_written_down_has_a_limit_of_its_own() {
    let (cache, now) = (cache(100_000), now());
    fill(&cache, &key("/kept"), &(), b"x", now);
    let mut first = Reserved::new(&cache);
    assert!(first.grow_to(20_000) && !first.grow_to(30_000));
    let mut second = Reserved::new(&cache);
    assert!(!second.grow_to(10_000));
    drop(first);
    assert!(second.grow_to(20_000));
    drop(second);
    let permit = fetch(&cache, &key("/"), &(), now);
    assert_eq!(keep(permit, &(), "max-age=60", &[0; 30_000], now), Err(NotKept::NoRoom));
    assert!(is_hit(&cache, &key("/kept"), &(), now));
}

#[test]
fn an_object_is_shared_when_it_is_refreshed() {
    let life = Life {
        initial_age: 0,
        lifetime: 0,
        while_revalidate: 0,
        if_error: 0,
        always_validate: true,
    };
    let (mut scratch, request, now) = (HeadScratch::new(), facts(), now());
    let head = b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\n\r\n";
    let response = parse_response(head, &mut scratch, &request, &Limits::DEFAULT);
    let response = response.unwrap().unwrap();
    let mut kept = Vec::new();
    response.write_kept(DATE, &mut kept);
    let body = Bytes::from_static(b"body");
    let object = Object::new(&Known::of(&response, life, now), kept, body);
    let head = b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=5\r\nETag: \"b\"\r\n\r\n";
    let mut scratch = HeadScratch::new();
    let by = parse_response(head, &mut scratch, &request, &Limits::DEFAULT).unwrap().unwrap();
    let (rule, question) = (CacheRule::usual(), Question::default());
    let arrival = Arrival { now_s: 784_111_777, delay: Duration::ZERO };
    let asking = Asking { rule: &rule, question: &question, arrival, came: now };
    let (new, kept) = object.refreshed(&by, &request, DATE, &asking);
    assert_eq!((kept, new.life().lifetime, new.life().always_validate), (Ok(()), 5, false));
    assert_eq!(new.body().as_ptr(), object.body().as_ptr());
    let mut conditions = Vec::new();
    new.write_conditions(&mut conditions);
    assert_eq!(conditions, b"If-None-Match: \"b\"\r\n");
    // What must not be kept any longer is not.
    let head = b"HTTP/1.1 304 Not Modified\r\nCache-Control: private\r\n\r\n";
    let mut scratch = HeadScratch::new();
    let by = parse_response(head, &mut scratch, &request, &Limits::DEFAULT).unwrap().unwrap();
    let (served, kept) = object.refreshed(&by, &request, DATE, &asking);
    assert_eq!((kept, served.body().len()), (Err(NotKept::Forbidden), 4));
}

/// What a test does with a small store.
#[derive(Debug, Clone)]
enum Act {
    Fill { path: u8, x: u8, bytes: usize },
    Look { path: u8, x: u8 },
    Mark { path: u8 },
    Invalidate { path: u8 },
    Clear { path: Option<u8> },
    Later { seconds: u64 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let path = 0..6_u8;
    prop::collection::vec(
        prop_oneof![
            6 => (path.clone(), 0..3_u8, 0..5_000_usize)
                .prop_map(|(path, x, bytes)| Act::Fill { path, x, bytes }),
            6 => (path.clone(), 0..3_u8).prop_map(|(path, x)| Act::Look { path, x }),
            1 => path.clone().prop_map(|path| Act::Mark { path }),
            1 => path.clone().prop_map(|path| Act::Invalidate { path }),
            1 => prop::option::of(path).prop_map(|path| Act::Clear { path }),
            1 => (1..40_u64).prop_map(|seconds| Act::Later { seconds }),
        ],
        0..80,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Never anything but the newest answer for a path and a field, never one that is stale or
    /// void, never more bytes than there may be, and none lost.
    #[test]
    fn a_store_of_any_history_serves_what_it_may_and_counts_what_it_has(acts in acts()) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (cache, start) = (cache(40_000), now());
        let mut time = start;
        let mut newest: HashMap<(u8, u8), (Vec<u8>, Instant)> = HashMap::new();
        let field = |x: u8| vec![("x".to_owned(), x.to_string())];
        let at = |path: u8| key(&format!("/{path}"));
        for act in acts {
            match act {
                Act::Fill { path, x, bytes } => {
                    if let Look::Fetch(permit, _) = look(&cache, &at(path), &field(x), time) {
                        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                        let mut body = number.to_le_bytes().to_vec();
                        body.resize(8 + bytes, 0);
                        if keep(permit, &field(x), "max-age=60", &body, time).is_ok() {
                            newest.insert((path, x), (body, time));
                        }
                    }
                }
                Act::Look { path, x } => {
                    if let Look::Hit(object) = look(&cache, &at(path), &field(x), time) {
                        let (body, came) = &newest[&(path, x)];
                        prop_assert_eq!(&object.body()[..], body);
                        prop_assert!(time - *came < Duration::from_secs(60));
                    }
                }
                Act::Mark { path } => {
                    cache.set_mark(&at(path), Mark::Passes, time + Duration::from_secs(5), time);
                }
                Act::Invalidate { path } => {
                    cache.invalidate(&at(path).uri);
                    newest.retain(|(other, _), _| *other != path);
                }
                Act::Clear { path } => {
                    cache.clear(&Clear { path: path.map(|p| format!("/{p}")), ..Clear::default() });
                    newest.retain(|(other, _), _| path.is_some_and(|path| path != *other));
                }
                Act::Later { seconds } => time += Duration::from_secs(seconds),
            }
            prop_assert!(cache.bytes() <= 40_000);
            prop_assert_eq!(cache.recording.load(Ordering::Relaxed), 0);
            prop_assert_eq!(cache.metrics.answers.get(), cache.answers() as i64);
        }
        while cache.evict() {}
        prop_assert_eq!((cache.bytes(), cache.answers()), (0, 0));
        prop_assert!(cache.shards.iter().all(|part| lock(part).fills.is_empty()));
    }
}
