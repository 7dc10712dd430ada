//! Calls of the API from the command line.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::api::ErrorBody;

/// A listener on this machine or the next answers within this time, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than the longest wait of a call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);
/// A larger answer is not one of ours.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(
        "no Portolan answers at {addr}: {cause}\n  start one with `portolan up FILE`, or name its admin listener with --api"
    )]
    Unreachable { addr: SocketAddr, cause: String },
    #[error("{}{}", .0.message, hint(&.0.hint))]
    Refused(ErrorBody),
    #[error("what answers at {addr} is not the API of Portolan: {cause}")]
    Stranger { addr: SocketAddr, cause: String },
    #[error("cannot read the token in {path}: {source}")]
    Token { path: String, source: std::io::Error },
}

fn hint(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("\n  {text}") }
}

/// The API of one running Portolan.
pub(super) struct Client {
    addr: SocketAddr,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(addr: SocketAddr, token_file: Option<&Path>) -> Result<Self, ClientError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|source| ClientError::Token { path: path.display().to_string(), source })
        };
        Ok(Self { addr, token: token_file.map(read).transpose()? })
    }

    /// Whether what is sent passes through a network, where it can be read: calls are plain HTTP.
    pub(super) fn is_far(&self) -> bool {
        !self.addr.ip().to_canonical().is_loopback()
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("calls have string keys and finite numbers");
        self.call(Method::POST, path, Some(body)).await
    }

    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("calls have string keys and finite numbers");
        self.call(Method::PUT, path, Some(body)).await
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, None).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        let body = self.whole(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.stranger(&error))
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        match tokio::time::timeout(ANSWER_TIMEOUT, body.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(self.stranger(&error)),
            Err(_) => Err(self.unreachable(&"the answer does not end")),
        }
    }

    /// Sends a call; an answer that is not a success becomes the error it names.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.addr.to_string())
            .header(ACCEPT, "application/json, text/event-stream");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.stranger(&error))?;
        let stream =
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.addr)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(self.unreachable(&error)),
                Err(_) => return Err(self.unreachable(&"it does not answer")),
            };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.stranger(&error))?;
        tokio::spawn(connection);
        let response =
            match tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(self.stranger(&error)),
                Err(_) => return Err(self.unreachable(&"it does not answer the call")),
            };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.whole(response).await?;
        match serde_json::from_slice(&body) {
            Ok(error) => Err(ClientError::Refused(error)),
            Err(_) => Err(self.stranger(&format!("it answers {status}"))),
        }
    }

    /// Makes a call that answers with a stream of server-sent events.
    pub(super) async fn post_events(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Events, ClientError> {
        let body = serde_json::to_vec(body).expect("calls have string keys and finite numbers");
        let response = self.send(Method::POST, path, Some(body)).await?;
        Ok(Events { body: response.into_body(), text: Vec::new() })
    }

    /// Opens a stream of server-sent events.
    pub(super) async fn events(&self, path: &str) -> Result<Events, ClientError> {
        let response = self.send(Method::GET, path, None).await?;
        Ok(Events { body: response.into_body(), text: Vec::new() })
    }

    fn unreachable(&self, cause: &dyn std::fmt::Display) -> ClientError {
        ClientError::Unreachable { addr: self.addr, cause: cause.to_string() }
    }

    fn stranger(&self, cause: &dyn std::fmt::Display) -> ClientError {
        ClientError::Stranger { addr: self.addr, cause: cause.to_string() }
    }
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServerEvent {
    pub(super) kind: String,
    pub(super) data: String,
}

/// Server-sent events as they come.
pub(super) struct Events {
    body: Incoming,
    text: Vec<u8>,
}

impl Events {
    /// The next event; none when the server has ended the stream.
    pub(super) async fn next(&mut self) -> Option<ServerEvent> {
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(event) = event(&String::from_utf8_lossy(&block)) {
                    return Some(event);
                }
                continue;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.text.extend_from_slice(&data);
            }
        }
    }
}

/// A block of lines as an event; none when it has only comments.
fn event(block: &str) -> Option<ServerEvent> {
    let mut event = ServerEvent::default();
    let mut has_data = false;
    for line in block.lines() {
        match line.split_once(':') {
            Some(("event", value)) => event.kind = value.trim_start().to_owned(),
            Some(("data", value)) => {
                if has_data {
                    event.data.push('\n');
                }
                event.data.push_str(value.strip_prefix(' ').unwrap_or(value));
                has_data = true;
            }
            _ => {}
        }
    }
    has_data.then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_by_line_and_comments_are_passed_over() {
        assert_eq!(event(": keep-alive\n\n"), None);
        let expected = ServerEvent { kind: "job".into(), data: "{\"a\":1}\nb".into() };
        assert_eq!(event("event: job\nid: 7\ndata: {\"a\":1}\ndata: b\n\n"), Some(expected));
    }
}
