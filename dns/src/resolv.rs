//! Reads `resolv.conf`. Knows nothing of who follows the file and who is asked then.

use std::net::{IpAddr, SocketAddr};

/// The port of DNS.
pub(crate) const PORT: u16 = 53;
/// glibc takes three; one more than that helps nobody who waits.
pub(crate) const UPSTREAMS_MAX: usize = 8;
/// A longer file was not written for a resolver.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 10;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolv {
    /// The resolvers, in the file's order, each once.
    pub(crate) upstreams: Vec<SocketAddr>,
    /// `nameserver` lines that name no address.
    pub(crate) unread: Vec<String>,
}

impl Resolv {
    /// Reads the `nameserver` lines of `text`; all others are for stub resolvers.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut resolv = Self::default();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("nameserver") {
                continue;
            }
            let word = words.next().unwrap_or_default();
            match address(word) {
                Some(addr) if resolv.upstreams.contains(&addr) => {}
                Some(addr) if resolv.upstreams.len() < UPSTREAMS_MAX => {
                    resolv.upstreams.push(addr);
                }
                _ => resolv.unread.push(word.to_owned()),
            }
        }
        resolv
    }
}

/// `ADDRESS`, or `[ADDRESS]:PORT` as OpenBSD writes it. A zone index has to be a number.
fn address(word: &str) -> Option<SocketAddr> {
    if let Ok(ip) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, PORT));
    }
    if let Some((ip, port)) = word.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        let port = port.parse().ok()?;
        return match ip.parse::<IpAddr>() {
            Ok(ip) => Some(SocketAddr::new(ip, port)),
            Err(_) => word.parse().ok(),
        };
    }
    format!("[{word}]:{PORT}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines_are_read_and_the_rest_is_not() {
        let text = b"# nameserver 192.0.2.9\n; nameserver 192.0.2.9\nsearch example.org\n\
            nameserver 192.0.2.1\n  nameserver\t2001:db8::1 # a comment\nnameserver 192.0.2.1\n\
            nameserver [192.0.2.2]:5353\nnameserver [2001:db8::2]:5353\nnameserver fe80::1%2\n\
            nameserver fe80::1%eth0\nnameserver example.org\nnameserver\noptions ndots:5\n\xff\n";
        let resolv = Resolv::parse(text);
        let expected = [
            "192.0.2.1:53",
            "[2001:db8::1]:53",
            "192.0.2.2:5353",
            "[2001:db8::2]:5353",
            "[fe80::1%2]:53",
        ];
        assert_eq!(resolv.upstreams, expected.map(|text| text.parse().unwrap()));
        assert_eq!(resolv.unread, ["fe80::1%eth0", "example.org", ""]);
    }

    #[test]
    fn a_long_list_is_cut() {
        let text: String = (0..20).map(|n| format!("nameserver 192.0.2.{n}\n")).collect();
        let resolv = Resolv::parse(text.as_bytes());
        assert_eq!((resolv.upstreams.len(), resolv.unread.len()), (UPSTREAMS_MAX, 12));
    }
}
