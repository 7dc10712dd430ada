//! Names of things: DNS labels, so that each of them can be part of a name in the zone.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// RFC 1035 §2.3.4: a label has at most 63 octets.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing between the quotes.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than a DNS label.
    #[error("\"{0}\" is longer than {NAME_BYTES_MAX} characters")]
    TooLong(String),
    /// A character that a DNS label cannot have.
    #[error(
        "\"{name}\" has the character {character:?}: names are lower-case letters, digits and '-'"
    )]
    Character {
        /// The text as given.
        name: String,
        /// The first character that does not fit.
        character: char,
    },
    /// A hyphen at an end.
    #[error("\"{0}\" must begin and end with a letter or a digit")]
    Hyphen(String),
}

fn checked(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(text.to_owned()));
    }
    if let Some(character) =
        text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'))
    {
        return Err(NameError::Character { name: text.to_owned(), character });
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Hyphen(text.to_owned()));
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks that `text` is a DNS label (lower-case letters, digits, `-`).
            pub fn parse(text: &str) -> Result<Self, NameError> {
                checked(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )*};
}

names! {
    /// A service: a name with instances.
    ServiceName;
    /// An instance, unique within its service. An instance of a job has the job's id.
    InstanceId;
    /// A machine of the cluster.
    NodeName;
    /// A route.
    RouteName;
    /// A bound socket of the router, by its name in the configuration.
    ListenerName;
    /// A set of error pages, by its name in the configuration of each router.
    PageSetName;
    /// A certificate.
    CertificateName;
    /// An app: a name with releases.
    AppName;
    /// A process type of an app, such as `web` or `worker`.
    ProcessName;
    /// A release of an app, `v1`, `v2`, …
    ReleaseId;
    /// One deployment of an app.
    DeploymentId;
    /// One job, unique in the cluster.
    JobId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label() {
        for good in ["a", "web", "web-1", "0", &"a".repeat(63)] {
            assert_eq!(ServiceName::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(64);
        for (bad, error) in [
            ("", NameError::Empty),
            (long.as_str(), NameError::TooLong(long.clone())),
            ("Web", NameError::Character { name: "Web".into(), character: 'W' }),
            ("a.b", NameError::Character { name: "a.b".into(), character: '.' }),
            ("a/b", NameError::Character { name: "a/b".into(), character: '/' }),
            ("-a", NameError::Hyphen("-a".into())),
            ("a-", NameError::Hyphen("a-".into())),
        ] {
            assert_eq!(ServiceName::parse(bad).unwrap_err(), error, "{bad}");
        }
    }

    #[test]
    fn a_stored_name_is_checked_again_when_it_is_read() {
        assert!(serde_json::from_str::<ServiceName>("\"web\"").is_ok());
        assert!(serde_json::from_str::<ServiceName>("\"../web\"").is_err());
    }
}
