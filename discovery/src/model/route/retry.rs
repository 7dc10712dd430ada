//! Which answers of an instance are not taken for one: the request is tried on another.

use serde::{Deserialize, Serialize};

/// The most attempts of one request, the first included.
pub const RETRY_ATTEMPTS_MAX: u8 = 4;
/// The attempts where nothing is said: one more after the first.
pub const RETRY_ATTEMPTS_DEFAULT: u8 = 2;
/// The statuses where nothing is said: those by which a gateway says that it reached nobody.
pub const RETRY_STATUSES_DEFAULT: [u16; 3] = [502, 503, 504];

const STATUSES_MAX: usize = 16;

/// A retry by status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct RetryRule {
    attempts: u8,
    statuses: Box<[u16]>,
}

#[derive(Deserialize)]
struct Stored {
    attempts: Option<u8>,
    statuses: Option<Vec<u16>>,
}

/// Why a rule makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RetryRuleError {
    /// One attempt is no retry, and many double a load that is too much already.
    #[error("attempts are 2 to 4, the first included")]
    Attempts,
    /// An answer that is none of an error is never wrong.
    #[error("statuses are 1 to 16 codes from 400 to 599")]
    Statuses,
}

impl RetryRule {
    /// A rule; what is not said is the default.
    pub fn new(attempts: Option<u8>, statuses: Option<Vec<u16>>) -> Result<Self, RetryRuleError> {
        let attempts = attempts.unwrap_or(RETRY_ATTEMPTS_DEFAULT);
        if !(2..=RETRY_ATTEMPTS_MAX).contains(&attempts) {
            return Err(RetryRuleError::Attempts);
        }
        let mut statuses = statuses.unwrap_or_else(|| RETRY_STATUSES_DEFAULT.to_vec());
        statuses.sort_unstable();
        statuses.dedup();
        let are_errors = statuses.iter().all(|status| (400..=599).contains(status));
        if !(1..=STATUSES_MAX).contains(&statuses.len()) || !are_errors {
            return Err(RetryRuleError::Statuses);
        }
        Ok(Self { attempts, statuses: statuses.into() })
    }

    /// The most attempts, the first included.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// The statuses, in order.
    pub fn statuses(&self) -> &[u16] {
        &self.statuses
    }

    /// Whether an answer with this status is not taken.
    pub fn rejects(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }
}

impl TryFrom<Stored> for RetryRule {
    type Error = RetryRuleError;

    fn try_from(stored: Stored) -> Result<Self, RetryRuleError> {
        Self::new(stored.attempts, stored.statuses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_few_attempts_and_statuses_of_errors() {
        let rule = RetryRule::new(None, None).unwrap();
        assert_eq!((rule.attempts(), rule.statuses()), (2, &[502, 503, 504][..]));
        let rule = RetryRule::new(Some(4), Some(vec![503, 429, 503])).unwrap();
        assert_eq!((rule.attempts(), rule.statuses()), (4, &[429, 503][..]));
        assert!(rule.rejects(429) && !rule.rejects(502));
        for attempts in [0, 1, 5] {
            assert_eq!(RetryRule::new(Some(attempts), None), Err(RetryRuleError::Attempts));
        }
        for statuses in [vec![], vec![200], vec![399], vec![600], (400..417).collect()] {
            assert_eq!(RetryRule::new(None, Some(statuses)), Err(RetryRuleError::Statuses));
        }
    }

    #[test]
    fn a_stored_rule_is_checked_when_it_is_read() {
        let read = |text: &str| serde_json::from_str::<RetryRule>(text);
        let rule = read(r#"{"attempts":3,"statuses":[503]}"#).unwrap();
        assert_eq!(serde_json::to_string(&rule).unwrap(), r#"{"attempts":3,"statuses":[503]}"#);
        assert!(read("{}").is_ok() && read(r#"{"attempts":9}"#).is_err());
    }
}
