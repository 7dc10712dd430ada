//! The calls that only read. What the data plane serves comes from memory, the rest from the
//! store.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use portolan_discovery::model::key::CONTROL;
use portolan_discovery::model::{
    App, AppName, Deployment, Formation, JobId, JobState, JobStatus, Key, Kv, Placement, Release,
    Revision, RouteName, ServiceName, record,
};
use portolan_discovery::snapshot::ServiceEntry;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::{Path, Query};
use super::view::{
    AppView, CountsView, DeploymentView, InstanceView, JobView, NodeView, OverrideView,
    PredecessorView, ReleaseView, RouteView, ServiceView, StatusView, StoreView, VirtualView,
    VirtualsView, WaitView, states,
};
use super::{ApiError, Context, ErrorBody, Shared};
use crate::clock;

/// The longest wait of one call; the CLI asks again.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often a wait looks whether all workers serve the revision.
const WAIT_POLL: Duration = Duration::from_millis(5);

/// What this node is doing.
#[utoipa::path(get, path = "/v1/status", tag = "node",
    responses((status = 200, body = StatusView)))]
pub(super) async fn status(State(context): Shared) -> Json<StatusView> {
    let snapshot = context.live.snapshot();
    let store = match context.store.now() {
        Ok(store) => store.status().await,
        Err(error) => Err(error),
    };
    let store = StoreView {
        backend: store.as_ref().ok().map(|status| status.backend.to_owned()),
        connected: context.live.is_connected(),
        error: store.err().map(|error| error.to_string()),
    };
    let controller = context.controller.status();
    Json(StatusView {
        node: context.node.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        draining: draining(&context),
        revision: context.live.revision().0,
        acked: context.router.acked().0,
        table_age_ms: u64::try_from(context.live.age(clock::now()).as_millis()).unwrap_or(u64::MAX),
        store,
        not_ready: context.readiness.waiting().into_iter().map(str::to_owned).collect(),
        leader: controller.leader.map(|node| node.to_string()),
        counts: CountsView {
            nodes: snapshot.nodes().count(),
            services: snapshot.services().count(),
            routes: snapshot.routes().count(),
            instances: states(snapshot.services().flat_map(|(_, entry)| entry.members.values())),
        },
        virtual_addresses: virtuals(&context),
        pending: controller
            .refused
            .iter()
            .map(ToString::to_string)
            .chain(controller.waits_for.iter().map(|(app, what)| format!("{app}: {what}")))
            .collect(),
        rejected_records: context.live.rejected(),
    })
}

fn draining(context: &Context) -> Vec<PredecessorView> {
    let all = context.predecessors.all();
    let draining = all.into_iter().filter(|(_, one)| !one.is_over);
    draining
        .map(|(pid, one)| PredecessorView {
            pid,
            version: one.version,
            connections: one.connections,
        })
        .collect()
}

/// The virtual addresses of this node, if it has or wants any.
fn virtuals(context: &Context) -> Option<VirtualsView> {
    let (listening, snapshot) = (context.router.virtual_status(), context.live.snapshot());
    let view = service_view(context);
    let failed = snapshot.services().filter_map(|(name, entry)| {
        let cause = view(entry).virtual_address?.cause?;
        Some((name.to_string(), cause))
    });
    let failed: BTreeMap<_, _> = failed.collect();
    if context.virtual_addresses.is_none() && failed.is_empty() && listening.is_empty() {
        return None;
    }
    Some(VirtualsView {
        range: context.virtual_addresses.map(|range| range.to_string()),
        listening: listening.iter().filter(|one| one.failure.is_none()).count(),
        failed,
    })
}

/// A service, and how it is with its virtual address on this node.
fn service_view(context: &Context) -> impl Fn(&ServiceEntry) -> ServiceView + use<> {
    let listening = context.router.virtual_status();
    let unaddressed = context.controller.status().unaddressed;
    move |entry| ServiceView {
        virtual_address: VirtualView::of(entry, &listening, &unaddressed),
        ..ServiceView::from(entry)
    }
}

/// All services with their instances.
#[utoipa::path(get, path = "/v1/services", tag = "data",
    responses((status = 200, body = Vec<ServiceView>)))]
pub(super) async fn services(State(context): Shared) -> Json<Vec<ServiceView>> {
    let snapshot = context.live.snapshot();
    let view = service_view(&context);
    Json(snapshot.services().map(|(_, entry)| view(entry)).collect())
}

/// One service with its instances.
#[utoipa::path(get, path = "/v1/services/{service}", tag = "data",
    params(("service" = String, Path,)),
    responses((status = 200, body = ServiceView), (status = 404, body = ErrorBody)))]
