//! Commands on the data plane: services, instances, routes, certificates and overrides. A record that
//! somebody else writes (a configuration file, a job's agent) is left to them.

use portolan_discovery::model::{
    CertificateName, CertificatePair, Instance, InstanceId, Key, Origin, Override, Route,
    RouteName, Rule, Scope, Service, ServiceName,
};
use portolan_router::Certificate;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::invalid;
use super::{CONFLICTS_MAX, CommandError, Commands, Committed, Decided, commit, get};
use crate::certificates;
use crate::clock;
use crate::controller::commit::Change;

/// The longest reason or author of an override, in bytes.
pub const WORDS_BYTES_MAX: usize = 1000;

impl Commands {
    /// Makes or changes a service.
    pub async fn put_service(&self, service: Service) -> Result<Committed<Service>, CommandError> {
        let key = Key::Service(service.name.clone());
        self.put(&key, service, |_, _| Ok(())).await
    }

    /// Deletes a service's record. Its instances stay: a service is there as long as they are.
    pub async fn delete_service(
        &self,
        name: &ServiceName,
    ) -> Result<Committed<Service>, CommandError> {
        self.delete(&Key::Service(name.clone()), |_: &Service| Ok(())).await
    }

    /// Makes or changes an instance that a call of the API owns.
    pub async fn put_instance(
        &self,
        mut instance: Instance,
    ) -> Result<Committed<Instance>, CommandError> {
        instance.origin = Origin::Api;
        instance.since_ms = clock::unix_ms();
        let key = Key::Instance(instance.service.clone(), instance.id.clone());
        self.put(&key, instance, |old: Option<&Instance>, new| {
            let Some(old) = old else { return Ok(()) };
            owned("instance", old.id.as_str(), &old.origin)?;
            if old.health == new.health && old.phase == new.phase {
                new.since_ms = old.since_ms;
            }
            Ok(())
        })
        .await
    }

    /// Deletes an instance that a call of the API owns.
    pub async fn delete_instance(
        &self,
        service: &ServiceName,
        id: &InstanceId,
    ) -> Result<Committed<Instance>, CommandError> {
        let key = Key::Instance(service.clone(), id.clone());
        self.delete(&key, |old: &Instance| owned("instance", id.as_str(), &old.origin)).await
    }

    /// Makes or changes a route that a call of the API owns. It keeps its age.
    pub async fn put_route(&self, mut route: Route) -> Result<Committed<Route>, CommandError> {
        if route.backends.is_empty() {
            return Err(invalid("backends", "a route leads to at least one service", ""));
        }
        let is_http = matches!(route.rule, Rule::Http(_));
        if !is_http && route.listener.is_none() {
            let cause = "a TCP, UDP or TLS route is of one listener";
            return Err(invalid("listener", cause, "name a listener of the configuration"));
        }
        if !is_http && route.mirror.is_some() {
            return Err(invalid("mirror", "a TCP, UDP or TLS route mirrors nothing", ""));
        }
        if let Some(Err(error)) = route.rewrite.as_ref().map(|rewrite| rewrite.fits(&route.rule)) {
            return Err(invalid("rewrite", error.to_string(), ""));
        }
        route.origin = Origin::Api;
        route.created_ms = clock::unix_ms();
        let key = Key::Route(route.name.clone());
        self.put(&key, route, |old: Option<&Route>, new| {
            let Some(old) = old else { return Ok(()) };
            new.created_ms = old.created_ms;
            owned("route", old.name.as_str(), &old.origin)
        })
        .await
    }

    /// Deletes a route that a call of the API owns.
    pub async fn delete_route(&self, name: &RouteName) -> Result<Committed<Route>, CommandError> {
        let key = Key::Route(name.clone());
        self.delete(&key, |old: &Route| owned("route", name.as_str(), &old.origin)).await
    }

    /// Makes or changes a certificate, which must be good; what it is for is returned, too.
    pub async fn put_certificate(
        &self,
        pair: CertificatePair,
    ) -> Result<(Committed<()>, Certificate), CommandError> {
        let certificate = certificates::check(&pair)
            .map_err(|error| invalid(error.field(), error.to_string(), error.hint()))?;
        let key = Key::Certificate(pair.name().clone());
        let committed = self
            .put(&key, pair, |old: Option<&CertificatePair>, new| {
                if let Some(old) = old.filter(|old| **old == new.clone().since(old.since_ms())) {
                    *new = old.clone();
                }
                Ok(())
            })
            .await?;
        Ok((committed.without_value(), certificate))
    }

