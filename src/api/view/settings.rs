//! What services and routes say beside who they are: forms of the API, and their records.

use std::num::NonZeroU32;
use std::time::Duration;

use portolan_discovery::model::{Concurrency, RetryRule, Sticky};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A cookie that keeps a client with the instance that served it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyView {
    /// The name of the cookie.
    pub cookie: String,
    /// How long a browser keeps it, in seconds; until it is closed when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<u32>,
}

impl From<&Sticky> for StickyView {
    fn from(sticky: &Sticky) -> Self {
        let max_age_s = sticky.max_age_s.map(NonZeroU32::get);
        Self { cookie: sticky.cookie.to_string(), max_age_s }
    }
}

impl StickyView {
    /// The record, or what is wrong.
    pub fn record(&self) -> Result<Sticky, String> {
        let cookie = self.cookie.parse().map_err(|error| format!("{error}"))?;
        let positive = |seconds| NonZeroU32::new(seconds).ok_or("a max_age_s of 0");
        Ok(Sticky { cookie, max_age_s: self.max_age_s.map(positive).transpose()? })
    }
}

/// How much one instance does at a time, and how many requests wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyView {
    /// The most requests and tunnels that one router has under way on one instance.
    pub in_flight_max: u32,
    /// The most requests of one router that wait; 1,024 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_max: Option<u32>,
    /// How long they wait, in milliseconds; 5,000 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_wait_ms: Option<u64>,
}

impl From<&Concurrency> for ConcurrencyView {
    fn from(limit: &Concurrency) -> Self {
        Self {
            in_flight_max: limit.in_flight_max().get(),
            queue_max: Some(limit.queue_max()),
            queue_wait_ms: super::millis(Some(limit.queue_wait())),
        }
    }
}

impl ConcurrencyView {
    /// The record, or what is wrong.
    pub fn record(&self) -> Result<Concurrency, String> {
        let max = NonZeroU32::new(self.in_flight_max).ok_or("an in_flight_max of 0")?;
        let wait = self.queue_wait_ms.map(Duration::from_millis);
        Concurrency::new(max, self.queue_max, wait).map_err(|error| error.to_string())
    }
}

/// Which answers are tried on another instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryView {
    /// The most attempts, the first included: 2 to 4; 2 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u8>,
    /// The statuses, 400 to 599; 502, 503 and 504 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<u16>>,
}

impl From<&RetryRule> for RetryView {
    fn from(rule: &RetryRule) -> Self {
        Self { attempts: Some(rule.attempts()), statuses: Some(rule.statuses().to_vec()) }
    }
}

impl RetryView {
    /// The record, or what is wrong.
    pub fn record(&self) -> Result<RetryRule, String> {
        RetryRule::new(self.attempts, self.statuses.clone()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_can_be_asked_for() {
        let sticky = Sticky { cookie: "ID".parse().unwrap(), max_age_s: NonZeroU32::new(5) };
        assert_eq!(StickyView::from(&sticky).record(), Ok(sticky));
        let limit = Concurrency::new(NonZeroU32::MIN, Some(7), None).unwrap();
        assert_eq!(ConcurrencyView::from(&limit).record(), Ok(limit));
        let rule = RetryRule::new(Some(3), Some(vec![503])).unwrap();
        assert_eq!(RetryView::from(&rule).record(), Ok(rule));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let sticky = StickyView { cookie: "a".to_owned(), max_age_s: Some(0) };
        assert!(sticky.record().is_err());
        let limit = ConcurrencyView { in_flight_max: 0, queue_max: None, queue_wait_ms: None };
        assert!(limit.record().is_err());
        let rule = RetryView { attempts: Some(1), statuses: None };
        assert!(rule.record().unwrap_err().contains("attempts are 2 to 4"));
    }
}
