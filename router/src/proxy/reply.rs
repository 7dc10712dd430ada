//! Answers of the router itself.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tracing::debug;

use super::begin::RequestId;
use super::{After, Conn};
use crate::buffer::{self, Buffer, Outbox};
use crate::h1::{
    self, BodyFraming, Method, Reason, Reply, Request, RequestFacts, write_error, write_error_head,
    write_grpc_error, write_reply,
};
use crate::pages::Content;
use crate::table::RouteEntry;
use crate::worker::Worker;
use crate::worker::clock::DATE_BYTES;

type Date = [u8; DATE_BYTES];

/// What an error looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Looks {
    /// A page, or the short text.
    #[default]
    Page,
    /// JSON, if there is a page: the client would rather have it.
    Json,
    /// The status of a call: the client speaks gRPC.
    Grpc,
}

impl Looks {
    pub(super) fn of(request: &Request<'_>, worker: &Worker, is_h2: bool) -> Self {
        if is_h2 && request.header("content-type").is_some_and(is_grpc) {
            return Self::Grpc;
        }
        match worker.gives_json() && request.prefers_json() {
            true => Self::Json,
            false => Self::Page,
        }
    }
}

/// `application/grpc`, with what the messages are coded in, or without.
fn is_grpc(media_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    media_type.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
        && matches!(media_type.get(GRPC.len()), None | Some(b'+' | b';'))
}

/// What the looks of an error depend on, beside what went wrong.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// The route, whose pages it may be.
    pub(super) route: Option<Arc<RouteEntry>>,
    pub(super) looks: Looks,
    /// The client came by https, as far as is known.
    pub(super) is_secure: bool,
}

/// A request that is answered here.
#[derive(Debug)]
pub(super) struct Refusal {
    /// None for an answer that is no error.
    reason: Option<Reason>,
    /// Where the client is to go.
    location: Option<Box<str>>,
    /// The request, if its head was understood.
    request: Option<(RequestFacts, RequestId)>,
    form: Form,
}

impl Refusal {
    /// What was sent is no request: where the next one would begin is unknown.
    pub(super) fn of_connection(reason: Reason) -> Self {
        Self { reason: Some(reason), location: None, request: None, form: Form::default() }
    }

    /// Whether what was sent is no request.
    pub(super) fn is_of_connection(&self) -> bool {
        self.request.is_none()
    }

    /// A request that cannot be sent on.
    pub(super) fn of_request(
        reason: Reason,
        facts: RequestFacts,
        id: RequestId,
        form: Form,
    ) -> Self {
        Self { reason: Some(reason), location: None, request: Some((facts, id)), form }
    }

    /// A request that may go no further (`Max-Forwards: 0`).
    pub(super) fn at_last_hop(facts: RequestFacts, id: RequestId) -> Self {
        let request = Some((facts, id));
        Self { reason: None, location: None, request, form: Form::default() }
    }

    /// A request that is to be sent elsewhere.
    pub(super) fn elsewhere(location: Box<str>, facts: RequestFacts, id: RequestId) -> Self {
        Self { location: Some(location), ..Self::at_last_hop(facts, id) }
    }

    /// Sends the answer. A request body that was not read ends the connection.
    pub(super) async fn send(self: Box<Self>, conn: &mut Conn) -> After {
        let mut outbox = Outbox::default();
        let answer = self.write(conn, &mut outbox);
        answer.send(conn, &mut outbox).await
    }

    fn write(&self, conn: &Conn, outbox: &mut Outbox) -> Answer {
        let facts = self.request.as_ref().map(|(facts, _)| *facts);
        let id = self.request.as_ref().map(|(_, id)| id);
        let body_read = facts.is_some_and(|facts| facts.body == BodyFraming::None);
        let asker = Asker { facts, id, form: &self.form, body_read };
        match self.reason {
            Some(reason) => Answer::to(&asker, reason, conn, outbox),
            None => {
                let keep_alive = asker.keeps_alive(conn);
                let date = conn.client.worker.clock.date();
                let client = asker.client(conn, keep_alive, &date);
                let reply = match self.location.as_deref() {
                    Some(location) => elsewhere(location),
                    None => last_hop(facts),
                };
                write_reply(&reply, &client, outbox.head());
                Answer { keep_alive, page: None }
            }
        }
    }
}

fn last_hop(facts: Option<RequestFacts>) -> Reply<'static> {
    match facts.map(|facts| facts.method) {
        // Reflecting a request would show headers that only we should see.
        Some(Method::Trace) => Reply {
            status: 501,
            retry_after_s: None,
            reason: None,
            location: None,
            text: &["TRACE is not answered here"],
        },
        _ => Reply {
            status: 200,
            retry_after_s: None,
            reason: None,
            location: None,
            text: &["the router is here"],
        },
    }
}

