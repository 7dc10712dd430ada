//! The stream of what happens, as server-sent events. Each has the store's revision as its id:
//! a client that comes back with `Last-Event-ID` misses nothing, or is told that it did.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Sse, KeepAlive, Sse as SseResponse};
use futures_util::Stream;
use futures_util::stream::unfold;
use portolan_discovery::model::{
    AddressClaim, App, Deployment, DeploymentState, Event, Formation, Instance, JobStatus, Key, Kv,
    Override, Placement, Revision, Route, VirtualAddress, record,
};
use portolan_discovery::store::{Watch, WatchEvent};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::error::Query;
use super::view::{self, EventView, RouteView, job_state};
use super::{ApiError, ErrorBody, Shared};

/// All records of data plane and controller.
const EVERYTHING: &str = "/portolan/v1/";
/// A comment this often tells a quiet stream from a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Everything after this revision; what is to come by default. `Last-Event-ID` goes before.
    after: Option<u64>,
}

/// What happens, as server-sent events with JSON.
#[utoipa::path(get, path = "/v1/events", tag = "node",
    params(EventsQuery, ("Last-Event-ID" = Option<u64>, Header, description = "resume after it")),
    responses((status = 200, content_type = "text/event-stream", body = EventView),
        (status = 503, body = ErrorBody)))]
