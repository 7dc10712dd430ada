use portolan_discovery::model::CacheWish;
use proptest::prelude::*;

use super::*;
use crate::h1::{HeadScratch, Limits, parse_request, parse_response};

/// Sun, 06 Nov 1994 08:49:37 GMT.
const NOW_S: u64 = 784_111_777;
const NOW: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT";
const ARRIVAL: Arrival = Arrival { now_s: NOW_S, delay: Duration::ZERO };

fn rule(change: impl FnOnce(&mut CacheWish)) -> CacheRule {
    let mut wish = CacheWish::default();
    change(&mut wish);
    CacheRule::new(&wish).unwrap()
}

fn asked(head: &str) -> Result<Question, Bypass> {
    asked_of(head, &CacheRule::usual())
}

fn asked_of(head: &str, rule: &CacheRule) -> Result<Question, Bypass> {
    let mut scratch = HeadScratch::new();
    let head = format!("{head}\nHost: a\n\n").replace('\n', "\r\n");
    let request = parse_request(head.as_bytes(), &mut scratch, &Limits::DEFAULT).unwrap().unwrap();
    question(&request.facts(), &request, rule)
}

fn kept_by(rule: &CacheRule, question: &Question, answer: &str) -> Result<Life, NotKept> {
    let mut scratch = HeadScratch::new();
    let asked = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let asked = parse_request(asked, &mut scratch, &Limits::DEFAULT).unwrap().unwrap().facts();
    let length = if answer.contains("-Encoding") { "" } else { "\nContent-Length: 5" };
    let head = format!("HTTP/1.1 {answer}{length}\n\n").replace('\n', "\r\n");
    let response = parse_response(head.as_bytes(), &mut scratch, &asked, &Limits::DEFAULT);
    keep(&response.unwrap().unwrap(), rule, question, &ARRIVAL)
}

fn kept(answer: &str) -> Result<Life, NotKept> {
    kept_by(&CacheRule::usual(), &Question::default(), answer)
}

const LIFE: Life =
    Life { initial_age: 1, lifetime: 60, while_revalidate: 0, if_error: 0, always_validate: false };

#[test]
fn rfc_9111_3_only_get_and_head_without_anything_special_are_asked_of_a_cache() {
    assert_eq!(asked("GET / HTTP/1.1"), Ok(Question::default()));
    assert_eq!(asked("HEAD / HTTP/1.1"), Ok(Question::default()));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
        assert_eq!(asked(&format!("{method} / HTTP/1.1")), Err(Bypass::Method), "{method}");
    }
    for field in [
        // §3.5 would allow some.
        "Authorization: Basic x",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Range: bytes=0-1",
        "If-Range: \"a\"",
        "If-Match: \"a\"",
        "If-Unmodified-Since: yesterday",
        "Connection: upgrade\nUpgrade: websocket",
        "Cache-Control: max-age=5, no-store",
    ] {
        assert_eq!(asked(&format!("GET / HTTP/1.1\n{field}")), Err(Bypass::Request), "{field}");
    }
}

#[test]
fn rfc_9111_5_2_1_a_client_may_ask_for_more_unless_the_route_says_no() {
    for (fields, expected) in [
        ("Cache-Control: no-cache", Question { no_cache: true, ..Question::default() }),
        ("Cache-Control: max-age=5", Question { max_age: Some(5), ..Question::default() }),
        ("Cache-Control: min-fresh=5", Question { min_fresh: 5, ..Question::default() }),
        ("Cookie: a=b", Question { has_cookie: true, ..Question::default() }),
        // §5.4
        ("Pragma: no-cache", Question { no_cache: true, ..Question::default() }),
        ("Pragma: no-cache\nCache-Control: max-stale", Question::default()),
        ("Cache-Control: only-if-cached", Question::default()),
    ] {
        let head = format!("GET / HTTP/1.1\n{fields}");
        assert_eq!(asked(&head), Ok(expected), "{fields}");
        let stubborn = rule(|wish| wish.obey_requests = Some(false));
        let has_cookie = expected.has_cookie;
        let expected = Question { has_cookie, ..Question::default() };
        assert_eq!(asked_of(&head, &stubborn), Ok(expected), "{fields}");
    }
}

