//! The calls on certificates: those that this node shows, and those that the store keeps. No call
//! returns a key.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use portolan_discovery::model::{CertificateName, CertificatePair};
use portolan_router::{Certificate, CertificateSet};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::error::{Body, Path};
use super::view::DoneView;
use super::{ApiError, Context, ErrorBody, Shared};
use crate::certificates::DAYS_FEW;
use crate::clock;
use crate::controller::CommandError;

/// A certificate, without its key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CertificateView {
    /// The name.
    pub name: String,
    /// Where it is from: `file` or `store`.
    pub source: String,
    /// Whether the store has one of this name, too, which is not shown: files win.
    pub hides_stored: bool,
    /// The hosts that it is for.
    pub hosts: Vec<String>,
    /// From when on it holds, in seconds of Unix time.
    pub not_before_s: i64,
    /// Until when it holds, in seconds of Unix time.
    pub not_after_s: i64,
    /// Whole days that it still holds; negative once it has expired.
    pub days_left: i64,
    /// The SHA-256 of the certificate, in hex.
    pub fingerprint: String,
    /// The listeners that show it.
    pub listeners: Vec<String>,
    /// Those of them that show it to clients without a name that is known.
    pub default_of: Vec<String>,
}

/// A certificate for the store.
#[derive(Clone, Serialize, ToSchema)]
pub struct CertificateCall {
    /// The certificate as PEM and those that lead to its authority, at most 256 KiB.
    pub chain: String,
    /// Its private key as PEM, without a pass phrase, at most 64 KiB.
    pub key: String,
}

impl fmt::Debug for CertificateCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateCall").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for CertificateCall {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            chain: String,
            key: String,
        }
        // What serde says of a field that is wrong shows what stands in it, which may be the key.
        let Fields { chain, key } = Fields::deserialize(from)
            .map_err(|_| serde::de::Error::custom("expected chain and key, both PEM"))?;
        Ok(Self { chain, key })
    }
}

/// The certificates that this node shows, without their keys.
#[utoipa::path(get, path = "/v1/certificates", tag = "data",
    responses((status = 200, body = Vec<CertificateView>)))]
pub(super) async fn list(State(context): Shared) -> Json<Vec<CertificateView>> {
    let set = context.router.certificates().current();
    Json(set.iter().map(|(name, shown)| view(&context, &set, name, shown)).collect())
}

/// One certificate that this node shows, without its key.
#[utoipa::path(get, path = "/v1/certificates/{certificate}", tag = "data",
    params(("certificate" = String, Path,)),
    responses((status = 200, body = CertificateView), (status = 404, body = ErrorBody)))]
pub(super) async fn one(
    State(context): Shared,
    Path(name): Path<CertificateName>,
) -> Result<Json<CertificateView>, ApiError> {
    let set = context.router.certificates().current();
    match set.named(Some(&name)) {
        Some(shown) => Ok(Json(view(&context, &set, &name, shown))),
        None => Err(CommandError::NotFound { what: "certificate", name: name.to_string() }.into()),
    }
}

