//! How browsers are brought to https, and kept there.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// `Strict-Transport-Security` (RFC 6797).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hsts {
    /// For how many seconds.
    pub max_age_s: u64,
    /// For all hosts below, too.
    #[serde(default)]
    pub subdomains: bool,
    /// Browsers may know without having been here.
    #[serde(default)]
    pub preload: bool,
}

/// What a route does so that clients come by https.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpsRule {
    /// The port that requests are sent to which came without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<NonZeroU16>,
    /// What clients are told that came by https, in place of what their listener says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
}
