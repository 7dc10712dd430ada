//! Instances that speak HTTP/2 and do what a test tells them to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, Request, Response};
use portolan_discovery::model::{Event, HttpVersion, ServiceTls};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::caller::push;
use super::rig::{instance, service_with, web};

/// A request at an instance.
pub struct Call {
    pub head: Request<()>,
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
    /// Its number at the instance, from 0.
    pub number: usize,
}

impl Call {
    /// Answers with this, whole.
    pub async fn answer(mut self, body: impl Into<Bytes>) {
        let body = body.into();
        let response = Response::builder().header("content-length", body.len()).body(()).unwrap();
        let mut send = self.respond.send_response(response, body.is_empty()).unwrap();
        if !body.is_empty() {
            push(&mut send, body, true).await;
        }
    }
}

/// A server; dropped, it closes all its connections.
pub struct Server {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Gives each request to `serve`.
    pub async fn new<F, S>(serve: F) -> Self
    where
        F: Fn(Call) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        Self::with(Builder::new(), None, usize::MAX, serve).await
    }

    /// The same with settings, TLS, and how many requests a connection takes before its goodbye.
    pub async fn with<F, S>(
        builder: Builder,
        tls: Option<TlsAcceptor>,
        requests_max: usize,
        serve: F,
    ) -> Self
    where
        F: Fn(Call) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let [connections, ended, calls] = [(); 3].map(|()| Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&connections), Arc::clone(&ended), Arc::clone(&calls));
        let serve = Arc::new(serve);
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counts.0.fetch_add(1, Ordering::SeqCst);
                let (serve, builder, tls) = (Arc::clone(&serve), builder.clone(), tls.clone());
                let (ended, calls) = (Arc::clone(&counts.1), Arc::clone(&counts.2));
                serving.spawn(async move {
                    accept(stream, &builder, tls, requests_max, &calls, &*serve).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, connections, ended, calls, task }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections that have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

async fn accept<F, S>(
    stream: TcpStream,
    builder: &Builder,
    tls: Option<TlsAcceptor>,
    requests_max: usize,
    calls: &AtomicUsize,
    serve: &F,
) where
    F: Fn(Call) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    match tls {
        None => requests(stream, builder, requests_max, calls, serve).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                requests(stream, builder, requests_max, calls, serve).await;
            }
        }
    }
}

async fn requests<F, S>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    builder: &Builder,
    requests_max: usize,
    calls: &AtomicUsize,
    serve: &F,
) where
    F: Fn(Call) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    let (mut serving, mut taken) = (JoinSet::new(), 0);
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let number = calls.fetch_add(1, Ordering::SeqCst);
        serving.spawn(serve(Call { head, body, respond, number }));
        taken += 1;
        if taken == requests_max {
            connection.graceful_shutdown();
        }
    }
}

/// TLS with a certificate for `names` in which these protocols are spoken.
pub fn tls(authority: &Authority, names: &[&str], protocols: &[&[u8]]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let (chain, key) = authority.issue(names).pair();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// The records of a service `web` that is spoken to in HTTP/2.
pub fn web_h2(instances: &[SocketAddr]) -> Vec<Event> {
    web_h2_by(instances, None)
}

pub fn web_h2_by(instances: &[SocketAddr], tls: Option<ServiceTls>) -> Vec<Event> {
    let mut records = web(&[]);
    records.push(service_with("web", |service| {
        service.http_version = HttpVersion::H2;
        service.tls = tls;
    }));
    let ids = ["a", "b", "c"];
    records.extend(instances.iter().zip(ids).map(|(addr, id)| instance("web", id, *addr)));
    records
}

/// The status of a call of gRPC.
pub fn status(code: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    trailers
}
