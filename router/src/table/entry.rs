//! A compiled route: what a request may hold of the table, and the choice of its endpoint.

use std::cmp::Ordering;
use std::hash::BuildHasher;
use std::num::NonZeroU16;
use std::sync::Arc;

use portolan_discovery::model::record::encode;
use portolan_discovery::model::route::Percent;
use portolan_discovery::model::{
    Backend, CacheRule, CompressRule, Concurrency, Host, HttpRule, HttpsRule, ListenerName,
    PageSetName, PathPattern, Predicates, RetryRule, Rewrite, Route, RouteName, RouteTimeouts,
    Rule, ServiceName,
};
use smallvec::SmallVec;

use super::request::{Lack, RequestView};
use super::service::{Miss, ServiceKey, ServiceMark, ServiceTable};
use super::{Table, paths};
use crate::balance::{Ask, Key, mix, scale};
use crate::endpoint::InFlight;
use crate::h1;
use crate::metrics::ServiceMetrics;
use crate::queue::Queue;
use crate::sticky::Token;
use crate::tls::hsts_line;
use crate::virtuals;

/// Why no endpoint was picked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PickError {
    /// The service has no instance that takes traffic and was not tried: 503.
    #[error("no instance of {service} takes traffic")]
    NoInstance {
        /// The service.
        service: ServiceName,
        /// Its handles: the answer is counted there.
        metrics: Arc<ServiceMetrics>,
    },
    /// All instances have as much under way as they may have: the request may wait.
    #[error("all instances of {} are full", .0.service)]
    Full(Box<Full>),
    /// The route leads to a service that does not exist: 500.
    #[error("service {service} does not exist")]
    UnknownService {
        /// The service.
        service: ServiceName,
    },
}

/// A service of which all instances are full.
#[derive(Debug, Clone)]
pub struct Full {
    /// The service.
    pub service: ServiceName,
    /// Its handles: an answer for the wait is counted there.
    pub metrics: Arc<ServiceMetrics>,
    /// The line to wait in.
    pub queue: Arc<Queue>,
    /// How many may wait, and how long.
    pub limit: Concurrency,
    /// What the request's cookie says, if that is an endpoint that takes traffic.
    pub token: Option<Token>,
    /// What the request's key came to, if the service is balanced by one.
    pub key: Option<u64>,
}

/// A [`HttpsRule`] as it is used.
#[derive(Debug)]
struct Https {
    redirect: Option<u16>,
    hsts_line: Option<Box<[u8]>>,
}

impl Https {
    fn of(rule: &HttpsRule) -> Self {
        let line = |hsts| hsts_line(hsts).into_bytes().into_boxed_slice();
        Self { redirect: rule.redirect.map(NonZeroU16::get), hsts_line: rule.hsts.map(line) }
    }
}

#[derive(Debug)]
struct Share {
    service: ServiceKey,
    weight: u32,
    leader: bool,
}

/// How a route keeps answers.
#[derive(Debug)]
pub(crate) struct Cached {
    pub(crate) rule: CacheRule,
    /// Another one for another route, and for this one when anything about it has changed.
    pub(crate) mark: u64,
}

impl Cached {
    fn of(record: &Route) -> Option<Box<Self>> {
        let rule = **record.cache.as_ref()?;
        let mark = super::seed().hash_one(encode(record));
        Some(Box::new(Self { rule, mark }))
    }
}

/// A compiled route. In the order of use: what a pick reads shares a cache line with the count of
/// references, which it writes.
#[derive(Debug)]
#[repr(C)]
pub struct RouteEntry {
    /// One lies in the route's own piece of memory.
    shares: SmallVec<[Share; 1]>,
    weight_sum: u32,
    /// Whether it asks for more than a host and a path that is not a regular expression.
    asks: bool,
    /// What it changes in a request.
    rewrite: Option<Box<Rewrite>>,
    /// Whether it has a [`RetryRule`], so that its record need not be read for it.
    retries: bool,
    /// Whether it has a [`CompressRule`], likewise.
    compresses: bool,
    /// Its waits, if it has any of its own.
    timeouts: Option<Box<RouteTimeouts>>,
    /// How clients are brought to https, if they are.
    https: Option<Box<Https>>,
    /// Who gets copies of its requests.
    mirror: Option<Box<Share>>,
    /// How it keeps answers, if it does.
    cached: Option<Box<Cached>>,
    /// The largest request body in bytes.
    pub body_bytes_max: Option<u64>,
    /// The name.
    pub name: RouteName,
    pub(super) listener: Option<ListenerName>,
    record: Arc<Route>,
}

