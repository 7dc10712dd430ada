//! Which route and instance a request would take. The request is written out and read by the
//! router's own codec, so that host and path are those that the router would match.

mod settings;
mod virtuals;

use std::net::{IpAddr, Ipv4Addr};

use axum::Json;
use axum::extract::{RawQuery, State};
use portolan_discovery::model::{ListenerName, Protocol};
use portolan_router::h1::{HeadScratch, Limits, parse_request};
use portolan_router::{
    Ask, BackendView, EndpointView, Explanation, Key, RequestView, RouteEntry, Table,
};

use super::view::{ExplainCandidate, ExplainInstance, ExplainView};
use super::{ApiError, ErrorBody, Shared};
use crate::clock::unix_ms;

/// The name of no listener in particular: only routes that are bound to none.
const ANY_LISTENER: &str = "any-listener";

#[derive(Default)]
struct Asked {
    method: String,
    url: String,
    listener: Option<ListenerName>,
    source: Option<IpAddr>,
    headers: Vec<String>,
}

/// Which route and instances a request would take, and why the others lose.
#[utoipa::path(get, path = "/v1/explain", tag = "data",
    params(
        ("method" = Option<String>, Query, description = "GET by default"),
        ("url" = String, Query, description = "absolute, such as http://shop.test/api"),
        ("listener" = Option<String>, Query, description = "the listener that it comes to; one of TCP, UDP or TLS looks at no more than the URL's host; `virtual` is a service's own address, by the host or by the service's name"),
        ("source" = Option<String>, Query, description = "the client's address; 127.0.0.1 by default"),
        ("header" = Option<Vec<String>>, Query, description = "`Name: value`, several times"),
    ),
    responses((status = 200, body = ExplainView), (status = 400, body = ErrorBody)))]
pub(super) async fn explain(
    State(context): Shared,
    RawQuery(query): RawQuery,
) -> Result<Json<ExplainView>, ApiError> {
    let asked = asked(query.as_deref().unwrap_or(""))?;
    let head = head(&asked)?;
    let mut scratch = HeadScratch::default();
    let request = match parse_request(&head, &mut scratch, &Limits::DEFAULT) {
        Ok(Some(request)) => request,
        Ok(None) => return Err(ApiError::invalid("the request has no end", "")),
        Err(reason) => {
            let hint = "the router would refuse it at any route";
            return Err(ApiError::invalid(
                format!("{} {}", reason.status(), reason.as_str()),
                hint,
            ));
        }
    };
    let source = asked.source.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let snapshot = context.live.snapshot();
    if let Some(target) = virtuals::target(&asked.url, asked.listener.as_ref(), &snapshot) {
        let (table, listening) = (context.router.table(), context.router.virtual_status());
        return Ok(Json(virtuals::connection(&table, &listening, target, source)));
    }
    let listener = asked
        .listener
        .unwrap_or_else(|| ListenerName::parse(ANY_LISTENER).expect("a constant name"));
    let table = context.router.table();
    let request = RequestView::of(&listener, &request);
    let known = context.listeners.iter().find(|(name, _)| *name == listener);
    let view = match known.map(|(_, protocol)| *protocol) {
        None | Some(Protocol::Http) => {
            let picked = picked(&table, &request, source, random());
            ExplainView { picked, ..view(Asker::of(&request), &table.explain(&request)) }
        }
        Some(protocol) => connection(&table, &request, protocol, source),
    };
    Ok(Json(view))
}

/// Where a connection goes, or a datagram: nothing of the request counts but its host, and that
/// for TLS alone.
fn connection(
    table: &Table,
    request: &RequestView<'_>,
    protocol: Protocol,
    source: IpAddr,
) -> ExplainView {
    let listener = request.listener;
    // As clients do: an address is no name to ask for (RFC 6066 §3).
    let is_address = request.host.starts_with('[') || request.host.parse::<IpAddr>().is_ok();
    let host = Some(request.host).filter(|_| !is_address);
    let (kind, route, explanation) = match protocol {
        Protocol::Tls => {
            ("tls", table.tls_route(listener, host), table.explain_tls(listener, host))
        }
        Protocol::Udp => ("udp", table.udp_route(listener), table.explain_bound(listener)),
        Protocol::Http | Protocol::Tcp => {
            ("tcp", table.tcp_route(listener), table.explain_bound(listener))
        }
    };
    let picked = route.and_then(|route| picked_for(source, route, table));
    let asker = Asker { method: kind, host: host.unwrap_or("-"), path: "-", query: None };
    ExplainView { picked, ..view(asker, &explanation) }
}

