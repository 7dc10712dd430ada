//! Writes an answer down while it is relayed, and keeps it when it is whole. One that breaks off,
//! or turns out too large, is thrown away.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use portolan_discovery::model::RouteName;

use super::fill::Permit;
use super::object::{Asking, Known, Object, vary_of};
use super::policy::{NotKept, keep};
use super::shard::Variant;
use super::store::Reserved;
use super::vary::Vary;
use crate::h1::{BodyState, HeadScratch, Limits, Phase, RequestFacts, Response};
use crate::table::Headers;

/// What an object without a known length is given first, and then twice as much each time.
const FIRST_BYTES: usize = 16 * 1024;

/// An answer that is being written down.
#[derive(Debug)]
pub(crate) struct Recorder {
    permit: Permit,
    route: RouteName,
    request: RequestFacts,
    known: Known,
    vary: Vary,
    head: Vec<u8>,
    body: Vec<u8>,
    framing: BodyState,
    bytes_max: usize,
    reserved: Reserved,
    failed: Option<NotKept>,
}

/// What an answer is written down for.
pub(crate) struct Recording<'a> {
    pub(crate) route: &'a RouteName,
    pub(crate) request: &'a RequestFacts,
    /// The fields of the request.
    pub(crate) headers: &'a dyn Headers,
    /// A field that the answer does not depend on, because we changed it.
    pub(crate) ignored: Option<&'a str>,
    pub(crate) date: &'a [u8; 29],
    pub(crate) limits: &'a Limits,
}

impl Recorder {
    /// Begins with the head of an answer, if it may be kept. The permit comes back if not.
    pub(crate) fn begin(
        permit: Permit,
        response: &Response<'_>,
        recording: &Recording<'_>,
        asking: &Asking<'_>,
    ) -> Result<Box<Self>, (Permit, NotKept)> {
        debug_assert!(response.facts().phase == Phase::Final, "only an answer is kept");
        let life = match keep(response, asking.rule, asking.question, &asking.arrival) {
            Ok(life) => life,
            Err(why) => return Err((permit, why)),
        };
        let Some(vary) = vary_of(response, recording.headers, recording.ignored) else {
            return Err((permit, NotKept::Vary));
        };
        let mut reserved = Reserved::new(permit.cache());
        let length = response.content_length().and_then(|length| usize::try_from(length).ok());
        let first = length.unwrap_or(0);
        if !reserved.grow_to(first + response.head_len()) {
            return Err((permit, NotKept::NoRoom));
        }
        let mut head = Vec::new();
        response.write_kept(recording.date, &mut head);
        Ok(Box::new(Self {
            permit,
            route: recording.route.clone(),
            request: *recording.request,
            known: Known::of(response, life, asking.came),
            vary,
            head,
            body: Vec::with_capacity(first),
            framing: BodyState::response(response.facts().body, recording.limits),
            bytes_max: usize::try_from(asking.rule.object_bytes_max()).unwrap_or(usize::MAX),
            reserved,
            failed: None,
        }))
    }

    /// Takes bytes of the body as they came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && !self.is_over() {
            // Whoever relays it has checked the same bytes.
            let Ok(payload) = self.framing.decode(&bytes[at..]) else {
                self.failed = Some(NotKept::Cut);
                return;
            };
            let data = &bytes[at..][payload.data];
            at += payload.taken;
            self.append(data);
        }
    }

    fn append(&mut self, data: &[u8]) {
        let len = self.body.len() + data.len();
        if len > self.bytes_max {
            self.failed = Some(NotKept::TooLarge);
            self.body = Vec::new();
            return;
        }
        if len > self.body.capacity() {
            let wanted = len.max(2 * self.body.capacity()).max(FIRST_BYTES).min(self.bytes_max);
            if !self.reserved.grow_to(wanted + self.head.len()) {
                self.failed = Some(NotKept::NoRoom);
                self.body = Vec::new();
                return;
            }
            self.body.reserve_exact(wanted - self.body.len());
        }
        self.body.extend_from_slice(data);
    }

    /// Whether no more bytes are wanted: it is whole, or will not be.
    pub(crate) fn is_over(&self) -> bool {
        self.failed.is_some() || self.framing.is_done()
    }

    /// Keeps what is whole. The permit comes back with the reason if it is not kept.
    pub(crate) fn end(self) -> Result<(), (Option<Permit>, NotKept)> {
        let Self {
            permit, route, request, known, vary, head, body, framing, reserved, failed, ..
        } = self;
        if let Some(why) = failed {
            return Err((Some(permit), why));
        }
        if !framing.is_done() {
            return Err((None, NotKept::Cut));
        }
        // Without the room that it was given in advance.
        let object = Arc::new(Object::new(&known, head, Bytes::from(body.into_boxed_slice())));
        if object.response(&request, &mut HeadScratch::new()).is_none() {
            return Err((Some(permit), NotKept::TooLarge));
        }
        let variant = Variant { facet: Arc::clone(permit.facet()), route, vary, object };
        permit.keep(variant, reserved).map_err(|why| (None, why))
    }
}

/// Keeps what a 304 has made of an answer.
pub(crate) fn keep_refreshed(
    permit: Permit,
    object: &Arc<Object>,
    recording: &Recording<'_>,
) -> Result<(), NotKept> {
    let mut scratch = HeadScratch::new();
    let response = object.response(recording.request, &mut scratch).ok_or(NotKept::TooLarge)?;
    let vary = vary_of(&response, recording.headers, recording.ignored).ok_or(NotKept::Vary)?;
    let facet = Arc::clone(permit.facet());
    let reserved = Reserved::new(permit.cache());
    let variant =
        Variant { facet, route: recording.route.clone(), vary, object: Arc::clone(object) };
    permit.keep(variant, reserved)
}

/// When an answer came.
pub(crate) fn arrival(asked: Instant, now: Instant, now_s: u64) -> super::policy::Arrival {
    super::policy::Arrival { now_s, delay: now.saturating_duration_since(asked) }
}
