//! All certificates, by name and by the hosts that they are for; replaced as a whole, without
//! touching a connection.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use portolan_discovery::model::CertificateName;

use super::certificate::{Certificate, parent};

/// Certificates that do not change.
#[derive(Debug, Default, Clone)]
pub struct CertificateSet {
    by_name: BTreeMap<CertificateName, Arc<Certificate>>,
    first: Option<CertificateName>,
    hosts: HashMap<Box<str>, Arc<Certificate>>,
    wildcards: HashMap<Box<str>, Arc<Certificate>>,
}

impl CertificateSet {
    /// A set of these. Of several for one host the first is shown.
    pub fn new(all: impl IntoIterator<Item = (CertificateName, Arc<Certificate>)>) -> Self {
        let mut set = Self::default();
        for (name, certificate) in all {
            for host in certificate.hosts() {
                set.hosts.entry(host.clone()).or_insert_with(|| Arc::clone(&certificate));
            }
            for suffix in certificate.wildcards() {
                set.wildcards.entry(suffix.clone()).or_insert_with(|| Arc::clone(&certificate));
            }
            set.first.get_or_insert_with(|| name.clone());
            set.by_name.entry(name).or_insert(certificate);
        }
        set
    }

    /// The certificate for a host in lower case: one that names it, else a wildcard.
    pub fn find(&self, host: &str) -> Option<&Arc<Certificate>> {
        self.hosts.get(host).or_else(|| self.wildcards.get(parent(host)?))
    }

    /// The certificate of a name; of none, the first.
    pub fn named(&self, name: Option<&CertificateName>) -> Option<&Arc<Certificate>> {
        self.by_name.get(name.or(self.first.as_ref())?)
    }

    /// All of them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&CertificateName, &Arc<Certificate>)> {
        self.by_name.iter()
    }
}

/// The certificates in force, which all workers share.
#[derive(Debug, Default)]
pub struct Certificates {
    /// Read once a handshake, which costs a thousand times as much.
    set: RwLock<Arc<CertificateSet>>,
}

impl Certificates {
    /// The set in force.
    pub fn current(&self) -> Arc<CertificateSet> {
        Arc::clone(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Handshakes that begin from now on use `set`; connections go on.
    pub fn publish(&self, set: Arc<CertificateSet>) {
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = set;
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::certificate;
    use super::*;

    fn name(text: &str) -> CertificateName {
        CertificateName::parse(text).unwrap()
    }

    #[test]
    fn a_host_gets_the_certificate_that_names_it_before_a_wildcard() {
        let exact = Arc::new(certificate(&["www.example.org"]));
        let wildcard = Arc::new(certificate(&["*.example.org"]));
        let set = CertificateSet::new([
            (name("wide"), Arc::clone(&wildcard)),
            (name("www"), Arc::clone(&exact)),
        ]);
        let found = |host| set.find(host).cloned();
        assert_eq!(found("www.example.org"), Some(exact.clone()));
        assert_eq!(found("api.example.org"), Some(wildcard.clone()));
        assert_eq!(found("a.api.example.org"), None);
        assert_eq!(found("example.org"), None);
        assert_eq!(set.named(None), Some(&wildcard));
        assert_eq!(set.named(Some(&name("www"))), Some(&exact));
        assert_eq!(set.named(Some(&name("other"))), None);
    }

    #[test]
    fn of_two_for_one_host_the_first_is_shown() {
        let (first, second) = (certificate(&["a.test"]), certificate(&["a.test"]));
        let first = Arc::new(first);
        let set =
            CertificateSet::new([(name("b"), Arc::clone(&first)), (name("a"), Arc::new(second))]);
        assert_eq!(set.find("a.test"), Some(&first));
    }
}