#[test]
fn rfc_9111_4_2_1_how_long_it_is_fresh_is_what_is_said_for_caches_first() {
    for (fields, lifetime) in [
        ("Cache-Control: max-age=60", Some(60)),
        ("Cache-Control: max-age=5, s-maxage=60", Some(60)),
        ("Cache-Control: max-age=60\nExpires: Sun, 06 Nov 1994 08:50:00 GMT", Some(60)),
        ("Expires: Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        // Against the clock of who sent it.
        ("Expires: Sun, 06 Nov 1994 08:49:36 GMT\nETag: \"a\"", Some(0)),
        // §5.3
        ("Expires: 0\nETag: \"a\"", Some(0)),
        ("Cache-Control: max-age=x\nETag: \"a\"", Some(0)),
        ("Cache-Control: public", None),
        ("Last-Modified: Sat, 05 Nov 1994 08:49:37 GMT", None),
        ("", None),
    ] {
        let answer = format!("200 OK\n{NOW}\n{fields}");
        let found = kept(answer.trim_end()).map(|life| life.lifetime);
        assert_eq!(found, lifetime.ok_or(NotKept::NoLifetime), "{fields}");
    }
}

#[test]
fn rfc_9111_4_2_2_a_guess_is_made_if_the_route_says_so() {
    let guess = |change: fn(&mut CacheWish), question: &Question, status: &str, fields: &str| {
        let answer = format!("{status}\n{NOW}{fields}");
        kept_by(&rule(change), question, &answer).map(|life| life.lifetime)
    };
    let heuristic: fn(&mut CacheWish) = |wish| wish.heuristic = Some(true);
    let default_ttl: fn(&mut CacheWish) = |wish| wish.default_ttl = Some(Duration::from_secs(7));
    let (nobody, question) = (Err(NotKept::NoLifetime), Question::default());
    let day = "\nLast-Modified: Sat, 05 Nov 1994 08:49:37 GMT";
    let year = "\nLast-Modified: Fri, 05 Nov 1993 08:49:37 GMT";
    assert_eq!(guess(heuristic, &question, "200 OK", day), Ok(8_640));
    assert_eq!(guess(heuristic, &question, "200 OK", year), Ok(86_400));
    assert_eq!(guess(heuristic, &question, "200 OK", ""), nobody);
    assert_eq!(guess(default_ttl, &question, "200 OK", day), Ok(7));
    assert_eq!(guess(default_ttl, &question, "404 No", ""), Ok(7));
    // What is said counts, zero too.
    assert_eq!(guess(default_ttl, &question, "200 OK", "\nCache-Control: max-age=5"), Ok(5));
    assert_eq!(guess(default_ttl, &question, "200 OK", "\nCache-Control: max-age=0"), nobody);
    // Not for what is of a moment, nor for one of many clients.
    assert_eq!(guess(default_ttl, &question, "302 Found", ""), nobody);
    let cookie = Question { has_cookie: true, ..question };
    assert_eq!(guess(default_ttl, &cookie, "200 OK", ""), nobody);
    assert_eq!(guess(default_ttl, &cookie, "200 OK", "\nCache-Control: max-age=5"), Ok(5));
}

#[test]
fn rfc_9111_3_what_may_not_be_kept_is_not() {
    use NotKept::{Forbidden, Framing, SetCookie, Status, TooLarge, Vary};
    for (fields, why) in [
        ("Cache-Control: max-age=60, no-store", Forbidden),
        ("Cache-Control: max-age=60\nCache-Control: private", Forbidden),
        ("Cache-Control: max-age=60, private=\"x\"", Forbidden),
        ("Cache-Control: public, s-maxage=60\nSet-Cookie: a=b", SetCookie),
        ("Cache-Control: max-age=60\nVary: *", Vary),
        ("Cache-Control: max-age=60\nVary: Accept\nVary: X-Forwarded-Proto", Vary),
        ("Cache-Control: max-age=60\nTransfer-Encoding: gzip, chunked", Framing),
        ("Cache-Control: max-age=60\nContent-Range: bytes 0-4/9", Status),
    ] {
        assert_eq!(kept(&format!("200 OK\n{fields}")), Err(why), "{fields}");
    }
    for (status, is_kept) in [
        (200, true),
        (203, true),
        (204, true),
        (206, false),
        (300, true),
        (301, true),
        (302, true),
        (304, false),
        (308, true),
        (400, false),
        (401, false),
        (403, true),
        (404, true),
        (407, false),
        (410, true),
        (429, false),
        (500, false),
        (501, true),
        (503, false),
        (999, false),
    ] {
        let found = kept(&format!("{status} A\nCache-Control: max-age=60"));
        assert_eq!(found.is_ok(), is_kept, "{status} {found:?}");
        assert!(is_kept || found == Err(Status));
    }
    let small = rule(|wish| wish.object_bytes_max = Some(4));
    let large = kept_by(&small, &Question::default(), "200 OK\nCache-Control: max-age=60");
    assert_eq!(large, Err(TooLarge));
}

#[test]
fn rfc_9111_4_2_3_the_age_is_the_larger_of_what_is_said_and_what_is_seen() {
    let age = |fields: &str, delay: u64| {
        let mut scratch = HeadScratch::new();
        let asked = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let asked = parse_request(asked, &mut scratch, &Limits::DEFAULT).unwrap().unwrap().facts();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: max-age=600\r\n{fields}\r\n"
        );
        let response = parse_response(head.as_bytes(), &mut scratch, &asked, &Limits::DEFAULT);
        let arrival = Arrival { now_s: NOW_S, delay: Duration::from_millis(delay) };
        let question = Question::default();
        let life = keep(&response.unwrap().unwrap(), &CacheRule::usual(), &question, &arrival);
        life.unwrap().initial_age
    };
    assert_eq!(age("", 0), 0);
    assert_eq!(age("", 1), 1, "rounded up");
    assert_eq!(age("Age: 7\r\n", 2_000), 9);
    assert_eq!(age("Age: x\r\n", 0), 0);
    assert_eq!(age("Date: Sun, 06 Nov 1994 08:49:07 GMT\r\n", 0), 30);
    assert_eq!(age("Age: 7\r\nDate: Sun, 06 Nov 1994 08:49:07 GMT\r\n", 0), 30);
    assert_eq!(age("Age: 40\r\nDate: Sun, 06 Nov 1994 08:49:07 GMT\r\n", 0), 40);
    // A clock that goes ahead makes nothing younger.
    assert_eq!(age("Date: Sun, 06 Nov 1994 09:00:00 GMT\r\n", 0), 0);
    assert_eq!(LIFE.age(Duration::from_millis(2_999)), 3);
}

