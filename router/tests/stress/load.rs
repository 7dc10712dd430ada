//! The load: HTTP requests on kept connections, WebSockets and TCP tunnels that stay open.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::instance::Instance;
use super::peer::{Peer, within};

/// Clients that send requests, each [`PAUSE`] after its last answer: the machine has time to
/// spare, so that latency is not that of a queue.
pub const CLIENTS: usize = 16;
const PAUSE: Duration = Duration::from_millis(12);
/// WebSockets, and as many TCP tunnels.
const TUNNELS: usize = 50;
const TUNNEL_PAUSE: Duration = Duration::from_millis(200);

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
/// A message of a tunnel.
const MESSAGE_BYTES: usize = 16;

/// An instance that switches to a tunnel and sends back what it gets.
pub async fn switching() -> Instance {
    Instance::raw(|mut peer, _| async move {
        peer.head().await.unwrap();
        peer.send(SWITCH).await;
        echo(peer).await;
    })
    .await
}

/// An instance that sends back what it gets.
pub async fn echoing() -> Instance {
    Instance::raw(|peer, _| echo(peer)).await
}

async fn echo(mut peer: Peer) {
    while let Some(message) = peer.try_read(MESSAGE_BYTES).await {
        if !peer.try_send(message).await {
            return;
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    pub requests: usize,
    pub messages: usize,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    requests: AtomicUsize,
    messages: AtomicUsize,
    latencies: Mutex<Vec<Duration>>,
}

/// All clients. One that loses a request or its tunnel panics.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

impl Load {
    pub async fn start(http: SocketAddr, tcp: SocketAddr) -> Self {
        let shared = Arc::<Shared>::default();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(requests(Arc::clone(&shared), http, number));
        }
        for _ in 0..TUNNELS {
            let mut socket = Peer::connect(http).await;
            socket.send(UPGRADE).await;
            assert_eq!(socket.response_head().await.status(), 101);
            clients.spawn(messages(Arc::clone(&shared), socket));
            clients.spawn(messages(Arc::clone(&shared), Peer::connect(tcp).await));
        }
        Self { shared, clients }
    }

    /// Begins to measure anew, and returns what was measured.
    pub fn next_window(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.shared.latencies.lock().unwrap())
    }

    /// Fails the test if a request failed or a tunnel ended.
    pub fn assert_unharmed(&mut self) {
        if let Some(ended) = self.clients.try_join_next() {
            panic!("a client ended: {ended:?}");
        }
    }

    /// Ends all clients, and fails the test if one has ended otherwise.
    pub async fn end(mut self) -> Done {
        self.assert_unharmed();
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = within("the clients", self.clients.join_next()).await {
            ended.unwrap();
        }
        Done {
            requests: self.shared.requests.load(Ordering::Relaxed),
            messages: self.shared.messages.load(Ordering::Relaxed),
        }
    }
}

async fn requests(shared: Arc<Shared>, http: SocketAddr, number: usize) {
    let mut client = Peer::connect(http).await;
    let mut turn = number;
    while !shared.stop.load(Ordering::Relaxed) {
        turn += 1;
        let path = format!("/r{}/x", turn % super::changes::PATHS);
        let began = Instant::now();
        let response = match turn % 3 {
            0 => {
                let head = format!("POST {path} HTTP/1.1\r\nHost: web.test\r\n");
                client.ask(format!("{head}Content-Length: 2\r\n\r\nhi")).await
            }
            _ => client.get(&path).await,
        };
        assert_eq!((response.status(), response.text()), (200, "ok"));
        shared.latencies.lock().unwrap().push(began.elapsed());
        shared.requests.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn messages(shared: Arc<Shared>, mut tunnel: Peer) {
    let mut number = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        number += 1;
        let message = format!("{number:0MESSAGE_BYTES$}");
        tunnel.send(&message).await;
        assert_eq!(tunnel.read(MESSAGE_BYTES).await, message.as_bytes());
        shared.messages.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(TUNNEL_PAUSE).await;
    }
}

/// 99 of 100 were at least as quick.
pub fn percentile_99(mut latencies: Vec<Duration>) -> Duration {
    assert!(!latencies.is_empty(), "no request was answered in a whole window");
    latencies.sort();
    latencies[latencies.len() * 99 / 100]
}