/// The instance that a connection of `source` gets this time.
fn picked_for(source: IpAddr, route: &RouteEntry, table: &Table) -> Option<String> {
    let ask = Ask { now_us: unix_ms() * 1_000, key: Key::Source(source), ..Ask::first(random()) };
    let picked = route.pick(table, &ask).ok()?;
    Some(format!("{}/{}", picked.service, picked.id))
}

/// The instance that the request gets this time: picked as a worker picks.
fn picked(table: &Table, request: &RequestView<'_>, source: IpAddr, random: u64) -> Option<String> {
    let key = Key::Request(request, source);
    let ask = Ask { now_us: unix_ms() * 1_000, key, ..Ask::first(random) };
    let picked = table.route(request)?.pick(table, &ask).ok()?;
    Some(format!("{}/{}", picked.service, picked.id))
}

/// What is asked for, as the answer repeats it.
#[derive(Clone, Copy)]
struct Asker<'a> {
    method: &'a str,
    host: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Asker<'a> {
    fn of(request: &RequestView<'a>) -> Self {
        let RequestView { method, host, path, query, .. } = *request;
        Self { method, host, path, query }
    }

    /// What becomes of it where a request would get this status.
    fn end(self, status: &'static str) -> &'static str {
        match (self.method, status) {
            ("tls", "404") => "refused with the alert unrecognized_name",
            ("tcp" | "tls", _) => "reset",
            ("udp", _) => "dropped",
            _ => status,
        }
    }
}

fn asked(query: &str) -> Result<Asked, ApiError> {
    let pairs: Vec<(String, String)> = serde_urlencoded_pairs(query)
        .ok_or_else(|| ApiError::invalid("the query is no form", ""))?;
    let mut asked = Asked { method: "GET".to_owned(), ..Asked::default() };
    for (name, value) in pairs {
        match name.as_str() {
            "method" => asked.method = value.to_ascii_uppercase(),
            "url" => asked.url = value,
            "header" => asked.headers.push(value),
            "listener" => {
                asked.listener = Some(value.parse().map_err(|error| ApiError::invalid(error, ""))?);
            }
            "source" => {
                let hint = "expected an IP address";
                let source = value.parse();
                asked.source = Some(source.map_err(|error| ApiError::invalid(error, hint))?);
            }
            other => {
                return Err(ApiError::invalid(
                    format!("unknown parameter \"{other}\""),
                    "expected one of method, url, listener, source, header",
                ));
            }
        }
    }
    Ok(asked)
}

/// Reads `a=b&c=d` with percent-encoding, as forms have it.
fn serde_urlencoded_pairs(query: &str) -> Option<Vec<(String, String)>> {
    let uri = format!("/?{query}").parse().ok()?;
    axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri).ok().map(|query| query.0)
}

/// As a worker's, only slower.
fn random() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
}

/// The head that a client would send for it.
fn head(asked: &Asked) -> Result<Vec<u8>, ApiError> {
    let hint = "expected an absolute URL such as http://shop.test/api";
    let url: axum::http::Uri = asked
        .url
        .parse()
        .map_err(|error| ApiError::invalid(format!("url \"{}\": {error}", asked.url), hint))?;
    let Some(authority) = url.authority() else {
        return Err(ApiError::invalid(format!("url \"{}\" has no host", asked.url), hint));
    };
    let target = url.path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str);
    let mut head = format!("{} {target} HTTP/1.1\r\n", asked.method);
    let names_host =
        asked.headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:"));
    if !names_host {
        head.push_str(&format!("Host: {authority}\r\n"));
    }
    for line in &asked.headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    Ok(head.into_bytes())
}

