//! The agent of a node: health checks, registration and jobs.
//!
//! Knows nothing of routes, tables, zones or the controller; the store is all they share.

pub mod check;
mod clock;
pub mod job;
mod keep;
pub mod metrics;
pub mod probe;
pub mod register;
