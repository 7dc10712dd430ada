//! The route table as its users see it: snapshots in, decisions out.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "table/balance.rs"]
mod balance;
#[path = "table/cell.rs"]
mod cell;
#[path = "table/conformance.rs"]
mod conformance;
#[path = "table/explain.rs"]
mod explain;
#[path = "table/guards.rs"]
mod guards;
#[path = "table/incremental.rs"]
mod incremental;
#[path = "table/matching.rs"]
mod matching;
#[path = "table/metrics.rs"]
mod metrics;
#[path = "table/policies.rs"]
mod policies;
#[path = "table/warnings.rs"]
mod warnings;
#[path = "table/world.rs"]
mod world;
