//! A compiled service: which of its instances take traffic, and why the others do not.
//!
//! Two guards against emptiness stand here. *Panic*: when less than half of the instances that
//! checks alone decide on are up, those that are down take traffic too; checks that fail
//! together say more about the checks. *Kept*: instances that took traffic and are back at
//! `Starting`, as after an agent forgot its results, stay while the service would be empty
//! without them. Draining, an override and the deletion of a record are explanations, so none
//! of them is undone. Both guards clear themselves with the next state.

use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::{
    Concurrency, Ejection, HttpVersion, InstanceId, Override, Protocol, ServiceName, Sticky,
};
use portolan_discovery::snapshot::{self, ServiceEntry, State};

use super::index::Keyed;
use super::seed;
use crate::balance::{Ask, Balance, Key, Lack};
use crate::endpoint::{Endpoint, EndpointState, InFlight};
use crate::metrics::{Metrics, ServiceMetrics};
use crate::queue::Queue;
use crate::sticky::{Cookie, Token, Tokens};
use crate::tls::InstanceTls;

/// A service's name with its hash, so that a pick neither hashes nor, as a rule, reads it.
#[derive(Debug, Clone)]
pub(crate) struct ServiceKey {
    hash: u64,
    pub(crate) name: ServiceName,
}

impl ServiceKey {
    pub(crate) fn of(name: &ServiceName) -> Self {
        Self { hash: seed().hash_one(name.as_str()), name: name.clone() }
    }
}

impl ServiceKey {
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    fn address(&self) -> NonZeroUsize {
        NonNull::from(self.name.as_str()).addr()
    }

    pub(super) fn mark(&self) -> ServiceMark {
        ServiceMark { hash: self.hash, name: self.address() }
    }
}

/// What finds the service of a [`ServiceKey`] while both share one name, without the key: the
/// hash, and where the name lies. Whoever keeps a mark keeps the key too, so that nothing else
/// can lie there.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServiceMark {
    pub(super) hash: u64,
    // Of nothing that is at 0, so that there is room for "none".
    name: NonZeroUsize,
}

impl ServiceMark {
    pub(super) fn is_of(self, key: &ServiceKey) -> bool {
        self.hash == key.hash && self.name == key.address()
    }
}

impl PartialEq for ServiceKey {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.name.as_str(), other.name.as_str());
        self.hash == other.hash && (std::ptr::eq(ours, theirs) || ours == theirs)
    }
}

impl Eq for ServiceKey {}

impl Keyed for ServiceTable {
    fn hash(&self) -> u64 {
        self.key.hash
    }