/// The route of a request.
#[derive(Debug, Clone, Copy)]
pub struct Found<'t> {
    /// The route.
    pub route: &'t Arc<RouteEntry>,
    /// The only service that it leads to, from beside the path: a pick need not wait for what
    /// the route itself says.
    pub(super) sole: Option<ServiceMark>,
}

impl<'t> Found<'t> {
    pub(super) fn new(route: &'t Arc<RouteEntry>) -> Self {
        Self { route, sole: None }
    }

    /// Picks an endpoint as [`RouteEntry::pick`] does.
    pub fn pick(&self, table: &Table, ask: &Ask<'_>) -> Result<InFlight, PickError> {
        match self.sole.and_then(|mark| table.by_mark(mark)) {
            Some(service) => picked(service, ask, false),
            None => self.route.pick(table, ask),
        }
    }
}

/// The most services of one route: weights are below 2^16, so their sum fits 32 bits.
pub(crate) const BACKENDS_MAX: usize = 1 << 16;

impl RouteEntry {
    /// `known` shares the name of a service that exists, which makes a pick cheaper.
    pub(super) fn new(
        record: &Arc<Route>,
        mut known: impl FnMut(ServiceKey) -> ServiceKey,
    ) -> Self {
        let shares: SmallVec<[Share; 1]> = record
            .backends
            .iter()
            .take(BACKENDS_MAX)
            .map(|backend| Share {
                service: known(ServiceKey::of(&backend.service)),
                weight: u32::from(backend.weight.0.get()),
                leader: backend.leader,
            })
            .collect();
        Self {
            name: record.name.clone(),
            asks: asks(&record.rule),
            rewrite: record.rewrite.clone(),
            retries: record.retry.is_some(),
            compresses: record.compress.is_some(),
            timeouts: (record.timeouts != NO_TIMEOUTS).then(|| Box::new(record.timeouts)),
            https: record.https.as_deref().map(|rule| Box::new(Https::of(rule))),
            body_bytes_max: record.body_bytes_max,
            listener: record.listener.clone(),
            mirror: record.mirror.as_ref().map(|mirror| {
                let service = known(ServiceKey::of(&mirror.service));
                Box::new(Share { service, weight: 1, leader: false })
            }),
            cached: Cached::of(record),
            weight_sum: shares.iter().map(|share| share.weight).sum(),
            shares,
            record: Arc::clone(record),
        }
    }

    /// The route of all connections to the virtual address of a service: no record has made it,
    /// and it leads there whatever the routes say.
    pub fn virtual_of(service: &ServiceName) -> Self {
        let name = RouteName::parse(service.as_str()).expect("a service's name is a label as well");
        let listener = Some(virtuals::name());
        let backends = vec![Backend::to(service.clone())];
        let record = Route { listener, ..Route::new(name, Rule::Tcp, backends) };
        Self::new(&Arc::new(record), |known| known)
    }

    /// Its waits.
    pub fn timeouts(&self) -> &RouteTimeouts {
        self.timeouts.as_deref().unwrap_or(&NO_TIMEOUTS)
    }

