//! What the cache wants of a request on its way to an instance, and what it makes of the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::{
    Asking, Cache, CacheMetrics, Mark, NotKept, Object, Outcome, Permit, Question, Recorder,
    Recording, arrival, beside, keep_refreshed,
};
use crate::h1::{Phase, Request, RequestFacts, Response};
use crate::listener::Listener;
use crate::table::{Headers, RouteEntry};
use crate::worker::{self, Worker};

/// How long it is remembered that an answer is not kept, so that requests for it do not wait for
/// each other.
const PASS_FOR: Duration = Duration::from_secs(10);
/// The same of what may be otherwise soon: an error, or that there was no room.
const PASS_SHORTLY_FOR: Duration = Duration::from_secs(1);
/// How long stale answers are served without asking again, after no instance answered.
const FAILING_FOR: Duration = Duration::from_secs(2);

/// What is done with a request, carried along with it.
#[derive(Debug)]
pub(super) struct Plan {
    doing: Doing,
    cache: Arc<Cache>,
    /// None in the background, where there is no request of a client.
    metrics: Option<Arc<CacheMetrics>>,
    /// The lines of the answer.
    lines: Vec<u8>,
}

#[derive(Debug)]
enum Doing {
    /// Nothing of it is kept: `fwd` of RFC 9211 says why it goes on.
    Pass(&'static str),
    /// It may change the resource.
    Change(Arc<str>),
    Fetch(Box<Fetch>),
    Record(Box<Recorder>),
    Nothing,
}

/// An answer is wanted to be kept.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) permit: Permit,
    /// What there is, stale or to be validated.
    pub(super) known: Option<Arc<Object>>,
    pub(super) question: Question,
    pub(super) fields: Fields,
    pub(super) begun: Instant,
    /// The instance is not told which codings the client accepts: the answer is compressed here.
    pub(super) is_plain: bool,
}

/// An answer that is served from what is kept.
#[derive(Debug)]
pub(super) struct Serve {
    pub(super) object: Arc<Object>,
    pub(super) says: Says,
    /// The client has it already.
    pub(super) is_known: bool,
}

/// How an answer came to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// It was there.
    Hit,
    /// It was there, and an instance said that it still holds.
    Revalidated,
    /// It was there, and no instance answered.
    Failed,
}

/// What an answer is looked at with.
pub(super) struct Around<'a> {
    pub(super) worker: &'a Worker,
    pub(super) listener: &'a Listener,
    pub(super) route: &'a RouteEntry,
    pub(super) request: &'a RequestFacts,
}

impl Plan {
    fn new(doing: Doing, cache: &Arc<Cache>, metrics: Option<Arc<CacheMetrics>>) -> Box<Self> {
        Box::new(Self { doing, cache: Arc::clone(cache), metrics, lines: Vec::new() })
    }

    /// Nothing is kept of the answer.
    pub(super) fn pass(fwd: &'static str, cache: &Arc<Cache>) -> Box<Self> {
        Self::new(Doing::Pass(fwd), cache, None)
    }

    /// What is kept of a resource is void if the answer says that it has changed.
    pub(super) fn change(uri: Arc<str>, cache: &Arc<Cache>) -> Box<Self> {
        Self::new(Doing::Change(uri), cache, None)
    }

    /// The answer is kept if it may be.
    pub(super) fn fetch(
        fetch: Fetch,
        cache: &Arc<Cache>,
        metrics: Option<Arc<CacheMetrics>>,
    ) -> Box<Self> {
        Self::new(Doing::Fetch(Box::new(fetch)), cache, metrics)
    }

    /// Whether more of the answer is wanted.
    pub(super) fn is_recording(&self) -> bool {
        matches!(self.doing, Doing::Record(_))
    }

    /// Changes the head that is written for an instance: it is asked for the whole, or for whether
    /// what is kept still holds; what the client has is between it and us.
    pub(super) fn edit(&self, head: &mut Vec<u8>) {
        let Doing::Fetch(fetch) = &self.doing else { return };
        let is_left_out = |line: &[u8]| {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            is("if-none-match")
                || is("if-modified-since")
                || fetch.is_plain && is("accept-encoding")
        };
        let mut edited = Vec::with_capacity(head.len() + 128);
        for line in head.split_inclusive(|byte| *byte == b'\n') {
            if line == b"\r\n" {
                break;
            }
            if !is_left_out(line) {
                edited.extend_from_slice(line);
            }
        }
        if let Some(known) = &fetch.known {
            known.write_conditions(&mut edited);
        }
        edited.extend_from_slice(b"\r\n");
        *head = edited;
    }