/// Makes or changes a certificate of the store, which every node shows from then on.
#[utoipa::path(put, path = "/v1/certificates/{certificate}", tag = "data",
    params(("certificate" = String, Path,)), request_body = CertificateCall,
    responses((status = 200, body = DoneView), (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn put(
    State(context): Shared,
    Path(name): Path<CertificateName>,
    Body(call): Body<CertificateCall>,
) -> Result<Json<DoneView>, ApiError> {
    if context.certificate_files.contains(&name) {
        return Err(of_a_file(&context, &name));
    }
    let CertificateCall { chain, key } = call;
    let pair =
        CertificatePair::new(name.clone(), chain, key, clock::unix_ms()).map_err(|error| {
            let hint = "send only the certificates that lead to the authority";
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid", error.to_string(), hint)
        })?;
    let (committed, certificate) = context.commands.put_certificate(pair).await?;
    let warnings = warnings(&context, &name, &certificate);
    Ok(Json(DoneView { revision: committed.revision.0, warnings, port: None }))
}

/// Deletes a certificate of the store.
#[utoipa::path(delete, path = "/v1/certificates/{certificate}", tag = "data",
    params(("certificate" = String, Path,)),
    responses((status = 200, body = DoneView), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn remove(
    State(context): Shared,
    Path(name): Path<CertificateName>,
) -> Result<Json<DoneView>, ApiError> {
    match context.commands.delete_certificate(&name).await {
        Ok(committed) => {
            let revision = committed.revision.0;
            Ok(Json(DoneView { revision, warnings: Vec::new(), port: None }))
        }
        // One that a file hides can be deleted; the file's own cannot.
        Err(CommandError::NotFound { .. }) if context.certificate_files.contains(&name) => {
            Err(of_a_file(&context, &name))
        }
        Err(error) => Err(error.into()),
    }
}

fn of_a_file(context: &Context, name: &CertificateName) -> ApiError {
    let owner = format!("the configuration file of node {}", context.node);
    CommandError::Owned { what: "certificate", name: name.to_string(), owner }.into()
}

fn view(
    context: &Context,
    set: &CertificateSet,
    name: &CertificateName,
    certificate: &Arc<Certificate>,
) -> CertificateView {
    let default =
        |listener: &Option<CertificateName>| set.named(listener.as_ref()).map(Arc::as_ptr);
    let is_of_a_file = context.certificate_files.contains(name);
    let has_stored = context.live.snapshot().certificate(name.as_str()).is_some();
    CertificateView {
        name: name.to_string(),
        source: if is_of_a_file { "file" } else { "store" }.to_owned(),
        hides_stored: is_of_a_file && has_stored,
        hosts: certificate.names().collect(),
        not_before_s: certificate.not_before_s(),
        not_after_s: certificate.not_after_s(),
        days_left: certificate.days_left(clock::unix_s()),
        fingerprint: certificate.fingerprint(),
        listeners: context.tls.iter().map(|(name, _)| name.to_string()).collect(),
        default_of: context
            .tls
            .iter()
            .filter(|(_, chosen)| default(chosen) == Some(Arc::as_ptr(certificate)))
            .map(|(listener, _)| listener.to_string())
            .collect(),
    }
}

/// What a person should know of a certificate that was written.
fn warnings(context: &Context, name: &CertificateName, written: &Certificate) -> Vec<String> {
    let mut warnings = Vec::new();
    if let days @ ..DAYS_FEW = written.days_left(clock::unix_s()) {
        warnings.push(format!("it expires in {days} days"));
    }
    if context.tls.is_empty() {
        warnings.push(format!("no listener of node {} speaks TLS", context.node));
    }
    let set = context.router.certificates().current();
    for host in written.names() {
        let others = set.iter().filter(|(other, _)| {
            *other != name && (context.certificate_files.contains(*other) || *other < name)
        });
        if let Some((other, _)) =
            others.into_iter().find(|(_, shown)| shown.names().any(|name| name == host))
        {
            warnings.push(format!("certificate {other} is shown for {host}, not this one"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_never_shows_its_key() {
        let call = r#"{"chain":"CHAIN","key":"SECRET"}"#;
        let call: CertificateCall = serde_json::from_str(call).unwrap();
        assert!(!format!("{call:?}").contains("SECRET"));
        for bad in [
            r#"{"chain":"CHAIN","key":{"SECRET":1}}"#,
            r#"{"chain":"CHAIN","key":"x","SECRET":1}"#,
            r#""SECRET""#,
        ] {
            let said = serde_json::from_str::<CertificateCall>(bad).unwrap_err().to_string();
            assert!(said.contains("expected chain and key") && !said.contains("SECRET"), "{said}");
        }
    }
}
