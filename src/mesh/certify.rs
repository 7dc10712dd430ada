//! Follows the certificates: those of files as they change, and those of the store. What is shown
//! is published to the router as one set.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_discovery::model::{CertificateName, Key};
use portolan_discovery::snapshot::{Rejected, Snapshot};
use portolan_router::{Certificate, CertificateSet, Certificates};
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};
use tokio_util::sync::CancellationToken;

use crate::certificates::{Follower, Stored};
use crate::clock;

/// Whole days that a certificate still holds, by certificate; negative once it has expired.
pub const DAYS_LEFT: &str = "portolan_certificate_days_left";
/// Certificates that were not taken.
pub const REFUSED: &str = "portolan_certificates_refused_total";

/// From one look at the files to the next.
const POLL: Duration = Duration::from_secs(1);

/// What shows certificates.
pub(super) struct Certifier {
    /// Held while files are read.
    follower: Mutex<Follower>,
    /// Held while a set is made: what is published last is what was known last.
    known: Mutex<Known>,
    certificates: Arc<Certificates>,
    days_left: IntGaugeVec,
    refused: IntCounter,
}

/// The last good certificates.
struct Known {
    files: Vec<(CertificateName, Arc<Certificate>)>,
    stored: Stored,
}

impl Known {
    /// Those of files come first: where the store has one of the same name or host, they win.
    fn set(&self) -> CertificateSet {
        let is_of_a_file = |name| self.files.iter().any(|(file, _)| file == name);
        let stored = self.stored.certificates().filter(|(name, _)| !is_of_a_file(*name));
        let stored = stored.map(|(name, certificate)| (name.clone(), Arc::clone(certificate)));
        CertificateSet::new(self.files.iter().cloned().chain(stored))
    }
}

