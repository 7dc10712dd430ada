//! A request and its answer. No redirect is followed: a check speaks of this instance only.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portolan_discovery::model::HttpCheck;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{Deadline, Peer, ProbeError, connect};

/// The largest head of an answer; a larger one fails the probe.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much of a body is looked at.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("portolan/", env!("CARGO_PKG_VERSION")));

/// Asks `peer` and judges the answer.
pub(super) async fn ask(
    check: &HttpCheck,
    tls: Option<Arc<ClientConfig>>,
    peer: Peer,
    deadline: Deadline,
) -> Result<String, ProbeError> {
    let request = request(check, peer.addr)?;
    let stream = connect(peer, deadline).await?;
    match tls {
        None => exchange(check, request, stream, deadline).await,
        Some(config) => {
            let shake = TlsConnector::from(config).connect(server_name(check, peer.addr)?, stream);
            let stream = deadline.keep("shaking hands", shake).await?.map_err(ProbeError::Tls)?;
            exchange(check, request, stream, deadline).await
        }
    }
}

fn request(check: &HttpCheck, addr: SocketAddr) -> Result<Request<Empty<Bytes>>, ProbeError> {
    let wrong = |what: &str| ProbeError::Setup(format!("{what} cannot be sent"));
    let uri: Uri = check.path.parse().map_err(|_| wrong("the path"))?;
    let mut request = Request::builder()
        .method(check.method.as_bytes())
        .uri(uri)
        .body(Empty::new())
        .map_err(|_| wrong("the method"))?;
    let host = check.host.clone().unwrap_or_else(|| addr.to_string());
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| wrong("the host"))?);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &check.headers {
        let name = HeaderName::try_from(name).map_err(|_| wrong("a header's name"))?;
        headers.insert(name, HeaderValue::try_from(value).map_err(|_| wrong("a header"))?);
    }
    Ok(request)
}

/// The name that the certificate must have: the host without its port, or the address.
fn server_name(check: &HttpCheck, addr: SocketAddr) -> Result<ServerName<'static>, ProbeError> {
    let Some(host) = &check.host else { return Ok(ServerName::from(addr.ip())) };
    let bare = host.parse::<http::uri::Authority>();
    let bare = bare.as_ref().map_or(host.as_str(), |authority| authority.host());
    ServerName::try_from(bare.trim_start_matches('[').trim_end_matches(']').to_owned())
        .map_err(|_| ProbeError::Setup(format!("\"{host}\" is no name for a certificate")))
}

async fn exchange<S>(
    check: &HttpCheck,
    request: Request<Empty<Bytes>>,
    stream: S,
    deadline: Deadline,
) -> Result<String, ProbeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let mut judged = pin!(async {
        let answer = deadline.keep("waiting for the answer", sender.send_request(request));
        judge(check, answer.await??, deadline).await
    });
    // The connection moves the bytes; it ends with this function, whatever the peer does.
    let mut connection = pin!(connection);
    let mut is_open = true;
    loop {
        tokio::select! {
            result = &mut judged => return result,
            _ = &mut connection, if is_open => is_open = false,
        }
    }
}

async fn judge(
    check: &HttpCheck,
    answer: Response<Incoming>,
    deadline: Deadline,
) -> Result<String, ProbeError> {
    let status = answer.status();
    if !check.status.iter().any(|range| range.contains(status.as_u16())) {
        return Err(ProbeError::Status(status.as_u16()));
    }
    if let Some(text) = &check.body
        && !deadline.keep("reading the body", has_text(answer.into_body(), text)).await??
    {
        return Err(ProbeError::Body(text.clone()));
    }
    Ok(format!("status {}", status.as_u16()))
}

/// Whether the first [`BODY_BYTES_MAX`] of `body` have `text` in them; reads no further than
/// needed.
async fn has_text(body: Incoming, text: &str) -> Result<bool, ProbeError> {
    let mut body = pin!(body);
    let mut seen: Vec<u8> = Vec::new();
    let text = text.as_bytes();
    loop {
        if text.is_empty() {
            return Ok(true);
        }
        let Some(frame) = next_frame(body.as_mut()).await else { return Ok(false) };
        let Ok(data) = frame?.into_data() else { continue };
        // A match may begin in the bytes before.
        let from = seen.len().saturating_sub(text.len() - 1);
        seen.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - seen.len())]);
        if seen[from..].windows(text.len()).any(|window| window == text) {
            return Ok(true);
        }
        if seen.len() == BODY_BYTES_MAX {
            return Ok(false);
        }
    }
}

async fn next_frame(
    mut body: Pin<&mut Incoming>,
) -> Option<Result<hyper::body::Frame<Bytes>, hyper::Error>> {
    poll_fn(|context| body.as_mut().poll_frame(context)).await
}

#[cfg(test)]
mod tests {
    use portolan_discovery::model::StatusRange;

    use super::*;

    fn check(host: Option<&str>) -> HttpCheck {
        HttpCheck {
            tls: true,
            verify: true,
            ca_file: None,
            method: "GET".to_owned(),
            path: "/health?deep=1".to_owned(),
            host: host.map(str::to_owned),
            headers: [("X-Probe".to_owned(), "1".to_owned())].into(),
            status: vec![StatusRange { first: 200, last: 299 }],
            body: None,
        }
    }

    #[test]
    fn the_certificate_is_for_the_host_or_else_the_address() {
        for (host, name) in [
            (None, "127.0.0.1"),
            (Some("db.test"), "db.test"),
            (Some("db.test:8443"), "db.test"),
            (Some("[::1]:8443"), "::1"),
        ] {
            let addr = "127.0.0.1:80".parse().unwrap();
            assert_eq!(server_name(&check(host), addr).unwrap().to_str(), name);
        }
    }

    #[test]
    fn the_request_names_the_host_and_carries_the_headers() {
        let addr = "127.0.0.1:8080".parse().unwrap();
        let plain = request(&check(None), addr).unwrap();
        assert_eq!(plain.headers()[HOST], "127.0.0.1:8080");
        assert_eq!(plain.headers()["x-probe"], "1");
        assert_eq!(plain.uri(), "/health?deep=1");
        assert_eq!(request(&check(Some("db.test")), addr).unwrap().headers()[HOST], "db.test");
    }
}
