//! Why a request goes where it goes: every route that could have taken it, and every instance
//! that could have served it, by the code that decides.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::sync::Arc;

use portolan_discovery::model::{
    HostPattern, InstanceId, ListenerName, Override, PathPattern, Revision, RouteName, ServiceName,
    Weight,
};
use portolan_discovery::snapshot::State;

use crate::table::{RouteEntry, ServiceTable, Table};

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
    /// The routes whose host takes the request, in order of precedence, the winner included.
    pub candidates: Vec<Candidate>,
    /// How many more there are than [`CANDIDATES_MAX`].
    pub candidates_left_out: usize,
    /// Where the winner leads.
    pub backends: Vec<BackendView>,
}

/// A route that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The route.
    pub route: RouteName,
    /// Its host; none for TCP.
    pub host: Option<HostPattern>,
    /// Its path; none for TCP.
    pub path: Option<PathPattern>,
    /// The listener it is bound to.
    pub listener: Option<ListenerName>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a route that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It takes the request.
    Wins,
    /// It is bound to another listener.
    OtherListener,
    /// Its path does not take the request's.
    OtherPath,
    /// The winner's host is more specific.
    LessSpecificHost,
    /// The winner's path is more specific: exact, or the longer prefix.
    LessSpecificPath,
    /// Same host and path, but the winner is bound to the listener.
    NotBound,
    /// Same rule, but the winner is older, or first by name.
    Younger,
}

impl Verdict {
    /// The verdict in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Wins => "takes the request",
            Self::OtherListener => "is bound to another listener",
            Self::OtherPath => "its path does not match",
            Self::LessSpecificHost => "the host of another route is more specific",
            Self::LessSpecificPath => "the path of another route is more specific",
            Self::NotBound => "another route with this host and path is bound to the listener",
            Self::Younger => "another route with the same rule is older, or first by name",
        }
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
    /// Whether instances that are down take traffic, because too few are up.
    pub panic: bool,
    /// Whether instances of an earlier table take traffic, because nothing explains why all
    /// are gone.
    pub kept: bool,
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
    /// Whether it is picked.
    pub takes_traffic: bool,
    /// Requests, tunnels and TCP connections under way.
    pub in_flight: u64,
}

impl Table {
    /// Says which route takes a request, why each other one does not, and which instances it
    /// may go to. `host` and `path` as for [`Table::route`].
    pub fn explain(&self, listener: &ListenerName, host: &str, path: &str) -> Explanation {
        let winner = self.route(listener, host, path);
        let mut candidates: Vec<Candidate> = self
            .rules_for_host(host)
            .into_iter()
            .map(|entry| candidate(entry, winner, listener, path))
            .collect();
        let found = candidates.len();
        if found > CANDIDATES_MAX {
            // Stable: both halves stay in order of precedence.
            candidates.sort_by_key(|candidate| candidate.verdict == Verdict::OtherPath);
            candidates.truncate(CANDIDATES_MAX);
        }
        self.explanation(listener, winner, candidates, found)
    }

    /// The same for a connection of a TCP listener.
    pub fn explain_tcp(&self, listener: &ListenerName) -> Explanation {
        let winner = self.tcp_route(listener);
        let entries = self.tcp_rules(listener);
        let candidates = entries
            .iter()
            .take(CANDIDATES_MAX)
            .map(|entry| candidate(entry, winner, listener, ""))
            .collect();
        self.explanation(listener, winner, candidates, entries.len())
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
            candidates_left_out: found - candidates.len(),
            candidates,
            backends: winner.map(|winner| self.backend_views(winner)).unwrap_or_default(),
        }
    }

    fn backend_views(&self, route: &RouteEntry) -> Vec<BackendView> {
        let view = |(service, weight, table): (&ServiceName, u32, Option<&Arc<ServiceTable>>)| {
            BackendView {
                service: service.clone(),
                weight,
                exists: table.is_some(),
                panic: table.is_some_and(|table| table.is_panic()),
                kept: table.is_some_and(|table| table.is_kept()),
                endpoints: table.map(|table| endpoint_views(table)).unwrap_or_default(),
            }
        };
        route.backends(self).map(view).collect()
    }
}

fn endpoint_views(service: &ServiceTable) -> Vec<EndpointView> {
    service
        .members()
        .map(|member| EndpointView {
            id: member.endpoint.id.clone(),
            addr: member.endpoint.addr,
            weight: member.endpoint.weight,
            state: member.state,
            overridden_by: member.overridden_by.clone(),
            takes_traffic: member.takes_traffic,
            in_flight: member.endpoint.in_flight(),
        })
        .collect()
}

fn candidate(
    entry: &Arc<RouteEntry>,
    winner: Option<&Arc<RouteEntry>>,
    listener: &ListenerName,
    path: &str,
) -> Candidate {
    let rule = entry.http();
    Candidate {
        route: entry.name.clone(),
        host: rule.map(|rule| rule.host.clone()),
        path: rule.map(|rule| rule.path.clone()),
        listener: entry.record().listener.clone(),
        verdict: verdict(entry, winner, listener, path),
    }
}

fn verdict(
    entry: &Arc<RouteEntry>,
    winner: Option<&Arc<RouteEntry>>,
    listener: &ListenerName,
    path: &str,
) -> Verdict {
    if !entry.takes_path(path) {
        return Verdict::OtherPath;
    }
    if !entry.serves(listener) {
        return Verdict::OtherListener;
    }
    // Without a winner no route takes both path and listener.
    let Some(winner) = winner.filter(|winner| !Arc::ptr_eq(winner, entry)) else {
        return Verdict::Wins;
    };
    let (Some(ours), Some(theirs)) = (entry.http(), winner.http()) else {
        return Verdict::Younger;
    };
    if ours.host != theirs.host {
        Verdict::LessSpecificHost
    } else if ours.path != theirs.path {
        Verdict::LessSpecificPath
    } else if entry.record().listener != winner.record().listener {
        Verdict::NotBound
    } else {
        debug_assert_eq!(winner.precedence(entry), Ordering::Less);
        Verdict::Younger
    }
}
