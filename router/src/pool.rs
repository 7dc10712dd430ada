//! Idle connections to instances, by value: no task, no timer, last in first out.
//!
//! One pool a worker. A connection that the instance has closed is found out when it is taken
//! or swept; a connection is never handed out with bytes on it. Those that were opened for one
//! client lie apart, under its name. Knows nothing of HTTP.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::net::TcpSocket;

use crate::deadline::Tick;
use crate::endpoint::EndpointState;
use crate::stream::Stream;

/// Idle connections of one worker in all: a worker with very many instances does not eat the
/// process's file descriptors.
const IDLE_MAX: usize = 8_192;

/// Idle connections that are kept for one client: more than one only where its requests go to
/// several services.
const OWN_MAX: usize = 4;

/// A client that connections are kept for; unique in the worker, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owner(NonZeroU64);

/// A connection to an instance.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: Stream,
    /// It has served a request before.
    pub(crate) reused: bool,
    /// How long it may be idle.
    pub(crate) idle_max: Duration,
}

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    expires: Tick,
}

impl Idle {
    /// Its time is not over and its instance has not closed it, as far as the loop knows.
    fn lives(&mut self, now: Tick) -> bool {
        self.expires > now && self.upstream.stream.is_quiet()
    }
}

#[derive(Debug)]
struct Shelf {
    state: Arc<EndpointState>,
    idle: Vec<Idle>,
}

/// A connection that is for one client.
#[derive(Debug)]
struct Own {
    state: Arc<EndpointState>,
    idle: Idle,
}

/// How sure one must be that a connection still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// What the last turn of the loop said is enough: the request may be sent again.
    Repeatable,
    /// The kernel is asked right now: the request must not be sent twice.
    Once,
}

/// The idle connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    shelves: RefCell<Shelves>,
    per_instance_max: usize,
    last_owner: Cell<u64>,
}

#[derive(Debug, Default)]
struct Shelves {
    by_key: HashMap<u64, Shelf, foldhash::fast::RandomState>,
    by_owner: HashMap<Owner, SmallVec<[Own; 1]>, foldhash::fast::RandomState>,
    count: usize,
}

impl Pool {
    pub(crate) fn new(per_instance_max: usize) -> Self {
        Self { shelves: RefCell::default(), per_instance_max, last_owner: Cell::new(0) }
    }

