//! Keeps a background task running: its end is counted, logged and answered by a new start.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use crate::clock;
use crate::metrics::Metrics;

/// The pause before the first new start; each later one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause before a new start.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Runs what `start` makes, again and again. Returns never; dropping it ends the task.
pub(crate) async fn keep<F, T>(task: &'static str, metrics: &Metrics, mut start: F)
where
    F: FnMut() -> T,
    T: Future<Output = ()>,
{
    let mut pause = PAUSE_MIN;
    loop {
        let began = clock::now();
        let mut run = Box::pin(start());
        // Polling after a panic is what would be unsound; the future is dropped instead.
        let cause = poll_fn(|context| {
            match catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(context))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(())) => Poll::Ready("it returned".to_owned()),
                Err(panic) => Poll::Ready(words_of(panic.as_ref())),
            }
        })
        .await;
        drop(run);
        if clock::now().duration_since(began) > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        metrics.task_restarts.with_label_values(&[task]).inc();
        tracing::error!(task, cause, pause_ms = pause.as_millis(), "background task ended");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_returns_is_started_again_and_counted() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let starts = AtomicU32::new(0);
        let task = keep("test", &metrics, || async {
            match starts.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("on purpose"),
                1 => {}
                _ => std::future::pending().await,
            }
        });
        let third = async {
            while starts.load(Ordering::SeqCst) < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = task => unreachable!("it returns never"),
            done = tokio::time::timeout(Duration::from_secs(10), third) => done.unwrap(),
        }
        assert_eq!(metrics.task_restarts.with_label_values(&["test"]).get(), 2);
    }
}