    /// What it changes in a request that it takes.
    pub(crate) fn rewrite(&self) -> h1::Rewrite<'_> {
        let Some(rewrite) = &self.rewrite else { return h1::Rewrite::NONE };
        let matched = self.http().map_or("", |rule| paths::prefix_text(rule.path.path()));
        let prefix = rewrite.prefix.as_ref();
        h1::Rewrite {
            prefix: prefix.map(|prefix| (matched, paths::prefix_text(prefix.as_str()))),
            host: rewrite.host.as_ref().map(Host::as_str),
        }
    }

    /// The port that requests are sent to which came without TLS, if they are.
    pub(crate) fn redirect_https(&self) -> Option<u16> {
        self.https.as_ref()?.redirect
    }

    /// What clients are told that came by https, if not what their listener says.
    pub(crate) fn hsts_line(&self) -> Option<&[u8]> {
        self.https.as_ref()?.hsts_line.as_deref()
    }

    /// The error pages that it asks for.
    pub(crate) fn page_set(&self) -> Option<&PageSetName> {
        self.record.error_pages.as_ref()
    }

    /// Which answers are tried on another instance, if any.
    pub fn retry(&self) -> Option<&RetryRule> {
        if self.retries { self.record.retry.as_deref() } else { None }
    }

    /// Which answers are compressed, if any.
    pub fn compress(&self) -> Option<&CompressRule> {
        if self.compresses { self.record.compress.as_deref() } else { None }
    }

    /// How answers are kept, if they are.
    pub(crate) fn cached(&self) -> Option<&Cached> {
        self.cached.as_deref()
    }

    /// The first of its services that exists, which hits are counted for, and whether any of them
    /// is sticky.
    pub(crate) fn cache_service<'t>(
        &self,
        table: &'t Table,
    ) -> (Option<&'t Arc<ServiceTable>>, bool) {
        let mut services = self.shares.iter().filter_map(|share| table.by_key(&share.service));
        let is_sticky = services.clone().any(|service| service.is_sticky());
        (services.next(), is_sticky)
    }

    /// The record it is compiled from.
    pub fn record(&self) -> &Arc<Route> {
        &self.record
    }

    /// Picks an endpoint from `table` (the newest, also for a retry) and begins a request on it:
    /// a service by weight, then by the service's policy, never one that was tried.
    ///
    /// A first attempt stays with the service drawn, so that a service without instances fails
    /// for its share only; a retry goes on to the others when the one drawn has none left.
    /// Takes no lock, allocates nothing, reads no clock.
    pub fn pick(&self, table: &Table, ask: &Ask<'_>) -> Result<InFlight, PickError> {
        let drawn = match &*self.shares {
            [only] => only,
            shares => {
                let mut point = scale((mix(ask.random) >> 32) as u32, self.weight_sum);
                shares
                    .iter()
                    .find(|share| match point.checked_sub(share.weight) {
                        Some(rest) => {
                            point = rest;
                            false
                        }
                        None => true,
                    })
                    .expect("the point is below the sum of the weights")
            }
        };
        let drawn = self.named(drawn, table, ask).unwrap_or(drawn);
        let picked = pick_from(drawn, table, ask);
        if picked.is_ok() || ask.tried.is_empty() {
            return picked;
        }
        self.shares.iter().find_map(|share| pick_from(share, table, ask).ok()).map_or(picked, Ok)
    }

    /// The service that gets everything, if it is one and not for its leader only.
    pub(super) fn sole(&self) -> Option<ServiceMark> {
        match &*self.shares {
            [only] if !only.leader => Some(only.service.mark()),
            _ => None,
        }
    }

    /// Of which part of its requests another service gets copies.
    pub(crate) fn mirrors(&self) -> Option<Percent> {
        self.mirror.as_ref()?;
        self.record.mirror.as_ref().map(|mirror| mirror.percent)
    }

    /// Picks an endpoint for a copy.
    pub(crate) fn pick_mirror(&self, table: &Table, ask: &Ask<'_>) -> Option<InFlight> {
        pick_from(self.mirror.as_ref()?, table, ask).ok()
    }

    /// The service of an endpoint that the request's cookie names: a client is kept with its
    /// service, too, if the services that it may come to are sticky.
    fn named(&self, drawn: &Share, table: &Table, ask: &Ask<'_>) -> Option<&Share> {
        let is_split = self.shares.len() > 1 && matches!(ask.key, Key::Request(..));
        if !is_split || !table.by_key(&drawn.service)?.is_sticky() {
            return None;
        }
        let is_named = |share: &&Share| {
            table.by_key(&share.service).is_some_and(|service| service.is_named_by(ask))
        };
        self.shares.iter().find(is_named)
    }

    /// The services it leads to, with their weights and, where they exist, their tables.
    pub fn backends<'t>(
        &'t self,
        table: &'t Table,
    ) -> impl Iterator<Item = (&'t ServiceName, u32, Option<&'t Arc<ServiceTable>>)> {
        self.shares
            .iter()
            .map(|share| (&share.service.name, share.weight, table.by_key(&share.service)))
    }

    /// For each service that it leads to, whether only the leader gets something.
    pub(crate) fn leaders_only(&self) -> impl Iterator<Item = bool> {
        self.shares.iter().map(|share| share.leader)
    }

    /// The rule, when it is for HTTP.
    pub(crate) fn http(&self) -> Option<&HttpRule> {
        match &self.record.rule {
            Rule::Http(rule) => Some(rule),
            Rule::Tcp | Rule::Udp | Rule::Tls(_) => None,
        }
    }

    /// Whether its path takes the request's; one for TCP knows no paths.
    pub(crate) fn takes_path(&self, path: &str) -> bool {
        self.http().is_none_or(|rule| paths::takes(&rule.path, path))
    }

    /// Whether requests of `listener` may take it.
    pub(crate) fn serves(&self, listener: &ListenerName) -> bool {
        self.listener.as_ref().is_none_or(|own| own == listener)
    }

    /// What the request does not have of what it asks beside host and path.
    pub(crate) fn lacks(&self, request: &RequestView<'_>) -> Option<Lack<'_>> {
        request.lacks(&self.http()?.predicates)
    }

    /// Whether it asks for more than its place by host and path says.
    pub(super) fn is_guarded(&self) -> bool {
        self.asks || self.listener.is_some()
    }

    /// Whether it takes a request that its place by host and path lets through.
    pub(super) fn takes(&self, request: &RequestView<'_>) -> bool {
        self.serves(request.listener) && (!self.asks || self.takes_asked(request))
    }

    // Apart, so that routes which ask nothing do not carry it.
    #[inline(never)]
    fn takes_asked(&self, request: &RequestView<'_>) -> bool {
        let is_regex = self.http().is_some_and(|rule| matches!(rule.path, PathPattern::Regex(_)));
        (!is_regex || self.takes_path(request.path)) && self.lacks(request).is_none()
    }

    /// Whether both take exactly the same requests of their host, or all of one listener.
    pub(super) fn is_twin_of(&self, other: &Self) -> bool {
        self.listener == other.listener
            && match (self.http(), other.http()) {
                (Some(ours), Some(theirs)) => {
                    ours.path == theirs.path && ours.predicates == theirs.predicates
                }
                _ => self.record.rule == other.record.rule,
            }
    }

    fn rank(&self) -> (bool, usize, usize) {
        match self.http() {
            Some(rule) if self.asks => rule.predicates.rank(),
            _ => Predicates::NONE.rank(),
        }
    }

    /// Which of two routes with the same host and path comes first: the one that asks for more
    /// (a method, then header fields, then parameters), one of a listener before one for all,
    /// then the older, then by name.
    pub(crate) fn precedence(&self, other: &Self) -> Ordering {
        other
            .rank()
            .cmp(&self.rank())
            .then_with(|| self.listener.is_none().cmp(&other.listener.is_none()))
            .then_with(|| self.listener.cmp(&other.listener))
            .then_with(|| self.record.created_ms.cmp(&other.record.created_ms))
            .then_with(|| self.name.cmp(&other.name))
    }
}

