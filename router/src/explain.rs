//! Why a request goes where it goes: every route that could have taken it, and every instance
//! that could have served it, by the code that decides.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::sync::Arc;

use portolan_discovery::model::route::{HeaderName, ParameterName};
use portolan_discovery::model::{
    Coding, Concurrency, HostPattern, HttpVersion, InstanceId, ListenerName, Override, PathPattern,
    Predicates, ProxyVersion, Revision, Route, RouteName, Rule, ServiceName, ServiceTls, Weight,
};
use portolan_discovery::snapshot::State;

use crate::compress::Wish;
use crate::table::{Lack, RequestView, RouteEntry, ServiceTable, Table};
use crate::virtuals;

/// The most routes an explanation lists. Those that take the path come first.
pub const CANDIDATES_MAX: usize = 100;

/// What the table says of one request.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The revision of the table.
    pub revision: Revision,
    /// The listener asked for.
    pub listener: ListenerName,
    /// The route that takes the request; none is a 404.
    pub winner: Option<RouteName>,
    /// Its record.
    pub record: Option<Arc<Route>>,
    /// The routes whose host takes the request, in order of precedence, the winner included.
    pub candidates: Vec<Candidate>,
    /// How many more there are than [`CANDIDATES_MAX`].
    pub candidates_left_out: usize,
    /// Where the winner leads.
    pub backends: Vec<BackendView>,
    /// The coding that the request accepts, if the winner compresses.
    pub coding: Option<Coding>,
}

/// A route that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The route.
    pub route: RouteName,
    /// Its host; none for TCP and UDP.
    pub host: Option<HostPattern>,
    /// Its path; none for TCP, UDP and TLS.
    pub path: Option<PathPattern>,
    /// What else it asks.
    pub predicates: Predicates,
    /// The listener it is bound to.
    pub listener: Option<ListenerName>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a route that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It takes the request.
    Wins,
    /// It is bound to another listener.
    OtherListener,
    /// Its path does not take the request's.
    OtherPath,
    /// It is for other methods.
    OtherMethod,
    /// It asks for a header field that is not there.
    NoHeader(HeaderName),
    /// It asks for another value of a header field.
    OtherHeader(HeaderName),
    /// It asks for a parameter of the query that is not there.
    NoParameter(ParameterName),
    /// It asks for another value of a parameter of the query.
    OtherParameter(ParameterName),
    /// The winner's host is more specific.
    LessSpecificHost,
    /// The winner's path is more specific: exact, or the longer prefix.
    LessSpecificPath,
    /// Its path is a regular expression, and the winner's is not.
    RegexLast,
    /// Same host and path, but the winner names a method.
    NoMethod,
    /// Same host and path, but the winner asks for more header fields.
    FewerHeaders,
    /// Same host and path, but the winner asks for more parameters of the query.
    FewerParameters,
    /// Same host and path, but the winner is bound to the listener.
    NotBound,
    /// Equally specific, but the winner is older, or first by name.
    Younger,
}

impl Verdict {
    /// The verdict in words.
    pub fn reason(&self) -> String {
        let text = match self {
            Self::Wins => "takes the request",
            Self::OtherListener => "is bound to another listener",
            Self::OtherPath => "its path does not match",
            Self::OtherMethod => "it is for other methods",
            Self::NoHeader(name) => return format!("there is no header field {name}"),
            Self::OtherHeader(name) => return format!("the header field {name} has another value"),
            Self::NoParameter(name) => return format!("the query has no {name}"),
            Self::OtherParameter(name) => return format!("the query's {name} has another value"),
            Self::LessSpecificHost => "the host of another route is more specific",
            Self::LessSpecificPath => "the path of another route is more specific",
            Self::RegexLast => "regular expressions come last",
            Self::NoMethod => "another route with this path names the method",
            Self::FewerHeaders => "another route with this path asks for more header fields",
            Self::FewerParameters => "another route with this path asks for more of the query",
            Self::NotBound => "another route that is as specific is bound to the listener",
            Self::Younger => "another route that is as specific is older, or first by name",
        };
        text.to_owned()
    }
}

