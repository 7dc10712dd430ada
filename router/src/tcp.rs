//! TCP connections: every connection of a listener goes to one instance of its route.
//! Knows nothing of what is in the bytes.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tracing::debug;

use crate::balance::{Key, Tried};
use crate::buffer::Buffer;
use crate::clock::us_at;
use crate::endpoint::InFlight;
use crate::h1::Reason;
use crate::postgres;
use crate::proxy::{connect_fault, costs_budget, is_gateway_error};
use crate::queue;
use crate::stream::Stream;
use crate::table::{PickError, RouteEntry};
use crate::tunnel::{self, End, Pipe};
use crate::upstream;
use crate::worker::{Client, now};

/// Serves one client, of whom `input` has come already, until both directions have ended.
pub(crate) async fn serve(client: Client, input: Buffer) {
    let worker = Rc::clone(&client.worker);
    let route = match &client.listener.route {
        Some(own) => Some(Arc::clone(own)),
        None => worker.with_table(|table| table.tcp_route(&client.listener.name).cloned()),
    };
    pass(client, input, route).await;
}

/// The same for a client whose route is known, if it has one.
pub(crate) async fn pass(mut client: Client, input: Buffer, route: Option<Arc<RouteEntry>>) {
    let opened = open(&mut client, route).await;
    let ended = match opened {
        Ok((picked, mut upstream, idle)) => {
            relay(&mut client, input, &mut upstream, &picked, idle).await
        }
        Err(reason) => Some(reason),
    };
    if let Some(reason) = ended {
        client.worker.metrics.ended(reason);
        // What was refused must not look like a service with nothing to say.
        client.stream.abort();
        debug!(
            listener = %client.listener.name, peer = %client.peer,
            reason = reason.as_str(), code = reason.code(), "tcp connection ended"
        );
    }
}

async fn relay(
    client: &mut Client,
    input: Buffer,
    upstream: &mut Stream,
    picked: &InFlight,
    idle: Duration,
) -> Option<Reason> {
    picked.metrics.tcp_connections.inc();
    let mut up = Pipe::counted(input, picked.metrics.tcp_bytes_received.clone());
    let mut down = Pipe::counted(Buffer::default(), picked.metrics.tcp_bytes_sent.clone());
    let end =
        tunnel::relay(&mut client.stream, upstream, &mut up, &mut down, &client.timer, idle).await;
    match end {
        End::Closed => None,
        End::Client => Some(Reason::ClientGoneInBody),
        End::Upstream => Some(Reason::UpstreamBodyCut),
        End::Idle => Some(Reason::TunnelIdle),
    }
}

/// Connects to an instance of the client's route, to another one if the first refuses.
async fn open(
    client: &mut Client,
    route: Option<Arc<RouteEntry>>,
) -> Result<(InFlight, Stream, Duration), Reason> {
    let worker = Rc::clone(&client.worker);
    let route = route.ok_or(Reason::NoRoute)?;
    worker.budget.request();
    let mut tried = Tried::none();
    let mut failed = None;
    loop {
        let picked = match worker.pick(&route, Key::Source(client.peer), None, &tried) {
            Ok(picked) => picked,
            Err(PickError::Full(full)) => match failed {
                None => Box::pin(queue::wait(client, &full, None)).await?,
                Some(failed) => return Err(failed),
            },
            Err(PickError::NoInstance { .. }) => return Err(failed.unwrap_or(Reason::NoInstance)),
            Err(PickError::UnknownService { .. }) => return Err(Reason::BadReference),
        };
        if failed.is_some() {
            picked.metrics.retries.inc();
        }
        let begun = now();
        match connect(client, &route, &picked).await {
            Ok(upstream) => {
                // That it was fast says nothing of what it does with the connection.
                picked.state.answered(us_at(begun), None);
                let idle = route.timeouts().tunnel_idle.unwrap_or(worker.timeouts.tcp_idle);
                return Ok((picked, upstream, idle));
            }
            // We have run out of something: no instance can help.
            Err(reason @ Reason::Overloaded) => return Err(reason),
            Err(reason) => {
                picked.metrics.connect_failures.inc();
                if is_gateway_error(reason) {
                    let ended = now();
                    worker.failed(&picked, ended, ended - begun);
                }
                tried.insert(picked.state.pool_key());
                let paid = !costs_budget(reason) || worker.budget.spend();
                if tried.len() > worker.limits.retries_max || !paid {
                    return Err(reason);
                }
                failed = Some(reason);
            }
        }
    }
}

/// Opens a connection to the picked instance within the time for it.
async fn connect(client: &Client, route: &RouteEntry, picked: &InFlight) -> Result<Stream, Reason> {
    let worker = &client.worker;
    worker.metrics.upstream_opened.inc();
    client.timer.start(route.timeouts().connect.unwrap_or(worker.timeouts.connect));
    let asks_first = client.own.as_ref().is_some_and(|own| own.asked_first);
    let opening = upstream::open(client, picked);
    let mut connecting = pin!(async move {
        let mut stream = opening.await?;
        if asks_first {
            postgres::ask(&mut stream).await?;
        }
        std::io::Result::Ok(stream)
    });
    poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(connected) => Poll::Ready(connected.map_err(|error| connect_fault(&error))),
        Poll::Pending if client.timer.is_due() => Poll::Ready(Err(Reason::UpstreamConnectTimeout)),
        Poll::Pending => {
            client.timer.watch(cx);
            Poll::Pending
        }
    })
    .await
}
