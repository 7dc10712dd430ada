//! Snapshots from a few lines of text.

use std::net::IpAddr;

use portolan_discovery::model::{Event, Key, Kv, Revision};
use portolan_discovery::snapshot::Snapshot;
use portolan_dns::{Zone, ZoneConfig};

/// A zone's configuration and its records.
#[derive(Debug, Clone, Default)]
pub struct Fixture {
    pub config: ZoneConfig,
    pub snapshot: Snapshot,
}

impl Fixture {
    /// Reads lines such as `instance web a 10.0.0.1:80 up 100`, `service idle`,
    /// `service db asks 5432`, `virtual db 127.64.0.7`, `node n1 10.0.0.1`, `zone corp.test` and
    /// `proxy 10.0.0.9 fd00::9`.
    pub fn parse(text: &str) -> Self {
        let mut fixture = Self::default();
        text.lines().for_each(|line| fixture.add(line));
        fixture
    }

    pub fn zone(&self) -> Zone {
        Zone::compile(&self.snapshot, None, &self.config)
    }

    /// Adds one line.
    pub fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [] => {}
            ["zone", zone] => self.config.name = zone.parse().unwrap(),
            ["proxy", ref addrs @ ..] => {
                self.config.proxy_addrs =
                    addrs.iter().map(|addr| addr.parse::<IpAddr>().unwrap()).collect();
            }
            ["service", name] => {
                let key = Key::Service(name.parse().unwrap());
                self.put(&key, format!(r#"{{"name":"{name}"}}"#));
            }
            ["service", name, "asks", port] => {
                let key = Key::Service(name.parse().unwrap());
                let value =
                    format!(r#"{{"name":"{name}","protocol":"tcp","virtual_port":{port}}}"#);
                self.put(&key, value);
            }
            ["virtual", name, addr] => {
                let key = Key::Virtual(name.parse().unwrap());
                self.put(&key, format!(r#"{{"service":"{name}","address":"{addr}"}}"#));
            }
            ["node", name, addr] => {
                let key = Key::Node(name.parse().unwrap());
                let value = format!(
                    r#"{{"name":"{name}","addr":"{addr}","capacity":{{}},"runs_jobs":true,
                    "ports":{{"first":20000,"last":20009}},"version":"1","since_ms":0}}"#
                );
                self.put(&key, value);
            }
            ["instance", service, id, addr, ref rest @ ..] => {
                let key = Key::Instance(service.parse().unwrap(), id.parse().unwrap());
                let health = rest.first().copied().unwrap_or("up");
                let weight = rest.get(1).copied().unwrap_or("100");
                let (health, phase) = match health {
                    "draining" => ("up", "draining"),
                    other => (other, "active"),
                };
                let value = format!(
                    r#"{{"service":"{service}","id":"{id}","node":"n1","addr":"{addr}",
                    "weight":{weight},"health":"{health}","phase":"{phase}","origin":"api",
                    "since_ms":0}}"#
                );
                self.put(&key, value);
            }
            _ => panic!("no fixture: {line}"),
        }
    }

    fn put(&mut self, key: &Key, value: String) {
        let revision = Revision(self.snapshot.revision.0 + 1);
        let event = Event::Put(Kv {
            key: key.to_string(),
            value: value.into(),
            created: revision,
            modified: revision,
            lease: None,
        });
        let (next, rejected) = self.snapshot.apply(&[event], revision);
        assert_eq!(rejected, []);
        self.snapshot = next;
    }
}
