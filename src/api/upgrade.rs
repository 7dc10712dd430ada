//! The call that lets a new process take over from this one, and tells how that goes.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event as Sse, KeepAlive, Sse as SseResponse};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::Body;
use super::{ApiError, ErrorBody, Shared};
use crate::live::UPGRADE_TIMEOUT;
pub use crate::live::{UpgradeStage, UpgradeStep};

/// A comment this often tells a quiet stream from a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How an upgrade is to go.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeCall {
    /// How long the new process may take to begin, and again to serve, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// Starts this program's file anew and lets it take over. Steps come as server-sent events; after
/// `done` or `failed` the upgrade is over, and `draining` and `drained` tell of what is still open.
#[utoipa::path(post, path = "/v1/upgrade", tag = "node", request_body = UpgradeCall,
    responses((status = 200, content_type = "text/event-stream", body = UpgradeStep),
        (status = 409, body = ErrorBody)))]
pub(super) async fn upgrade(
    State(context): Shared,
    Body(call): Body<UpgradeCall>,
) -> Result<SseResponse<impl Stream<Item = Result<Sse, Infallible>>>, ApiError> {
    let timeout = call.timeout_ms.map_or(UPGRADE_TIMEOUT, Duration::from_millis);
    let steps = context.upgrades.ask(timeout).map_err(|busy| {
        let hint = "`portolan status` tells which process leads";
        ApiError::new(StatusCode::CONFLICT, "conflict", busy.to_string(), hint)
    })?;
    let events = unfold(steps, async |mut steps| {
        let step = steps.recv().await?;
        Some((Ok(Sse::default().event("upgrade").json_data(&step).unwrap_or_default()), steps))
    });
    Ok(SseResponse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
