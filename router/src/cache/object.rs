//! A kept answer. Never changed: a newer one takes its place, and shares its body if that is still
//! the same.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use portolan_discovery::model::CacheRule;

use super::policy::{Arrival, Life, NotKept, Question, keep};
use super::vary::Vary;
use crate::h1::{
    HEADERS_HARD_MAX, HeadScratch, Limits, RequestFacts, Response, end_kept, members,
    parse_response,
};
use crate::table::Headers;

/// What was kept fits what was read, whatever lines were added to it.
const LIMITS: Limits =
    Limits { head_bytes_max: usize::MAX, headers_max: HEADERS_HARD_MAX, ..Limits::DEFAULT };

/// What an object costs beside its bytes, generously.
const OBJECT_BYTES: usize = 256;

/// A kept answer.
#[derive(Debug)]
pub(crate) struct Object {
    /// A whole head with the length of the body.
    head: Box<[u8]>,
    body: Bytes,
    life: Life,
    /// When it came, or was last found to be still good.
    came: Instant,
    etag: Option<Box<[u8]>>,
    last_modified: Option<Box<[u8]>>,
}

/// What decides on an answer, as of the request that it answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) rule: &'a CacheRule,
    pub(crate) question: &'a Question,
    pub(crate) arrival: Arrival,
    pub(crate) came: Instant,
}

impl Object {
    /// An answer whose head is written by [`Response::write_kept`], with its body.
    pub(crate) fn new(response: &Known, mut head: Vec<u8>, body: Bytes) -> Self {
        end_kept(response.status, body.len(), &mut head);
        Self {
            head: head.into(),
            body,
            life: response.life,
            came: response.came,
            etag: response.etag.clone(),
            last_modified: response.last_modified.clone(),
        }
    }

    /// The body.
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    /// When it came.
    pub(crate) fn came(&self) -> Instant {
        self.came
    }

    /// How long it may be served.
    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// Its age.
    pub(crate) fn age(&self, now: Instant) -> u32 {
        self.life.age(now.saturating_duration_since(self.came))
    }

    /// For how long it is fresh, in seconds; below zero for how long it has been stale.
    pub(crate) fn ttl(&self, now: Instant) -> i64 {
        i64::from(self.life.lifetime) - i64::from(self.age(now))
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        OBJECT_BYTES + self.head.len() + self.body.len()
    }

    /// Whether an instance can say that it still holds.
    pub(crate) fn can_be_validated(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }

    /// Appends what asks an instance whether it still holds (RFC 9111 §4.3.1).
    pub(crate) fn write_conditions(&self, out: &mut Vec<u8>) {
        for (name, value) in
            [("If-None-Match", &self.etag), ("If-Modified-Since", &self.last_modified)]
        {
            if let Some(value) = value {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b": ");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Whether a client has it already (RFC 9110 §13.2.2): by its tag if it names any, or else by
    /// its date.
    pub(crate) fn is_known_to(&self, request: &dyn Headers) -> bool {
        let (mut names_tags, mut is_known) = (false, false);
        request.any("if-none-match", &mut |value| {
            names_tags = true;
            is_known |= match &self.etag {
                Some(etag) => lists_tag(value, etag),
                None => value.trim_ascii() == b"*",
            };
            is_known
        });
        if names_tags {
            return is_known;
        }
        let changed = self.last_modified.as_deref().and_then(super::date::parse);
        let Some(changed) = changed else { return false };
        request.any("if-modified-since", &mut |value| {
            super::date::parse(value).is_some_and(|since| changed <= since)
        })
    }

    /// Reads its head as the answer to `request`.
    pub(crate) fn response<'a>(
        &'a self,
        request: &RequestFacts,
        scratch: &'a mut HeadScratch,
    ) -> Option<Response<'a>> {
        read(&self.head, request, scratch)
    }

    /// It as a 304 says that it is now (RFC 9111 §4.3.4), or why it is not kept any longer. The
    /// object is to be served once in any case.
    pub(crate) fn refreshed(
        &self,
        by: &Response<'_>,
        request: &RequestFacts,
        date: &[u8; 29],
        asking: &Asking<'_>,
    ) -> (Arc<Self>, Result<(), NotKept>) {
        let (mut head, mut scratch) = (Vec::new(), HeadScratch::new());
        let old = read(&self.head, request, &mut scratch).expect("it was read before");
        old.write_refreshed(by, date, &mut head);
        end_kept(old.facts().status, self.body.len(), &mut head);
        let mut scratch = HeadScratch::new();
        let Some(new) = read(&head, request, &mut scratch) else {
            // A head beyond any limit.
            return (Arc::new(self.again(asking.came)), Err(NotKept::NoRoom));
        };
        let kept = keep(&new, asking.rule, asking.question, &asking.arrival);
        let life = kept.unwrap_or(Life { initial_age: 0, ..self.life });
        let known = Known::of(&new, life, asking.came);
        let object = Self {
            body: self.body.clone(),
            life,
            came: asking.came,
            etag: known.etag,
            last_modified: known.last_modified,
            head: head.into(),
        };
        (Arc::new(object), kept.map(|_| ()))
    }

    fn again(&self, came: Instant) -> Self {
        Self {
            head: self.head.clone(),
            body: self.body.clone(),
            life: Life { initial_age: 0, ..self.life },
            came,
            etag: self.etag.clone(),
            last_modified: self.last_modified.clone(),
        }
    }
}

/// What is known of an answer before its body has come.
#[derive(Debug)]
pub(crate) struct Known {
    status: u16,
    life: Life,
    came: Instant,
    etag: Option<Box<[u8]>>,
    last_modified: Option<Box<[u8]>>,
}

impl Known {
    pub(crate) fn of(response: &Response<'_>, life: Life, came: Instant) -> Self {
        let value = |name: &str| response.header(name).map(Into::into);
        Self {
            status: response.facts().status,
            life,
            came,
            etag: value("etag"),
            last_modified: value("last-modified"),
        }
    }
}

fn read<'a>(
    head: &'a [u8],
    request: &RequestFacts,
    scratch: &'a mut HeadScratch,
) -> Option<Response<'a>> {
    parse_response(head, scratch, request, &LIMITS).ok().flatten()
}

/// Whether a list of tags has one, compared weakly (RFC 9110 §8.8.3.2, §13.1.2).
fn lists_tag(list: &[u8], etag: &[u8]) -> bool {
    fn opaque(tag: &[u8]) -> &[u8] {
        tag.strip_prefix(b"W/").unwrap_or(tag)
    }
    // A comma in a tag would take it apart; then the client gets the answer again.
    members(list).any(|tag| tag == b"*" || opaque(tag) == opaque(etag))
}

/// How an answer that depends on fields of its request is found again.
pub(crate) fn vary_of(
    response: &Response<'_>,
    request: &dyn Headers,
    ignored: Option<&str>,
) -> Option<Vary> {
    let mut names = Vary::names(response)?;
    names.retain(|name| Some(&**name) != ignored);
    Vary::of(names, request)
}