    /// The lines that the answer has more.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Looks at the head of an answer. If something is returned, that is served in its place.
    pub(super) fn answered(
        &mut self,
        response: &Response<'_>,
        around: &Around<'_>,
    ) -> Option<Serve> {
        let status = response.facts().status;
        let fwd = match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Pass(fwd) => fwd,
            Doing::Change(uri) => {
                if (200..400).contains(&status) {
                    self.invalidate(&uri, response);
                }
                "method"
            }
            Doing::Fetch(fetch) if response.facts().phase == Phase::Final => {
                match self.fetched(*fetch, response, around) {
                    Ok(serve) => return Some(serve),
                    Err(fwd) => fwd,
                }
            }
            Doing::Fetch(_) | Doing::Record(_) | Doing::Nothing => "miss",
        };
        let name = around.listener.router().pseudonym();
        let stored = if self.is_recording() { "; stored" } else { "" };
        self.lines = format!("Cache-Status: {name}; fwd={fwd}{stored}\r\n").into_bytes();
        None
    }

    /// RFC 9111 §4.4: the resource, and those that the answer names.
    fn invalidate(&self, uri: &str, response: &Response<'_>) {
        self.cache.invalidate(uri);
        for name in ["location", "content-location"] {
            if let Some(other) = response.header(name).and_then(|value| beside(uri, value)) {
                self.cache.invalidate(&other);
            }
        }
    }

    fn fetched(
        &mut self,
        fetch: Fetch,
        response: &Response<'_>,
        around: &Around<'_>,
    ) -> Result<Serve, &'static str> {
        let Some(cached) = around.route.cached() else { return Err("miss") };
        let Fetch { permit, known, question, fields, begun, is_plain } = fetch;
        let now = worker::now();
        let clock = &around.worker.clock;
        let arrival = arrival(begun, now, clock.second());
        let asking = Asking { rule: &cached.rule, question: &question, arrival, came: now };
        let date = clock.date();
        let recording = Recording {
            route: &around.route.name,
            request: around.request,
            headers: &fields,
            ignored: is_plain.then_some("accept-encoding"),
            date: &date,
            limits: &around.worker.limits.http,
        };
        let status = response.facts().status;
        let fwd = if known.is_some() { "stale" } else { "uri-miss" };
        if let Some(known) = &known {
            if status == 304 && known.can_be_validated() {
                let (object, kept) = known.refreshed(response, around.request, &date, &asking);
                self.keep_again(permit, &object, known, kept, &recording);
                self.count(Outcome::Revalidated);
                return Ok(Serve::new(object, Says::Revalidated, &fields));
            }
            if is_failure(status) && known.life().serves_errors(known.age(now), &question) {
                return Ok(self.serve_stale(&permit, known, &fields, now));
            }
        }
        self.count(Outcome::Miss);
        match Recorder::begin(permit, response, &recording, &asking) {
            Ok(recorder) => self.record(recorder),
            Err((permit, why)) => {
                if let Some(known) = known.filter(|_| status < 500) {
                    permit.forget(&known);
                }
                self.not_kept(Some(&permit), why, status >= 500, now);
            }
        }
        Err(fwd)
    }

    fn keep_again(
        &self,
        permit: Permit,
        object: &Arc<Object>,
        before: &Arc<Object>,
        kept: Result<(), NotKept>,
        recording: &Recording<'_>,
    ) {
        let now = object.came();
        let kept = match kept {
            Ok(()) => keep_refreshed(permit, object, recording),
            Err(why) => {
                permit.forget(before);
                return self.not_kept(Some(&permit), why, false, now);
            }
        };
        if let Err(why) = kept {
            self.not_kept(None, why, false, now);
        }
    }

    /// Takes bytes of the body as they came.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if let Doing::Record(recorder) = &mut self.doing {
            recorder.push(bytes);
            if recorder.is_over()
                && let Doing::Record(recorder) = std::mem::replace(&mut self.doing, Doing::Nothing)
            {
                self.end(*recorder);
            }
        }
    }

    fn record(&mut self, recorder: Box<Recorder>) {
        match recorder.is_over() {
            true => self.end(*recorder),
            false => self.doing = Doing::Record(recorder),
        }
    }

    fn end(&self, recorder: Recorder) {
        if let Err((permit, why)) = recorder.end() {
            self.not_kept(permit.as_ref(), why, false, worker::now());
        }
    }

    fn not_kept(&self, permit: Option<&Permit>, why: NotKept, is_error: bool, now: Instant) {
        self.cache.metrics.not_stored(why);
        let is_short = is_error || why == NotKept::NoRoom;
        if let Some(permit) = permit {
            permit.mark(Mark::Passes, if is_short { PASS_SHORTLY_FOR } else { PASS_FOR }, now);
        }
    }

    /// No instance answers: what may be served then. If that is nothing, those that wait for an
    /// answer are not to try one after the other.
    pub(super) fn failed(&mut self) -> Option<Serve> {
        let Doing::Fetch(fetch) = &self.doing else { return None };
        let now = worker::now();
        match &fetch.known {
            Some(known) if known.life().serves_errors(known.age(now), &fetch.question) => {
                Some(self.serve_stale(&fetch.permit, known, &fetch.fields, now))
            }
            _ => {
                fetch.permit.mark(Mark::Passes, PASS_SHORTLY_FOR, now);
                None
            }
        }
    }

    fn serve_stale(
        &self,
        permit: &Permit,
        known: &Arc<Object>,
        fields: &Fields,
        now: Instant,
    ) -> Serve {
        permit.mark(Mark::Fails, FAILING_FOR, now);
        self.count(Outcome::Stale);
        Serve::new(Arc::clone(known), Says::Failed, fields)
    }

    fn count(&self, outcome: Outcome) {
        if let Some(metrics) = &self.metrics {
            metrics.count(outcome);
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if self.is_recording() {
            self.cache.metrics.not_stored(NotKept::Cut);
        }
    }
}

impl Serve {
    pub(super) fn new(object: Arc<Object>, says: Says, request: &dyn Headers) -> Self {
        let is_known = object.is_known_to(request);
        Self { object, says, is_known }
    }
}

/// RFC 5861 §4.
const fn is_failure(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

/// The fields of a request, for when it is gone.
#[derive(Debug)]
pub(super) struct Fields(Box<[u8]>);

impl Fields {
    pub(super) fn of(request: &Request<'_>) -> Self {
        let mut lines = Vec::with_capacity(request.head_len());
        for (name, value) in request.headers() {
            lines.extend_from_slice(name);
            lines.push(b':');
            lines.extend_from_slice(value);
            lines.push(b'\n');
        }
        Self(lines.into())
    }
}

impl Headers for Fields {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.split(|byte| *byte == b'\n').any(|line| {
            let Some(at) = memchr::memchr(b':', line) else { return false };
            line[..at].eq_ignore_ascii_case(name.as_bytes()) && test(&line[at + 1..])
        })
    }
}
