//! An endless sequence of changes, after any of which every service takes traffic.

use std::net::SocketAddr;

use portolan_discovery::model::{
    Backend, Event, Health, HttpRule, Key, Phase, Revision, Route, RouteName, Rule, ServiceName,
    Weight,
};

use super::instance::Instance;
use super::rig::{instance_with, route, routed, service, without};

/// Paths of the load that have a route of their own at times.
pub const PATHS: usize = 20;
/// Routes of hosts that nobody asks for.
const STRANGERS: usize = 500;

/// A source of changes; the same for every run.
pub struct Changes {
    random: fastrand::Rng,
    services: [(&'static str, Vec<SocketAddr>); 3],
}

impl Changes {
    pub fn new(web: &[Instance], ws: &[Instance], echo: &[Instance]) -> Self {
        let addrs = |instances: &[Instance]| instances.iter().map(|i| i.addr).collect();
        Self {
            random: fastrand::Rng::with_seed(7),
            services: [("web", addrs(web)), ("ws", addrs(ws)), ("echo", addrs(echo))],
        }
    }

    pub fn next(&mut self) -> Event {
        match self.random.u32(..10) {
            0..3 => self.instance(),
            3..5 => self.weight(),
            5..7 => self.path(),
            7 => {
                let name = self.services[self.random.usize(..3)].0;
                service(name, true)
            }
            _ => self.stranger(),
        }
    }

    /// Any instance but the first, which keeps its service alive.
    fn some(&mut self) -> (&'static str, String, SocketAddr) {
        let (service, addrs) = &self.services[self.random.usize(..3)];
        let number = self.random.usize(1..addrs.len());
        (service, format!("i{number}"), addrs[number])
    }

    fn instance(&mut self) -> Event {
        let (service, id, addr) = self.some();
        let kind = self.random.u32(..4);
        if kind == 0 {
            return without(service, &id);
        }
        instance_with(service, &id, addr, |record| match kind {
            1 => record.health = Health::Down,
            2 => record.phase = Phase::Draining,
            _ => {}
        })
    }

    fn weight(&mut self) -> Event {
        let (service, id, addr) = self.some();
        let weight = Weight(self.random.u16(1..=200).try_into().unwrap());
        instance_with(service, &id, addr, |record| record.weight = weight)
    }

    /// A path of the load gets a route, another one, or loses it to the route of all paths.
    fn path(&mut self) -> Event {
        let number = self.random.usize(..PATHS);
        self.route(format!("path-{number}"), "*", format!("/r{number}"))
    }

    fn stranger(&mut self) -> Event {
        let number = self.random.usize(..STRANGERS);
        self.route(format!("stranger-{number}"), &format!("h{number}.test"), "/".to_owned())
    }

    fn route(&mut self, name: String, host: &str, path: String) -> Event {
        let name = RouteName::parse(&name).unwrap();
        if self.random.bool() {
            let key = Key::Route(name).to_string();
            return Event::Delete { key, revision: Revision(1) };
        }
        let weight = Weight(self.random.u16(1..=100).try_into().unwrap());
        routed(&Route {
            name,
            rule: Rule::Http(HttpRule::new(host.parse().unwrap(), path.parse().unwrap())),
            backends: vec![Backend {
                service: ServiceName::parse("web").unwrap(),
                weight,
                leader: false,
            }],
            ..route("/", "web")
        })
    }
}
