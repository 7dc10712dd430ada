//! A connection of a client that speaks HTTP/2: it takes requests, each of which becomes a task,
//! says goodbye when it is time, and ends when the client floods it.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tracing::debug;

use super::inbound::{Inbound, Shared};
use super::lanes::Lanes;
use super::room::{Piece, Room};
use super::wire::{Io, Wire};
use super::{
    CONNECTION_WINDOW, FAREWELL, Flood, PREFACE_BYTES, RESETS_KEPT_MAX, RESETS_PENDING_MAX,
    STREAM_QUEUED_MAX, STREAM_WINDOW, STREAMS_MAX, WINDOW_MIN,
};
use crate::buffer::{self, Buffer};
use crate::deadline::Timer;
use crate::linger::linger;
use crate::listener::Listener;
use crate::proxy::Conn;
use crate::proxy_protocol::Ends;
use crate::stream::Stream;
use crate::upstream::Own;
use crate::worker::{Client, Worker};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client closed it, or it did what it was told to.
    Closed,
    /// We closed it, and the client may not know why yet.
    Told,
    /// The client did not take what we had to say in time.
    Cut,
}

/// What is still to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    /// The client has been told that it ends; requests under way go on.
    Leaving,
    /// It ends now.
    Ending,
}

/// Serves a client, of whom `input` has come already, until its connection ends.
pub(crate) async fn serve(client: Client, input: Buffer) {
    let Client { mut stream, peer, own, listener, timer, worker, open } = client;
    worker.metrics.h2.connections.inc();
    let shared = Rc::new(Shared {
        worker: Rc::clone(&worker),
        met: stream.take_met(),
        ends: stream.ends(),
        room: Rc::new(Room::default()),
        open: Cell::new(0),
        answered: Cell::new(0),
        task: RefCell::default(),
        name: OnceCell::new(),
    });
    let wire = Rc::new(RefCell::new(Wire::of_client(stream, input, PREFACE_BYTES, &worker)));
    timer.start(worker.timeouts.client_header);
    let Some(library) = handshake(&wire, &timer, &worker).await else { return };
    let connection = Connection {
        library,
        wire: Rc::clone(&wire),
        draining: Box::pin({
            let worker = Rc::clone(&worker);
            async move { worker.draining().await }
        }),
        life: Life::Open,
        taken: 0,
        is_idle: false,
        caller: Caller {
            text: peer.to_string().into(),
            trusted: listener.trusts(peer),
            peer,
            named: own.and_then(|own| own.named),
            listener,
        },
        shared,
        timer,
    };
    let (end, timer) = connection.run().await;
    debug!(?end, "http/2 connection ended");
    if let Some(wire) = Rc::into_inner(wire) {
        let mut stream = wire.into_inner().stream;
        match end {
            End::Closed => {}
            End::Told => linger(&mut stream, &timer, FAREWELL).await,
            End::Cut => stream.abort(),
        }
    }
    drop(open);
}

