//! The process's one clock of the data path: it begins with the time of day and never steps.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<(Instant, u64)> = OnceLock::new();

/// Microseconds of Unix time at `moment`. Reads no clock but the first time.
pub(crate) fn us_at(moment: Instant) -> u64 {
    let (start, start_us) = START.get_or_init(|| (moment, unix_us()));
    // Whoever was first may have been later.
    start_us + moment.saturating_duration_since(*start).as_micros() as u64
}

/// Microseconds of Unix time now.
#[expect(clippy::disallowed_methods, reason = "for whoever has no moment at hand")]
pub(crate) fn now_us() -> u64 {
    us_at(Instant::now())
}

#[expect(clippy::disallowed_methods, reason = "the clock's own beginning")]
fn unix_us() -> u64 {
    // Before 1970 there is no right answer.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}
