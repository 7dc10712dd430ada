//! The owner of this node's instance records.

use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::{
    Health, Instance, InstanceId, Key, NodeName, Origin, Phase, Revision, ServiceName, instance,
};
use portolan_discovery::store::Store;

use super::RegisterError;
use super::wish::InstanceWish;
use super::writer::{Writer, Written};
use crate::clock;
use crate::metrics::Metrics;

/// Writes instance records of one node, by compare-and-set on what it read.
///
/// Each call notes what is wanted and returns at once; awaiting what it returns waits for the
/// store. While the store is away, the newest wish per record is kept and tried again. A record
/// that is already as wanted is not written. A clone is the same registrar.
#[derive(Clone)]
pub struct Registrar {
    node: NodeName,
    store: Arc<dyn Store>,
    writer: Writer<InstanceWish>,
}

impl Registrar {
    /// A registrar that has nothing registered yet.
    pub fn new(store: Arc<dyn Store>, node: NodeName, metrics: Metrics) -> Self {
        Self { node, store: store.clone(), writer: Writer::new(store, metrics) }
    }

    /// The node.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Wants the record exactly like this. It must be of this node.
    pub fn put(&self, instance: Instance) -> Written {
        self.wish(instance, false)
    }

    /// Wants the record like this, but with the health, cause and phase that the store has for
    /// the same address: what is taken over after a restart of the agent stays as it is.
    pub fn declare(&self, instance: Instance) -> Written {
        self.wish(instance, true)
    }

    fn wish(&self, mut instance: Instance, keeps: bool) -> Written {
        debug_assert_eq!(instance.node, self.node, "a record of this node");
        instance.node = self.node.clone();
        instance.cause = instance.cause.map(|text| instance::cause(&text));
        let key = Key::Instance(instance.service.clone(), instance.id.clone());
        self.writer.wish(key, InstanceWish::there(instance, keeps))
    }

    /// Wants another health of a record that is registered here.
    pub fn set_health(
        &self,
        service: &ServiceName,
        id: &InstanceId,
        health: Health,
        cause: Option<String>,
    ) -> Written {
        let cause = cause.map(|text| instance::cause(&text));
        let key = Key::Instance(service.clone(), id.clone());
        self.writer.change(key, |wish| wish.set_health(health, cause, clock::unix_ms()))
    }

    /// Wants another phase of a record that is registered here. The revision is the one at which
    /// the record got this phase, or a later one.
    pub fn set_phase(&self, service: &ServiceName, id: &InstanceId, phase: Phase) -> Written {
        let key = Key::Instance(service.clone(), id.clone());
        self.writer.change(key, |wish| wish.set_phase(phase, clock::unix_ms()))
    }

    /// Wants the record gone; `origin` says whose it is. The revision of what was already gone
    /// is 0.
    pub fn remove(&self, service: &ServiceName, id: &InstanceId, origin: Origin) -> Written {
        let key = Key::Instance(service.clone(), id.clone());
        self.writer.wish(key, InstanceWish::Gone { node: self.node.clone(), origin })
    }

    /// The record as it is stored, with the revision of its last change.
    pub async fn read(
        &self,
        service: &ServiceName,
        id: &InstanceId,
    ) -> Result<Option<(Instance, Revision)>, RegisterError> {
        self.writer.read(&Key::Instance(service.clone(), id.clone())).await
    }

    /// Compares every record with what is wanted and writes what differs.
    pub fn compare_all(&self) {
        self.writer.compare_all();
    }

    /// Waits until the store has everything that is wanted, then takes no more. What is still
    /// open after `longest` is given up.
    pub async fn stop(&self, longest: Duration) {
        self.writer.stop(longest).await;
    }
}
