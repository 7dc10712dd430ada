//! The state that router and resolver are compiled from: immutable, with shared structure.
//!
//! One change copies one record and the path to it; two snapshots are compared in the time
//! of what differs. Knows nothing of stores, tables or zones.

mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::model::record::{decode, encode};
use crate::model::{
    CertificateName, CertificatePair, Event, Health, Instance, InstanceId, Key, Kv, Node, NodeName,
    Override, Phase, Revision, Route, RouteName, Scope, Service, ServiceName, TicketKeys,
    VirtualAddress, Word,
};

pub use saved::{SAVED_BYTES_MAX, SaveError, Saved, SavedFile};

/// What an instance is after checks, phase and overrides have spoken. The one place that
/// weighs them is [`Snapshot`]; router, resolver and API all read the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Takes traffic.
    Up,
    /// Not yet: no check has passed.
    Starting,
    /// Checks say no. May be used again in a panic.
    Down,
    /// No new work; what is under way ends in peace.
    Draining,
    /// An operator said no. Never used, not even in a panic.
    AdminDown,
}

impl State {
    /// The state's word in metrics, API and CLI.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Starting => "starting",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::AdminDown => "admin-down",
        }
    }

    /// Every state, in the order in which people read them.
    pub const ALL: [Self; 5] =
        [Self::Up, Self::Starting, Self::Down, Self::Draining, Self::AdminDown];
}

/// An instance with its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The record.
    pub instance: Arc<Instance>,
    /// The state after overrides.
    pub state: State,
    /// The override that decided the state, if one did.
    pub overridden_by: Option<Arc<Override>>,
}

/// A service with its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The service's own record; made up by its name while only instances are known.
    pub service: Service,
    /// Whether the service has a record of its own.
    pub declared: bool,
    /// Its instances, by id.
    pub members: BTreeMap<InstanceId, Member>,
    /// Where it is reached beside its routes, once it has been given what it asks for.
    pub virtual_addr: Option<SocketAddr>,
}

impl ServiceEntry {
    fn empty(name: ServiceName) -> Self {
        Self {
            service: Service::named(name),
            declared: false,
            members: BTreeMap::new(),
            virtual_addr: None,
        }
    }

    /// The members in `state`.
    pub fn in_state(&self, state: State) -> impl Iterator<Item = &Member> {
        self.members.values().filter(move |member| member.state == state)
    }
}

/// The leader of a service among `takers`, its members that take traffic: the one that has been
/// up for longest, the first by id of several; one that is not up only where none is. Whoever
/// sends something to leaders asks here, so that all send it to the same ones.
pub fn leader<'m>(takers: impl Iterator<Item = &'m Member>) -> Option<&'m Member> {
    takers.min_by_key(|member| {
        let instance = &member.instance;
        (member.state != State::Up, instance.since_ms, &instance.id)
    })
}

/// A record that could not be read: the last good one stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {key} is passed over: {cause}")]
pub struct Rejected {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub cause: String,
}

/// Says whether a certificate is taken in the place of the one that is known, if there is one, or
/// what is wrong with it: it takes a library for TLS to know.
pub type Judge = dyn Fn(&CertificatePair, Option<&CertificatePair>) -> Result<(), String>;

fn any(_: &CertificatePair, _: Option<&CertificatePair>) -> Result<(), String> {
    Ok(())
}

/// What differs between two snapshots.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that are new, gone or different.
    pub services: Vec<ServiceName>,
    /// Routes that are new, gone or different.
    pub routes: Vec<RouteName>,
    /// Nodes that are new, gone or different.
    pub nodes: Vec<NodeName>,
}

/// The data plane's state at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The revision of the last event in it.
    pub revision: Revision,
    services: OrdMap<ServiceName, Arc<ServiceEntry>>,
    routes: OrdMap<RouteName, Arc<Route>>,
    nodes: OrdMap<NodeName, Arc<Node>>,
    overrides: OrdMap<Scope, Arc<Override>>,
    certificates: OrdMap<CertificateName, Arc<CertificatePair>>,
    virtuals: OrdMap<ServiceName, Arc<VirtualAddress>>,
    tickets: Option<Arc<TicketKeys>>,
}

