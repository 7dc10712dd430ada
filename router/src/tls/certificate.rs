//! A certificate with its chain and its key, checked when it is made: that it can be read, that
//! the key is its own, and which names it is for. The key never leaves it.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::provider;

/// The largest file of a chain, or of a key.
pub const CHAIN_BYTES_MAX: u64 = 1 << 20;

const SECONDS_PER_DAY: i64 = 24 * 3600;

/// Why a chain and a key are no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No certificate in what should be the chain.
    #[error("the chain has no certificate: expected PEM with BEGIN CERTIFICATE")]
    NoCertificate,
    /// The chain is no PEM.
    #[error("the chain cannot be read: {0}")]
    Chain(rustls::pki_types::pem::Error),
    /// A certificate is no X.509.
    #[error("certificate {number} of the chain is malformed")]
    Malformed {
        /// Which one, from 1.
        number: usize,
    },
    /// What should be the key has none.
    #[error("there is no private key: expected PEM with BEGIN PRIVATE KEY")]
    NoKey,
    /// The key is of a kind that cannot sign.
    #[error("the key cannot be used: {0}")]
    Key(#[source] rustls::Error),
    /// The key is that of another certificate.
    #[error("the key does not belong to the certificate")]
    OtherKey,
    /// Its time has passed.
    #[error("the certificate expired {days} days ago")]
    Expired {
        /// Whole days.
        days: i64,
    },
}

/// A certificate that can be shown.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// Names as they are looked up: lower case, no dot at the end.
    hosts: Vec<Box<str>>,
    /// What stands behind the `*.` of wildcards.
    wildcards: Vec<Box<str>>,
    not_before_s: i64,
    not_after_s: i64,
    fingerprint: [u8; 32],
}

impl Certificate {
    /// Reads a chain, leaf first, and the key of the leaf.
    ///
    /// # Errors
    /// When one of them cannot be read, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(CertificateError::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey)?;
        let key = provider().key_provider.load_private_key(key).map_err(CertificateError::Key)?;
        for (at, certificate) in chain.iter().enumerate() {
            X509Certificate::from_der(certificate)
                .map_err(|_| CertificateError::Malformed { number: at + 1 })?;
        }
        let leaf = chain.first().cloned().ok_or(CertificateError::NoCertificate)?;
        let key = Arc::new(CertifiedKey::new(chain, key));
        key.keys_match().map_err(|_| CertificateError::OtherKey)?;
        let (_, parsed) = X509Certificate::from_der(&leaf)
            .map_err(|_| CertificateError::Malformed { number: 1 })?;
        let (hosts, wildcards) = names(&parsed);
        let validity = parsed.validity();
        Ok(Self {
            key,
            hosts,
            wildcards,
            not_before_s: validity.not_before.timestamp(),
            not_after_s: validity.not_after.timestamp(),
            fingerprint: Sha256::digest(&leaf).into(),
        })
    }

    /// The same, but for one whose time has passed at `now_s` of Unix time.
    ///
    /// # Errors
    /// As [`Certificate::from_pem`], and when it has expired.
    pub fn from_pem_at(chain: &[u8], key: &[u8], now_s: i64) -> Result<Self, CertificateError> {
        let certificate = Self::from_pem(chain, key)?;
        match certificate.days_left(now_s) {
            days @ ..0 => Err(CertificateError::Expired { days: -days }),
            _ => Ok(certificate),
        }
    }

    /// The names that it is for, wildcards with their star.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let hosts = self.hosts.iter().map(|host| host.to_string());
        hosts.chain(self.wildcards.iter().map(|suffix| format!("*.{suffix}")))
    }

    /// Whether it is for this host, which is in lower case.
    pub fn covers(&self, host: &str) -> bool {
        self.hosts.iter().any(|name| &**name == host)
            || parent(host)
                .is_some_and(|suffix| self.wildcards.iter().any(|name| &**name == suffix))
    }

    /// From when on it holds, in Unix time.
    pub fn not_before_s(&self) -> i64 {
        self.not_before_s
    }

    /// Until when it holds, in Unix time.
    pub fn not_after_s(&self) -> i64 {
        self.not_after_s
    }

    /// Whole days that it still holds; negative once it has expired.
    pub fn days_left(&self, now_s: i64) -> i64 {
        (self.not_after_s - now_s).div_euclid(SECONDS_PER_DAY)
    }

    /// The SHA-256 of the leaf, in hex.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn hosts(&self) -> &[Box<str>] {
        &self.hosts
    }

    pub(super) fn wildcards(&self) -> &[Box<str>] {
        &self.wildcards
    }

    pub(super) fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        f.debug_struct("Certificate")
            .field("names", &names)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

