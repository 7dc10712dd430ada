//! What a call answers when it is not done: a code for programs, words for people, what to do
//! next, and whether the same call may go through later.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use portolan_discovery::store::StoreError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::controller::CommandError;

/// When a call that cannot be done now may be sent again, in seconds: an upgrade is over by then.
const RETRY_AFTER_S: &str = "1";

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// For programs: `not_found`, `conflict`, `invalid`, `unauthorized`, `unavailable`, `timeout`.
    pub code: String,
    /// What went wrong.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
    /// Whether the same call may go through later.
    pub retry: bool,
}

/// An answer that is not a success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &str, message: String, hint: &str) -> Self {
        let retry = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        let body = ErrorBody { code: code.to_owned(), message, hint: hint.to_owned(), retry };
        Self { status, body }
    }

    pub(super) fn not_found(what: &str, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no {what} \"{name}\""),
            &format!("`portolan {what}s` lists those that are there"),
        )
    }

    /// The process ends; another, or the next, will answer.
    pub(super) fn stopping() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the node is stopping".to_owned(),
            "ask again when it is up",
        )
    }

    pub(super) fn invalid(message: impl ToString, hint: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message.to_string(), hint)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let is_retried = self.status == StatusCode::SERVICE_UNAVAILABLE;
        let mut response = (self.status, Json(self.body)).into_response();
        if is_retried {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let hint = "the data plane serves on; try again when the store is back";
        match error {
            StoreError::Refused(_) => Self::invalid(error, ""),
            StoreError::Unavailable(_) | StoreError::NoLease(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string(), hint)
            }
        }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let status = match error.code() {
            "not_found" => StatusCode::NOT_FOUND,
            "conflict" => StatusCode::CONFLICT,
            "invalid" => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let body = ErrorBody {
            code: error.code().to_owned(),
            message: error.to_string(),
            hint: error.hint(),
            retry: error.is_retryable(),
        };
        Self { status, body }
    }
}

/// JSON of a call, whose errors look like all others.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(ApiError))]
pub(super) struct Body<T>(pub(super) T);

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let hint = "send JSON with content-type: application/json; /openapi.json has the forms";
        let status = match rejection.status() {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        Self::new(status, "invalid", rejection.body_text(), hint)
    }
}

/// Names in the path of a call.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(super) struct Path<T>(pub(super) T);

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(rejection.body_text(), "names are lower-case letters, digits and '-'")
    }
}

/// Parameters in the query of a call.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub(super) struct Query<T>(pub(super) T);

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(rejection.body_text(), "/openapi.json has the parameters")
    }
}

pub(super) async fn no_such_call(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("there is no call {method} {}", uri.path()),
        "/openapi.json lists all of them",
    )
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid",
        format!("{} does not take {method}", uri.path()),
        "/openapi.json lists what it takes",
    )
}
