//! The forms of answers and calls. Stable: fields are added, never renamed.

mod balancing;
mod service;
mod settings;
mod virtuals;

use std::collections::BTreeMap;

use portolan_discovery::model::route::ValuePattern;
use portolan_discovery::model::{
    Deployment, DeploymentState, JobState, JobStatus, Node, Origin, Override, Placement,
    Predicates, Release, Route, Rule,
};
use portolan_discovery::snapshot::Member;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use balancing::{EjectionView, balancing};
pub use service::{InstanceCall, InstanceView, ServiceCall, ServiceView};
pub use settings::{CacheView, CompressView, ConcurrencyView, HstsView, RetryView, StickyView};
pub use virtuals::{VirtualView, VirtualsView};

/// What this node is doing.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// This node.
    pub node: String,
    /// The version of Portolan.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// Processes that an upgrade has replaced and that still have connections.
    pub draining: Vec<PredecessorView>,
    /// The revision up to which everything of the store is served here.
    pub revision: u64,
    /// The revision that every data worker serves.
    pub acked: u64,
    /// How long ago the table was known to be current, in milliseconds.
    pub table_age_ms: u64,
    /// The store.
    pub store: StoreView,
    /// The parts that are not ready.
    pub not_ready: Vec<String>,
    /// The node whose controller leads.
    pub leader: Option<String>,
    /// How many there are of each.
    pub counts: CountsView,
    /// The virtual addresses of services; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_addresses: Option<VirtualsView>,
    /// What the scheduler could not place, with its reasons.
    pub pending: Vec<String>,
    /// Records that could not be read since the start.
    pub rejected_records: u64,
}

/// A process that an upgrade has replaced.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PredecessorView {
    /// The process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Its open connections.
    pub connections: u64,
}

/// The store.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StoreView {
    /// `embedded`, or nothing while it is away.
    pub backend: Option<String>,
    /// Whether it answers.
    pub connected: bool,
    /// Why it does not.
    pub error: Option<String>,
}

/// How many there are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct CountsView {
    /// Nodes.
    pub nodes: usize,
    /// Services.
    pub services: usize,
    /// Routes.
    pub routes: usize,
    /// Instances by state.
    pub instances: BTreeMap<String, usize>,
}

/// A route.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RouteView {
    /// The name.
    pub name: String,
    /// The listener; none is every HTTP listener.
    pub listener: Option<String>,
    /// `http`, `tcp`, `udp` or `tls`.
    pub kind: String,
    /// The hosts, for HTTP and TLS.
    pub host: Option<String>,
    /// The paths, for HTTP.
    pub path: Option<String>,
    /// The methods; none is every method.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Header fields that a request must have, by name.
    #[serde(default)]
    pub headers: BTreeMap<String, MatchView>,
    /// Parameters that the query must have, by name.
    #[serde(default)]
    pub query: BTreeMap<String, MatchView>,
    /// The port that requests are sent to which came without TLS; none are when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_https: Option<u16>,
    /// What clients are told that came by https; what their listener says when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<HstsView>,
    /// What is changed in a request on its way; nothing when left out.
    #[serde(default)]
    pub rewrite: Option<RewriteView>,
    /// Who gets copies of its requests; nobody when left out.
    #[serde(default)]
    pub mirror: Option<MirrorView>,
    /// Which answers are tried on another instance; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryView>,
    /// Which answers are compressed on their way to the client; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress: Option<CompressView>,
    /// Which answers are kept in the router's cache; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheView>,
    /// Where it leads, with weights.
    pub backends: Vec<BackendView>,
    /// The largest request body in bytes.
    pub body_bytes_max: Option<u64>,
    /// For an instance to accept a connection, in milliseconds; the router's when left out.
    #[serde(default)]
    pub connect_timeout_ms: Option<u64>,
    /// Until the first byte of a response, in milliseconds; the router's when left out.
    #[serde(default)]
    pub first_byte_timeout_ms: Option<u64>,
    /// The whole request with its retries, in milliseconds; no limit when left out.
    #[serde(default)]
    pub request_timeout_ms: Option<u64>,
    /// Between two pieces of a body, in milliseconds; the router's when left out.
    #[serde(default)]
    pub body_idle_timeout_ms: Option<u64>,
    /// Without a byte in a tunnel, a TCP connection or a UDP session, in milliseconds; the router's when left
    /// out.
    #[serde(default)]
    pub tunnel_idle_timeout_ms: Option<u64>,
    /// The error pages that it asks for; the router's own when left out.
    #[serde(default)]
    pub error_pages: Option<String>,
    /// Who made it.
    pub origin: String,
    /// Why it can never match, or which other route only age or name puts before it.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What the value of a header field or a parameter has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum MatchView {
    /// `true`: any value.
    Present(bool),
    /// This text, or `~REGEX`; `=text` for a text that begins with `~` or `=`.
    Text(String),
}

