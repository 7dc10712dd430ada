//! From the bytes of a request head to a request that can be sent: parse, route, pick. All of
//! it in one go: no wait, no lock, and nothing borrowed from the table remains.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::Conn;
use super::consult::{Alike, Consulted, consult};
use super::exchange::Exchange;
use super::hit::Hit;
use super::plan::{Plan, Serve};
use super::refresh::Refresh;
use super::reply::{Form, Looks, Refusal};
use super::upload::Upload;
use super::waiting::Waiting;
use crate::balance::{Ask, Key};
use crate::buffer;
use crate::clock::us_at;
use crate::compress::Wish;
use crate::deadline::Tick;
use crate::endpoint::InFlight;
use crate::h1::{
    BodyFraming, Forward, Limits, Method, Reason, Received, Request, RequestFacts, Scheme,
    parse_request,
};
use crate::metrics::ServiceMetrics;
use crate::mirror::Copy;
use crate::shed::Cause;
use crate::table::{Full, PickError, RequestView, RouteEntry};
use crate::worker;

/// The port of https, which no URI names.
const HTTPS_PORT: u16 = 443;

/// The identifier that a request carries through the cluster.
#[derive(Debug, Clone)]
pub(super) enum RequestId {
    /// Ours: 128 random bits in hex.
    Made([u8; 32]),
    /// The client's.
    Kept(Box<str>),
}

impl RequestId {
    fn of(request: &Request<'_>, random: impl FnOnce() -> u128) -> Self {
        match request.request_id() {
            Some(id) => Self::Kept(id.into()),
            None => Self::Made(hex(random())),
        }
    }

    /// As it is sent.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Made(id) => id,
            Self::Kept(id) => id.as_bytes(),
        }
    }

    /// The same as text.
    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("hex digits, or what was text before")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The two hex digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 0xf]];
        byte += 1;
    }
    pairs
};

fn hex(value: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(value.to_be_bytes()) {
        *pair = HEX[usize::from(byte)];
    }
    digits
}

/// A request whose head is read, and written for whichever instance it goes to.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) facts: RequestFacts,
    pub(super) id: RequestId,
    pub(super) looks: Looks,
    pub(super) started: Instant,
    /// When all of it has to be over, if its route says so.
    pub(super) ends: Option<Tick>,
    pub(super) route: Arc<RouteEntry>,
    pub(super) upload: Upload,
    /// The client came by https, at least to the proxy before us.
    pub(super) is_secure: bool,
    /// Which coding it accepts, if the route compresses.
    pub(super) wish: Option<Wish>,
    /// What the cache wants of it, if its route has one.
    pub(super) plan: Option<Box<Plan>>,
}

/// What a request head has led to.
pub(super) enum Begun {
    /// It is not complete.
    More,
    /// An endpoint is picked, and the head for it is written.
    Forward(Box<Exchange>),
    /// All endpoints are full.
    Wait(Box<Waiting>),
    /// The router answers itself.
    Refuse(Box<Refusal>),
    /// It is answered with what is kept.
    Hit(Box<Hit>),
    /// Another one like it is under way. It is still in the input.
    Alike(Box<Alike>),
}

/// Begins the request at the start of the connection's input, and takes its head out.
pub(super) fn begin(conn: &mut Conn) -> Begun {
    let worker = &conn.client.worker;
    let scratch = &mut *worker.scratch.borrow_mut();
    let request = match parse_request(conn.input.data(), scratch, &worker.limits.http) {
        Ok(Some(request)) => request,
        Ok(None) => return Begun::More,
        Err(reason) => return Begun::Refuse(Box::new(Refusal::of_connection(reason))),
    };
    let started = worker::now();
    let facts = request.facts();
    let id = RequestId::of(&request, || worker.random(|rng| rng.u128(..)));
    if conn.alike.is_none() {
        worker.budget.request();
    }
    let looks = Looks::of(&request, worker, conn.client.stream.is_h2());
    let begun = match choose(conn, &request, started) {
        Ok((route, Chosen::Picked(picked, plan))) => {
            let may_get_cookie = picked.cookie.is_some();
            let order = order(conn, &request, id, looks, started, route, may_get_cookie, plan);
            Begun::Forward(Box::new(Exchange::new(order, picked, started, &conn.client)))
        }
        Ok((route, Chosen::Full(full, plan))) => {
            let order = order(conn, &request, id, looks, started, route, true, plan);
            Begun::Wait(Box::new(Waiting { order, full }))
        }
        Ok((route, Chosen::Kept(serve, again))) => {
            if let Some(plan) = again {
                refresh(conn, &request, &route, &id, plan);
            }
            let wish = route.compress().map(|rule| Wish::of(rule, &request));
            let is_secure = route.hsts_line().is_some() && is_secure(conn, &request);
            Begun::Hit(Box::new(Hit::new(serve, facts, id, route, wish, is_secure)))
        }
        Ok((_, Chosen::Alike(alike))) => return Begun::Alike(Box::new(alike)),
        Err(refused) => {
            let is_secure = is_secure(conn, &request);
            Begun::Refuse(Box::new(refused.refusal(facts, id, looks, is_secure, started)))
        }
    };
    let head_len = request.head_len();
    conn.input.consume(head_len);
    conn.alike = None;
    begun
}

