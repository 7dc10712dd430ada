//! Whom a TLS probe trusts: the system's authorities, a file's, or anybody.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use portolan_discovery::model::HttpCheck;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::ProbeError;

/// Makes the configuration of `check`; reads files, so it runs beside the other tasks.
pub(super) async fn config(check: &HttpCheck) -> Result<Arc<ClientConfig>, ProbeError> {
    let (verify, ca_file) = (check.verify, check.ca_file.clone());
    let made = tokio::task::spawn_blocking(move || make(verify, ca_file.as_deref())).await;
    match made {
        Ok(Ok(config)) => Ok(Arc::new(config)),
        Ok(Err(cause)) => Err(ProbeError::Setup(cause)),
        Err(_) => Err(ProbeError::Setup("reading certificates failed".to_owned())),
    }
}

fn make(verify: bool, ca_file: Option<&str>) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = if verify {
        let roots = match ca_file {
            Some(file) => Arc::new(roots_in(Path::new(file))?),
            None => system_roots()?,
        };
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each probe makes a whole handshake: a resumed one would not look at the certificate.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn roots_in(file: &Path) -> Result<RootCertStore, String> {
    let named = |cause: &dyn std::fmt::Display| format!("ca_file {}: {cause}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| named(&error))? {
        let certificate = certificate.map_err(|error| named(&error))?;
        roots.add(certificate).map_err(|error| named(&error))?;
    }
    if roots.is_empty() {
        return Err(named(&"it has no certificate"));
    }
    Ok(roots)
}

/// The system's authorities, read once: some hundred certificates that change with the system.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let cause = loaded.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("the system has no trusted certificates{cause}; set ca_file"));
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

/// Trusts any certificate; the peer must still hold its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
