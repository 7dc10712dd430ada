//! The date as HTTP writes it, made once a second at most.

use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime};

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// The length of a date.
pub(crate) const DATE_BYTES: usize = 29;

/// The wall clock of one worker, as of its last tick.
#[derive(Debug)]
pub(crate) struct Clock {
    second: Cell<u64>,
    date: RefCell<[u8; DATE_BYTES]>,
}

impl Clock {
    pub(crate) fn new(now: SystemTime) -> Self {
        let second = since_1970(now).as_secs();
        Self { second: Cell::new(second), date: RefCell::new(http_date(second)) }
    }

    /// Moves on to `now`.
    pub(crate) fn tick(&self, now: SystemTime) {
        let second = since_1970(now).as_secs();
        if second != self.second.replace(second) {
            self.date.replace(http_date(second));
        }
    }

    /// Seconds of Unix time.
    pub(crate) fn second(&self) -> u64 {
        self.second.get()
    }

    /// The value of a `Date` field.
    pub(crate) fn date(&self) -> [u8; DATE_BYTES] {
        *self.date.borrow()
    }
}

/// Milliseconds of Unix time.
pub(crate) fn unix_ms(now: SystemTime) -> u64 {
    u64::try_from(since_1970(now).as_millis()).unwrap_or(u64::MAX)
}

fn since_1970(now: SystemTime) -> Duration {
    // A clock before 1970 is not set at all.
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// RFC 9110 §5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn http_date(second: u64) -> [u8; DATE_BYTES] {
    let (days, rest) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let mut date = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    date[..3].copy_from_slice(DAYS[(days % 7) as usize]);
    two_digits(&mut date[5..7], day);
    date[8..11].copy_from_slice(MONTHS[(month - 1) as usize]);
    two_digits(&mut date[12..14], year / 100);
    two_digits(&mut date[14..16], year % 100);
    two_digits(&mut date[17..19], rest / 3_600);
    two_digits(&mut date[20..22], rest / 60 % 60);
    two_digits(&mut date[23..25], rest % 60);
    date
}

fn two_digits(place: &mut [u8], value: u64) {
    place[0] = b'0' + (value / 10 % 10) as u8;
    place[1] = b'0' + (value % 10) as u8;
}

/// Year, month and day of a day since 1970 (the algorithm of Howard Hinnant's `civil_from_days`:
/// years begin in March, so that the leap day is the last).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_http_wants_it() {
        for (second, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (1_709_251_200, "Fri, 01 Mar 2024 00:00:00 GMT"),
            (1_795_564_799, "Tue, 24 Nov 2026 23:59:59 GMT"),
            (4_102_444_800, "Fri, 01 Jan 2100 00:00:00 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&http_date(second)).unwrap(), expected);
        }
    }

    #[test]
    fn the_date_moves_with_the_clock() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        let clock = Clock::new(start);
        let before = clock.date();
        clock.tick(start + Duration::from_millis(400));
        assert_eq!(clock.date(), before);
        clock.tick(start + Duration::from_millis(600));
        assert_eq!(&clock.date()[23..25], b"38");
    }
}