pub(super) async fn service(
    State(context): Shared,
    Path(name): Path<ServiceName>,
) -> Result<Json<ServiceView>, ApiError> {
    let snapshot = context.live.snapshot();
    let entry = snapshot
        .service(name.as_str())
        .ok_or_else(|| ApiError::not_found("service", name.as_str()))?;
    Ok(Json(service_view(&context)(entry)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct InstancesQuery {
    /// Only those of this service.
    service: Option<String>,
    /// Only those in this state.
    state: Option<String>,
}

/// All instances.
#[utoipa::path(get, path = "/v1/instances", tag = "data", params(InstancesQuery),
    responses((status = 200, body = Vec<InstanceView>)))]
pub(super) async fn instances(
    State(context): Shared,
    Query(query): Query<InstancesQuery>,
) -> Json<Vec<InstanceView>> {
    let snapshot = context.live.snapshot();
    let wanted = |view: &InstanceView| {
        query.service.as_ref().is_none_or(|service| view.service == *service)
            && query.state.as_ref().is_none_or(|state| view.state == *state)
    };
    let members = snapshot.services().flat_map(|(_, entry)| entry.members.values());
    Json(members.map(InstanceView::from).filter(wanted).collect())
}

/// All routes.
#[utoipa::path(get, path = "/v1/routes", tag = "data",
    responses((status = 200, body = Vec<RouteView>)))]
pub(super) async fn routes(State(context): Shared) -> Json<Vec<RouteView>> {
    let snapshot = context.live.snapshot();
    let mut views: BTreeMap<&str, RouteView> =
        snapshot.routes().map(|(name, route)| (name.as_str(), route.as_ref().into())).collect();
    for warning in context.router.table().warnings(&context.listeners) {
        if let Some(view) = views.get_mut(warning.route.as_str()) {
            view.warnings.push(warning.to_string());
        }
    }
    Json(views.into_values().collect())
}

/// One route.
#[utoipa::path(get, path = "/v1/routes/{route}", tag = "data",
    params(("route" = String, Path,)),
    responses((status = 200, body = RouteView), (status = 404, body = ErrorBody)))]
pub(super) async fn route(
    State(context): Shared,
    Path(name): Path<RouteName>,
) -> Result<Json<RouteView>, ApiError> {
    let snapshot = context.live.snapshot();
    let route =
        snapshot.route(name.as_str()).ok_or_else(|| ApiError::not_found("route", name.as_str()))?;
    let (table, metrics) = (context.router.table(), context.router.metrics());
    let warnings = table.warnings_with(route, &context.listeners, metrics);
    Ok(Json(RouteView {
        warnings: warnings
            .iter()
            .filter(|warning| warning.route == name)
            .map(ToString::to_string)
            .collect(),
        ..RouteView::from(route.as_ref())
    }))
}

/// All nodes that are heard of.
#[utoipa::path(get, path = "/v1/nodes", tag = "data",
    responses((status = 200, body = Vec<NodeView>)))]
pub(super) async fn nodes(State(context): Shared) -> Json<Vec<NodeView>> {
    let snapshot = context.live.snapshot();
    Json(snapshot.nodes().map(|(_, node)| NodeView::from(node.as_ref())).collect())
}

/// All overrides in force.
#[utoipa::path(get, path = "/v1/overrides", tag = "data",
    responses((status = 200, body = Vec<OverrideView>)))]
pub(super) async fn overrides(State(context): Shared) -> Json<Vec<OverrideView>> {
    let snapshot = context.live.snapshot();
    Json(snapshot.overrides().map(|(_, record)| OverrideView::from(record.as_ref())).collect())
}

/// The controller's records, read at one revision.
#[derive(Default)]
struct Control {
    apps: BTreeMap<AppName, App>,
    formations: BTreeMap<AppName, Formation>,
    releases: Vec<Release>,
    deployments: Vec<Deployment>,
    placements: Vec<Placement>,
    jobs: BTreeMap<JobId, JobStatus>,
}

impl Control {
    async fn read(context: &Context) -> Result<Self, ApiError> {
        let (kvs, _) = context.store.now()?.snapshot(CONTROL).await?;
        let mut control = Self::default();
        for kv in &kvs {
            // A record that cannot be read is the controller's to report.
            let _ = control.add(kv);
        }
        Ok(control)
    }

