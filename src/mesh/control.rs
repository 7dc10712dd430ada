//! The control tasks: those that write to the store, those that follow it. They can end and
//! begin again while router and resolver serve on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_agent::Agent;
use portolan_discovery::model::{LeaseId, Node, Revision};
use portolan_discovery::store::StoreError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::keep::Keeper;
use super::{OPEN_RETRY, Plane, TASKS_TIMEOUT, ack, declare, follow, save, session, tickets};
use crate::clock;
use crate::controller::Commands;
use crate::live::OpenedStore;

/// The longest wait for the last changes to reach the table before the store goes to another
/// process, which reads them itself.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);
const CATCH_UP_POLL: Duration = Duration::from_millis(2);

/// Tasks that end together.
#[derive(Default)]
pub(super) struct Crew {
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
}

impl Crew {
    /// Keeps tasks of this crew running.
    pub(super) fn keeper(&self, restarts: &prometheus::IntCounterVec) -> Keeper {
        Keeper::new(self.tasks.clone(), self.cancel.clone(), restarts.clone())
    }

    /// Ends all of them, if they end in time.
    pub(super) async fn end(&self) {
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(TASKS_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some control tasks did not end in {TASKS_TIMEOUT:?}");
        }
    }
}

/// The control tasks that run.
pub(super) struct Control {
    /// Agent, controller, declarations.
    writers: Crew,
    /// Follower, saver, acknowledger, membership.
    readers: Crew,
    lease: watch::Receiver<Option<LeaseId>>,
}

/// The controller's writes, which end when the store is about to.
pub(super) fn commands(store: &OpenedStore, is_closing: &Arc<AtomicBool>) -> Commands {
    let (store, is_closing) = (store.clone(), is_closing.clone());
    Commands::new(move || {
        if is_closing.load(Ordering::Acquire) {
            let cause = "this node is being upgraded: try again in a moment";
            return Err(StoreError::Unavailable(cause.to_owned()));
        }
        store.now()
    })
}

impl Control {
    /// Starts all control tasks.
    pub(super) fn start(plane: &Arc<Plane>, agent: Agent) -> Self {
        let (writers, readers) = (Crew::default(), Crew::default());
        let lease = Arc::new(watch::Sender::new(None));
        let held = lease.subscribe();
        plane.start_opener(&readers);
        plane.start_readers(&readers, lease);
        writers.tasks.spawn(agent.run(writers.cancel.clone()));
        plane.start_writers(&writers);
        Self { writers, readers, lease: held }
    }

    /// Ends all of them; the lease of this node is left.
    pub(super) async fn stop(self) -> Option<LeaseId> {
        self.readers.cancel.cancel();
        self.writers.end().await;
        self.readers.end().await;
        *self.lease.borrow()
    }

    /// Ends all of them in an order that leaves table, saved table and store at one revision.
    pub(super) async fn quiesce(self, plane: &Plane) -> Revision {
        plane.is_closing.store(true, Ordering::Release);
        self.writers.end().await;
        let last = match plane.store.now() {
            Ok(store) => store.status().await.map(|status| status.revision).ok(),
            Err(_) => None,
        };
        if let Some(last) = last {
            let caught_up = async {
                while plane.live.revision() < last {
                    tokio::time::sleep(CATCH_UP_POLL).await;
                }
            };
            if tokio::time::timeout(CATCH_UP_TIMEOUT, caught_up).await.is_err() {
                tracing::warn!(revision = %last, "the last changes have not reached the table");
            }
        }
        self.readers.end().await;
        last.unwrap_or_else(|| plane.live.revision())
    }
}

impl Plane {
    fn start_opener(&self, crew: &Crew) {
        let token = self.readiness.token("store");
        let (opener, opened) = (self.opener.clone(), self.store.clone());
        let cancel = crew.cancel.clone();
        crew.tasks.spawn(async move { opener.run(OPEN_RETRY, cancel).await });
        let cancel = crew.cancel.clone();
        crew.tasks.spawn(async move {
            tokio::select! {
                _ = opened.ready() => drop(token),
                () = cancel.cancelled() => {}
            }
        });
    }

    /// What router and resolver need: the follower, the saver, the lease, the acknowledger.
    fn start_readers(&self, crew: &Crew, lease: Arc<watch::Sender<Option<LeaseId>>>) {
        let keeper = crew.keeper(&self.restarts);
        let node = self.node();
        let part = (self.store.clone(), self.live.clone(), crew.cancel.clone());
        keeper.keep("follow", {
            let ((store, live, cancel), publisher) = (part.clone(), self.publisher.clone());
            move || follow::run(store.clone(), live.clone(), publisher.clone(), cancel.clone())
        });
        keeper.keep("save", {
            let ((store, live, cancel), saved) = (part.clone(), self.saved_file.clone());
            move || save::run(store.clone(), live.clone(), saved.clone(), cancel.clone())
        });
        keeper.keep("ack", {
            let (store, live, cancel) = part.clone();
            let (name, router, lease) = (node.name.clone(), self.router.clone(), lease.subscribe());
            let predecessors = self.succession.predecessors().clone();
            move || {
                let (store, live, cancel) = (store.clone(), live.clone(), cancel.clone());
                let (router, others) = (router.clone(), predecessors.clone());
                ack::run(name.clone(), store, live, router, others, lease.clone(), cancel)
            }
        });
        keeper.keep("session", {
            let (store, _, cancel) = part;
            move || session::run(store.clone(), node.clone(), lease.clone(), cancel.clone())
        });
        let token = self.readiness.token("table");
        let mut connected = self.live.follow_connected();
        let cancel = crew.cancel.clone();
        crew.tasks.spawn(async move {
            tokio::select! {
                _ = connected.wait_for(|connected| *connected) => drop(token),
                () = cancel.cancelled() => {}
            }
        });
    }

    /// The controller, the keeper of keys for tickets and the declarations.
    fn start_writers(&self, crew: &Crew) {
        crew.keeper(&self.restarts).keep("tickets", {
            let (keeper, store) = (self.ticket_keeper.clone(), self.store.clone());
            let cancel = crew.cancel.clone();
            move || tickets::run(keeper.clone(), store.clone(), cancel.clone())
        });
        crew.keeper(&self.restarts).keep("controller", {
            let (controller, opened) = (self.controller.clone(), self.store.clone());
            let cancel = crew.cancel.clone();
            move || {
                let (controller, opened) = (controller.clone(), opened.clone());
                let cancel = cancel.clone();
                async move {
                    tokio::select! {
                        store = opened.ready() => controller.run(store, cancel).await,
                        () = cancel.clone().cancelled_owned() => {}
                    }
                }
            }
        });
        let declarations = declare::Declarations {
            node: self.config.node.name.clone(),
            routes: self.config.routes.clone(),
            apps: self.config.apps.clone(),
            memory: self.config.node.data_dir.join("declared.json"),
        };
        crew.tasks.spawn(declare::run(
            declarations,
            self.store.clone(),
            self.commands.clone(),
            crew.cancel.clone(),
        ));
    }

    fn node(&self) -> Node {
        let config = &self.config.node;
        Node {
            name: config.name.clone(),
            addr: config.address,
            zone: config.zone.clone(),
            capacity: config.capacity,
            ports: self.config.agent.ports,
            runs_jobs: self.config.agent.run_jobs,
            cordoned: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since_ms: clock::unix_ms(),
        }
    }
}
