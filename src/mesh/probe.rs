//! What a configuration needs of others: are the resolvers it names there, can its sockets be
//! bound by this user on this machine. And what there is to tell of its routes.

use std::collections::BTreeSet;
use std::time::Duration;

use portolan_discovery::model::{Event, Key, Kv, Revision, Route, Service, ServiceName, record};
use portolan_discovery::snapshot::Snapshot;
use portolan_router::metrics::Metrics;
use portolan_router::{Cause, Table, Warning};

use crate::config::Config;

/// A resolver that needs longer would slow every container down.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks everything that the configuration names; what is wrong, in words.
pub fn probe(config: &Config) -> Vec<String> {
    let mut troubles = Vec::new();
    for upstream in config.dns.iter().flat_map(|dns| dns.upstreams.iter().flatten()) {
        if let Err(error) = portolan_dns::probe_upstream(*upstream, UPSTREAM_TIMEOUT) {
            troubles.push(format!(
                "dns.upstreams: {upstream} does not answer: {error}; correct it, or check with --offline"
            ));
        }
    }
    troubles
}

/// Routes of the file that can never match, those that only a name puts before another, and what
/// is wrong with certificates, in words. The router's own table says so; routes that others make
/// are not in it.
pub fn warnings(config: &Config) -> Vec<String> {
    let revision = Revision(1);
    let put = |route: &Route| {
        let key = Key::Route(route.name.clone()).to_string();
        let value = record::encode(route);
        Event::Put(Kv { key, value, created: revision, modified: revision, lease: None })
    };
    let services = declared(config).into_iter().map(|name| {
        let key = Key::Service(name.clone()).to_string();
        let value = record::encode(&Service::named(name));
        Event::Put(Kv { key, value, created: revision, modified: revision, lease: None })
    });
    let events: Vec<Event> = config.routes.iter().map(put).chain(services).collect();
    let (snapshot, _) = Snapshot::default().apply(&events, revision);
    let Ok(metrics) = Metrics::register(&prometheus::Registry::new()) else { return Vec::new() };
    let table = Table::compile(&snapshot, None, &metrics).table;
    let listeners: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| (listener.name.clone(), listener.protocol))
        .collect();
    let told = |warning: &Warning| match &warning.cause {
        // Others may have it.
        Cause::MirrorToNobody(service) => format!(
            "route {} copies its requests to {service}, which this file does not have",
            warning.route
        ),
        _ => warning.to_string(),
    };
    let routes = table.warnings(&listeners);
    let pairs = config.certificates.iter().filter_map(|pair| Some((pair, pair.load().ok()?)));
    let certificates = pairs.flat_map(|(pair, certificate)| pair.warnings(&certificate));
    routes.iter().map(told).chain(certificates).collect()
}

/// The services that the file registers or runs.
fn declared(config: &Config) -> BTreeSet<ServiceName> {
    let jobs = config.apps.iter().flat_map(|app| app.processes.values());
    let registered = config.services.iter().map(|declared| declared.service.name.clone());
    registered.chain(jobs.filter_map(|(job, _)| job.service.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_route_of_the_file_that_can_never_match_is_told() {
        let file = r#"
listeners = [{ name = "web", bind = "127.0.0.1:8080" }]
[[routes]]
name = "all"
host = "a.test"
service = "a"
[[routes]]
name = "regex"
host = "a.test"
path = "~^/x"
service = "b"
[[routes]]
name = "get"
host = "a.test"
methods = ["GET"]
service = "c"
"#;
        let config = Config::parse(Path::new("p.toml"), file).unwrap();
        let told = warnings(&config);
        assert!(told.len() == 1 && told[0].starts_with("route regex takes no request"), "{told:?}");
    }

    #[test]
    fn copies_for_a_service_that_the_file_does_not_have_are_told() {
        let check = |mirror: &str| {
            let file = format!(
                r#"
services = [{{ name = "declared" }}]
[[routes]]
name = "r"
service = "a"
mirror = {{ service = "{mirror}" }}
[[apps]]
name = "shop"
[apps.processes.web]
command = ["serve"]
service = "run"
"#
            );
            warnings(&Config::parse(Path::new("p.toml"), &file).unwrap())
        };
        assert!(check("declared").is_empty() && check("run").is_empty());
        let told = check("elsewhere");
        let expected = "route r copies its requests to elsewhere, which this file does not have";
        assert_eq!(told, [expected]);
    }
}
