//! What a job of this node printed, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Sse, KeepAlive, Sse as SseResponse};
use futures_util::Stream;
use futures_util::stream::{StreamExt, iter, unfold};
use portolan_agent::job::logs::{self, Follow, LogError, LogLine, Stream as Output};
use portolan_discovery::model::JobId;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::{Path, Query};
use super::view::LogView;
use super::{ApiError, ErrorBody, Shared};

/// The most lines of the past that one call gives.
const LINES_MAX: usize = 10_000;
/// How many lines of the past a call gives that does not say.
const LINES: usize = 100;
/// A comment this often tells a quiet stream from a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    /// How many of the last lines, at most 10,000.
    lines: Option<usize>,
    /// Whether to go on as the job prints more.
    #[serde(default)]
    follow: bool,
}

/// What a job of this node printed: events of kind `line`, each with JSON.
#[utoipa::path(get, path = "/v1/jobs/{job}/logs", tag = "apps",
    params(("job" = String, Path,), LogsQuery),
    responses((status = 200, content_type = "text/event-stream", body = LogView),
        (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn logs(
    State(context): Shared,
    Path(job): Path<JobId>,
    Query(query): Query<LogsQuery>,
) -> Result<SseResponse<impl Stream<Item = Result<Sse, Infallible>>>, ApiError> {
    let lines = query.lines.unwrap_or(LINES);
    if lines > LINES_MAX {
        return Err(ApiError::invalid(
            format!("{lines} lines"),
            &format!("expected at most {LINES_MAX}"),
        ));
    }
    let stream = if query.follow {
        let follow = logs::follow(&context.jobs_dir, &job, lines).await?;
        let until = context.cancel.clone().cancelled_owned();
        unfold(Some(follow), next).take_until(Box::pin(until)).boxed()
    } else {
        let lines = logs::tail(&context.jobs_dir, &job, lines).await?;
        iter(lines.into_iter().map(|line| sse(&line))).boxed()
    };
    let stream = stream.map(Ok);
    Ok(SseResponse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

async fn next(follow: Option<Follow>) -> Option<(Sse, Option<Follow>)> {
    let mut follow = follow?;
    match follow.next().await {
        Ok(Some(line)) => Some((sse(&line), Some(follow))),
        Ok(None) => None,
        Err(error) => Some((Sse::default().event("lost").data(error.to_string()), None)),
    }
}

fn sse(line: &LogLine) -> Sse {
    let stream = match line.stream {
        Output::Out => "out",
        Output::Err => "err",
    };
    let view = LogView { at: line.at.clone(), stream: stream.to_owned(), text: line.text.clone() };
    let data = serde_json::to_string(&view).expect("a view has string keys and finite numbers");
    Sse::default().event("line").data(data)
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::NoJob(job) => Self::not_found("job", job.as_str()),
            LogError::Io { .. } => Self::new(
                axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                error.to_string(),
                "",
            ),
        }
    }
}
