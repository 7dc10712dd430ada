//! TLS at a listener: certificates, who gets which, and the handshake. How bytes pass through a
//! session afterwards is `stream`'s.
//!
//! rustls is always given its provider, so no other part of the process decides for it.

mod certificate;
mod certificates;
mod instance;
mod peer;
mod serve;
mod serving;
mod settings;
mod tickets;

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use certificate::{CHAIN_BYTES_MAX, Certificate, CertificateError};
pub use certificates::{CertificateSet, Certificates};
pub use instance::InstanceTls;
pub use settings::{
    ClientCertificates, ClientCertificatesError, HANDSHAKE_TIMEOUT, TlsSettings, TlsVersion,
    UnknownName,
};

pub use tickets::{NoRandomness, Tickets, fresh_ticket_key, fresh_ticket_keys};

pub(crate) use instance::InstanceTlsError;
pub(crate) use serve::{Outcome, serve};
pub(crate) use serving::Serving;
pub(crate) use settings::hsts_line;

/// The algorithms of every session: aws-lc-rs, with the key exchange that a quantum computer does
/// not break before the others.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
        let kx_groups = vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1];
        Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
    });
    Arc::clone(provider)
}
