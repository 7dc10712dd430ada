//! From a name to what the zone has under it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use imbl::OrdSet;
use portolan_discovery::model::ServiceName;

use super::{Members, Owner, Zone};
use crate::wire::Name;

/// The deepest names of the zone, such as `ID.SERVICE.inst`, have this many labels below the apex.
const DEPTH_MAX: usize = 3;

/// What is under a name.
#[derive(Debug)]
pub(crate) enum Found<'z> {
    /// The name is somebody else's.
    Outside,
    /// The name is the zone's and does not exist.
    Missing,
    /// The name exists and has nothing: names below it do, or nobody leads at the moment.
    Empty,
    /// The zone itself.
    Apex,
    /// A service, or the zone's name server: leads to the router.
    Proxy,
    /// A service with an address of its own, which leads to the router as well.
    Virtual(IpAddr),
    /// The instances of a service.
    Instances(&'z Members),
    /// One instance.
    Instance(IpAddr),
    /// A node.
    Node(IpAddr),
    /// The instances of a service with their ports.
    Targets(&'z Members),
    /// A service with an address and a port of its own.
    VirtualTarget(&'z ServiceName, SocketAddr),
    /// Who has the address that the name stands for.
    Reverse(&'z OrdSet<Owner>),
}

impl Zone {
    /// What is under `name`, which is in lower case.
    pub(crate) fn find(&self, name: &Name) -> Found<'_> {
        let wire = name.wire();
        let apex = self.config.name.wire();
        let Some(below) = wire.strip_suffix(apex).and_then(labels) else {
            return match address(wire).and_then(|addr| self.reverse.get(&addr)) {
                Some(owners) => Found::Reverse(owners),
                None => Found::Outside,
            };
        };
        match below {
            Labels { count: 0, .. } => Found::Apex,
            Labels { count: 1, parts: [only, ..] } => self.find_one(only),
            Labels { count: 2, parts: [first, second, ..] } => self.find_two(first, second),
            Labels { count: 3, parts: [service, b"_tcp", b"inst"] } => service
                .strip_prefix(b"_")
                .and_then(|service| self.members(service))
                .map_or(Found::Missing, Found::Targets),
            Labels { count: 3, parts: [id, service, b"inst"] } => self
                .members(service)
                .zip(std::str::from_utf8(id).ok())
                .and_then(|(members, id)| members.addr_of(id))
                .map_or(Found::Missing, Found::Instance),
            _ => Found::Missing,
        }
    }

    fn find_one(&self, label: &[u8]) -> Found<'_> {
        if let Some(members) = self.members(label) {
            return match members.virtual_addr() {
                Some(addr) => Found::Virtual(addr.ip()),
                // It leads nowhere yet; the router's own address would be remembered for longer.
                None if members.wants_virtual() => Found::Empty,
                None => Found::Proxy,
            };
        }
        match label {
            b"inst" | b"node" | b"dns" | b"_tcp" => Found::Empty,
            _ => Found::Missing,
        }
    }

    fn find_two(&self, first: &[u8], second: &[u8]) -> Found<'_> {
        let found =
            match second {
                b"inst" if first == b"_tcp" => Some(Found::Empty),
                b"inst" => self.members(first).map(Found::Instances),
                b"_tcp" => first.strip_prefix(b"_").and_then(|service| self.members(service)).map(
                    |members| match members.virtual_addr() {
                        Some(addr) => Found::VirtualTarget(members.service(), addr),
                        None => Found::Targets(members),
                    },
                ),
                b"node" => std::str::from_utf8(first)
                    .ok()
                    .and_then(|node| self.snapshot.node(node))
                    .map(|node| Found::Node(node.addr)),
                b"dns" if first == b"ns" => Some(Found::Proxy),
                // Behind the others: `leader` may be the name of a service or a node, too.
                _ if first == b"leader" => self
                    .members(second)
                    .map(|members| members.leader.map_or(Found::Empty, Found::Instance)),
                _ => None,
            };
        found.unwrap_or(Found::Missing)
    }

    fn members(&self, service: &[u8]) -> Option<&Members> {
        self.services.get(std::str::from_utf8(service).ok()?).map(|members| &**members)
    }
}

struct Labels<'n> {
    count: usize,
    parts: [&'n [u8]; DEPTH_MAX],
}

/// The labels before the zone's own; `None` when the zone's bytes did not begin at a label.
fn labels(mut below: &[u8]) -> Option<Labels<'_>> {
    let mut found = Labels { count: 0, parts: [b""; DEPTH_MAX] };
    while let Some((length, rest)) = below.split_first() {
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        if let Some(part) = found.parts.get_mut(found.count) {
            *part = label;
        }
        found.count += 1;
        below = rest;
    }
    Some(found)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn address(wire: &[u8]) -> Option<IpAddr> {
    if let Some(below) = wire.strip_suffix(b"\x07in-addr\x04arpa\x00") {
        let mut octets = [0; 4];
        let mut rest = below;
        for octet in octets.iter_mut().rev() {
            let (length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            *octet = decimal(label)?;
            rest = after;
        }
        return rest.is_empty().then(|| IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let below = wire.strip_suffix(b"\x03ip6\x04arpa\x00")?;
    let (nibbles, []) = below.as_chunks::<2>() else { return None };
    let nibbles: &[[u8; 2]; 32] = nibbles.try_into().ok()?;
    let mut bits = 0;
    for [length, digit] in nibbles.iter().rev() {
        let digit = char::from(*digit).to_digit(16).filter(|_| *length == 1)?;
        bits = bits << 4 | u128::from(digit);
    }
    Some(IpAddr::V6(Ipv6Addr::from(bits)))
}

/// 0 to 255 as it is written in a reverse name: no sign, no zero in front.
fn decimal(label: &[u8]) -> Option<u8> {
    let plain = label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label[0] != b'0');
    std::str::from_utf8(label).ok().filter(|_| plain && !label.is_empty())?.parse().ok()
}
