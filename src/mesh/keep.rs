//! Keeps a task of the mesh running: one that ends or panics is counted, logged and started
//! again.

use std::time::Duration;

use prometheus::{IntCounterVec, Opts, Registry};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks of the mesh that ended and were started again, by task.
pub const RESTARTS: &str = "portolan_task_restarts_total";
/// The wait before a task that ended is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts tasks and keeps them running.
#[derive(Clone)]
pub(super) struct Keeper {
    tasks: TaskTracker,
    cancel: CancellationToken,
    restarts: IntCounterVec,
}

/// The counter of all keepers. Fails only when it is registered already.
pub(super) fn register(registry: &Registry) -> Result<IntCounterVec, prometheus::Error> {
    let opts = Opts::new(RESTARTS, "tasks that ended and were started again");
    let restarts = IntCounterVec::new(opts, &["task"])?;
    registry.register(Box::new(restarts.clone()))?;
    Ok(restarts)
}

impl Keeper {
    /// Counts in `restarts`, which [`register`] made.
    pub(super) fn new(
        tasks: TaskTracker,
        cancel: CancellationToken,
        restarts: IntCounterVec,
    ) -> Self {
        Self { tasks, cancel, restarts }
    }

    /// Keeps what `make` makes running until the process stops. Each task ends by itself then.
    pub(super) fn keep<F>(&self, task: &'static str, mut make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let restarts = self.restarts.with_label_values(&[task]);
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            loop {
                let ended = tokio::spawn(make()).await;
                if cancel.is_cancelled() {
                    return;
                }
                restarts.inc();
                match ended {
                    Ok(()) => tracing::error!(task, "a task has ended; it is started again"),
                    Err(error) => tracing::error!(task, %error, "a task is started again"),
                }
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = cancel.cancelled() => return,
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_started_again_and_counted() {
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let restarts = register(&Registry::new()).unwrap();
        let keeper = Keeper::new(tasks.clone(), cancel.clone(), restarts);
        let (starts, stop) = (Arc::new(AtomicU32::new(0)), cancel.clone());
        let counted = starts.clone();
        keeper.keep("test", move || {
            let (start, stop) = (counted.fetch_add(1, Ordering::Relaxed), stop.clone());
            async move {
                match start {
                    0 => panic!("the first one panics"),
                    1 => {}
                    _ => stop.cancel(),
                }
            }
        });
        tasks.close();
        tasks.wait().await;
        assert_eq!(starts.load(Ordering::Relaxed), 3);
        assert_eq!(keeper.restarts.with_label_values(&["test"]).get(), 2);
    }
}
