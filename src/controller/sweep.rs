//! Clears away records that nobody needs any more: old releases and deployments, what is left
//! of deleted apps, and what agents said of jobs that are no more.

use std::collections::{BTreeMap, BTreeSet};

use portolan_discovery::model::{AppName, DeploymentId, DeploymentState, JobState, Key, ReleaseId};

use super::commit::Change;
use super::records::{AppRecords, number};
use super::view::View;

/// Releases of an app that are kept to go back to, beside those in use.
pub const RELEASES_KEPT: usize = 10;
/// Deployments of an app that are kept to read, beside those in use.
pub const DEPLOYMENTS_KEPT: usize = 20;
/// Records that one pass deletes at most.
pub const SWEPT_MAX: usize = 100;

/// The records that can go.
pub(super) fn surplus(view: &View) -> Vec<Change> {
    let mut in_use: BTreeMap<&AppName, BTreeSet<&ReleaseId>> = BTreeMap::new();
    for stored in view.placements.values() {
        in_use.entry(&stored.record.app).or_default().insert(&stored.record.release);
    }
    let held = view.held();
    let mut changes = orphans(view);
    for (app, records) in &view.apps {
        if changes.len() >= SWEPT_MAX || held.contains(app) {
            continue;
        }
        match (&records.app, in_use.get(app)) {
            (None, Some(_)) => {}
            (None, None) => changes.extend(remains(app, records)),
            (Some(_), used) => changes.extend(old(app, records, used)),
        }
    }
    changes.truncate(SWEPT_MAX);
    changes
}

/// An agent's last word on a job whose placement is gone.
fn orphans(view: &View) -> Vec<Change> {
    let left = view.statuses.iter().filter(|(key, stored)| {
        stored.record.state == JobState::Stopped && !view.placements.contains_key(*key)
    });
    left.map(|((node, job), stored)| {
        let placement = Key::Placement(node.clone(), job.clone());
        let status = Key::Job(node.clone(), job.clone());
        Change::new().when_absent(&placement).delete(&status, stored.modified)
    })
    .collect()
}

/// What a deleted app has left. Whoever makes the app again may take up its releases: then the
/// app is there and nothing is deleted.
fn remains(app: &AppName, records: &AppRecords) -> Vec<Change> {
    let gone = || Change::new().when_absent(&Key::App(app.clone()));
    let formation = records.formation.iter();
    let releases = records.releases.iter();
    let deployments = records.deployments.iter();
    formation
        .map(|stored| gone().delete(&Key::Formation(app.clone()), stored.modified))
        .chain(releases.map(|(id, stored)| {
            gone().delete(&Key::Release(app.clone(), id.clone()), stored.modified)
        }))
        .chain(deployments.map(|(id, stored)| {
            gone().delete(&Key::Deployment(app.clone(), id.clone()), stored.modified)
        }))
        .collect()
}

/// What an app has beyond its limits.
fn old(app: &AppName, records: &AppRecords, used: Option<&BTreeSet<&ReleaseId>>) -> Vec<Change> {
    let Some(stored) = &records.app else { return Vec::new() };
    let newest_first = records.newest_first();
    let last_done = newest_first
        .iter()
        .find(|stored| stored.record.state == DeploymentState::Done)
        .map(|stored| &stored.record.id);
    let kept: BTreeSet<&DeploymentId> = newest_first
        .iter()
        .take(DEPLOYMENTS_KEPT)
        .map(|stored| &stored.record.id)
        .chain(last_done)
        .collect();

    let mut releases: Vec<&ReleaseId> = records.releases.keys().collect();
    releases.sort_by_key(|id| std::cmp::Reverse(number(id.as_str())));
    let previous = records.previous();
    let latest = records.latest().map(|stored| &*stored.record);
    let mut needed: BTreeSet<&ReleaseId> = releases.iter().take(RELEASES_KEPT).copied().collect();
    needed.extend(used.into_iter().flatten());
    needed.insert(&stored.record.current);
    needed.extend(&previous);
    needed.extend(latest.iter().flat_map(|latest| latest.from.iter().chain([&latest.to])));

    // A command that turns to an old release writes the app, and then nothing is deleted.
    let unchanged = || Change::new().when(&Key::App(app.clone()), stored.modified);
    let deployments = records.deployments.iter().filter(|(id, _)| !kept.contains(id));
    let deployments = deployments.map(|(id, stored)| {
        unchanged().delete(&Key::Deployment(app.clone(), id.clone()), stored.modified)
    });
    let releases = records.releases.iter().filter(|(id, _)| !needed.contains(id));
    let releases = releases.map(|(id, stored)| {
        unchanged().delete(&Key::Release(app.clone(), id.clone()), stored.modified)
    });
    deployments.chain(releases).collect()
}
