//! What the store has of one app, and what follows from it: which release serves, which one is
//! aimed at, what the next names are. Both the controller and its commands read it here.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_discovery::model::{
    App, Deployment, DeploymentId, DeploymentState, Formation, ProcessName, Release, ReleaseId,
    Revision,
};

/// The count of a process type that no one has given a count.
pub const COUNT_DEFAULT: u32 = 1;

/// A record with the revisions of its life.
#[derive(Debug, Clone)]
pub(crate) struct Stored<T> {
    pub(crate) record: Arc<T>,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
}

/// Everything the store has of one app.
#[derive(Debug, Clone, Default)]
pub(crate) struct AppRecords {
    /// Missing once the app was deleted: the rest is then on its way out.
    pub(crate) app: Option<Stored<App>>,
    pub(crate) formation: Option<Stored<Formation>>,
    pub(crate) releases: BTreeMap<ReleaseId, Stored<Release>>,
    pub(crate) deployments: BTreeMap<DeploymentId, Stored<Deployment>>,
}

impl AppRecords {
    pub(crate) fn is_empty(&self) -> bool {
        self.app.is_none()
            && self.formation.is_none()
            && self.releases.is_empty()
            && self.deployments.is_empty()
    }

    /// The deployments, the newest first.
    pub(crate) fn newest_first(&self) -> Vec<&Stored<Deployment>> {
        let mut all: Vec<_> = self.deployments.values().collect();
        all.sort_by_key(|stored| std::cmp::Reverse(number(stored.record.id.as_str())));
        all
    }

    pub(crate) fn latest(&self) -> Option<&Stored<Deployment>> {
        self.deployments.values().max_by_key(|stored| number(stored.record.id.as_str()))
    }

    /// The deployment under way. Only the latest can be: each new one ends the one before.
    pub(crate) fn active(&self) -> Option<&Stored<Deployment>> {
        self.latest().filter(|stored| !stored.record.state.is_over())
    }

    /// The release that runs, or is to run, once everything under way has ended.
    pub(crate) fn heading(&self) -> Option<ReleaseId> {
        let Some(latest) = self.latest() else {
            return self.app.as_ref().map(|app| app.record.current.clone());
        };
        match &latest.record.state {
            DeploymentState::Running | DeploymentState::Done => Some(latest.record.to.clone()),
            DeploymentState::Reverting { .. } | DeploymentState::Reverted { .. } => {
                latest.record.from.clone()
            }
            DeploymentState::Superseded => self.app.as_ref().map(|app| app.record.current.clone()),
        }
    }

    /// The release that served before the one that is headed for, as far as it is still there.
    pub(crate) fn previous(&self) -> Option<ReleaseId> {
        let heading = self.heading();
        self.newest_first()
            .into_iter()
            .filter(|stored| stored.record.state == DeploymentState::Done)
            .map(|stored| stored.record.to.clone())
            .find(|to| Some(to) != heading.as_ref() && self.releases.contains_key(to))
    }

    /// The number of the next release. An app that is deleted and made again may still have
    /// releases of its earlier life.
    pub(crate) fn next_release(&self) -> u64 {
        let highest = self.releases.keys().map(|id| number(id.as_str())).max().unwrap_or(0);
        self.app.as_ref().map_or(1, |app| app.record.next_release).max(highest + 1)
    }

    /// The name of the next deployment.
    pub(crate) fn next_deployment(&self) -> DeploymentId {
        let highest = self.deployments.keys().map(|id| number(id.as_str())).max().unwrap_or(0);
        DeploymentId::parse(&format!("d{}", highest + 1)).expect("a letter and digits are a label")
    }

    /// The wanted count of a process type.
    pub(crate) fn count(&self, process: &ProcessName) -> u32 {
        let formation = self.formation.as_ref();
        let count = formation.and_then(|stored| stored.record.counts.get(process));
        count.copied().unwrap_or(COUNT_DEFAULT)
    }
}

/// The number in the name of a release or a deployment; 0 if it has none.
pub(crate) fn number(id: &str) -> u64 {
    id.get(1..).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// How many new jobs of a process type a deployment brings up beyond its wanted count: a
/// quarter, and at least one.
pub(crate) fn surge(count: u32) -> u32 {
    count.div_ceil(4).max(1)
}
