//! Carries what the configuration file declares into the store: routes here, apps through the
//! controller's commands. Services are the agent's.
//!
//! Routes of the file are kept as the file has them. An app of the file is deployed when its
//! declaration changes, not at every start: what was deployed since by hand stays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::key::DATA;
use portolan_discovery::model::{AppName, Key, Kv, NodeName, Origin, Route, RouteName, record};
use portolan_discovery::store::{Compare, Store, StoreError, TXN_OPS_MAX, Txn};
use serde::{Deserialize, Serialize};
use sha2::Digest;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::AppDeclaration;
use crate::controller::commands::{Commands, DeployRequest};
use crate::live::OpenedStore;

/// The wait before a failed write is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Another writer may get in between reading and writing this often in a row.
const CONFLICTS_MAX: u32 = 16;

/// What a configuration file declares beside services.
#[derive(Debug, Clone)]
pub(super) struct Declarations {
    pub(super) node: NodeName,
    pub(super) routes: Vec<Route>,
    pub(super) apps: Vec<AppDeclaration>,
    /// Remembers which declarations have been deployed.
    pub(super) memory: PathBuf,
}

/// Carries everything into the store once, however long that takes.
pub(super) async fn run(
    declarations: Declarations,
    store: OpenedStore,
    commands: Arc<Commands>,
    cancel: CancellationToken,
) {
    let until_done = async {
        let opened = store.ready().await;
        while let Err(error) = declare(&declarations, opened.as_ref(), &commands).await {
            tracing::warn!(%error, "what the configuration declares is not in the store yet");
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = until_done => {}
        () = cancel.cancelled() => {}
    }
}

#[derive(Debug, thiserror::Error)]
enum DeclareError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("other writers keep changing the same routes")]
    Conflict,
    #[error("cannot remember what was declared in {path}: {source}")]
    Memory { path: PathBuf, source: std::io::Error },
    #[error("app {app}: {cause}")]
    App { app: AppName, cause: String },
}

async fn declare(
    declarations: &Declarations,
    store: &dyn Store,
    commands: &Commands,
) -> Result<(), DeclareError> {
    declare_routes(declarations, store).await?;
    let identity = store.status().await?.identity;
    let mut memory = Memory::read(&declarations.memory, identity);
    for app in &declarations.apps {
        let digest = digest(app);
        if memory.apps.get(&app.name) == Some(&digest) {
            continue;
        }
        let request = DeployRequest {
            app: app.name.clone(),
            labels: app.labels.clone(),
            progress_deadline: app.progress_deadline,
            processes: app.processes.iter().map(|(n, (job, _))| (n.clone(), job.clone())).collect(),
            counts: app.processes.iter().map(|(n, (_, count))| (n.clone(), *count)).collect(),
        };
        match commands.deploy(request).await {
            Ok(_) => {
                memory.apps.insert(app.name.clone(), digest);
                memory.write(&declarations.memory)?;
            }
            Err(error) if error.is_retryable() => {
                return Err(DeclareError::App { app: app.name.clone(), cause: error.to_string() });
            }
            // It will never go through; the others may.
            Err(error) => {
                tracing::error!(app = %app.name, %error, "the app of the configuration cannot be deployed");
            }
        }
    }
    Ok(())
}

async fn declare_routes(
    declarations: &Declarations,
    store: &dyn Store,
) -> Result<(), DeclareError> {
    for _ in 0..CONFLICTS_MAX {
        let (kvs, _) = store.snapshot(&format!("{DATA}r/")).await?;
        let mut txns = route_changes(&declarations.node, &declarations.routes, &kvs);
        let mut done = true;
        for txn in txns.drain(..) {
            done &= store.txn(txn).await?.done;
        }
        if done {
            return Ok(());
        }
    }
    Err(DeclareError::Conflict)
}

/// The writes that turn the stored routes of this node's file into `wanted`, each guarded by
/// what it was made from.
fn route_changes(node: &NodeName, wanted: &[Route], stored: &[Kv]) -> Vec<Txn> {
    let mut changes = Vec::new();
    let mut there: BTreeMap<RouteName, (&Kv, Route)> = BTreeMap::new();
    for kv in stored {
        if let Ok(route) = record::decode::<Route>(&kv.value) {
            there.insert(route.name.clone(), (kv, route));
        }
    }
    let ours = Origin::Config(node.clone());
    // One age for all: of two that are new together the name decides, as the check says.
    let now = clock::unix_ms();
    for route in wanted {
        let key = Key::Route(route.name.clone()).to_string();
        match there.remove(&route.name) {
            None => {
                let route = Route { created_ms: now, ..route.clone() };
                changes.push((Compare::Absent(key.clone()), key, Some(record::encode(&route))));
            }
            Some((kv, old)) => {
                let route = Route { created_ms: old.created_ms, ..route.clone() };
                if old.origin != ours {
                    tracing::warn!(route = %route.name, "another owner has a route of this name; theirs stays");
                } else if old != route {
                    let guard = Compare::Unchanged(key.clone(), kv.modified);
                    changes.push((guard, key, Some(record::encode(&route))));
                }
            }
        }
    }
    for (kv, old) in there.into_values().filter(|(_, old)| old.origin == ours) {
        let key = Key::Route(old.name).to_string();
        changes.push((Compare::Unchanged(key.clone(), kv.modified), key, None));
    }
    let txn = |chunk: &[(Compare, String, Option<bytes::Bytes>)]| {
        chunk.iter().cloned().fold(Txn::default(), |txn, (guard, key, value)| match value {
            Some(value) => txn.when(guard).put(key, value),
            None => txn.when(guard).delete(key),
        })
    };
    changes.chunks(TXN_OPS_MAX).map(txn).collect()
}

