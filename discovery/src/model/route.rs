//! Routes: rules that lead from a listener to services.

mod cache;
mod compress;
mod host;
mod https;
mod mirror;
mod path;
mod pattern;
mod predicate;
mod retry;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ListenerName, Origin, PageSetName, Protocol, RouteName, ServiceName, Weight, millis};

pub use cache::{
    CACHE_LIFE_MAX, CACHE_OBJECT_BYTES_DEFAULT, CACHE_OBJECT_BYTES_MAX, CACHE_WAIT_DEFAULT,
    CACHE_WAIT_MAX, CacheRule, CacheRuleError, CacheWish,
};
pub use compress::{
    COMPRESS_MIN_BYTES_DEFAULT, COMPRESS_TYPES_MAX, Coding, CompressRule, CompressRuleError,
    Levels, MEDIA_RANGE_BYTES_MAX, MediaRange,
};
pub use host::{HOST_BYTES_MAX, Host, HostError, HostPattern};
pub use https::{Hsts, HttpsRule};
pub use mirror::{Mirror, Percent, PercentError};
pub use path::{PATH_BYTES_MAX, PathError, PathPattern, PathPrefix, PrefixError};
pub use pattern::{Pattern, PatternError, REGEX_BYTES_MAX, REGEX_PROGRAM_BYTES_MAX};
pub use predicate::{
    HeaderName, MATCH_NAME_BYTES_MAX, MATCH_VALUE_BYTES_MAX, MATCHES_MAX, METHODS_MAX, Matches,
    MethodName, ParameterName, PredicateError, Predicates, ValuePattern,
};
pub use retry::{
    RETRY_ATTEMPTS_DEFAULT, RETRY_ATTEMPTS_MAX, RETRY_STATUSES_DEFAULT, RetryRule, RetryRuleError,
};

/// The waits of one route; `None` takes the router's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTimeouts {
    /// For an instance to accept a connection.
    #[serde(
        default,
        with = "millis::option",
        rename = "connect_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub connect: Option<Duration>,
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
    /// Between two pieces of a body, the request's or the response's.
    #[serde(
        default,
        with = "millis::option",
        rename = "body_idle_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub body_idle: Option<Duration>,
    /// Without a byte in either direction of an upgraded connection, a TCP connection or a UDP
    /// session.
    #[serde(
        default,
        with = "millis::option",
        rename = "tunnel_idle_ms",
        // As it was called when there was no other.
        alias = "idle_ms",
        skip_serializing_if = "Option::is_none"
    )]
    pub tunnel_idle: Option<Duration>,
}

/// The rule of an HTTP route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRule {
    /// Which hosts.
    pub host: HostPattern,
    /// Which paths.
    pub path: PathPattern,
    /// What else is asked of a request.
    #[serde(default, skip_serializing_if = "Predicates::is_empty")]
    pub predicates: Predicates,
}

impl HttpRule {
    /// Every request for these hosts and paths.
    pub fn new(host: HostPattern, path: PathPattern) -> Self {
        Self { host, path, predicates: Predicates::NONE }
    }
}

/// The rule of a route of TLS that is passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsRule {
    /// Which hosts clients ask for (SNI). Any takes those that name none, too.
    pub host: HostPattern,
}

/// What a route takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Requests by host and path.
    Http(HttpRule),
    /// Every connection of the route's listener.
    Tcp,
    /// Every datagram of the route's listener.
    Udp,
    /// Connections of the route's listener by the host that they ask for.
    Tls(TlsRule),
}

impl Rule {
    /// What the listeners speak that bring it something.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Http(_) => Protocol::Http,
            Self::Tcp => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
            Self::Tls(_) => Protocol::Tls,
        }
    }
}

/// A service that a route leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The service.
    pub service: ServiceName,
    /// Its share of the route's requests.
    #[serde(default)]
    pub weight: Weight,
    /// Only its leader gets them ([`leader`](crate::snapshot::leader)).
    #[serde(default, skip_serializing_if = "is_false")]
    pub leader: bool,
}

impl Backend {
    /// Any instance of a service, with the usual weight.
    pub fn to(service: ServiceName) -> Self {
        Self { service, weight: Weight::DEFAULT, leader: false }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a route changes in a request on its way to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Takes the place of the route's prefix; `/` takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<PathPrefix>,
    /// The host that the instance is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
}

/// Why a rewrite cannot be done for what a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// Nothing is to be changed.
    #[error("a rewrite names a prefix, a host or both")]
    Nothing,
    /// What passes over TCP, UDP or TLS is not read.
    #[error("a TCP, UDP or TLS route rewrites nothing")]
    Tcp,
    /// An exact path or a regular expression has no prefix that was matched.
    #[error("only the prefix of a route whose path is a prefix can be rewritten")]
    NoPrefix,
}

