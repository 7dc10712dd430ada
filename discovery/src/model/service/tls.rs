//! TLS to the instances of a service.

use serde::{Deserialize, Serialize};

use crate::model::Host;

/// How instances are spoken to by TLS. Files lie on every machine with a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct ServiceTls {
    /// The certificate must be of an authority that is trusted, and for the name.
    pub verify: bool,
    /// The authorities to trust, in PEM; the system's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// The name that is asked for and that the certificate must have; the address by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Host>,
    /// The chain that the router shows when it is asked, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_file: Option<String>,
    /// Its key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

/// Keys that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceTlsError {
    /// A chain without a key, or a key without a chain.
    #[error("chain_file and key_file are a pair: one alone is nothing to show")]
    NoPair,
    /// Authorities that nobody is held against.
    #[error("ca_file without verify: nothing would be held against it")]
    NotVerified,
    /// Where a relative path begins is another place on each machine.
    #[error("\"{0}\" must begin with /: the file is read on every machine with a router")]
    Relative(String),
}

impl ServiceTls {
    /// Verified against the system's authorities.
    pub const DEFAULT: Self =
        Self { verify: true, ca_file: None, name: None, chain_file: None, key_file: None };

    /// The same, if the keys go together.
    ///
    /// # Errors
    /// When they do not.
    pub fn checked(self) -> Result<Self, ServiceTlsError> {
        let Self { verify, ca_file, chain_file, key_file, .. } = &self;
        if chain_file.is_some() != key_file.is_some() {
            return Err(ServiceTlsError::NoPair);
        }
        if ca_file.is_some() && !verify {
            return Err(ServiceTlsError::NotVerified);
        }
        for file in [ca_file, chain_file, key_file].into_iter().flatten() {
            if !file.starts_with('/') {
                return Err(ServiceTlsError::Relative(file.clone()));
            }
        }
        Ok(self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default = "yes")]
    verify: bool,
    ca_file: Option<String>,
    name: Option<Host>,
    chain_file: Option<String>,
    key_file: Option<String>,
}

fn yes() -> bool {
    true
}

impl TryFrom<Raw> for ServiceTls {
    type Error = ServiceTlsError;

    fn try_from(raw: Raw) -> Result<Self, ServiceTlsError> {
        let Raw { verify, ca_file, name, chain_file, key_file } = raw;
        Self { verify, ca_file, name, chain_file, key_file }.checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ServiceTls, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn certificates_are_verified_unless_somebody_says_otherwise() {
        assert_eq!(read("{}").unwrap(), ServiceTls::DEFAULT);
        let tls = read(r#"{"ca_file":"/ca.pem","name":"Db.Test"}"#).unwrap();
        assert_eq!(tls.name.as_ref().unwrap().as_str(), "db.test");
        assert_eq!(read(&serde_json::to_string(&tls).unwrap()).unwrap(), tls);
    }

    #[test]
    fn keys_that_do_not_go_together_are_refused() {
        for (text, expected) in [
            (r#"{"chain_file":"/a"}"#, "a pair"),
            (r#"{"key_file":"/a"}"#, "a pair"),
            (r#"{"verify":false,"ca_file":"/a"}"#, "without verify"),
            (r#"{"ca_file":"a.pem"}"#, "must begin with /"),
            (r#"{"verfy":true}"#, "unknown field"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