/// A service that the winner leads to.
#[derive(Debug, Clone)]
pub struct BackendView {
    /// The service.
    pub service: ServiceName,
    /// Its share relative to the other backends.
    pub weight: u32,
    /// Whether the service exists; if not, its share of requests gets a 500.
    pub exists: bool,
    /// Whether only its leader gets something.
    pub leader_only: bool,
    /// Whether instances that are down take traffic, because too few are up.
    pub panic: bool,
    /// Whether instances of an earlier table take traffic, because nothing explains why all
    /// are gone.
    pub kept: bool,
    /// What one instance may have under way, and who waits for that, if there is a limit.
    pub limit: Option<Concurrency>,
    /// Requests that wait for an instance with room.
    pub waiting: u32,
    /// Which HTTP its instances are spoken to in.
    pub http_version: HttpVersion,
    /// The PROXY header that connections to its instances begin with.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How connections to it are TLS, if they are.
    pub tls: Option<ServiceTls>,
    /// Its instances, by id.
    pub endpoints: Vec<EndpointView>,
}

/// An instance of such a service.
#[derive(Debug, Clone)]
pub struct EndpointView {
    /// The instance.
    pub id: InstanceId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its share of the service's traffic.
    pub weight: Weight,
    /// What checks, phase and overrides say.
    pub state: State,
    /// The override that decided the state, if one did.
    pub overridden_by: Option<Arc<Override>>,
    /// Whether it is the leader of its service.
    pub leader: bool,
    /// Whether it takes traffic; where only the leader is picked, others do not.
    pub takes_traffic: bool,
    /// Requests, tunnels and TCP connections under way.
    pub in_flight: u64,
    /// Until when it is left alone for its errors, in microseconds of Unix time; 0 if it never
    /// was.
    pub ejected_until_us: u64,
}

impl Table {
    /// Says which route takes a request, why each other one does not, and which instances it
    /// may go to.
    pub fn explain(&self, request: &RequestView<'_>) -> Explanation {
        let winner = self.route(request);
        let mut candidates: Vec<Candidate> = self
            .rules_for_host(request.host)
            .into_iter()
            .map(|entry| candidate(entry, verdict(entry, winner, request)))
            .collect();
        let found = candidates.len();
        if found > CANDIDATES_MAX {
            // Stable: both halves stay in order of precedence.
            candidates.sort_by_key(|candidate| candidate.verdict == Verdict::OtherPath);
            candidates.truncate(CANDIDATES_MAX);
        }
        let rule = winner.and_then(|winner| winner.compress());
        let coding = rule.and_then(|rule| Wish::of(rule, request.headers).coding);
        let explanation = self.explanation(request.listener, winner, candidates, found);
        Explanation { coding, ..explanation }
    }

    /// The same for a connection of a TCP listener, or a datagram of a UDP listener.
    pub fn explain_bound(&self, listener: &ListenerName) -> Explanation {
        let entries = self.bound_rules(listener);
        let winner = entries.first();
        let verdict = |entry: &Arc<RouteEntry>| match winner {
            Some(winner) if !Arc::ptr_eq(winner, entry) => Verdict::Younger,
            _ => Verdict::Wins,
        };
        let candidates = entries
            .iter()
            .take(CANDIDATES_MAX)
            .map(|entry| candidate(entry, verdict(entry)))
            .collect();
        self.explanation(listener, winner, candidates, entries.len())
    }

    /// The same for a connection to the virtual address of a service, whose own `route` no other
    /// one can take it from.
    pub fn explain_virtual(&self, route: &Arc<RouteEntry>) -> Explanation {
        self.explanation(&virtuals::name(), Some(route), Vec::new(), 0)
    }

    /// The same for a connection of a listener that passes TLS on, whose client asks for `host`
    /// in lower case.
    pub fn explain_tls(&self, listener: &ListenerName, host: Option<&str>) -> Explanation {
        let entries = self.tls_rules(listener, host);
        let winner = self.tls_route(listener, host);
        let verdict = |entry: &Arc<RouteEntry>| match winner {
            Some(winner) if !Arc::ptr_eq(winner, entry) => {
                match winner.record().rule == entry.record().rule {
                    true => Verdict::Younger,
                    false => Verdict::LessSpecificHost,
                }
            }
            _ => Verdict::Wins,
        };
        let found = entries.len();
        let first = entries.into_iter().take(CANDIDATES_MAX);
        let candidates = first.map(|entry| candidate(entry, verdict(entry))).collect();
        self.explanation(listener, winner, candidates, found)
    }

    fn explanation(
        &self,
        listener: &ListenerName,
        winner: Option<&Arc<RouteEntry>>,
        candidates: Vec<Candidate>,
        found: usize,
    ) -> Explanation {
        Explanation {
            revision: self.revision(),
            listener: listener.clone(),
            winner: winner.map(|winner| winner.name.clone()),
            record: winner.map(|winner| Arc::clone(winner.record())),
            candidates_left_out: found - candidates.len(),
            candidates,
            backends: winner.map(|winner| self.backend_views(winner)).unwrap_or_default(),
            coding: None,
        }
    }

