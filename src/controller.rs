//! Makes what is wanted of apps true: follows the store, decides, and writes what agents obey.
//!
//! One controller of the cluster leads, by a lease; the others follow along so that one of them
//! can go on at once. All state is in the store, and every write of the leader is fenced by its
//! term, so a controller that is killed, frozen or replaced in the middle of a deployment leaves
//! nothing that its successor cannot go on from. The only caller of the [`scheduler`].
//!
//! [`scheduler`]: crate::scheduler

mod addresses;
pub mod commands;
mod commit;
pub mod deploy;
mod feed;
mod health;
mod lead;
mod ledger;
mod reconcile;
mod records;
mod sweep;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use portolan_discovery::model::key::{CONTROL, DATA};
use portolan_discovery::model::{AppName, NodeName, Revision, ServiceName, VirtualRange};
use portolan_discovery::store::{Outcome, Store, StoreError, Txn};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::scheduler::Refusal;

pub use addresses::{ADDRESSES_AT_ONCE, RELEASED_FOR};
pub use commands::{CommandError, Commands};
pub use lead::Leader;
pub use reconcile::SETTLE;
pub use records::COUNT_DEFAULT;
pub use sweep::{DEPLOYMENTS_KEPT, RELEASES_KEPT, SWEPT_MAX};

use feed::Word;
use lead::Term;
use reconcile::{Decision, Now, Reconciler};

/// How long changes are gathered before they are looked at.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// The longest time between two passes.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// The wait after a write that was not done.
const RETRY: Duration = Duration::from_millis(50);
/// Transactions under way at once.
const TXNS_AT_ONCE: usize = 16;

/// What can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a leader that is not heard of leads on.
    pub lease_ttl: Duration,
    /// Where services are given virtual addresses; none gives none.
    pub virtual_addresses: Option<VirtualRange>,
}

impl Settings {
    /// Default of `lease_ttl`.
    pub const LEASE_TTL: Duration = Duration::from_secs(9);
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease_ttl: Self::LEASE_TTL, virtual_addresses: None }
    }
}

/// What the controller says of itself. Only the leader knows what is refused and waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The node whose controller leads, if one does.
    pub leader: Option<NodeName>,
    /// Whether it is this one.
    pub leads: bool,
    /// Up to here this controller knows the store.
    pub revision: Revision,
    /// What is wanted but fits nowhere, with the reasons of each node.
    pub refused: Vec<Refusal>,
    /// What each deployment under way waits for.
    pub waits_for: BTreeMap<AppName, String>,
    /// Services that ask for a virtual address and have none, and why.
    pub unaddressed: BTreeMap<ServiceName, String>,
    /// Records that cannot be read: their apps are left as they are.
    pub unreadable: Vec<String>,
    /// Why the last pass did not go through, if it did not.
    pub last_error: Option<String>,
}

/// One node's controller.
#[derive(Debug)]
pub struct Controller {
    node: NodeName,
    settings: Settings,
    status: watch::Sender<Status>,
}

