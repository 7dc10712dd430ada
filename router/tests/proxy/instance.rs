//! Instances: small servers on port 0 that do what a test tells them to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::peer::{Message, Peer};

/// A server that counts its connections. Dropped, it closes all of them at once.
pub struct Instance {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Instance {
    /// Hands each connection, with its number from 0, to `serve`.
    pub async fn raw<F, S>(serve: F) -> Self
    where
        F: Fn(Peer, usize) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            // Dropped with this task: an instance that is gone has no connections either.
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(Peer::of(stream), number));
            }
        });
        Self { addr, connections, requests: Arc::default(), task }
    }

    /// Answers each request with the bytes that `answer` makes of it, and keeps connections.
    pub async fn http<F>(answer: F) -> Self
    where
        F: Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        let requests = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&requests);
        let mut instance = Self::raw(move |mut peer, _| {
            let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
            async move {
                while let Some(request) = peer.request().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    if !peer.try_send(answer(&request)).await {
                        return;
                    }
                }
            }
        })
        .await;
        instance.requests = requests;
        instance
    }

    /// Answers everything with its own name.
    pub async fn named(name: &'static str) -> Self {
        Self::http(move |_| ok(name)).await
    }

    /// Sends back what it gets: the head as the body's first part.
    pub async fn echo() -> Self {
        Self::http(|request| {
            let mut body = format!("{}\n\n", request.lines.join("\n")).into_bytes();
            body.extend_from_slice(&request.body);
            ok(body)
        })
        .await
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests answered so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A 200 with a length.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut response =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    response.extend_from_slice(body);
    response
}

/// An address on which nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
