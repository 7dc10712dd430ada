//! How a service's requests are spread over its instances.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::route::{HeaderName, MATCH_NAME_BYTES_MAX};

/// The policy of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balancing {
    /// Of two random instances the one with less under way, times its latency.
    #[default]
    P2c,
    /// One after the other.
    RoundRobin,
    /// The one with the least under way.
    Least,
    /// The same one for the same client.
    Hash(HashBy),
}

/// What clients are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HashBy {
    /// The value of a header field.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Box<str>),
    /// The address that the connection comes from.
    Source,
}

/// The policy's name in files and calls, which have what it hashes beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceWord {
    /// [`Balancing::P2c`].
    #[default]
    P2c,
    /// [`Balancing::RoundRobin`].
    RoundRobin,
    /// [`Balancing::Least`].
    Least,
    /// [`Balancing::Hash`].
    Hash,
}

/// Why something is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BalancingError {
    /// It would not be known what to hash.
    #[error("balance = \"hash\" needs hash_by: \"header:NAME\", \"cookie:NAME\" or \"source\"")]
    NoKey,
    /// It would have no effect.
    #[error("hash_by is for balance = \"hash\"")]
    KeyUnused,
    /// Neither of the forms.
    #[error("\"{0}\" is no hash_by: expected \"header:NAME\", \"cookie:NAME\" or \"source\"")]
    Key(String),
}

impl Balancing {
    /// The policy of two keys that may be absent.
    pub fn of(word: BalanceWord, hash_by: Option<HashBy>) -> Result<Self, BalancingError> {
        match (word, hash_by) {
            (BalanceWord::Hash, Some(by)) => Ok(Self::Hash(by)),
            (BalanceWord::Hash, None) => Err(BalancingError::NoKey),
            (_, Some(_)) => Err(BalancingError::KeyUnused),
            (BalanceWord::P2c, None) => Ok(Self::P2c),
            (BalanceWord::RoundRobin, None) => Ok(Self::RoundRobin),
            (BalanceWord::Least, None) => Ok(Self::Least),
        }
    }

    /// Its name.
    pub fn word(&self) -> BalanceWord {
        match self {
            Self::P2c => BalanceWord::P2c,
            Self::RoundRobin => BalanceWord::RoundRobin,
            Self::Least => BalanceWord::Least,
            Self::Hash(_) => BalanceWord::Hash,
        }
    }

    /// What it hashes.
    pub fn hash_by(&self) -> Option<&HashBy> {
        match self {
            Self::Hash(by) => Some(by),
            _ => None,
        }
    }

    /// Whether it is the one of a service that says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::P2c
    }
}

impl FromStr for HashBy {
    type Err = BalancingError;

    fn from_str(text: &str) -> Result<Self, BalancingError> {
        let by = match text.split_once(':') {
            None if text == "source" => Some(Self::Source),
            Some(("header", name)) => name.parse().ok().map(Self::Header),
            // A cookie's name is a token too (RFC 6265 §4.1.1), but its case counts.
            Some(("cookie", name)) if name.len() <= MATCH_NAME_BYTES_MAX => {
                name.parse::<HeaderName>().ok().map(|_| Self::Cookie(name.into()))
            }
            _ => None,
        };
        by.ok_or_else(|| BalancingError::Key(text.to_owned()))
    }
}

impl TryFrom<String> for HashBy {
    type Error = BalancingError;

    fn try_from(text: String) -> Result<Self, BalancingError> {
        text.parse()
    }
}

impl From<HashBy> for String {
    fn from(by: HashBy) -> Self {
        by.to_string()
    }
}

impl fmt::Display for HashBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Source => f.write_str("source"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_it_is_read() {
        for text in ["header:x-user", "cookie:SID", "source"] {
            assert_eq!(text.parse::<HashBy>().unwrap().to_string(), text);
        }
        assert_eq!("header:X-User".parse::<HashBy>().unwrap().to_string(), "header:x-user");
        for bad in ["", "header", "header:", "header:a b", "cookie:a;b", "Source", "source:x"] {
            assert!(bad.parse::<HashBy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_hash_has_a_key_and_needs_one() {
        assert_eq!(Balancing::of(BalanceWord::Hash, None), Err(BalancingError::NoKey));
        let source = Some(HashBy::Source);
        assert_eq!(Balancing::of(BalanceWord::Least, source), Err(BalancingError::KeyUnused));
    }

    #[test]
    fn a_stored_policy_is_a_word_and_what_it_hashes() {
        for (text, balancing) in [
            (r#""p2c""#, Balancing::P2c),
            (r#""round_robin""#, Balancing::RoundRobin),
            (r#""least""#, Balancing::Least),
            (r#"{"hash":"source"}"#, Balancing::Hash(HashBy::Source)),
        ] {
            assert_eq!(serde_json::to_string(&balancing).unwrap(), text);
            assert_eq!(serde_json::from_str::<Balancing>(text).unwrap(), balancing);
        }
        for bad in [r#""hash""#, r#""random""#, r#"{"hash":"nothing"}"#] {
            assert!(serde_json::from_str::<Balancing>(bad).is_err(), "{bad}");
        }
    }
}
