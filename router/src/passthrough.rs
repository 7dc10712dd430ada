//! TLS that is passed on: the client's first message says which host it asks for, and the whole
//! connection goes, as it came, to an instance of that host's route. What the message looks like
//! is `hello`'s.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tracing::debug;

use crate::buffer::Buffer;
use crate::h1::Reason;
use crate::hello::{self, BadHello, HELLO_BYTES_MAX, Hello};
use crate::linger::linger;
use crate::postgres::{self, Asked};
use crate::tcp;
use crate::worker::Client;

/// How long a client that is refused is read on, so that it gets to see why instead of a reset.
const LINGER: Duration = Duration::from_secs(2);

/// What came of a client's first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is a route for the host.
    Named,
    /// There is none, but one for any.
    Other,
    /// It names no host, and there is a route for any.
    Unnamed,
    /// There is no route for the host.
    UnknownName,
    /// It names no host, and there is no route for any.
    NoName,
    /// Something else is spoken.
    NotTls,
    /// It is malformed, or too large.
    Malformed,
    /// It did not come in time.
    Late,
    /// The client closed.
    Gone,
}

impl Outcome {
    /// Every outcome, in declaration order: the label set of a metric.
    pub(crate) const ALL: [Self; 9] = [
        Self::Named,
        Self::Other,
        Self::Unnamed,
        Self::UnknownName,
        Self::NoName,
        Self::NotTls,
        Self::Malformed,
        Self::Late,
        Self::Gone,
    ];

    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Other => "other",
            Self::Unnamed => "unnamed",
            Self::UnknownName => "unknown_name",
            Self::NoName => "no_name",
            Self::NotTls => "not_tls",
            Self::Malformed => "malformed",
            Self::Late => "late",
            Self::Gone => "gone",
        }
    }

    /// How a connection that it ended is counted, beside the message itself.
    fn reason(self) -> Option<Reason> {
        match self {
            Self::Named | Self::Other | Self::Unnamed | Self::Gone => None,
            Self::UnknownName | Self::NoName => Some(Reason::NoRoute),
            Self::NotTls | Self::Malformed => Some(Reason::HandshakeFailed),
            Self::Late => Some(Reason::HandshakeTimeout),
        }
    }
}

/// A connection that cannot be passed on.
struct Refused {
    outcome: Outcome,
    /// What the client is told.
    alert: Option<[u8; 7]>,
}

impl Refused {
    /// Nobody is there, or nobody who would understand.
    fn silently(outcome: Outcome) -> Self {
        Self { outcome, alert: None }
    }
}

impl From<BadHello> for Refused {
    fn from(bad: BadHello) -> Self {
        let outcome = match bad {
            BadHello::NotTls => Outcome::NotTls,
            BadHello::Unexpected | BadHello::Malformed | BadHello::TooLarge => Outcome::Malformed,
        };
        Self { outcome, alert: bad.alert() }
    }
}

/// Serves a client of whom `input` has come already.
pub(crate) async fn serve(mut client: Client, mut input: Buffer) {
    match host(&mut client, &mut input).await {
        Ok(host) => pass(client, input, host).await,
        Err(refused) => refuse(client, refused, None).await,
    }
}

async fn pass(mut client: Client, input: Buffer, host: Option<Box<str>>) {
    let (route, is_any) = client.worker.with_table(|table| {
        let listener = &client.listener.name;
        let any = table.tls_route(listener, None);
        let route = table.tls_route(listener, host.as_deref());
        (route.cloned(), route.is_some() && any.map(Arc::as_ptr) == route.map(Arc::as_ptr))
    });
    let Some(route) = route else {
        let outcome = if host.is_some() { Outcome::UnknownName } else { Outcome::NoName };
        let alert = Some(hello::alert(hello::UNRECOGNIZED_NAME));
        return refuse(client, Refused { outcome, alert }, host.as_deref()).await;
    };
    let outcome = match &host {
        None => Outcome::Unnamed,
        Some(_) if is_any => Outcome::Other,
        Some(_) => Outcome::Named,
    };
    client.worker.metrics.passed_on(outcome);
    if let Some(host) = host {
        client.own.get_or_insert_default().asked_for = Some(host);
    }
    tcp::pass(client, input, Some(route)).await;
}

/// Reads until the host is known that the client asks for.
async fn host(client: &mut Client, input: &mut Buffer) -> Result<Option<Box<str>>, Refused> {
    client.timer.start(client.worker.timeouts.client_header);
    poll_fn(|cx| {
        loop {
            match postgres::asked(input.data()) {
                Asked::Nothing | Asked::More => {}
                asked => match postgres::answer(asked, input, &client.stream) {
                    Ok(is_tls) => client.own.get_or_insert_default().asked_first |= is_tls,
                    Err(_) => return Poll::Ready(Err(Refused::silently(Outcome::Gone))),
                },
            }
            match hello::read(input.data()) {
                _ if postgres::asked(input.data()) == Asked::More => {}
                Ok(Hello::More) => {}
                Ok(Hello::Whole(host)) => return Poll::Ready(Ok(host)),
                Err(bad) => return Poll::Ready(Err(bad.into())),
            }
            // There is always room: what is larger than a buffer was refused.
            match input.poll_fill(cx, &mut client.stream) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Err(Refused::silently(Outcome::Gone))),
                Poll::Pending if client.timer.is_due() => {
                    return Poll::Ready(Err(Refused::silently(Outcome::Late)));
                }
                Poll::Pending if client.worker.is_closing() => {
                    return Poll::Ready(Err(Refused::silently(Outcome::Gone)));
                }
                Poll::Pending => {
                    client.timer.watch(cx);
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

const _: () = assert!(HELLO_BYTES_MAX <= crate::buffer::SMALL);

/// Closes a connection, after a word that a client of TLS understands.
async fn refuse(mut client: Client, refused: Refused, host: Option<&str>) {
    let worker = Rc::clone(&client.worker);
    worker.metrics.passed_on(refused.outcome);
    if let Some(reason) = refused.outcome.reason() {
        worker.metrics.ended(reason);
    }
    debug!(
        listener = %client.listener.name, peer = %client.peer, host,
        outcome = refused.outcome.as_str(), "tls connection not passed on"
    );
    match refused.alert {
        // A new socket takes seven bytes, or its client has gone.
        Some(alert) if client.stream.tcp().is_some_and(|tcp| tcp.try_write(&alert).is_ok()) => {
            linger(&mut client.stream, &client.timer, LINGER).await;
        }
        _ => client.stream.abort(),
    }
}
