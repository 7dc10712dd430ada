//! UDP: what comes from one client's address is a session, which goes to one instance of the
//! listener's route until it has been quiet for a while. Knows nothing of what is in the bytes.
//!
//! The kernel leads all datagrams of a client to the socket of one worker, so sessions need no
//! lock. Each has a socket of its own to its instance: answers find their client by it, and the
//! kernel says on it when nobody listens there.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use portolan_discovery::model::Revision;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use crate::balance::{Key, Tried};
use crate::clock::us_at;
use crate::deadline::{Tick, Timer};
use crate::endpoint::InFlight;
use crate::h1::Reason;
use crate::listener::Listener;
use crate::metrics::UdpMetrics;
use crate::proxy::{connect_fault, is_gateway_error};
use crate::shed::Cause;
use crate::table::PickError;
use crate::worker::{Worker, now};

/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// A session's first datagram is kept up to this size until there is an answer: it goes to another
/// instance if nobody listens at the first. Larger ones are no questions.
const FIRST_BYTES_MAX: usize = 1_500;

/// What the kernel holds of answers that a session has not passed on.
const SESSION_RECEIVE_BYTES: usize = 128 * 1024;

/// What the kernel holds of datagrams that the worker has not looked at (it caps this at
/// `rmem_max`): bursts come between two turns.
const LISTENER_RECEIVE_BYTES: usize = 4 * 1024 * 1024;

/// Answers that one session passes on before others have their turn.
const TURN_ANSWERS_MAX: usize = 32;

/// In a drain, a session that has been quiet for so long has ended.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

/// The wait after a socket that failed for want of a resource.
const RECEIVE_BACK_OFF: Duration = Duration::from_millis(50);

/// Takes what comes to a listener to the instances of its route. Runs until it is dropped.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Arc<Listener>, socket: UdpSocket) {
    let sessions = Rc::new(Sessions {
        worker,
        listener,
        socket,
        by_client: RefCell::default(),
        answer: RefCell::new(vec![0; DATAGRAM_BYTES_MAX].into()),
    });
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    let mut warned = false;
    loop {
        match sessions.socket.recv_from(&mut datagram).await {
            Ok((length, client)) => {
                warned = false;
                sessions.deliver(client, &datagram[..length]);
            }
            Err(error) => {
                sessions.worker.metrics.accept_errors.inc();
                if !std::mem::replace(&mut warned, true) {
                    warn!(listener = %sessions.listener.name, %error, "cannot receive datagrams");
                }
                tokio::time::sleep(RECEIVE_BACK_OFF).await;
            }
        }
    }
}

/// The sockets of a listener, one for each of `count` workers, and their address.
pub(crate) fn sockets(
    addr: SocketAddr,
    count: usize,
) -> io::Result<(Vec<std::net::UdpSocket>, SocketAddr)> {
    // One that shares with nobody finds out whether anybody has the port: a second process of the
    // same user would silently get half of the clients. A free port is one that nobody shares.
    let local = listening(addr, false)?.local_addr()?;
    let sockets = (0..count).map(|_| listening(local, true)).collect::<Result<_, _>>()?;
    Ok((sockets, local))
}

fn listening(addr: SocketAddr, shared: bool) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), None)?;
    // No SO_REUSEADDR: for UDP that is to share with anybody.
    socket.set_reuse_port(shared)?;
    socket.set_recv_buffer_size(LISTENER_RECEIVE_BYTES)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// A socket for the datagrams of one session.
