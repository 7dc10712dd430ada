//! Compression of responses: what a request asks for, which answers are compressed, and the
//! encoders. Knows no connections: whoever relays a body feeds an encoder and sends what it gives.
//!
//! What is not compressed could be by its route, but for what the client accepts, says so to
//! caches with `Vary`. Strong entity tags become weak rather than being dropped or changed: a
//! strong one names bytes (RFC 9110 §8.8.1, §8.8.3.3), a weak one still lets clients and caches
//! ask `If-None-Match`, which the instance compares weakly (§13.1.2) with the tag it knows.

mod accept;
mod encoder;

use portolan_discovery::model::{Coding, CompressRule};

use crate::h1::{Phase, Recode, Response, members};

pub(crate) use accept::Wish;
pub use encoder::{EncodeError, Encoder, memory_max};

/// What becomes of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What its body is encoded with.
    pub(crate) coding: Option<Coding>,
    /// What its head says.
    pub(crate) recode: Recode,
}

impl Verdict {
    /// It is sent on as it came.
    pub(crate) const NONE: Self = Self::of(None, false);

    const fn of(coding: Option<Coding>, vary: bool) -> Self {
        let name = match coding {
            Some(coding) => Some(coding.as_str()),
            None => None,
        };
        Self { coding, recode: Recode { coding: name, vary, weaken: coding.is_some() } }
    }

    /// The same without room for an encoder.
    pub(crate) fn uncoded(self) -> Self {
        Self::of(None, self.recode.vary)
    }
}

/// Decides on a response to a request that asked for `wish`.
pub(crate) fn judge(rule: &CompressRule, wish: Wish, response: &Response<'_>) -> Verdict {
    let facts = response.facts();
    if facts.phase != Phase::Final {
        return Verdict::NONE;
    }
    let vary = |verdict: Verdict| {
        let recode = Recode { vary: !varies(response), ..verdict.recode };
        Verdict { recode, ..verdict }
    };
    if facts.status == 304 {
        return match takes_type(rule, response) {
            Some(false) => Verdict::NONE,
            // It tells of an answer that the client has (RFC 9110 §15.4.5): what that says of the
            // tag is what the client asked with.
            _ => {
                let mut verdict = vary(Verdict::NONE);
                verdict.recode.weaken = wish.has_weak_tag;
                verdict
            }
        };
    }
    if !could_be(rule, response) {
        return Verdict::NONE;
    }
    let length = response.content_length();
    let is_long_enough = length.is_none_or(|length| length >= rule.min_bytes()) || wish.must;
    let coding = wish.coding.filter(|_| is_long_enough);
    vary(Verdict::of(coding, true))
}

/// Whether it would be compressed for a client that accepts that.
fn could_be(rule: &CompressRule, response: &Response<'_>) -> bool {
    // Not 206, of which the bytes are those of another representation, nor what has no content.
    // What is said of an error is content like any other.
    matches!(response.facts().status, 200 | 201 | 203 | 400..=599)
        && response.content_length() != Some(0)
        && takes_type(rule, response) == Some(true)
        && !response.has_transfer_coding()
        && ["content-encoding", "content-range"].iter().all(|name| response.header(name).is_none())
        && !lists(response, "cache-control", b"no-transform")
}

/// Whether the type is one of the rule's; none if the response does not say its type.
fn takes_type(rule: &CompressRule, response: &Response<'_>) -> Option<bool> {
    response.header("content-type").map(|value| rule.takes_type(value))
}

/// Whether caches know already that `Accept-Encoding` matters.
fn varies(response: &Response<'_>) -> bool {
    lists(response, "vary", b"accept-encoding") || lists(response, "vary", b"*")
}

