//! What RFC 9111 allows: whether a request may be answered from a shared cache, whether an answer
//! may be kept and for how long it is fresh. Pure: heads and times come in.
//!
//! Where the RFC leaves a choice, it is the safe one: nothing with `Set-Cookie` is kept, requests
//! with `Authorization` always go to an instance (§3.5 would allow some), and a guess at how long
//! something is fresh is made only if the route says so, never for who sends cookies.

use std::time::Duration;

use portolan_discovery::model::CacheRule;
use portolan_discovery::model::route::CACHE_LIFE_MAX;

use super::control::{Directives, seconds};
use super::date;
use super::vary::Vary;
use crate::h1::{BodyFraming, Method, Phase, RequestFacts, Response};
use crate::table::Headers;

/// The longest that a guess calls something fresh (RFC 9111 §4.2.2 warns beyond a day).
const HEURISTIC_MAX_S: u64 = 86_400;
/// Of the time since the last change so much is taken (RFC 9111 §4.2.2: typically 10 %).
const HEURISTIC_PART: u64 = 10;

/// Why a request has nothing to do with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bypass {
    /// Its method asks for something else than what is kept.
    Method,
    /// It has something that an answer may depend on: a body, `Authorization`, a part that is
    /// asked for, a condition that only an instance can check, another protocol, a sticky service.
    Request,
}

/// What a request asks of the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// An instance has to say that what is kept still holds (RFC 9111 §5.2.1.4).
    pub(crate) no_cache: bool,
    /// It must not be older (§5.2.1.1).
    pub(crate) max_age: Option<u32>,
    /// It must be fresh for so much longer (§5.2.1.3).
    pub(crate) min_fresh: u32,
    /// The client sends cookies.
    pub(crate) has_cookie: bool,
}

/// Reads a request.
pub(crate) fn question(
    facts: &RequestFacts,
    headers: &dyn Headers,
    rule: &CacheRule,
) -> Result<Question, Bypass> {
    if !matches!(facts.method, Method::Get | Method::Head) {
        return Err(Bypass::Method);
    }
    let has = |name: &str| headers.any(name, &mut |_| true);
    let is_special = facts.body != BodyFraming::None
        || facts.upgrade.is_some()
        || ["authorization", "range", "if-match", "if-unmodified-since", "if-range"]
            .into_iter()
            .any(has);
    if is_special {
        return Err(Bypass::Request);
    }
    let has_cookie = has("cookie");
    if !rule.obey_requests() {
        return Ok(Question { has_cookie, ..Question::default() });
    }
    let mut wanted = Directives::default();
    headers.any("cache-control", &mut |value| {
        wanted.read(value);
        false
    });
    if wanted.no_store {
        return Err(Bypass::Request);
    }
    // RFC 9111 §5.4: what clients said before there was anything else.
    let pragma = !wanted.is_said && headers.any("pragma", &mut lists_no_cache);
    Ok(Question {
        no_cache: wanted.no_cache || pragma,
        max_age: wanted.max_age,
        min_fresh: wanted.min_fresh.unwrap_or(0),
        has_cookie,
    })
}

fn lists_no_cache(value: &[u8]) -> bool {
    let mut directives = Directives::default();
    directives.read(value);
    directives.no_cache
}

/// Why an answer is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotKept {
    /// Its status is none of those that are.
    Status,
    /// `no-store` or `private` (RFC 9111 §5.2.2.5, §5.2.2.7).
    Forbidden,
    /// `Set-Cookie`: it may be for one client only.
    SetCookie,
    /// It depends on more than a cache can tell (RFC 9111 §4.1).
    Vary,
    /// Its end cannot be told from a failure, or its content is not at hand (§3.3).
    Framing,
    /// Nothing says that it is fresh for a moment, or how it could be found to be still good.
    NoLifetime,
    /// It is larger than what the route keeps.
    TooLarge,
    /// Too much is being written down at once, or it is larger than the cache.
    NoRoom,
    /// It ended early.
    Cut,
    /// It was cleared, or changed by another request, before it was whole.
    Cleared,
}