fn connected(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), None)?;
    socket.set_recv_buffer_size(SESSION_RECEIVE_BYTES)?;
    socket.connect(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

/// The sessions of one listener and worker.
#[derive(Debug)]
struct Sessions {
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    socket: UdpSocket,
    /// Strangers choose the keys, so the hash is one that they cannot foresee.
    by_client: RefCell<HashMap<SocketAddr, Rc<Session>>>,
    /// Where an answer is read to, within one turn.
    answer: RefCell<Box<[u8]>>,
}

/// What comes from one client, and the instance that it goes to.
#[derive(Debug)]
struct Session {
    client: SocketAddr,
    socket: UdpSocket,
    picked: InFlight,
    metrics: Arc<UdpMetrics>,
    idle: Duration,
    /// When something has passed last.
    passed: Cell<Tick>,
    /// The table that says that the instance is still the right one.
    revision: Cell<Revision>,
    /// Its only datagram so far, while there is no answer.
    first: RefCell<Option<Box<[u8]>>>,
    /// Where it went in vain before.
    tried: Tried,
    /// Whether there was an answer.
    answered: Cell<bool>,
    /// Passes answers on.
    task: RefCell<Option<AbortHandle>>,
    _place: Place,
}

/// A session's place among those of its worker.
#[derive(Debug)]
struct Place {
    worker: Rc<Worker>,
    listener: Arc<Listener>,
}

impl Place {
    fn take(worker: &Rc<Worker>, listener: &Arc<Listener>) -> Option<Self> {
        if worker.sessions.get() >= worker.limits.udp_sessions_max {
            return None;
        }
        worker.sessions.set(worker.sessions.get() + 1);
        listener.metrics.accepted.inc();
        listener.metrics.open.inc();
        Some(Self { worker: Rc::clone(worker), listener: Arc::clone(listener) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listener.metrics.open.dec();
        self.worker.sessions.set(self.worker.sessions.get() - 1);
        self.worker.has_ended();
    }
}

impl Sessions {
    fn deliver(self: &Rc<Self>, client: SocketAddr, datagram: &[u8]) {
        let known = self.by_client.borrow().get(&client).map(Rc::clone);
        match known {
            Some(session) if self.leads_right(&session) => {
                self.pass(&session, datagram);
            }
            _ => self.open(client, datagram, Tried::none(), None),
        }
    }

    /// Whether the newest table has the instance of a session where it had it. One that drains is
    /// kept: only it knows what was said before.
    fn leads_right(&self, session: &Session) -> bool {
        self.worker.with_table(|table| {
            let revision = table.revision();
            if session.revision.replace(revision) == revision {
                return true;
            }
            let picked = session.picked.endpoint();
            table.udp_route(&self.listener.name).is_some_and(|route| {
                let mut backends = route.backends(table);
                backends.any(|(name, _, service)| {
                    *name == picked.service && service.is_some_and(|service| service.keeps(picked))
                })
            })
        })
    }

    /// Sends a datagram of the client on. Whether the session still is.
    fn pass(self: &Rc<Self>, session: &Rc<Session>, datagram: &[u8]) -> bool {
        // From the second on they would come out of order.
        session.first.take();
        session.passed.set(self.worker.wheel.now());
        // Past the runtime, which does not know yet whether a new socket has room.
        match SockRef::from(&session.socket).send(datagram) {
            Ok(_) => session.metrics.received(datagram.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                session.metrics.dropped.inc();
            }
            // Said once, of an earlier one: this one may still get somewhere.
            Err(error) => {
                self.end(session);
                self.failed(session, &error, Some(datagram));
                return false;
            }
        }
        true
    }

    /// Begins a session with its first datagram. Nobody waits for room: whoever sends by UDP
    /// sends again.
    fn open(
        self: &Rc<Self>,
        client: SocketAddr,
        datagram: &[u8],
        tried: Tried,
        failed: Option<Reason>,
    ) {
        let session = match self.opened(client, tried, failed) {
            Ok(session) => Rc::new(session),
            Err(reason) => {
                self.worker.metrics.ended(reason);
                debug!(
                    listener = %self.listener.name, %client,
                    reason = reason.as_str(), code = reason.code(), "datagram dropped"
                );
                return;
            }
        };
        let task = tokio::task::spawn_local(answers(Rc::clone(self), Rc::clone(&session)));
        session.task.replace(Some(task.abort_handle()));
        let replaced = self.by_client.borrow_mut().insert(client, Rc::clone(&session));
        if let Some(task) = replaced.and_then(|replaced| replaced.task.take()) {
            task.abort();
        }
        if self.pass(&session, datagram) && datagram.len() <= FIRST_BYTES_MAX {
            session.first.replace(Some(datagram.into()));
        }
    }

    /// Picks an instance and opens a socket to it, or says why there is none.
    fn opened(
        &self,
        client: SocketAddr,
        mut tried: Tried,
        mut failed: Option<Reason>,
    ) -> Result<Session, Reason> {
        let worker = &self.worker;
        if worker.is_draining() {
            return Err(Reason::Draining);
        }
        let Some(place) = Place::take(worker, &self.listener) else {
            worker.metrics.shed(Cause::Sessions);
            return Err(Reason::Overloaded);
        };
        let (route, revision) = worker.with_table(|table| {
            (table.udp_route(&self.listener.name).map(Arc::clone), table.revision())
        });
        let route = route.ok_or(Reason::NoRoute)?;
        loop {
            let picked = match worker.pick(&route, Key::Source(client.ip()), None, &tried) {
                Ok(picked) => picked,
                Err(PickError::Full(_)) => return Err(failed.unwrap_or(Reason::Overloaded)),
                Err(PickError::NoInstance { .. }) => {
                    return Err(failed.unwrap_or(Reason::NoInstance));
                }
                Err(PickError::UnknownService { .. }) => return Err(Reason::BadReference),
            };
            let reason = match connected(picked.addr) {
                Ok(socket) => {
                    let metrics = picked.metrics.udp(&picked.service);
                    metrics.sessions.inc();
                    return Ok(Session {
                        client,
                        socket,
                        metrics,
                        idle: route.timeouts().tunnel_idle.unwrap_or(worker.timeouts.udp_idle),
                        passed: Cell::new(worker.wheel.now()),
                        revision: Cell::new(revision),
                        first: RefCell::default(),
                        answered: Cell::new(false),
                        tried,
                        task: RefCell::default(),
                        picked,
                        _place: place,
                    });
                }
                Err(error) => connect_fault(&error),
            };
            // We have run out of something: no instance can help.
            if reason == Reason::Overloaded {
                return Err(reason);
            }
            self.blame(&picked, reason);
            tried.insert(picked.state.pool_key());
            if tried.len() > worker.limits.retries_max {
                return Err(reason);
            }
            failed = Some(reason);
        }
    }

    /// An instance cannot be reached. What is known to have been lost is tried on another one.
    fn failed(self: &Rc<Self>, session: &Session, error: &io::Error, datagram: Option<&[u8]>) {
        let reason = connect_fault(error);
        self.blame(&session.picked, reason);
        let mut tried = session.tried;
        tried.insert(session.picked.state.pool_key());
        let first = session.first.take();
        let again = datagram.or(first.as_deref());
        match again.filter(|_| tried.len() <= self.worker.limits.retries_max) {
            Some(datagram) => {
                session.picked.metrics.retries.inc();
                self.open(session.client, datagram, tried, Some(reason));
            }
            None => self.worker.metrics.ended(reason),
        }
    }

    fn blame(&self, picked: &InFlight, reason: Reason) {
        picked.metrics.connect_failures.inc();
        if is_gateway_error(reason) {
            self.worker.failed(picked, now(), Duration::ZERO);
        }
    }

    /// Takes a session out, whoever finds out that it is over.
    fn end(&self, session: &Rc<Session>) {
        let mut by_client = self.by_client.borrow_mut();
        if by_client.get(&session.client).is_some_and(|other| Rc::ptr_eq(other, session)) {
            by_client.remove(&session.client);
        }
        drop(by_client);
        if let Some(task) = session.task.take() {
            task.abort();
        }
    }

    /// Passes on what has come for the client, until there is nothing more or it is somebody
    /// else's turn. An error is one of the instance.
    fn pass_answers(&self, session: &Session, what: Interest) -> io::Result<()> {
        let answer = &mut **self.answer.borrow_mut();
        for _ in 0..TURN_ANSWERS_MAX {
            let socket = &session.socket;
            // Not `try_recv`, which does not look when there is only an error.
            let length = match socket.try_io(what, || receive(socket, answer)) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            session.passed.set(self.worker.wheel.now());
            if !session.answered.replace(true) {
                session.first.take();
                session.picked.state.answered(us_at(now()), None);
            }
            let listening = SockRef::from(&self.socket);
            match listening.send_to(&answer[..length], &session.client.into()) {
                Ok(length) => session.metrics.sent(length),
                // No room, or a client that has gone: as on any link after this one.
                Err(_) => session.metrics.dropped.inc(),
            }
        }
        Ok(())
    }
}

fn receive(socket: &UdpSocket, datagram: &mut [u8]) -> io::Result<usize> {
    let (_, length) = recv(socket, datagram, RecvFlags::DONTWAIT)?;
    Ok(length)
}

/// Passes answers on until the session is over.
async fn answers(sessions: Rc<Sessions>, session: Rc<Session>) {
    let timer = sessions.worker.wheel.timer();
    let mut failed = None;
    while let Some(what) = answer_or_error(&sessions.worker, &session, &timer).await {
        if let Err(error) = sessions.pass_answers(&session, what) {
            failed = Some(error);
            break;
        }
    }
    // Not by itself: it is about to end.
    session.task.take();
    sessions.end(&session);
    if let Some(error) = failed {
        sessions.failed(&session, &error, None);
    }
}

/// What there is to be read from a session's socket; none when it has been quiet for too long.
async fn answer_or_error(worker: &Worker, session: &Session, timer: &Timer) -> Option<Interest> {
    let mut ready = pin!(session.socket.ready(Interest::READABLE | Interest::ERROR));
    poll_fn(|cx| {
        if let Poll::Ready(ready) = ready.as_mut().poll(cx) {
            // The runtime knows the two only one by one. It fails only when it ends.
            let what = |ready: Ready| match ready.is_error() {
                true => Interest::ERROR,
                false => Interest::READABLE,
            };
            return Poll::Ready(ready.ok().map(what));
        }
        let idle = if worker.is_closing() { session.idle.min(DRAIN_QUIET) } else { session.idle };
        let due = session.passed.get().after(idle);
        if timer.has_passed(due) {
            return Poll::Ready(None);
        }
        timer.set(due);
        timer.watch(cx);
        Poll::Pending
    })
    .await
}