    fn is_same(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// One instance of a compiled service.
#[derive(Debug, Clone)]
pub struct Member {
    /// The instance as the router holds it.
    pub endpoint: Arc<Endpoint>,
    /// What checks, phase and overrides say.
    pub state: State,
    /// The override that decided the state, if one did.
    pub overridden_by: Option<Arc<Override>>,
    /// Whether it is picked.
    pub takes_traffic: bool,
}

/// A compiled service.
#[derive(Debug)]
pub struct ServiceTable {
    key: ServiceKey,
    protocol: Protocol,
    panic: bool,
    kept: bool,
    balance: Balance,
    ejection: Option<Ejection>,
    /// How its instances are spoken to by TLS.
    tls: Option<Arc<InstanceTls>>,
    /// What few services have; a pick asks once for all of it.
    care: Option<Box<Care>>,
    /// The line, once there was a limit: it stays when that goes.
    queue: Option<Arc<Queue>>,
    members: Box<[Member]>,
    /// The place of its leader among the members.
    leader: Option<usize>,
    metrics: Arc<ServiceMetrics>,
}

/// What a pick has to look at beside the endpoints.
#[derive(Debug)]
struct Care {
    sticky: Option<(Sticky, Tokens)>,
    limit: Option<(Concurrency, Arc<Queue>)>,
}

/// Why a pick came to nothing.
#[derive(Debug, Clone)]
pub(crate) enum Miss {
    /// No instance takes traffic and was not tried.
    NoInstance,
    /// All that do have as much under way as they may have.
    Full(Concurrency, Arc<Queue>),
}

impl ServiceTable {
    /// `key` is the previous table's where there is one: routes share its name.
    pub(super) fn compile(
        key: ServiceKey,
        entry: &ServiceEntry,
        previous: Option<&Self>,
        metrics: &Metrics,
    ) -> Self {
        let handles = previous
            .map_or_else(|| metrics.service(&key.name), |previous| Arc::clone(&previous.metrics));
        let choice = Choice::of(entry, previous);
        let queue = match (
            previous.and_then(|previous| previous.queue.as_ref()),
            &entry.service.concurrency,
        ) {
            (Some(queue), _) => Some(Arc::clone(queue)),
            (None, Some(_)) => Some(Queue::new(metrics.queue(&key.name))),
            (None, None) => None,
        };
        let tls = InstanceTls::of(&entry.service, previous.and_then(|p| p.tls.as_ref()));
        let members: Box<[Member]> = entry
            .members
            .values()
            .map(|member| {
                let endpoint = endpoint(entry, member, previous, &handles, tls.as_ref());
                let unused = matches!(member.state, State::Draining | State::AdminDown);
                endpoint.state.want_idle(!unused);
                if let Some(queue) = &queue {
                    endpoint.state.tell(queue);
                }
                Member {
                    takes_traffic: choice.takes(member),
                    endpoint,
                    state: member.state,
                    overridden_by: member.overridden_by.clone(),
                }
            })
            .collect();
        let leader = snapshot::leader(entry.members.values().filter(|member| choice.takes(member)))
            .and_then(|leader| place(&members, &leader.instance.id));
        let takers = members
            .iter()
            .zip(entry.members.values())
            .filter(|(member, _)| member.takes_traffic)
            .map(|(member, record)| (&member.endpoint, record.instance.since_ms));
        let balance = Balance::new(
            takers,
            &entry.service.balancing,
            entry.service.slow_start,
            previous.map(|previous| &previous.balance),
        );
        let care = Care::of(entry, &balance, queue.as_ref());
        Self {
            key,
            protocol: entry.service.protocol,
            panic: matches!(choice, Choice::Panic),
            kept: matches!(choice, Choice::Kept(_)),
            balance,
            ejection: entry.service.ejection,
            tls,
            care,
            queue,
            members,
            leader,
            metrics: handles,
        }
    }

    /// The name.
    pub fn name(&self) -> &ServiceName {
        &self.key.name
    }

    pub(super) fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// What its instances speak.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether instances that are down take traffic, because too few are up.
    pub fn is_panic(&self) -> bool {
        self.panic
    }

    /// Whether instances of an earlier table take traffic, because nothing explains why all
    /// are gone.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// All instances, by id; those that take no traffic too.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// Whether what is under way on an endpoint may go on: the service still has it, it takes
    /// traffic or drains.
    pub(crate) fn keeps(&self, endpoint: &Endpoint) -> bool {
        self.member(&endpoint.id).is_some_and(|member| {
            Arc::ptr_eq(&member.endpoint.state, &endpoint.state)
                && (member.takes_traffic || member.state == State::Draining)
        })
    }

    /// The endpoints that take traffic, by id.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.balance.endpoints()
    }

    /// The handles.
    pub fn metrics(&self) -> &Arc<ServiceMetrics> {
        &self.metrics
    }

    pub(super) fn is_draining(&self) -> bool {
        self.members.iter().any(|member| member.state == State::Draining)
    }

    /// The one endpoint that routes for leaders only lead to, if any takes traffic.
    pub fn leader(&self) -> Option<&Arc<Endpoint>> {
        self.leader.map(|place| &self.members[place].endpoint)
    }

    /// Begins a request on the leader, unless that was tried.
    pub(super) fn pick_leader(&self, ask: &Ask<'_>) -> Result<InFlight, Miss> {
        let is_tried = |leader: &&Arc<Endpoint>| ask.tried.contains(leader.state.pool_key());
        let leader = self.leader().filter(|leader| !is_tried(leader)).ok_or(Miss::NoInstance)?;
        match &self.care {
            None => Ok(InFlight::begin(leader)),
            Some(care) => care.pick_only(leader, ask),
        }
    }

    /// What one instance may have under way, if there is a limit, and how many wait for that.
    pub fn concurrency(&self) -> Option<(&Concurrency, u32)> {
        let (limit, queue) = self.care.as_ref()?.limit.as_ref()?;
        Some((limit, queue.waiting()))
    }

    /// The line, if there ever was one.
    pub(crate) fn queue(&self) -> Option<&Arc<Queue>> {
        self.queue.as_ref()
    }

    fn sticky(&self) -> Option<&(Sticky, Tokens)> {
        self.care.as_ref()?.sticky.as_ref()
    }

    pub(super) fn pick(&self, ask: &Ask<'_>) -> Result<InFlight, Miss> {
        match &self.care {
            None => self.balance.pick(ask).ok_or(Miss::NoInstance),
            Some(care) => care.pick(&self.balance, ask),
        }
    }

    /// Whether it keeps clients with its instances.
    pub(super) fn is_sticky(&self) -> bool {
        self.sticky().is_some()
    }

    /// What the request's key comes to, if the policy goes by one.
    pub(super) fn key_of(&self, ask: &Ask<'_>) -> Option<u64> {
        self.balance.key(ask)
    }

    /// Whether the request has a cookie of one of its endpoints.
    pub(super) fn is_named_by(&self, ask: &Ask<'_>) -> bool {
        self.token(ask).is_some()
    }

    /// What the request's cookie says, if that is one of its endpoints.
    pub(super) fn token(&self, ask: &Ask<'_>) -> Option<Token> {
        Some(self.care.as_ref()?.named(ask)?.cookie.as_ref()?.token())
    }

    /// An attempt at one of the endpoints ended in a gateway error. Returns for how long that
    /// ejects it, if it does.
    pub(super) fn failed(&self, state: &EndpointState, now_us: u64) -> Option<Duration> {
        let rule = self.ejection?;
        if state.strikes.failed(now_us) < rule.errors().get() || !self.may_eject(state, now_us) {
            return None;
        }
        let time_us = u64::try_from(rule.time().as_micros()).unwrap_or(u64::MAX);
        if !state.strikes.eject(now_us, time_us) {
            return None;
        }
        if self.ejected(now_us) > self.ejected_max(rule) {
            // Another worker ejected another one at the same moment.
            state.strikes.readmit();
            return None;
        }
        self.metrics.ejections.inc();
        Some(Duration::from_micros(state.ejected_until_us().saturating_sub(now_us)))
    }

    fn may_eject(&self, state: &EndpointState, now_us: u64) -> bool {
        self.ejection.is_some_and(|rule| self.ejected(now_us) < self.ejected_max(rule))
            && self.endpoints().any(|endpoint| std::ptr::eq(&*endpoint.state, state))
    }

    /// How many of those that take traffic may be ejected at a time.
    fn ejected_max(&self, rule: Ejection) -> usize {
        self.endpoints().count() * usize::from(rule.share_max().get()) / 100
    }

    /// How many of those that take traffic are ejected.
    pub(crate) fn ejected(&self, now_us: u64) -> usize {
        self.endpoints().filter(|endpoint| endpoint.state.ejected_until_us() > now_us).count()
    }

    /// Says that nothing more comes for the instances that `next` does not have.
    pub(super) fn let_go(&self, next: Option<&Self>) {
        for Member { endpoint, .. } in &self.members {
            let successor = next.and_then(|next| next.member(&endpoint.id));
            if !successor.is_some_and(|next| Arc::ptr_eq(&next.endpoint.state, &endpoint.state)) {
                endpoint.state.want_idle(false);
            }
        }
    }

    fn member(&self, id: &InstanceId) -> Option<&Member> {
        place(&self.members, id).map(|place| &self.members[place])
    }
}

fn place(members: &[Member], id: &InstanceId) -> Option<usize> {
    members.binary_search_by(|member| member.endpoint.id.cmp(id)).ok()
}

impl Care {
    fn of(
        entry: &ServiceEntry,
        balance: &Balance,
        queue: Option<&Arc<Queue>>,
    ) -> Option<Box<Self>> {
        let tokens = |sticky: &Sticky| Tokens::new(sticky, balance.endpoints());
        let sticky = entry.service.sticky.as_ref();
        let sticky = sticky.map(|sticky| (sticky.clone(), tokens(sticky)));
        let limit = entry.service.concurrency.zip(queue.cloned());
        (sticky.is_some() || limit.is_some()).then(|| Box::new(Self { sticky, limit }))
    }

