//! The clocks of the crate's shells. Pure code takes `now` as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The time that never goes back.
#[expect(clippy::disallowed_methods, reason = "the one place where the agent reads this clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time of day, in milliseconds of Unix time.
#[expect(clippy::disallowed_methods, reason = "the one place where the agent reads this clock")]
pub(crate) fn unix_ms() -> u64 {
    // Before 1970 there is no right answer, and no record that needs one.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