/// Where a request goes.
enum Chosen {
    Picked(InFlight, Option<Box<Plan>>),
    /// To one of a service's endpoints, when one has room.
    Full(Box<Full>, Option<Box<Plan>>),
    /// Nowhere: what is kept answers it. With a plan, that is fetched again.
    Kept(Serve, Option<Box<Plan>>),
    /// Nowhere yet.
    Alike(Alike),
}

/// Fetches again what a request is answered with.
#[cold]
fn refresh(
    conn: &Conn,
    request: &Request<'_>,
    route: &Arc<RouteEntry>,
    id: &RequestId,
    plan: Box<Plan>,
) {
    let mut head = Vec::new();
    write_head(conn, request, route, id, &mut head);
    plan.edit(&mut head);
    let (client, facts) = (&conn.client, request.facts());
    let (route, listener) = (Arc::clone(route), Arc::clone(&client.listener));
    Refresh { route, listener, facts, head, plan, peer: client.peer }.begin(&client.worker);
}

#[inline]
#[expect(clippy::too_many_arguments, reason = "what an order is made of")]
fn order(
    conn: &Conn,
    request: &Request<'_>,
    id: RequestId,
    looks: Looks,
    started: Instant,
    route: Arc<RouteEntry>,
    may_get_cookie: bool,
    plan: Option<Box<Plan>>,
) -> Order {
    let worker = &conn.client.worker;
    let facts = request.facts();
    let mut head = buffer::head();
    write_head(conn, request, &route, &id, &mut head);
    if let Some(plan) = &plan {
        plan.edit(&mut head);
    }
    let limits =
        Limits { body_bytes_max: route.body_bytes_max.unwrap_or(u64::MAX), ..worker.limits.http };
    let ends = route.timeouts().request.map(|wait| worker.wheel.now().after(wait));
    let copy =
        route.mirrors().and_then(|percent| Copy::begin(worker, &route, percent, facts, &head));
    let mut upload = Upload::new(head, facts.body, limits);
    upload.copy = copy;
    let is_secure = (may_get_cookie || route.hsts_line().is_some()) && is_secure(conn, request);
    let wish = route.compress().map(|rule| Wish::of(rule, request));
    Order { facts, id, looks, started, ends, route, upload, is_secure, wish, plan }
}

/// Whether the client came by https, at least to the proxy before us.
fn is_secure(conn: &Conn, request: &Request<'_>) -> bool {
    conn.client.stream.met().is_some() || conn.trusted && came_by_https(request)
}

/// Whether the proxy before us says so.
fn came_by_https(request: &Request<'_>) -> bool {
    let is_https = |proto: &[u8]| proto.trim_ascii().eq_ignore_ascii_case(b"https");
    request.header("x-forwarded-proto").is_some_and(is_https)
}

/// No endpoint was chosen.
struct Refused {
    why: Why,
    /// The route that it would have been chosen by.
    route: Option<Arc<RouteEntry>>,
}

/// Why no endpoint was chosen.
enum Why {
    Reason(Reason),
    /// No instance of a service takes traffic: that counts for the service.
    NoInstance(Arc<ServiceMetrics>),
    /// RFC 9110 §7.6.2: it was for this hop.
    LastHop,
    /// The client is to go there.
    Elsewhere(Box<str>),
}

impl Refused {
    fn at(route: &Arc<RouteEntry>, why: Why) -> Self {
        Self { why, route: Some(Arc::clone(route)) }
    }

    fn refusal(
        self,
        facts: RequestFacts,
        id: RequestId,
        looks: Looks,
        is_secure: bool,
        started: Instant,
    ) -> Refusal {
        let form = Form { route: self.route, looks, is_secure };
        match self.why {
            Why::Reason(reason) => Refusal::of_request(reason, facts, id, form),
            Why::LastHop => Refusal::at_last_hop(facts, id),
            Why::Elsewhere(location) => Refusal::elsewhere(location, facts, id),
            Why::NoInstance(metrics) => {
                let seconds = (worker::now() - started).as_secs_f64();
                metrics.answered(Reason::NoInstance.status(), seconds);
                Refusal::of_request(Reason::NoInstance, facts, id, form)
            }
        }
    }
}

impl From<Why> for Refused {
    fn from(why: Why) -> Self {
        Self { why, route: None }
    }
}

/// RFC 9110 §7.4: a request for an `https` resource that comes over a connection without TLS is
/// misdirected, and so is one for a host that has another certificate than the connection.
fn is_misdirected(conn: &Conn, request: &Request<'_>) -> bool {
    let Some(met) = conn.client.stream.met() else { return asks_for_tls(request.target()) };
    match (&conn.client.listener.tls, &met.name, &met.shown) {
        (Some(tls), Some(name), Some(shown)) => tls.is_misdirected(name, shown, request.host()),
        _ => false,
    }
}

