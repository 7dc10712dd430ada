//! The binary's parts: configuration, controller, scheduler, API, CLI, and the mesh that wires
//! them to router, resolver and agent.

pub mod api;
pub mod authority;
pub mod certificates;
pub mod cli;
mod clock;
pub mod config;
pub mod controller;
pub mod handover;
pub mod live;
pub mod mesh;
pub mod scheduler;
pub mod whoami;