#[test]
fn rfc_9111_4_what_is_fresh_is_served_and_what_is_stale_is_not() {
    let any = Question::default();
    for (age, question, verdict) in [
        (0, any, Verdict::Fresh),
        (59, any, Verdict::Fresh),
        (60, any, Verdict::Validate),
        (u32::MAX, any, Verdict::Validate),
        // §5.2.1
        (0, Question { no_cache: true, ..any }, Verdict::Validate),
        (9, Question { max_age: Some(9), ..any }, Verdict::Fresh),
        (10, Question { max_age: Some(9), ..any }, Verdict::Validate),
        (50, Question { min_fresh: 10, ..any }, Verdict::Fresh),
        (51, Question { min_fresh: 10, ..any }, Verdict::Validate),
    ] {
        assert_eq!(LIFE.judge(age, &question), verdict, "{age} {question:?}");
    }
    // §5.2.2.4
    let never = Life { always_validate: true, while_revalidate: 99, if_error: 99, ..LIFE };
    assert_eq!(never.judge(0, &any), Verdict::Validate);
    assert!(!never.serves_errors(0, &any));
}

#[test]
fn rfc_5861_what_is_stale_is_served_for_as_long_as_that_may_be() {
    let (any, life) = (Question::default(), Life { while_revalidate: 10, if_error: 20, ..LIFE });
    for (age, verdict, if_error) in [
        (59, Verdict::Fresh, true),
        (60, Verdict::Stale, true),
        (69, Verdict::Stale, true),
        (70, Verdict::Validate, true),
        (79, Verdict::Validate, true),
        (80, Verdict::Validate, false),
    ] {
        assert_eq!(life.judge(age, &any), verdict, "{age}");
        assert_eq!(life.serves_errors(age, &any), if_error, "{age}");
    }
    let strict = Question { max_age: Some(62), ..any };
    assert_eq!(life.judge(61, &strict), Verdict::Validate);
    assert!(life.serves_errors(61, &strict) && !life.serves_errors(63, &strict));
    assert_eq!(life.judge(60, &Question { min_fresh: 1, ..any }), Verdict::Validate);
    assert!(!life.serves_errors(60, &Question { no_cache: true, ..any }));
}