const NO_TIMEOUTS: RouteTimeouts = RouteTimeouts {
    connect: None,
    first_byte: None,
    request: None,
    body_idle: None,
    tunnel_idle: None,
};

fn asks(rule: &Rule) -> bool {
    match rule {
        Rule::Http(rule) => {
            matches!(rule.path, PathPattern::Regex(_)) || !rule.predicates.is_empty()
        }
        Rule::Tcp | Rule::Udp | Rule::Tls(_) => false,
    }
}

fn pick_from(share: &Share, table: &Table, ask: &Ask<'_>) -> Result<InFlight, PickError> {
    let Some(service) = table.by_key(&share.service) else {
        return Err(PickError::UnknownService { service: share.service.name.clone() });
    };
    picked(service, ask, share.leader)
}

/// Picks an endpoint of a service, or its leader.
pub(super) fn picked(
    service: &ServiceTable,
    ask: &Ask<'_>,
    leader: bool,
) -> Result<InFlight, PickError> {
    let name = || service.name().clone();
    let metrics = || Arc::clone(service.metrics());
    let picked = if leader { service.pick_leader(ask) } else { service.pick(ask) };
    picked.map_err(|miss| match miss {
        Miss::NoInstance => PickError::NoInstance { service: name(), metrics: metrics() },
        Miss::Full(limit, queue) => PickError::Full(Box::new(Full {
            service: name(),
            metrics: metrics(),
            queue,
            limit,
            token: service.token(ask),
            key: service.key_of(ask),
        })),
    })
}
