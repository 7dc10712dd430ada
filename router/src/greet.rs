//! The beginning of a connection on a listener that takes PROXY headers: who the client is, as
//! a proxy in front says. The syntax is `proxy_protocol`'s.

use std::future::poll_fn;
use std::task::Poll;

use portolan_discovery::model::Protocol;
use tracing::debug;

use crate::buffer::Buffer;
use crate::config::ProxyProtocol;
use crate::passthrough;
use crate::proxy;
use crate::proxy_protocol::{self, Ends, Parsed};
use crate::tcp;
use crate::tls;
use crate::worker::Client;

/// What came of a connection's PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It named the client.
    Named,
    /// It was for the proxy's own connection, or of an unknown kind: the proxy is the client.
    Unnamed,
    /// There was none, which is fine.
    Absent,
    /// There was none although there had to be one.
    Missing,
    /// It was malformed.
    Bad,
    /// It did not come in time, or not whole.
    Late,
    /// The peer is not one that may send it.
    Untrusted,
}

impl Outcome {
    /// Every outcome, in declaration order: the label set of a metric.
    pub(crate) const ALL: [Self; 7] = [
        Self::Named,
        Self::Unnamed,
        Self::Absent,
        Self::Missing,
        Self::Bad,
        Self::Late,
        Self::Untrusted,
    ];

    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Unnamed => "unnamed",
            Self::Absent => "absent",
            Self::Missing => "missing",
            Self::Bad => "bad",
            Self::Late => "late",
            Self::Untrusted => "untrusted",
        }
    }

    fn is_served(self) -> bool {
        matches!(self, Self::Named | Self::Unnamed | Self::Absent)
    }
}

/// Serves a connection once its client is known; closes one whose header is not as it must be.
pub(crate) async fn serve(mut client: Client) {
    let mut input = Buffer::default();
    let outcome = greeted(&mut client, &mut input).await;
    client.worker.metrics.greeted(outcome);
    if !outcome.is_served() {
        // Whoever is there is misconfigured or a stranger: no answer could be meant for it.
        client.stream.abort();
        debug!(
            listener = %client.listener.name, peer = %client.peer, outcome = outcome.as_str(),
            "connection refused for its PROXY header"
        );
        return;
    }
    match client.listener.protocol {
        _ if client.listener.tls.is_some() => tls::serve(client, input).await,
        Protocol::Http => proxy::serve(client, input).await,
        Protocol::Tcp | Protocol::Udp => tcp::serve(client, input).await,
        Protocol::Tls => passthrough::serve(client, input).await,
    }
}

async fn greeted(client: &mut Client, input: &mut Buffer) -> Outcome {
    let is_required = client.listener.proxy_protocol == ProxyProtocol::Required;
    if !client.listener.trusts(client.peer) {
        // Optional: a stranger is a client like any other, and its header no header.
        return if is_required { Outcome::Untrusted } else { Outcome::Absent };
    }
    match header(client, input).await {
        Ok(Some(ends)) => {
            client.peer = ends.source.ip().to_canonical();
            client.own.get_or_insert_default().named = Some(ends);
            Outcome::Named
        }
        Ok(None) => Outcome::Unnamed,
        Err(Outcome::Missing) if !is_required => Outcome::Absent,
        Err(outcome) => outcome,
    }
}

/// Takes the header out of what comes first.
async fn header(client: &mut Client, input: &mut Buffer) -> Result<Option<Ends>, Outcome> {
    client.timer.start(client.worker.timeouts.client_header);
    poll_fn(|cx| {
        loop {
            // There is always room: the largest header is smaller than a buffer.
            match input.poll_fill(cx, &mut client.stream) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Err(Outcome::Late)),
                Poll::Pending if client.timer.is_due() || client.worker.is_closing() => {
                    return Poll::Ready(Err(Outcome::Late));
                }
                Poll::Pending => {
                    client.timer.watch(cx);
                    return Poll::Pending;
                }
            }
            match proxy_protocol::parse(input.data()) {
                Ok(Parsed::More) => {}
                Ok(Parsed::Absent) => return Poll::Ready(Err(Outcome::Missing)),
                Ok(Parsed::Header(header)) => {
                    input.consume(header.len);
                    return Poll::Ready(Ok(header.ends));
                }
                Err(_) => return Poll::Ready(Err(Outcome::Bad)),
            }
        }
    })
    .await
}

const _: () = assert!(proxy_protocol::HEADER_BYTES_MAX < crate::buffer::SMALL);
