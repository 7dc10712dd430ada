//! How many jobs are in which state.

use portolan_discovery::model::JobState;

use crate::metrics::Metrics;

/// Counts the job in its state for as long as it is there.
pub(super) struct Gauge {
    metrics: Metrics,
    label: Option<&'static str>,
}

impl Gauge {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, label: None }
    }

    pub(super) fn set(&mut self, state: &JobState) {
        self.clear();
        let label = word(state);
        self.metrics.jobs.with_label_values(&[label]).inc();
        self.label = Some(label);
    }

    fn clear(&mut self) {
        if let Some(label) = self.label.take() {
            self.metrics.jobs.with_label_values(&[label]).dec();
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.clear();
    }
}

fn word(state: &JobState) -> &'static str {
    match state {
        JobState::Starting => "starting",
        JobState::Running => "running",
        JobState::Backoff { .. } => "backoff",
        JobState::Draining => "draining",
        JobState::Stopping => "stopping",
        JobState::Stopped => "stopped",
    }
}
