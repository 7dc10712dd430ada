//! The whole line: the real binary with real jobs, asked by real clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::disallowed_methods, reason = "deadlines are real here")]

mod bad_config;
mod browser;
mod certificates;
mod clients;
mod crash;
mod datagrams;
mod deploy;
mod ports;
mod quickstart;
mod stage;
mod streams;
mod tickets;
mod tls;
mod upgrade;
mod virtuals;