impl NotKept {
    /// Every reason, in declaration order: the label set of a metric.
    pub(crate) const ALL: [Self; 10] = [
        Self::Status,
        Self::Forbidden,
        Self::SetCookie,
        Self::Vary,
        Self::Framing,
        Self::NoLifetime,
        Self::TooLarge,
        Self::NoRoom,
        Self::Cut,
        Self::Cleared,
    ];

    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Forbidden => "forbidden",
            Self::SetCookie => "set_cookie",
            Self::Vary => "vary",
            Self::Framing => "framing",
            Self::NoLifetime => "no_lifetime",
            Self::TooLarge => "too_large",
            Self::NoRoom => "no_room",
            Self::Cut => "cut",
            Self::Cleared => "cleared",
        }
    }
}

/// When an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Seconds of Unix time.
    pub(crate) now_s: u64,
    /// Since it was asked for.
    pub(crate) delay: Duration,
}

/// How long an answer may be served, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    /// How old it was when it came (RFC 9111 §4.2.3: `corrected_initial_age`).
    pub(crate) initial_age: u32,
    /// At which age it is stale (§4.2.1: `freshness_lifetime`).
    pub(crate) lifetime: u32,
    /// How long after that it may be served while it is fetched again.
    pub(crate) while_revalidate: u32,
    /// How long after that it may be served when no instance answers.
    pub(crate) if_error: u32,
    /// It may not be served before an instance has said that it still holds.
    pub(crate) always_validate: bool,
}

/// What may be done with what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Serve it.
    Fresh,
    /// Serve it, and fetch it again.
    Stale,
    /// Ask an instance first.
    Validate,
}

impl Life {
    /// Its age so long after it came.
    pub(crate) fn age(&self, resident: Duration) -> u32 {
        self.initial_age.saturating_add(whole_seconds(resident))
    }

    /// What may be done with it at this age.
    pub(crate) fn judge(&self, age: u32, question: &Question) -> Verdict {
        let is_too_old = question.max_age.is_some_and(|max| age > max);
        if self.always_validate || question.no_cache || is_too_old {
            return Verdict::Validate;
        }
        let left = self.lifetime.saturating_sub(age);
        if left > 0 && left >= question.min_fresh {
            return Verdict::Fresh;
        }
        // Who asks for something that is fresh for a while does not want it stale.
        let may_be_stale = question.min_fresh == 0 && question.max_age.is_none();
        match may_be_stale && age - self.lifetime < self.while_revalidate {
            true => Verdict::Stale,
            false => Verdict::Validate,
        }
    }

    /// Whether it may be served at this age because no instance answers (RFC 5861 §4).
    pub(crate) fn serves_errors(&self, age: u32, question: &Question) -> bool {
        let is_too_old = question.max_age.is_some_and(|max| age > max);
        !self.always_validate
            && !question.no_cache
            && !is_too_old
            && age < self.lifetime.saturating_add(self.if_error)
    }
}

fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Whether an answer may be kept, and how long it may be served (RFC 9111 §3, §4.2).
pub(crate) fn keep(
    response: &Response<'_>,
    rule: &CacheRule,
    question: &Question,
    arrival: &Arrival,
) -> Result<Life, NotKept> {
    let facts = response.facts();
    if facts.phase != Phase::Final || !(is_guessable(facts.status) || is_kept_if_said(facts.status))
    {
        return Err(NotKept::Status);
    }
    if has(response, "content-range") {
        return Err(NotKept::Status);
    }
    let said = directives(response);
    if said.no_store || said.private {
        return Err(NotKept::Forbidden);
    }
    if has(response, "set-cookie") {
        return Err(NotKept::SetCookie);
    }
    if Vary::names(response).is_none() {
        return Err(NotKept::Vary);
    }
    if facts.body == BodyFraming::Close || response.has_transfer_coding() {
        return Err(NotKept::Framing);
    }
    if response.content_length().is_some_and(|length| length > rule.object_bytes_max()) {
        return Err(NotKept::TooLarge);
    }
    life(response, &said, rule, question, arrival).ok_or(NotKept::NoLifetime)
}

