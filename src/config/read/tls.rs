//! TLS of listeners, and certificates: their files are read, so that what is wrong with them is
//! told where they are named.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_discovery::model::{Hsts, Protocol};
use portolan_router::{
    ClientCertificates, HANDSHAKE_TIMEOUT, TlsSettings, TlsVersion, UnknownName,
};
use toml::Spanned;

use super::Reader;
use crate::certificates::CertificateFiles;
use crate::config::error::ConfigError;
use crate::config::file::{CertificateFile, HstsFile, ListenerFile, TlsFile};
use crate::config::value::{ClientWord, UnknownNameWord, VersionWord};

/// RFC 7301 §3.1.
const ALPN_BYTES_MAX: usize = 255;

impl Reader<'_> {
    pub(super) fn certificates(
        &self,
        files: Vec<Spanned<CertificateFile>>,
    ) -> Result<Vec<CertificateFiles>, ConfigError> {
        let mut certificates: Vec<CertificateFiles> = Vec::new();
        for file in files {
            let CertificateFile { name, chain_file, key_file } = file.into_inner();
            if certificates.iter().any(|other| other.name == *name.get_ref()) {
                return Err(self.source.at(
                    name.span(),
                    format!("certificate \"{}\" is there already", name.get_ref()),
                    "give each certificate a name of its own",
                ));
            }
            let place = chain_file.span();
            let pair = CertificateFiles {
                name: name.into_inner(),
                chain_file: self.existing_file(&chain_file)?,
                key_file: self.existing_file(&key_file)?,
            };
            // One that has expired is warned of: it is for clients to say what that means to them.
            if let Err(error) = pair.load() {
                let hint = "expected a chain and its own key, both as PEM";
                return Err(self.source.at(place, error.to_string(), hint));
            }
            certificates.push(pair);
        }
        Ok(certificates)
    }

    pub(super) fn tls(
        &self,
        file: TlsFile,
        protocol: Protocol,
    ) -> Result<TlsSettings, ConfigError> {
        let required = match &file.client_certificates {
            Some(word) if file.client_ca_file.is_none() => {
                return Err(self.source.at(
                    word.span(),
                    "client_certificates without client_ca_file".to_owned(),
                    "set client_ca_file to the authorities of your clients",
                ));
            }
            Some(word) => *word.get_ref() == ClientWord::Required,
            None => true,
        };
        let clients = file.client_ca_file.map(|path| self.clients(&path, required)).transpose()?;
        Ok(TlsSettings {
            default_certificate: file.default_certificate,
            unknown_name: match file.unknown_name {
                Some(UnknownNameWord::Refuse) => UnknownName::Refuse,
                Some(UnknownNameWord::Default) | None => UnknownName::Default,
            },
            version_min: match file.version_min {
                Some(VersionWord::V13) => TlsVersion::V13,
                Some(VersionWord::V12) | None => TlsVersion::V12,
            },
            handshake_timeout: file.handshake_timeout.map_or(HANDSHAKE_TIMEOUT, |span| span.0),
            clients,
            hsts: file.hsts.map(hsts),
            alpn: match file.alpn {
                Some(names) => self.alpn(&names, protocol)?,
                None => Vec::new(),
            },
        })
    }

    fn alpn(
        &self,
        names: &Spanned<Vec<String>>,
        protocol: Protocol,
    ) -> Result<Vec<Vec<u8>>, ConfigError> {
        let fits = |name: &String| (1..=ALPN_BYTES_MAX).contains(&name.len());
        let list = names.get_ref();
        let what = match protocol {
            Protocol::Tcp if !list.is_empty() && list.iter().all(fits) => {
                return Ok(list.iter().map(|name| name.clone().into_bytes()).collect());
            }
            Protocol::Tcp => "alpn has no name, or one of no or too many bytes",
            _ => "alpn is for a TCP listener: one of HTTP knows what it speaks",
        };
        let hint = "expected what the instances speak, such as [\"postgresql\"]";
        Err(self.source.at(names.span(), what, hint))
    }

    fn clients(
        &self,
        path: &Spanned<PathBuf>,
        required: bool,
    ) -> Result<ClientCertificates, ConfigError> {
        let full: &Path = &self.existing_file(path)?;
        let wrong = |error: &dyn std::fmt::Display| {
            let what = format!("client_ca_file {}: {error}", full.display());
            self.source.at(path.span(), what, "expected certificates of authorities as PEM")
        };
        let pem = fs::read(full).map_err(|error| wrong(&error))?;
        ClientCertificates::of(&pem, required).map_err(|error| wrong(&error))
    }

    pub(super) fn http2(&self, file: &ListenerFile) -> Result<bool, ConfigError> {
        let Some(http2) = &file.http2 else { return Ok(true) };
        match file.protocol {
            Protocol::Http => Ok(*http2.get_ref()),
            Protocol::Tcp | Protocol::Udp | Protocol::Tls => {
                let what = "only a listener of HTTP speaks HTTP/2";
                Err(self.source.at(http2.span(), what.to_owned(), "remove http2"))
            }
        }
    }

    pub(super) fn redirect_https(&self, file: &ListenerFile) -> Result<Option<u16>, ConfigError> {
        let Some(port) = &file.redirect_https else { return Ok(None) };
        let what = match (port.get_ref(), &file.tls, file.protocol) {
            (0, _, _) => "redirect_https is 0",
            (_, Some(_), _) => "a listener with tls would redirect to itself",
            (_, _, Protocol::Tcp | Protocol::Udp | Protocol::Tls) => {
                "a TCP, UDP or TLS listener has no requests to redirect"
            }
            (port, None, Protocol::Http) => return Ok(Some(*port)),
        };
        let hint = "expected the port of a listener with tls, on one that speaks plain HTTP";
        Err(self.source.at(port.span(), what.to_owned(), hint))
    }
}

pub(super) fn hsts(file: HstsFile) -> Hsts {
    let HstsFile { max_age, subdomains, preload } = file;
    let max_age: Duration = max_age.0;
    Hsts { max_age_s: max_age.as_secs(), subdomains, preload }
}
