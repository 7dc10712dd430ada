//! Jobs: processes that this node was given to run, each under a shim of its own.
//!
//! The [`shim`] starts one process and outlives the agent; the [`Supervisor`] starts shims, takes
//! over those that it finds, and tells the store how the jobs fare; [`logs`] reads their output.

mod acks;
mod client;
mod folder;
mod leftover;
mod life;
pub mod logs;
mod memory;
mod order;
mod placements;
mod ports;
mod proc;
mod run;
mod says;
pub mod shim;
mod supervisor;

pub use client::ShimProgram;
pub use leftover::{running, stop_all};
pub use supervisor::{BindError, Config, Supervisor};
