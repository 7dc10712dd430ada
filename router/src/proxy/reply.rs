//! Answers of the router itself.

use std::future::poll_fn;
use std::task::Poll;

use tracing::debug;

use super::begin::RequestId;
use super::{After, Conn};
use crate::buffer::Outbox;
use crate::h1::{self, BodyFraming, Method, Reason, Reply, RequestFacts, write_error, write_reply};

/// A request that is answered here.
#[derive(Debug)]
pub(super) struct Refusal {
    /// None for the answer to a request for this hop.
    reason: Option<Reason>,
    /// The request, if its head was understood.
    request: Option<(RequestFacts, RequestId)>,
}

impl Refusal {
    /// What was sent is no request: where the next one would begin is unknown.
    pub(super) fn of_connection(reason: Reason) -> Self {
        Self { reason: Some(reason), request: None }
    }

    /// A request that cannot be sent on.
    pub(super) fn of_request(reason: Reason, facts: RequestFacts, id: RequestId) -> Self {
        Self { reason: Some(reason), request: Some((facts, id)) }
    }

    /// A request that may go no further (`Max-Forwards: 0`).
    pub(super) fn at_last_hop(facts: RequestFacts, id: RequestId) -> Self {
        Self { reason: None, request: Some((facts, id)) }
    }

    /// Sends the answer. A request body that was not read ends the connection.
    pub(super) async fn send(self, conn: &mut Conn) -> After {
        let facts = self.request.as_ref().map(|(facts, _)| *facts);
        let id = self.request.as_ref().map(|(_, id)| id);
        let body_read = facts.is_some_and(|facts| facts.body == BodyFraming::None);
        let mut outbox = Outbox::default();
        match self.reason {
            Some(reason) => send_error(conn, reason, facts, id, body_read, &mut outbox).await,
            None => {
                let keep_alive = keeps_alive(conn, facts, body_read);
                let date = conn.client.worker.clock.date();
                let client = h1::Client {
                    request: facts,
                    keep_alive,
                    date: &date,
                    request_id: id.map(RequestId::as_bytes),
                    pseudonym: conn.client.listener.router().pseudonym(),
                };
                write_reply(&last_hop(facts), &client, outbox.head());
                flush(conn, keep_alive, &mut outbox).await
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
            text: &["TRACE is not answered here"],
        },
        _ => {
            Reply { status: 200, retry_after_s: None, reason: None, text: &["the router is here"] }
        }
    }
}

fn keeps_alive(conn: &Conn, facts: Option<RequestFacts>, body_read: bool) -> bool {
    body_read && !conn.client.worker.is_draining() && facts.is_some_and(|facts| facts.keep_alive)
}

/// Counts `reason` and sends its answer behind what is in the outbox already.
pub(super) async fn send_error(
    conn: &mut Conn,
    reason: Reason,
    facts: Option<RequestFacts>,
    id: Option<&RequestId>,
    body_read: bool,
    outbox: &mut Outbox,
) -> After {
    let worker = &conn.client.worker;
    worker.metrics.ended(reason);
    worker.metrics.replied(reason);
    debug!(
        listener = %conn.client.listener.name, peer = %conn.peer, id = id.map(tracing::field::display),
        reason = reason.as_str(), code = reason.code(), "answered by the router"
    );
    let keep_alive = keeps_alive(conn, facts, body_read);
    let date = worker.clock.date();
    let client = h1::Client {
        request: facts,
        keep_alive,
        date: &date,
        request_id: id.map(RequestId::as_bytes),
        pseudonym: conn.client.listener.router().pseudonym(),
    };
    write_error(reason, &client, outbox.head());
    flush(conn, keep_alive, outbox).await
}

async fn flush(conn: &mut Conn, keep_alive: bool, outbox: &mut Outbox) -> After {
    let client = &mut conn.client;
    client.timer.start(client.worker.timeouts.client_write);
    let sent = poll_fn(|cx| match outbox.poll_flush(cx, &mut client.stream, &[], &mut 0) {
        Poll::Ready(result) => Poll::Ready(result.is_ok()),
        Poll::Pending if client.timer.is_due() => Poll::Ready(false),
        Poll::Pending => {
            client.timer.watch(cx);
            Poll::Pending
        }
    })
    .await;
    outbox.clear();
    match (sent, keep_alive) {
        (true, true) => After::Next,
        (true, false) => After::Linger,
        (false, _) => After::Close,
    }
}