/// Greets the client; none if it is not what it seemed, or takes too long.
async fn handshake(
    wire: &Rc<RefCell<Wire>>,
    timer: &Timer,
    worker: &Rc<Worker>,
) -> Option<h2::server::Connection<Io, Piece>> {
    let (stream_window, connection_window) = match buffer::is_scarce() {
        false => (STREAM_WINDOW, CONNECTION_WINDOW),
        true => (WINDOW_MIN, WINDOW_MIN),
    };
    // The library counts 32 bytes more a field than the rules do, which answer for what is below.
    let head_bytes_max = u32::try_from(2 * worker.limits.http.head_bytes_max).unwrap_or(u32::MAX);
    let mut shaking = Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_header_list_size(head_bytes_max)
        .max_send_buffer_size(STREAM_QUEUED_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_concurrent_reset_streams(RESETS_KEPT_MAX)
        .enable_connect_protocol()
        .handshake(Io(Rc::clone(wire)));
    poll_fn(|cx| {
        let shaken = Pin::new(&mut shaking).poll(cx);
        if wire.borrow_mut().poll_send(cx)?.is_pending() && shaken.is_pending() && timer.is_due() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        match shaken {
            Poll::Ready(shaken) => Poll::Ready(shaken.map_err(io::Error::other)),
            Poll::Pending if timer.is_due() || worker.is_closing() => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => {
                timer.watch(cx);
                Poll::Pending
            }
        }
    })
    .await
    .ok()
}

/// Who sends the requests.
struct Caller {
    peer: IpAddr,
    /// The same as text.
    text: Rc<str>,
    trusted: bool,
    named: Option<Ends>,
    listener: Arc<Listener>,
}

struct Connection {
    library: h2::server::Connection<Io, Piece>,
    wire: Rc<RefCell<Wire>>,
    shared: Rc<Shared>,
    caller: Caller,
    timer: Timer,
    draining: Pin<Box<dyn Future<Output = ()>>>,
    life: Life,
    /// Requests that have come.
    taken: u64,
    /// No request is under way, and the timer says for how long that may be.
    is_idle: bool,
}

impl Connection {
    async fn run(mut self) -> (End, Timer) {
        let end = poll_fn(|cx| self.poll(cx)).await;
        (end, self.timer)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Poll::Ready(end) = self.poll_requests(cx) {
                return Poll::Ready(end);
            }
            if self.poll_turn(cx) {
                continue;
            }
            let sent = self.wire.borrow_mut().poll_send(cx);
            if matches!(sent, Poll::Ready(Err(_))) {
                return Poll::Ready(End::Closed);
            }
            return self.poll_idle(cx);
        }
    }

    /// Takes the requests that have come.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let answered = self.shared.answered.take();
        if answered > 0 {
            self.wire.borrow_mut().answered(answered);
        }
        loop {
            match self.library.poll_accept(cx) {
                Poll::Pending => {
                    self.wire.borrow_mut().taken(self.taken);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond, cx),
                Poll::Ready(Some(Err(error))) if error.is_io() => return Poll::Ready(End::Closed),
                Poll::Ready(Some(Err(error))) => {
                    let is_calm = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
                    let flood = self.wire.borrow().flood().or(is_calm.then_some(Flood::Memory));
                    if let Some(flood) = flood.filter(|_| self.life != Life::Ending) {
                        self.flooded(flood);
                    }
                    debug!(peer = %self.caller.text, %error, "http/2 connection failed");
                    return Poll::Ready(End::Told);
                }
                Poll::Ready(None) if self.life == Life::Open => return Poll::Ready(End::Closed),
                Poll::Ready(None) => return Poll::Ready(End::Told),
            }
        }
    }

    fn begin(
        &mut self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Piece>,
        cx: &mut Context<'_>,
    ) {
        let worker = &self.shared.worker;
        worker.metrics.h2.streams.inc();
        self.taken += 1;
        // What was taken back already costs no instance anything.
        if respond.poll_reset(cx).is_ready() {
            return;
        }
        let Some(inbound) = Inbound::new(request, respond, &self.shared) else { return };
        let client = Client {
            stream: Stream::Inbound(Box::new(inbound)),
            peer: self.caller.peer,
            own: self.caller.named.map(|ends| Box::new(Own::named(ends))),
            listener: Arc::clone(&self.caller.listener),
            timer: worker.wheel.timer(),
            worker: Rc::clone(worker),
            open: None,
        };
        let (peer, trusted) = (Rc::clone(&self.caller.text), self.caller.trusted);
        Lanes::begin(worker, Box::new(Conn::new(client, peer, trusted)));
    }

    /// Begins to end the connection if it is time; true if the library has something to say.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> bool {
        let flood = self.wire.borrow().flood();
        if let Some(flood) = flood
            && self.life != Life::Ending
        {
            self.flooded(flood);
            self.library.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.set_ending();
            return true;
        }
        if self.life == Life::Open && self.draining.as_mut().poll(cx).is_ready() {
            self.leave();
            return true;
        }
        false
    }

    fn flooded(&self, flood: Flood) {
        self.shared.worker.metrics.h2.flooded(flood);
        debug!(peer = %self.caller.text, flood = flood.as_str(), "http/2 flood");
    }

    fn leave(&mut self) {
        self.library.graceful_shutdown();
        self.life = Life::Leaving;
    }

    fn set_ending(&mut self) {
        self.life = Life::Ending;
        self.timer.start(FAREWELL);
    }

    /// Sees to a connection on which nothing happens.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let worker = &self.shared.worker;
        if self.life != Life::Ending {
            if self.shared.open.get() > 0 {
                self.is_idle = false;
                let mut task = self.shared.task.borrow_mut();
                if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                    *task = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            if !std::mem::replace(&mut self.is_idle, true) {
                self.timer.start(worker.timeouts.client_idle);
            }
            if self.timer.is_due() || worker.is_closing() {
                // Who is told that it ends and sends a request all the same knows that it is lost.
                self.leave();
                self.set_ending();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        } else if self.timer.is_due() {
            return Poll::Ready(End::Cut);
        }
        self.timer.watch(cx);
        Poll::Pending
    }
}
