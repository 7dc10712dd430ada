//! How a service spreads its requests: forms of the API, and their records.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use portolan_discovery::model::service::BalanceWord;
use portolan_discovery::model::{Balancing, Ejection};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// When an instance that answers badly is left alone for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EjectionView {
    /// Never: the other fields say nothing then.
    #[serde(default)]
    pub off: bool,
    /// Gateway errors in a row that eject an instance; 5 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u32>,
    /// How long the first of several ejections in a row is, in milliseconds; 30,000 when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// The most of the instances that are ejected at a time, in per cent; 50 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_max: Option<u8>,
}

impl From<Option<&Ejection>> for EjectionView {
    fn from(rule: Option<&Ejection>) -> Self {
        let Some(rule) = rule else { return Self { off: true, ..Self::default() } };
        Self {
            off: false,
            errors: Some(rule.errors().get()),
            time_ms: super::millis(Some(rule.time())),
            share_max: Some(rule.share_max().get()),
        }
    }
}

impl EjectionView {
    /// The record, or what is wrong.
    pub fn record(&self) -> Result<Option<Ejection>, String> {
        if self.off {
            return Ok(None);
        }
        let errors = self.errors.map(|errors| NonZeroU32::new(errors).ok_or("errors of 0"));
        let share = self.share_max.map(|share| NonZeroU8::new(share).ok_or("a share_max of 0"));
        let time = self.time_ms.map(Duration::from_millis);
        Ejection::new(errors.transpose()?, time, share.transpose()?)
            .map(Some)
            .map_err(|error| error.to_string())
    }
}

/// The policy of a call, or what is wrong.
pub fn balancing(balance: Option<&str>, hash_by: Option<&str>) -> Result<Balancing, String> {
    let word = match balance {
        None | Some("p2c") => BalanceWord::P2c,
        Some("round_robin") => BalanceWord::RoundRobin,
        Some("least") => BalanceWord::Least,
        Some("hash") => BalanceWord::Hash,
        Some(other) => {
            return Err(format!(
                "\"{other}\" is no balance: expected p2c, round_robin, least or hash"
            ));
        }
    };
    let by = hash_by.map(str::parse).transpose();
    by.and_then(|by| Balancing::of(word, by)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_can_be_asked_for() {
        for rule in [None, Some(Ejection::DEFAULT)] {
            assert_eq!(EjectionView::from(rule.as_ref()).record(), Ok(rule));
        }
        assert_eq!(EjectionView::default().record(), Ok(Some(Ejection::DEFAULT)));
        for policy in [
            Balancing::P2c,
            Balancing::RoundRobin,
            Balancing::Least,
            Balancing::Hash("cookie:ID".parse().unwrap()),
        ] {
            let by = policy.hash_by().map(ToString::to_string);
            let word = super::super::word(&policy.word());
            assert_eq!(balancing(Some(&word), by.as_deref()), Ok(policy));
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (balance, by) in
            [("random", None), ("hash", None), ("hash", Some("x")), ("least", Some("source"))]
        {
            assert!(balancing(Some(balance), by).is_err(), "{balance} {by:?}");
        }
        assert!(EjectionView { errors: Some(0), ..EjectionView::default() }.record().is_err());
        assert!(EjectionView { time_ms: Some(0), ..EjectionView::default() }.record().is_err());
        assert!(EjectionView { share_max: Some(0), ..EjectionView::default() }.record().is_err());
    }
}
