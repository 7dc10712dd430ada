//! The calls that write, each through one of the controller's commands.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use portolan_discovery::model::route::{
    Matches, Mirror, PercentError, PredicateError, Predicates, ValuePattern,
};
use portolan_discovery::model::{
    App, AppName, Backend, Health, HttpRule, HttpVersion, HttpsRule, Instance, InstanceId, JobSpec,
    Key, ListenerName, Origin, Override, Phase, ProcessName, Protocol, ProxyVersion, Release,
    ReleaseId, Rewrite, Route, RouteName, RouteTimeouts, Rule, Scope, Service, ServiceName,
    TlsRule, VirtualRange, Weight, Word, record,
};
use portolan_discovery::store::Store;

use super::error::{Body, Path};
use super::view::{
    BackendView, DeployCall, DeploymentView, DoneView, HstsView, InstanceCall, MatchView,
    MirrorView, OverrideView, RewriteView, RollbackCall, RouteCall, ScaleCall, ServiceCall,
    balancing,
};
use super::{ApiError, ErrorBody, Shared};
use crate::controller::commands::{Committed, DeployRequest, Deployed, PROGRESS_DEADLINE};

type Done = Result<Json<DoneView>, ApiError>;

fn done<T>(committed: &Committed<T>) -> Json<DoneView> {
    Json(DoneView { revision: committed.revision.0, warnings: Vec::new(), port: None })
}

fn parsed<T: std::str::FromStr>(text: &str, hint: &str) -> Result<T, ApiError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| ApiError::invalid(error, hint))
}

fn protocol(text: Option<&str>) -> Result<Protocol, ApiError> {
    match text {
        None | Some("http") => Ok(Protocol::Http),
        Some("tcp") => Ok(Protocol::Tcp),
        Some("udp") => Ok(Protocol::Udp),
        Some(other) => Err(ApiError::invalid(
            format!("\"{other}\" is no protocol of a service"),
            "expected http, tcp or udp",
        )),
    }
}

/// What the listeners of a route speak.
fn kind(text: Option<&str>) -> Result<Protocol, ApiError> {
    match text {
        Some("tls") => Ok(Protocol::Tls),
        Some("http" | "tcp" | "udp") | None => protocol(text),
        Some(other) => Err(ApiError::invalid(
            format!("\"{other}\" is no kind of route"),
            "expected http, tcp, udp or tls",
        )),
    }
}

fn http_version(text: Option<&str>) -> Result<HttpVersion, ApiError> {
    match text {
        None | Some("h1") => Ok(HttpVersion::H1),
        Some("h2") => Ok(HttpVersion::H2),
        Some(other) => Err(ApiError::invalid(
            format!("\"{other}\" is no version of HTTP that instances are spoken to in"),
            "expected h1 or h2",
        )),
    }
}

fn proxy_version(text: &str) -> Result<ProxyVersion, ApiError> {
    let known = ProxyVersion::ALL.into_iter().find(|version| version.as_str() == text);
    known.ok_or_else(|| {
        let error = format!("\"{text}\" is no version of the PROXY protocol");
        ApiError::invalid(error, "expected v1 or v2; leave it out for none")
    })
}

/// The port of a service at an address of its own of `range`.
fn virtual_port(
    port: u16,
    protocol: Protocol,
    range: Option<&VirtualRange>,
) -> Result<NonZeroU16, ApiError> {
    let port = NonZeroU16::new(port)
        .ok_or_else(|| ApiError::invalid("a virtual_port of 0", "expected 1 to 65535"))?;
    if protocol != Protocol::Tcp {
        let hint = "set protocol to tcp, or leave it out";
        return Err(ApiError::invalid("only a TCP service has a virtual_port", hint));
    }
    if range.is_none() {
        let hint = "set router.virtual_addresses in the configuration of the nodes";
        return Err(ApiError::invalid("there are no virtual addresses to be given", hint));
    }
    Ok(port)
}

fn weight(value: u16) -> Result<Weight, ApiError> {
    std::num::NonZeroU16::new(value)
        .map(Weight)
        .ok_or_else(|| ApiError::invalid("a weight of 0", "expected 1 to 65535"))
}

