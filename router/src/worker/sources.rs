//! How many connections each source has to one worker, when that is limited. Knows no sockets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};

/// RFC 6177: a site gets at least a /64, so a single machine has all addresses of one.
const V6_SOURCE_MASK: u128 = u128::MAX << 64;

/// Whose connections count together: an IPv4 address or an IPv6 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    fn of(peer: IpAddr) -> Self {
        Self(match peer {
            IpAddr::V4(_) => peer,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & V6_SOURCE_MASK).into(),
        })
    }
}

/// The connections of one worker by source. Its keys are chosen by strangers, so its hasher is
/// the standard library's.
#[derive(Debug)]
pub(crate) struct Sources {
    max: usize,
    counts: RefCell<HashMap<Source, usize>>,
}

impl Sources {
    /// Each source may have `max`.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, counts: RefCell::default() }
    }

    /// Counts one connection more; none if the source has as many as it may have.
    pub(crate) fn enter(&self, peer: IpAddr) -> Option<Source> {
        let source = Source::of(peer);
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(source).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(source)
    }

    /// A connection of the source has ended.
    pub(crate) fn leave(&self, source: Source) {
        if let Entry::Occupied(mut count) = self.counts.borrow_mut().entry(source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_share_and_leaves_nothing_behind() {
        let sources = Sources::new(2);
        let (a, b): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap());
        let first = sources.enter(a).unwrap();
        let second = sources.enter(a).unwrap();
        assert_eq!(sources.enter(a), None);
        let other = sources.enter(b).unwrap();
        sources.leave(first);
        assert!(sources.enter(a).is_some());
        for source in [second, second, other] {
            sources.leave(source);
        }
        assert!(sources.counts.borrow().is_empty());
    }

    #[test]
    fn one_machine_cannot_be_many_sources_by_its_ipv6_addresses() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("127.0.0.1"), of("127.0.0.2"));
    }
}
