//! Certificates that the store keeps: a chain and its key, both as PEM. Whether they belong
//! together is for those to judge who show them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::CertificateName;

/// The longest chain: a hundred certificates, of which real ones have three or four.
pub const CHAIN_PEM_BYTES_MAX: usize = 256 << 10;
/// The longest key: ten times one of RSA with 8,192 bits.
pub const KEY_PEM_BYTES_MAX: usize = 64 << 10;

/// Why a chain and a key are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificatePairError {
    /// The chain is too long.
    #[error("the chain has {0} bytes, more than {CHAIN_PEM_BYTES_MAX}")]
    Chain(usize),
    /// The key is too long.
    #[error("the key has {0} bytes, more than {KEY_PEM_BYTES_MAX}")]
    Key(usize),
}

/// A certificate of the store. Its key is in no `Debug` and in no error.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct CertificatePair {
    name: CertificateName,
    chain_pem: String,
    key_pem: String,
    since_ms: u64,
}

impl CertificatePair {
    /// A chain, leaf first, and the key of the leaf, written at `since_ms` of Unix time.
    ///
    /// # Errors
    /// When one of them is too long.
    pub fn new(
        name: CertificateName,
        chain_pem: String,
        key_pem: String,
        since_ms: u64,
    ) -> Result<Self, CertificatePairError> {
        if chain_pem.len() > CHAIN_PEM_BYTES_MAX {
            return Err(CertificatePairError::Chain(chain_pem.len()));
        }
        if key_pem.len() > KEY_PEM_BYTES_MAX {
            return Err(CertificatePairError::Key(key_pem.len()));
        }
        Ok(Self { name, chain_pem, key_pem, since_ms })
    }

    /// The name.
    pub fn name(&self) -> &CertificateName {
        &self.name
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The key as PEM. For those who sign with it, and nobody else.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Since when the store has it, in milliseconds of Unix time.
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// The same, written at another time.
    #[must_use]
    pub fn since(self, since_ms: u64) -> Self {
        Self { since_ms, ..self }
    }
}

impl fmt::Debug for CertificatePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificatePair")
            .field("name", &self.name)
            .field("since_ms", &self.since_ms)
            .finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for CertificatePair {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            name: CertificateName,
            chain_pem: String,
            key_pem: String,
            since_ms: u64,
        }
        // What serde says of a field that is wrong shows what stands in it, which may be the key.
        let Fields { name, chain_pem, key_pem, since_ms } =
            Fields::deserialize(from).map_err(|_| {
                serde::de::Error::custom("expected name, chain_pem, key_pem and since_ms")
            })?;
        Self::new(name, chain_pem, key_pem, since_ms).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{decode, encode};
    use super::*;

    fn pair(key_pem: &str) -> CertificatePair {
        let name = CertificateName::parse("web").unwrap();
        CertificatePair::new(name, "CHAIN".into(), key_pem.into(), 7).unwrap()
    }

    #[test]
    fn a_certificate_reads_as_it_is_written_and_never_shows_its_key() {
        let written = pair("SECRET");
        assert_eq!(decode::<CertificatePair>(&encode(&written)).unwrap(), written);
        let shown = format!("{written:?}");
        assert!(shown.contains("web") && !shown.contains("SECRET"), "{shown}");
    }

    #[test]
    fn what_is_said_of_a_bad_record_does_not_show_the_key() {
        for bad in [
            r#""SECRET""#,
            r#"{"name":"SECRET","chain_pem":"","key_pem":"","since_ms":1}"#,
            r#"{"name":"web","chain_pem":"","key_pem":"","since_ms":"SECRET"}"#,
            r#"{"name":"web","chain_pem":"","since_ms":1,"key_pem":["SECRET"]}"#,
        ] {
            let said = decode::<CertificatePair>(bad.as_bytes()).unwrap_err().to_string();
            assert!(said.contains("expected name, chain_pem"), "{said}");
            assert!(!said.contains("SECRET"), "{said}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_and_read_as_little_as_written() {
        let new = |chain: usize, key: usize| {
            let name = CertificateName::parse("web").unwrap();
            CertificatePair::new(name, "x".repeat(chain), "x".repeat(key), 0)
        };
        assert!(new(CHAIN_PEM_BYTES_MAX, KEY_PEM_BYTES_MAX).is_ok());
        let long = CHAIN_PEM_BYTES_MAX + 1;
        assert_eq!(new(long, 0), Err(CertificatePairError::Chain(long)));
        let long = KEY_PEM_BYTES_MAX + 1;
        assert_eq!(new(0, long), Err(CertificatePairError::Key(long)));
        let record = format!(
            r#"{{"name":"web","chain_pem":"","key_pem":"{}","since_ms":1}}"#,
            "x".repeat(long)
        );
        let said = decode::<CertificatePair>(record.as_bytes()).unwrap_err().to_string();
        assert!(said.contains("more than"), "{said}");
    }
}
