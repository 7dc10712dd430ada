//! The resolver from outside: scripts of query and answer, a model as oracle, real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod failover;
mod fake;
mod fixture;
mod forwarding;
mod live;
mod message;
mod model;
mod script;
mod serving;
