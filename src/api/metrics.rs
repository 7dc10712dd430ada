//! The Prometheus page and the two questions of a supervisor: is it alive, is it ready.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus::{Encoder, TextEncoder};

use super::{ApiError, Shared};
use crate::clock;

/// All metrics of this node.
#[utoipa::path(get, path = "/metrics", tag = "node",
    responses((status = 200, description = "Prometheus text format", body = String)))]
pub(super) async fn metrics(State(context): Shared) -> Result<Response, ApiError> {
    let age = context.live.age(clock::now());
    context.router.metrics().table_age.set(age.as_secs_f64());
    let encoder = TextEncoder::new();
    let mut page = Vec::new();
    encoder.encode(&context.registry.gather(), &mut page).map_err(|error| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string(), "")
    })?;
    Ok(([(CONTENT_TYPE, encoder.format_type().to_owned())], page).into_response())
}

/// Whether the process is alive: it answers.
#[utoipa::path(get, path = "/healthz", tag = "node",
    responses((status = 200, description = "alive", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether traffic may be sent here; says who is not ready.
#[utoipa::path(get, path = "/readyz", tag = "node", responses(
    (status = 200, description = "ready", body = String),
    (status = 503, description = "the parts that are not ready, one a line", body = String)))]
pub(super) async fn readyz(State(context): Shared) -> Response {
    let waiting = context.readiness.waiting();
    if waiting.is_empty() {
        return "ready\n".into_response();
    }
    let lines: String = waiting.iter().map(|part| format!("{part} is not ready\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}
