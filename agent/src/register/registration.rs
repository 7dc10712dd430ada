//! Makes the records of this node follow what is declared: new ones are put, changed ones are
//! changed in place, vanished ones are removed. Never deregisters to register again.

use std::collections::{BTreeMap, BTreeSet};

use portolan_discovery::model::key::DATA;
use portolan_discovery::model::record::decode;
use portolan_discovery::model::{Instance, Key, Kv, Service, ServiceName};
use portolan_discovery::store::StoreError;

use super::declared::{Clash, Declared, Name, merge};
use super::files::Unknown;
use super::keeper::{Keeper, Parts};
use super::wish::{ServiceWish, is_declared};
use super::writer::{Writer, Written, call};

/// The declared services and instances of a node. Dropping it stops their checks and leaves
/// their records.
pub struct Registration {
    parts: Parts,
    services: Writer<ServiceWish>,
    declared: BTreeMap<ServiceName, Service>,
    keepers: BTreeMap<Name, Keeper>,
    /// Services that are declared no more; each record goes with its last instance.
    vanished: BTreeSet<ServiceName>,
    /// What was not known when the store was last searched for leftovers of an earlier life.
    searched: Option<Unknown>,
}

impl Registration {
    /// Nothing is declared yet.
    pub fn new(parts: Parts) -> Self {
        let services = Writer::new(parts.registrar.store().clone(), parts.metrics.clone());
        Self {
            parts,
            services,
            declared: BTreeMap::new(),
            keepers: BTreeMap::new(),
            vanished: BTreeSet::new(),
            searched: None,
        }
    }

    /// Takes over everything that is declared on this node. Returns what is passed over.
    pub fn apply(&mut self, declared: Vec<Declared>) -> Vec<Clash> {
        let merged = merge(declared);
        let mut written = self.apply_services(merged.services);
        let gone: Vec<Name> = self
            .keepers
            .keys()
            .filter(|name| !merged.instances.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            let keeper = self.keepers.remove(&name).expect("the key is from there");
            let origin = keeper.wanted().origin;
            drop(keeper);
            drop(self.parts.registrar.remove(&name.0, &name.1, origin));
            tracing::info!(service = %name.0, instance = %name.1, "an instance is declared no more");
        }
        for (name, wanted) in merged.instances {
            if let Some(keeper) = self.keepers.get(&name) {
                keeper.set(wanted);
                continue;
            }
            let service = written.remove(&name.0);
            if let Some(service) = &service {
                written.insert(name.0.clone(), service.again());
            }
            let keeper = Keeper::start(name.0.clone(), wanted, service, self.parts.clone());
            self.keepers.insert(name, keeper);
        }
        for clash in &merged.clashes {
            tracing::warn!(%clash, "a declaration is passed over");
        }
        merged.clashes
    }

    fn apply_services(
        &mut self,
        wanted: BTreeMap<ServiceName, (portolan_discovery::model::Origin, Service)>,
    ) -> BTreeMap<ServiceName, Written> {
        let wanted: BTreeMap<_, _> =
            wanted.into_iter().map(|(name, (_, service))| (name, service)).collect();
        for name in self.declared.keys().filter(|name| !wanted.contains_key(*name)) {
            self.vanished.insert(name.clone());
        }
        let mut written = BTreeMap::new();
        for (name, service) in &wanted {
            self.vanished.remove(name);
            if self.declared.get(name) != Some(service) {
                let key = Key::Service(name.clone());
                written.insert(
                    name.clone(),
                    self.services.wish(key, ServiceWish::Like(service.clone())),
                );
            }
        }
        self.declared = wanted;
        written
    }

    /// What is left to do once the store answers: removes the records of this node that nothing
    /// declares (except by what is `unknown`), and services without instances. To be called
    /// after each [`Self::apply`] and now and then.
    pub async fn tend(&mut self, unknown: &Unknown) {
        if self.searched.as_ref() != Some(unknown) {
            match self.remove_leftovers(unknown).await {
                Ok(()) => self.searched = Some(unknown.clone()),
                Err(error) => tracing::debug!(%error, "the search for leftovers waits"),
            }
        }
        if let Err(error) = self.remove_services().await {
            tracing::debug!(%error, "the removal of services waits");
        }
    }

    /// Compares every record with what is wanted: somebody may have deleted or restored some.
    pub fn compare_all(&self) {
        self.services.compare_all();
        self.parts.registrar.compare_all();
    }

    async fn remove_leftovers(&mut self, unknown: &Unknown) -> Result<(), StoreError> {
        let (kvs, _) = call(self.parts.registrar.store().snapshot(DATA)).await?;
        for record in kvs.iter().filter_map(instance_of) {
            let name = (record.service, record.id);
            let is_ours =
                record.node == *self.parts.registrar.node() && is_declared(&record.origin);
            if !is_ours || self.keepers.contains_key(&name) || unknown.has(&record.origin) {
                continue;
            }
            tracing::info!(service = %name.0, instance = %name.1, "a leftover is removed");
            drop(self.parts.registrar.remove(&name.0, &name.1, record.origin));
            if !self.declared.contains_key(&name.0) {
                self.vanished.insert(name.0);
            }
        }
        Ok(())
    }

    /// Removes each vanished service once its last instance is gone. One with instances of
    /// others stays: theirs is the last word.
    async fn remove_services(&mut self) -> Result<(), StoreError> {
        for name in self.vanished.clone() {
            let prefix = Key::instances_of(&name);
            let (kvs, _) = call(self.parts.registrar.store().snapshot(&prefix)).await?;
            let node = self.parts.registrar.node();
            let is_ours = |record: &Instance| record.node == *node && is_declared(&record.origin);
            if kvs.is_empty() {
                drop(self.services.wish(Key::Service(name.clone()), ServiceWish::Gone));
                self.vanished.remove(&name);
            } else if !kvs.iter().filter_map(instance_of).any(|record| is_ours(&record)) {
                self.vanished.remove(&name);
            }
        }
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.services.give_up();
    }
}

fn instance_of(kv: &Kv) -> Option<Instance> {
    match kv.key.parse() {
        Ok(Key::Instance(..)) => decode(&kv.value).ok(),
        _ => None,
    }
}
