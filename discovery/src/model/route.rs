//! Routes: rules that lead from a listener to services.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ListenerName, Origin, RouteName, ServiceName, Weight, millis};

/// RFC 1035 §2.3.4: a name has at most 255 octets, 253 as text.
pub const HOST_BYTES_MAX: usize = 253;
/// The longest path of a rule, in bytes.
pub const PATH_BYTES_MAX: usize = 1024;

/// A host as requests name it: lower-case, no port, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
                && label.len() <= super::name::NAME_BYTES_MAX
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

/// Which paths a route is for. Compared with the normalised path of the request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PathPattern {
    /// This path and no other: `=/login`.
    Exact(String),
    /// This path and all below it, by whole segments: `/api` takes `/api` and `/api/x` but not
    /// `/apis`. Has no trailing slash; `/` takes every path.
    Prefix(String),
}

/// Why a text is not a path pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no path: expected a prefix such as /api, or =/login for one exact path, in visible ASCII without ? # * or empty, . and .. segments"
)]
pub struct PathError(pub String);

impl PathPattern {
    /// Every path.
    pub fn all() -> Self {
        Self::Prefix("/".to_owned())
    }

    /// The path without the sign for exact ones.
    pub fn path(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "={path}"),
            Self::Prefix(path) => f.write_str(path),
        }
    }
}

impl FromStr for PathPattern {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let (exact, path) = match text.strip_prefix('=') {
            Some(path) => (true, path),
            None => (false, text),
        };
        let path = if exact || path == "/" { path } else { path.strip_suffix('/').unwrap_or(path) };
        let segments_fit = path == "/"
            || path.strip_prefix('/').is_some_and(|rest| {
                let rest = if exact { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
                rest.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
            });
        let bytes_fit =
            path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*'));
        if !segments_fit || !bytes_fit || text.contains("//") || path.len() > PATH_BYTES_MAX {
            return Err(PathError(text.to_owned()));
        }
        Ok(if exact { Self::Exact(path.to_owned()) } else { Self::Prefix(path.to_owned()) })
    }
}

impl TryFrom<String> for PathPattern {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> String {
        pattern.to_string()
    }
}

/// The waits of one route; `None` takes the router's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTimeouts {
    /// Until the first byte of the response.
    #[serde(
        default,
        with = "millis::option",
        rename = "first_byte_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub first_byte: Option<Duration>,
    /// The whole request with its retries.
    #[serde(
        default,
        with = "millis::option",
        rename = "request_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub request: Option<Duration>,
    /// Without a byte in either direction of a tunnel or a TCP connection.
    #[serde(
        default,
        with = "millis::option",
        rename = "idle_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub idle: Option<Duration>,
}

/// The rule of an HTTP route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRule {
    /// Which hosts.
    pub host: HostPattern,
    /// Which paths.
    pub path: PathPattern,
}

/// What a route takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Requests by host and path.
    Http(HttpRule),
    /// Every connection of the route's listener.
    Tcp,
}

/// A service that a route leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The service.
    pub service: ServiceName,
    /// Its share of the route's requests.
    #[serde(default)]
    pub weight: Weight,
}

/// A rule that leads from a listener to services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The name.
    pub name: RouteName,
    /// The listener; none is every HTTP listener. A TCP route always has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<ListenerName>,
    /// What it takes.
    pub rule: Rule,
    /// Where it leads; at least one.
    pub backends: Vec<Backend>,
    /// Its waits.
    #[serde(default)]
    pub timeouts: RouteTimeouts,
    /// The largest request body in bytes; none is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes_max: Option<u64>,
    /// Who wrote the record, and so who may change or delete it.
    #[serde(default)]
    pub origin: Origin,
    /// When it was made, in milliseconds of Unix time: of two equal rules the older wins.
    pub created_ms: u64,
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

    #[test]
    fn a_path_pattern_reads_as_it_is_written() {
        for (text, shown) in
            [("/", "/"), ("/api", "/api"), ("/api/", "/api"), ("=/a/b", "=/a/b"), ("=/a/", "=/a/")]
        {
            assert_eq!(text.parse::<PathPattern>().unwrap().to_string(), shown);
        }
        for bad in ["", "api", "=", "/a//b", "/a/../b", "/a b", "/a?b", "/a#b", "/é", "//"] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
    }
}
