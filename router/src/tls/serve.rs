//! The handshake of a client: bounded in time, in size and in how many are under way.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use portolan_discovery::model::Protocol;
use rustls::server::{Accepted, Acceptor, ServerConnection};
use rustls::{Error, HandshakeKind};
use tracing::debug;

use super::peer::client_lines;
use super::serving::Serving;
use crate::buffer::{Buffer, SMALL};
use crate::h1::Reason;
use crate::postgres::{self, Asked};
use crate::stream::{Met, Stream};
use crate::worker::{Client, Worker};
use crate::{h2, proxy, shed, tcp};

/// Handshakes that one worker has under way. Each holds some KiB, and its client a secret that it
/// made for it; a client that is served later is served all the same.
const SHAKING_MAX: usize = 4_096;

/// The largest first message: with keys of every kind and a long ticket it is a tenth of it.
const HELLO_BYTES_MAX: usize = SMALL;

/// All that a client may send for a handshake, its certificates among it.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// The first byte of every record with a handshake in it (RFC 8446 §5.1).
const RECORD_HANDSHAKE: u8 = 22;

/// A fatal alert before there are keys, `unrecognized_name` (RFC 6066 §3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What came of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A new session.
    Full,
    /// A session that went on with a ticket.
    Resumed,
    /// Not TLS but a plain HTTP request.
    PlainHttp,
    /// There is no certificate for the host that was asked for.
    UnknownName,
    /// Client and router have no version, suite or protocol in common.
    NothingCommon,
    /// The client has no certificate, or one that is not taken.
    BadCertificate,
    /// The client does not take the router's certificate, or broke off with another alert.
    Refused,
    /// What came is malformed, or too large.
    Malformed,
    /// It did not come in time.
    Late,
    /// The client closed.
    Gone,
    /// There are [`SHAKING_MAX`] under way already.
    NoRoom,
}

impl Outcome {
    /// Every outcome, in declaration order: the label set of a metric.
    pub(crate) const ALL: [Self; 11] = [
        Self::Full,
        Self::Resumed,
        Self::PlainHttp,
        Self::UnknownName,
        Self::NothingCommon,
        Self::BadCertificate,
        Self::Refused,
        Self::Malformed,
        Self::Late,
        Self::Gone,
        Self::NoRoom,
    ];

    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::PlainHttp => "plain_http",
            Self::UnknownName => "unknown_name",
            Self::NothingCommon => "nothing_common",
            Self::BadCertificate => "bad_certificate",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Late => "late",
            Self::Gone => "gone",
            Self::NoRoom => "no_room",
        }
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Self::BadCertificate,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::NothingCommon,
            Error::AlertReceived(_) => Self::Refused,
            _ => Self::Malformed,
        }
    }

    fn of_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
            Some(cause) => Self::of(cause),
            None => Self::Gone,
        }
    }

    /// How a connection that it ended is counted, beside the handshake itself.
    fn reason(self) -> Option<Reason> {
        match self {
            Self::Full | Self::Resumed | Self::Gone => None,
            Self::PlainHttp => Some(Reason::PlainHttp),
            Self::Late => Some(Reason::HandshakeTimeout),
            Self::NoRoom => Some(Reason::Overloaded),
            Self::UnknownName
            | Self::NothingCommon
            | Self::BadCertificate
            | Self::Refused
            | Self::Malformed => Some(Reason::HandshakeFailed),
        }
    }
}

/// One of the [`SHAKING_MAX`].
struct Place(Rc<Worker>);