    /// Deletes a certificate, whether or not its record can be read.
    pub async fn delete_certificate(
        &self,
        name: &CertificateName,
    ) -> Result<Committed<()>, CommandError> {
        let store = self.store()?;
        let key = Key::Certificate(name.clone());
        let (what, name) = named(&key);
        for _ in 0..CONFLICTS_MAX {
            let Some(old) = store.get(&key.to_string()).await? else {
                return Err(CommandError::NotFound { what, name });
            };
            let change = Some(Change::new().delete(&key, old.modified));
            let decided = Decided { change, value: (), since: old.modified };
            if let Some(committed) = commit(store.as_ref(), decided).await? {
                return Ok(committed);
            }
        }
        Err(CommandError::Conflict { what, name })
    }

    /// Makes or changes an override. What it speaks of need not be there yet.
    pub async fn put_override(
        &self,
        mut word: Override,
    ) -> Result<Committed<Override>, CommandError> {
        word.since_ms = clock::unix_ms();
        if word.reason.trim().is_empty() {
            let hint = "those who find it later will ask";
            return Err(invalid("reason", "an override needs a reason", hint));
        }
        for (field, text) in [("reason", &word.reason), ("by", &word.by)] {
            if text.len() > WORDS_BYTES_MAX {
                return Err(invalid(field, format!("longer than {WORDS_BYTES_MAX} bytes"), ""));
            }
        }
        if word.until_ms.is_some_and(|until| until <= word.since_ms) {
            return Err(invalid("until", "it lies in the past", ""));
        }
        let key = Key::Override(word.scope.clone());
        self.put(&key, word, |old: Option<&Override>, new| {
            let same =
                |old: &&Override| Override { since_ms: new.since_ms, ..(*old).clone() } == *new;
            if let Some(old) = old.filter(same) {
                new.since_ms = old.since_ms;
            }
            Ok(())
        })
        .await
    }

    /// Ends an override.
    pub async fn delete_override(
        &self,
        scope: &Scope,
    ) -> Result<Committed<Override>, CommandError> {
        self.delete(&Key::Override(scope.clone()), |_: &Override| Ok(())).await
    }

    /// Writes `record`, unless that is what there is. `adapt` takes over what stays of the old.
    async fn put<T: Serialize + DeserializeOwned + PartialEq + Clone>(
        &self,
        key: &Key,
        record: T,
        adapt: impl Fn(Option<&T>, &mut T) -> Result<(), CommandError>,
    ) -> Result<Committed<T>, CommandError> {
        let store = self.store()?;
        for _ in 0..CONFLICTS_MAX {
            let old = get::<T>(store.as_ref(), key).await?;
            let mut value = record.clone();
            adapt(old.as_ref().map(|old| &*old.record), &mut value)?;
            let same = old.as_ref().is_some_and(|old| *old.record == value);
            let seen = old.map(|old| old.modified);
            let change = (!same).then(|| Change::new().set(key, seen, &value));
            let since = seen.unwrap_or_default();
            let decided = Decided { change, value, since };
            if let Some(committed) = commit(store.as_ref(), decided).await? {
                return Ok(committed);
            }
        }
        let (what, name) = named(key);
        Err(CommandError::Conflict { what, name })
    }

    async fn delete<T: DeserializeOwned + Clone>(
        &self,
        key: &Key,
        may: impl Fn(&T) -> Result<(), CommandError>,
    ) -> Result<Committed<T>, CommandError> {
        let store = self.store()?;
        let (what, name) = named(key);
        for _ in 0..CONFLICTS_MAX {
            let Some(old) = get::<T>(store.as_ref(), key).await? else {
                return Err(CommandError::NotFound { what, name });
            };
            may(&old.record)?;
            let change = Some(Change::new().delete(key, old.modified));
            let decided = Decided { change, value: (*old.record).clone(), since: old.modified };
            if let Some(committed) = commit(store.as_ref(), decided).await? {
                return Ok(committed);
            }
        }
        Err(CommandError::Conflict { what, name })
    }
}

fn named(key: &Key) -> (&'static str, String) {
    match key {
        Key::Service(name) => ("service", name.to_string()),
        Key::Instance(service, id) => ("instance", format!("{service}/{id}")),
        Key::Route(name) => ("route", name.to_string()),
        Key::Certificate(name) => ("certificate", name.to_string()),
        Key::Override(scope) => ("override", scope.to_string()),
        other => ("record", other.to_string()),
    }
}

fn owned(what: &'static str, name: &str, origin: &Origin) -> Result<(), CommandError> {
    let owner = match origin {
        Origin::Api => return Ok(()),
        Origin::Config(node) => format!("the configuration file of node {node}"),
        Origin::File(file) => format!("the file {file} in the agent's folder of services"),
        Origin::Job(job) => format!("job {job}"),
    };
    Err(CommandError::Owned { what, name: name.to_owned(), owner })
}
