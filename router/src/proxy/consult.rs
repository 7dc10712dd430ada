//! What the cache says of a request whose route has one: before an instance is picked.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use tokio::sync::watch;

use super::Conn;
use super::plan::{Fetch, Fields, Plan, Says, Serve};
use crate::cache::{Bypass, CacheMetrics, Came, Key, Look, Looking, Outcome, Question, question};
use crate::deadline::Tick;
use crate::h1::{Method, Reason, Request, Scheme};
use crate::queue::has_gone;
use crate::table::{Cached, RouteEntry, Table};

/// What is done with a request.
pub(super) enum Consulted {
    /// It goes to an instance.
    Go(Option<Box<Plan>>),
    /// It is answered with what is kept; with a plan, that is fetched again in the background.
    Serve(Serve, Option<Box<Plan>>),
    /// It waits for the answer to another one.
    Wait(Alike),
}

/// A request that waits for the answer to another one like it. It stays unread: when it is over, it
/// begins again.
#[derive(Debug)]
pub(super) struct Alike {
    done: watch::Receiver<()>,
    due: Tick,
}

// Apart, so that routes without a cache do not carry it.
#[inline(never)]
pub(super) fn consult(
    conn: &Conn,
    request: &Request<'_>,
    route: &RouteEntry,
    cached: &Cached,
    table: &Table,
    now: Instant,
) -> Consulted {
    let worker = &conn.client.worker;
    let cache = &worker.cache;
    if !cache.is_on() {
        return Consulted::Go(None);
    }
    let (service, is_sticky) = route.cache_service(table);
    let metrics = service.map(|service| service.metrics().cache(service.name()));
    let count = |outcome| {
        if let Some(metrics) = &metrics {
            metrics.count(outcome);
        }
    };
    let (key, question) = match asked(conn, request, cached, is_sticky) {
        Ok(asked) => asked,
        Err(plan) => {
            count(Outcome::Bypass);
            return Consulted::Go(Some(plan));
        }
    };
    let wait = cached.rule.wait();
    let due = conn.alike.unwrap_or_else(|| worker.wheel.now().after(wait));
    let looking = Looking {
        question: &question,
        now,
        may_fetch: request.facts().method == Method::Get,
        may_wait: !wait.is_zero() && worker.wheel.now() < due,
    };
    let fetch = |permit, known| Fetch {
        permit,
        known,
        question,
        fields: Fields::of(request),
        begun: now,
        is_plain: route.compress().is_some(),
    };
    match cache.look(key, request, &looking) {
        Look::Hit(object) => {
            count(Outcome::Hit);
            Consulted::Serve(Serve::new(object, Says::Hit, request), None)
        }
        Look::Stale(object, permit) => {
            count(Outcome::Stale);
            let again =
                permit.map(|permit| Plan::fetch(fetch(permit, Some(object.clone())), cache, None));
            Consulted::Serve(Serve::new(object, Says::Hit, request), again)
        }
        Look::Fetch(permit, known) => {
            Consulted::Go(Some(Plan::fetch(fetch(permit, known), cache, metrics)))
        }
        Look::Wait(done) => {
            waits(conn, metrics.as_deref());
            Consulted::Wait(Alike { done, due })
        }
        Look::Pass(known) => {
            count(Outcome::Pass);
            let fwd = if known.is_some() { "stale" } else { "miss" };
            Consulted::Go(Some(Plan::pass(fwd, cache)))
        }
    }
}

/// What a request asks of the cache, or what is done with it if that is nothing.
fn asked(
    conn: &Conn,
    request: &Request<'_>,
    cached: &Cached,
    is_sticky: bool,
) -> Result<(Key, Question), Box<Plan>> {
    let (cache, facts) = (&conn.client.worker.cache, request.facts());
    match (key(conn, request, cached), question(&facts, request, &cached.rule)) {
        (Some(key), Err(Bypass::Method)) if !facts.method.is_safe() => {
            Err(Plan::change(key.uri, cache))
        }
        (_, Err(Bypass::Method)) => Err(Plan::pass("method", cache)),
        (Some(key), Ok(question)) if !is_sticky && !is_certified(conn, request) => {
            Ok((key, question))
        }
        _ => Err(Plan::pass("bypass", cache)),
    }
}

/// Whether the instance is told who the client is by its certificate: that is as good as
/// `Authorization`.
fn is_certified(conn: &Conn, request: &Request<'_>) -> bool {
    let met = conn.client.stream.met();
    met.is_some_and(|met| !met.client_lines.is_empty())
        || conn.trusted && request.header("client-cert").is_some()
}

fn key(conn: &Conn, request: &Request<'_>, cached: &Cached) -> Option<Key> {
    let came = Came {
        scheme: if conn.client.stream.met().is_some() { Scheme::Https } else { Scheme::Http },
        trusted: conn.trusted,
        listener: conn.client.listener.name.as_str(),
        mark: cached.mark,
    };
    Key::of(request, &came)
}

/// Counts a request that waits, once.
fn waits(conn: &Conn, metrics: Option<&CacheMetrics>) {
    if let (None, Some(metrics)) = (conn.alike, metrics) {
        metrics.waits.inc();
    }
}

impl Alike {
    /// Waits until the other one is over, or for as long as its route says. False if the client
    /// has gone.
    pub(super) async fn run(mut self, conn: &mut Conn) -> bool {
        conn.alike = Some(self.due);
        let client = &mut conn.client;
        client.timer.set(self.due);
        let mut watch = true;
        // That it is closed says the same.
        let mut over = pin!(async { drop(self.done.changed().await) });
        let stayed = poll_fn(|cx| {
            if over.as_mut().poll(cx).is_ready() || client.timer.is_due() {
                return Poll::Ready(true);
            }
            if has_gone(cx, &mut client.stream, &mut watch) {
                return Poll::Ready(false);
            }
            client.timer.watch(cx);
            Poll::Pending
        })
        .await;
        if !stayed {
            client.worker.metrics.ended(Reason::ClientGone);
        }
        stayed
    }
}
