//! When an instance that answers badly is left alone for a while.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::millis;

/// Gateway errors in a row that eject an instance where nothing is said.
pub const EJECTION_ERRORS_DEFAULT: NonZeroU32 = NonZeroU32::new(5).unwrap();
/// How long the first of several ejections in a row is where nothing is said.
pub const EJECTION_TIME_DEFAULT: Duration = Duration::from_secs(30);
/// The most of a service's instances that are ejected at a time where nothing is said, in per
/// cent: when more fail, the fault is not theirs.
pub const EJECTION_SHARE_DEFAULT: NonZeroU8 = NonZeroU8::new(50).unwrap();
/// The longest that may be asked for: an ejection is no operator.
pub const EJECTION_TIME_MAX: Duration = Duration::from_secs(3600);

/// The rule by which instances are ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct Ejection {
    errors: NonZeroU32,
    time: Duration,
    share_max: NonZeroU8,
}

/// Why something is no such rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EjectionError {
    /// Nothing, or longer than an hour.
    #[error("the time of an ejection is 1 ms to 1 hour")]
    Time,
    /// Above all of them.
    #[error("share_max is 1 to 100 per cent")]
    Share,
}

impl Ejection {
    /// The rule of a service that says nothing.
    pub const DEFAULT: Self = Self {
        errors: EJECTION_ERRORS_DEFAULT,
        time: EJECTION_TIME_DEFAULT,
        share_max: EJECTION_SHARE_DEFAULT,
    };

    /// A rule; what is not said is the default.
    pub fn new(
        errors: Option<NonZeroU32>,
        time: Option<Duration>,
        share_max: Option<NonZeroU8>,
    ) -> Result<Self, EjectionError> {
        let time = time.unwrap_or(EJECTION_TIME_DEFAULT);
        if time < Duration::from_millis(1) || time > EJECTION_TIME_MAX {
            return Err(EjectionError::Time);
        }
        let share_max = share_max.unwrap_or(EJECTION_SHARE_DEFAULT);
        if share_max.get() > 100 {
            return Err(EjectionError::Share);
        }
        Ok(Self { errors: errors.unwrap_or(EJECTION_ERRORS_DEFAULT), time, share_max })
    }

    /// Gateway errors in a row that eject an instance.
    pub fn errors(&self) -> NonZeroU32 {
        self.errors
    }

    /// How long the first of several ejections in a row is; the second is twice as long.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// The most of the instances that are ejected at a time, in per cent.
    pub fn share_max(&self) -> NonZeroU8 {
        self.share_max
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Keys {
    errors: Option<NonZeroU32>,
    #[serde(default, with = "millis::option", rename = "time_ms")]
    time: Option<Duration>,
    share_max: Option<NonZeroU8>,
}

impl TryFrom<Keys> for Ejection {
    type Error = EjectionError;

    fn try_from(keys: Keys) -> Result<Self, EjectionError> {
        Self::new(keys.errors, keys.time, keys.share_max)
    }
}

impl From<Ejection> for Keys {
    fn from(rule: Ejection) -> Self {
        let Ejection { errors, time, share_max } = rule;
        Self { errors: Some(errors), time: Some(time), share_max: Some(share_max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_the_default() {
        assert_eq!(Ejection::new(None, None, None), Ok(Ejection::DEFAULT));
        assert_eq!(serde_json::from_str::<Ejection>("{}").unwrap(), Ejection::DEFAULT);
        let text = serde_json::to_string(&Ejection::DEFAULT).unwrap();
        assert_eq!(text, r#"{"errors":5,"time_ms":30000,"share_max":50}"#);
        assert_eq!(serde_json::from_str::<Ejection>(&text).unwrap(), Ejection::DEFAULT);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let time = |time| Ejection::new(None, Some(time), None);
        assert_eq!(time(Duration::ZERO), Err(EjectionError::Time));
        assert_eq!(time(EJECTION_TIME_MAX + Duration::from_millis(1)), Err(EjectionError::Time));
        let share = Ejection::new(None, None, NonZeroU8::new(101));
        assert_eq!(share, Err(EjectionError::Share));
        assert!(serde_json::from_str::<Ejection>(r#"{"errors":0}"#).is_err());
    }
}
