//! From a client to the instance that was picked for it: a kept connection, or a new one that
//! begins with a PROXY header where the service asks for that.
//!
//! A connection that began with a client's header is that client's for good. It is kept under the
//! client's name and used for its next request only, and goes with it: a service with PROXY
//! headers has about one connection an instance for each client that is connected, where others
//! share a few.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use portolan_discovery::model::{Protocol, ProxyVersion};
use tokio::io::AsyncWriteExt;
use tokio_util::either::Either;

use crate::endpoint::Endpoint;
use crate::h2;
use crate::pool::{self, Care, Owner, Upstream};
use crate::proxy_protocol::{Ends, Introduction, write};
use crate::stream::Stream;
use crate::worker::{Client, Worker};

/// What few clients have; mostly it is not there.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// What a proxy in front said of the client, if it was believed.
    pub(crate) named: Option<Ends>,
    /// The host that it asked for, if its TLS is passed on.
    pub(crate) asked_for: Option<Box<str>>,
    /// It asked for that TLS as clients of PostgreSQL do, and so is the instance to be.
    pub(crate) asked_first: bool,
    /// Under which name the pool keeps connections that were opened for it, if it does.
    owner: Option<Name>,
}

impl Own {
    /// What is known of a client that a proxy in front has named.
    pub(crate) fn named(ends: Ends) -> Self {
        Self { named: Some(ends), ..Self::default() }
    }
}

/// Under which name the pool keeps connections; they are closed when it goes.
#[derive(Debug)]
pub(crate) struct Name {
    owner: Owner,
    worker: Rc<Worker>,
}

impl Name {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        Self { owner: worker.pool.new_owner(), worker: Rc::clone(worker) }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.worker.pool.leave(self.owner);
    }
}

/// A kept connection for a request of `client`.
#[inline]
pub(crate) fn kept(client: &Client, picked: &Endpoint, care: Care) -> Option<Upstream> {
    let worker = &client.worker;
    if picked.http2 {
        return kept_link(worker, picked);
    }
    match picked.proxy_protocol {
        None => worker.pool.take(&picked.state, worker.wheel.now(), care),
        Some(_) => worker.pool.take_own(owner(client)?, &picked.state, worker.wheel.now()),
    }
}

/// A place on a connection of HTTP/2 that is there. One with a client's header is nobody else's.
#[cold]
fn kept_link(worker: &Worker, picked: &Endpoint) -> Option<Upstream> {
    let is_shared = picked.proxy_protocol.is_none();
    let stream = is_shared.then(|| worker.links.take(&picked.state))??;
    Some(Upstream { stream, reused: true, idle_max: worker.timeouts.upstream_idle })
}

/// Keeps a connection on which nothing is under way.
#[inline]
pub(crate) fn keep(client: &mut Client, picked: &Endpoint, upstream: Upstream) {
    let worker = &client.worker;
    match picked.proxy_protocol {
        // Its connection is kept by itself.
        _ if upstream.stream.is_h2() => {}
        None => worker.pool.put(&picked.state, upstream, worker.wheel.now()),
        Some(_) => {
            let own = client.own.get_or_insert_default();
            let owner = match &client.stream {
                // It may be kept for the other requests of the connection.
                Stream::Inbound(inbound) => inbound.name().owner,
                _ => own.owner.get_or_insert_with(|| Name::new(worker)).owner,
            };
            worker.pool.put_own(owner, &picked.state, upstream, worker.wheel.now());
        }
    }
}

/// Under which name connections for the client are kept, if any are.
fn owner(client: &Client) -> Option<Owner> {
    match &client.stream {
        Stream::Inbound(inbound) => Some(inbound.name().owner),
        _ => Some(client.own.as_ref()?.owner.as_ref()?.owner),
    }
}