impl Controller {
    /// A controller that does nothing yet.
    pub fn new(node: NodeName, settings: Settings) -> Self {
        Self { node, settings, status: watch::Sender::new(Status::default()) }
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows how it is.
    pub fn follow(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Why jobs of `app` are not placed, and what its deployment waits for.
    pub fn explain(&self, app: &AppName) -> Vec<String> {
        let status = self.status.borrow();
        let refused = status.refused.iter().filter(|refusal| refusal.group.app == *app);
        let waits_for = status.waits_for.get(app).filter(|text| !text.is_empty());
        refused.map(ToString::to_string).chain(waits_for.cloned()).collect()
    }

    /// Follows the store, and leads whenever nobody else does, until `cancel`. While the store
    /// is away nothing is decided.
    pub async fn run(&self, store: Arc<dyn Store>, cancel: CancellationToken) {
        let (to, terms) = watch::channel(None);
        let (node, ttl) = (self.node.clone(), self.settings.lease_ttl);
        let leading = lead::run(store.clone(), node, ttl, to, cancel);
        let mut shell = Shell {
            controller: self,
            data: feed::follow(store.clone(), DATA),
            control: feed::follow(store.clone(), CONTROL),
            store,
            terms,
            reconciler: Reconciler::giving(self.settings.virtual_addresses),
            must_see: Some(Revision::default()),
            due: Instant::now(),
        };
        tokio::select! {
            () = shell.run() => {}
            () = leading => {}
        }
        self.status.send_modify(|status| status.leads = false);
    }
}

/// The I/O around the [`Reconciler`].
struct Shell<'c> {
    controller: &'c Controller,
    store: Arc<dyn Store>,
    data: mpsc::Receiver<Word>,
    control: mpsc::Receiver<Word>,
    terms: watch::Receiver<Option<Term>>,
    reconciler: Reconciler,
    /// No pass before the view has this: it would decide again what is decided. Unknown after a
    /// write of which nobody knows whether it was done.
    must_see: Option<Revision>,
    /// When the next pass is due.
    due: Instant,
}

impl Shell<'_> {
    async fn run(&mut self) {
        loop {
            let soon = Instant::now() + DEBOUNCE;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.due) => {
                    let again_in = self.pass().await;
                    self.due = Instant::now() + again_in;
                }
                Ok(()) = self.terms.changed() => {
                    self.reconciler.begin_term();
                    self.due = self.due.min(soon);
                }
                word = self.control.recv() => {
                    let word = word.unwrap_or_else(|| {
                        self.control = feed::follow(self.store.clone(), CONTROL);
                        Word::Lost("its watch broke".to_owned())
                    });
                    if self.hear_control(word) {
                        self.due = self.due.min(soon);
                    }
                }
                word = self.data.recv() => {
                    let word = word.unwrap_or_else(|| {
                        self.data = feed::follow(self.store.clone(), DATA);
                        Word::Lost("its watch broke".to_owned())
                    });
                    if self.hear_data(word) {
                        self.due = self.due.min(soon);
                    }
                }
            }
        }
    }

    /// Takes a word on the data plane; says whether it asks for a pass.
    fn hear_data(&mut self, word: Word) -> bool {
        let view = &mut self.reconciler.view;
        match word {
            Word::All(kvs, revision) => view.reset_data(kvs, revision),
            Word::Changes(events, revision) => view.apply_data(&events, revision),
            Word::Current(revision) => {
                view.data_at = Some(revision);
                return false;
            }
            Word::Lost(reason) => {
                view.data_at = None;
                self.note_error(Some(reason));
                return false;
            }
        }
        true
    }

    /// Takes a word on all the rest; says whether it asks for a pass.
    fn hear_control(&mut self, word: Word) -> bool {
        let view = &mut self.reconciler.view;
        match word {
            Word::All(kvs, revision) => view.reset_control(&kvs, revision),
            Word::Changes(events, revision) => view.apply_control(&events, revision),
            Word::Current(revision) => {
                // The pass may wait for it.
                let was = view.control_at.replace(revision);
                return was < self.must_see && self.must_see <= Some(revision);
            }
            Word::Lost(reason) => {
                view.control_at = None;
                self.note_error(Some(reason));
                return false;
            }
        }
        true
    }

    /// Decides and writes, if this controller leads and knows enough. Says when the next pass is
    /// due if nothing happens.
    async fn pass(&mut self) -> Duration {
        self.find_out_what_was_done().await;
        let term = *self.terms.borrow();
        let view = &self.reconciler.view;
        let leads = term.filter(|term| {
            view.leader.as_ref().is_some_and(|leader| leader.modified == term.revision)
        });
        let Some(term) = leads.filter(|_| view.is_whole() && self.has_seen_its_own()) else {
            self.say(leads.is_some(), None);
            return PASS_EVERY;
        };
        let now = Now { at: Instant::now().into_std(), unix_ms: clock::unix_ms() };
        let decision = self.reconciler.decide(now);
        self.say(true, Some(&decision));
        for note in &decision.notes {
            tracing::info!("{note}");
        }
        let again_in = decision.again_in.unwrap_or(PASS_EVERY).min(PASS_EVERY);
        if self.commit(&term, decision).await { again_in } else { RETRY }
    }

    fn has_seen_its_own(&self) -> bool {
        self.must_see.is_some_and(|must_see| self.reconciler.view.control_at >= Some(must_see))
    }

    async fn find_out_what_was_done(&mut self) {
        if self.must_see.is_none() {
            match self.store.status().await {
                Ok(status) => self.must_see = Some(status.revision),
                Err(error) => self.note_error(Some(error.to_string())),
            }
        }
    }

    /// Does all of a decision; says whether all of it was done.
    async fn commit(&mut self, term: &Term, decision: Decision) -> bool {
        let mut done = true;
        for txn in commit::pack(decision.first, &term.fence()) {
            done &= self.note(self.store.txn(txn).await);
        }
        let then = commit::pack(decision.then, &term.fence());
        let store = self.store.clone();
        let write = |txn: Txn| {
            let store = store.clone();
            async move { store.txn(txn).await }
        };
        let outcomes: Vec<_> =
            stream::iter(then).map(write).buffer_unordered(TXNS_AT_ONCE).collect().await;
        for outcome in outcomes {
            done &= self.note(outcome);
        }
        if done {
            self.note_error(None);
        }
        done
    }

    fn note(&mut self, outcome: Result<Outcome, StoreError>) -> bool {
        match outcome {
            Ok(outcome) => {
                self.must_see = self.must_see.map(|must_see| must_see.max(outcome.revision));
                if !outcome.done {
                    tracing::debug!(revision = %outcome.revision, "a write came too late");
                }
                outcome.done
            }
            Err(error) => {
                tracing::warn!(%error, "the controller's write failed");
                self.note_error(Some(error.to_string()));
                self.must_see = None;
                false
            }
        }
    }

    fn note_error(&self, error: Option<String>) {
        self.controller.status.send_if_modified(|status| {
            let differs = status.last_error != error;
            status.last_error = error;
            differs
        });
    }

    fn say(&self, leads: bool, decision: Option<&Decision>) {
        let view = &self.reconciler.view;
        let (refused, waits_for, unaddressed) = match decision {
            Some(Decision { refused, waits_for, unaddressed, .. }) => {
                (refused.clone(), waits_for.clone(), unaddressed.clone())
            }
            None if leads => {
                let Status { refused, waits_for, unaddressed, .. } =
                    self.controller.status.borrow().clone();
                (refused, waits_for, unaddressed)
            }
            None => Default::default(),
        };
        let unreadable = view.unreadable.iter();
        let said = Status {
            leader: view.leader.as_ref().map(|leader| leader.record.node.clone()),
            leads,
            revision: view.control_at.min(view.data_at).unwrap_or_default(),
            refused,
            waits_for,
            unaddressed,
            unreadable: unreadable.map(|(key, cause)| format!("{key}: {cause}")).collect(),
            last_error: self.controller.status.borrow().last_error.clone(),
        };
        self.controller.status.send_if_modified(|status| {
            let differs = *status != said;
            *status = said;
            differs
        });
    }
}

#[cfg(test)]
mod tests;
