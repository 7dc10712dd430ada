//! A listener's side of every session: made once, shared by the workers.

use std::sync::Arc;
use std::time::Duration;

use portolan_discovery::model::CertificateName;
use rustls::ServerConfig;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::certificates::Certificates;
use super::settings::{TlsSettings, TlsVersion, UnknownName};
use super::tickets::{ListenerTickets, Tickets};
use super::{Certificate, provider};

/// How one listener serves TLS.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(super) config: Arc<ServerConfig>,
    pub(super) handshake_timeout: Duration,
    resolver: Arc<Resolver>,
    unknown_name: UnknownName,
}

impl Serving {
    /// Agrees on the first of `protocols` that the client has. With the keys of `tickets`, which all
    /// listeners share: a client that was here comes back to any worker.
    pub(crate) fn new(
        settings: &TlsSettings,
        protocols: Vec<Vec<u8>>,
        certificates: &Arc<Certificates>,
        tickets: &Arc<Tickets>,
    ) -> Result<Self, rustls::Error> {
        let versions = match settings.version_min {
            TlsVersion::V12 => &[&TLS13, &TLS12][..],
            TlsVersion::V13 => &[&TLS13],
        };
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let builder = match &settings.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let authorities = Arc::clone(&clients.authorities);
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider());
                let verifier = match clients.required {
                    true => verifier,
                    false => verifier.allow_unauthenticated(),
                };
                let verifier =
                    verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let resolver = Arc::new(Resolver {
            certificates: Arc::clone(certificates),
            default: settings.default_certificate.clone(),
        });
        let mut config = builder.with_cert_resolver(Arc::clone(&resolver) as _);
        // Tickets hold what a session needs; the alternative is a store that workers lock.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(ListenerTickets::new(tickets, settings.clients.as_ref()));
        config.alpn_protocols = protocols;
        Ok(Self {
            config: Arc::new(config),
            handshake_timeout: settings.handshake_timeout,
            resolver,
            unknown_name: settings.unknown_name,
        })
    }

    /// The certificate to show to a client that asks for this host.
    pub(super) fn shows(&self, host: Option<&str>) -> Option<Arc<Certificate>> {
        let set = self.resolver.certificates.current();
        match (host.and_then(|host| set.find(host)), host, self.unknown_name) {
            (Some(found), _, _) => Some(Arc::clone(found)),
            (None, Some(_), UnknownName::Refuse) => None,
            (None, _, _) => set.named(self.resolver.default.as_ref()).cloned(),
        }
    }

    /// Whether a connection on which `shown` was shown for `name` is not the one for `host`: a
    /// connection of its own would be shown another certificate. A client may use a connection
    /// for all that the certificate is for (RFC 9110 §4.3.3), and one that names no host could do
    /// no better.
    pub(crate) fn is_misdirected(&self, name: &str, shown: &Certificate, host: &str) -> bool {
        if host == name || shown.covers(host) {
            return false;
        }
        let set = self.resolver.certificates.current();
        set.find(host).is_some_and(|own| **own != *shown)
    }
}

#[derive(Debug)]
struct Resolver {
    certificates: Arc<Certificates>,
    default: Option<CertificateName>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.certificates.current();
        let found = hello.server_name().and_then(|host| set.find(host));
        Some(found.or_else(|| set.named(self.default.as_ref()))?.key())
    }
}
