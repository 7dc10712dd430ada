//! Certificates of the store: what is taken into it, what is taken out of it, and which are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_discovery::model::{CertificateName, CertificatePair};
use portolan_discovery::snapshot::Snapshot;
use portolan_router::{Certificate, CertificateError};

use crate::clock;

/// Why a pair is not one for the store.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// It is no certificate with its key, or has expired.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It is for nobody.
    #[error("the certificate has no names")]
    Nameless,
}

impl PairError {
    /// Which of the two is to be looked at.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Certificate(
                CertificateError::NoKey | CertificateError::Key(_) | CertificateError::OtherKey,
            ) => "key",
            Self::Certificate(_) | Self::Nameless => "chain",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        let Self::Certificate(error) = self else {
            return "issue one with subjectAltName; clients do not read any other name";
        };
        match error {
            CertificateError::NoCertificate
            | CertificateError::Chain(_)
            | CertificateError::Malformed { .. } => {
                "send the certificate and those that lead to its authority as PEM, in this order"
            }
            CertificateError::NoKey => {
                "send it as PEM; `openssl pkey` decrypts a key that has a pass phrase"
            }
            CertificateError::Key(_) => "use a key of ECDSA (P-256, P-384), RSA or Ed25519",
            CertificateError::OtherKey => {
                "send the key that this certificate was asked for with, and its own certificate first"
            }
            CertificateError::Expired { .. } => "renew it first",
        }
    }
}

/// Checks a pair that is to be written or to take the place of another one.
///
/// # Errors
/// When it is not good, has expired or is for nobody.
pub fn check(pair: &CertificatePair) -> Result<Certificate, PairError> {
    let (chain, key) = (pair.chain_pem().as_bytes(), pair.key_pem().as_bytes());
    let certificate = Certificate::from_pem_at(chain, key, clock::unix_s())?;
    if certificate.names().next().is_none() {
        return Err(PairError::Nameless);
    }
    Ok(certificate)
}

/// Reads a pair, whether or not it has expired: what that means is for clients to say.
fn read(pair: &CertificatePair) -> Result<Certificate, CertificateError> {
    Certificate::from_pem(pair.chain_pem().as_bytes(), pair.key_pem().as_bytes())
}

/// Says whether a record of the store is taken: what was written by the API is good, but others
/// may write, too. One that has expired is no gain where there is another one.
///
/// # Errors
/// What is wrong with it.
pub fn judge(pair: &CertificatePair, known: Option<&CertificatePair>) -> Result<(), String> {
    match known {
        Some(_) => check(pair).map(drop).map_err(|error| error.to_string()),
        None => read(pair).map(drop).map_err(|error| error.to_string()),
    }
}

/// The certificates of the store, as the last snapshot has them.
#[derive(Debug, Default)]
pub struct Stored {
    seen: Snapshot,
    by_name: BTreeMap<CertificateName, Arc<Certificate>>,
}

impl Stored {
    /// Takes what differs in `snapshot`; whether anything did.
    pub fn follow(&mut self, snapshot: &Snapshot) -> bool {
        let differing = snapshot.certificates_since(&self.seen);
        for name in &differing {
            let Some(pair) = snapshot.certificate(name.as_str()) else {
                self.by_name.remove(name);
                tracing::info!(certificate = %name, "a certificate was removed from the store");
                continue;
            };
            match read(pair) {
                Ok(certificate) => {
                    let days = certificate.days_left(clock::unix_s());
                    tracing::info!(certificate = %name, days, "a certificate of the store was taken");
                    self.by_name.insert(name.clone(), Arc::new(certificate));
                }
                // Only a saved table that was changed by hand can have it.
                Err(error) => tracing::error!(
                    certificate = %name, %error,
                    "a certificate of the store is not taken; the last good one is shown"
                ),
            }
        }
        self.seen = snapshot.clone();
        !differing.is_empty()
    }

    /// All of them, by name.
    pub fn certificates(&self) -> impl Iterator<Item = (&CertificateName, &Arc<Certificate>)> {
        self.by_name.iter()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use portolan_discovery::model::record::encode;
    use portolan_discovery::model::{Event, Key, Kv, Revision};

    use super::*;

    /// A pair for these names, signed by itself, that holds until the end of a year.
    pub(crate) fn pem(names: &[&str], year: i32) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// A record of a pair.
    pub(crate) fn pair(name: &str, (chain, key): (String, String)) -> CertificatePair {
        CertificatePair::new(name.parse().unwrap(), chain, key, 0).unwrap()
    }

    fn put(pair: &CertificatePair) -> Event {
        Event::Put(Kv {
            key: Key::Certificate(pair.name().clone()).to_string(),
            value: encode(pair),
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        })
    }

    #[test]
    fn a_pair_that_is_no_good_is_refused_with_what_to_do() {
        let (good, other) = (pem(&["a.test"], 2999), pem(&["b.test"], 2999));
        assert!(check(&pair("web", good.clone())).is_ok());
        for (given, field, text, hint) in [
            ((good.0.clone(), other.1), "key", "does not belong", "asked for with"),
            (pem(&["a.test"], 2000), "chain", "expired", "renew"),
            (pem(&[], 2999), "chain", "no names", "subjectAltName"),
            ((String::new(), good.1.clone()), "chain", "no certificate", "as PEM"),
            ((good.0.clone(), String::new()), "key", "no private key", "pass phrase"),
        ] {
            let error = check(&pair("web", given)).unwrap_err();
            assert_eq!(error.field(), field, "{error}");
            assert!(error.to_string().contains(text), "{error}");
            assert!(error.hint().contains(hint), "{error}: {}", error.hint());
        }
    }

    #[test]
    fn one_that_has_expired_is_shown_where_there_is_no_other() {
        let (old, new) = (pair("web", pem(&["a.test"], 2000)), pair("web", pem(&["a.test"], 2999)));
        assert_eq!(judge(&old, None), Ok(()));
        assert!(judge(&old, Some(&new)).unwrap_err().contains("expired"));
        assert_eq!(judge(&new, Some(&old)), Ok(()));
    }

    #[test]
    fn the_store_s_certificates_follow_its_snapshots() {
        let first = pair("web", pem(&["a.test"], 2999));
        let (snapshot, _) = Snapshot::default().apply_judged(&[put(&first)], Revision(1), &judge);
        let mut stored = Stored::default();
        assert!(stored.follow(&snapshot) && !stored.follow(&snapshot));
        let names = |stored: &Stored| {
            let all = stored.certificates().map(|(name, certificate)| {
                format!("{name} {}", certificate.names().collect::<Vec<_>>().join(" "))
            });
            all.collect::<Vec<_>>()
        };
        assert_eq!(names(&stored), ["web a.test"]);
        let bad = pair("web", (first.chain_pem().to_owned(), pem(&["b.test"], 2999).1));
        let (same, rejected) = snapshot.apply_judged(&[put(&bad)], Revision(2), &judge);
        assert!(rejected[0].to_string().contains("does not belong"), "{rejected:?}");
        assert!(!stored.follow(&same));
        let next = pair("web", pem(&["b.test"], 2999));
        let (next, _) = same.apply_judged(&[put(&next)], Revision(3), &judge);
        assert!(stored.follow(&next));
        assert_eq!(names(&stored), ["web b.test"]);
        assert!(stored.follow(&Snapshot::default()));
        assert_eq!(names(&stored), Vec::<String>::new());
    }
}