impl Place {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        let taken = worker.shaking.get();
        (taken < SHAKING_MAX).then(|| {
            worker.shaking.set(taken + 1);
            Self(Rc::clone(worker))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.shaking.set(self.0.shaking.get() - 1);
    }
}

/// Shakes hands with a client, of whom `input` has come already, and serves it then in a task of
/// its own: that of the handshake has held much more than one that waits for requests.
pub(crate) async fn serve(client: Client, input: Buffer) {
    let worker = Rc::clone(&client.worker);
    let outcome = match Place::take(&worker) {
        Some(_place) => match shaken(client, input).await {
            Ok((client, outcome)) => {
                worker.metrics.shaken(outcome);
                match client.listener.protocol {
                    Protocol::Http if client.stream.agreed_protocol() == Some(b"h2") => {
                        tokio::task::spawn_local(h2::serve(client, Buffer::default()))
                    }
                    Protocol::Http => {
                        tokio::task::spawn_local(proxy::serve(client, Buffer::default()))
                    }
                    Protocol::Tcp | Protocol::Udp | Protocol::Tls => {
                        tokio::task::spawn_local(tcp::serve(client, Buffer::default()))
                    }
                };
                return;
            }
            Err(outcome) => outcome,
        },
        None => Outcome::NoRoom,
    };
    worker.metrics.shaken(outcome);
    if let Some(reason) = outcome.reason() {
        worker.metrics.ended(reason);
    }
}

async fn shaken(mut client: Client, mut input: Buffer) -> Result<(Client, Outcome), Outcome> {
    let Some(serving) = client.listener.tls.clone() else { return Err(Outcome::Gone) };
    client.timer.start(serving.handshake_timeout);
    let greeted = hello(&mut client, &mut input).await;
    let (accepted, fed) = match greeted {
        Ok(greeted) => greeted,
        Err(outcome) => {
            log(&client, outcome, &"before its first message was whole");
            if outcome == Outcome::PlainHttp && client.listener.protocol == Protocol::Http {
                shed::tell(&mut client, input, Reason::PlainHttp).await;
            }
            return Err(outcome);
        }
    };
    let name: Option<Box<str>> = accepted.client_hello().server_name().map(Box::from);
    let Some(shown) = serving.shows(name.as_deref()) else {
        if let Some(tcp) = client.stream.tcp() {
            let _ = tcp.try_write(&UNRECOGNIZED_NAME);
        }
        log(&client, Outcome::UnknownName, &name.as_deref().unwrap_or("no name"));
        return Err(Outcome::UnknownName);
    };
    let session = session(&client, &serving, accepted)?;
    let mut secured = client.secure(session, &input.data()[fed..])?;
    input.consume(input.len());
    let outcome = finish(&mut secured, fed).await?;
    if let Stream::Tls(stream) = &mut secured.stream {
        let chain = stream.session().peer_certificates().unwrap_or_default();
        let client_lines = client_lines(chain);
        stream.set_met(Met { name, shown: Some(shown), client_lines });
    }
    Ok((secured, outcome))
}

/// Reads the client's first message. Returns how much of the input it took, too.
async fn hello(client: &mut Client, input: &mut Buffer) -> Result<(Accepted, usize), Outcome> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    poll_fn(|cx| {
        loop {
            let asked = match client.listener.protocol {
                Protocol::Tcp if fed == 0 => postgres::asked(input.data()),
                _ => Asked::Nothing,
            };
            if matches!(asked, Asked::Tls | Asked::Gss)
                && postgres::answer(asked, input, &client.stream).is_err()
            {
                return Poll::Ready(Err(Outcome::Gone));
            }
            match input.data().first() {
                _ if asked == Asked::More => {}
                Some(&RECORD_HANDSHAKE) | None => {}
                Some(b'A'..=b'Z') => return Poll::Ready(Err(Outcome::PlainHttp)),
                Some(_) => return Poll::Ready(Err(Outcome::Malformed)),
            }
            while fed < input.len() && asked != Asked::More {
                let mut rest = &input.data()[fed..];
                let before = rest.len();
                if acceptor.read_tls(&mut rest).is_err() {
                    return Poll::Ready(Err(Outcome::Malformed));
                }
                fed += before - rest.len();
                match acceptor.accept() {
                    Ok(None) => {}
                    Ok(Some(accepted)) => return Poll::Ready(Ok((accepted, fed))),
                    Err((error, mut alert)) => {
                        say(client, |to| alert.write_all(to));
                        return Poll::Ready(Err(Outcome::of(&error)));
                    }
                }
            }
            if input.len() >= HELLO_BYTES_MAX {
                return Poll::Ready(Err(Outcome::Malformed));
            }
            match input.poll_fill(cx, &mut client.stream) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Err(Outcome::Gone)),
                Poll::Pending => return waiting(client, cx),
            }
        }
    })
    .await
}

fn session(
    client: &Client,
    serving: &Serving,
    accepted: Accepted,
) -> Result<ServerConnection, Outcome> {
    accepted.into_connection(Arc::clone(&serving.config)).map_err(|(error, mut alert)| {
        say(client, |to| alert.write_all(to));
        let outcome = Outcome::of(&error);
        log(client, outcome, &error);
        outcome
    })
}

/// The rest of the handshake. `seen` has come for it already.
async fn finish(client: &mut Client, mut seen: usize) -> Result<Outcome, Outcome> {
    let shaken = poll_fn(|cx| {
        let Stream::Tls(stream) = &mut client.stream else {
            return Poll::Ready(Err(Outcome::Gone));
        };
        let shaken = stream.poll_shake(cx, &mut seen);
        match shaken {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(match stream.session().handshake_kind() {
                Some(HandshakeKind::Resumed) => Outcome::Resumed,
                _ => Outcome::Full,
            })),
            Poll::Ready(Err(error)) => {
                let outcome = Outcome::of_io(&error);
                log(client, outcome, &error);
                Poll::Ready(Err(outcome))
            }
            Poll::Pending if seen > HANDSHAKE_BYTES_MAX => Poll::Ready(Err(Outcome::Malformed)),
            Poll::Pending => waiting(client, cx),
        }
    })
    .await;
    if shaken.is_err()
        && let Stream::Tls(stream) = &mut client.stream
    {
        stream.forget_farewell();
    }
    shaken
}

fn waiting<T>(client: &Client, cx: &mut std::task::Context<'_>) -> Poll<Result<T, Outcome>> {
    if client.timer.is_due() {
        log(client, Outcome::Late, &"the time is over");
        return Poll::Ready(Err(Outcome::Late));
    }
    if client.worker.is_closing() {
        return Poll::Ready(Err(Outcome::Gone));
    }
    client.timer.watch(cx);
    Poll::Pending
}

/// Says a last word, as far as the socket takes it now.
fn say(client: &Client, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
    let mut bytes = Vec::new();
    if write(&mut bytes).is_ok()
        && let Some(tcp) = client.stream.tcp()
    {
        let _ = tcp.try_write(&bytes);
    }
}

fn log(client: &Client, outcome: Outcome, cause: &dyn std::fmt::Display) {
    debug!(
        listener = %client.listener.name, peer = %client.peer, outcome = outcome.as_str(), %cause,
        "tls handshake failed"
    );
}
