//! Processes that were replaced by an upgrade and still have connections: what is under way in
//! them counts like what is under way here.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_discovery::model::{InstanceId, Revision, ServiceName};
use tokio::sync::watch;

/// Counts by service and instance.
pub type Counts = BTreeMap<ServiceName, BTreeMap<InstanceId, u64>>;

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Predecessor {
    /// Its version.
    pub version: String,
    /// The revision that all its workers serve.
    pub acked: Revision,
    /// Its open connections.
    pub connections: u64,
    /// What it has under way on instances that drain.
    pub draining: Counts,
    /// Whether it serves nobody any more; it may stay as the parent of the others.
    pub is_over: bool,
    /// Whether it has not answered for too long: nobody waits for it any more.
    pub is_lost: bool,
}

impl Predecessor {
    fn counts(&self) -> bool {
        !self.is_over && !self.is_lost
    }
}

/// All of them, by process.
#[derive(Debug)]
pub struct Predecessors(watch::Sender<BTreeMap<u32, Predecessor>>);

impl Default for Predecessors {
    fn default() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }
}

impl Predecessors {
    /// All of them now.
    pub fn all(&self) -> BTreeMap<u32, Predecessor> {
        self.0.borrow().clone()
    }

    /// Open connections of all of them.
    pub fn connections(&self) -> u64 {
        self.0.borrow().values().map(|one| one.connections).sum()
    }

    /// Changes what is known of `pid`.
    pub fn update(&self, pid: u32, change: impl FnOnce(&mut Predecessor)) {
        self.0.send_modify(|all| change(all.entry(pid).or_default()));
    }

    /// `pid` has ended.
    pub fn remove(&self, pid: u32) {
        self.0.send_modify(|all| drop(all.remove(&pid)));
    }

    /// Returns when all of them serve `revision`. Who needs longer than `patience` is not waited
    /// for again.
    pub async fn serve(&self, revision: Revision, patience: Duration) {
        let late = |one: &Predecessor| one.counts() && one.acked < revision;
        let mut all = self.0.subscribe();
        let served = all.wait_for(|all| !all.values().any(late));
        if tokio::time::timeout(patience, served).await.is_ok() {
            return;
        }
        self.0.send_modify(|all| {
            for (pid, one) in all.iter_mut().filter(|(_, one)| late(one)) {
                tracing::warn!(pid, "a process that drains does not answer; it is not waited for");
                one.is_lost = true;
            }
        });
    }

    /// Adds what they have under way on instances that drain.
    pub fn add_draining(&self, counts: &mut Counts) {
        for one in self.0.borrow().values().filter(|one| one.counts()) {
            for (service, ids) in &one.draining {
                for (id, count) in ids {
                    let of_service = counts.entry(service.clone()).or_default();
                    *of_service.entry(id.clone()).or_default() += count;
                }
            }
        }
    }

    /// Whether any of them has something under way on an instance that drains.
    pub fn are_draining(&self) -> bool {
        let mut counts = Counts::new();
        self.add_draining(&mut counts);
        counts.values().flat_map(BTreeMap::values).any(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: u64) -> Counts {
        [("web".parse().unwrap(), [("a".parse().unwrap(), count)].into())].into()
    }

    #[tokio::test]
    async fn what_is_under_way_elsewhere_counts_until_its_process_is_over_or_lost() {
        let all = Predecessors::default();
        all.update(7, |one| (one.draining, one.connections) = (counts(2), 5));
        all.update(8, |one| (one.draining, one.connections) = (counts(1), 1));
        let mut sum = counts(1);
        all.add_draining(&mut sum);
        assert_eq!((sum, all.connections()), (counts(4), 6));
        all.update(8, |one| one.is_over = true);
        all.update(7, |one| one.acked = Revision(3));
        all.serve(Revision(3), Duration::from_secs(5)).await;
        assert!(all.are_draining());
        all.serve(Revision(4), Duration::from_millis(20)).await;
        assert!(all.all()[&7].is_lost && !all.are_draining());
        all.remove(7);
        all.serve(Revision(9), Duration::from_secs(5)).await;
    }
}
