//! The rules for health.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::millis;

/// A range of HTTP status codes, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRange {
    /// The first code.
    pub first: u16,
    /// The last code.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` is one of them.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

/// How an `http` or `https` check asks and what it expects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// Whether to speak TLS.
    #[serde(default)]
    pub tls: bool,
    /// Whether the certificate must be valid for `host`; only with `tls`.
    #[serde(default = "yes")]
    pub verify: bool,
    /// A PEM file with the authorities to trust instead of the system's; only with `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// `GET`, `HEAD` or another method without a body.
    #[serde(default = "get")]
    pub method: String,
    /// The path and query.
    pub path: String,
    /// The `Host` field and the SNI; the instance's address by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// More header fields to send.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The statuses that pass; 200 to 399 by default.
    #[serde(default = "good", skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<StatusRange>,
    /// A text that the body (its first 64 KiB) must have in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

fn yes() -> bool {
    true
}

fn get() -> String {
    "GET".to_owned()
}

fn good() -> Vec<StatusRange> {
    vec![StatusRange { first: 200, last: 399 }]
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A request and its answer.
    Http(HttpCheck),
    /// A connection that opens.
    Tcp,
    /// A command that exits with 0. It sees `PORTOLAN_CHECK_ADDR` in its environment.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

impl CheckKind {
    /// The kind's word in configuration, metrics and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Http(http) if http.tls => "https",
            Self::Http(_) => "http",
            Self::Tcp => "tcp",
            Self::Exec { .. } => "exec",
        }
    }
}

/// A check: what a probe does, how often, and how many results in a row flip the health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// What a probe does.
    pub kind: CheckKind,
    /// From the start of one probe to the start of the next.
    #[serde(with = "millis", rename = "every_ms")]
    pub every: Duration,
    /// A probe without a result by then has failed.
    #[serde(with = "millis", rename = "timeout_ms")]
    pub timeout: Duration,
    /// Good results in a row that flip to up.
    pub rise: NonZeroU8,
    /// Bad results in a row that flip to down.
    pub fall: NonZeroU8,
    /// How long after its start an instance is probed fast and its failures do not count.
    #[serde(with = "millis", rename = "start_period_ms")]
    pub start_period: Duration,
}

impl CheckSpec {
    /// Default of `every`.
    pub const EVERY: Duration = Duration::from_secs(5);
    /// Default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(2);
    /// Default of `rise`.
    pub const RISE: NonZeroU8 = NonZeroU8::new(2).expect("2 is not 0");
    /// Default of `fall`.
    pub const FALL: NonZeroU8 = NonZeroU8::new(3).expect("3 is not 0");
    /// Default of `start_period`.
    pub const START_PERIOD: Duration = Duration::from_secs(10);

    /// A check of `kind` with every other value at its default.
    pub fn of(kind: CheckKind) -> Self {
        Self {
            kind,
            every: Self::EVERY,
            timeout: Self::TIMEOUT,
            rise: Self::RISE,
            fall: Self::FALL,
            start_period: Self::START_PERIOD,
        }
    }
}