/// Opens a connection for `client`. No limit of time: the caller has the timer. Holds on to
/// neither.
pub(crate) fn open(
    client: &Client,
    picked: &Endpoint,
) -> impl Future<Output = io::Result<Stream>> + use<> {
    let header = picked.proxy_protocol.map(|version| header(version, client).into_boxed_slice());
    begin(&client.worker, picked, header)
}

/// A connection for a request of the router's own: a kept one, or a new one that names nobody where
/// the service asks for a PROXY header. No limit of time, as [`open`].
pub(crate) async fn ours(
    worker: &Rc<Worker>,
    picked: &Endpoint,
    care: Care,
) -> io::Result<Upstream> {
    let kept = match picked.proxy_protocol {
        _ if picked.http2 => kept_link(worker, picked),
        None => worker.pool.take(&picked.state, worker.wheel.now(), care),
        Some(_) => None,
    };
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let header = picked.proxy_protocol.map(|version| version.of_our_own().into());
    let stream = begin(worker, picked, header).await?;
    Ok(Upstream { stream, reused: false, idle_max: worker.timeouts.upstream_idle })
}

/// Keeps a connection of [`ours`] on which nothing is under way, unless it is for nobody else: one
/// that began with a header that names nobody is not for clients.
pub(crate) fn keep_ours(worker: &Worker, picked: &Endpoint, upstream: Upstream) {
    if picked.keep_alive && picked.proxy_protocol.is_none() && !picked.http2 {
        worker.pool.put(&picked.state, upstream, worker.wheel.now());
    }
}

/// Opens a connection that begins with this header, or a place on one of HTTP/2.
pub(crate) fn begin(
    worker: &Rc<Worker>,
    picked: &Endpoint,
    header: Option<Box<[u8]>>,
) -> impl Future<Output = io::Result<Stream>> + use<> {
    match picked.http2 {
        false => Either::Left(connect(picked, header)),
        // Apart, so that the other way needs no more room for it.
        true => Either::Right(Box::pin(h2::open(worker, picked, header))),
    }
}

/// Opens a connection that begins with this header, and with TLS if the instance speaks that.
pub(crate) fn connect(
    picked: &Endpoint,
    header: Option<Box<[u8]>>,
) -> impl Future<Output = io::Result<Stream>> + use<> {
    let (addr, tls) = (picked.addr, picked.tls.clone());
    async move {
        let mut stream = pool::connect(addr).await?;
        if let Some(header) = header {
            stream.write_all(&header).await?;
        }
        match tls {
            None => Ok(stream),
            // Apart, so that idle clients do not hold the room for it.
            Some(tls) => Box::pin(async move { tls.connect(stream, addr).await }).await,
        }
    }
}

/// What tells the instance of the client before its first byte. TLS begins after that.
#[cold]
fn header(version: ProxyVersion, client: &Client) -> Vec<u8> {
    // Its socket has no addresses any more: soon it will be seen to have gone.
    let Some(ends) = ends(client) else { return version.of_our_own().to_vec() };
    let asked_for = client.own.as_ref().and_then(|own| own.asked_for.as_deref());
    let authority = asked_for.or_else(|| client.stream.met()?.name.as_deref());
    // What an HTTP client agreed on is not what the instance will be spoken to in.
    let is_tcp = client.listener.protocol == Protocol::Tcp;
    let alpn = client.stream.agreed_protocol().filter(|_| is_tcp);
    let mut header = Vec::new();
    write(version, &Introduction { authority, alpn, ..Introduction::of(ends) }, &mut header);
    header
}

/// The connection that the client has opened: to us, or to a proxy in front that was believed.
fn ends(client: &Client) -> Option<Ends> {
    if let Some(named) = client.own.as_ref().and_then(|own| own.named) {
        return Some(named);
    }
    // A socket for both families writes IPv4 addresses as IPv6 ones.
    let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let (source, destination) = client.stream.ends()?;
    Some(Ends { source: canonical(source), destination: canonical(destination) })
}
