//! The one place where the root package reads the clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "shells hand time to the cores, and ask for it here")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Seconds of Unix time.
pub(crate) fn unix_s() -> i64 {
    i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX)
}

/// Milliseconds of Unix time.
#[expect(clippy::disallowed_methods, reason = "shells hand time to the cores, and ask for it here")]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