    /// The endpoint that the request's cookie names, if it can have it.
    fn named(&self, ask: &Ask<'_>) -> Option<&Arc<Endpoint>> {
        let (_, tokens) = self.sticky.as_ref()?;
        let named = match (ask.token, ask.key) {
            (Some(token), _) => tokens.endpoint(token),
            (None, Key::Request(request, _)) => tokens.named(request),
            (None, _) => None,
        }?;
        let can_be_had =
            !ask.tried.contains(named.state.pool_key()) && !named.state.strikes.is_out(ask.now_us);
        can_be_had.then_some(named)
    }

    fn pick(&self, balance: &Balance, ask: &Ask<'_>) -> Result<InFlight, Miss> {
        let Some((limit, queue)) = &self.limit else {
            return match self.named(ask) {
                Some(named) => Ok(InFlight::begin(named).by_name()),
                None => balance.pick(ask).ok_or(Miss::NoInstance),
            };
        };
        let full = || Miss::Full(*limit, Arc::clone(queue));
        // Who comes later goes to the end, even if there is room: somebody is called for it.
        if !ask.is_first && queue.waiting() > 0 {
            return Err(full());
        }
        let max = limit.in_flight_max();
        let named = self.named(ask).and_then(|named| InFlight::begin_below(named, max));
        match named {
            Some(begun) => Ok(begun.by_name()),
            None => balance.pick_below(max, ask).map_err(|lack| match lack {
                Lack::Instance => Miss::NoInstance,
                Lack::Room => full(),
            }),
        }
    }

