//! The call that clears answers from the cache of this node's router.

use axum::Json;
use axum::extract::State;
use portolan_discovery::model::RouteName;
use portolan_router::Clear;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::Body;
use super::{ApiError, ErrorBody, Shared};

/// Which answers are cleared; of several conditions all must hold, and none clears all.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheClearCall {
    /// Those of this route, which need not exist any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Those for this host, whatever scheme and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Those for this path, as requests spell it, whatever the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// What was cleared.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CacheClearView {
    /// The node.
    pub node: String,
    /// Answers that were cleared.
    pub cleared: usize,
    /// Answers that are left.
    pub left: usize,
    /// Bytes in use, what is being written down included.
    pub bytes: usize,
}

/// Clears answers that this node's router keeps. What is under way for them is not kept either.
#[utoipa::path(post, path = "/v1/cache/clear", tag = "node", request_body = CacheClearCall,
    responses((status = 200, body = CacheClearView), (status = 400, body = ErrorBody)))]
pub(super) async fn clear(
    State(context): Shared,
    Body(call): Body<CacheClearCall>,
) -> Result<Json<CacheClearView>, ApiError> {
    let what = what(&call)?;
    let cache = context.router.cache();
    let cleared = cache.clear(&what);
    tracing::info!(cleared, ?what, "answers were cleared from the cache");
    Ok(Json(CacheClearView {
        node: context.node.to_string(),
        cleared,
        left: cache.answers(),
        bytes: cache.bytes(),
    }))
}

fn what(call: &CacheClearCall) -> Result<Clear, ApiError> {
    let route = match &call.route {
        Some(name) => Some(name.parse::<RouteName>().map_err(|e| ApiError::invalid(e, ""))?),
        None => None,
    };
    if let Some(host) = call.host.as_ref().filter(|host| host.is_empty() || host.contains('/')) {
        let error = format!("\"{host}\" is no host");
        return Err(ApiError::invalid(error, "expected a name such as shop.test, without port"));
    }
    if let Some(path) =
        call.path.as_ref().filter(|path| !path.starts_with('/') || path.contains('?'))
    {
        let error = format!("\"{path}\" is no path");
        return Err(ApiError::invalid(error, "expected a path such as /news, without query"));
    }
    Ok(Clear { route, host: call.host.clone(), path: call.path.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cleared_is_named_as_requests_name_it() {
        let call = |route: Option<&str>, host: Option<&str>, path: Option<&str>| {
            let text = |text: Option<&str>| text.map(ToOwned::to_owned);
            what(&CacheClearCall { route: text(route), host: text(host), path: text(path) })
        };
        assert_eq!(call(None, None, None).unwrap(), Clear::default());
        let all = call(Some("r"), Some("a.test"), Some("/x")).unwrap();
        let expected = Clear {
            route: Some("r".parse().unwrap()),
            host: Some("a.test".to_owned()),
            path: Some("/x".to_owned()),
        };
        assert_eq!(all, expected);
        for (route, host, path) in [
            (Some("R"), None, None),
            (None, Some(""), None),
            (None, Some("http://a.test"), None),
            (None, None, Some("x")),
            (None, None, Some("/x?y")),
        ] {
            assert!(call(route, host, path).is_err(), "{route:?} {host:?} {path:?}");
        }
    }
}