/// Makes or changes a service.
#[utoipa::path(put, path = "/v1/services/{service}", tag = "data",
    params(("service" = String, Path,)), request_body = ServiceCall,
    responses((status = 200, body = DoneView), (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn put_service(
    State(context): Shared,
    Path(name): Path<ServiceName>,
    Body(call): Body<ServiceCall>,
) -> Done {
    let protocol = protocol(call.protocol.as_deref())?;
    let range = context.virtual_addresses.as_ref();
    let service = Service {
        name,
        protocol,
        http_version: http_version(call.http_version.as_deref())?,
        keep_alive: call.keep_alive.unwrap_or(true),
        balancing: balancing(call.balance.as_deref(), call.hash_by.as_deref())
            .map_err(|error| ApiError::invalid(error, ""))?,
        slow_start: call.slow_start_ms.map(Duration::from_millis),
        ejection: call
            .ejection
            .unwrap_or_default()
            .record()
            .map_err(|error| ApiError::invalid(error, "leave it out for the default"))?,
        sticky: call.sticky.map(|view| view.record().map_err(invalid)).transpose()?,
        concurrency: call.concurrency.map(|view| view.record().map_err(invalid)).transpose()?,
        proxy_protocol: call.proxy_protocol.as_deref().map(proxy_version).transpose()?,
        tls: call
            .tls
            .map(|view| view.record().map_err(|error| ApiError::invalid(error, "")))
            .transpose()?,
        virtual_port: call
            .virtual_port
            .map(|port| virtual_port(port, protocol, range))
            .transpose()?,
        labels: call.labels,
    };
    Ok(done(&context.commands.put_service(service).await?))
}

/// Deletes a service's record. Its instances stay.
#[utoipa::path(delete, path = "/v1/services/{service}", tag = "data",
    params(("service" = String, Path,)),
    responses((status = 200, body = DoneView), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn delete_service(State(context): Shared, Path(name): Path<ServiceName>) -> Done {
    Ok(done(&context.commands.delete_service(&name).await?))
}

/// Makes or changes an instance that the caller answers for: it is up until it is deleted.
#[utoipa::path(put, path = "/v1/services/{service}/instances/{id}", tag = "data",
    params(("service" = String, Path,), ("id" = String, Path,)), request_body = InstanceCall,
    responses((status = 200, body = DoneView), (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn put_instance(
    State(context): Shared,
    Path((service, id)): Path<(ServiceName, InstanceId)>,
    Body(call): Body<InstanceCall>,
) -> Done {
    let instance = Instance {
        service,
        id,
        node: context.node.clone(),
        addr: parsed(&call.addr, "expected ADDRESS:PORT, such as 10.0.0.7:8080")?,
        weight: call.weight.map_or(Ok(Weight::DEFAULT), weight)?,
        health: Health::Up,
        cause: None,
        phase: Phase::Active,
        origin: Origin::Api,
        since_ms: 0,
        labels: call.labels,
    };
    Ok(done(&context.commands.put_instance(instance).await?))
}

/// Deletes an instance that a call made.
#[utoipa::path(delete, path = "/v1/services/{service}/instances/{id}", tag = "data",
    params(("service" = String, Path,), ("id" = String, Path,)),
    responses((status = 200, body = DoneView), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn delete_instance(
    State(context): Shared,
    Path((service, id)): Path<(ServiceName, InstanceId)>,
) -> Done {
    Ok(done(&context.commands.delete_instance(&service, &id).await?))
}

/// Makes or changes a route.
#[utoipa::path(put, path = "/v1/routes/{route}", tag = "data",
    params(("route" = String, Path,)), request_body = RouteCall,
    responses((status = 200, body = DoneView), (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn put_route(
    State(context): Shared,
    Path(name): Path<RouteName>,
    Body(call): Body<RouteCall>,
) -> Done {
    let mut route = route_record(name, &call)?;
    if let Some(port) = call.port {
        route.listener = on_port(port, &route, &context.ports)?;
    }
    let is_given = |listener: &ListenerName| context.ports.contains(listener);
    let committed = match call.port.is_some() || route.listener.as_ref().is_some_and(is_given) {
        true => context.commands.put_route_on_port(route, &context.ports).await?,
        false => context.commands.put_route(route).await?,
    };
    let listener = committed.value.listener.as_ref().filter(|listener| is_given(listener));
    let port = listener.and_then(|listener| listener.as_str().strip_prefix(PORT)?.parse().ok());
    let (table, metrics) = (context.router.table(), context.router.metrics());
    let warnings = table.warnings_with(&committed.value, &context.listeners, metrics);
    let warnings = warnings.iter().map(ToString::to_string).collect();
    Ok(Json(DoneView { revision: committed.revision.0, warnings, port }))
}

/// How the listeners begin whose ports routes can be given.
const PORT: &str = "port-";

/// The listener of a port that a TCP route asks for; none is any that is free.
fn on_port(
    port: u16,
    route: &Route,
    ports: &[ListenerName],
) -> Result<Option<ListenerName>, ApiError> {
    if route.rule != Rule::Tcp {
        return Err(ApiError::invalid("only a TCP route has a port", "set kind to tcp"));
    }
    if route.listener.is_some() {
        let hint = "leave one of them out";
        return Err(ApiError::invalid("the route names a port and a listener", hint));
    }
    let (Some(first), Some(last)) = (ports.first(), ports.last()) else {
        let hint = "set router.tcp_ports in the configuration of the routers";
        return Err(ApiError::invalid("there are no ports to be given", hint));
    };
    if port == 0 {
        return Ok(None);
    }
    let name = format!("{PORT}{port}");
    let found = ports.iter().find(|listener| listener.as_str() == name);
    let number = |listener: &ListenerName| listener.as_str().replacen(PORT, "", 1);
    let hint = || format!("expected 0 or one of {} to {}", number(first), number(last));
    let what = || format!("port {port} cannot be given");
    found.cloned().map(Some).ok_or_else(|| ApiError::invalid(what(), &hint()))
}

/// The record of the route that a call asks for.
fn route_record(name: RouteName, call: &RouteCall) -> Result<Route, ApiError> {
    let predicates = predicates(call)?;
    let has_path = call.path.is_some() || !predicates.is_empty();
    let is_http = call.host.is_some() || has_path;
    let rule = match kind(call.kind.as_deref())? {
        Protocol::Http => Rule::Http(HttpRule {
            host: parsed(call.host.as_deref().unwrap_or("*"), "")?,
            path: parsed(call.path.as_deref().unwrap_or("/"), "")?,
            predicates,
        }),
        Protocol::Tcp if !is_http => Rule::Tcp,
        Protocol::Udp if !is_http => Rule::Udp,
        Protocol::Tls if !has_path => {
            Rule::Tls(TlsRule { host: parsed(call.host.as_deref().unwrap_or("*"), "")? })
        }
        Protocol::Tls => {
            let error = "a TLS route has no path, methods, headers or query";
            return Err(ApiError::invalid(error, "remove them"));
        }
        Protocol::Tcp | Protocol::Udp => {
            let error = "a TCP or UDP route has no host, path, methods, headers or query";
            return Err(ApiError::invalid(error, "remove them"));
        }
    };
    if !matches!(rule, Rule::Http(_)) {
        has_no_answers(call)?;
    }
    let backend = |view: &BackendView| {
        Ok(Backend {
            service: parsed(&view.service, "")?,
            weight: weight(view.weight)?,
            leader: view.leader,
        })
    };
    Ok(Route {
        name,
        listener: call.listener.as_deref().map(|name| parsed(name, "")).transpose()?,
        rule,
        backends: call.backends.iter().map(backend).collect::<Result<_, ApiError>>()?,
        timeouts: RouteTimeouts {
            connect: call.connect_timeout_ms.map(Duration::from_millis),
            first_byte: call.first_byte_timeout_ms.map(Duration::from_millis),
            request: call.request_timeout_ms.map(Duration::from_millis),
            body_idle: call.body_idle_timeout_ms.map(Duration::from_millis),
            tunnel_idle: call.tunnel_idle_timeout_ms.map(Duration::from_millis),
        },
        rewrite: call.rewrite.as_ref().map(rewrite).transpose()?,
        mirror: call.mirror.as_ref().map(mirror).transpose()?,
        retry: match &call.retry {
            Some(view) => Some(Box::new(view.record().map_err(invalid)?)),
            None => None,
        },
        compress: match &call.compress {
            Some(view) => Some(Box::new(view.record().map_err(invalid)?)),
            None => None,
        },
        cache: match &call.cache {
            Some(view) => Some(Box::new(view.record().map_err(invalid)?)),
            None => None,
        },
        https: https(call)?,
        body_bytes_max: call.body_bytes_max,
        error_pages: call.error_pages.as_deref().map(|name| parsed(name, "")).transpose()?,
        origin: Origin::Api,
        created_ms: 0,
    })
}

/// Refuses what is done to answers where there are none.
fn has_no_answers(call: &RouteCall) -> Result<(), ApiError> {
    let what = match call {
        RouteCall { retry: Some(_), .. } => "has no status",
        RouteCall { compress: Some(_), .. } => "is not compressed",
        RouteCall { cache: Some(_), .. } => "is not cached",
        RouteCall { redirect_https: Some(_), .. } | RouteCall { hsts: Some(_), .. } => {
            "is not brought to https"
        }
        _ => return Ok(()),
    };
    Err(invalid(format!("what passes over TCP, UDP or TLS {what}")))
}

fn invalid(what: String) -> ApiError {
    ApiError::invalid(what, "")
}

fn https(call: &RouteCall) -> Result<Option<Box<HttpsRule>>, ApiError> {
    let port =
        |port| NonZeroU16::new(port).ok_or_else(|| invalid("redirect_https is 0".to_owned()));
    let redirect = call.redirect_https.map(port).transpose()?;
    let hsts = call.hsts.as_ref().map(HstsView::record);
    let is_said = redirect.is_some() || hsts.is_some();
    Ok(is_said.then(|| Box::new(HttpsRule { redirect, hsts })))
}

fn rewrite(view: &RewriteView) -> Result<Box<Rewrite>, ApiError> {
    let prefix = view.prefix.as_deref().map(|text| parsed(text, "")).transpose()?;
    let host = view.host.as_deref().map(|text| parsed(text, "")).transpose()?;
    Ok(Box::new(Rewrite { prefix, host }))
}

fn mirror(view: &MirrorView) -> Result<Box<Mirror>, ApiError> {
    let percent =
        view.percent.try_into().map_err(|error: PercentError| ApiError::invalid(error, ""))?;
    Ok(Box::new(Mirror { service: parsed(&view.service, "")?, percent }))
}

fn predicates(call: &RouteCall) -> Result<Predicates, ApiError> {
    let invalid = |error: PredicateError| ApiError::invalid(error, "");
    let methods = call.methods.iter().map(|name| parsed(name, "")).collect::<Result<_, _>>()?;
    Predicates::new(methods, matches(&call.headers)?, matches(&call.query)?).map_err(invalid)
}

fn matches<N: FromStr<Err = PredicateError> + Ord + Display>(
    views: &BTreeMap<String, MatchView>,
) -> Result<Matches<N>, ApiError> {
    let pairs = views.iter().map(|(name, view)| {
        let value = match view {
            MatchView::Present(true) => ValuePattern::Present,
            MatchView::Present(false) => {
                let hint = "expected a text, \"~REGEX\", or true for any value";
                return Err(ApiError::invalid(format!("{name} is false"), hint));
            }
            MatchView::Text(text) => parsed(text, "")?,
        };
        Ok((parsed(name, "")?, value))
    });
    let pairs = pairs.collect::<Result<Vec<(N, ValuePattern)>, ApiError>>()?;
    Matches::new(pairs).map_err(|error| ApiError::invalid(error, ""))
}

/// Deletes a route that a call made.
#[utoipa::path(delete, path = "/v1/routes/{route}", tag = "data",
    params(("route" = String, Path,)),
    responses((status = 200, body = DoneView), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn delete_route(State(context): Shared, Path(name): Path<RouteName>) -> Done {
    Ok(done(&context.commands.delete_route(&name).await?))
}

/// Says a word on health: drain, down or up, with a reason and perhaps an end.
#[utoipa::path(post, path = "/v1/overrides", tag = "data", request_body = OverrideView,
    responses((status = 200, body = DoneView), (status = 400, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn put_override(State(context): Shared, Body(call): Body<OverrideView>) -> Done {
    let word = match call.word.as_str() {
        "down" => Word::Down,
        "up" => Word::Up,
        "drain" => Word::Drain,
        other => {
            let hint = "expected down, up or drain";
            return Err(ApiError::invalid(format!("\"{other}\" is no word"), hint));
        }
    };
    let record = Override {
        scope: parsed(&call.scope, "")?,
        word,
        reason: call.reason,
        by: call.by,
        since_ms: call.since_ms,
        until_ms: call.until_ms,
    };
    Ok(done(&context.commands.put_override(record).await?))
}

/// Takes a word back.
#[utoipa::path(delete, path = "/v1/overrides/{scope}", tag = "data",
    params(("scope" = String, Path, description = "node/NAME, service/NAME or instance/SERVICE/ID")),
    responses((status = 200, body = DoneView), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn delete_override(State(context): Shared, Path(scope): Path<String>) -> Done {
    let scope: Scope = parsed(&scope, "")?;
    Ok(done(&context.commands.delete_override(&scope).await?))
}

/// The app's labels and what its current release runs; nothing when there is no such app.
async fn current(store: &dyn Store, app: &AppName) -> Result<Option<(App, Release)>, ApiError> {
    let Some(kv) = store.get(&Key::App(app.clone()).to_string()).await? else { return Ok(None) };
    let unreadable = |error| ApiError::invalid(format!("app {app} cannot be read: {error}"), "");
    let record: App = record::decode(&kv.value).map_err(unreadable)?;
    let key = Key::Release(app.clone(), record.current.clone()).to_string();
    let Some(kv) = store.get(&key).await? else { return Ok(None) };
    let release = record::decode(&kv.value).map_err(unreadable)?;
    Ok(Some((record, release)))
}

/// Deploys a new release. What the call leaves out stays as the current release has it.
#[utoipa::path(post, path = "/v1/apps/{app}/deploy", tag = "apps",
    params(("app" = String, Path,)), request_body = DeployCall,
    responses((status = 200, body = DeploymentView), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn deploy(
    State(context): Shared,
    Path(app): Path<AppName>,
    Body(call): Body<DeployCall>,
) -> Result<Json<DeploymentView>, ApiError> {
    let store = context.store.now()?;
    let known = current(store.as_ref(), &app).await?;
    let (labels, release) = match known {
        Some((record, release)) => (record.labels, Some(release)),
        None => (BTreeMap::new(), None),
    };
    let mut processes: BTreeMap<ProcessName, JobSpec> = match (call.processes, release) {
        (Some(processes), _) => processes
            .into_iter()
            .map(|(name, job)| Ok((parsed(&name, "")?, job)))
            .collect::<Result<_, ApiError>>()?,
        (None, Some(release)) => {
            release.processes.into_iter().map(|(name, process)| (name, process.job)).collect()
        }
        (None, None) => return Err(ApiError::not_found("app", app.as_str())),
    };
    for job in processes.values_mut() {
        job.env.extend(call.env.clone());
    }
    let counts = call
        .counts
        .into_iter()
        .map(|(name, count)| Ok((parsed(&name, "")?, count)))
        .collect::<Result<_, ApiError>>()?;
    let progress_deadline =
        call.progress_deadline_ms.map_or(PROGRESS_DEADLINE, Duration::from_millis);
    let request = DeployRequest { app, labels, progress_deadline, processes, counts };
    Ok(Json(deployment(&context.commands.deploy(request).await?.value)))
}

/// The deployment that was begun; when nothing had to change, one that is over.
fn deployment(deployed: &Deployed) -> DeploymentView {
    match &deployed.deployment {
        Some(record) => DeploymentView::from(record),
        None => DeploymentView {
            app: deployed.formation.app.to_string(),
            id: "none".to_owned(),
            from: None,
            to: deployed.release.to_string(),
            state: "done".to_owned(),
            cause: None,
            over: true,
            created_ms: 0,
            since_ms: 0,
        },
    }
}

/// Goes back to an earlier release.
#[utoipa::path(post, path = "/v1/apps/{app}/rollback", tag = "apps",
    params(("app" = String, Path,)), request_body = RollbackCall,
    responses((status = 200, body = DeploymentView), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn rollback(
    State(context): Shared,
    Path(app): Path<AppName>,
    Body(call): Body<RollbackCall>,
) -> Result<Json<DeploymentView>, ApiError> {
    let to: Option<ReleaseId> = call.to.as_deref().map(|id| parsed(id, "")).transpose()?;
    Ok(Json(deployment(&context.commands.rollback(&app, to.as_ref()).await?.value)))
}

/// Changes how many jobs of a process type run.
#[utoipa::path(post, path = "/v1/apps/{app}/scale", tag = "apps",
    params(("app" = String, Path,)), request_body = ScaleCall,
    responses((status = 200, body = DoneView), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn scale(
    State(context): Shared,
    Path(app): Path<AppName>,
    Body(call): Body<ScaleCall>,
) -> Done {
    let process: ProcessName = parsed(&call.process, "")?;
    Ok(done(&context.commands.scale(&app, &process, call.count).await?))
}

/// Stops an app's jobs and deletes it.
#[utoipa::path(delete, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path,)),
    responses((status = 200, body = DoneView), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn delete_app(State(context): Shared, Path(app): Path<AppName>) -> Done {
    Ok(done(&context.commands.delete_app(&app).await?))
}
