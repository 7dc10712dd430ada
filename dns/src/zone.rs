//! The cluster zone: compiled from a snapshot, immutable, replaced whole.
//!
//! A change costs the time of what changed: the maps are shared with the zone before.
//! Knows nothing of packets and upstreams, only which name has what.

mod lookup;
mod members;
mod name;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use foldhash::fast::RandomState;
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, OrdSet};
use portolan_discovery::model::{InstanceId, NodeName, Revision, ServiceName};
use portolan_discovery::snapshot::Snapshot;

pub(crate) use lookup::Found;
pub(crate) use members::Members;
pub use name::{ZoneName, ZoneNameError};

type Map<K, V> = GenericHashMap<K, V, RandomState, DefaultSharedPtr>;

/// What the zone is called and where its service names lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneConfig {
    /// The name of the zone.
    pub name: ZoneName,
    /// The addresses that `SERVICE.ZONE` has: the local router's.
    pub proxy_addrs: Vec<IpAddr>,
}

impl Default for ZoneConfig {
    fn default() -> Self {
        Self { name: ZoneName::default(), proxy_addrs: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] }
    }
}

/// Who has an address; nodes come first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    Node(NodeName),
    /// It is the service's virtual one.
    Service(ServiceName),
    Instance(ServiceName, InstanceId),
}

/// What every name of the zone that leads to the router has.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) v4: Vec<Ipv4Addr>,
    pub(crate) v6: Vec<Ipv6Addr>,
}

/// The compiled zone.
#[derive(Debug, Clone)]
pub struct Zone {
    config: Arc<ZoneConfig>,
    proxy: Arc<Proxy>,
    snapshot: Snapshot,
    services: Map<ServiceName, Arc<Members>>,
    reverse: Map<IpAddr, OrdSet<Owner>>,
}

impl Zone {
    /// A zone without services and nodes.
    pub fn empty(config: &ZoneConfig) -> Self {
        let mut proxy = Proxy { v4: Vec::new(), v6: Vec::new() };
        for addr in &config.proxy_addrs {
            match addr {
                IpAddr::V4(addr) if !proxy.v4.contains(addr) => proxy.v4.push(*addr),
                IpAddr::V6(addr) if !proxy.v6.contains(addr) => proxy.v6.push(*addr),
                _ => {}
            }
        }
        Self {
            config: Arc::new(config.clone()),
            proxy: Arc::new(proxy),
            snapshot: Snapshot::default(),
            services: Map::default(),
            reverse: Map::default(),
        }
    }

    /// The zone of `snapshot`. With the zone before it, only what changed is compiled.
    pub fn compile(snapshot: &Snapshot, previous: Option<&Self>, config: &ZoneConfig) -> Self {
        let mut zone = match previous.filter(|zone| *zone.config == *config) {
            Some(zone) => zone.clone(),
            None => Self::empty(config),
        };
        let changes = snapshot.changes_since(&zone.snapshot);
        for name in &changes.services {
            zone.replace_service(name, snapshot);
        }
        for name in &changes.nodes {
            zone.replace_node(name, snapshot);
        }
        zone.snapshot = snapshot.clone();
        zone
    }

    /// The revision of the snapshot it was compiled from.
    pub fn revision(&self) -> Revision {
        self.snapshot.revision
    }

    /// The name of the zone.
    pub fn name(&self) -> &ZoneName {
        &self.config.name
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn replace_service(&mut self, name: &ServiceName, snapshot: &Snapshot) {
        let old = self.services.remove(name.as_str());
        if let Some(old) = &old {
            for (id, addr) in old.every() {
                self.disown(addr, &Owner::Instance(name.clone(), id.clone()));
            }
            if let Some(addr) = old.virtual_addr() {
                self.disown(addr.ip(), &Owner::Service(name.clone()));
            }
        }
        if let Some(entry) = snapshot.service(name.as_str()) {
            let members = Members::of(entry.clone(), old.as_deref());
            for (id, addr) in members.every() {
                self.own(addr, Owner::Instance(name.clone(), id.clone()));
            }
            if let Some(addr) = members.virtual_addr() {
                self.own(addr.ip(), Owner::Service(name.clone()));
            }
            self.services.insert(name.clone(), Arc::new(members));
        }
    }

    fn replace_node(&mut self, name: &NodeName, snapshot: &Snapshot) {
        let owner = Owner::Node(name.clone());
        if let Some(old) = self.snapshot.node(name.as_str()) {
            self.disown(old.addr, &owner);
        }
        if let Some(new) = snapshot.node(name.as_str()) {
            self.own(new.addr, owner);
        }
    }

    fn own(&mut self, addr: IpAddr, owner: Owner) {
        self.reverse.entry(addr).or_default().insert(owner);
    }

    fn disown(&mut self, addr: IpAddr, owner: &Owner) {
        let Some(owners) = self.reverse.get_mut(&addr) else { return };
        owners.remove(owner);
        if owners.is_empty() {
            self.reverse.remove(&addr);
        }
    }
}

#[cfg(test)]
mod tests;