fn asks_for_tls(target: &str) -> bool {
    const SCHEME: &str = "https://";
    target.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// The same resource by https on this port.
#[cold]
fn by_https(request: &Request<'_>, port: u16) -> Option<Box<str>> {
    let host = request.host();
    if host.is_empty() {
        return None;
    }
    let target = request.target();
    // Of the absolute form only what follows the authority is asked for.
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => {
            rest.find(['/', '?']).map_or("", |at| &rest[at..])
        }
        _ => target,
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let path = if path == "*" { "" } else { path };
    let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
    Some(format!("https://{host}{port}{slash}{path}").into_boxed_str())
}

fn choose(
    conn: &Conn,
    request: &Request<'_>,
    now: Instant,
) -> Result<(Arc<RouteEntry>, Chosen), Refused> {
    let worker = &conn.client.worker;
    let facts = request.facts();
    if buffer::is_exhausted() {
        worker.metrics.shed(Cause::Memory);
        return Err(Why::Reason(Reason::Overloaded).into());
    }
    if facts.max_forwards == Some(0) && matches!(facts.method, Method::Options | Method::Trace) {
        return Err(Why::LastHop.into());
    }
    if conn.client.listener.has_seen(request) {
        return Err(Why::Reason(Reason::LoopDetected).into());
    }
    if let Some(port) = conn.client.listener.redirect_https {
        let location = by_https(request, port);
        return Err(location.map_or(Why::Reason(Reason::MissingHost), Why::Elsewhere).into());
    }
    if is_misdirected(conn, request) {
        return Err(Why::Reason(Reason::Misdirected).into());
    }
    let random = worker.random(|rng| rng.u64(..));
    let view = RequestView::of(&conn.client.listener.name, request);
    let key = Key::Request(&view, conn.client.peer);
    let ask = Ask { now_us: us_at(now), key, ..Ask::first(random) };
    worker.with_table(|table| {
        let found = table.find(&view).ok_or(Why::Reason(Reason::NoRoute))?;
        let route = found.route;
        if let Some(port) = route.redirect_https().filter(|_| !is_secure(conn, request)) {
            let location = by_https(request, port);
            let why = location.map_or(Why::Reason(Reason::MissingHost), Why::Elsewhere);
            return Err(Refused::at(route, why));
        }
        if let (BodyFraming::Length(length), Some(max)) = (facts.body, route.body_bytes_max)
            && length > max
        {
            return Err(Refused::at(route, Why::Reason(Reason::BodyTooLarge)));
        }
        let mut plan = None;
        if let Some(cached) = route.cached() {
            plan = match consult(conn, request, route, cached, table, now) {
                Consulted::Go(plan) => plan,
                Consulted::Serve(serve, again) => {
                    return Ok((Arc::clone(route), Chosen::Kept(serve, again)));
                }
                Consulted::Wait(alike) => return Ok((Arc::clone(route), Chosen::Alike(alike))),
            };
        }
        let chosen = match found.pick(table, &ask) {
            Ok(picked) => Chosen::Picked(picked, plan),
            Err(PickError::Full(full)) => Chosen::Full(full, plan),
            Err(PickError::NoInstance { metrics, .. }) => match plan.and_then(|mut p| p.failed()) {
                Some(serve) => Chosen::Kept(serve, None),
                None => return Err(Refused::at(route, Why::NoInstance(metrics))),
            },
            Err(PickError::UnknownService { .. }) => {
                return Err(Refused::at(route, Why::Reason(Reason::BadReference)));
            }
        };
        Ok((Arc::clone(route), chosen))
    })
}

fn write_head(
    conn: &Conn,
    request: &Request<'_>,
    route: &RouteEntry,
    id: &RequestId,
    head: &mut Vec<u8>,
) {
    let local = conn.client.listener.local;
    let fallback;
    let authority_fallback = if request.host().is_empty() {
        // Only an HTTP/1.0 client gets here: the socket is asked for the address it reached.
        let ends = conn.client.stream.ends();
        fallback = ends.map_or(local, |(_, local)| local).to_string();
        fallback.as_str()
    } else {
        ""
    };
    let met = conn.client.stream.met();
    let received = match conn.client.stream.is_h2() {
        false => request.facts().version.into(),
        true => Received::V20,
    };
    let forward = Forward {
        peer: &conn.peer,
        peer_trusted: conn.trusted,
        scheme: if met.is_some() { Scheme::Https } else { Scheme::Http },
        port: local.port(),
        request_id: id.as_bytes(),
        request_start_ms: conn.client.worker.request_start_ms(),
        authority_fallback,
        via: conn.client.listener.via_line(received),
        client_lines: met.map_or(b"", |met| &met.client_lines),
        rewrite: route.rewrite(),
    };
    request.write_upstream(&forward, head);
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn an_id_is_32_hex_digits() {
        assert_eq!(&hex(0x0123_4567_89ab_cdef), b"00000000000000000123456789abcdef");
        assert_eq!(&hex(u128::MAX), b"ffffffffffffffffffffffffffffffff");
    }
}
