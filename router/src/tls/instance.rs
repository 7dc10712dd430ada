//! The router's side of sessions with instances.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use portolan_discovery::model::{HttpVersion, Protocol, Service, ServiceTls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tracing::{debug, error};

use super::certificate::CHAIN_BYTES_MAX;
use super::provider;
use super::settings::authorities_of;
use crate::stream::{Secured, Stream};

/// How the instances of one service are spoken to. Made when the service's record changes, which
/// is when its files are read.
#[derive(Debug)]
pub struct InstanceTls {
    settings: ServiceTls,
    protocol: Protocol,
    version: HttpVersion,
    /// None: a file could not be used, and nobody is spoken to. To go on without would be to trust
    /// anybody.
    config: Option<Arc<ClientConfig>>,
}

/// The handshake with an instance failed.
#[derive(Debug, thiserror::Error)]
#[error("the handshake with the instance failed")]
pub(crate) struct InstanceTlsError(#[source] io::Error);

impl InstanceTls {
    /// The same as `previous` while nothing has changed.
    pub(crate) fn of(service: &Service, previous: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let Service { name, protocol, tls, .. } = service;
        let (settings, protocol, version) = (tls.as_ref()?, *protocol, service.http_version);
        let same = |tls: &&Arc<Self>| {
            tls.settings == *settings
                && (tls.protocol, tls.version) == (protocol, version)
                && tls.config.is_some()
        };
        if let Some(previous) = previous.filter(same) {
            return Some(Arc::clone(previous));
        }
        let config = match config(settings, protocol, version) {
            Ok(config) => Some(Arc::new(config)),
            Err(cause) => {
                error!(service = %name, %cause, "tls to the instances cannot be set up: none is used");
                None
            }
        };
        Some(Arc::new(Self { settings: settings.clone(), protocol, version, config }))
    }

    /// What the record says.
    pub fn settings(&self) -> &ServiceTls {
        &self.settings
    }

    /// Begins a session over a connection to the instance at `addr`.
    pub(crate) async fn connect(&self, stream: Stream, addr: SocketAddr) -> io::Result<Stream> {
        self.shaken(stream, addr).await.map_err(|error| {
            debug!(%addr, %error, "tls handshake with an instance failed");
            io::Error::other(InstanceTlsError(error))
        })
    }

    async fn shaken(&self, stream: Stream, addr: SocketAddr) -> io::Result<Stream> {
        let config = self.config.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let name = match &self.settings.name {
            Some(name) => {
                let name = name.as_str().trim_matches(['[', ']']).to_owned();
                ServerName::try_from(name).map_err(io::Error::other)?
            }
            None => ServerName::from(addr.ip()),
        };
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let Stream::Plain(tcp) = stream else { return Ok(stream) };
        let mut secured = Box::new(Secured::new(tcp, session, &[]));
        let mut seen = 0;
        std::future::poll_fn(|cx| secured.poll_shake(cx, &mut seen)).await?;
        let is_h2 = self.protocol == Protocol::Http && self.version == HttpVersion::H2;
        if is_h2 && secured.session().alpn_protocol() != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it does not speak HTTP/2"));
        }
        Ok(Stream::Tls(secured))
    }
}

fn config(
    settings: &ServiceTls,
    protocol: Protocol,
    version: HttpVersion,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if settings.verify {
        builder.with_root_certificates(match &settings.ca_file {
            Some(file) => {
                Arc::new(authorities_of(&read(file)?).map_err(|error| format!("{file}: {error}"))?)
            }
            None => system_roots()?,
        })
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    };
    let mut config = match (&settings.chain_file, &settings.key_file) {
        (Some(chain), Some(key)) => {
            let (chain, key) = pair(chain, key)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
        _ => builder.with_no_client_auth(),
    };
    if protocol == Protocol::Http {
        config.alpn_protocols = vec![match version {
            HttpVersion::H1 => b"http/1.1".to_vec(),
            HttpVersion::H2 => b"h2".to_vec(),
        }];
    }
    Ok(config)
}

fn pair(
    chain_file: &str,
    key_file: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = CertificateDer::pem_slice_iter(&read(chain_file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{chain_file}: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
        .map_err(|error| format!("{key_file}: {error}"))?;
    Ok((chain, key))
}

fn read(file: &str) -> Result<Vec<u8>, String> {
    let named = |error: io::Error| format!("{file}: {error}");
    if fs::metadata(file).map_err(named)?.len() > CHAIN_BYTES_MAX {
        return Err(format!("{file}: it has more than {CHAIN_BYTES_MAX} bytes"));
    }
    fs::read(file).map_err(named)
}

/// The system's authorities, read once: some hundred certificates that change with the system.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("the system has no trusted certificates; set ca_file".to_owned());
    }
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

/// Trusts any certificate; the instance must still hold its key.
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