#[test]
fn rfc_9111_4_2_4_stale_answers_of_the_route_give_way_to_what_is_said() {
    let hour = Some(Duration::from_secs(3_600));
    let rule = rule(|wish| (wish.stale_while_revalidate, wish.stale_if_error) = (hour, hour));
    for (said, expected) in [
        ("max-age=60", (3_600, 3_600)),
        ("max-age=60, stale-while-revalidate=5", (5, 3_600)),
        ("max-age=60, stale-if-error=0", (3_600, 0)),
        ("max-age=60, must-revalidate", (0, 0)),
        ("max-age=60, proxy-revalidate, stale-if-error=9", (0, 0)),
        ("max-age=60, no-cache", (0, 0)),
        // Implied only: what is said beside it counts.
        ("s-maxage=60", (0, 0)),
        ("s-maxage=60, stale-while-revalidate=5", (5, 0)),
        ("max-age=60, stale-if-error=99999999999", (3_600, 31_536_000)),
    ] {
        let answer = format!("200 OK\nETag: \"a\"\nCache-Control: {said}");
        let life = kept_by(&rule, &Question::default(), &answer).unwrap();
        assert_eq!((life.while_revalidate, life.if_error), expected, "{said}");
    }
}

#[test]
fn what_is_never_served_is_not_kept() {
    for (fields, is_kept) in [
        ("Cache-Control: max-age=60\nAge: 60", false),
        ("Cache-Control: max-age=60\nAge: 60\nETag: \"a\"", true),
        ("Cache-Control: max-age=60, stale-if-error=9\nAge: 60", true),
        ("Cache-Control: no-cache", false),
        ("Cache-Control: no-cache\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT", true),
        // §5.4
        ("Pragma: no-cache\nExpires: Sun, 06 Nov 1994 08:50:37 GMT", false),
    ] {
        assert_eq!(kept(&format!("200 OK\n{fields}")).is_ok(), is_kept, "{fields}");
    }
}

