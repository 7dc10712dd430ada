//! Jobs as real processes: the shim by its files and its socket, the supervisor by the store.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "job/adoption.rs"]
mod adoption;
#[path = "job/drain.rs"]
mod drain;
#[path = "job/node.rs"]
mod node;
#[path = "job/process.rs"]
mod process;
#[path = "register/shaky.rs"]
#[allow(dead_code, reason = "the tests of registration use the rest")]
mod shaky;
#[path = "job/shim.rs"]
mod shim;
#[path = "job/supervisor.rs"]
mod supervisor;
