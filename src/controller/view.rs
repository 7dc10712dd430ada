//! The store's state as the controller remembers it, kept current by the two watches.
//! Knows nothing of what follows from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use portolan_discovery::model::record::decode;
use portolan_discovery::model::{
    AddressClaim, App, AppName, Deployment, Event, Formation, JobId, JobStatus, Key, Kv, NodeName,
    Placement, Release, Revision, RouterAck,
};
use portolan_discovery::snapshot::Snapshot;
use serde::de::DeserializeOwned;

use super::lead::Leader;
use super::records::{AppRecords, Stored};

/// Everything the controller decides from.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The data plane.
    pub(crate) data: Snapshot,
    /// When each record of the data plane was last changed.
    data_modified: HashMap<Key, Revision>,
    /// How far the data plane is known.
    pub(crate) data_at: Option<Revision>,
    /// Apps, and what is left of deleted ones.
    pub(crate) apps: BTreeMap<AppName, AppRecords>,
    pub(crate) placements: BTreeMap<(NodeName, JobId), Stored<Placement>>,
    pub(crate) statuses: BTreeMap<(NodeName, JobId), Stored<JobStatus>>,
    pub(crate) acks: BTreeMap<NodeName, Stored<RouterAck>>,
    /// The virtual addresses that are not free.
    pub(crate) claims: BTreeMap<IpAddr, Stored<AddressClaim>>,
    pub(crate) leader: Option<Stored<Leader>>,
    /// Records that cannot be read, and why. The last good ones stay in use.
    pub(crate) unreadable: BTreeMap<Key, String>,
    /// How far the rest is known.
    pub(crate) control_at: Option<Revision>,
}

impl View {
    /// Whether both halves have been read.
    pub(crate) fn is_whole(&self) -> bool {
        self.data_at.is_some() && self.control_at.is_some()
    }

    /// When a record of the data plane was last changed.
    pub(crate) fn modified(&self, key: &Key) -> Option<Revision> {
        self.data_modified.get(key).copied()
    }

    /// Apps that must stay as they are, because a record of theirs cannot be read.
    pub(crate) fn held(&self) -> BTreeSet<&AppName> {
        self.unreadable.keys().filter_map(app_of).collect()
    }

    /// Takes the whole data plane as it was at `revision`.
    pub(crate) fn reset_data(&mut self, kvs: Vec<Kv>, revision: Revision) {
        self.data = Snapshot::default();
        self.data_modified.clear();
        self.unreadable.retain(|key, _| !is_data(key));
        self.apply_data(&kvs.into_iter().map(Event::Put).collect::<Vec<_>>(), revision);
    }

    /// Takes changes of the data plane.
    pub(crate) fn apply_data(&mut self, events: &[Event], revision: Revision) {
        let (data, rejected) = self.data.apply(events, revision);
        self.data = data;
        self.data_at = Some(revision);
        for event in events {
            let Ok(key) = event.key().parse::<Key>() else { continue };
            self.unreadable.remove(&key);
            match event {
                Event::Put(kv) => self.data_modified.insert(key, kv.modified),
                Event::Delete { .. } => self.data_modified.remove(&key),
            };
        }
        for record in rejected {
            if let Ok(key) = record.key.parse() {
                self.unreadable.insert(key, record.cause);
            }
        }
    }

    /// Takes everything but the data plane as it was at `revision`.
    pub(crate) fn reset_control(&mut self, kvs: &[Kv], revision: Revision) {
        let there: BTreeSet<&str> = kvs.iter().map(|kv| kv.key.as_str()).collect();
        for key in self.control_keys() {
            if !there.contains(key.to_string().as_str()) {
                self.apply_record(key, None);
            }
        }
        for kv in kvs {
            if let Ok(key) = kv.key.parse() {
                self.apply_record(key, Some(kv));
            }
        }
        self.control_at = Some(revision);
    }

    /// Takes changes of everything but the data plane.
    pub(crate) fn apply_control(&mut self, events: &[Event], revision: Revision) {
        for event in events {
            let Ok(key) = event.key().parse::<Key>() else { continue };
            match event {
                Event::Put(kv) => self.apply_record(key, Some(kv)),
                Event::Delete { .. } => self.apply_record(key, None),
            }
        }
        self.control_at = Some(revision);
    }

