//! Which answers of a route are kept in the router's cache, and for how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::millis;

/// The largest body that is kept where nothing is said: pages, scripts, pictures; no downloads.
pub const CACHE_OBJECT_BYTES_DEFAULT: u64 = 1 << 20;
/// The largest body that a rule may ask to be kept.
pub const CACHE_OBJECT_BYTES_MAX: u64 = 256 << 20;
/// How long a request waits for the answer to another one like it, where nothing is said.
pub const CACHE_WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// The longest such wait that a rule may ask for.
pub const CACHE_WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest life, fresh or stale, that a rule may ask for: RFC 9111 §1.2.2 knows longer ones,
/// nobody needs them.
pub const CACHE_LIFE_MAX: Duration = Duration::from_secs(365 * 86_400);

/// What is asked of a cache; what is not said is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CacheWish {
    /// The largest body that is kept.
    pub object_bytes_max: Option<u64>,
    /// How long answers are fresh that do not say so themselves.
    #[serde(default, with = "millis::option", rename = "default_ttl_ms")]
    pub default_ttl: Option<Duration>,
    /// Whether what they say of their last change may tell how long they are fresh.
    pub heuristic: Option<bool>,
    /// How long they may be served stale while they are fetched again, if they do not say so.
    #[serde(default, with = "millis::option", rename = "stale_while_revalidate_ms")]
    pub stale_while_revalidate: Option<Duration>,
    /// How long they may be served stale when no instance answers, if they do not say so.
    #[serde(default, with = "millis::option", rename = "stale_if_error_ms")]
    pub stale_if_error: Option<Duration>,
    /// How long a request waits for the answer to another one like it.
    #[serde(default, with = "millis::option", rename = "wait_ms")]
    pub wait: Option<Duration>,
    /// Whether a client may ask for an answer from an instance.
    pub obey_requests: Option<bool>,
}

/// Why a rule makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CacheRuleError {
    /// Nothing, or more than a cache should hold of one thing.
    #[error("object_bytes_max is 1 byte to 256 MiB")]
    ObjectBytes,
    /// Requests would pile up behind one that hangs.
    #[error("wait is at most 60 s")]
    Wait,
    /// Nobody remembers then why.
    #[error("default_ttl, stale_while_revalidate and stale_if_error are at most 365 days")]
    Life,
}

/// A rule for answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CacheWish")]
pub struct CacheRule {
    object_bytes_max: u64,
    #[serde(
        with = "millis::option",
        rename = "default_ttl_ms",
        skip_serializing_if = "Option::is_none"
    )]
    default_ttl: Option<Duration>,
    heuristic: bool,
    #[serde(with = "millis", rename = "stale_while_revalidate_ms")]
    stale_while_revalidate: Duration,
    #[serde(with = "millis", rename = "stale_if_error_ms")]
    stale_if_error: Duration,
    #[serde(with = "millis", rename = "wait_ms")]
    wait: Duration,
    obey_requests: bool,
}

impl CacheRule {
    /// The rule of a wish.
    pub fn new(wish: &CacheWish) -> Result<Self, CacheRuleError> {
        let rule = Self {
            object_bytes_max: wish.object_bytes_max.unwrap_or(CACHE_OBJECT_BYTES_DEFAULT),
            default_ttl: wish.default_ttl,
            heuristic: wish.heuristic.unwrap_or(false),
            stale_while_revalidate: wish.stale_while_revalidate.unwrap_or_default(),
            stale_if_error: wish.stale_if_error.unwrap_or_default(),
            wait: wish.wait.unwrap_or(CACHE_WAIT_DEFAULT),
            obey_requests: wish.obey_requests.unwrap_or(true),
        };
        if !(1..=CACHE_OBJECT_BYTES_MAX).contains(&rule.object_bytes_max) {
            return Err(CacheRuleError::ObjectBytes);
        }
        if rule.wait > CACHE_WAIT_MAX {
            return Err(CacheRuleError::Wait);
        }
        let lives = [
            rule.default_ttl.unwrap_or_default(),
            rule.stale_while_revalidate,
            rule.stale_if_error,
        ];
        match lives.iter().any(|life| *life > CACHE_LIFE_MAX) {
            true => Err(CacheRuleError::Life),
            false => Ok(rule),
        }
    }

    /// A rule of which nothing is said.
    pub fn usual() -> Self {
        Self::new(&CacheWish::default()).expect("the defaults make a rule")
    }

    /// The largest body that is kept, in bytes.
    pub fn object_bytes_max(&self) -> u64 {
        self.object_bytes_max
    }

    /// How long answers are fresh that do not say so; none, and they are not kept.
    pub fn default_ttl(&self) -> Option<Duration> {
        self.default_ttl
    }

    /// Whether a tenth of the time since its last change is how long an answer is fresh that does
    /// not say so (RFC 9111 §4.2.2).
    pub fn heuristic(&self) -> bool {
        self.heuristic
    }

    /// How long answers that do not say so may be served stale while they are fetched again.
    pub fn stale_while_revalidate(&self) -> Duration {
        self.stale_while_revalidate
    }

    /// How long answers that do not say so may be served stale when no instance answers.
    pub fn stale_if_error(&self) -> Duration {
        self.stale_if_error
    }

    /// How long a request waits for the answer to another one like it; zero waits for none.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Whether `Cache-Control` of a request is obeyed (RFC 9111 §5.2.1: a cache may).
    pub fn obey_requests(&self) -> bool {
        self.obey_requests
    }
}

impl TryFrom<CacheWish> for CacheRule {
    type Error = CacheRuleError;

    fn try_from(wish: CacheWish) -> Result<Self, CacheRuleError> {
        Self::new(&wish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_bounds() {
        let day = Duration::from_secs(86_400);
        let wish = CacheWish::default;
        for (wish, expected) in [
            (CacheWish { object_bytes_max: Some(0), ..wish() }, CacheRuleError::ObjectBytes),
            (
                CacheWish { object_bytes_max: Some(CACHE_OBJECT_BYTES_MAX + 1), ..wish() },
                CacheRuleError::ObjectBytes,
            ),
            (CacheWish { wait: Some(Duration::from_secs(61)), ..wish() }, CacheRuleError::Wait),
            (CacheWish { default_ttl: Some(366 * day), ..wish() }, CacheRuleError::Life),
            (CacheWish { stale_if_error: Some(366 * day), ..wish() }, CacheRuleError::Life),
            (CacheWish { stale_while_revalidate: Some(366 * day), ..wish() }, CacheRuleError::Life),
        ] {
            assert_eq!(CacheRule::new(&wish), Err(expected), "{wish:?}");
        }
    }

    #[test]
    fn a_stored_rule_is_what_was_written_and_checked_when_it_is_read() {
        let read = |text: &str| serde_json::from_str::<CacheRule>(text);
        assert_eq!(read("{}").unwrap(), CacheRule::usual());
        let text = r#"{"object_bytes_max":5,"default_ttl_ms":7000,"heuristic":true,"stale_while_revalidate_ms":1,"stale_if_error_ms":2,"wait_ms":0,"obey_requests":false}"#;
        let rule = read(text).unwrap();
        assert_eq!(rule.default_ttl(), Some(Duration::from_secs(7)));
        assert_eq!(serde_json::to_string(&rule).unwrap(), text);
        assert!(read(r#"{"object_bytes_max":0}"#).is_err());
    }
}