/// SHA-256 of what the file says of an app, in a form that later versions write alike.
fn digest(app: &AppDeclaration) -> String {
    let deadline_ms = app.progress_deadline.as_millis();
    let processes: Vec<_> = app.processes.iter().collect();
    let form = serde_json::json!([app.name, app.labels, deadline_ms.to_string(), processes]);
    let sum = sha2::Sha256::digest(form.to_string().as_bytes());
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which declarations have been deployed into which store.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory {
    store: String,
    apps: BTreeMap<AppName, String>,
}

impl Memory {
    /// What is remembered of this store. Nothing, when it is another one or the file cannot be
    /// read: at worst the configuration speaks once more.
    fn read(path: &Path, store: String) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text)
            .ok()
            .filter(|memory: &Self| memory.store == store)
            .unwrap_or(Self { store, apps: BTreeMap::new() })
    }

    fn write(&self, path: &Path) -> Result<(), DeclareError> {
        let next = path.with_extension("next");
        let text = serde_json::to_vec_pretty(self).expect("names and digests are plain");
        std::fs::write(&next, text)
            .and_then(|()| std::fs::rename(&next, path))
            .map_err(|source| DeclareError::Memory { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use portolan_discovery::model::{Backend, HttpRule, PathPattern, Revision, Rule, ServiceName};
    use portolan_discovery::store::Op;

    use super::*;

    fn route(name: &str, host: &str, origin: Origin) -> Route {
        let rule = Rule::Http(HttpRule::new(host.parse().unwrap(), PathPattern::all()));
        let backends = vec![Backend::to(ServiceName::parse("web").unwrap())];
        let route = Route::new(RouteName::parse(name).unwrap(), rule, backends);
        Route { origin, created_ms: 7, ..route }
    }

    fn kv(route: &Route) -> Kv {
        Kv {
            key: Key::Route(route.name.clone()).to_string(),
            value: record::encode(route),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        }
    }

    #[test]
    fn what_was_deployed_into_another_store_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("declared.json");
        let mut memory = Memory::read(&path, "one".to_owned());
        memory.apps.insert(AppName::parse("shop").unwrap(), "digest".to_owned());
        memory.write(&path).unwrap();
        assert_eq!(Memory::read(&path, "one".to_owned()).apps.len(), 1);
        assert!(Memory::read(&path, "two".to_owned()).apps.is_empty());
        std::fs::write(&path, "{").unwrap();
        assert!(Memory::read(&path, "one".to_owned()).apps.is_empty());
    }

    #[test]
    fn routes_of_the_file_are_kept_as_the_file_has_them_and_others_are_left_alone() {
        let node = NodeName::parse("n1").unwrap();
        let ours = || Origin::Config(node.clone());
        let others = Origin::Config(NodeName::parse("n2").unwrap());
        let stored = [
            kv(&route("same", "a.test", ours())),
            kv(&route("changed", "b.test", ours())),
            kv(&route("gone", "c.test", ours())),
            kv(&route("api", "d.test", Origin::Api)),
            kv(&route("other", "e.test", others)),
        ];
        let wanted = [
            route("same", "a.test", ours()),
            route("changed", "bb.test", ours()),
            route("new", "f.test", ours()),
            route("api", "g.test", ours()),
        ];
        let txns = route_changes(&node, &wanted, &stored);
        let keys: Vec<_> = txns
            .iter()
            .flat_map(|txn| &txn.ops)
            .map(|op| match op {
                Op::Put { key, .. } => format!("put {}", key.rsplit('/').next().unwrap()),
                Op::Delete(key) => format!("delete {}", key.rsplit('/').next().unwrap()),
            })
            .collect();
        assert_eq!(keys, ["put changed", "put new", "delete gone"]);
        assert!(txns.iter().all(|txn| txn.compares.len() == txn.ops.len()));
    }
}
