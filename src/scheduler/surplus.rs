//! Chooses which jobs of a group stop when there are too many.

use std::collections::HashMap;

use portolan_discovery::model::NodeName;

use super::fleet::Fleet;
use super::{Job, Standing, Stop, StopReason};

/// How many of a group's jobs count as running.
pub(super) fn running(jobs: &[Job<'_>]) -> u32 {
    u32::try_from(jobs.iter().filter(|job| job.runs()).count()).unwrap_or(u32::MAX)
}

/// Stops as many of a group's jobs as there are above `count`: those that serve least go first,
/// then those on crowded ground, then the newest.
pub(super) fn stop(fleet: &Fleet<'_>, jobs: &[Job<'_>], count: u32, stops: &mut Vec<Stop>) {
    let mut left: Vec<&Job<'_>> = jobs.iter().filter(|job| job.runs()).collect();
    let reason = if count == 0 { StopReason::Unwanted } else { StopReason::Surplus };
    let stop = |job: &Job<'_>| Stop {
        node: job.placement.node.clone(),
        job: job.placement.job.clone(),
        reason,
    };
    if count == 0 {
        stops.extend(left.into_iter().map(stop));
        return;
    }
    let mut crowd = Crowd::default();
    for job in &left {
        *crowd.on_node.entry(&job.placement.node).or_default() += 1;
        *crowd.in_zone.entry(fleet.zone_of(&job.placement.node)).or_default() += 1;
    }
    while left.len() > count as usize {
        let (at, _) = left
            .iter()
            .enumerate()
            .max_by_key(|(_, job)| expendable(fleet, &crowd, job))
            .expect("more jobs are left than a count of at least 1");
        let job = left.swap_remove(at);
        *crowd.on_node.entry(&job.placement.node).or_default() -= 1;
        *crowd.in_zone.entry(fleet.zone_of(&job.placement.node)).or_default() -= 1;
        stops.push(stop(job));
    }
}

#[derive(Default)]
struct Crowd<'a> {
    on_node: HashMap<&'a NodeName, u32>,
    in_zone: HashMap<Option<&'a str>, u32>,
}

/// Larger is stopped earlier. A job on a node that is not there is the last to be relied on:
/// whether it runs is hearsay.
fn expendable<'j>(
    fleet: &Fleet<'_>,
    crowd: &Crowd<'_>,
    job: &'j Job<'_>,
) -> (bool, std::cmp::Reverse<Standing>, u32, u32, u64, &'j str) {
    let node = &job.placement.node;
    (
        !fleet.knows(node),
        std::cmp::Reverse(job.standing),
        crowd.in_zone.get(&fleet.zone_of(node)).copied().unwrap_or(0),
        crowd.on_node.get(node).copied().unwrap_or(0),
        job.placement.since_ms,
        job.placement.job.as_str(),
    )
}
