//! An instance as the router holds it, and the live state that outlives every table.
//! Knows nothing of tables: they are made of endpoints.

mod latency;
mod strikes;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use portolan_discovery::model::{InstanceId, ProxyVersion, ServiceName, Weight};

use crate::metrics::ServiceMetrics;
use crate::queue::Queue;
use crate::sticky::{Cookie, Token};
use crate::tls::InstanceTls;
use latency::Latency;
use strikes::Strikes;

pub(crate) use latency::Cost;

/// The live state of one address of one instance. Every table that has the instance shares it,
/// so counts and pooled connections survive table changes.
///
/// It has a cache line of its own: all workers write the count.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointState {
    in_flight: AtomicU32,
    idle_wanted: AtomicBool,
    pool_key: u64,
    pub(crate) latency: Latency,
    pub(crate) strikes: Strikes,
    /// The line of its service, once that has had a limit: called when something ends.
    queue: OnceLock<Arc<Queue>>,
}

// A pick reads all of it.
const _: () = assert!(size_of::<EndpointState>() == 64);

/// 0 is no key, so that it can mark an empty place.
static NEXT_POOL_KEY: AtomicU64 = AtomicU64::new(1);

impl EndpointState {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            in_flight: AtomicU32::new(0),
            idle_wanted: AtomicBool::new(true),
            pool_key: NEXT_POOL_KEY.fetch_add(1, Ordering::Relaxed),
            latency: Latency::default(),
            strikes: Strikes::default(),
            queue: OnceLock::new(),
        })
    }

    /// Requests, tunnels and TCP connections under way, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Names the pool of its connections; unique in the process, never reused, never 0.
    pub fn pool_key(&self) -> u64 {
        self.pool_key
    }

    /// Whether idle connections are worth keeping: not when the newest compiled table has no
    /// use for the instance (it drains, an operator took it out, or it is gone). A hint:
    /// workers close idle connections by it, nothing else depends on it.
    pub fn idle_wanted(&self) -> bool {
        self.idle_wanted.load(Ordering::Relaxed)
    }

    /// The time to the head of an answer, as a moving average that follows peaks, when it last
    /// changed; none until the first answer.
    pub fn latency(&self) -> Option<Duration> {
        let cost = self.latency.peak();
        (cost > 0).then(|| Duration::from_micros(latency::us(cost)))
    }

    /// Until when it is not picked for its errors, in microseconds of Unix time; 0 if it never
    /// was left out.
    pub fn ejected_until_us(&self) -> u64 {
        self.strikes.until_us()
    }

    /// It answered, `elapsed_us` after it was asked; none where that is not known.
    #[inline]
    pub fn answered(&self, now_us: u64, elapsed_us: Option<u64>) {
        if let Some(elapsed_us) = elapsed_us {
            self.latency.sample(now_us, elapsed_us);
        }
        self.strikes.succeeded(now_us);
    }

    /// From now on, who ends something on it calls the line of its service.
    pub(crate) fn tell(&self, queue: &Arc<Queue>) {
        // A service has one line as long as it is in the table, so a second is the first.
        self.queue.get_or_init(|| Arc::clone(queue));
    }

    pub(crate) fn want_idle(&self, wanted: bool) {
        if self.idle_wanted() != wanted {
            self.idle_wanted.store(wanted, Ordering::Relaxed);
        }
    }
}

/// An instance as the router holds it.
#[derive(Debug)]
pub struct Endpoint {
    /// The service.
    pub service: ServiceName,
    /// The instance's name within the service.
    pub id: InstanceId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its share of the traffic.
    pub weight: Weight,
    /// Whether connections to it are kept for the next request.
    pub keep_alive: bool,
    /// Whether it is spoken to in HTTP/2.
    pub http2: bool,
    /// The header that connections to it begin with, if any: each is for one client then.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How it is spoken to by TLS, if it is.
    pub tls: Option<Arc<InstanceTls>>,
    /// The cookie of its service, if that has one.
    pub cookie: Option<Box<Cookie>>,
    /// What outlives the table.
    pub state: Arc<EndpointState>,
    /// The handles of its service.
    pub metrics: Arc<ServiceMetrics>,
}

impl Endpoint {
    /// Requests, tunnels and TCP connections under way, over all workers.
    pub fn in_flight(&self) -> u64 {
        u64::from(self.state.in_flight())
    }
}

/// One request (tunnel, TCP connection) on the endpoint that was picked for it: counted from
/// the pick until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    key: Option<NonZeroU64>,
    /// The request has the endpoint's cookie already.
    named: bool,
}

impl InFlight {
    pub(crate) fn begin(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.state.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { endpoint: Arc::clone(endpoint), key: None, named: false }
    }

    /// The same, unless it has `max` under way, over all workers.
    pub(crate) fn begin_below(endpoint: &Arc<Endpoint>, max: NonZeroU32) -> Option<Self> {
        let count = &endpoint.state.in_flight;
        let mut before = count.load(Ordering::Relaxed);
        while before < max.get() {
            let after = before + 1;
            match count.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    return Some(Self { endpoint: Arc::clone(endpoint), key: None, named: false });
                }
                Err(current) => before = current,
            }
        }
        None
    }

    /// The same, picked by a key.
    pub(crate) fn keyed(mut self, key: NonZeroU64) -> Self {
        self.key = Some(key);
        self
    }

    /// The request's cookie says that it is to be this endpoint.
    pub(crate) fn by_name(mut self) -> Self {
        self.named = true;
        self
    }

    /// The cookie to give to the client, if it needs one.
    pub(crate) fn new_cookie(&self) -> Option<&Cookie> {
        self.endpoint.cookie.as_deref().filter(|_| !self.named)
    }

    /// What the request's cookie says, if it is the endpoint's.
    pub(crate) fn token(&self) -> Option<Token> {
        if self.named { self.endpoint.cookie.as_ref().map(|cookie| cookie.token()) } else { None }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// What the pick's key came to, if it went by one.
    pub fn key(&self) -> Option<u64> {
        self.key.map(NonZeroU64::get)
    }
}

impl Deref for InFlight {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let state = &self.endpoint.state;
        let before = state.in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "what begins once ends once");
        // After it: who waits sees the room, or is seen.
        if let Some(queue) = state.queue.get() {
            queue.call();
        }
    }
}