pub(super) async fn events(
    State(context): Shared,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Result<SseResponse<impl Stream<Item = Result<Sse, Infallible>>>, ApiError> {
    let store = context.store.now()?;
    let resumed = match headers.get("last-event-id") {
        Some(id) => Some(id.to_str().ok().and_then(|id| id.parse().ok()).ok_or_else(|| {
            ApiError::invalid("Last-Event-ID is no revision", "send the id of an event, or none")
        })?),
        None => None,
    };
    let after = match resumed.or(query.after) {
        Some(after) => Revision(after),
        None => store.status().await?.revision,
    };
    let stream = EventStream {
        watch: store.watch(EVERYTHING, after).await?,
        waiting: Vec::new(),
        cancel: context.cancel.clone(),
        over: false,
    };
    let events = unfold(stream, async |mut stream| {
        let event = stream.next().await?;
        Some((Ok(event), stream))
    });
    Ok(SseResponse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct EventStream {
    watch: Watch,
    /// Events of the last batch that have not been sent, the next one last.
    waiting: Vec<Sse>,
    cancel: CancellationToken,
    over: bool,
}

impl EventStream {
    async fn next(&mut self) -> Option<Sse> {
        loop {
            if let Some(event) = self.waiting.pop() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let said = tokio::select! {
                said = self.watch.next() => said,
                () = self.cancel.cancelled() => return None,
            };
            match said {
                WatchEvent::Batch { revision, events } => self.waiting = batch(revision, &events),
                WatchEvent::Progress(_) => {}
                WatchEvent::Compacted { oldest } => {
                    self.over = true;
                    return Some(Sse::default().event("compacted").data(format!(
                        "{{\"oldest\":{oldest},\"hint\":\"events before are forgotten; read the state and follow from now\"}}"
                    )));
                }
                WatchEvent::Lost(cause) => {
                    self.over = true;
                    let body = serde_json::json!({ "cause": cause, "hint": "connect again" });
                    return Some(Sse::default().event("lost").data(body.to_string()));
                }
            }
        }
    }
}

/// The events of one revision, the first one last. Only the last to be sent has the id: a
/// client that is cut off within a batch gets all of it again.
fn batch(revision: Revision, events: &[Event]) -> Vec<Sse> {
    let views: Vec<_> = events.iter().filter_map(|event| describe(revision, event)).collect();
    let last = views.len().saturating_sub(1);
    let mut waiting: Vec<_> = views
        .into_iter()
        .enumerate()
        .map(|(at, view)| {
            let sse = Sse::default().event(view.kind.clone()).data(
                serde_json::to_string(&view).expect("a view has string keys and finite numbers"),
            );
            if at == last { sse.id(revision.to_string()) } else { sse }
        })
        .collect();
    waiting.reverse();
    waiting
}

/// An event as people read it; none for a key of a stranger.
pub(super) fn describe(revision: Revision, event: &Event) -> Option<EventView> {
    let key: Key = event.key().parse().ok()?;
    let (kind, name) = kind_and_name(&key);
    let (change, text) = match event {
        Event::Delete { .. } => ("delete", "is gone".to_owned()),
        Event::Put(kv) => ("put", text(&key, kv).unwrap_or_else(|| "cannot be read".to_owned())),
    };
    Some(EventView {
        revision: revision.0,
        kind: kind.to_owned(),
        name,
        change: change.to_owned(),
        text,
    })
}

fn kind_and_name(key: &Key) -> (&'static str, String) {
    match key {
        Key::Node(name) => ("node", name.to_string()),
        Key::Service(name) => ("service", name.to_string()),
        Key::Instance(service, id) => ("instance", format!("{service}/{id}")),
        Key::Override(scope) => ("override", scope.to_string()),
        Key::Route(name) => ("route", name.to_string()),
        Key::Certificate(name) => ("certificate", name.to_string()),
        Key::Tickets => ("tickets", "keys".to_owned()),
        Key::App(name) => ("app", name.to_string()),
        Key::Release(app, id) => ("release", format!("{app}/{id}")),
        Key::Formation(app) => ("formation", app.to_string()),
        Key::Placement(_, job) => ("placement", job.to_string()),
        Key::Job(_, job) => ("job", job.to_string()),
        Key::Deployment(app, id) => ("deployment", format!("{app}/{id}")),
        Key::Virtual(service) => ("virtual address", service.to_string()),
        Key::Claim(address) => ("virtual address", address.to_string()),
        Key::Leader => ("leader", "controller".to_owned()),
        Key::Ack(router) => ("ack", router.to_string()),
    }
}

fn text(key: &Key, kv: &Kv) -> Option<String> {
    let value = &kv.value;
    Some(match key {
        Key::Instance(..) => {
            let instance: Instance = record::decode(value).ok()?;
            let cause = instance.cause.map_or_else(String::new, |cause| format!(": {cause}"));
            let phase = match instance.phase {
                portolan_discovery::model::Phase::Active => "",
                portolan_discovery::model::Phase::Draining => ", draining",
            };
            format!("{} at {}{phase}{cause}", view::word(&instance.health), instance.addr)
        }
        Key::Override(_) => {
            let record: Override = record::decode(value).ok()?;
            format!("{} by {}: {}", view::word(&record.word), record.by, record.reason)
        }
        Key::Route(_) => {
            let route = RouteView::from(&record::decode::<Route>(value).ok()?);
            let to: Vec<_> = route.backends.into_iter().map(|backend| backend.service).collect();
            let what =
                format!("{}{}", route.host.unwrap_or(route.kind), route.path.unwrap_or_default());
            format!("{what} leads to {}", to.join(", "))
        }
        Key::App(_) => {
            let app: App = record::decode(value).ok()?;
            format!("current release is {}", app.current)
        }
        Key::Formation(_) => {
            let formation: Formation = record::decode(value).ok()?;
            let counts: Vec<_> =
                formation.counts.iter().map(|(name, count)| format!("{name}={count}")).collect();
            format!("wants {}", counts.join(" "))
        }
        Key::Placement(..) => {
            let placement: Placement = record::decode(value).ok()?;
            format!("to {} on {}", view::word(&placement.wanted), placement.node)
        }
        Key::Job(..) => {
            let status: JobStatus = record::decode(value).ok()?;
            let (state, cause) = job_state(&status.state);
            let pid = status.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            format!("{state}{pid}{cause}")
        }
        Key::Virtual(_) => {
            let record: VirtualAddress = record::decode(value).ok()?;
            format!("is {}", record.address)
        }
        Key::Claim(_) => {
            let claim: AddressClaim = record::decode(value).ok()?;
            match claim.released_ms {
                None => format!("belongs to {}", claim.service),
                Some(_) => format!("belonged to {}, and is nobody's for a while", claim.service),
            }
        }
        Key::Deployment(..) => deployment(&record::decode(value).ok()?),
        Key::Node(_) => "is here".to_owned(),
        Key::Leader => format!("is led by {}", String::from_utf8_lossy(value)),
        // Whatever stands in it: there is a key among it.
        Key::Certificate(_) => "is in the store".to_owned(),
        Key::Tickets => "are others now".to_owned(),
        Key::Service(_) | Key::Release(..) => "is declared".to_owned(),
        Key::Ack(_) => "acknowledged".to_owned(),
    })
}

fn deployment(record: &Deployment) -> String {
    let to = &record.to;
    match &record.state {
        DeploymentState::Running => format!("is bringing up {to}"),
        DeploymentState::Done => format!("is done: {to} serves"),
        DeploymentState::Superseded => "gave way to a later one".to_owned(),
        DeploymentState::Reverting { cause } => format!("goes back from {to}: {cause}"),
        DeploymentState::Reverted { cause } => format!("went back from {to}: {cause}"),
    }
}
