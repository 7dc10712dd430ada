//! What is wanted of a record and who may write it: pure decisions.

use portolan_discovery::model::{Health, Instance, Key, NodeName, Origin, Phase, Service};

use super::RegisterError;
use super::writer::Wish;

/// What is wanted of an instance's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InstanceWish {
    /// To be there.
    There(Box<There>),
    /// To be gone.
    Gone {
        /// The node of the record.
        node: NodeName,
        /// Who wrote it.
        origin: Origin,
    },
}

/// A record with what is to be kept of the stored one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct There {
    /// The record; its `since_ms` is of the last wish for health or phase.
    pub(super) record: Instance,
    /// Whether health and cause are as the store has them, for the same address.
    pub(super) keeps_health: bool,
    /// Whether the phase is as the store has it, for the same address.
    pub(super) keeps_phase: bool,
}

impl InstanceWish {
    pub(super) fn there(record: Instance, keeps: bool) -> Self {
        Self::There(Box::new(There { record, keeps_health: keeps, keeps_phase: keeps }))
    }

    /// Wants other health from now on.
    pub(super) fn set_health(&mut self, health: Health, cause: Option<String>, now_ms: u64) {
        let Self::There(there) = self else { return };
        if there.keeps_health || there.record.health != health {
            there.record.since_ms = now_ms;
        }
        there.keeps_health = false;
        there.record.health = health;
        there.record.cause = cause;
    }

    /// Wants another phase from now on.
    pub(super) fn set_phase(&mut self, phase: Phase, now_ms: u64) {
        let Self::There(there) = self else { return };
        if there.keeps_phase || there.record.phase != phase {
            there.record.since_ms = now_ms;
        }
        there.keeps_phase = false;
        there.record.phase = phase;
    }
}

impl Wish for InstanceWish {
    type Record = Instance;

    fn next(
        &self,
        key: &Key,
        stored: Option<&Instance>,
    ) -> Result<Option<Instance>, RegisterError> {
        let (node, origin) = match self {
            Self::There(there) => (&there.record.node, &there.record.origin),
            Self::Gone { node, origin } => (node, origin),
        };
        if let Some(stored) = stored
            && (stored.node != *node || !is_same_owner(&stored.origin, origin))
        {
            return Err(RegisterError::Owned {
                key: key.to_string(),
                node: stored.node.clone(),
                origin: stored.origin.clone(),
            });
        }
        Ok(match self {
            Self::There(there) => Some(there.merged(stored)),
            Self::Gone { .. } => None,
        })
    }

    fn came_true(&mut self, stored: &Instance) {
        if let Self::There(there) = self {
            there.record = stored.clone();
        }
    }
}

impl There {
    fn merged(&self, stored: Option<&Instance>) -> Instance {
        let mut next = self.record.clone();
        let Some(stored) = stored else { return next };
        if stored.addr == next.addr {
            if self.keeps_health {
                next.health = stored.health;
                next.cause.clone_from(&stored.cause);
            }
            if self.keeps_phase {
                next.phase = stored.phase;
            }
        }
        if stored.health == next.health && stored.phase == next.phase {
            next.since_ms = stored.since_ms;
        }
        next
    }
}

/// Whether both are written by the same part of a node. Configuration and files are one: what
/// moves from one to the other is changed in place.
pub(super) fn is_same_owner(one: &Origin, other: &Origin) -> bool {
    is_declared(one) && is_declared(other) || one == other
}

/// Whether the record comes from configuration or a file.
pub(super) fn is_declared(origin: &Origin) -> bool {
    matches!(origin, Origin::Config(_) | Origin::File(_))
}

/// What is wanted of a service's record. Several nodes may declare one service: each writes it
/// when its own declaration changes, so that two that differ do not write in turns for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServiceWish {
    /// To be like this.
    Like(Service),
    /// To be there; like this if it is not.
    There(Service),
    /// To be gone.
    Gone,
}

impl Wish for ServiceWish {
    type Record = Service;

    fn next(&self, _: &Key, stored: Option<&Service>) -> Result<Option<Service>, RegisterError> {
        Ok(match (self, stored) {
            (Self::Like(service), _) | (Self::There(service), None) => Some(service.clone()),
            (Self::There(_), Some(stored)) => Some(stored.clone()),
            (Self::Gone, _) => None,
        })
    }