impl From<&ValuePattern> for MatchView {
    fn from(pattern: &ValuePattern) -> Self {
        match pattern {
            ValuePattern::Present => Self::Present(true),
            _ => Self::Text(pattern.to_string()),
        }
    }
}

/// What a route changes in a request on its way to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RewriteView {
    /// Takes the place of the prefix in the path; `/` takes it away.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Sent as Host.
    #[serde(default)]
    pub host: Option<String>,
}

/// A service that gets copies of a route's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorView {
    /// The service.
    pub service: String,
    /// Of how many requests in a hundred, 1 to 100; all when left out.
    #[serde(default = "all_percent")]
    pub percent: u8,
}

fn all_percent() -> u8 {
    100
}

/// A service that a route leads to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BackendView {
    /// The service.
    pub service: String,
    /// Its share, 1 to 65,535; 100 when left out.
    #[serde(default = "default_weight")]
    pub weight: u16,
    /// Whether only its leader gets something: the instance that has been up for longest.
    #[serde(default)]
    pub leader: bool,
}

fn default_weight() -> u16 {
    100
}

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// The name.
    pub name: String,
    /// Its address.
    pub addr: String,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Thousandths of a core that its jobs may use.
    pub cpu_millis: u64,
    /// Mebibytes of memory that its jobs may use.
    pub memory_mib: u64,
    /// Whether it runs jobs.
    pub runs_jobs: bool,
    /// Whether new jobs are kept away.
    pub cordoned: bool,
    /// The version of Portolan.
    pub version: String,
    /// When it joined, in milliseconds of Unix time.
    pub since_ms: u64,
}

/// An override.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverrideView {
    /// `node/NAME`, `service/NAME` or `instance/SERVICE/ID`.
    pub scope: String,
    /// `down`, `up` or `drain`.
    pub word: String,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// When it was said, in milliseconds of Unix time.
    #[serde(default)]
    pub since_ms: u64,
    /// When it ends by itself, in milliseconds of Unix time.
    #[serde(default)]
    pub until_ms: Option<u64>,
}

/// An app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppView {
    /// The name.
    pub name: String,
    /// The release that serves, or is being deployed.
    pub release: String,
    /// The wanted count per process type.
    pub wanted: BTreeMap<String, u32>,
    /// The running count per process type.
    pub running: BTreeMap<String, u32>,
    /// The newest deployment.
    pub deployment: Option<DeploymentView>,
}

/// A release.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// The app.
    pub app: String,
    /// The name.
    pub id: String,
    /// The command per process type. The environment is not shown.
    pub commands: BTreeMap<String, Vec<String>>,
    /// When it was made, in milliseconds of Unix time.
    pub created_ms: u64,
    /// SHA-256 of its content, in hex.
    pub digest: String,
}

/// A deployment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeploymentView {
    /// The app.
    pub app: String,
    /// The name within the app.
    pub id: String,
    /// The release that served before.
    pub from: Option<String>,
    /// The release that is to serve.
    pub to: String,
    /// `running`, `reverting`, `done`, `reverted` or `superseded`.
    pub state: String,
    /// Why it was reverted.
    pub cause: Option<String>,
    /// Whether nothing more will happen in it.
    pub over: bool,
    /// When it began, in milliseconds of Unix time.
    pub created_ms: u64,
    /// When its state last changed, in milliseconds of Unix time.
    pub since_ms: u64,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// The name.
    pub id: String,
    /// The app.
    pub app: String,
    /// The process type.
    pub process: String,
    /// The release.
    pub release: String,
    /// The node.
    pub node: String,
    /// `pending`, `starting`, `running`, `backoff`, `draining`, `stopping` or `stopped`.
    pub state: String,
    /// Why it is in back-off.
    pub cause: Option<String>,
    /// The process.
    pub pid: Option<u32>,
    /// Where it listens.
    pub addr: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last process ended.
    pub last_exit: Option<String>,
    /// When its state last changed, in milliseconds of Unix time.
    pub since_ms: u64,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// The store's revision: resume after it.
    pub revision: u64,
    /// What it is about: `instance`, `service`, `route`, `node`, `override`, `app`, `release`,
    /// `formation`, `placement`, `job`, `deployment`, `leader`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `put` or `delete`.
    pub change: String,
    /// In a few words.
    pub text: String,
}

