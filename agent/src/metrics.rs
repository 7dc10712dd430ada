//! The agent's counters. Labels are bounded: kinds and results, never names or addresses.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Probes by kind of check and result.
pub const PROBES: &str = "portolan_agent_probes_total";
/// How long probes took, by kind of check.
pub const PROBE_SECONDS: &str = "portolan_agent_probe_duration_seconds";
/// Flips of checks, by what they flipped to.
pub const FLIPS: &str = "portolan_agent_check_flips_total";
/// Writes that the store has taken.
pub const STORE_WRITES: &str = "portolan_agent_store_writes_total";
/// Writes that were tried again, by why.
pub const STORE_RETRIES: &str = "portolan_agent_store_write_retries_total";
/// Records whose wanted state is not in the store yet.
pub const STORE_PENDING: &str = "portolan_agent_store_pending_records";
/// Records that another owner holds, or that the store refuses; once per attempt.
pub const STORE_REFUSALS: &str = "portolan_agent_store_write_refusals_total";
/// Files of services that cannot be read at this moment.
pub const FILES_BAD: &str = "portolan_agent_service_files_bad";
/// Times that a changed file of services could not be read.
pub const FILE_ERRORS: &str = "portolan_agent_service_file_errors_total";
/// Background tasks that ended and were started again, by task.
pub const TASK_RESTARTS: &str = "portolan_agent_task_restarts_total";
/// Jobs by state.
pub const JOBS: &str = "portolan_agent_jobs";
/// Jobs that were started again after they had ended.
pub const JOB_RESTARTS: &str = "portolan_agent_job_restarts_total";

/// A probe takes from a tenth of a millisecond to its timeout.
const PROBE_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Handles of all counters; a clone counts into the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) probes: IntCounterVec,
    pub(crate) probe_seconds: HistogramVec,
    pub(crate) flips: IntCounterVec,
    pub(crate) store_writes: IntCounter,
    pub(crate) store_retries: IntCounterVec,
    pub(crate) store_pending: IntGauge,
    pub(crate) store_refusals: IntCounter,
    pub(crate) files_bad: IntGauge,
    pub(crate) file_errors: IntCounter,
    pub(crate) task_restarts: IntCounterVec,
    /// Label `state`: set by the supervisor of jobs.
    pub(crate) jobs: IntGaugeVec,
    pub(crate) job_restarts: IntCounter,
}

impl Metrics {
    /// Makes the counters and puts them into `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            probes: IntCounterVec::new(
                Opts::new(PROBES, "Probes by kind of check and result."),
                &["kind", "result"],
            )?,
            probe_seconds: HistogramVec::new(
                HistogramOpts::new(PROBE_SECONDS, "Duration of probes by kind of check.")
                    .buckets(PROBE_BUCKETS.to_vec()),
                &["kind"],
            )?,
            flips: IntCounterVec::new(
                Opts::new(FLIPS, "Flips of checks by what they flipped to."),
                &["to"],
            )?,
            store_writes: IntCounter::new(STORE_WRITES, "Writes that the store has taken.")?,
            store_retries: IntCounterVec::new(
                Opts::new(STORE_RETRIES, "Writes tried again, by why."),
                &["cause"],
            )?,
            store_pending: IntGauge::new(
                STORE_PENDING,
                "Records whose wanted state is not in the store yet.",
            )?,
            store_refusals: IntCounter::new(
                STORE_REFUSALS,
                "Writes that another owner's record or the store refused.",
            )?,
            files_bad: IntGauge::new(FILES_BAD, "Files of services that cannot be read now.")?,
            file_errors: IntCounter::new(
                FILE_ERRORS,
                "Times that a changed file of services could not be read.",
            )?,
            task_restarts: IntCounterVec::new(
                Opts::new(TASK_RESTARTS, "Background tasks that ended and were started again."),
                &["task"],
            )?,
            jobs: IntGaugeVec::new(Opts::new(JOBS, "Jobs by state."), &["state"])?,
            job_restarts: IntCounter::new(JOB_RESTARTS, "Jobs started again after an end.")?,
        };
        metrics.enter(registry)?;
        Ok(metrics)
    }

    fn enter(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.probes.clone()))?;
        registry.register(Box::new(self.probe_seconds.clone()))?;
        registry.register(Box::new(self.flips.clone()))?;
        registry.register(Box::new(self.store_writes.clone()))?;
        registry.register(Box::new(self.store_retries.clone()))?;
        registry.register(Box::new(self.store_pending.clone()))?;
        registry.register(Box::new(self.store_refusals.clone()))?;
        registry.register(Box::new(self.files_bad.clone()))?;
        registry.register(Box::new(self.file_errors.clone()))?;
        registry.register(Box::new(self.task_restarts.clone()))?;
        registry.register(Box::new(self.jobs.clone()))?;
        registry.register(Box::new(self.job_restarts.clone()))
    }
}
