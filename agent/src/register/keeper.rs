//! Keeps one declared instance: its checks run, and its record says what they say.

use std::time::Duration;

use portolan_discovery::model::{Health, Instance, Phase, ServiceName};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::declared::Wanted;
use super::registrar::Registrar;
use super::wish::is_same_owner;
use super::writer::Written;
use crate::check::run::{Checks, HealthWatch, Target};
use crate::metrics::Metrics;
use crate::{clock, keep};

/// How long the store may take to say what was known before the agent started; then checks
/// begin without.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// What registration works with. A clone works with the same.
#[derive(Clone)]
pub struct Parts {
    /// Writes the records.
    pub registrar: Registrar,
    /// Runs the checks.
    pub checks: Checks,
    /// Counts.
    pub metrics: Metrics,
}

/// One declared instance that is kept. Dropping it stops its checks and leaves its record.
pub(super) struct Keeper {
    wanted: watch::Sender<Wanted>,
    task: AbortHandle,
}

impl Keeper {
    /// Starts to keep an instance; its record waits for `service`, its service's record.
    pub(super) fn start(
        name: ServiceName,
        wanted: Wanted,
        service: Option<Written>,
        parts: Parts,
    ) -> Self {
        let (wanted, seen) = watch::channel(wanted);
        let task = async move {
            let mut service = service;
            let metrics = parts.metrics.clone();
            let start = || hold(name.clone(), seen.clone(), service.take(), parts.clone());
            keep::keep("instance", &metrics, start).await;
        };
        Self { wanted, task: tokio::spawn(task).abort_handle() }
    }

    /// Changes what is wanted; nothing happens when it is the same.
    pub(super) fn set(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|current| {
            let is_new = *current != wanted;
            *current = wanted;
            is_new
        });
    }

    /// What is wanted.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted.borrow().clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs until it is aborted.
async fn hold(
    name: ServiceName,
    mut seen: watch::Receiver<Wanted>,
    service: Option<Written>,
    parts: Parts,
) {
    let Parts { registrar, checks, .. } = parts;
    let mut now = seen.borrow_and_update().clone();
    let (health, cause) = known(&name, &now, &registrar).await;
    let specs = now.instance.checks.clone();
    let mut watch = checks.resume(target(&name, &now), specs, health, cause);
    if let Some(service) = service {
        // A refused service is logged by the writer; its instances can do without.
        let _ = service.stored().await;
    }
    announce(&name, &now, &watch, &registrar);
    // Another address is probed first and announced when it has decided: until then the
    // record leads to the old one.
    let mut next: Option<(Wanted, HealthWatch)> = None;
    loop {
        tokio::select! {
            () = watch.changed() => say(&watch, &registrar),
            changed = seen.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
                let wanted = seen.borrow_and_update().clone();
                if wanted.instance.addr == now.instance.addr {
                    next = None;
                    now = wanted;
                    watch.replace(now.instance.checks.clone());
                    announce(&name, &now, &watch, &registrar);
                } else {
                    let specs = wanted.instance.checks.clone();
                    let fresh = checks.spawn(target(&name, &wanted), specs);
                    next = Some((wanted, fresh));
                }
            }
            Some((wanted, fresh)) = decided(&mut next) => {
                now = wanted;
                watch = fresh;
                announce(&name, &now, &watch, &registrar);
            }
        }
    }
}

/// Takes the next address out when its checks have decided; waits for ever without one.
async fn decided(next: &mut Option<(Wanted, HealthWatch)>) -> Option<(Wanted, HealthWatch)> {
    let Some((_, fresh)) = next else { return std::future::pending().await };
    while fresh.current().0 == Health::Starting {
        fresh.changed().await;
    }
    next.take()
}

/// What the record says from before, if it is about this instance.
async fn known(
    name: &ServiceName,
    wanted: &Wanted,
    registrar: &Registrar,
) -> (Health, Option<String>) {
    let read = registrar.read(name, &wanted.instance.id);
    match timeout(KNOWN_TIMEOUT, read).await {
        Ok(Ok(Some((record, _))))
            if record.addr == wanted.instance.addr
                && record.node == *registrar.node()
                && is_same_owner(&record.origin, &wanted.origin) =>
        {
            (record.health, record.cause)
        }
        _ => (Health::Starting, None),
    }
}

fn target(name: &ServiceName, wanted: &Wanted) -> Target {
    let (id, addr) = (wanted.instance.id.clone(), wanted.instance.addr);
    Target { service: name.clone(), id, addr, proxy_protocol: wanted.proxy_protocol }
}

/// Wants the record as it is declared, with the health that the checks have decided; before
/// that, with the health it has.
fn announce(name: &ServiceName, wanted: &Wanted, watch: &HealthWatch, registrar: &Registrar) {
    let Wanted { origin, instance, .. } = wanted;
    drop(registrar.declare(Instance {
        service: name.clone(),
        id: instance.id.clone(),
        node: registrar.node().clone(),
        addr: instance.addr,
        weight: instance.weight,
        health: Health::Starting,
        cause: None,
        phase: Phase::Active,
        origin: origin.clone(),
        since_ms: clock::unix_ms(),
        labels: instance.labels.clone(),
    }));
    if watch.current().0 != Health::Starting {
        say(watch, registrar);
    }
}

fn say(watch: &HealthWatch, registrar: &Registrar) {
    let (health, cause) = watch.current();
    let Target { service, id, .. } = watch.target();
    drop(registrar.set_health(service, id, health, cause));
}
