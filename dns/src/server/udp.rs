//! Answers by UDP: one thread and one socket, a batch of queries at a time.
//!
//! What zone and cache can answer is answered here; the rest is handed over. The batch is read
//! with plain `recvfrom`, since rustix has no `recvmmsg`; it leaves with one `sendmmsg`.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{
    MMsgHdr, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, recvfrom,
    sendmmsg, sendto, shutdown,
};
use tokio::sync::mpsc;

use super::Shared;
use crate::answer::{Client, Decision, Miss, Unserved, View, answer};
use crate::forward::{ReplyTo, Waiter};
use crate::wire::UDP_BYTES_MAX;

/// The queries that one look at zone and clock is good for.
const BATCH: usize = 32;
/// The longest query. What EDNS adds to a question is small.
const QUERY_BYTES_MAX: usize = 4096;

/// A socket that replies leave by, from any thread.
#[derive(Debug)]
pub(crate) struct UdpReplies {
    socket: UdpSocket,
}

impl UdpReplies {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket }
    }

    /// A copy that reads what the original reads.
    pub(super) fn copy(&self) -> std::io::Result<UdpSocket> {
        self.socket.try_clone()
    }

    /// Sends without waiting: a reply that does not fit the socket's buffer is lost, as it
    /// may be on any link after it.
    pub(crate) fn send(&self, reply: &[u8], peer: &impl SocketAddrArg) {
        if let Err(error) = sendto(&self.socket, reply, SendFlags::DONTWAIT, peer) {
            tracing::debug!(%error, "a reply was not sent");
        }
    }

    /// Ends the thread's wait for queries.
    pub(super) fn wake(&self) {
        // Linux says that the socket is not connected and ends the wait all the same. Were that
        // to change, the receive timeout still ends it.
        let _ = shutdown(&self.socket, Shutdown::Read);
    }
}

/// A reply that has not been sent yet.
struct Outgoing {
    peer: SocketAddrAny,
    reply: Vec<u8>,
}

/// Answers what comes in by `socket` until the resolver stops.
pub(super) fn serve(socket: &Arc<UdpReplies>, shared: &Shared, hand_over: &mpsc::Sender<Waiter>) {
    let mut queries = vec![[0; QUERY_BYTES_MAX]; BATCH];
    let mut lengths = Vec::with_capacity(BATCH);
    let mut replies: Vec<Outgoing> = Vec::with_capacity(BATCH);
    let mut spare: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(UDP_BYTES_MAX)).collect();
    let mut rng = fastrand::Rng::new();
    while !shared.stop.is_cancelled() {
        receive(&socket.socket, &mut queries, &mut lengths);
        if lengths.is_empty() {
            continue;
        }
        let zone = shared.zone.load();
        let view =
            View { zone: &zone, cache: &shared.context.cache, now: shared.context.clock.now() };
        for (query, (length, peer)) in queries.iter().zip(lengths.drain(..)) {
            let mut reply = spare.pop().unwrap_or_default();
            let query = &query[..length];
            if answer_one(query, &peer, &view, &mut rng, &mut reply, (socket, shared, hand_over)) {
                replies.push(Outgoing { peer, reply });
            } else {
                spare.push(reply);
            }
        }
        drop(zone);
        send_all(socket, &replies);
        spare.extend(replies.drain(..).map(|outgoing| outgoing.reply));
    }
}

/// Waits for one query, then takes what else is there.
fn receive(
    socket: &UdpSocket,
    queries: &mut [[u8; QUERY_BYTES_MAX]],
    lengths: &mut Vec<(usize, SocketAddrAny)>,
) {
    lengths.clear();
    let mut flags = RecvFlags::empty();
    while let Some(query) = queries.get_mut(lengths.len()) {
        match recvfrom(socket, &mut query[..], flags) {
            Ok((_, length, Some(peer))) => {
                lengths.push((length, peer));
                flags = RecvFlags::DONTWAIT;
            }
            // No peer: the socket was shut down.
            Ok((_, _, None)) | Err(Errno::AGAIN) => return,
            Err(Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot receive queries");
                return;
            }
        }
    }
}

/// Whether `reply` is to be sent.
fn answer_one(
    query: &[u8],
    peer: &SocketAddrAny,
    view: &View<'_>,
    rng: &mut fastrand::Rng,
    reply: &mut Vec<u8>,
    (socket, shared, hand_over): (&Arc<UdpReplies>, &Shared, &mpsc::Sender<Waiter>),
) -> bool {
    let Ok(peer) = SocketAddr::try_from(peer.clone()) else { return false };
    let metrics = &shared.context.metrics;
    let client = Client { by_tcp: false, allowed: shared.allow.has(peer.ip()) };
    match answer(query, client, view, rng, reply) {
        Decision::Reply(note) => metrics.answered(note),
        Decision::Refuse(note, why) => {
            metrics.answered(note);
            metrics.unserved(why);
        }
        Decision::Drop(why) => {
            metrics.unserved(why);
            return false;
        }
        Decision::Forward(miss) => {
            let to = ReplyTo::Udp { socket: socket.clone(), peer };
            let Err(refused) = hand_over.try_send(Waiter { miss, to }) else { return false };
            metrics.unserved(Unserved::Busy);
            metrics.answered(Miss::fail(&refused.into_inner().miss.asked, reply));
        }
    }
    true
}

fn send_all(socket: &UdpReplies, replies: &[Outgoing]) {
    if let [only] = replies {
        return socket.send(&only.reply, &only.peer);
    }
    let slices: Vec<[IoSlice<'_>; 1]> =
        replies.iter().map(|outgoing| [IoSlice::new(&outgoing.reply)]).collect();
    let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
        replies.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<MMsgHdr<'_>> = replies
        .iter()
        .zip(&slices)
        .zip(&mut controls)
        .map(|((outgoing, slice), control)| MMsgHdr::new_with_addr(&outgoing.peer, slice, control))
        .collect();
    let mut rest = &mut messages[..];
    while !rest.is_empty() {
        let sent = match sendmmsg(&socket.socket, rest, SendFlags::DONTWAIT) {
            Ok(sent) => sent.max(1),
            Err(Errno::INTR) => 0,
            // The first of the rest cannot be sent; the others may.
            Err(error) => {
                tracing::debug!(%error, "a reply was not sent");
                1
            }
        };
        let sent = sent.min(rest.len());
        rest = &mut rest[sent..];
    }
}
