//! The requests that wait for an instance with room: one line a service, over all workers, first
//! come first served. It outlives tables, and nobody touches it but who waits and, while somebody
//! does, who ends a request.
//!
//! Only the first of the line looks for room; who leaves the line calls the next. So what becomes
//! free is handed down the line, and nobody is woken for nothing.

mod line;
mod wait;

use std::sync::Arc;

use prometheus::IntCounter;

use line::{Line, Place};

pub(crate) use wait::{has_gone, wait};

/// The line of one service.
#[derive(Debug)]
pub struct Queue {
    line: Arc<Line>,
    metrics: QueueMetrics,
}

/// What is counted of a line.
#[derive(Debug, Clone)]
pub(crate) struct QueueMetrics {
    /// Requests that found it full.
    pub(crate) full: IntCounter,
    /// Requests whose wait ended.
    pub(crate) timeout: IntCounter,
}

impl Queue {
    pub(crate) fn new(metrics: QueueMetrics) -> Arc<Self> {
        Arc::new(Self { line: Line::new(), metrics })
    }

    /// Requests that wait, over all workers.
    pub fn waiting(&self) -> u32 {
        self.line.waiting()
    }

    /// There may be room.
    pub(crate) fn call(&self) {
        self.line.call();
    }

    fn join(&self, max: u32) -> Option<Place> {
        Line::join(&self.line, max)
    }
}
