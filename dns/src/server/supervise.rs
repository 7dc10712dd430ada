//! Keeps a thread's work going: a panic is counted, logged, and followed by a new start.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// From a panic to the new start: a fault that comes back at once must not eat the core.
const RESTART_AFTER: Duration = Duration::from_millis(50);

/// The work of one thread.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) name: &'static str,
    pub(super) stop: CancellationToken,
}

impl Supervised {
    /// Runs `work` until the resolver stops. Work that ends earlier, by a panic or otherwise,
    /// is started again; `restarted` counts that.
    pub(super) fn run(&self, mut work: impl FnMut(), restarted: impl Fn()) {
        loop {
            // What a panic may have left half done is the work's own state, made anew by it.
            let result = catch_unwind(AssertUnwindSafe(&mut work));
            if self.stop.is_cancelled() {
                return;
            }
            restarted();
            let cause = result.err().map(|panic| text_of(&*panic));
            tracing::error!(thread = self.name, ?cause, "a thread ended and is started again");
            std::thread::sleep(RESTART_AFTER);
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text").to_owned()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn work_that_panics_is_counted_and_started_again() {
        let supervised = Supervised { name: "test", stop: CancellationToken::new() };
        let (starts, restarts) = (Cell::new(0), Cell::new(0));
        supervised.run(
            || {
                starts.set(starts.get() + 1);
                match starts.get() {
                    1 => panic!("the first start"),
                    2 => {}
                    _ => supervised.stop.cancel(),
                }
            },
            || restarts.set(restarts.get() + 1),
        );
        assert_eq!((starts.get(), restarts.get()), (3, 2));
    }
}
