//! Copies of a route's requests for another service, whose answers nobody gets.

use serde::{Deserialize, Serialize};

use crate::model::ServiceName;

/// A part of something in hundredths, 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

/// The number is no percentage that does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} % is not 1 to 100")]
pub struct PercentError(pub u8);

impl Percent {
    /// All of it.
    pub const ALL: Self = Self(100);

    /// Whether one of all, by a number drawn from 0 to 99, is in the part.
    pub fn has(self, drawn: u8) -> bool {
        drawn < self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = PercentError;

    fn try_from(percent: u8) -> Result<Self, PercentError> {
        if (1..=100).contains(&percent) { Ok(Self(percent)) } else { Err(PercentError(percent)) }
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

fn all() -> Percent {
    Percent::ALL
}

/// A service that gets copies of a route's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// The service.
    pub service: ServiceName,
    /// Of how many requests it gets a copy.
    #[serde(default = "all")]
    pub percent: Percent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_1_to_100_and_100_by_default() {
        let read = |text: &str| serde_json::from_str::<Mirror>(text).ok();
        let mirror = read(r#"{"service":"a"}"#).unwrap();
        assert_eq!(mirror.percent, Percent::ALL);
        assert_eq!(read(&serde_json::to_string(&mirror).unwrap()), Some(mirror));
        for (percent, of_hundred) in [(1, 1), (50, 50), (100, 100)] {
            let percent = Percent::try_from(percent).unwrap();
            assert_eq!((0..100).filter(|drawn| percent.has(*drawn)).count(), of_hundred);
        }
        for bad in ["0", "101", "-1", "256", "1.5"] {
            assert!(read(&format!(r#"{{"service":"a","percent":{bad}}}"#)).is_none(), "{bad}");
        }
    }
}