    fn backend_views(&self, route: &RouteEntry) -> Vec<BackendView> {
        type Backend<'t> = (&'t ServiceName, u32, Option<&'t Arc<ServiceTable>>);
        let view = |((service, weight, table), leader_only): (Backend<'_>, bool)| {
            let endpoints = table.map(|table| endpoint_views(table)).unwrap_or_default();
            let record = self.snapshot().service(service.as_str());
            let limit = table.and_then(|table| table.concurrency());
            BackendView {
                leader_only,
                service: service.clone(),
                weight,
                exists: table.is_some(),
                panic: table.is_some_and(|table| table.is_panic()),
                kept: table.is_some_and(|table| table.is_kept()),
                limit: limit.map(|(limit, _)| *limit),
                waiting: limit.map_or(0, |(_, waiting)| waiting),
                http_version: record.map_or_else(Default::default, |it| it.service.http_version),
                proxy_protocol: record.and_then(|entry| entry.service.proxy_protocol),
                tls: record.and_then(|entry| entry.service.tls.clone()),
                endpoints,
            }
        };
        route.backends(self).zip(route.leaders_only()).map(view).collect()
    }
}

fn endpoint_views(service: &ServiceTable) -> Vec<EndpointView> {
    let leader = service.leader().map(|leader| &leader.id);
    service
        .members()
        .map(|member| EndpointView {
            leader: leader == Some(&member.endpoint.id),
            id: member.endpoint.id.clone(),
            addr: member.endpoint.addr,
            weight: member.endpoint.weight,
            state: member.state,
            overridden_by: member.overridden_by.clone(),
            takes_traffic: member.takes_traffic,
            in_flight: member.endpoint.in_flight(),
            ejected_until_us: member.endpoint.state.ejected_until_us(),
        })
        .collect()
}

fn candidate(entry: &RouteEntry, verdict: Verdict) -> Candidate {
    let rule = entry.http();
    Candidate {
        route: entry.name.clone(),
        host: match &entry.record().rule {
            Rule::Http(rule) => Some(rule.host.clone()),
            Rule::Tls(rule) => Some(rule.host.clone()),
            Rule::Tcp | Rule::Udp => None,
        },
        path: rule.map(|rule| rule.path.clone()),
        predicates: rule.map(|rule| rule.predicates.clone()).unwrap_or_default(),
        listener: entry.record().listener.clone(),
        verdict,
    }
}

fn verdict(
    entry: &Arc<RouteEntry>,
    winner: Option<&Arc<RouteEntry>>,
    request: &RequestView<'_>,
) -> Verdict {
    if !entry.takes_path(request.path) {
        return Verdict::OtherPath;
    }
    if !entry.serves(request.listener) {
        return Verdict::OtherListener;
    }
    match entry.lacks(request) {
        None => {}
        Some(Lack::Method) => return Verdict::OtherMethod,
        Some(Lack::Header { name, is_there: false }) => return Verdict::NoHeader(name.clone()),
        Some(Lack::Header { name, .. }) => return Verdict::OtherHeader(name.clone()),
        Some(Lack::Parameter { name, is_there: false }) => {
            return Verdict::NoParameter(name.clone());
        }
        Some(Lack::Parameter { name, .. }) => return Verdict::OtherParameter(name.clone()),
    }
    // Without a winner no route takes the request.
    let Some(winner) = winner.filter(|winner| !Arc::ptr_eq(winner, entry)) else {
        return Verdict::Wins;
    };
    let (Some(ours), Some(theirs)) = (entry.http(), winner.http()) else {
        return Verdict::Younger;
    };
    let (rank, winners) = (ours.predicates.rank(), theirs.predicates.rank());
    let is_regex = |path: &PathPattern| matches!(path, PathPattern::Regex(_));
    if ours.host != theirs.host {
        Verdict::LessSpecificHost
    } else if is_regex(&ours.path) && !is_regex(&theirs.path) {
        Verdict::RegexLast
    } else if ours.path != theirs.path && !is_regex(&ours.path) {
        Verdict::LessSpecificPath
    } else if rank.0 != winners.0 {
        Verdict::NoMethod
    } else if rank.1 != winners.1 {
        Verdict::FewerHeaders
    } else if rank.2 != winners.2 {
        Verdict::FewerParameters
    } else if entry.record().listener != winner.record().listener {
        Verdict::NotBound
    } else {
        debug_assert_eq!(winner.precedence(entry), Ordering::Less);
        Verdict::Younger
    }
}
