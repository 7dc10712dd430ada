//! What keeps a client with an instance, as a number. The same in every process: routers of a
//! cluster have to agree. Whoever chooses its keys chooses its instance; that is the purpose.

use std::net::IpAddr;
use std::num::NonZeroU64;

use portolan_discovery::model::HashBy;

use super::ask::Key;
use super::weights::mix;
use crate::cookie::values;
use crate::table::RequestView;

/// The key of who asks; none where a request does not have what is hashed.
pub(super) fn key(by: &HashBy, who: Key<'_>) -> Option<NonZeroU64> {
    let hash = match (by, who) {
        (_, Key::None) => None,
        (_, Key::Again(hash)) => Some(hash),
        (HashBy::Source, Key::Request(_, source) | Key::Source(source)) => Some(of_addr(source)),
        (HashBy::Header(name), Key::Request(request, _)) => {
            let mut hash = None;
            request.headers.any(name.as_str(), &mut |value| {
                hash = Some(of(value));
                true
            });
            hash
        }
        (HashBy::Cookie(name), Key::Request(request, _)) => of_cookie(name, request),
        (HashBy::Header(_) | HashBy::Cookie(_), Key::Source(_)) => None,
    };
    hash.map(|hash| NonZeroU64::new(hash).unwrap_or(NonZeroU64::MAX))
}

fn of_addr(addr: IpAddr) -> u64 {
    match addr {
        IpAddr::V4(addr) => of(&addr.octets()),
        IpAddr::V6(addr) => of(&addr.octets()),
    }
}

/// Of the first cookie with this name; there may be several lines.
fn of_cookie(name: &str, request: &RequestView<'_>) -> Option<u64> {
    let mut hash = None;
    request.headers.any("cookie", &mut |line| {
        hash = values(line, name.as_bytes()).next().map(of);
        hash.is_some()
    });
    hash
}

/// FNV-1a, mixed: its own low bits follow the last bytes.
pub(super) fn of(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    mix(bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)))
}

/// A number of two, the order of which counts.
pub(super) fn join(first: u64, second: u64) -> u64 {
    mix(first.rotate_left(23) ^ second)
}

#[cfg(test)]
mod tests {
    use portolan_discovery::model::ListenerName;

    use super::*;

    fn hash(by: &str, lines: &[(&str, &str)]) -> Option<NonZeroU64> {
        let listener = ListenerName::parse("main").unwrap();
        let headers: Vec<_> =
            lines.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let view = RequestView { headers: &headers, ..RequestView::get(&listener, "a.test", "/") };
        key(&by.parse().unwrap(), Key::Request(&view, [127, 0, 0, 1].into()))
    }

    #[test]
    fn a_key_is_the_value_of_what_is_named() {
        let alone = hash("cookie:ID", &[("Cookie", "ID=a")]);
        assert!(alone.is_some());
        for lines in [
            &[("cookie", "x=1; ID=a; y=2")][..],
            &[("Cookie", "x=1"), ("Cookie", "ID=a")],
            &[("Cookie", "XID=z; ID=a ;ID=b")],
        ] {
            assert_eq!(hash("cookie:ID", lines), alone, "{lines:?}");
        }
        assert_ne!(hash("cookie:ID", &[("Cookie", "ID=b")]), alone);
        for none in ["id=a", "ID", "IDx=a", ""] {
            assert_eq!(hash("cookie:ID", &[("Cookie", none)]), None, "{none}");
        }
        assert_eq!(hash("header:x-user", &[("X-User", "a")]), alone);
        assert_eq!(hash("header:x-user", &[("X-Users", "a")]), None);
        assert_eq!(hash("source", &[]), hash("source", &[("X-User", "a")]));
    }

    #[test]
    fn a_connection_has_only_its_source_and_a_retry_its_first_key() {
        let source = Key::Source([127, 0, 0, 1].into());
        assert_eq!(key(&HashBy::Source, source), hash("source", &[]));
        assert_eq!(key(&"header:x-user".parse().unwrap(), source), None);
        assert_eq!(key(&HashBy::Source, Key::Again(7)), NonZeroU64::new(7));
        assert_eq!(key(&HashBy::Source, Key::None), None);
    }
}