/// A host without its first label, which is what a wildcard stands for (RFC 9525 §6.3).
pub(super) fn parent(host: &str) -> Option<&str> {
    let (label, parent) = host.split_once('.')?;
    (!label.is_empty() && !parent.is_empty()).then_some(parent)
}

fn names(leaf: &X509Certificate<'_>) -> (Vec<Box<str>>, Vec<Box<str>>) {
    let (mut hosts, mut wildcards) = (Vec::new(), Vec::new());
    let Ok(Some(alternative)) = leaf.subject_alternative_name() else { return (hosts, wildcards) };
    for name in &alternative.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                match name.strip_prefix("*.") {
                    Some(suffix) => wildcards.push(suffix.into()),
                    None => hosts.push(name.into()),
                }
            }
            GeneralName::IPAddress(bytes) => hosts.extend(address(bytes)),
            _ => {}
        }
    }
    (hosts, wildcards)
}

fn address(bytes: &[u8]) -> Option<Box<str>> {
    let addr: std::net::IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        16 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        _ => return None,
    };
    Some(addr.to_string().into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A chain and a key as PEM, signed by itself.
    pub(crate) fn pem(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    pub(crate) fn certificate(names: &[&str]) -> Certificate {
        let (chain, key) = pem(names);
        Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let certificate = certificate(&["www.example.org", "*.example.org", "127.0.0.1"]);
        for (host, expected) in [
            ("www.example.org", true),
            ("api.example.org", true),
            ("127.0.0.1", true),
            ("a.b.example.org", false),
            ("example.org", false),
            (".example.org", false),
            ("example.com", false),
        ] {
            assert_eq!(certificate.covers(host), expected, "{host}");
        }
        let names: Vec<_> = certificate.names().collect();
        assert_eq!(names, ["www.example.org", "127.0.0.1", "*.example.org"]);
    }

    #[test]
    fn what_is_no_certificate_with_its_own_key_is_refused() {
        let ((chain, key), (_, other)) = (pem(&["a.test"]), pem(&["b.test"]));
        let refused = |chain: &str, key: &str| {
            Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err().to_string()
        };
        assert!(refused(&chain, &other).contains("does not belong"));
        assert!(refused("", &key).contains("no certificate"));
        assert!(refused(&chain, "").contains("no private key"));
        let broken = chain.replace("MII", "MIA");
        assert!(refused(&broken, &key).contains("malformed"), "{}", refused(&broken, &key));
    }

    #[test]
    fn days_are_counted_to_the_end_and_an_expired_one_is_refused() {
        let (chain, key) = pem(&["a.test"]);
        let at = |now_s| Certificate::from_pem_at(chain.as_bytes(), key.as_bytes(), now_s);
        let end = certificate(&["a.test"]).not_after_s();
        assert_eq!(at(end - 1).unwrap().days_left(end - 1), 0);
        assert_eq!(at(end).unwrap().days_left(end - 3 * SECONDS_PER_DAY), 3);
        assert!(matches!(at(end + 1), Err(CertificateError::Expired { days: 1 })));
    }

    #[test]
    fn a_key_is_never_shown() {
        let shown = format!("{:?}", certificate(&["a.test"]));
        assert!(shown.starts_with("Certificate { names: [\"a.test\"], fingerprint: "), "{shown}");
        assert!(!shown.to_lowercase().contains("key"), "{shown}");
    }
}
