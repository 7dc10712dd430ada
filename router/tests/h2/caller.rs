//! A client that speaks HTTP/2, each of its waits with an end.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::peer::within;

/// A connection.
pub struct Caller {
    pub send: SendRequest<Bytes>,
    task: JoinHandle<Result<(), h2::Error>>,
}

/// An answer that has come whole.
#[derive(Debug)]
pub struct Answer {
    pub head: Response<()>,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }
}

impl Caller {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap(), &Builder::new()).await
    }

    pub async fn with(addr: SocketAddr, builder: &Builder) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap(), builder).await
    }

    pub async fn over<S>(stream: S, builder: &Builder) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = within("a greeting", builder.handshake(stream)).await.unwrap();
        Self { send, task: tokio::spawn(connection) }
    }

    /// Begins a request.
    pub async fn begin(&mut self, request: Request<()>, is_whole: bool) -> Exchange {
        let send = self.send.clone();
        let mut send = within("room for a request", send.ready()).await.unwrap();
        let (response, body) = send.send_request(request, is_whole).unwrap();
        Exchange { response, body }
    }

    /// Sends a request without a body, and waits for its answer.
    pub async fn ask(&mut self, request: Request<()>) -> Result<Answer, h2::Error> {
        self.begin(request, true).await.answer().await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(request("GET", path)).await.unwrap()
    }

    /// How the connection ends.
    pub async fn end(self) -> Result<(), h2::Error> {
        drop(self.send);
        within("the end of the connection", self.task).await.unwrap()
    }
}

/// A request under way.
pub struct Exchange {
    pub response: h2::client::ResponseFuture,
    pub body: SendStream<Bytes>,
}

impl Exchange {
    pub async fn answer(self) -> Result<Answer, h2::Error> {
        let response = within("an answer", self.response).await?;
        let (parts, body) = response.into_parts();
        let (body, trailers) = whole(body).await?;
        Ok(Answer { head: Response::from_parts(parts, ()), body, trailers })
    }

    /// Sends a part of the body as windows allow.
    pub async fn push(&mut self, part: impl Into<Bytes>, is_last: bool) {
        push(&mut self.body, part.into(), is_last).await;
    }
}

pub async fn push(send: &mut SendStream<Bytes>, mut part: Bytes, is_last: bool) {
    while !part.is_empty() {
        send.reserve_capacity(part.len());
        let room = std::future::poll_fn(|cx| send.poll_capacity(cx));
        let room = within("room for a body", room).await.unwrap().unwrap();
        let piece = part.split_to(room.min(part.len()));
        send.send_data(piece, is_last && part.is_empty()).unwrap();
    }
}

/// Reads a body to its end.
pub async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(part) = within("more of a body", body.data()).await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        all.extend_from_slice(&part);
    }
    let trailers = within("trailers", body.trailers()).await?;
    Ok((all, trailers))
}

/// A request for `web.test`.
pub fn request(method: &str, path: &str) -> Request<()> {
    let uri = format!("http://web.test{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

/// The same with fields.
pub fn with(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = request(method, path);
    for (name, value) in fields {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

/// Why a stream was reset.
pub fn reset_by(error: &h2::Error) -> Option<Reason> {
    error.is_reset().then(|| error.reason()).flatten()
}
