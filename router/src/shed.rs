//! Connections that there is no room for. The newest is the one that goes: whoever is served
//! already keeps being served. An HTTP client is told so, if not too many are being told.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use portolan_discovery::model::Protocol;

use crate::buffer::{Buffer, Outbox};
use crate::deadline::Timer;
use crate::h1::{self, Reason, RequestFacts, Via, parse_request, write_error};
use crate::linger::linger;
use crate::listener::Listener;
use crate::stream::Stream;
use crate::worker::{Client, Worker};

/// Connections that one worker answers at a time before it closes them; more are closed at once.
/// Honest clients are gone after one round trip, so this is over a thousand a second.
pub(crate) const SHEDDING_MAX: usize = 64;

/// The time for a client to say something and to take its answer.
const SHED_DEADLINE: Duration = Duration::from_secs(1);

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The worker has as many connections as it may have.
    Connections,
    /// Its buffers hold as much memory as they may.
    Memory,
    /// The source has as many connections as one may have.
    Source,
    /// The worker has as many sessions of UDP as it may have.
    Sessions,
}

impl Cause {
    /// Every cause, in declaration order: the label set of a metric.
    pub(crate) const ALL: [Self; 4] =
        [Self::Connections, Self::Memory, Self::Source, Self::Sessions];

    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Memory => "memory",
            Self::Source => "source",
            Self::Sessions => "sessions",
        }
    }
}

/// One of the [`SHEDDING_MAX`].
struct Place(Rc<Worker>);

impl Place {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        let taken = worker.shedding.get();
        (taken < SHEDDING_MAX).then(|| {
            worker.shedding.set(taken + 1);
            Self(Rc::clone(worker))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.shedding.set(self.0.shedding.get() - 1);
    }
}

/// Gets rid of a connection that was just accepted.
pub(crate) fn shed(worker: &Rc<Worker>, listener: &Listener, mut stream: Stream, cause: Cause) {
    worker.metrics.shed(cause);
    worker.metrics.ended(Reason::Overloaded);
    match listener.protocol {
        Protocol::Http if listener.tls.is_none() => {
            if let Some(place) = Place::take(worker) {
                tokio::task::spawn_local(answer(place, stream, Arc::clone(listener.router())));
            }
        }
        // What was refused must not look like a service with nothing to say; and a handshake
        // costs more than what there is no room for.
        Protocol::Http | Protocol::Tcp | Protocol::Udp | Protocol::Tls => stream.abort(),
    }
}

/// Waits for the client's request, as an answer that comes before it counts as a fault with some
/// clients, and answers whatever it is.
async fn answer(place: Place, mut stream: Stream, router: Arc<Via>) {
    let worker = &place.0;
    let timer = worker.wheel.timer();
    timer.start(SHED_DEADLINE);
    let mut input = Buffer::default();
    let asked = poll_fn(|cx| match input.poll_fill(cx, &mut stream) {
        Poll::Ready(read) => Poll::Ready(matches!(read, Ok(1..))),
        Poll::Pending if timer.is_due() => Poll::Ready(false),
        Poll::Pending => {
            timer.watch(cx);
            Poll::Pending
        }
    });
    if !asked.await {
        return;
    }
    say(worker, &mut stream, &timer, &router, input, Reason::Overloaded).await;
}

/// Answers a client who speaks what is not spoken here, and of whom `input` has come.
pub(crate) async fn tell(client: &mut Client, input: Buffer, reason: Reason) {
    let Client { stream, timer, worker, listener, .. } = client;
    say(worker, stream, timer, listener.router(), input, reason).await;
}

async fn say(
    worker: &Worker,
    stream: &mut Stream,
    timer: &Timer,
    router: &Via,
    mut input: Buffer,
    reason: Reason,
) {
    let date = worker.clock.date();
    let request = facts(worker, &input);
    let client = h1::Client {
        request,
        keep_alive: false,
        date: &date,
        request_id: None,
        pseudonym: router.pseudonym(),
        line: b"",
    };
    let mut outbox = Outbox::default();
    write_error(reason, &client, outbox.head());
    input.consume(input.len());
    worker.metrics.replied(reason);
    // A new connection has room for so little, so nobody waits here.
    let sent = poll_fn(|cx| Poll::Ready(outbox.poll_flush(cx, stream, &[], &mut 0))).await;
    if sent.is_ready() {
        linger(stream, timer, SHED_DEADLINE).await;
    }
}

/// What is known of the request, so that the answer to HEAD has no body.
fn facts(worker: &Worker, input: &Buffer) -> Option<RequestFacts> {
    let scratch = &mut *worker.scratch.borrow_mut();
    let parsed = parse_request(input.data(), scratch, &worker.limits.http);
    parsed.ok().flatten().map(|request| request.facts())
}
