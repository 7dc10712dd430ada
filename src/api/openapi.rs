//! The description of every call, made from the calls themselves.

use axum::Json;
use utoipa::OpenApi;

use super::{cache, certificates, events, explain, logs, metrics, read, upgrade, write};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Portolan",
        description = "The admin listener of a node. Without a token it answers on loopback only; \
            with one, every call carries `Authorization: Bearer`."
    ),
    paths(
        read::status,
        read::services,
        read::service,
        read::instances,
        read::routes,
        read::route,
        certificates::list,
        certificates::one,
        certificates::put,
        certificates::remove,
        read::nodes,
        read::overrides,
        read::apps,
        read::app,
        read::releases,
        read::deployments,
        read::jobs,
        read::wait,
        upgrade::upgrade,
        cache::clear,
        explain::explain,
        events::events,
        logs::logs,
        metrics::metrics,
        metrics::healthz,
        metrics::readyz,
        document,
        write::put_service,
        write::delete_service,
        write::put_instance,
        write::delete_instance,
        write::put_route,
        write::delete_route,
        write::put_override,
        write::delete_override,
        write::deploy,
        write::rollback,
        write::scale,
        write::delete_app,
    )
)]
struct Document;

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "node",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described() {
        let document = Document::openapi();
        let source = include_str!("../api.rs");
        let paths: Vec<_> = source
            .split('"')
            .filter(|text| {
                text.starts_with("/v1/") || matches!(*text, "/metrics" | "/healthz" | "/readyz")
            })
            .collect();
        assert!(paths.len() > 20, "{paths:?}");
        for path in paths {
            let path = path.replace("{*", "{");
            assert!(document.paths.paths.contains_key(&path), "{path} is not described");
        }
    }
}
