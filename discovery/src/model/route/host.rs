//! Hosts, and the patterns of hosts that routes are for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::name::NAME_BYTES_MAX;

/// RFC 1035 §2.3.4: a name has at most 255 octets, 253 as text.
pub const HOST_BYTES_MAX: usize = 253;

/// A host as requests name it: lower-case, no port, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

/// Why a text is not a host or a pattern of hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no host: expected a name such as www.example.org, *.example.org, or * for any")]
pub struct HostError(pub String);

impl Host {
    /// Lower-cases `text` and checks that it is a name or an IP address, without a port.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if is_bracketed_v6(&lower) || is_name(&lower) {
            Ok(Self(lower))
        } else {
            Err(HostError(text.to_owned()))
        }
    }

    /// The host as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = HostError;
    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Host {
    type Error = HostError;
    fn try_from(text: String) -> Result<Self, HostError> {
        Self::parse(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> String {
        host.0
    }
}

fn is_bracketed_v6(text: &str) -> bool {
    text.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= HOST_BYTES_MAX
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= NAME_BYTES_MAX
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// Which hosts a route is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// Every host that no other pattern takes: `*`.
    Any,
    /// One host.
    Exact(Host),
    /// Every host that ends in `.` and this, at any depth: `*.example.org`.
    Wildcard(Host),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(host) => f.write_str(&host.0),
            Self::Wildcard(host) => write!(f, "*.{}", host.0),
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        match text.strip_prefix("*.") {
            _ if text == "*" => Ok(Self::Any),
            Some(suffix) => {
                Ok(Self::Wildcard(Host::parse(suffix).map_err(|_| HostError(text.to_owned()))?))
            }
            None => Ok(Self::Exact(Host::parse(text)?)),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostError;
    fn try_from(text: String) -> Result<Self, HostError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> String {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_pattern_reads_as_it_is_written() {
        for (text, shown) in [
            ("*", "*"),
            ("WWW.Example.org.", "www.example.org"),
            ("*.example.org", "*.example.org"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), shown);
        }
        for bad in ["", ".", "*.", "a..b", "a.*", "a:80", "a/b", "[::1", "**.a", &"a.".repeat(200)]
        {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }
}
