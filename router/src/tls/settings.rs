//! How a listener speaks TLS, as the configuration says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::{CertificateName, Hsts};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

/// Default of [`TlsSettings::handshake_timeout`]: as long as a request head may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The oldest version that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2 (RFC 5246)
    #[default]
    V12,
    /// 1.3 (RFC 8446)
    V13,
}

/// What a client gets that asks for a host without a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownName {
    /// The default certificate, as one that names no host.
    #[default]
    Default,
    /// The alert `unrecognized_name`.
    Refuse,
}

/// Whose certificates clients may or must show.
#[derive(Debug, Clone)]
pub struct ClientCertificates {
    pub(super) authorities: Arc<RootCertStore>,
    pub(super) required: bool,
}

/// What should be authorities are none.
#[derive(Debug, thiserror::Error)]
pub enum ClientCertificatesError {
    /// It is no PEM.
    #[error("it cannot be read: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// A certificate of it cannot sign others.
    #[error("certificate {number} of it is no authority: {source}")]
    Authority {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// It has nothing.
    #[error("it has no certificate")]
    Empty,
}

impl ClientCertificates {
    /// Those that an authority of this PEM has signed.
    ///
    /// # Errors
    /// When a certificate cannot be read, or there is none.
    pub fn of(authorities: &[u8], required: bool) -> Result<Self, ClientCertificatesError> {
        let authorities = Arc::new(authorities_of(authorities)?);
        Ok(Self { authorities, required })
    }

    /// A sum of what is asked, the same on every machine that asks the same.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let roots = self.authorities.roots.iter().map(|root| {
            let mut sum = Sha256::new();
            let constraints = root.name_constraints.as_deref();
            for part in [&*root.subject, &*root.subject_public_key_info, constraints.unwrap_or(&[])]
            {
                sum.update((part.len() as u64).to_be_bytes());
                sum.update(part);
            }
            <[u8; 32]>::from(sum.finalize())
        });
        let roots: BTreeSet<_> = roots.collect();
        let mut sum = Sha256::new();
        sum.update([u8::from(self.required)]);
        roots.iter().for_each(|root| sum.update(root));
        sum.finalize().into()
    }
}

impl PartialEq for ClientCertificates {
    fn eq(&self, other: &Self) -> bool {
        self.required == other.required && self.authorities.roots == other.authorities.roots
    }
}

impl Eq for ClientCertificates {}

/// The authorities that stand in a text.
pub(super) fn authorities_of(pem: &[u8]) -> Result<RootCertStore, ClientCertificatesError> {
    let mut authorities = RootCertStore::empty();
    for (at, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        authorities
            .add(certificate?)
            .map_err(|source| ClientCertificatesError::Authority { number: at + 1, source })?;
    }
    match authorities.is_empty() {
        true => Err(ClientCertificatesError::Empty),
        false => Ok(authorities),
    }
}

/// How a listener speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Shown to clients that name no host, or one that is unknown; without it the first.
    pub default_certificate: Option<CertificateName>,
    /// What a client gets that names an unknown host.
    pub unknown_name: UnknownName,
    /// The oldest version.
    pub version_min: TlsVersion,
    /// From the first byte to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Certificates of clients; none are asked for without it.
    pub clients: Option<ClientCertificates>,
    /// Whether browsers are told to come by https only.
    pub hsts: Option<Hsts>,
    /// What a listener of bytes agrees on with a client (ALPN), the best first: what its instances
    /// speak. A PROXY header of version 2 tells them which.
    pub alpn: Vec<Vec<u8>>,
}

/// The line that tells browsers, whole.
pub(crate) fn hsts_line(hsts: Hsts) -> String {
    let subdomains = if hsts.subdomains { "; includeSubDomains" } else { "" };
    let preload = if hsts.preload { "; preload" } else { "" };
    let seconds = hsts.max_age_s;
    format!("Strict-Transport-Security: max-age={seconds}{subdomains}{preload}\r\n")
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            default_certificate: None,
            unknown_name: UnknownName::Default,
            version_min: TlsVersion::V12,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            clients: None,
            hsts: None,
            alpn: Vec::new(),
        }
    }
}
