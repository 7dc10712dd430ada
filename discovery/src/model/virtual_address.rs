//! Virtual addresses: one of its own for each service that asks, so that several services can be
//! reached by the same port. Which address a service gets is decided here, and stored elsewhere.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ServiceName;

/// The most virtual addresses of a cluster: each router has a socket for each, on every worker.
pub const VIRTUAL_ADDRESSES_MAX: usize = 1_000;

/// The largest IPv4 range: that of the loopback.
const V4_PREFIX_MIN: u8 = 8;
/// The largest IPv6 range: the usual one of a link.
const V6_PREFIX_MIN: u8 = 64;
/// The smallest range leaves two addresses beside its first and last.
const HOST_BITS_MIN: u8 = 2;

/// The address of a service, as every router and resolver of the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualAddress {
    /// The service.
    pub service: ServiceName,
    /// Its address.
    pub address: IpAddr,
}

/// To whom an address is given: there is one for each address that is not free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressClaim {
    /// The address.
    pub address: IpAddr,
    /// The service.
    pub service: ServiceName,
    /// Since when the service has no use for it, in milliseconds of Unix time: resolvers may still
    /// remember it, so nobody else gets it for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_ms: Option<u64>,
}

/// A range of addresses that services can be given. Its first and its last one are given to
/// nobody: they may mean the network and everybody in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VirtualRange(IpNet);

/// Why a text is no range of virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VirtualRangeError {
    /// It is no network.
    #[error("\"{0}\" is no range of addresses: expected such as \"127.64.0.0/16\"")]
    NoNetwork(String),
    /// It has bits beyond its prefix.
    #[error("{net} does not begin its range: expected {}", .net.trunc())]
    HostBits {
        /// The network.
        net: IpNet,
    },
    /// It has too many addresses, or too few.
    #[error("{net} has too {word} addresses: expected a prefix of /{min} to /{max}")]
    Size {
        /// The network.
        net: IpNet,
        /// Few or many.
        word: &'static str,
        /// The shortest prefix.
        min: u8,
        /// The longest prefix.
        max: u8,
    },
    /// No service can have an address there.
    #[error("{0} {1}")]
    Unusable(IpNet, &'static str),
}

impl VirtualRange {
    /// Reads a range such as `127.64.0.0/16` or `fd00:7::/64`.
    pub fn parse(text: &str) -> Result<Self, VirtualRangeError> {
        let no_network = |_| VirtualRangeError::NoNetwork(text.to_owned());
        let net: IpNet = text.parse().map_err(no_network)?;
        if net != net.trunc() {
            return Err(VirtualRangeError::HostBits { net });
        }
        let min = if net.addr().is_ipv4() { V4_PREFIX_MIN } else { V6_PREFIX_MIN };
        let max = net.max_prefix_len() - HOST_BITS_MIN;
        let size = |word| VirtualRangeError::Size { net, word, min, max };
        if net.prefix_len() < min {
            return Err(size("many"));
        }
        if net.prefix_len() > max {
            return Err(size("few"));
        }
        match unusable(net) {
            Some(cause) => Err(VirtualRangeError::Unusable(net, cause)),
            None => Ok(Self(net)),
        }
    }

    /// Whether it is an address of this range, be it one that can be given or not.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether a service can be given the address.
    pub fn gives(&self, address: IpAddr) -> bool {
        self.covers(address) && address != self.0.network() && address != self.last()
    }

    /// How many services can be given an address.
    pub fn capacity(&self) -> usize {
        let addresses = usize::try_from(self.addresses()).unwrap_or(usize::MAX);
        addresses.min(VIRTUAL_ADDRESSES_MAX)
    }

    /// The first free address for a service: the one that its name leads to, or the next ones
    /// after it. None, when as many are taken as can be given. `is_taken` is asked at most
    /// [`VIRTUAL_ADDRESSES_MAX`] + 1 times.
    pub fn choose(
        &self,
        service: &ServiceName,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let first = u128::from(hash(service.as_str())) % self.addresses();
        let looks = self.addresses().min(VIRTUAL_ADDRESSES_MAX as u128 + 1);
        (0..looks)
            .map(|step| self.nth((first + step) % self.addresses()))
            .find(|address| !is_taken(*address))
    }

    /// How many there are between the first and the last one.
    fn addresses(&self) -> u128 {
        let bits = self.0.max_prefix_len() - self.0.prefix_len();
        (1 << bits) - 2
    }

    /// The address of this number, counted from the second one on.
    fn nth(&self, number: u128) -> IpAddr {
        match self.0.network() {
            // The cast is exact: a range of IPv4 has less than 2^32 addresses.
            IpAddr::V4(first) => {
                IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + 1 + number as u32))
            }
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() + 1 + number)),
        }
    }

    fn last(&self) -> IpAddr {
        self.0.broadcast()
    }
}

/// Why no service can have an address of a network.
fn unusable(net: IpNet) -> Option<&'static str> {
    const V4: [(&str, &str); 3] = [
        ("0.0.0.0/8", "is of this network, which nobody can connect to"),
        ("224.0.0.0/4", "is for groups (multicast), not for connections"),
        ("240.0.0.0/4", "is reserved, and systems do not connect to it"),
    ];
    const V6: [(&str, &str); 4] = [
        ("::/96", "holds the loopback and addresses of old"),
        ("::ffff:0:0/96", "is IPv4 in disguise: write it as IPv4"),
        ("fe80::/10", "is of one link (link-local), and clients would have to name it"),
        ("ff00::/8", "is for groups (multicast), not for connections"),
    ];
    let all = if net.addr().is_ipv4() { &V4[..] } else { &V6[..] };
    let bad = |(text, _): &&(&str, &str)| {
        text.parse::<IpNet>().is_ok_and(|bad| bad.contains(&net) || net.contains(&bad))
    };
    all.iter().find(bad).map(|(_, cause)| *cause)
}

