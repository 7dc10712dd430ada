//! From a client to the instance that was picked for it: a kept connection, or a new one that
//! begins with a PROXY header where the service asks for that.
//!
//! A connection that began with a client's header is that client's for good. It is kept under the
//! client's name and used for its next request only, and goes with it: a service with PROXY
//! headers has about one connection an instance for each client that is connected, where others
//! share a few.

use std::io;
use std::net::SocketAddr;

use portolan_discovery::model::ProxyVersion;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::endpoint::Endpoint;
use crate::pool::{self, Care, Owner, Upstream};
use crate::proxy_protocol::{Ends, Introduction, write};
use crate::worker::Client;

/// What few clients have; mostly it is not there.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// What a proxy in front said of the client, if it was believed.
    pub(crate) named: Option<Ends>,
    /// Under which name the pool keeps connections that were opened for it, if it does.
    pub(crate) owner: Option<Owner>,
}

/// A kept connection for a request of `client`.
#[inline]
pub(crate) fn kept(client: &Client, picked: &Endpoint, care: Care) -> Option<Upstream> {
    let worker = &client.worker;
    match picked.proxy_protocol {
        None => worker.pool.take(&picked.state, worker.wheel.now(), care),
        Some(_) => {
            worker.pool.take_own(client.own.as_ref()?.owner?, &picked.state, worker.wheel.now())
        }
    }
}

/// Keeps a connection on which nothing is under way.
#[inline]
pub(crate) fn keep(client: &mut Client, picked: &Endpoint, upstream: Upstream) {
    let worker = &client.worker;
    match picked.proxy_protocol {
        None => worker.pool.put(&picked.state, upstream, worker.wheel.now()),
        Some(_) => {
            let own = client.own.get_or_insert_default();
            let owner = *own.owner.get_or_insert_with(|| worker.pool.new_owner());
            worker.pool.put_own(owner, &picked.state, upstream, worker.wheel.now());
        }
    }
}

/// Opens a connection for `client`. No limit of time: the caller has the timer.
pub(crate) async fn open(client: &Client, picked: &Endpoint) -> io::Result<TcpStream> {
    match picked.proxy_protocol {
        None => pool::connect(picked.addr).await,
        // Apart, so that idle clients do not hold the room for it.
        Some(version) => Box::pin(introduced(picked.addr, version, ends(client))).await,
    }
}

/// The same, and tells the instance of the client before its first byte. TLS begins after that,
/// and [`Introduction`] has room for what was agreed on with the client.
async fn introduced(
    addr: SocketAddr,
    version: ProxyVersion,
    ends: Option<Ends>,
) -> io::Result<TcpStream> {
    let mut stream = pool::connect(addr).await?;
    let mut header = Vec::new();
    match ends {
        Some(ends) => write(version, &Introduction::of(ends), &mut header),
        // Its socket has no addresses any more: soon it will be seen to have gone.
        None => header.extend_from_slice(version.of_our_own()),
    }
    stream.write_all(&header).await?;
    Ok(stream)
}

/// The connection that the client has opened: to us, or to a proxy in front that was believed.
fn ends(client: &Client) -> Option<Ends> {
    if let Some(named) = client.own.as_ref().and_then(|own| own.named) {
        return Some(named);
    }
    // A socket for both families writes IPv4 addresses as IPv6 ones.
    let canonical = |addr: io::Result<SocketAddr>| {
        addr.ok().map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    };
    let source = canonical(client.stream.peer_addr())?;
    let destination = canonical(client.stream.local_addr())?;
    Some(Ends { source, destination })
}
