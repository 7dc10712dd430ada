//! Follows the certificates: those of files as they change. What is shown is published to the
//! router as one set.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_router::{CertificateSet, Certificates};
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};
use tokio_util::sync::CancellationToken;

use crate::certificates::Follower;
use crate::clock;

/// Whole days that a certificate still holds, by certificate; negative once it has expired.
pub const DAYS_LEFT: &str = "portolan_certificate_days_left";
/// Certificates that were not taken.
pub const REFUSED: &str = "portolan_certificates_refused_total";

/// From one look at the files to the next.
const POLL: Duration = Duration::from_secs(1);

/// What shows certificates.
pub(super) struct Certifier {
    follower: Mutex<Follower>,
    certificates: Arc<Certificates>,
    days_left: IntGaugeVec,
    refused: IntCounter,
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
        let certifier = Self { follower: Mutex::new(follower), certificates, days_left, refused };
        certifier.publish();
        Ok(certifier)
    }

    fn publish(&self) {
        let all: Vec<_> = self.follower().certificates().collect();
        self.certificates.publish(Arc::new(CertificateSet::new(all)));
        self.count();
    }

    fn count(&self) {
        let now_s = clock::unix_s();
        for (name, certificate) in self.certificates.current().iter() {
            let days = certificate.days_left(now_s);
            self.days_left.with_label_values(&[name.as_str()]).set(days);
        }
    }

    /// Looks at the files once; reads them, so it runs beside the other tasks.
    fn look(&self) {
        let look = self.follower().look();
        self.refused.inc_by(look.refused.len() as u64);
        match look.changed {
            true => self.publish(),
            false => self.count(),
        }
    }

    fn follower(&self) -> std::sync::MutexGuard<'_, Follower> {
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
