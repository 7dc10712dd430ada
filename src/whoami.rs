//! A small HTTP and WebSocket app for examples and tours: it tells which instance it is and
//! what the router sent it. Knows nothing of the cluster but its environment.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, Request};
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

/// The largest body that `/echo` sends back.
const ECHO_BYTES_MAX: usize = 16 << 20;
/// The largest WebSocket message.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The longest wait that `/slow` agrees to.
const SLOW_MAX: Duration = Duration::from_secs(60);

/// Serves on `listener` until told to stop, and finishes what is under way then.
pub async fn serve(listener: TcpListener, cancel: CancellationToken) -> std::io::Result<()> {
    let app = Router::new()
        .route("/health", get(async || "ok\n"))
        .route("/echo", any(async |body: Bytes| body))
        .route("/slow", any(slow))
        .route("/ws", get(websocket))
        .fallback(whoami)
        .layer(DefaultBodyLimit::max(ECHO_BYTES_MAX));
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async move { cancel.cancelled().await })
        .await
}

/// What the agent tells each job of itself.
fn identity() -> String {
    const NAMES: [(&str, &str); 5] = [
        ("instance", "PORTOLAN_JOB"),
        ("service", "PORTOLAN_SERVICE"),
        ("release", "PORTOLAN_RELEASE"),
        ("node", "PORTOLAN_NODE"),
        ("greeting", "GREETING"),
    ];
    let known = NAMES.iter().filter_map(|(word, name)| {
        std::env::var(name).ok().map(|value| format!("{word}: {value}\n"))
    });
    let mut text: String = known.collect();
    text.push_str(&format!("pid: {}\n", std::process::id()));
    text
}

async fn whoami(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
) -> String {
    let mut text = identity();
    text.push_str(&format!("peer: {peer}\n\n{method} {uri} {version:?}\n"));
    for (name, value) in &headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text
}

#[derive(Deserialize)]
struct Slow {
    #[serde(default)]
    ms: u64,
}

async fn slow(Query(slow): Query<Slow>) -> String {
    tokio::time::sleep(Duration::from_millis(slow.ms).min(SLOW_MAX)).await;
    identity()
}

/// RFC 6455: greets, then sends each message back.
async fn websocket(request: Request) -> Response {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    let wants = request
        .headers()
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let (Some(key), true) = (key, wants) else {
        return (
            StatusCode::UPGRADE_REQUIRED,
            [(UPGRADE, "websocket")],
            "a WebSocket lives here\n",
        )
            .into_response();
    };
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            echo(TokioIo::new(upgraded)).await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(Body::empty())
        .expect("constant names and a base64 value")
}

async fn echo<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: T) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let mut next = Some(Message::text(identity()));
    loop {
        if let Some(message) = next.take()
            && socket.send(message).await.is_err()
        {
            return;
        }
        match socket.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => next = Some(message),
            // The library answers pings and closes by itself.
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}
