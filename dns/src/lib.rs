//! The resolver: names of the cluster from the zone, everything else from the cache or an
//! upstream.
//!
//! [`Dns::bind`] binds, [`Bound::start`] starts, [`Dns::publish`] replaces the [`Zone`], which
//! comes in whole. [`answer()`] is the decision about one query, without sockets and clocks.
//! Knows nothing of stores, checks and routes.

mod answer;
mod cache;
mod clock;
mod config;
mod forward;
mod metrics;
mod resolv;
mod server;
mod wire;
mod zone;

pub use answer::{Client, Decision, Miss, Note, Source, Unserved, View, answer};
pub use cache::Cache;
pub use config::{Config, Limits, Upstreams, private_networks};
pub use forward::{ProbeError, probe_upstream};
pub use server::{AddressSockets, BindError, Bound, Dns, Inherited};
pub use wire::{Rcode, Reply, ReplyFault};
pub use zone::{Zone, ZoneConfig, ZoneName, ZoneNameError};