/// A line that a job printed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogView {
    /// When, as RFC 3339 in UTC.
    pub at: String,
    /// `out` or `err`.
    pub stream: String,
    /// The line.
    pub text: String,
}

/// A deployment that is asked for. What is left out stays as the current release has it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployCall {
    /// The process types, as `[apps.processes.NAME]` of the configuration; replaces all.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, Object>>)]
    pub processes: Option<BTreeMap<String, portolan_discovery::model::JobSpec>>,
    /// The wanted counts; replaces those that are named.
    #[serde(default)]
    pub counts: BTreeMap<String, u32>,
    /// Environment to set in every process type of the current release.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long it may stand without progress before it is reverted, in milliseconds.
    #[serde(default)]
    pub progress_deadline_ms: Option<u64>,
}

/// A rollback that is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackCall {
    /// The release to go back to; the one before the current by default.
    #[serde(default)]
    pub to: Option<String>,
}

/// A count that is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleCall {
    /// The process type.
    pub process: String,
    /// How many.
    pub count: u32,
}

/// What a write did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DoneView {
    /// The revision of the write: wait for it to know that it is live.
    pub revision: u64,
    /// What there is to tell of what was written, such as a route that can never match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The port that a TCP route was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What became of a wait.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WaitView {
    /// The revision that is live here.
    pub revision: u64,
}

/// A route that is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteCall {
    /// The listener; none is every HTTP listener.
    #[serde(default)]
    pub listener: Option<String>,
    /// The port of a TCP route, one of those that routers can give, instead of a listener; 0 is any
    /// that is free.
    #[serde(default)]
    pub port: Option<u16>,
    /// The hosts: a name, `*.name` or `*`. For HTTP, and for TLS that is passed on.
    #[serde(default)]
    pub host: Option<String>,
    /// The paths: `/prefix`, `=/exact` or `~REGEX`; all by default.
    #[serde(default)]
    pub path: Option<String>,
    /// The methods; none is every method.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Header fields that a request must have, by name.
    #[serde(default)]
    pub headers: BTreeMap<String, MatchView>,
    /// Parameters that the query must have, by name.
    #[serde(default)]
    pub query: BTreeMap<String, MatchView>,
    /// The port that requests are sent to which came without TLS; none are when left out.
    #[serde(default)]
    pub redirect_https: Option<u16>,
    /// What clients are told that came by https; what their listener says when left out.
    #[serde(default)]
    pub hsts: Option<HstsView>,
    /// What is changed in a request on its way; nothing when left out.
    #[serde(default)]
    pub rewrite: Option<RewriteView>,
    /// Who gets copies of its requests; nobody when left out.
    #[serde(default)]
    pub mirror: Option<MirrorView>,
    /// Which answers are tried on another instance; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryView>,
    /// Which answers are compressed on their way to the client; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress: Option<CompressView>,
    /// Which answers are kept in the router's cache; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheView>,
    /// `http` (default), `tcp`, `udp` or `tls`.
    #[serde(default)]
    pub kind: Option<String>,
    /// Where it leads; at least one.
    pub backends: Vec<BackendView>,
    /// The largest request body in bytes.
    #[serde(default)]
    pub body_bytes_max: Option<u64>,
    /// For an instance to accept a connection, in milliseconds; the router's when left out.
    #[serde(default)]
    pub connect_timeout_ms: Option<u64>,
    /// Until the first byte of a response, in milliseconds; the router's when left out.
    #[serde(default)]
    pub first_byte_timeout_ms: Option<u64>,
    /// The whole request with its retries, in milliseconds; no limit when left out.
    #[serde(default)]
    pub request_timeout_ms: Option<u64>,
    /// Between two pieces of a body, in milliseconds; the router's when left out.
    #[serde(default)]
    pub body_idle_timeout_ms: Option<u64>,
    /// Without a byte in a tunnel or a TCP connection, in milliseconds; the router's when left
    /// out.
    #[serde(default)]
    pub tunnel_idle_timeout_ms: Option<u64>,
    /// The error pages that it asks for, by their name in the routers' configuration; the
    /// router's own when left out or not there.
    #[serde(default)]
    pub error_pages: Option<String>,
}

fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Config(node) => format!("config of {node}"),
        Origin::File(file) => format!("file {file}"),
        Origin::Job(job) => format!("job {job}"),
        Origin::Api => "api".to_owned(),
    }
}

/// The word of a small enum, as its stored form spells it.
pub(super) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("unit variants are stored as strings, not {other:?}"),
    }
}

fn millis(value: Option<std::time::Duration>) -> Option<u64> {
    value.map(|value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
}

/// How many members there are in each state that has any.
pub(super) fn states<'a>(members: impl Iterator<Item = &'a Member>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for member in members {
        *counts.entry(member.state.word().to_owned()).or_default() += 1;
    }
    counts
}

impl From<&Route> for RouteView {
    fn from(route: &Route) -> Self {
        let (kind, host, http) = match &route.rule {
            Rule::Http(rule) => ("http", Some(&rule.host), Some(rule)),
            Rule::Tcp => ("tcp", None, None),
            Rule::Udp => ("udp", None, None),
            Rule::Tls(rule) => ("tls", Some(&rule.host), None),
        };
        let predicates = http.map_or(&Predicates::NONE, |rule| &rule.predicates);
        let backend = |b: &portolan_discovery::model::Backend| BackendView {
            service: b.service.to_string(),
            weight: b.weight.0.get(),
            leader: b.leader,
        };
        Self {
            name: route.name.to_string(),
            listener: route.listener.as_ref().map(ToString::to_string),
            kind: kind.to_owned(),
            host: host.map(ToString::to_string),
            path: http.map(|rule| rule.path.to_string()),
            methods: predicates.methods().iter().map(ToString::to_string).collect(),
            headers: predicates.headers().iter().map(|(n, v)| (n.to_string(), v.into())).collect(),
            query: predicates.query().iter().map(|(n, v)| (n.to_string(), v.into())).collect(),
            redirect_https: route.https.as_ref().and_then(|https| https.redirect).map(u16::from),
            hsts: route.https.as_ref().and_then(|https| https.hsts).map(HstsView::from),
            retry: route.retry.as_deref().map(RetryView::from),
            compress: route.compress.as_deref().map(CompressView::from),
            cache: route.cache.as_deref().map(CacheView::from),
            rewrite: route.rewrite.as_ref().map(|rewrite| RewriteView {
                prefix: rewrite.prefix.as_ref().map(ToString::to_string),
                host: rewrite.host.as_ref().map(ToString::to_string),
            }),
            mirror: route.mirror.as_ref().map(|mirror| MirrorView {
                service: mirror.service.to_string(),
                percent: mirror.percent.into(),
            }),
            backends: route.backends.iter().map(backend).collect(),
            body_bytes_max: route.body_bytes_max,
            connect_timeout_ms: millis(route.timeouts.connect),
            first_byte_timeout_ms: millis(route.timeouts.first_byte),
            request_timeout_ms: millis(route.timeouts.request),
            body_idle_timeout_ms: millis(route.timeouts.body_idle),
            tunnel_idle_timeout_ms: millis(route.timeouts.tunnel_idle),
            error_pages: route.error_pages.as_ref().map(ToString::to_string),
            origin: origin(&route.origin),
            warnings: Vec::new(),
        }
    }
}

impl From<&Node> for NodeView {
    fn from(node: &Node) -> Self {
        Self {
            name: node.name.to_string(),
            addr: node.addr.to_string(),
            zone: node.zone.clone(),
            cpu_millis: node.capacity.cpu_millis,
            memory_mib: node.capacity.memory_mib,
            runs_jobs: node.runs_jobs,
            cordoned: node.cordoned,
            version: node.version.clone(),
            since_ms: node.since_ms,
        }
    }
}

impl From<&Override> for OverrideView {
    fn from(record: &Override) -> Self {
        Self {
            scope: record.scope.to_string(),
            word: word(&record.word),
            reason: record.reason.clone(),
            by: record.by.clone(),
            since_ms: record.since_ms,
            until_ms: record.until_ms,
        }
    }
}