/// Fields of an answer, a status, the age that it says, how much later it is asked for, and by whom.
/// What forbids everything is rare, so that the rest is seen often enough.
fn parts() -> impl Strategy<Value = (Vec<&'static str>, u16, u32, u32, Question)> {
    let usual = prop::sample::subsequence(
        vec![
            "Cache-Control: must-revalidate",
            "Cache-Control: proxy-revalidate",
            "Cache-Control: public",
            "Cache-Control: max-age=100",
            "Cache-Control: s-maxage=50",
            "Cache-Control: stale-while-revalidate=30",
            "Cache-Control: stale-if-error=40",
            "Expires: Sun, 06 Nov 1994 08:50:37 GMT",
            "ETag: \"a\"",
            "Vary: Accept",
        ],
        0..5,
    );
    let rare = prop::sample::select(vec![
        "Cache-Control: no-store",
        "Cache-Control: private",
        "Cache-Control: no-cache",
        "Set-Cookie: a=b",
        "Vary: *",
    ]);
    let parts = (usual, prop::option::weighted(0.2, rare)).prop_map(|(mut parts, rare)| {
        parts.extend(rare);
        parts
    });
    let demanding = (any::<bool>(), prop::option::of(0..150_u32), 0..3_u32, any::<bool>());
    let demanding = demanding.prop_map(|(no_cache, max_age, min_fresh, has_cookie)| Question {
        no_cache,
        max_age,
        min_fresh: min_fresh * 20,
        has_cookie,
    });
    let question = prop_oneof![3 => Just(Question::default()), 1 => demanding];
    let other = prop::sample::select(vec![206_u16, 302, 304, 404, 500, 503]);
    let status = prop_oneof![3 => Just(200_u16), 1 => other];
    (parts, status, 0..60_u32, 0..120_u32, question)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Against rules that are written down another way: line by line of the RFC, and only what
    /// forbids something.
    #[test]
    fn what_is_forbidden_is_never_served((parts, status, said_age, later, question) in parts()) {
        let fields = format!("{NOW}\nAge: {said_age}\n{}", parts.join("\n"));
        let rule = rule(|wish| {
            wish.default_ttl = Some(Duration::from_secs(10));
            wish.stale_while_revalidate = Some(Duration::from_secs(7));
            wish.stale_if_error = Some(Duration::from_secs(9));
        });
        let answer = format!("{status} A\n{fields}");
        let kept = kept_by(&rule, &question, answer.trim_end());
        let says = |part: &str| parts.iter().any(|one| one.ends_with(part));
        let forbidden = says("no-store") || says("private") || says("a=b") || says("*")
            || matches!(status, 206 | 304 | 500 | 503);
        prop_assert!(!(forbidden && kept.is_ok()));
        let Ok(life) = kept else { return Ok(()) };
        let age = life.age(Duration::from_secs(later.into()));
        prop_assert_eq!(age, said_age + later);
        let fresh_for = if says("s-maxage=50") {
            Some(50)
        } else if says("max-age=100") {
            Some(100)
        } else if says("GMT") {
            Some(60)
        } else if status != 302 && !question.has_cookie {
            Some(10)
        } else {
            None
        };
        prop_assert!(fresh_for.is_some() || says("no-cache"));
        let is_fresh = fresh_for.is_some_and(|lifetime| age < lifetime);
        let may_be_stale = !(says("must-revalidate") || says("proxy-revalidate"));
        let stale_for = |own: &str, seconds: u32, of_rule: u32| match () {
            () if !may_be_stale => 0,
            () if says(own) => seconds,
            () if says("s-maxage=50") => 0,
            () => of_rule,
        };
        let must_ask = question.no_cache || says("no-cache")
            || question.max_age.is_some_and(|max| age > max);
        match life.judge(age, &question) {
            Verdict::Fresh => prop_assert!(is_fresh && !must_ask),
            Verdict::Stale => {
                let stale_for = stale_for("stale-while-revalidate=30", 30, 7);
                prop_assert!(!must_ask && !is_fresh && age < fresh_for.unwrap_or(0) + stale_for);
            }
            Verdict::Validate => prop_assert!(must_ask || !is_fresh || question.min_fresh > 0),
        }
        if life.serves_errors(age, &question) {
            let stale_for = stale_for("stale-if-error=40", 40, 9);
            prop_assert!(!must_ask && age < fresh_for.unwrap_or(0) + stale_for);
        }
    }
}
