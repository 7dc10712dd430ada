//! What a pick goes by that is not in the table: it comes in as an argument.

use std::net::IpAddr;

use portolan_discovery::model::route::RETRY_ATTEMPTS_MAX;

use crate::sticky::Token;
use crate::table::RequestView;

/// The most retries that a configuration may ask for.
pub const RETRIES_MAX: usize = 3;
/// The most attempts of one request.
pub const ATTEMPTS_MAX: usize = RETRIES_MAX + 1;

const _: () = assert!(RETRY_ATTEMPTS_MAX as usize <= ATTEMPTS_MAX, "each attempt is noted");

/// Who asks for an endpoint, and when.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Fresh for each pick.
    pub random: u64,
    /// Microseconds of Unix time, by a clock that never steps.
    pub now_us: u64,
    /// What the request's cookie was found to say by an earlier pick.
    pub token: Option<Token>,
    /// It is the first of those who wait for its service, so it waits for nobody else.
    pub is_first: bool,
    /// What keeps a client with an instance, where a service wants that.
    pub key: Key<'a>,
    /// The endpoints that were tried: none of them is picked.
    pub tried: &'a Tried,
}

impl Ask<'_> {
    /// A first attempt of somebody unknown, at the beginning of time.
    pub const fn first(random: u64) -> Self {
        Self {
            random,
            now_us: 0,
            token: None,
            is_first: false,
            key: Key::None,
            tried: &Tried::NONE,
        }
    }
}

/// What is known of who asks.
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    /// Nothing.
    None,
    /// A request, and the address it comes from.
    Request(&'a RequestView<'a>, IpAddr),
    /// A connection, by the address it comes from.
    Source(IpAddr),
    /// What the first attempt's key came to.
    Again(u64),
}

/// The endpoints that a request has tried, by pool key. No request goes to one of them again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    keys: [u64; ATTEMPTS_MAX],
    len: usize,
}

impl Tried {
    const NONE: Self = Self { keys: [0; ATTEMPTS_MAX], len: 0 };

    /// Nothing tried yet.
    pub const fn none() -> Self {
        Self::NONE
    }

    /// Notes an attempt. What does not fit is forgotten: a request that may try more often than
    /// [`ATTEMPTS_MAX`] does not exist.
    pub fn insert(&mut self, pool_key: u64) {
        debug_assert!(self.len < ATTEMPTS_MAX, "attempts are limited by the configuration");
        if let Some(place) = self.keys.get_mut(self.len) {
            *place = pool_key;
            self.len += 1;
        }
    }

    /// Whether the endpoint with this pool key was tried.
    pub fn contains(&self, pool_key: u64) -> bool {
        self.keys[..self.len].contains(&pool_key)
    }

    /// How many attempts there were.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether this is the first attempt.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
