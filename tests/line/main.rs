//! The whole line: the real binary with real jobs, asked by real clients.

mod bad_config;
mod crash;
mod deploy;
mod quickstart;
mod stage;
