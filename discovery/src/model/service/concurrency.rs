//! How much one instance does at a time, and how many requests wait for it.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::millis;

/// The most requests that wait for one service in one router.
pub const QUEUE_MAX: u32 = 65_536;
/// The requests that wait where nothing is said: a burst, not a backlog.
pub const QUEUE_MAX_DEFAULT: u32 = 1_024;
/// How long they wait where nothing is said: about as long as a person does.
pub const QUEUE_WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// A limit of what instances have under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Concurrency {
    in_flight_max: NonZeroU32,
    queue_max: u32,
    #[serde(with = "millis", rename = "queue_wait_ms")]
    queue_wait: Duration,
}

#[derive(Deserialize)]
struct Stored {
    in_flight_max: NonZeroU32,
    queue_max: Option<u32>,
    #[serde(default, with = "millis::option", rename = "queue_wait_ms")]
    queue_wait: Option<Duration>,
}

/// Why a limit makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConcurrencyError {
    /// More would only be more memory and older requests.
    #[error("queue_max is at most 65536")]
    QueueTooLong,
    /// Nothing is ever full.
    #[error("queue_max and queue_wait are for a service with in_flight_max")]
    NoLimit,
}

impl Concurrency {
    /// A limit with its queue; what is not said is the default.
    pub fn new(
        in_flight_max: NonZeroU32,
        queue_max: Option<u32>,
        queue_wait: Option<Duration>,
    ) -> Result<Self, ConcurrencyError> {
        let queue_max = queue_max.unwrap_or(QUEUE_MAX_DEFAULT);
        if queue_max > QUEUE_MAX {
            return Err(ConcurrencyError::QueueTooLong);
        }
        let queue_wait = queue_wait.unwrap_or(QUEUE_WAIT_DEFAULT);
        Ok(Self { in_flight_max, queue_max, queue_wait })
    }

    /// The same of keys that may be absent: without all of them there is no limit.
    pub fn from_keys(
        in_flight_max: Option<NonZeroU32>,
        queue_max: Option<u32>,
        queue_wait: Option<Duration>,
    ) -> Result<Option<Self>, ConcurrencyError> {
        match in_flight_max {
            Some(max) => Self::new(max, queue_max, queue_wait).map(Some),
            None if queue_max.is_none() && queue_wait.is_none() => Ok(None),
            None => Err(ConcurrencyError::NoLimit),
        }
    }

    /// The same limit, and nobody waits.
    pub fn without_queue(self) -> Self {
        Self { queue_max: 0, ..self }
    }

    /// The most requests and tunnels that one instance has under way, of one router.
    pub fn in_flight_max(&self) -> NonZeroU32 {
        self.in_flight_max
    }

    /// The most requests that wait, of one router.
    pub fn queue_max(&self) -> u32 {
        self.queue_max
    }

    /// How long a request waits.
    pub fn queue_wait(&self) -> Duration {
        self.queue_wait
    }
}

impl TryFrom<Stored> for Concurrency {
    type Error = ConcurrencyError;

    fn try_from(stored: Stored) -> Result<Self, ConcurrencyError> {
        Self::new(stored.in_flight_max, stored.queue_max, stored.queue_wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();

    #[test]
    fn a_queue_needs_a_limit_and_has_one_itself() {
        assert_eq!(Concurrency::from_keys(None, None, None), Ok(None));
        let wait = Some(Duration::ZERO);
        assert_eq!(Concurrency::from_keys(None, None, wait), Err(ConcurrencyError::NoLimit));
        assert_eq!(Concurrency::from_keys(None, Some(1), None), Err(ConcurrencyError::NoLimit));
        let long = Concurrency::new(TWO, Some(QUEUE_MAX + 1), None);
        assert_eq!(long, Err(ConcurrencyError::QueueTooLong));
        let limit = Concurrency::new(TWO, None, None).unwrap();
        let default = (QUEUE_MAX_DEFAULT, QUEUE_WAIT_DEFAULT);
        assert_eq!((limit.queue_max(), limit.queue_wait()), default);
    }

    #[test]
    fn a_stored_one_is_what_was_written() {
        let limit = Concurrency::new(TWO, Some(0), Some(Duration::from_millis(7))).unwrap();
        let text = serde_json::to_string(&limit).unwrap();
        assert_eq!(text, r#"{"in_flight_max":2,"queue_max":0,"queue_wait_ms":7}"#);
        assert_eq!(serde_json::from_str::<Concurrency>(&text).unwrap(), limit);
        let read = |text: &str| serde_json::from_str::<Concurrency>(text);
        assert_eq!(read(r#"{"in_flight_max":2}"#).unwrap().queue_max(), QUEUE_MAX_DEFAULT);
        assert!(read(r#"{"in_flight_max":0}"#).is_err());
        assert!(read(r#"{"in_flight_max":1,"queue_max":65537}"#).is_err());
    }
}
