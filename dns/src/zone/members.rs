//! What the instances of one service give to the zone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use portolan_discovery::model::{Instance, InstanceId, ServiceName};
use portolan_discovery::snapshot::{Member, ServiceEntry, State, leader};

/// One instance that takes traffic, as SRV names it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) id: InstanceId,
    pub(crate) addr: IpAddr,
    pub(crate) port: u16,
    pub(crate) weight: u16,
}

/// The instances of one service.
#[derive(Debug)]
pub(crate) struct Members {
    /// The addresses that take traffic, each once.
    pub(crate) v4: Box<[Ipv4Addr]>,
    pub(crate) v6: Box<[Ipv6Addr]>,
    /// The instances that take traffic.
    pub(crate) targets: Box<[Target]>,
    /// The address of the leader: whoever routes for leaders only lead to.
    pub(crate) leader: Option<IpAddr>,
    entry: Arc<ServiceEntry>,
}

impl Members {
    /// `previous` is what the same service gave before.
    pub(crate) fn of(entry: Arc<ServiceEntry>, previous: Option<&Self>) -> Self {
        let choice = Choice::of(&entry);
        let takers = || entry.members.values().filter(|member| choice.takes(member, previous));
        let leader = leader(takers()).map(|member| member.instance.addr.ip());
        let targets: Box<[Target]> = takers()
            .map(|Member { instance, .. }| Target {
                id: instance.id.clone(),
                addr: instance.addr.ip(),
                port: instance.addr.port(),
                weight: instance.weight.0.get(),
            })
            .collect();
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for target in &targets {
            match target.addr {
                IpAddr::V4(addr) => v4.push(addr),
                IpAddr::V6(addr) => v6.push(addr),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        Self { v4: v4.into(), v6: v6.into(), targets, leader, entry }
    }

    pub(crate) fn service(&self) -> &ServiceName {
        &self.entry.service.name
    }

    /// Where the service is reached at an address of its own, if it is.
    pub(crate) fn virtual_addr(&self) -> Option<SocketAddr> {
        self.entry.virtual_addr
    }

    /// Whether it asks for an address of its own.
    pub(crate) fn wants_virtual(&self) -> bool {
        self.entry.service.wants_virtual().is_some()
    }

    fn gave(&self, instance: &Instance) -> bool {
        let here = |target: &Target| (target.addr, target.port);
        let there = (instance.addr.ip(), instance.addr.port());
        self.targets.iter().any(|target| target.id == instance.id && here(target) == there)
    }

    /// One instance's address, whatever its state: who names an instance means that one.
    pub(crate) fn addr_of(&self, id: &str) -> Option<IpAddr> {
        self.entry.members.get(id).map(|member| member.instance.addr.ip())
    }

    /// All instances, whatever their state.
    pub(crate) fn every(&self) -> impl Iterator<Item = (&InstanceId, IpAddr)> {
        self.entry.members.iter().map(|(id, member)| (id, member.instance.addr.ip()))
    }
}

/// Which instances are given out. The router chooses by the same two guards, so that both
/// send clients to the same instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// Those that are up.
    Up,
    /// So few are up that those whose checks fail are given out as well.
    Panic,
    /// Nobody was judged, as after an agent forgot its results: those from before stay.
    Kept,
}

impl Choice {
    fn of(entry: &ServiceEntry) -> Self {
        let up = entry.in_state(State::Up).count();
        let judged = up + entry.in_state(State::Down).count();
        match judged {
            0 => Self::Kept,
            _ if up * 2 < judged => Self::Panic,
            _ => Self::Up,
        }
    }

    fn takes(self, member: &Member, previous: Option<&Members>) -> bool {
        match (self, member.state) {
            (_, State::Up) | (Self::Panic, State::Down) => true,
            (Self::Kept, State::Starting) => {
                previous.is_some_and(|previous| previous.gave(&member.instance))
            }
            _ => false,
        }
    }
}
