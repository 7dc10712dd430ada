//! The data path: route table, HTTP/1.1 and TCP, one worker per core.

pub mod h1;
pub mod metrics;

mod balance;
mod cell;
mod endpoint;
mod explain;
mod table;

pub use balance::{ATTEMPTS_MAX, RETRIES_MAX, Tried};
pub use cell::{Reader, TableCell, Wake};
pub use endpoint::{Endpoint, EndpointState, InFlight};
pub use explain::{
    BackendView, CANDIDATES_MAX, Candidate, EndpointView, Explanation, Verdict,
};
pub use table::{
    Compiled, Conflict, Member, PickError, Report, RouteEntry, RouteFault, ServiceTable, Table,
};
