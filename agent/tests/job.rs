//! Jobs as real processes: the shim by its files and its socket, the supervisor by the store.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "job/process.rs"]
mod process;
#[path = "job/shim.rs"]
mod shim;