/// The directives of an answer.
fn directives(response: &Response<'_>) -> Directives {
    let mut said = Directives::default();
    values(response, "cache-control").for_each(|value| said.read(value));
    // RFC 9111 §5.4 has no meaning for it here; who sends it does not want to be kept unasked.
    if !said.is_said && values(response, "pragma").any(lists_no_cache) {
        said.no_cache = true;
    }
    said
}

fn life(
    response: &Response<'_>,
    said: &Directives,
    rule: &CacheRule,
    question: &Question,
    arrival: &Arrival,
) -> Option<Life> {
    let date = response.header("date").and_then(date::parse).unwrap_or(arrival.now_s);
    let explicit = said.s_maxage.or(said.max_age).or_else(|| expires(response, date));
    let guess = || match is_guessable(response.facts().status) && !question.has_cookie {
        true => guessed(response, rule, date),
        false => None,
    };
    let lifetime = match explicit.or_else(guess) {
        Some(lifetime) => lifetime,
        None if said.no_cache => 0,
        None => return None,
    };
    // §4.2.4, §5.2.2.2, §5.2.2.8: these forbid it whatever else is said. `s-maxage` does so by
    // implication only (§5.2.2.10): an answer that names a time itself (RFC 5861) has been asked.
    let may_be_stale = !(said.must_revalidate || said.proxy_revalidate || said.no_cache);
    let stale = |own: Option<u32>, of_rule: Duration| match own {
        _ if !may_be_stale => 0,
        Some(own) => own.min(whole_seconds(CACHE_LIFE_MAX)),
        None if said.s_maxage.is_some() => 0,
        None => whole_seconds(of_rule),
    };
    let life = Life {
        initial_age: initial_age(response, date, arrival),
        lifetime,
        while_revalidate: stale(said.stale_while_revalidate, rule.stale_while_revalidate()),
        if_error: stale(said.stale_if_error, rule.stale_if_error()),
        always_validate: said.no_cache,
    };
    let can_be_validated = has(response, "etag") || has(response, "last-modified");
    let end = life.lifetime.saturating_add(life.while_revalidate.max(life.if_error));
    let is_ever_served = !life.always_validate && life.initial_age < end;
    (is_ever_served || can_be_validated).then_some(life)
}

/// RFC 9111 §4.2.3.
fn initial_age(response: &Response<'_>, date: u64, arrival: &Arrival) -> u32 {
    let apparent = u32::try_from(arrival.now_s.saturating_sub(date)).unwrap_or(u32::MAX);
    let said = response.header("age").map_or(0, seconds);
    // Rounded up: an age is never told younger than it is.
    let delay = whole_seconds(arrival.delay + Duration::from_millis(999));
    apparent.max(said.saturating_add(delay))
}

/// RFC 9111 §5.3: what is no date has passed.
fn expires(response: &Response<'_>, date: u64) -> Option<u32> {
    let expires = response.header("expires")?;
    let left = date::parse(expires).map_or(0, |expires| expires.saturating_sub(date));
    Some(u32::try_from(left).unwrap_or(u32::MAX))
}

/// RFC 9111 §4.2.2, as far as the route says so.
fn guessed(response: &Response<'_>, rule: &CacheRule, date: u64) -> Option<u32> {
    if rule.heuristic()
        && let Some(changed) = response.header("last-modified").and_then(date::parse)
    {
        let part = date.saturating_sub(changed) / HEURISTIC_PART;
        return u32::try_from(part.min(HEURISTIC_MAX_S)).ok();
    }
    rule.default_ttl().map(whole_seconds)
}

/// RFC 9110 §15.1: how long such an answer is fresh may be guessed. Not 206, which is a part.
const fn is_guessable(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Kept if it says how long it is fresh. Not what asks for credentials, nor errors that pass.
const fn is_kept_if_said(status: u16) -> bool {
    matches!(status, 302 | 303 | 307 | 403 | 451)
}

fn values<'r>(response: &Response<'r>, name: &'static str) -> impl Iterator<Item = &'r [u8]> {
    let is_named = |(own, _): &(&[u8], &[u8])| own.eq_ignore_ascii_case(name.as_bytes());
    response.headers().filter(is_named).map(|(_, value)| value)
}

fn has(response: &Response<'_>, name: &str) -> bool {
    response.header(name).is_some()
}

#[cfg(test)]
mod tests;
