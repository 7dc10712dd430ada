//! Connections to instances that speak HTTP/2: one worker's, shared by all its requests to an
//! instance. One is opened when there is none with room, and others wait for it meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use h2::SendStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::Request;
use http::uri::Scheme;
use rustix::io::Errno;
use tokio::sync::Notify;
use tracing::debug;

use super::room::{Piece, Room};
use super::wire::{Io, Wire};
use super::{
    ANSWER_WINDOW, LINK_STREAMS_MAX, LINK_WINDOW, Outbound, RESETS_KEPT_MAX, STREAM_QUEUED_MAX,
    broken,
};
use crate::deadline::Tick;
use crate::endpoint::{Endpoint, EndpointState};
use crate::h1;
use crate::stream::Stream;
use crate::upstream;
use crate::worker::Worker;

/// The connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Links(RefCell<HashMap<u64, Shelf, foldhash::fast::RandomState>>);

#[derive(Debug)]
struct Shelf {
    state: Arc<EndpointState>,
    links: Vec<Rc<Link>>,
    /// Told when the one that is being opened is there, or is not.
    opening: Option<Rc<Notify>>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    /// None once nothing may begin on it any more.
    send: RefCell<Option<SendRequest<Piece>>>,
    open: Cell<usize>,
    /// Since when nothing is under way.
    idle_since: Cell<Tick>,
    room: Rc<Room>,
    scheme: Scheme,
    worker: Rc<Worker>,
}