/// FNV-1a of 64 bits, with its halves mixed: the same in every version and on every machine,
/// because a service is to get the same address again after it was away.
fn hash(text: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let mixed =
        text.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    mixed ^ (mixed >> 32)
}

impl FromStr for VirtualRange {
    type Err = VirtualRangeError;
    fn from_str(text: &str) -> Result<Self, VirtualRangeError> {
        Self::parse(text)
    }
}

impl fmt::Display for VirtualRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> VirtualRange {
        VirtualRange::parse(text).unwrap()
    }

    fn service(number: usize) -> ServiceName {
        ServiceName::parse(&format!("db-{number}")).unwrap()
    }

    #[test]
    fn a_range_is_a_network_of_some_size_where_connections_can_go() {
        for good in ["127.64.0.0/16", "127.0.0.0/8", "10.9.0.0/30", "fd00:7::/64", "fd00::/126"] {
            assert_eq!(range(good).to_string(), good);
        }
        for (bad, expected) in [
            ("", "is no range of addresses"),
            ("127.64.0.0", "is no range of addresses"),
            ("127.64.0.1/16", "does not begin its range: expected 127.64.0.0/16"),
            ("10.0.0.0/31", "10.0.0.0/31 has too few addresses: expected a prefix of /8 to /30"),
            ("126.0.0.0/7", "has too many addresses"),
            ("fd00::/63", "has too many addresses: expected a prefix of /64 to /126"),
            ("fd00::/127", "has too few addresses"),
            ("0.0.0.0/8", "is of this network"),
            ("224.1.0.0/16", "for groups"),
            ("255.255.255.0/24", "is reserved"),
            ("fe80::/64", "of one link"),
            ("ff02::/64", "for groups"),
            ("::/64", "holds the loopback"),
            ("::ffff:7f40:0/112", "IPv4 in disguise"),
        ] {
            let error = VirtualRange::parse(bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }

    #[test]
    fn the_same_name_leads_to_the_same_address_in_every_version() {
        let name = ServiceName::parse("db").unwrap();
        for (net, expected) in [
            ("127.64.0.0/16", "127.64.231.227"),
            ("10.9.8.0/24", "10.9.8.63"),
            ("fd00:7::/64", "fd00:7::891:4e07:bdaa:efe5"),
        ] {
            let chosen = range(net).choose(&name, |_| false).unwrap();
            assert_eq!(chosen, expected.parse::<IpAddr>().unwrap(), "{net}");
        }
    }

    #[test]
    fn every_address_of_a_small_range_is_given_and_none_twice() {
        let range = range("10.9.8.0/28");
        let mut given = BTreeMap::new();
        for number in 0..range.capacity() {
            let address = range.choose(&service(number), |a| given.contains_key(&a)).unwrap();
            given.insert(address, number);
        }
        assert_eq!(given.len(), 14);
        assert_eq!(range.choose(&service(99), |a| given.contains_key(&a)), None);
    }

    #[test]
    fn the_search_ends_in_a_large_range_too() {
        let asked = std::cell::Cell::new(0);
        let is_taken = |_| {
            asked.set(asked.get() + 1);
            true
        };
        assert_eq!(range("fd00:7::/64").choose(&service(1), is_taken), None);
        assert_eq!(asked.get(), VIRTUAL_ADDRESSES_MAX + 1);
        assert_eq!(range("127.0.0.0/8").capacity(), VIRTUAL_ADDRESSES_MAX);
    }

    fn nets() -> impl Strategy<Value = VirtualRange> {
        let v4 = (8u8..=30, 1u8..=223)
            .prop_map(|(prefix, first)| (IpAddr::from([first, 9, 8, 4]), prefix));
        let v6 = (64u8..=126).prop_map(|prefix| ("fd00:7::a:b:c".parse().unwrap(), prefix));
        let net = |(addr, prefix)| VirtualRange(IpNet::new(addr, prefix).unwrap().trunc());
        prop_oneof![v4, v6].prop_map(net)
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_stable_free_within_the_range_and_neither_end_of_it(
            range in nets(),
            names in prop::collection::btree_set("[a-z][a-z0-9-]{0,20}[a-z]", 1..60),
        ) {
            let mut given: BTreeMap<IpAddr, ServiceName> = BTreeMap::new();
            for name in names {
                let name = ServiceName::parse(&name).unwrap();
                let chosen = range.choose(&name, |address| given.contains_key(&address));
                let again = range.choose(&name, |address| given.contains_key(&address));
                prop_assert_eq!(chosen, again);
                let Some(chosen) = chosen else {
                    prop_assert_eq!(given.len(), range.capacity());
                    continue;
                };
                prop_assert!(range.gives(chosen), "{}", chosen);
                prop_assert!(range.0.hosts().next().is_some());
                prop_assert!(chosen != range.0.network() && chosen != range.0.broadcast());
                prop_assert_eq!(given.insert(chosen, name), None);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(range) = VirtualRange::parse(&text) {
                prop_assert_eq!(VirtualRange::parse(&range.to_string()), Ok(range));
            }
        }
    }
}
