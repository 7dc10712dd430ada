//! Where each record lies in the store. The one place that spells keys.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{
    AppName, CertificateName, DeploymentId, InstanceId, JobId, NodeName, ReleaseId, RouteName,
    Scope, ServiceName,
};

/// Everything that router and resolver are made from: one ordered watch.
pub const DATA: &str = "/portolan/v1/d/";
/// Everything of the controller and the agents.
pub const CONTROL: &str = "/portolan/v1/c/";

/// The key of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A node; carries its lease.
    Node(NodeName),
    /// A service.
    Service(ServiceName),
    /// An instance.
    Instance(ServiceName, InstanceId),
    /// An override.
    Override(Scope),
    /// A route.
    Route(RouteName),
    /// A certificate with its key.
    Certificate(CertificateName),
    /// The virtual address of a service. Written only together with its claim.
    Virtual(ServiceName),
    /// The keys for TLS tickets.
    Tickets,
    /// An app.
    App(AppName),
    /// A release of an app.
    Release(AppName, ReleaseId),
    /// The formation of an app.
    Formation(AppName),
    /// A job's placement on a node.
    Placement(NodeName, JobId),
    /// A job's status, as its node says.
    Job(NodeName, JobId),
    /// A deployment of an app.
    Deployment(AppName, DeploymentId),
    /// To whom a virtual address is given.
    Claim(IpAddr),
    /// The controller that leads; carries its lease.
    Leader,
    /// What a router has acknowledged; carries its lease.
    Ack(NodeName),
}

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no record lies at \"{0}\"")]
pub struct KeyError(pub String);

impl Key {
    /// The prefix of all instances of a service.
    pub fn instances_of(service: &ServiceName) -> String {
        format!("{DATA}i/{service}/")
    }

    /// The prefix of all routes.
    pub fn routes() -> String {
        format!("{DATA}r/")
    }

    /// Whether what lies at `key`, good or not, may hold a secret that is not to be shown.
    pub fn is_secret(key: &str) -> bool {
        key.strip_prefix(DATA)
            .is_some_and(|rest| rest.starts_with("cert/") || rest.starts_with("tickets"))
    }

    /// The prefix of all releases of an app.
    pub fn releases_of(app: &AppName) -> String {
        format!("{CONTROL}rel/{app}/")
    }

    /// The prefix of all placements on a node.
    pub fn placements_on(node: &NodeName) -> String {
        format!("{CONTROL}place/{node}/")
    }

    /// The prefix of all job statuses of a node.
    pub fn jobs_on(node: &NodeName) -> String {
        format!("{CONTROL}job/{node}/")
    }

    /// The prefix of what all routers have acknowledged.
    pub fn acks() -> String {
        format!("{CONTROL}ack/")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "{DATA}n/{node}"),
            Self::Service(service) => write!(f, "{DATA}s/{service}"),
            Self::Instance(service, id) => write!(f, "{DATA}i/{service}/{id}"),
            Self::Override(scope) => write!(f, "{DATA}o/{scope}"),
            Self::Route(route) => write!(f, "{DATA}r/{route}"),
            Self::Certificate(name) => write!(f, "{DATA}cert/{name}"),
            Self::Virtual(service) => write!(f, "{DATA}v/{service}"),
            Self::Tickets => write!(f, "{DATA}tickets"),
            Self::App(app) => write!(f, "{CONTROL}app/{app}"),
            Self::Release(app, id) => write!(f, "{CONTROL}rel/{app}/{id}"),
            Self::Formation(app) => write!(f, "{CONTROL}form/{app}"),
            Self::Placement(node, job) => write!(f, "{CONTROL}place/{node}/{job}"),
            Self::Job(node, job) => write!(f, "{CONTROL}job/{node}/{job}"),
            Self::Deployment(app, id) => write!(f, "{CONTROL}dep/{app}/{id}"),
            Self::Claim(address) => write!(f, "{CONTROL}vip/{address}"),
            Self::Leader => write!(f, "{CONTROL}lead"),
            Self::Ack(router) => write!(f, "{CONTROL}ack/{router}"),
        }
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse(text).ok_or_else(|| KeyError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Key> {
    if let Some(rest) = text.strip_prefix(DATA) {
        if rest == "tickets" {
            return Some(Key::Tickets);
        }
        let (kind, rest) = rest.split_once('/')?;
        return Some(match kind {
            "n" => Key::Node(rest.parse().ok()?),
            "s" => Key::Service(rest.parse().ok()?),
            "i" => {
                let (service, id) = rest.split_once('/')?;
                Key::Instance(service.parse().ok()?, id.parse().ok()?)
            }
            "o" => Key::Override(rest.parse().ok()?),
            "r" => Key::Route(rest.parse().ok()?),
            "cert" => Key::Certificate(rest.parse().ok()?),
            "v" => Key::Virtual(rest.parse().ok()?),
            _ => return None,
        });
    }
    let rest = text.strip_prefix(CONTROL)?;
    if rest == "lead" {
        return Some(Key::Leader);
    }
    let (kind, rest) = rest.split_once('/')?;
    Some(match (kind, rest.split_once('/')) {
        ("app", None) => Key::App(rest.parse().ok()?),
        ("form", None) => Key::Formation(rest.parse().ok()?),
        ("ack", None) => Key::Ack(rest.parse().ok()?),
        ("vip", None) => Key::Claim(rest.parse().ok()?),
        ("rel", Some((app, id))) => Key::Release(app.parse().ok()?, id.parse().ok()?),
        ("place", Some((node, job))) => Key::Placement(node.parse().ok()?, job.parse().ok()?),
        ("job", Some((node, job))) => Key::Job(node.parse().ok()?, job.parse().ok()?),
        ("dep", Some((app, id))) => Key::Deployment(app.parse().ok()?, id.parse().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_as_it_is_written() {
        let service = ServiceName::parse("web").unwrap();
        let id = InstanceId::parse("web-1").unwrap();
        let node = NodeName::parse("n1").unwrap();
        let app = AppName::parse("shop").unwrap();
        let job = JobId::parse("shop-web-1").unwrap();
        for key in [
            Key::Node(node.clone()),
            Key::Service(service.clone()),
            Key::Instance(service.clone(), id.clone()),
            Key::Override(Scope::Node(node.clone())),
            Key::Override(Scope::Service(service.clone())),
            Key::Override(Scope::Instance(service.clone(), id)),
            Key::Virtual(service),
            Key::Claim("127.64.3.7".parse().unwrap()),
            Key::Claim("fd00:7::1".parse().unwrap()),
            Key::Route(RouteName::parse("r").unwrap()),
            Key::Certificate(CertificateName::parse("web").unwrap()),
            Key::Tickets,
            Key::App(app.clone()),
            Key::Release(app.clone(), ReleaseId::parse("v1").unwrap()),
            Key::Formation(app.clone()),
            Key::Placement(node.clone(), job.clone()),
            Key::Job(node.clone(), job),
            Key::Deployment(app, DeploymentId::parse("d1").unwrap()),
            Key::Leader,
            Key::Ack(node),
        ] {
            assert_eq!(key.to_string().parse::<Key>().unwrap(), key, "{key}");
        }
    }

    #[test]
    fn a_stranger_s_key_is_refused() {
        for bad in
            ["", "/portolan/v1/d/", "/portolan/v1/d/n/", "/portolan/v1/d/i/web", "/portolan/v1/x/a"]
        {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }
}