impl Link {
    /// Whether a request can begin on it now.
    fn has_room(&self) -> bool {
        let mut send = self.send.borrow_mut();
        let Some(sender) = send.as_mut() else { return false };
        // The peer's limit may be lower than what is queued already: then it is not ready.
        match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {
                self.open.get() < sender.current_max_send_streams().min(LINK_STREAMS_MAX)
            }
            Poll::Ready(Err(_)) => {
                *send = None;
                false
            }
            Poll::Pending => false,
        }
    }

    fn begin(self: &Rc<Self>) -> Stream {
        self.open.set(self.open.get() + 1);
        Stream::Outbound(Box::new(Outbound::new(Place(Rc::clone(self)))))
    }

    /// Lets it end once what is under way has.
    fn close(&self) {
        self.send.take();
    }

    fn is_over(&self) -> bool {
        self.send.borrow().is_none()
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Place(Rc<Link>);

impl Place {
    pub(super) fn room(&self) -> &Rc<Room> {
        &self.0.room
    }

    pub(super) fn scheme(&self) -> &Scheme {
        &self.0.scheme
    }

    pub(super) fn limits(&self) -> &h1::Limits {
        &self.0.worker.limits.http
    }

    pub(super) fn send(
        &self,
        request: Request<()>,
        is_whole: bool,
    ) -> io::Result<(ResponseFuture, SendStream<Piece>)> {
        let mut send = self.0.send.borrow_mut();
        let sender = send.as_mut().ok_or(io::ErrorKind::ConnectionReset)?;
        sender.send_request(request, is_whole).map_err(broken)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.idle_since.set(self.0.worker.wheel.now());
    }
}

impl Links {
    /// A place on a connection that is there.
    pub(crate) fn take(&self, state: &EndpointState) -> Option<Stream> {
        let mut shelves = self.0.borrow_mut();
        let shelf = shelves.get_mut(&state.pool_key())?;
        shelf.links.iter().find(|link| link.has_room()).map(Link::begin)
    }

    /// Waits for the one that is being opened; none if nobody does that.
    fn opening(&self, state: &EndpointState) -> Option<Rc<Notify>> {
        self.0.borrow().get(&state.pool_key())?.opening.clone()
    }

    /// Closes what is not used any more.
    pub(crate) fn sweep(&self, now: Tick) {
        self.0.borrow_mut().retain(|_, shelf| {
            let wanted = shelf.state.idle_wanted();
            shelf.links.retain(|link| {
                let expires = link.idle_since.get().after(link.worker.timeouts.upstream_idle);
                if link.open.get() == 0 && (!wanted || expires <= now) {
                    link.close();
                }
                !link.is_over()
            });
            !shelf.links.is_empty() || shelf.opening.is_some()
        });
    }
}

/// Somebody opens a connection; whoever waits for it is told when that is over, however it ends.
struct Opening {
    worker: Rc<Worker>,
    key: u64,
    told: Rc<Notify>,
}

impl Opening {
    fn begin(worker: &Rc<Worker>, state: &Arc<EndpointState>) -> io::Result<Self> {
        let (key, told) = (state.pool_key(), Rc::<Notify>::default());
        let mut shelves = worker.links.0.borrow_mut();
        let shelf = shelves.entry(key).or_insert_with(|| Shelf {
            state: Arc::clone(state),
            links: Vec::new(),
            opening: None,
        });
        shelf.links.retain(|link| !link.is_over());
        if shelf.links.len() >= worker.limits.upstream_idle_max {
            // It is we who ask for too much at a time.
            return Err(Errno::NOBUFS.into());
        }
        shelf.opening = Some(Rc::clone(&told));
        Ok(Self { worker: Rc::clone(worker), key, told })
    }

    fn put(&self, link: Rc<Link>) {
        if let Some(shelf) = self.worker.links.0.borrow_mut().get_mut(&self.key) {
            shelf.links.push(link);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(shelf) = self.worker.links.0.borrow_mut().get_mut(&self.key) {
            shelf.opening = None;
        }
        self.told.notify_waiters();
    }
}

/// A place on a connection to the instance, which begins with this header; with one it is not
/// shared. No limit of time: the caller has the timer.
pub(crate) fn open(
    worker: &Rc<Worker>,
    picked: &Endpoint,
    header: Option<Box<[u8]>>,
) -> impl Future<Output = io::Result<Stream>> + use<> {
    let (worker, state) = (Rc::clone(worker), Arc::clone(&picked.state));
    let scheme = if picked.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let is_shared = header.is_none();
    let connecting = upstream::connect(picked, header);
    async move {
        if !is_shared {
            return Ok(dial(&worker, connecting, scheme).await?.begin());
        }
        loop {
            if let Some(stream) = worker.links.take(&state) {
                return Ok(stream);
            }
            match worker.links.opening(&state) {
                Some(told) => told.notified().await,
                None => break,
            }
        }
        let opening = Opening::begin(&worker, &state)?;
        let link = dial(&worker, connecting, scheme).await?;
        opening.put(Rc::clone(&link));
        Ok(link.begin())
    }
}

async fn dial(
    worker: &Rc<Worker>,
    connecting: impl Future<Output = io::Result<Stream>>,
    scheme: Scheme,
) -> io::Result<Rc<Link>> {
    worker.metrics.upstream_opened.inc();
    let wire = Rc::new(RefCell::new(Wire::of_instance(connecting.await?)));
    let head_bytes_max = u32::try_from(2 * worker.limits.http.head_bytes_max).unwrap_or(u32::MAX);
    let shaking = Builder::new()
        .initial_window_size(ANSWER_WINDOW)
        .initial_connection_window_size(LINK_WINDOW)
        .max_header_list_size(head_bytes_max)
        .max_send_buffer_size(STREAM_QUEUED_MAX)
        .max_concurrent_reset_streams(RESETS_KEPT_MAX)
        .enable_push(false)
        .handshake::<_, Piece>(Io(Rc::clone(&wire)));
    let (send, mut connection) = shaking.await.map_err(broken)?;
    tokio::task::spawn_local(async move {
        let ended = poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx);
            if let Poll::Ready(Err(error)) = wire.borrow_mut().poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            ended.map_err(io::Error::other)
        })
        .await;
        debug!(error = ended.err().map(tracing::field::display), "http/2 to an instance ended");
    });
    Ok(Rc::new(Link {
        send: RefCell::new(Some(send)),
        open: Cell::new(0),
        idle_since: Cell::new(worker.wheel.now()),
        room: Rc::new(Room::default()),
        scheme,
        worker: Rc::clone(worker),
    }))
}
