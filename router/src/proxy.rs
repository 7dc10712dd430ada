//! HTTP/1.1 connections of clients: one request after another, each to an instance of its
//! route. Owns the order of things; syntax is `h1`'s, choosing is the table's.
//!
//! A request is read, parsed, routed and sent on in one turn of its task, and its response
//! likewise: two reads and two writes for a small one. Between them nothing is held but what
//! could be sent again.

mod begin;
mod budget;
mod consult;
mod download;
mod exchange;
mod fault;
mod hit;
mod pace;
mod plan;
mod refresh;
mod reply;
mod upload;
mod waiting;

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::buffer::{self, Buffer};
use crate::deadline::Tick;
use crate::h1::Reason;
use crate::h2;
use crate::linger::linger;
use crate::worker::Client;
use begin::{Begun, begin};
use reply::Refusal;
use waiting::Waiting;

pub(crate) use budget::RetryBudget;
pub(crate) use fault::{connect_fault, costs_budget, is_gateway_error};

/// How long a connection that ends early is read on, so that its client gets to see the
/// response instead of a reset.
const LINGER: Duration = Duration::from_secs(5);

/// A client connection with what it has sent.
#[derive(Debug)]
pub(crate) struct Conn {
    client: Client,
    /// Read and not used: mostly nothing, else the next request.
    input: Buffer,
    /// The peer's address as text.
    peer: Rc<str>,
    trusted: bool,
    /// By when the request that is next has to go on, if it has waited for another one like it.
    alike: Option<Tick>,
}

impl Conn {
    /// One of which nothing has come. `peer` is the client's address as text; `trusted` says whether
    /// its own word on where it comes from counts.
    pub(crate) fn new(client: Client, peer: Rc<str>, trusted: bool) -> Self {
        Self { client, input: Buffer::default(), peer, trusted, alike: None }
    }
}

/// What becomes of a connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// It waits for the next one.
    Next,
    /// It is closed.
    Close,
    /// It is closed when the client has had the time to read what it was sent.
    Linger,
}

/// Serves one client, of whom `input` has come already, until its connection ends.
pub(crate) fn serve(client: Client, input: Buffer) -> impl Future<Output = ()> {
    let peer = client.peer.to_string().into();
    let trusted = client.listener.trusts(client.peer);
    let mut conn = Conn { input, ..Conn::new(client, peer, trusted) };
    // An argument of an `async fn` would lie in its future twice.
    async move {
        if requests(&mut conn).await == Turn::Http2 {
            tokio::task::spawn_local(h2::serve(conn.client, conn.input));
        }
    }
}

/// Serves the one request that comes in a stream of its own.
pub(crate) async fn serve_one(conn: &mut Conn) {
    requests(conn).await;
}

/// What a connection has turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It is over.
    Over,
    /// Its client speaks HTTP/2, and has from the first byte.
    Http2,
}

async fn requests(conn: &mut Conn) -> Turn {
    let first_wait = conn.client.worker.timeouts.client_header;
    let mut wait = first_wait;
    let mut is_first = true;
    loop {
        let after = match next(conn, wait).await {
            Next::Refuse(refusal)
                if is_first && refusal.is_of_connection() && begins_http2(conn) =>
            {
                return Turn::Http2;
            }
            Next::Wait(waiting) => Box::pin(waiting.run(conn)).await,
            Next::Forward(mut exchange) => exchange.run(conn).await,
            Next::Refuse(refusal) => refusal.send(conn).await,
            Next::Hit(mut hit) => hit.run(conn).await,
            Next::Alike(alike) => match Box::pin(alike.run(conn)).await {
                // It is read again.
                true => After::Next,
                false => After::Close,
            },
            Next::Over => After::Close,
        };
        match after {
            After::Next => wait = conn.client.worker.timeouts.client_idle,
            After::Close => return Turn::Over,
            After::Linger => {
                conn.input = Buffer::default();
                let Client { stream, timer, .. } = &mut conn.client;
                linger(stream, timer, LINGER).await;
                return Turn::Over;
            }
        }
        is_first = false;
    }
}

/// Whether what is no request of HTTP/1.1 begins a connection of HTTP/2 (RFC 9113 §3.3).
#[cold]
fn begins_http2(conn: &Conn) -> bool {
    // It may be refused before all of the line is there.
    let line = h2::PREFACE_LINE;
    let come = conn.input.data();
    let count = come.len().min(line.len());
    conn.client.listener.takes_h2() && come[..count] == line[..count]
}

/// What comes next on a connection.
enum Next {
    Forward(Box<exchange::Exchange>),
    /// No endpoint has room for it yet.
    Wait(Box<Waiting>),
    Refuse(Box<Refusal>),
    /// It is answered with what is kept.
    Hit(Box<hit::Hit>),
    /// Another one like it is under way.
    Alike(Box<consult::Alike>),
    /// The client has gone, or stayed away for too long.
    Over,
}

/// Waits for a request; `wait` for its first byte.
async fn next(conn: &mut Conn, wait: Duration) -> Next {
    let header_wait = conn.client.worker.timeouts.client_header;
    let mut partial = !conn.input.is_empty();
    conn.client.timer.start(if partial { header_wait } else { wait });
    if partial && let Some(next) = parsed(conn) {
        return next;
    }
    poll_fn(|cx| {
        loop {
            if !conn.input.has_room() && !conn.input.grow() {
                let is_ours = buffer::is_exhausted();
                return Poll::Ready(refuse(match is_ours {
                    true => Reason::Overloaded,
                    false => Reason::HeadersTooLarge,
                }));
            }
            match conn.input.poll_fill(cx, &mut conn.client.stream) {
                Poll::Ready(Ok(1..)) => {
                    if let Some(next) = parsed(conn) {
                        return Poll::Ready(next);
                    }
                    if !std::mem::replace(&mut partial, true) {
                        conn.client.timer.start(header_wait);
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Next::Over),
                Poll::Pending if conn.client.timer.is_due() && partial => {
                    return Poll::Ready(refuse(Reason::RequestTimeout));
                }
                Poll::Pending if conn.client.timer.is_due() => return Poll::Ready(Next::Over),
                Poll::Pending if !partial && conn.client.worker.is_closing() => {
                    return Poll::Ready(Next::Over);
                }
                Poll::Pending => {
                    conn.client.timer.watch(cx);
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

fn parsed(conn: &mut Conn) -> Option<Next> {
    match begin(conn) {
        Begun::More => None,
        Begun::Forward(exchange) => Some(Next::Forward(exchange)),
        Begun::Wait(waiting) => Some(Next::Wait(waiting)),
        Begun::Refuse(refusal) => Some(Next::Refuse(refusal)),
        Begun::Hit(hit) => Some(Next::Hit(hit)),
        Begun::Alike(alike) => Some(Next::Alike(alike)),
    }
}

fn refuse(reason: Reason) -> Next {
    Next::Refuse(Box::new(Refusal::of_connection(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<F: Future>(_: fn(Client, Buffer) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_client_costs_little() {
        // Beside it: the entry in the wheel, the socket's in the runtime, the peer's address.
        assert!(future_bytes(serve) <= 1088, "{} bytes", future_bytes(serve));
    }
}
