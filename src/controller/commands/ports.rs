//! Routes on ports of the router: each port leads to one route, and one that is free can be given.

use std::collections::BTreeMap;

use portolan_discovery::model::{Key, ListenerName, Route, RouteName};
use portolan_discovery::snapshot::Snapshot;

use super::error::invalid;
use super::{CommandError, Commands, Committed};

impl Commands {
    /// Makes or changes a route that a call of the API owns, on its listener, which must be one of
    /// `ports`, or without one on the first of them that is free. A route that has one keeps it.
    pub async fn put_route_on_port(
        &self,
        mut route: Route,
        ports: &[ListenerName],
    ) -> Result<Committed<Route>, CommandError> {
        let _alone = self.ports.lock().await;
        let taken = self.listeners_taken().await?;
        let other = |port: &ListenerName| taken.get(port).filter(|name| **name != route.name);
        let port = match &route.listener {
            Some(port) => {
                if let Some(other) = other(port) {
                    let (listener, route) = (port.to_string(), other.to_string());
                    return Err(CommandError::Taken { listener, route });
                }
                port.clone()
            }
            None => {
                let own = |port: &&ListenerName| taken.get(*port) == Some(&route.name);
                let free = |port: &&ListenerName| !taken.contains_key(*port);
                let found = ports.iter().find(own).or_else(|| ports.iter().find(free));
                let none = || invalid("port", "none is free", "add ports to router.tcp_ports");
                found.cloned().ok_or_else(none)?
            }
        };
        route.listener = Some(port);
        self.put_route(route).await
    }

    /// Which route each listener has that is named by one.
    async fn listeners_taken(&self) -> Result<BTreeMap<ListenerName, RouteName>, CommandError> {
        let (kvs, revision) = self.store()?.snapshot(&Key::routes()).await?;
        let (snapshot, _) = Snapshot::from_kvs(kvs, revision);
        let named = snapshot
            .routes()
            .filter_map(|(name, route)| Some((route.listener.clone()?, name.clone())));
        Ok(named.collect())
    }
}