impl From<&Release> for ReleaseView {
    fn from(release: &Release) -> Self {
        Self {
            app: release.app.to_string(),
            id: release.id.to_string(),
            commands: release
                .processes
                .iter()
                .map(|(name, process)| (name.to_string(), process.job.command.clone()))
                .collect(),
            created_ms: release.created_ms,
            digest: release.digest.clone(),
        }
    }
}

impl From<&Deployment> for DeploymentView {
    fn from(deployment: &Deployment) -> Self {
        let (state, cause) = match &deployment.state {
            DeploymentState::Running => ("running", None),
            DeploymentState::Reverting { cause } => ("reverting", Some(cause.clone())),
            DeploymentState::Done => ("done", None),
            DeploymentState::Reverted { cause } => ("reverted", Some(cause.clone())),
            DeploymentState::Superseded => ("superseded", None),
        };
        Self {
            app: deployment.app.to_string(),
            id: deployment.id.to_string(),
            from: deployment.from.as_ref().map(ToString::to_string),
            to: deployment.to.to_string(),
            state: state.to_owned(),
            cause,
            over: deployment.state.is_over(),
            created_ms: deployment.created_ms,
            since_ms: deployment.since_ms,
        }
    }
}

/// The state's word, and the cause that it carries.
pub(super) fn job_state(state: &JobState) -> (&'static str, Option<String>) {
    match state {
        JobState::Starting => ("starting", None),
        JobState::Running => ("running", None),
        JobState::Backoff { cause, .. } => ("backoff", Some(cause.clone())),
        JobState::Draining => ("draining", None),
        JobState::Stopping => ("stopping", None),
        JobState::Stopped => ("stopped", None),
    }
}

impl JobView {
    /// A placement with what its agent says of it, if it has spoken.
    pub fn new(placement: &Placement, status: Option<&JobStatus>) -> Self {
        let (state, cause) = status.map_or(("pending", None), |status| job_state(&status.state));
        Self {
            id: placement.job.to_string(),
            app: placement.app.to_string(),
            process: placement.process.to_string(),
            release: placement.release.to_string(),
            node: placement.node.to_string(),
            state: state.to_owned(),
            cause,
            pid: status.and_then(|status| status.pid),
            addr: status.and_then(|status| status.addr).map(|addr| addr.to_string()),
            restarts: status.map_or(0, |status| status.restarts),
            last_exit: status.and_then(|status| status.last_exit.clone()),
            since_ms: status.map_or(placement.since_ms, |status| status.since_ms),
        }
    }
}

/// Which route and instances a request would take.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    /// The revision of the table that was asked.
    pub revision: u64,
    /// The method.
    pub method: String,
    /// The host that was matched: lower-case, without a port.
    pub host: String,
    /// The path that was matched: normalised.
    pub path: String,
    /// The query that was matched, as it came.
    #[serde(default)]
    pub query: Option<String>,
    /// The outcome in words.
    pub verdict: String,
    /// The route that takes it; none is a 404.
    pub route: Option<String>,
    /// The routes whose host matches, in order of precedence.
    pub candidates: Vec<ExplainCandidate>,
    /// What else the route and its services say, in words: copies, error pages, retries, limits.
    #[serde(default)]
    pub settings: Vec<String>,
    /// The instances behind the route.
    pub instances: Vec<ExplainInstance>,
    /// The instance that was picked this time, as `SERVICE/ID`; another request may get another.
    #[serde(default)]
    pub picked: Option<String>,
}

/// A route that was looked at.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExplainCandidate {
    /// The route.
    pub route: String,
    /// Its hosts.
    pub host: String,
    /// Its paths.
    pub path: String,
    /// What else it asks: methods, header fields, parameters of the query.
    #[serde(default)]
    pub asks: String,
    /// Why it wins or loses.
    pub outcome: String,
}

/// An instance behind the route.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExplainInstance {
    /// The service.
    pub service: String,
    /// The instance.
    pub id: String,
    /// Where it listens.
    pub addr: String,
    /// Its state.
    pub state: String,
    /// Whether it is the leader of its service.
    #[serde(default)]
    pub leader: bool,
    /// Whether it may be picked.
    pub takes_traffic: bool,
    /// Requests, tunnels and TCP connections under way.
    pub in_flight: u64,
    /// Why it takes traffic or not.
    pub outcome: String,
}