impl Certifier {
    /// Publishes what there is.
    pub(super) fn new(
        follower: Follower,
        certificates: Arc<Certificates>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let days_left = IntGaugeVec::new(
            Opts::new(DAYS_LEFT, "Whole days that a certificate still holds."),
            &["certificate"],
        )?;
        let refused = IntCounter::new(REFUSED, "Certificates that were not taken.")?;
        registry.register(Box::new(days_left.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        let known = Known { files: follower.certificates().collect(), stored: Stored::default() };
        let certifier = Self {
            follower: Mutex::new(follower),
            known: Mutex::new(known),
            certificates,
            days_left,
            refused,
        };
        certifier.publish(&lock(&certifier.known));
        Ok(certifier)
    }

    /// Shows what the store's snapshot has, as soon as it returns.
    pub(super) fn follow(&self, snapshot: &Snapshot) {
        let mut known = lock(&self.known);
        if known.stored.follow(snapshot) {
            for (name, _) in &known.files {
                if snapshot.certificate(name.as_str()).is_some() {
                    tracing::warn!(
                        certificate = %name,
                        "the store has a certificate of this name, too; the file's is shown"
                    );
                }
            }
            self.publish(&known);
        }
    }

    /// Counts records of certificates that were not taken.
    pub(super) fn count_rejected(&self, records: &[Rejected]) {
        let refused = records
            .iter()
            .filter(|record| matches!(record.key.parse::<Key>(), Ok(Key::Certificate(_))));
        self.refused.inc_by(refused.count() as u64);
    }

    fn publish(&self, known: &Known) {
        let before = self.certificates.current();
        let set = Arc::new(known.set());
        self.certificates.publish(Arc::clone(&set));
        for (name, _) in before.iter().filter(|(name, _)| set.named(Some(name)).is_none()) {
            // Fails only when it was never counted.
            let _ = self.days_left.remove_label_values(&[name.as_str()]);
        }
        self.count(&set);
    }

    fn count(&self, set: &CertificateSet) {
        let now_s = clock::unix_s();
        for (name, certificate) in set.iter() {
            let days = certificate.days_left(now_s);
            self.days_left.with_label_values(&[name.as_str()]).set(days);
        }
    }

    /// Looks at the files once; reads them, so it runs beside the other tasks.
    fn look(&self) {
        let mut follower = lock(&self.follower);
        let look = follower.look();
        self.refused.inc_by(look.refused.len() as u64);
        let mut known = lock(&self.known);
        if look.changed {
            known.files = follower.certificates().collect();
            self.publish(&known);
        } else {
            self.count(&self.certificates.current());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows until the process stops.
pub(super) async fn run(certifier: Arc<Certifier>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = cancel.cancelled() => return,
        }
        let certifier = Arc::clone(&certifier);
        if tokio::task::spawn_blocking(move || certifier.look()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use portolan_discovery::model::record::encode;
    use portolan_discovery::model::{CertificatePair, Event, Kv, Revision};

    use super::*;
    use crate::certificates::{CertificateFiles, judge, pair, pem};

    /// A certifier that follows one pair of files, `web` for `a.test` and `b.test`.
    struct Desk {
        certifier: Certifier,
        snapshot: Snapshot,
        folder: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = |name| folder.path().join(name);
            let desk_files = CertificateFiles {
                name: "web".parse().unwrap(),
                chain_file: path("chain.pem"),
                key_file: path("key.pem"),
            };
            write(&folder, &["a.test", "b.test"]);
            let follower = Follower::start(vec![desk_files]).unwrap();
            let certifier = Certifier::new(follower, Arc::default(), &Registry::new()).unwrap();
            Self { certifier, snapshot: Snapshot::default(), folder }
        }

        fn apply(&mut self, event: Event) {
            let revision = self.snapshot.revision.next();
            let (next, rejected) = self.snapshot.apply_judged(&[event], revision, &judge);
            self.certifier.count_rejected(&rejected);
            self.certifier.follow(&next);
            self.snapshot = next;
        }

        fn put(&mut self, pair: &CertificatePair) {
            self.apply(Event::Put(Kv {
                key: Key::Certificate(pair.name().clone()).to_string(),
                value: encode(pair),
                created: Revision(1),
                modified: Revision(1),
                lease: None,
            }));
        }

        fn delete(&mut self, name: &str) {
            let key = Key::Certificate(name.parse().unwrap()).to_string();
            self.apply(Event::Delete { key, revision: self.snapshot.revision.next() });
        }

        /// `shop b.test c.test`, by name.
        fn set(&self) -> Vec<String> {
            let set = self.certifier.certificates.current();
            let all = set.iter().map(|(name, certificate)| {
                format!("{name} {}", certificate.names().collect::<Vec<_>>().join(" "))
            });
            all.collect()
        }

        /// The names that a client is shown which asks for a host.
        fn shown(&self, host: &str) -> String {
            let set = self.certifier.certificates.current();
            set.find(host)
                .map_or_else(String::new, |found| found.names().collect::<Vec<_>>().join(" "))
        }

        fn counted(&self) -> usize {
            use prometheus::core::Collector;
            self.certifier.days_left.collect()[0].get_metric().len()
        }
    }

    fn write(folder: &tempfile::TempDir, names: &[&str]) {
        let (chain, key) = pem(names, 2999);
        fs::write(folder.path().join("chain.pem"), chain).unwrap();
        fs::write(folder.path().join("key.pem"), key).unwrap();
    }

    #[test]
    fn files_and_store_are_one_set_in_which_files_come_first() {
        let mut desk = Desk::new();
        desk.put(&pair("shop", pem(&["b.test", "c.test"], 2999)));
        assert_eq!(desk.set(), ["shop b.test c.test", "web a.test b.test"]);
        assert_eq!(desk.shown("b.test"), "a.test b.test", "a file's comes first");
        assert_eq!(desk.shown("c.test"), "b.test c.test");
        assert_eq!(desk.counted(), 2);
        // One of a file's name is hidden by it, and shows nowhere.
        desk.put(&pair("web", pem(&["hidden.test"], 2999)));
        assert_eq!(desk.set(), ["shop b.test c.test", "web a.test b.test"]);
        assert_eq!(desk.shown("hidden.test"), "");
        // Without the file's name for it, the store's is the host's.
        write(&desk.folder, &["a.test"]);
        desk.certifier.look();
        desk.certifier.look();
        assert_eq!(desk.set(), ["shop b.test c.test", "web a.test"]);
        assert_eq!(desk.shown("b.test"), "b.test c.test");
        desk.delete("shop");
        assert_eq!(desk.set(), ["web a.test"]);
        assert_eq!((desk.shown("b.test"), desk.counted()), (String::new(), 1));
    }

    #[test]
    fn only_records_of_certificates_are_counted_as_refused_ones() {
        let mut desk = Desk::new();
        let good = pair("shop", pem(&["c.test"], 2999));
        desk.put(&good);
        let other = pem(&["d.test"], 2999).1;
        desk.put(&pair("shop", (good.chain_pem().to_owned(), other)));
        assert_eq!(desk.certifier.refused.get(), 1);
        assert_eq!(desk.shown("c.test"), "c.test");
        let key = "/portolan/v1/d/r/web".to_owned();
        desk.certifier.count_rejected(&[Rejected { key, cause: "test".into() }]);
        assert_eq!(desk.certifier.refused.get(), 1);
    }
}