    /// Begins a request on the one endpoint that it may go to. When that is full nobody waits:
    /// the line is for whoever has room first.
    fn pick_only(&self, endpoint: &Arc<Endpoint>, ask: &Ask<'_>) -> Result<InFlight, Miss> {
        let begun = match &self.limit {
            None => InFlight::begin(endpoint),
            Some((limit, queue)) => InFlight::begin_below(endpoint, limit.in_flight_max())
                .ok_or_else(|| Miss::Full(limit.without_queue(), Arc::clone(queue)))?,
        };
        let is_named = self.named(ask).is_some_and(|named| Arc::ptr_eq(named, endpoint));
        Ok(if is_named { begun.by_name() } else { begun })
    }
}

/// Which members take traffic.
enum Choice<'p> {
    Up,
    Panic,
    Kept(&'p ServiceTable),
}

impl<'p> Choice<'p> {
    fn of(entry: &ServiceEntry, previous: Option<&'p ServiceTable>) -> Self {
        let up = entry.in_state(State::Up).count();
        let judged = up + entry.in_state(State::Down).count();
        if judged > 0 {
            return if up * 2 < judged { Self::Panic } else { Self::Up };
        }
        previous
            .map(Self::Kept)
            .filter(|kept| entry.members.values().any(|member| kept.takes(member)))
            .unwrap_or(Self::Up)
    }

    fn takes(&self, member: &snapshot::Member) -> bool {
        match (self, member.state) {
            (Self::Up | Self::Panic, State::Up) | (Self::Panic, State::Down) => true,
            (Self::Kept(previous), State::Starting) => {
                let instance = &member.instance;
                previous.member(&instance.id).is_some_and(|before| {
                    before.takes_traffic && before.endpoint.addr == instance.addr
                })
            }
            _ => false,
        }
    }
}

fn is_same(before: Option<&Arc<InstanceTls>>, now: Option<&Arc<InstanceTls>>) -> bool {
    before.map(Arc::as_ptr) == now.map(Arc::as_ptr)
}

/// The endpoint of a member. Its live state is taken over from the previous table while id and
/// address stay, and how it is spoken to by TLS; the whole endpoint is, while nothing about it has
/// changed.
fn endpoint(
    entry: &ServiceEntry,
    member: &snapshot::Member,
    previous: Option<&ServiceTable>,
    metrics: &Arc<ServiceMetrics>,
    tls: Option<&Arc<InstanceTls>>,
) -> Arc<Endpoint> {
    let instance = &member.instance;
    let sticky = entry.service.sticky.as_ref();
    let http2 = entry.service.http_version == HttpVersion::H2;
    let before = previous
        .and_then(|previous| previous.member(&instance.id))
        .map(|member| &member.endpoint)
        // A connection that was opened on other terms is not for what comes now.
        .filter(|endpoint| endpoint.addr == instance.addr && is_same(endpoint.tls.as_ref(), tls));
    if let Some(before) = before
        && before.weight == instance.weight
        && before.keep_alive == entry.service.keep_alive
        && before.http2 == http2
        && before.proxy_protocol == entry.service.proxy_protocol
        && previous.and_then(ServiceTable::sticky).map(|(sticky, _)| sticky) == sticky
    {
        return Arc::clone(before);
    }
    Arc::new(Endpoint {
        service: entry.service.name.clone(),
        id: instance.id.clone(),
        addr: instance.addr,
        weight: instance.weight,
        keep_alive: entry.service.keep_alive,
        http2,
        proxy_protocol: entry.service.proxy_protocol,
        tls: tls.cloned(),
        cookie: sticky
            .map(|sticky| Box::new(Cookie::new(sticky, &entry.service.name, &instance.id))),
        state: before.map_or_else(EndpointState::new, |before| Arc::clone(&before.state)),
        metrics: Arc::clone(metrics),
    })
}