fn view(asker: Asker<'_>, explanation: &Explanation) -> ExplainView {
    let instances: Vec<_> = explanation
        .backends
        .iter()
        .flat_map(|backend| {
            backend.endpoints.iter().map(|endpoint| ExplainInstance {
                service: backend.service.to_string(),
                id: endpoint.id.to_string(),
                addr: endpoint.addr.to_string(),
                state: endpoint.state.word().to_owned(),
                leader: endpoint.leader,
                takes_traffic: may_be_picked(backend, endpoint),
                in_flight: endpoint.in_flight,
                outcome: outcome(backend, endpoint),
            })
        })
        .collect();
    ExplainView {
        revision: explanation.revision.0,
        method: asker.method.to_owned(),
        host: asker.host.to_owned(),
        path: asker.path.to_owned(),
        query: asker.query.map(ToOwned::to_owned),
        verdict: verdict(asker, explanation),
        route: explanation.winner.as_ref().map(ToString::to_string),
        candidates: explanation
            .candidates
            .iter()
            .map(|candidate| ExplainCandidate {
                route: candidate.route.to_string(),
                host: candidate.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                path: candidate.path.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                asks: candidate.predicates.to_string(),
                outcome: candidate.verdict.reason(),
            })
            .collect(),
        settings: settings::lines(explanation),
        instances,
        picked: None,
    }
}

fn verdict(asker: Asker<'_>, explanation: &Explanation) -> String {
    let Some(route) = &explanation.winner else {
        return format!("no route takes it: {}", asker.end("404"));
    };
    let missing: Vec<_> =
        explanation.backends.iter().filter(|b| !b.exists).map(|b| b.service.as_str()).collect();
    let takers = takers(explanation);
    let services: Vec<_> = explanation.backends.iter().map(|b| b.service.as_str()).collect();
    if !missing.is_empty() {
        let (missing, end) = (missing.join(", "), asker.end("500"));
        format!("route {route} leads to {missing}, which does not exist: {end}")
    } else if takers == 0 {
        let (services, end) = (services.join(", "), asker.end("503"));
        format!("route {route} leads to {services}, which has no instance: {end}")
    } else {
        format!("route {route} leads to {}: one of {takers} instances", services.join(", "))
    }
}

/// How many instances may be picked.
fn takers(explanation: &Explanation) -> usize {
    let all = explanation
        .backends
        .iter()
        .flat_map(|backend| backend.endpoints.iter().map(move |endpoint| (backend, endpoint)));
    all.filter(|(backend, endpoint)| may_be_picked(backend, endpoint)).count()
}

fn may_be_picked(backend: &BackendView, endpoint: &EndpointView) -> bool {
    endpoint.takes_traffic && (endpoint.leader || !backend.leader_only)
}