impl Rewrite {
    /// Whether it can be done for what a route takes.
    pub fn fits(&self, rule: &Rule) -> Result<(), RewriteError> {
        match rule {
            _ if self.prefix.is_none() && self.host.is_none() => Err(RewriteError::Nothing),
            Rule::Tcp | Rule::Udp | Rule::Tls(_) => Err(RewriteError::Tcp),
            Rule::Http(rule) if self.prefix.is_some() => match rule.path {
                PathPattern::Prefix(_) => Ok(()),
                _ => Err(RewriteError::NoPrefix),
            },
            Rule::Http(_) => Ok(()),
        }
    }
}

/// A rule that leads from a listener to services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The name.
    pub name: RouteName,
    /// The listener; none is every HTTP listener. A TCP, UDP or TLS route always has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<ListenerName>,
    /// What it takes.
    pub rule: Rule,
    /// Where it leads; at least one.
    pub backends: Vec<Backend>,
    /// Its waits.
    #[serde(default)]
    pub timeouts: RouteTimeouts,
    /// What it changes in a request; mostly nothing. For HTTP, and a prefix for a prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Box<Rewrite>>,
    /// Who gets copies of its requests; mostly nobody. For HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Box<Mirror>>,
    /// Which answers are tried on another instance; mostly none. For HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Box<RetryRule>>,
    /// Which answers are compressed; mostly none. For HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress: Option<Box<CompressRule>>,
    /// Whether clients are brought to https; mostly they are not. For HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<Box<HttpsRule>>,
    /// Which answers are kept in the router's cache; mostly none. For HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Box<CacheRule>>,
    /// The largest request body in bytes; none is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes_max: Option<u64>,
    /// The error pages that it asks for; those of a router that does not have them are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_pages: Option<PageSetName>,
    /// Who wrote the record, and so who may change or delete it.
    #[serde(default)]
    pub origin: Origin,
    /// When it was made, in milliseconds of Unix time: of two equal rules the older wins.
    pub created_ms: u64,
}

impl Route {
    /// A route of every HTTP listener that changes nothing and waits as the router does; made by
    /// the API at the beginning of time.
    pub fn new(name: RouteName, rule: Rule, backends: Vec<Backend>) -> Self {
        Self {
            name,
            listener: None,
            rule,
            backends,
            timeouts: RouteTimeouts::default(),
            rewrite: None,
            mirror: None,
            retry: None,
            compress: None,
            https: None,
            cache: None,
            body_bytes_max: None,
            error_pages: None,
            origin: Origin::Api,
            created_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it was written before there were predicates, rewrites and more than three waits.
    const OLD: &str = r#"{"name":"r","rule":{"http":{"host":"*","path":"/"}},
        "backends":[{"service":"web"}],"timeouts":{"request_ms":5,"idle_ms":7},"created_ms":1}"#;

    #[test]
    fn an_old_record_is_read_and_keeps_its_meaning() {
        let route: Route = serde_json::from_str(OLD).unwrap();
        let all = HttpRule::new(HostPattern::Any, PathPattern::all());
        assert_eq!((route.rule, route.rewrite), (Rule::Http(all), None));
        let waits = RouteTimeouts {
            request: Some(Duration::from_millis(5)),
            tunnel_idle: Some(Duration::from_millis(7)),
            ..RouteTimeouts::default()
        };
        assert_eq!(route.timeouts, waits);
    }

    #[test]
    fn what_is_not_said_is_not_stored() {
        let route: Route = serde_json::from_str(OLD).unwrap();
        let text = serde_json::to_string(&route).unwrap();
        assert!(!text.contains("predicates") && !text.contains("rewrite"), "{text}");
        assert!(!text.contains("connect") && !text.contains("leader"), "{text}");
        assert_eq!(serde_json::from_str::<Route>(&text).unwrap(), route);
    }

    #[test]
    fn a_rewrite_is_checked_when_it_is_read() {
        let read = |text: &str| serde_json::from_str::<Rewrite>(text);
        assert!(read(r#"{"prefix":"/b","host":"a.test"}"#).is_ok());
        assert!(read(r#"{"prefix":"=/b"}"#).is_err() && read(r#"{"host":"a/b"}"#).is_err());
    }
}