fn lists(response: &Response<'_>, name: &str, wanted: &[u8]) -> bool {
    response
        .headers()
        .filter(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes()))
        .flat_map(|(_, value)| members(value))
        .any(|member| member.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadScratch, Limits, parse_request, parse_response};

    const GZIP: Wish = Wish { coding: Some(Coding::Gzip), must: false, has_weak_tag: false };
    const NOTHING: Wish = Wish { coding: None, ..GZIP };
    const AS_IS: Recode = Recode { coding: None, vary: false, weaken: false };
    const VARIES: Recode = Recode { vary: true, ..AS_IS };
    const CODED: Recode = Recode { coding: Some("gzip"), vary: true, weaken: true };

    fn check(wish: Wish, answer: &str, expected: Recode) {
        check_for("GET", wish, answer, expected);
    }

    fn check_for(method: &str, wish: Wish, answer: &str, expected: Recode) {
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut scratch = HeadScratch::new();
        let request = parse_request(head.as_bytes(), &mut scratch, &Limits::DEFAULT)
            .unwrap()
            .unwrap()
            .facts();
        let head = format!("HTTP/1.1 {}\r\n\r\n", answer.trim_end().replace('\n', "\r\n"));
        let response =
            parse_response(head.as_bytes(), &mut scratch, &request, &Limits::DEFAULT).unwrap();
        let verdict = judge(&CompressRule::usual(), wish, &response.unwrap());
        assert_eq!(verdict.recode, expected, "{wish:?} {answer}");
        assert_eq!(verdict.coding.map(Coding::as_str), expected.coding);
    }

    #[test]
    fn an_answer_is_compressed_if_its_type_and_length_allow_it() {
        check(GZIP, "200 OK\nContent-Type: text/html\nContent-Length: 1024", CODED);
        check(GZIP, "200 OK\nContent-Type: text/html", CODED);
        check(GZIP, "404 Not Found\nContent-Type: application/json\nContent-Length: 9999", CODED);
        check(GZIP, "200 OK\nContent-Type: text/html\nContent-Length: 1023", VARIES);
        check(GZIP, "200 OK\nContent-Type: text/html\nContent-Length: 0", AS_IS);
        check(GZIP, "200 OK\nContent-Type: image/png\nContent-Length: 9999", AS_IS);
        check(GZIP, "200 OK\nContent-Type: text/event-stream", AS_IS);
        check(GZIP, "200 OK\nContent-Length: 9999", AS_IS);
    }

    #[test]
    fn an_answer_to_head_has_the_head_of_one_to_get() {
        check_for("HEAD", GZIP, "200 OK\nContent-Type: text/html\nContent-Length: 1024", CODED);
        check_for("HEAD", GZIP, "200 OK\nContent-Type: text/html\nContent-Length: 5", VARIES);
    }

    #[test]
    fn a_client_that_takes_nothing_else_gets_short_answers_compressed_too() {
        let must = Wish { must: true, ..GZIP };
        check(must, "200 OK\nContent-Type: text/html\nContent-Length: 5", CODED);
    }

    #[test]
    fn what_could_have_been_compressed_says_vary_once() {
        check(NOTHING, "200 OK\nContent-Type: text/html\nContent-Length: 9999", VARIES);
        for vary in ["Accept-Encoding", "*", "Cookie, accept-encoding", "Cookie\nVary: *"] {
            let answer = format!("200 OK\nContent-Type: text/html\nVary: {vary}");
            check(NOTHING, &answer, AS_IS);
            check(GZIP, &answer, Recode { vary: false, ..CODED });
        }
        check(NOTHING, "200 OK\nContent-Type: text/html\nVary: accept-encoding-x", VARIES);
    }

    #[test]
    fn what_must_not_be_changed_is_not() {
        for more in [
            "Content-Encoding: br",
            "Content-Encoding: identity",
            "Cache-Control: max-age=1, No-Transform",
            "Content-Range: bytes 0-1/2",
            "Transfer-Encoding: gzip, chunked",
        ] {
            check(GZIP, &format!("200 OK\nContent-Type: text/html\n{more}"), AS_IS);
        }
        for status in ["100 A", "204 A", "206 A", "301 A", "302 A"] {
            check(GZIP, &format!("{status}\nContent-Type: text/html"), AS_IS);
        }
    }

    #[test]
    fn a_304_says_what_the_answer_that_it_stands_for_said() {
        let weak = Wish { has_weak_tag: true, ..GZIP };
        check(weak, "304 Not Modified\nETag: \"a\"", Recode { weaken: true, ..VARIES });
        check(GZIP, "304 Not Modified\nETag: \"a\"", VARIES);
        check(weak, "304 Not Modified\nETag: \"a\"\nContent-Type: image/png", AS_IS);
    }
}