fn outcome(backend: &BackendView, endpoint: &EndpointView) -> String {
    let BackendView { panic, kept, leader_only, .. } = *backend;
    if leader_only && endpoint.takes_traffic && !endpoint.leader {
        return "takes none: another one leads".to_owned();
    }
    let max = backend.limit.map(|limit| limit.in_flight_max().get());
    let is_full = |max: &u32| endpoint.takes_traffic && endpoint.in_flight >= u64::from(*max);
    if let Some(max) = max.filter(is_full) {
        return format!("is full: {max} under way, {} wait", backend.waiting);
    }
    let state = endpoint.state.word();
    let by = endpoint
        .overridden_by
        .as_ref()
        .map_or_else(String::new, |o| format!(" ({} by {}: {})", state, o.by, o.reason));
    let ejected_ms = (endpoint.ejected_until_us / 1_000).saturating_sub(unix_ms());
    if endpoint.takes_traffic && ejected_ms > 0 {
        return format!("ejected for its errors, for {} s more", ejected_ms.div_ceil(1_000));
    }
    match (endpoint.takes_traffic, panic, kept) {
        (true, true, _) => format!("takes traffic: too few are up, so {state} ones are used too"),
        (true, _, true) => {
            "takes traffic: kept from before, as nothing explains its loss".to_owned()
        }
        (true, false, false) if leader_only => format!("takes traffic as the leader{by}"),
        (true, false, false) => format!("takes traffic{by}"),
        (false, ..) if by.is_empty() => format!("takes none: {state}"),
        (false, ..) => format!("takes none{by}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::Ipv6Addr;

    use bytes::Bytes;
    use portolan_discovery::model::record::encode;
    use portolan_discovery::model::route::{Mirror, Percent};
    use portolan_discovery::model::{
        Backend, Balancing, CacheRule, CompressRule, Concurrency, Event, HashBy, Health,
        HostPattern, HttpRule, Instance, InstanceId, Key, Kv, Origin, PathPattern, Phase,
        ProxyVersion, RetryRule, Revision, Route, Rule, Service, ServiceName, TlsRule, Weight,
    };
    use portolan_discovery::snapshot::Snapshot;
    use portolan_router::metrics::Metrics;

    use super::*;

    #[test]
    fn the_head_is_what_a_client_would_send() {
        let asked =
            asked("method=post&url=http%3A%2F%2Fa.test%3A81%2Fx%3Fy&header=X-A%3A%201").unwrap();
        let head = String::from_utf8(head(&asked).unwrap()).unwrap();
        assert_eq!(head, "POST /x?y HTTP/1.1\r\nHost: a.test:81\r\nX-A: 1\r\n\r\n");
    }

    #[test]
    fn the_source_is_an_address() {
        let source = |text: &str| asked(&format!("source={text}")).map(|asked| asked.source);
        assert_eq!(source("::1").ok(), Some(Some(Ipv6Addr::LOCALHOST.into())));
        assert_eq!(asked("").unwrap().source, None);
        assert!(source("localhost").is_err());
    }

    /// A service that spreads clients by their address, with three instances.
    fn by_source() -> Table {
        let name: ServiceName = "web".parse().unwrap();
        let balancing = Balancing::Hash(HashBy::Source);
        let service = Service { balancing, ..Service::named(name.clone()) };
        let rule = Rule::Http(HttpRule::new(HostPattern::Any, PathPattern::all()));
        let route = Route::new("all".parse().unwrap(), rule, vec![Backend::to(name.clone())]);
        let mut records = vec![
            (Key::Service(name.clone()), encode(&service)),
            (Key::Route(route.name.clone()), encode(&route)),
        ];
        for port in 1..=3 {
            let id: InstanceId = format!("i{port}").parse().unwrap();
            let record = Instance {
                service: name.clone(),
                id: id.clone(),
                node: "here".parse().unwrap(),
                addr: ([127, 0, 0, 1], port).into(),
                weight: Weight::DEFAULT,
                health: Health::Up,
                cause: None,
                phase: Phase::Active,
                origin: Origin::Api,
                since_ms: 0,
                labels: BTreeMap::new(),
            };
            records.push((Key::Instance(name.clone(), id), encode(&record)));
        }
        table(records)
    }

    fn table(records: Vec<(Key, Bytes)>) -> Table {
        let (created, modified) = (Revision(1), Revision(1));
        let put = |(key, value): (Key, Bytes)| {
            Event::Put(Kv { key: key.to_string(), value, created, modified, lease: None })
        };
        let events: Vec<_> = records.into_iter().map(put).collect();
        let (snapshot, rejected) = Snapshot::default().apply(&events, created);
        assert!(rejected.is_empty());
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        Table::compile(&snapshot, None, &metrics).table
    }

    #[test]
    fn the_pick_goes_by_who_asks() {
        let (table, listener) = (by_source(), ListenerName::parse("web").unwrap());
        let request = RequestView::get(&listener, "a.test", "/");
        let pick = |last: u8, random| {
            picked(&table, &request, [192, 0, 2, last].into(), random).expect("an instance")
        };
        let mut seen = BTreeSet::new();
        for last in 0..50 {
            let first = pick(last, 0);
            assert!((1..20).all(|draw| pick(last, u64::MAX / draw) == first), "{last}");
            seen.insert(first);
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
    }

    #[test]
    fn what_else_a_request_goes_through_is_said() {
        let name: ServiceName = "web".parse().unwrap();
        let shadow: ServiceName = "shadow".parse().unwrap();
        let limit = Concurrency::new(3.try_into().unwrap(), Some(7), None).unwrap();
        let service = Service {
            concurrency: Some(limit),
            proxy_protocol: Some(ProxyVersion::V2),
            ..Service::named(name.clone())
        };
        let rule = Rule::Http(HttpRule::new(HostPattern::Any, PathPattern::all()));
        let mut route = Route::new("all".parse().unwrap(), rule, vec![Backend::to(name.clone())]);
        let plain = table(vec![(Key::Route(route.name.clone()), encode(&route))]);
        let listener = ListenerName::parse("web").unwrap();
        let request = RequestView::get(&listener, "a.test", "/");
        let said = |table: &Table| view(Asker::of(&request), &table.explain(&request)).settings;
        assert!(said(&plain).is_empty());
        route.mirror = Some(Box::new(Mirror { service: shadow, percent: Percent::ALL }));
        route.error_pages = Some("shop".parse().unwrap());
        route.compress = Some(Box::new(CompressRule::usual()));
        route.cache = Some(Box::new(CacheRule::usual()));
        route.retry = Some(Box::new(RetryRule::new(Some(3), Some(vec![503])).unwrap()));
        let all = table(vec![
            (Key::Service(name), encode(&service)),
            (Key::Route(route.name.clone()), encode(&route)),
        ]);
        assert_eq!(
            said(&all),
            [
                "copies of 100 % of its requests go to shadow",
                "errors have the pages shop",
                "answers with 503 are tried on another instance, 3 attempts in all",
                "answers up to 1048576 bytes are cached for as long as they say",
                "its answer is not compressed: this request accepts no coding of zstd, br, gzip, or asks for a part",
                "an instance of web has at most 3 requests under way; 0 of at most 7 wait, for up to 5s",
                "connections to web begin with a PROXY header v2",
            ]
        );
    }

    #[test]
    fn a_connection_goes_by_its_listener_and_the_host_that_it_asks_for() {
        let name: ServiceName = "db".parse().unwrap();
        let on = |listener: &str, route: &str, rule| Route {
            listener: Some(listener.parse().unwrap()),
            ..Route::new(route.parse().unwrap(), rule, vec![Backend::to(name.clone())])
        };
        let tls = |host: &str| Rule::Tls(TlsRule { host: host.parse().unwrap() });
        let routes = [
            on("sni", "exact", tls("a.db.test")),
            on("sni", "wide", tls("*.db.test")),
            on("sni", "wider", tls("*.test")),
            on("sni", "younger", Rule::Tls(TlsRule { host: "*.test".parse().unwrap() })),
            on("plain", "tcp", Rule::Tcp),
        ];
        let record = |route: &Route| (Key::Route(route.name.clone()), encode(route));
        let mut records: Vec<_> = routes.iter().map(record).collect();
        records.push((Key::Service(name.clone()), encode(&Service::named(name.clone()))));
        let table = table(records);
        let said = |listener: &str, host: &str, protocol| {
            let listener = listener.parse().unwrap();
            let request = RequestView::get(&listener, host, "/");
            let view = connection(&table, &request, protocol, [127, 0, 0, 1].into());
            let lost = view.candidates.iter().map(|c| format!("{}: {}", c.route, c.outcome));
            (view.route, view.verdict, lost.collect::<Vec<_>>().join(", "))
        };
        let (route, _, lost) = said("sni", "a.db.test", Protocol::Tls);
        assert_eq!(route.as_deref(), Some("exact"));
        let less = "the host of another route is more specific";
        assert_eq!(
            lost,
            format!("exact: takes the request, wide: {less}, wider: {less}, younger: {less}")
        );
        let (route, _, lost) = said("sni", "b.test", Protocol::Tls);
        assert_eq!(route.as_deref(), Some("wider"));
        assert!(lost.contains("younger: another route that is as specific"), "{lost}");
        for host in ["a.example", "127.0.0.1"] {
            let (route, verdict, _) = said("sni", host, Protocol::Tls);
            assert_eq!(route, None);
            assert!(verdict.ends_with("refused with the alert unrecognized_name"), "{verdict}");
        }
        let (route, verdict, _) = said("plain", "any.test", Protocol::Tcp);
        assert_eq!(route.as_deref(), Some("tcp"));
        assert_eq!(verdict, "route tcp leads to db, which has no instance: reset");
    }

    #[test]
    fn a_host_header_wins_over_the_url_and_a_bad_url_is_refused() {
        let with_host = asked("url=http://a.test/&header=host:b.test").unwrap();
        assert!(!String::from_utf8(head(&with_host).unwrap()).unwrap().contains("a.test"));
        for bad in ["url=/x", "url=", "color=red", "url=http://a.test/&listener=A"] {
            assert!(asked(bad).and_then(|asked| head(&asked)).is_err(), "{bad}");
        }
    }
}