    /// The connection used last that still lives.
    pub(crate) fn take(&self, state: &EndpointState, now: Tick, care: Care) -> Option<Upstream> {
        let mut shelves = self.shelves.borrow_mut();
        let Shelves { by_key, count, .. } = &mut *shelves;
        let idle = &mut by_key.get_mut(&state.pool_key())?.idle;
        while let Some(Idle { mut upstream, expires }) = idle.pop() {
            *count -= 1;
            let stream = &mut upstream.stream;
            if expires > now && stream.is_quiet() && (care == Care::Repeatable || stream.is_open())
            {
                return Some(Upstream { reused: true, ..upstream });
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way for as long as it may be idle.
    pub(crate) fn put(&self, state: &Arc<EndpointState>, upstream: Upstream, now: Tick) {
        let mut shelves = self.shelves.borrow_mut();
        let Shelves { by_key, count, .. } = &mut *shelves;
        if *count >= IDLE_MAX || !state.idle_wanted() {
            return;
        }
        let shelf = by_key
            .entry(state.pool_key())
            .or_insert_with(|| Shelf { state: Arc::clone(state), idle: Vec::new() });
        if shelf.idle.len() < self.per_instance_max {
            let expires = now.after(upstream.idle_max);
            shelf.idle.push(Idle { upstream, expires });
            *count += 1;
        }
    }

    /// A name for a client.
    pub(crate) fn new_owner(&self) -> Owner {
        let number = self.last_owner.get() + 1;
        self.last_owner.set(number);
        Owner(NonZeroU64::new(number).expect("it begins at 1 and only grows"))
    }

    /// The connection to this instance that is kept for `owner`, if it still lives.
    #[inline(never)]
    pub(crate) fn take_own(
        &self,
        owner: Owner,
        state: &EndpointState,
        now: Tick,
    ) -> Option<Upstream> {
        let mut shelves = self.shelves.borrow_mut();
        let Shelves { by_owner, count, .. } = &mut *shelves;
        let kept = by_owner.get_mut(&owner)?;
        while let Some(at) = kept.iter().position(|own| std::ptr::eq(&*own.state, state)) {
            let Idle { mut upstream, expires } = kept.swap_remove(at).idle;
            *count -= 1;
            if expires > now && upstream.stream.is_quiet() && upstream.stream.is_open() {
                return Some(Upstream { reused: true, ..upstream });
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way for `owner`.
    #[inline(never)]
    pub(crate) fn put_own(
        &self,
        owner: Owner,
        state: &Arc<EndpointState>,
        upstream: Upstream,
        now: Tick,
    ) {
        let mut shelves = self.shelves.borrow_mut();
        let Shelves { by_owner, count, .. } = &mut *shelves;
        let kept = by_owner.entry(owner).or_default();
        if kept.len() < OWN_MAX && *count < IDLE_MAX && state.idle_wanted() {
            let idle = Idle { expires: now.after(upstream.idle_max), upstream };
            kept.push(Own { state: Arc::clone(state), idle });
            *count += 1;
        }
    }

    /// Closes what is kept for `owner`.
    #[inline(never)]
    pub(crate) fn leave(&self, owner: Owner) {
        let mut shelves = self.shelves.borrow_mut();
        if let Some(kept) = shelves.by_owner.remove(&owner) {
            shelves.count -= kept.len();
        }
    }

    /// Closes what has expired, what its instance has closed, and what no table has a use for.
    /// Asks every connection, so it must not run on a task's budget of readiness checks.
    pub(crate) fn sweep(&self, now: Tick) {
        let mut shelves = self.shelves.borrow_mut();
        let Shelves { by_key, by_owner, count } = &mut *shelves;
        by_owner.retain(|_, kept| {
            let before = kept.len();
            kept.retain(|own| own.state.idle_wanted() && own.idle.lives(now));
            *count -= before - kept.len();
            !kept.is_empty()
        });
        by_key.retain(|_, shelf| {
            let before = shelf.idle.len();
            let wanted = shelf.state.idle_wanted();
            shelf.idle.retain_mut(|idle| wanted && idle.lives(now));
            *count -= before - shelf.idle.len();
            !shelf.idle.is_empty()
        });
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shelves.borrow().count
    }
}

/// Opens a connection without delay for small writes. No limit of time: the caller has the timer.
pub(crate) async fn connect(addr: SocketAddr) -> io::Result<Stream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.connect(addr).await.map(Stream::from)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::deadline::Wheel;

    struct Far(TcpListener);

    impl Far {
        async fn new() -> Self {
            Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
        }

        async fn pair(&self, idle_ms: u64) -> (Upstream, TcpStream) {
            let stream = connect(self.0.local_addr().unwrap()).await.unwrap();
            let near = Upstream { stream, reused: false, idle_max: Duration::from_millis(idle_ms) };
            (near, self.0.accept().await.unwrap().0)
        }
    }

    fn after(ms: u64) -> Tick {
        Wheel::new().now().after(Duration::from_millis(ms))
    }

    #[tokio::test]
    async fn the_connection_used_last_is_taken_first() {
        let (pool, state, far) = (Pool::new(8), EndpointState::new(), Far::new().await);
        let (first, second) = (far.pair(5_000).await, far.pair(5_000).await);
        let port = second.0.stream.tcp().unwrap().local_addr().unwrap();
        pool.put(&state, first.0, after(0));
        pool.put(&state, second.0, after(0));
        let taken = pool.take(&state, after(0), Care::Once).unwrap();
        assert_eq!((taken.stream.tcp().unwrap().local_addr().unwrap(), taken.reused), (port, true));
        assert_eq!(pool.len(), 1);
    }

    #[tokio::test]
    async fn a_closed_connection_is_never_handed_out_with_care() {
        let (pool, state, far) = (Pool::new(8), EndpointState::new(), Far::new().await);
        let (near, gone) = far.pair(5_000).await;
        pool.put(&state, near, after(0));
        drop(gone);
        // On loopback the end has arrived when `close` returns.
        assert!(pool.take(&state, after(0), Care::Once).is_none());
        assert_eq!(pool.len(), 0);
    }

    #[tokio::test]
    async fn what_is_expired_closed_or_unwanted_is_swept() {
        let (pool, far) = (Pool::new(8), Far::new().await);
        let (kept, expired, unwanted) =
            (EndpointState::new(), EndpointState::new(), EndpointState::new());
        let mut held = Vec::new();
        for (state, ms) in [(&kept, 5_000), (&expired, 0), (&unwanted, 5_000)] {
            let (near, other) = far.pair(ms).await;
            pool.put(state, near, after(0));
            held.push(other);
        }
        unwanted.want_idle(false);
        pool.sweep(after(300));
        assert_eq!(pool.len(), 1);
        held.clear();
        tokio::time::timeout(Duration::from_secs(5), async {
            while pool.len() > 0 {
                tokio::task::yield_now().await;
                pool.sweep(after(300));
            }
        })
        .await
        .expect("a closed connection is swept");
    }

    #[tokio::test]
    async fn an_instance_gets_no_more_idle_connections_than_the_limit() {
        let (pool, state, far) = (Pool::new(2), EndpointState::new(), Far::new().await);
        let mut held = Vec::new();
        for _ in 0..3 {
            let (near, other) = far.pair(5_000).await;
            pool.put(&state, near, after(0));
            held.push(other);
        }
        assert_eq!(pool.len(), 2);
    }

    #[tokio::test]
    async fn what_was_opened_for_a_client_is_its_alone_and_goes_with_it() {
        let (pool, state, far) = (Pool::new(8), EndpointState::new(), Far::new().await);
        let (ours, theirs) = (pool.new_owner(), pool.new_owner());
        let mut held = Vec::new();
        for ms in [5_000, 5_000, 0] {
            let (near, other) = far.pair(ms).await;
            pool.put_own(ours, &state, near, after(0));
            held.push(other);
        }
        assert!(pool.take(&state, after(0), Care::Once).is_none());
        assert!(pool.take_own(theirs, &state, after(0)).is_none());
        assert!(pool.take_own(ours, &EndpointState::new(), after(0)).is_none());
        assert!(pool.take_own(ours, &state, after(0)).unwrap().reused);
        pool.sweep(after(300));
        assert_eq!(pool.len(), 1, "one was taken, one has expired");
        pool.leave(ours);
        assert_eq!(pool.len(), 0);
        assert!(pool.take_own(ours, &state, after(0)).is_none());
    }

    #[tokio::test]
    async fn a_client_has_few_connections_and_dead_ones_are_not_handed_out() {
        let (pool, far) = (Pool::new(8), Far::new().await);
        let owner = pool.new_owner();
        let states: Vec<_> = (0..=OWN_MAX).map(|_| EndpointState::new()).collect();
        let mut held = Vec::new();
        for state in &states {
            let (near, other) = far.pair(5_000).await;
            pool.put_own(owner, state, near, after(0));
            held.push(other);
        }
        assert_eq!(pool.len(), OWN_MAX);
        held.clear();
        assert!(pool.take_own(owner, &states[0], after(0)).is_none());
        assert_eq!(pool.len(), OWN_MAX - 1);
    }
}
