//! From the bytes of a request head to a request that can be sent: parse, route, pick. All of
//! it in one go: no wait, no lock, and nothing borrowed from the table remains.

use std::fmt;
use std::sync::Arc;

use super::Conn;
use super::exchange::Exchange;
use super::reply::{Form, Refusal};
use super::upload::Upload;
use crate::balance::{Ask, Key, Tried};
use crate::buffer;
use crate::clock::us_at;
use crate::h1::{
    BodyFraming, Forward, Limits, Method, Reason, Request, RequestFacts, Scheme, parse_request,
};
use crate::mirror::Copy;
use crate::shed::Cause;
use crate::table::{PickError, RequestView, RouteEntry};
use crate::worker;

/// The identifier that a request carries through the cluster.
#[derive(Debug)]
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

/// What a request head has led to.
pub(super) enum Begun {
    /// It is not complete.
    More,
    /// An endpoint is picked, and the head for it is written.
    Forward(Box<Exchange>),
    /// The router answers itself.
    Refuse(Box<Refusal>),
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
    worker.budget.request();
    let json = worker.gives_json() && request.prefers_json();
    let begun = match choose(conn, &request, us_at(started)) {
        Ok((route, picked)) => {
            let mut head = buffer::head();
            write_head(conn, &request, &route, &id, &mut head);
            let limits = Limits {
                body_bytes_max: route.body_bytes_max.unwrap_or(u64::MAX),
                ..worker.limits.http
            };
            let copy = route
                .mirrors()
                .and_then(|percent| Copy::begin(worker, &route, percent, facts, &head));
            let mut upload = Upload::new(head, facts.body, limits);
            upload.copy = copy;
            let mut exchange =
                Box::new(Exchange::new(facts, id, started, route, picked, upload, worker));
            exchange.json = json;
            Begun::Forward(exchange)
        }
        Err(refused) => Begun::Refuse(Box::new(refused.refusal(facts, id, json, started))),
    };
    let head_len = request.head_len();
    conn.input.consume(head_len);
    begun
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
    Pick(PickError),
    /// RFC 9110 §7.6.2: it was for this hop.
    LastHop,
}

impl Refused {
    fn at(route: &Arc<RouteEntry>, why: Why) -> Self {
        Self { why, route: Some(Arc::clone(route)) }
    }

    fn refusal(
        self,
        facts: RequestFacts,
        id: RequestId,
        json: bool,
        started: std::time::Instant,
    ) -> Refusal {
        let form = Form { route: self.route, json };
        match self.why {
            Why::Reason(reason) => Refusal::of_request(reason, facts, id, form),
            Why::LastHop => Refusal::at_last_hop(facts, id),
            Why::Pick(PickError::UnknownService { .. }) => {
                Refusal::of_request(Reason::BadReference, facts, id, form)
            }
            Why::Pick(PickError::NoInstance { metrics, .. }) => {
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
/// misdirected. No listener has TLS, so the scheme alone decides.
fn asks_for_tls(target: &str) -> bool {
    const SCHEME: &str = "https://";
    target.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

fn choose(
    conn: &Conn,
    request: &Request<'_>,
    now_us: u64,
) -> Result<(Arc<RouteEntry>, crate::endpoint::InFlight), Refused> {
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
    if asks_for_tls(request.target()) {
        return Err(Why::Reason(Reason::Misdirected).into());
    }
    let random = worker.random(|rng| rng.u64(..));
    let view = RequestView::of(&conn.client.listener.name, request);
    let key = Key::Request(&view, conn.client.peer);
    let ask = Ask { random, now_us, key, tried: &Tried::none() };
    worker.with_table(|table| {
        let route = table.route(&view).ok_or(Why::Reason(Reason::NoRoute))?;
        if let (BodyFraming::Length(length), Some(max)) = (facts.body, route.body_bytes_max)
            && length > max
        {
            return Err(Refused::at(route, Why::Reason(Reason::BodyTooLarge)));
        }
        let picked =
            route.pick(table, &ask).map_err(|error| Refused::at(route, Why::Pick(error)))?;
        Ok((Arc::clone(route), picked))
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
        fallback = conn.client.stream.local_addr().unwrap_or(local).to_string();
        fallback.as_str()
    } else {
        ""
    };
    let forward = Forward {
        peer: &conn.peer,
        peer_trusted: conn.trusted,
        scheme: Scheme::Http,
        port: local.port(),
        request_id: id.as_bytes(),
        request_start_ms: conn.client.worker.request_start_ms(),
        authority_fallback,
        via: conn.client.listener.via_line(request.facts().version),
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