impl Snapshot {
    /// Reads all records of the data plane. What cannot be read is listed, not lost silently.
    pub fn from_kvs(kvs: Vec<Kv>, revision: Revision) -> (Self, Vec<Rejected>) {
        let events: Vec<Event> = kvs.into_iter().map(Event::Put).collect();
        Self::default().apply(&events, revision)
    }

    /// The snapshot that a whole reading of the store brings this one to. A record that is there
    /// but cannot be read leaves what this one has of it; only what is not there is gone.
    pub fn caught_up(&self, kvs: Vec<Kv>, revision: Revision) -> (Self, Vec<Rejected>) {
        self.caught_up_judged(kvs, revision, &any)
    }

    /// The same, with certificates as `judge` takes them.
    pub fn caught_up_judged(
        &self,
        kvs: Vec<Kv>,
        revision: Revision,
        judge: &Judge,
    ) -> (Self, Vec<Rejected>) {
        let there: BTreeSet<&str> = kvs.iter().map(|kv| kv.key.as_str()).collect();
        let known = self.to_kvs();
        let gone = known.into_iter().filter(|kv| !there.contains(kv.key.as_str()));
        let mut events: Vec<Event> =
            gone.map(|kv| Event::Delete { key: kv.key, revision }).collect();
        events.extend(kvs.into_iter().map(Event::Put));
        self.apply_judged(&events, revision, judge)
    }

    /// The snapshot after `events`, which are the store's in its order. A record that cannot be
    /// read is listed and leaves what was there before.
    pub fn apply(&self, events: &[Event], revision: Revision) -> (Self, Vec<Rejected>) {
        self.apply_judged(events, revision, &any)
    }

    /// The same, with certificates as `judge` takes them: one that is refused leaves the last good
    /// one, here and so in what is saved.
    pub fn apply_judged(
        &self,
        events: &[Event],
        revision: Revision,
        judge: &Judge,
    ) -> (Self, Vec<Rejected>) {
        let mut next = self.clone();
        next.revision = revision;
        let mut rejected = Vec::new();
        let mut touched = BTreeSet::new();
        for event in events {
            if let Err(cause) = next.apply_one(event, judge, &mut touched) {
                rejected.push(Rejected { key: event.key().to_owned(), cause });
            }
        }
        for service in touched {
            next.weigh(&service);
        }
        (next, rejected)
    }

    fn apply_one(
        &mut self,
        event: &Event,
        judge: &Judge,
        touched: &mut BTreeSet<ServiceName>,
    ) -> Result<(), String> {
        let key: Key = event.key().parse().map_err(|error| format!("{error}"))?;
        let value = match event {
            Event::Put(kv) => Some(kv.value.as_ref()),
            Event::Delete { .. } => None,
        };
        match key {
            Key::Node(name) => set(&mut self.nodes, name, value),
            Key::Route(name) => set(&mut self.routes, name, value),
            Key::Service(name) => {
                touched.insert(name.clone());
                self.set_service(name, value)
            }
            Key::Instance(service, id) => {
                touched.insert(service.clone());
                self.set_instance(service, id, value)
            }
            Key::Virtual(service) => {
                touched.insert(service.clone());
                self.set_virtual(service, value)
            }
            Key::Override(scope) => {
                touched.extend(self.services_in(&scope));
                set(&mut self.overrides, scope, value)
            }
            Key::Certificate(name) => self.set_certificate(name, value, judge),
            Key::Tickets => {
                self.tickets = read::<TicketKeys>(value)?.map(Arc::new);
                Ok(())
            }
            _ => Err("it is not a record of the data plane".to_owned()),
        }
    }

    fn set_certificate(
        &mut self,
        name: CertificateName,
        value: Option<&[u8]>,
        judge: &Judge,
    ) -> Result<(), String> {
        let Some(record) = read::<CertificatePair>(value)? else {
            self.certificates.remove(&name);
            return Ok(());
        };
        if *record.name() != name {
            return Err("its name is not the one in its key".to_owned());
        }
        let known = self.certificates.get(&name).map(Arc::as_ref);
        if known != Some(&record) {
            judge(&record, known)?;
            self.certificates.insert(name, Arc::new(record));
        }
        Ok(())
    }