    fn control_keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> =
            self.unreadable.keys().filter(|key| !is_data(key)).cloned().collect();
        for (app, records) in &self.apps {
            keys.extend(records.app.as_ref().map(|_| Key::App(app.clone())));
            keys.extend(records.formation.as_ref().map(|_| Key::Formation(app.clone())));
            keys.extend(records.releases.keys().map(|id| Key::Release(app.clone(), id.clone())));
            let deployments = records.deployments.keys();
            keys.extend(deployments.map(|id| Key::Deployment(app.clone(), id.clone())));
        }
        let placements = self.placements.keys();
        keys.extend(placements.map(|(node, job)| Key::Placement(node.clone(), job.clone())));
        let statuses = self.statuses.keys();
        keys.extend(statuses.map(|(node, job)| Key::Job(node.clone(), job.clone())));
        keys.extend(self.acks.keys().map(|router| Key::Ack(router.clone())));
        keys.extend(self.claims.keys().map(|address| Key::Claim(*address)));
        keys.extend(self.leader.as_ref().map(|_| Key::Leader));
        keys
    }

    fn apply_record(&mut self, key: Key, kv: Option<&Kv>) {
        match self.set_record(&key, kv) {
            Ok(()) => self.unreadable.remove(&key),
            Err(cause) => self.unreadable.insert(key, cause),
        };
    }

    fn set_record(&mut self, key: &Key, kv: Option<&Kv>) -> Result<(), String> {
        match key {
            Key::App(app) => {
                let record = read(kv, |record: &App| record.name == *app)?;
                self.records_of(app, |records| records.app = record);
            }
            Key::Formation(app) => {
                let record = read(kv, |record: &Formation| record.app == *app)?;
                self.records_of(app, |records| records.formation = record);
            }
            Key::Release(app, id) => {
                let record = read(kv, |r: &Release| r.app == *app && r.id == *id)?;
                self.records_of(app, |records| set(&mut records.releases, id, record));
            }
            Key::Deployment(app, id) => {
                let record = read(kv, |r: &Deployment| r.app == *app && r.id == *id)?;
                self.records_of(app, |records| set(&mut records.deployments, id, record));
            }
            Key::Placement(node, job) => {
                let record = read(kv, |r: &Placement| r.node == *node && r.job == *job)?;
                set(&mut self.placements, &(node.clone(), job.clone()), record);
            }
            Key::Job(node, job) => {
                let record = read(kv, |r: &JobStatus| r.node == *node && r.job == *job)?;
                set(&mut self.statuses, &(node.clone(), job.clone()), record);
            }
            Key::Ack(router) => {
                let record = read(kv, |record: &RouterAck| record.router == *router)?;
                set(&mut self.acks, router, record);
            }
            Key::Claim(address) => {
                let record = read(kv, |record: &AddressClaim| record.address == *address)?;
                set(&mut self.claims, address, record);
            }
            Key::Leader => self.leader = read(kv, |_: &Leader| true)?,
            Key::Node(_)
            | Key::Service(_)
            | Key::Instance(..)
            | Key::Override(_)
            | Key::Route(_)
            | Key::Certificate(_)
            | Key::Virtual(_)
            | Key::Tickets => return Err("it is a record of the data plane".to_owned()),
        }
        Ok(())
    }

    fn records_of(&mut self, app: &AppName, change: impl FnOnce(&mut AppRecords)) {
        let records = self.apps.entry(app.clone()).or_default();
        change(records);
        if records.is_empty() {
            self.apps.remove(app);
        }
    }
}

fn app_of(key: &Key) -> Option<&AppName> {
    match key {
        Key::App(app) | Key::Formation(app) | Key::Release(app, _) | Key::Deployment(app, _) => {
            Some(app)
        }
        _ => None,
    }
}

fn is_data(key: &Key) -> bool {
    matches!(
        key,
        Key::Node(_)
            | Key::Service(_)
            | Key::Instance(..)
            | Key::Override(_)
            | Key::Route(_)
            | Key::Certificate(_)
            | Key::Virtual(_)
            | Key::Tickets
    )
}

fn set<K: Ord + Clone, T>(map: &mut BTreeMap<K, Stored<T>>, key: &K, record: Option<Stored<T>>) {
    match record {
        Some(record) => map.insert(key.clone(), record),
        None => map.remove(key),
    };
}

/// Reads the record of `kv`, which must be the one that its key names.
pub(crate) fn read<T: DeserializeOwned>(
    kv: Option<&Kv>,
    is_its_key_s: impl Fn(&T) -> bool,
) -> Result<Option<Stored<T>>, String> {
    let Some(kv) = kv else { return Ok(None) };
    let record: T = decode(&kv.value).map_err(|error| error.to_string())?;
    if !is_its_key_s(&record) {
        return Err("its name is not the one in its key".to_owned());
    }
    Ok(Some(Stored { record: Arc::new(record), created: kv.created, modified: kv.modified }))
}