    fn came_true(&mut self, _: &Service) {
        if let Self::Like(service) = self {
            *self = Self::There(service.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use portolan_discovery::model::{InstanceId, JobId, ServiceName, Weight};

    use super::*;

    fn record(health: Health, phase: Phase, since_ms: u64) -> Instance {
        Instance {
            service: ServiceName::parse("web").unwrap(),
            id: InstanceId::parse("a").unwrap(),
            node: NodeName::parse("n1").unwrap(),
            addr: "127.0.0.1:80".parse().unwrap(),
            weight: Weight::DEFAULT,
            health,
            cause: None,
            phase,
            origin: config(),
            since_ms,
            labels: Default::default(),
        }
    }

    fn config() -> Origin {
        Origin::Config(NodeName::parse("n1").unwrap())
    }

    fn key() -> Key {
        let record = record(Health::Up, Phase::Active, 0);
        Key::Instance(record.service, record.id)
    }

    #[test]
    fn what_is_declared_again_keeps_health_phase_and_their_time() {
        let stored = record(Health::Up, Phase::Draining, 5);
        let wish = InstanceWish::there(record(Health::Starting, Phase::Active, 9), true);
        assert_eq!(wish.next(&key(), Some(&stored)).unwrap().unwrap(), stored);
    }

    #[test]
    fn another_address_is_another_instance_s_health() {
        let mut wanted = record(Health::Starting, Phase::Active, 9);
        wanted.addr = "127.0.0.1:81".parse().unwrap();
        let wish = InstanceWish::there(wanted.clone(), true);
        let stored = record(Health::Up, Phase::Active, 5);
        assert_eq!(wish.next(&key(), Some(&stored)).unwrap().unwrap(), wanted);
    }

    #[test]
    fn a_new_health_keeps_the_phase_and_has_its_own_time() {
        let mut wish = InstanceWish::there(record(Health::Starting, Phase::Active, 1), true);
        wish.set_health(Health::Down, Some("tcp: refused".to_owned()), 9);
        let next = wish.next(&key(), Some(&record(Health::Up, Phase::Draining, 5)));
        let mut expected = record(Health::Down, Phase::Draining, 9);
        expected.cause = Some("tcp: refused".to_owned());
        assert_eq!(next.unwrap().unwrap(), expected);
    }

    #[test]
    fn a_record_is_its_owner_s_alone() {
        let job = |name: &str| Origin::Job(JobId::parse(name).unwrap());
        let file = |name: &str| Origin::File(name.to_owned());
        for (one, other, same) in [
            (config(), file("a.toml"), true),
            (file("a.toml"), file("b.toml"), true),
            (config(), job("a"), false),
            (config(), Origin::Api, false),
            (job("a"), job("a"), true),
            (job("a"), job("b"), false),
        ] {
            assert_eq!(is_same_owner(&one, &other), same, "{one:?} {other:?}");
        }
        let mut stored = record(Health::Up, Phase::Active, 1);
        stored.node = NodeName::parse("n2").unwrap();
        for wish in [
            InstanceWish::there(record(Health::Up, Phase::Active, 1), true),
            InstanceWish::Gone { node: NodeName::parse("n1").unwrap(), origin: config() },
        ] {
            let error = wish.next(&key(), Some(&stored)).unwrap_err();
            assert_eq!(
                error.to_string(),
                "/portolan/v1/d/i/web/a belongs to the configuration of node n2"
            );
        }
    }

    #[test]
    fn a_service_is_rewritten_only_when_its_own_declaration_changes() {
        let key = Key::Service(ServiceName::parse("web").unwrap());
        let ours = Service::named(ServiceName::parse("web").unwrap());
        let theirs = Service { keep_alive: false, ..ours.clone() };
        let mut wish = ServiceWish::Like(ours.clone());
        assert_eq!(wish.next(&key, Some(&theirs)).unwrap(), Some(ours.clone()));
        wish.came_true(&ours);
        assert_eq!(wish.next(&key, Some(&theirs)).unwrap(), Some(theirs));
        assert_eq!(wish.next(&key, None).unwrap(), Some(ours));
    }
}
