//! What configuration and files declare, and what that is together.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;

use portolan_discovery::model::{
    CheckSpec, InstanceId, Origin, ProxyVersion, Service, ServiceName, Weight,
};

use super::owner;

/// A service with its instances on this node, as one place declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The service.
    pub service: Service,
    /// Its instances on this node.
    pub instances: Vec<DeclaredInstance>,
    /// The place: the configuration or a file.
    pub origin: Origin,
}

/// One declared instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredInstance {
    /// Its name within the service.
    pub id: InstanceId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its share of the traffic.
    pub weight: Weight,
    /// All must pass; without any it is up.
    pub checks: Vec<CheckSpec>,
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
}

/// A declaration that is passed over because another one came first: the configuration before
/// files, files by their names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    /// Two places declare the service differently.
    #[error(
        "service {service} is declared differently by {} and {}; the first counts",
        owner(.first), owner(.second)
    )]
    Service {
        /// The service.
        service: ServiceName,
        /// Whose settings count.
        first: Origin,
        /// Whose settings are passed over.
        second: Origin,
    },
    /// Two places declare the instance.
    #[error(
        "instance {id} of {service} is declared by {} and {}; the first counts",
        owner(.first), owner(.second)
    )]
    Instance {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// Whose instance counts.
        first: Origin,
        /// Whose instance is passed over.
        second: Origin,
    },
}

pub(super) type Name = (ServiceName, InstanceId);

/// One instance with the place that declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) origin: Origin,
    pub(super) instance: DeclaredInstance,
    /// The PROXY header that its service asks for.
    pub(super) proxy_protocol: Option<ProxyVersion>,
}

/// All declarations of a node as one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) services: BTreeMap<ServiceName, (Origin, Service)>,
    pub(super) instances: BTreeMap<Name, Wanted>,
    pub(super) clashes: Vec<Clash>,
}

/// Puts declarations together; the order they come in does not matter.
pub(super) fn merge(mut all: Vec<Declared>) -> Merged {
    all.sort_by(|a, b| a.origin.cmp(&b.origin));
    let mut merged = Merged::default();
    for Declared { service, instances, origin } in all {
        let name = service.name.clone();
        for instance in instances {
            match merged.instances.entry((name.clone(), instance.id.clone())) {
                Entry::Vacant(free) => {
                    let proxy_protocol = service.proxy_protocol;
                    free.insert(Wanted { origin: origin.clone(), instance, proxy_protocol });
                }
                Entry::Occupied(taken) => merged.clashes.push(Clash::Instance {
                    service: name.clone(),
                    id: instance.id,
                    first: taken.get().origin.clone(),
                    second: origin.clone(),
                }),
            }
        }
        match merged.services.entry(name) {
            Entry::Vacant(free) => {
                free.insert((origin, service));
            }
            Entry::Occupied(taken) if taken.get().1 == service => {}
            Entry::Occupied(taken) => merged.clashes.push(Clash::Service {
                service: service.name,
                first: taken.get().0.clone(),
                second: origin,
            }),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use portolan_discovery::model::NodeName;

    use super::*;

    fn config() -> Origin {
        Origin::Config(NodeName::parse("n1").unwrap())
    }

    fn declared(origin: Origin, keep_alive: bool, ids: &[&str]) -> Declared {
        let name = ServiceName::parse("web").unwrap();
        Declared {
            service: Service { keep_alive, ..Service::named(name) },
            instances: ids
                .iter()
                .map(|id| DeclaredInstance {
                    id: InstanceId::parse(id).unwrap(),
                    addr: "127.0.0.1:80".parse().unwrap(),
                    weight: Weight::DEFAULT,
                    checks: Vec::new(),
                    labels: BTreeMap::new(),
                })
                .collect(),
            origin,
        }
    }

    #[test]
    fn instances_of_one_service_may_come_from_several_places() {
        let file = Origin::File("web.toml".to_owned());
        let merged = merge(vec![declared(file, true, &["b"]), declared(config(), true, &["a"])]);
        assert_eq!(merged.instances.len(), 2);
        assert_eq!(merged.clashes, []);
    }

    #[test]
    fn of_two_declarations_the_configuration_s_counts() {
        let file = Origin::File("web.toml".to_owned());
        let merged = merge(vec![declared(file, false, &["a"]), declared(config(), true, &["a"])]);
        let texts: Vec<_> = merged.clashes.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "instance a of web is declared by the configuration and file web.toml; the first \
                 counts",
                "service web is declared differently by the configuration and file web.toml; the \
                 first counts",
            ]
        );
        assert!(merged.services.values().all(|(_, service)| service.keep_alive));
        assert!(merged.instances.values().all(|wanted| wanted.origin == config()));
    }
}
