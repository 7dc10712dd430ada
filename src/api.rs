//! The admin listener: API, events, logs, metrics and readiness. Reads what the node serves,
//! writes through the controller's commands. Knows nothing of how parts are started.

mod cache;
mod certificates;
mod error;
mod events;
mod explain;
mod guard;
mod listen;
mod logs;
mod metrics;
pub mod openapi;
mod read;
mod upgrade;
pub mod view;
mod write;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post, put};
use axum::{Router, middleware};
use portolan_discovery::model::{CertificateName, ListenerName, NodeName, Protocol, VirtualRange};
use tokio_util::sync::CancellationToken;

use crate::controller::{Commands, Controller};
use crate::live::{Live, OpenedStore, Predecessors, Readiness, Upgrades};

pub use cache::{CacheClearCall, CacheClearView};
pub use certificates::{CertificateCall, CertificateView};
pub use error::{ApiError, ErrorBody};
pub use guard::{Token, TokenError};
pub use listen::serve;
pub use upgrade::{UpgradeCall, UpgradeStage, UpgradeStep};

/// The largest body of a call.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What the calls read and write.
pub struct Context {
    /// This node.
    pub node: NodeName,
    /// The store, once it is open.
    pub store: OpenedStore,
    /// What this node serves.
    pub live: Arc<Live>,
    /// The router, for its table.
    pub router: Arc<portolan_router::Router>,
    /// The listeners of this node, for warnings about routes.
    pub listeners: Vec<(ListenerName, Protocol)>,
    /// Those of them whose ports TCP routes can be given.
    pub ports: Vec<ListenerName>,
    /// The range that services are given virtual addresses of.
    pub virtual_addresses: Option<VirtualRange>,
    /// Those of them that speak TLS, with the certificate that each shows by default.
    pub tls: Vec<(ListenerName, Option<CertificateName>)>,
    /// The certificates that the configuration names: the store's of these names are not shown.
    pub certificate_files: BTreeSet<CertificateName>,
    /// The controller's writes.
    pub commands: Arc<Commands>,
    /// The controller's state.
    pub controller: Arc<Controller>,
    /// The folder of this node's jobs, for their logs.
    pub jobs_dir: PathBuf,
    /// The metrics.
    pub registry: prometheus::Registry,
    /// Who is not ready.
    pub readiness: Readiness,
    /// Processes that were replaced and still have connections.
    pub predecessors: Arc<Predecessors>,
    /// Asks for upgrades.
    pub upgrades: Upgrades,
    /// What every call must carry; none on loopback only.
    pub token: Option<Token>,
    /// Ends streams when the process stops.
    pub cancel: CancellationToken,
}

/// What the handlers share.
type Shared = axum::extract::State<Arc<Context>>;

fn routes(context: Arc<Context>) -> Router {
    let api = Router::new()
        .route("/v1/status", get(read::status))
        .route("/v1/services", get(read::services))
        .route(
            "/v1/services/{service}",
            get(read::service).put(write::put_service).delete(write::delete_service),
        )
        .route(
            "/v1/services/{service}/instances/{id}",
            put(write::put_instance).delete(write::delete_instance),
        )
        .route("/v1/instances", get(read::instances))
        .route("/v1/routes", get(read::routes))
        .route(
            "/v1/routes/{route}",
            get(read::route).put(write::put_route).delete(write::delete_route),
        )
        .route("/v1/explain", get(explain::explain))
        .route("/v1/certificates", get(certificates::list))
        .route(
            "/v1/certificates/{certificate}",
            get(certificates::one).put(certificates::put).delete(certificates::remove),
        )
        .route("/v1/nodes", get(read::nodes))
        .route("/v1/overrides", get(read::overrides).post(write::put_override))
        .route("/v1/overrides/{*scope}", delete(write::delete_override))
        .route("/v1/apps", get(read::apps))
        .route("/v1/apps/{app}", get(read::app).delete(write::delete_app))
        .route("/v1/apps/{app}/releases", get(read::releases))
        .route("/v1/apps/{app}/deployments", get(read::deployments))
        .route("/v1/apps/{app}/deploy", post(write::deploy))
        .route("/v1/apps/{app}/rollback", post(write::rollback))
        .route("/v1/apps/{app}/scale", post(write::scale))
        .route("/v1/jobs", get(read::jobs))
        .route("/v1/jobs/{job}/logs", get(logs::logs))
        .route("/v1/events", get(events::events))
        .route("/v1/wait", get(read::wait))
        .route("/v1/upgrade", post(upgrade::upgrade))
        .route("/v1/cache/clear", post(cache::clear))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::document));
    Router::new()
        .merge(api)
        .fallback(error::no_such_call)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(context.clone(), guard::check))
        // Whoever asks whether the process lives needs no token.
        .route("/healthz", get(metrics::healthz))
        .route("/readyz", get(metrics::readyz))
        .with_state(context)
}