    fn add(&mut self, kv: &Kv) -> Result<(), serde_json::Error> {
        match kv.key.parse::<Key>() {
            Ok(Key::App(name)) => {
                self.apps.insert(name, record::decode(&kv.value)?);
            }
            Ok(Key::Formation(name)) => {
                self.formations.insert(name, record::decode(&kv.value)?);
            }
            Ok(Key::Release(..)) => self.releases.push(record::decode(&kv.value)?),
            Ok(Key::Deployment(..)) => self.deployments.push(record::decode(&kv.value)?),
            Ok(Key::Placement(..)) => self.placements.push(record::decode(&kv.value)?),
            Ok(Key::Job(_, job)) => {
                self.jobs.insert(job, record::decode(&kv.value)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn app(&self, app: &App) -> AppView {
        let mut running = BTreeMap::new();
        for placement in self.placements.iter().filter(|placement| placement.app == app.name) {
            let status = self.jobs.get(&placement.job);
            if status.is_some_and(|status| status.state == JobState::Running) {
                *running.entry(placement.process.to_string()).or_default() += 1;
            }
        }
        let wanted = self.formations.get(&app.name).map_or_else(BTreeMap::new, |formation| {
            formation.counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()
        });
        let newest = self
            .deployments
            .iter()
            .filter(|deployment| deployment.app == app.name)
            .max_by_key(|deployment| (deployment.created_ms, &deployment.id));
        AppView {
            name: app.name.to_string(),
            release: app.current.to_string(),
            wanted,
            running,
            deployment: newest.map(DeploymentView::from),
        }
    }

    fn known(&self, name: &AppName) -> Result<&App, ApiError> {
        self.apps.get(name).ok_or_else(|| ApiError::not_found("app", name.as_str()))
    }
}

/// All apps.
#[utoipa::path(get, path = "/v1/apps", tag = "apps",
    responses((status = 200, body = Vec<AppView>), (status = 503, body = ErrorBody)))]
pub(super) async fn apps(State(context): Shared) -> Result<Json<Vec<AppView>>, ApiError> {
    let control = Control::read(&context).await?;
    Ok(Json(control.apps.values().map(|app| control.app(app)).collect()))
}

/// One app.
#[utoipa::path(get, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path,)),
    responses((status = 200, body = AppView), (status = 404, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn app(
    State(context): Shared,
    Path(name): Path<AppName>,
) -> Result<Json<AppView>, ApiError> {
    let control = Control::read(&context).await?;
    Ok(Json(control.app(control.known(&name)?)))
}

/// The releases of an app, oldest first.
#[utoipa::path(get, path = "/v1/apps/{app}/releases", tag = "apps",
    params(("app" = String, Path,)),
    responses((status = 200, body = Vec<ReleaseView>), (status = 404, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn releases(
    State(context): Shared,
    Path(name): Path<AppName>,
) -> Result<Json<Vec<ReleaseView>>, ApiError> {
    let control = Control::read(&context).await?;
    control.known(&name)?;
    let mut releases: Vec<_> = control.releases.iter().filter(|r| r.app == name).collect();
    releases.sort_by_key(|release| release.created_ms);
    Ok(Json(releases.into_iter().map(ReleaseView::from).collect()))
}

/// The deployments of an app, oldest first.
#[utoipa::path(get, path = "/v1/apps/{app}/deployments", tag = "apps",
    params(("app" = String, Path,)),
    responses((status = 200, body = Vec<DeploymentView>), (status = 404, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn deployments(
    State(context): Shared,
    Path(name): Path<AppName>,
) -> Result<Json<Vec<DeploymentView>>, ApiError> {
    let control = Control::read(&context).await?;
    control.known(&name)?;
    let mut deployments: Vec<_> = control.deployments.iter().filter(|d| d.app == name).collect();
    deployments.sort_by_key(|deployment| deployment.created_ms);
    Ok(Json(deployments.into_iter().map(DeploymentView::from).collect()))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct JobsQuery {
    /// Only those of this app.
    app: Option<String>,
}

/// All jobs.
#[utoipa::path(get, path = "/v1/jobs", tag = "apps", params(JobsQuery),
    responses((status = 200, body = Vec<JobView>), (status = 503, body = ErrorBody)))]
pub(super) async fn jobs(
    State(context): Shared,
    Query(query): Query<JobsQuery>,
) -> Result<Json<Vec<JobView>>, ApiError> {
    let control = Control::read(&context).await?;
    let wanted =
        |placement: &&Placement| query.app.as_ref().is_none_or(|app| placement.app.as_str() == app);
    let mut jobs: Vec<_> = control
        .placements
        .iter()
        .filter(wanted)
        .map(|placement| JobView::new(placement, control.jobs.get(&placement.job)))
        .collect();
    jobs.sort_by(|a, b| (&a.app, &a.process, &a.id).cmp(&(&b.app, &b.process, &b.id)));
    Ok(Json(jobs))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// The revision to wait for.
    revision: u64,
    /// The longest wait in milliseconds, at most 30,000.
    timeout_ms: Option<u64>,
}

/// Waits until a revision is live on this node: in the snapshot and served by every worker.
#[utoipa::path(get, path = "/v1/wait", tag = "node", params(WaitQuery),
    responses((status = 200, body = WaitView), (status = 504, body = ErrorBody)))]
pub(super) async fn wait(
    State(context): Shared,
    Query(query): Query<WaitQuery>,
) -> Result<Json<WaitView>, ApiError> {
    let timeout = query.timeout_ms.map_or(WAIT_MAX, Duration::from_millis).min(WAIT_MAX);
    let live = async {
        loop {
            let revision = context.live.revision();
            let table = context.live.snapshot().revision;
            if revision >= Revision(query.revision) && context.router.acked() >= table {
                return revision;
            }
            tokio::time::sleep(WAIT_POLL).await;
        }
    };
    let waited = tokio::select! {
        waited = tokio::time::timeout(timeout, live) => waited,
        () = context.cancel.cancelled() => return Err(ApiError::stopping()),
    };
    match waited {
        Ok(revision) => Ok(Json(WaitView { revision: revision.0 })),
        Err(_) => Err(ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            format!(
                "revision {} is not live after {timeout:?}; this node serves {}",
                query.revision,
                context.live.revision()
            ),
            "`portolan status` tells whether the store answers",
        )),
    }
}