    fn set_service(&mut self, name: ServiceName, value: Option<&[u8]>) -> Result<(), String> {
        let record: Option<Service> = read(value)?;
        if record.as_ref().is_some_and(|record| record.name != name) {
            return Err("its name is not the one in its key".to_owned());
        }
        let entry = self.entry(&name);
        entry.declared = record.is_some();
        entry.service = record.unwrap_or_else(|| Service::named(name.clone()));
        Ok(())
    }

    fn set_instance(
        &mut self,
        service: ServiceName,
        id: InstanceId,
        value: Option<&[u8]>,
    ) -> Result<(), String> {
        let Some(record) = read::<Instance>(value)? else {
            self.entry(&service).members.remove(&id);
            return Ok(());
        };
        if record.service != service || record.id != id {
            return Err("its name is not the one in its key".to_owned());
        }
        let member =
            Member { instance: Arc::new(record), state: State::Starting, overridden_by: None };
        self.entry(&service).members.insert(id, member);
        Ok(())
    }

    fn set_virtual(&mut self, name: ServiceName, value: Option<&[u8]>) -> Result<(), String> {
        let record: Option<VirtualAddress> = read(value)?;
        if record.as_ref().is_some_and(|record| record.service != name) {
            return Err("its name is not the one in its key".to_owned());
        }
        match record {
            Some(record) => self.virtuals.insert(name, Arc::new(record)),
            None => self.virtuals.remove(&name),
        };
        Ok(())
    }

    fn entry(&mut self, name: &ServiceName) -> &mut ServiceEntry {
        let entry = self
            .services
            .entry(name.clone())
            .or_insert_with(|| Arc::new(ServiceEntry::empty(name.clone())));
        Arc::make_mut(entry)
    }

    fn services_in(&self, scope: &Scope) -> Vec<ServiceName> {
        match scope {
            Scope::Service(name) | Scope::Instance(name, _) => vec![name.clone()],
            Scope::Node(node) => self
                .services
                .iter()
                .filter(|(_, entry)| {
                    entry.members.values().any(|member| member.instance.node == *node)
                })
                .map(|(name, _)| name.clone())
                .collect(),
        }
    }

    /// Weighs checks, phase and overrides of each instance of `name`, and finds where it is reached;
    /// drops an empty service.
    fn weigh(&mut self, name: &ServiceName) {
        let Some(entry) = self.services.get(name) else { return };
        if !entry.declared && entry.members.is_empty() {
            self.services.remove(name);
            return;
        }
        let weighed: Vec<_> = entry
            .members
            .values()
            .map(|member| {
                let word = self.override_of(&member.instance).cloned();
                (state_of(&member.instance, word.as_deref().map(|o| o.word)), word)
            })
            .collect();
        let port = entry.service.wants_virtual().filter(|_| entry.declared);
        let record = self.virtuals.get(name);
        let virtual_addr =
            port.zip(record).map(|(port, record)| SocketAddr::new(record.address, port.get()));
        let entry = self.entry(name);
        entry.virtual_addr = virtual_addr;
        for (member, (state, word)) in entry.members.values_mut().zip(weighed) {
            member.state = state;
            member.overridden_by = word;
        }
    }

    fn override_of(&self, instance: &Instance) -> Option<&Arc<Override>> {
        self.overrides
            .get(&Scope::Instance(instance.service.clone(), instance.id.clone()))
            .or_else(|| self.overrides.get(&Scope::Service(instance.service.clone())))
            .or_else(|| self.overrides.get(&Scope::Node(instance.node.clone())))
    }

    /// A service by name.
    pub fn service(&self, name: &str) -> Option<&Arc<ServiceEntry>> {
        self.services.get(name)
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Arc<ServiceEntry>)> {
        self.services.iter()
    }