/// Keeps the method: a form that is sent by http comes by https, whole.
fn elsewhere(location: &str) -> Reply<'_> {
    Reply {
        status: 308,
        retry_after_s: None,
        reason: None,
        location: Some(location),
        text: &["come by https"],
    }
}

/// Who is answered, and how.
#[derive(Debug)]
pub(super) struct Asker<'r> {
    /// The request, if its head was understood.
    pub(super) facts: Option<RequestFacts>,
    pub(super) id: Option<&'r RequestId>,
    pub(super) form: &'r Form,
    /// All of the request has been read.
    pub(super) body_read: bool,
}

impl Asker<'_> {
    fn keeps_alive(&self, conn: &Conn) -> bool {
        self.body_read
            && !conn.client.worker.is_draining()
            && self.facts.is_some_and(|facts| facts.keep_alive)
    }

    fn client<'c>(&'c self, conn: &'c Conn, keep_alive: bool, date: &'c Date) -> h1::Client<'c> {
        h1::Client {
            request: self.facts,
            keep_alive,
            date,
            request_id: self.id.map(RequestId::as_bytes),
            pseudonym: conn.client.listener.router().pseudonym(),
            line: self.hsts_line(conn),
        }
    }

    /// RFC 6797 §7.2: never to a client that came without TLS.
    fn hsts_line<'c>(&'c self, conn: &'c Conn) -> &'c [u8] {
        if !self.form.is_secure && conn.client.stream.met().is_none() {
            return b"";
        }
        let of_route = self.form.route.as_ref().and_then(|route| route.hsts_line());
        of_route.unwrap_or_else(|| conn.client.listener.hsts_line())
    }
}

/// An answer of which the head is written. It is all that is kept while it is sent.
#[derive(Debug)]
pub(super) struct Answer {
    keep_alive: bool,
    /// What follows the head, if it is not with it.
    page: Option<Box<Buffer>>,
}

impl Answer {
    /// Counts `reason` and writes its answer behind what is in the outbox already.
    pub(super) fn to(asker: &Asker<'_>, reason: Reason, conn: &Conn, outbox: &mut Outbox) -> Self {
        let worker = &conn.client.worker;
        worker.metrics.ended(reason);
        worker.metrics.replied(reason);
        debug!(
            listener = %conn.client.listener.name, peer = %conn.peer,
            id = asker.id.map(tracing::field::display),
            reason = reason.as_str(), code = reason.code(), "answered by the router"
        );
        let keep_alive = asker.keeps_alive(conn);
        let date = worker.clock.date();
        let client = asker.client(conn, keep_alive, &date);
        if asker.form.looks == Looks::Grpc {
            write_grpc_error(reason, &client, outbox.head());
            return Self { keep_alive, page: None };
        }
        let Some(Content { media_type, bytes }) = content(conn, reason, asker) else {
            write_error(reason, &client, outbox.head());
            return Self { keep_alive, page: None };
        };
        let length = bytes.len();
        let follows = write_error_head(reason, media_type, length, &client, outbox.head());
        let page = follows.then(|| Box::new(Buffer::holding(bytes)));
        if page.is_some() {
            outbox.push_data(0..length);
        }
        Self { keep_alive, page }
    }

    /// Sends it, and says what becomes of the connection.
    pub(super) async fn send(self, conn: &mut Conn, outbox: &mut Outbox) -> After {
        let client = &mut conn.client;
        client.timer.start(client.worker.timeouts.client_write);
        let page = self.page.as_ref().map_or(&[][..], |page| page.data());
        let sent = poll_fn(|cx| match outbox.poll_flush(cx, &mut client.stream, page, &mut 0) {
            Poll::Ready(result) => Poll::Ready(result.is_ok()),
            Poll::Pending if client.timer.is_due() => Poll::Ready(false),
            Poll::Pending => {
                client.timer.watch(cx);
                Poll::Pending
            }
        })
        .await;
        outbox.clear();
        match (sent, self.keep_alive) {
            (true, true) => After::Next,
            (true, false) => After::Linger,
            (false, _) => After::Close,
        }
    }
}

/// What is sent in the place of the short text. That is for times without room, too: then a page
/// for each of many clients would make things worse.
fn content(conn: &Conn, reason: Reason, asker: &Asker<'_>) -> Option<Content> {
    let pages = conn.client.worker.pages.as_deref()?;
    if reason == Reason::Overloaded || buffer::is_exhausted() {
        return None;
    }
    let set = asker.form.route.as_ref().and_then(|route| route.page_set());
    let id = asker.id.map_or("", RequestId::as_str);
    pages.content(reason, set, asker.form.looks == Looks::Json, id)
}
