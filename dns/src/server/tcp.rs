//! Answers by TCP (RFC 7766): queries one after the other on a connection, answered as they
//! are ready, within limits for each client and for all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Shared;
use crate::answer::{Client, Decision, Unserved, View, answer};
use crate::forward::{Forwarder, ReplyTo, Waiter};

/// How long a client may take to read a reply.
const WRITE_WITHIN: Duration = Duration::from_secs(5);
/// Replies that are gathered for one write.
const OUTBOX_BYTES: usize = 64 << 10;
/// What is read at once.
const READ_BYTES: usize = 4 << 10;
/// After a failed accept, which mostly means that descriptors have run out.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The open connections of all listeners.
pub(super) type Open = Rc<RefCell<Counts>>;

/// How many there are, by client and in all.
#[derive(Debug, Default)]
pub(super) struct Counts {
    by_client: HashMap<IpAddr, usize>,
    all: usize,
}

impl Counts {
    pub(super) fn is_empty(&self) -> bool {
        self.all == 0
    }
}

/// A connection's place among the open ones.
struct Place {
    open: Open,
    shared: Arc<Shared>,
    client: IpAddr,
}

impl Place {
    fn take(open: &Open, shared: &Arc<Shared>, client: IpAddr) -> Option<Self> {
        let limits = &shared.context.limits;
        let mut state = open.borrow_mut();
        let of_client = state.by_client.get(&client).copied().unwrap_or(0);
        if state.all >= limits.tcp_connections_max
            || of_client >= limits.tcp_connections_per_client_max
        {
            return None;
        }
        state.all += 1;
        state.by_client.insert(client, of_client + 1);
        shared.context.metrics.tcp_connections.inc();
        Some(Self { open: open.clone(), shared: shared.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.open.borrow_mut();
        state.all = state.all.saturating_sub(1);
        if let Some(count) = state.by_client.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                state.by_client.remove(&self.client);
            }
        }
        self.shared.context.metrics.tcp_connections.dec();
    }
}

/// Takes connections until the resolver stops.
pub(super) async fn accept(
    listener: std::net::TcpListener,
    open: Open,
    shared: Arc<Shared>,
    forwarder: Rc<Forwarder>,
) {
    let listener = TcpListener::from_std(listener).expect("it was bound without blocking");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => match Place::take(&open, &shared, peer.ip().to_canonical()) {
                Some(place) => {
                    let forwarder = forwarder.clone();
                    tokio::task::spawn_local(serve(stream, peer, place, forwarder));
                }
                None => shared.context.metrics.unserved(Unserved::Busy),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, place: Place, forwarder: Rc<Forwarder>) {
    let pipeline = place.shared.context.limits.tcp_pipeline_max.max(1);
    let (reply, replies) = mpsc::channel(pipeline);
    let allowed = place.shared.allow.has(peer.ip());
    let connection = Connection {
        stream,
        client: Client { by_tcp: true, allowed },
        pipeline,
        reply,
        replies,
        under_way: 0,
        inbox: Vec::new(),
        outbox: Vec::new(),
        rng: fastrand::Rng::new(),
    };
    // How a connection ends is the client's affair.
    let _ = connection.run(&place.shared, &forwarder).await;
}

struct Connection {
    stream: TcpStream,
    client: Client,
    pipeline: usize,
    reply: mpsc::Sender<Vec<u8>>,
    replies: mpsc::Receiver<Vec<u8>>,
    /// Queries whose replies come from upstreams.
    under_way: usize,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    rng: fastrand::Rng,
}

/// What a connection waits for.
enum Step {
    Read(usize),
    Replied(Vec<u8>),
    Idle,
    Stop,
}

impl Connection {
    async fn run(mut self, shared: &Shared, forwarder: &Rc<Forwarder>) -> io::Result<()> {
        let mut message = Vec::new();
        let mut is_open = true;
        while is_open || self.under_way > 0 {
            match self.step(shared, is_open).await? {
                // The client has said all; it may still wait for replies (RFC 7766 §6.2.4).
                Step::Read(0) => is_open = false,
                Step::Read(_) => {}
                Step::Replied(reply) => {
                    self.under_way -= 1;
                    self.push(&reply);
                    while let Ok(reply) = self.replies.try_recv() {
                        self.under_way -= 1;
                        self.push(&reply);
                    }
                }
                Step::Idle | Step::Stop => return Ok(()),
            }
            self.answer_all(shared, forwarder, &mut message).await?;
            self.flush().await?;
        }
        Ok(())
    }

    async fn step(&mut self, shared: &Shared, is_open: bool) -> io::Result<Step> {
        let idle = shared.context.limits.tcp_idle_timeout;
        let may_read = is_open && self.under_way < self.pipeline;
        self.inbox.reserve(READ_BYTES);
        tokio::select! {
            read = self.stream.read_buf(&mut self.inbox), if may_read => Ok(Step::Read(read?)),
            Some(reply) = self.replies.recv(), if self.under_way > 0 => Ok(Step::Replied(reply)),
            // A reply that is under way comes within a limit of its own.
            () = tokio::time::sleep(idle), if self.under_way == 0 => Ok(Step::Idle),
            () = shared.end.cancelled(), if self.under_way == 0 => Ok(Step::Stop),
        }
    }

    /// Answers each whole query in the inbox, as far as the pipeline has room.
    async fn answer_all(
        &mut self,
        shared: &Shared,
        forwarder: &Rc<Forwarder>,
        message: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut read = 0;
        while self.under_way < self.pipeline {
            let Some((length, rest)) = self.inbox[read..].split_first_chunk::<2>() else { break };
            let length = usize::from(u16::from_be_bytes(*length));
            let Some(query) = rest.get(..length) else { break };
            read += 2 + length;
            let zone = shared.zone.load();
            let view =
                View { zone: &zone, cache: &shared.context.cache, now: shared.context.clock.now() };
            let decision = answer(query, self.client, &view, &mut self.rng, message);
            drop(zone);
            self.act(decision, shared, forwarder, message)?;
            if self.outbox.len() >= OUTBOX_BYTES {
                self.flush().await?;
            }
        }
        self.inbox.drain(..read);
        Ok(())
    }

    fn act(
        &mut self,
        decision: Decision,
        shared: &Shared,
        forwarder: &Rc<Forwarder>,
        message: &[u8],
    ) -> io::Result<()> {
        let metrics = &shared.context.metrics;
        match decision {
            Decision::Reply(note) => {
                metrics.answered(note);
                self.push(message);
            }
            Decision::Refuse(note, why) => {
                metrics.answered(note);
                metrics.unserved(why);
                self.push(message);
            }
            Decision::Forward(miss) => {
                self.under_way += 1;
                forwarder.take(Waiter { miss, to: ReplyTo::Tcp(self.reply.clone()) });
            }
            Decision::Drop(why) => {
                // Whoever sends no queries is not waited for.
                metrics.unserved(why);
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }

    fn push(&mut self, reply: &[u8]) {
        let Ok(length) = u16::try_from(reply.len()) else { return };
        self.outbox.extend_from_slice(&length.to_be_bytes());
        self.outbox.extend_from_slice(reply);
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.outbox.is_empty() {
            timeout(WRITE_WITHIN, self.stream.write_all(&self.outbox)).await??;
            self.outbox.clear();
        }
        Ok(())
    }
}