    /// A route by name.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.get(name)
    }

    /// All routes, by name.
    pub fn routes(&self) -> impl Iterator<Item = (&RouteName, &Arc<Route>)> {
        self.routes.iter()
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &Arc<Node>)> {
        self.nodes.iter()
    }

    /// A certificate of the store by name.
    pub fn certificate(&self, name: &str) -> Option<&Arc<CertificatePair>> {
        self.certificates.get(name)
    }

    /// The certificates that differ from those of `earlier`.
    pub fn certificates_since(&self, earlier: &Self) -> Vec<CertificateName> {
        differing(&earlier.certificates, &self.certificates)
    }

    /// The keys for TLS tickets.
    pub fn tickets(&self) -> Option<&Arc<TicketKeys>> {
        self.tickets.as_ref()
    }

    /// All overrides, by scope.
    pub fn overrides(&self) -> impl Iterator<Item = (&Scope, &Arc<Override>)> {
        self.overrides.iter()
    }

    /// The virtual addresses that services have been given, by service.
    pub fn virtuals(&self) -> impl Iterator<Item = &Arc<VirtualAddress>> {
        self.virtuals.values()
    }

    /// The virtual address that a service has been given, be there a use for it or not.
    pub fn virtual_of(&self, service: &str) -> Option<&Arc<VirtualAddress>> {
        self.virtuals.get(service)
    }

    /// Where services are reached at virtual addresses, by service.
    pub fn virtual_addrs(&self) -> impl Iterator<Item = (&ServiceName, SocketAddr)> {
        let addr = |name: &ServiceName| self.services.get(name)?.virtual_addr;
        self.virtuals.keys().filter_map(move |name| Some((name, addr(name)?)))
    }

    /// What differs from `earlier`; costs the time of what differs when the two share structure.
    pub fn changes_since(&self, earlier: &Self) -> Changes {
        Changes {
            services: differing(&earlier.services, &self.services),
            routes: differing(&earlier.routes, &self.routes),
            nodes: differing(&earlier.nodes, &self.nodes),
        }
    }

    /// Every record in its stored form, for [`SavedFile`].
    pub fn to_kvs(&self) -> Vec<Kv> {
        let kv = |key: Key, value| Kv {
            key: key.to_string(),
            value,
            created: self.revision,
            modified: self.revision,
            lease: None,
        };
        let mut kvs = Vec::new();
        kvs.extend(self.nodes.iter().map(|(n, r)| kv(Key::Node(n.clone()), encode(r))));
        kvs.extend(self.routes.iter().map(|(n, r)| kv(Key::Route(n.clone()), encode(r))));
        kvs.extend(self.overrides.iter().map(|(n, r)| kv(Key::Override(n.clone()), encode(r))));
        kvs.extend(
            self.certificates.iter().map(|(n, r)| kv(Key::Certificate(n.clone()), encode(r))),
        );
        let virtuals = self.virtuals.iter();
        kvs.extend(virtuals.map(|(name, record)| kv(Key::Virtual(name.clone()), encode(record))));
        kvs.extend(self.tickets.iter().map(|r| kv(Key::Tickets, encode(r))));
        for (name, entry) in &self.services {
            if entry.declared {
                kvs.push(kv(Key::Service(name.clone()), encode(&entry.service)));
            }
            kvs.extend(entry.members.values().map(|Member { instance, .. }| {
                kv(Key::Instance(name.clone(), instance.id.clone()), encode(instance))
            }));
        }
        kvs
    }
}

fn state_of(instance: &Instance, word: Option<Word>) -> State {
    match (word, instance.phase, instance.health) {
        // First: whoever stops the instance waits for what is under way on it, which routers
        // only count for draining ones.
        (_, Phase::Draining, _) | (Some(Word::Drain), _, _) => State::Draining,
        (Some(Word::Down), _, _) => State::AdminDown,
        (Some(Word::Up), _, _) | (_, _, Health::Up) => State::Up,
        (_, _, Health::Down) => State::Down,
        (_, _, Health::Starting) => State::Starting,
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Option<&[u8]>) -> Result<Option<T>, String> {
    value.map(|value| decode(value).map_err(|error| error.to_string())).transpose()
}

fn set<K: Ord + Clone, V: serde::de::DeserializeOwned>(
    map: &mut OrdMap<K, Arc<V>>,
    key: K,
    value: Option<&[u8]>,
) -> Result<(), String> {
    match read(value)? {
        Some(record) => map.insert(key, Arc::new(record)),
        None => map.remove(&key),
    };
    Ok(())
}

fn differing<K: Ord + Clone, V: PartialEq>(
    old: &OrdMap<K, Arc<V>>,
    new: &OrdMap<K, Arc<V>>,
) -> Vec<K> {
    old.diff(new)
        .map(|item| match item {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.clone(),
            DiffItem::Update { new: (key, _), .. } => key.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
