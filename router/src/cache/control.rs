//! What `Cache-Control` says (RFC 9111 §5.2), read as tolerantly as the RFC asks: what is unknown
//! counts for nothing, what is said twice counts as the stricter of the two, and a number that is
//! none is zero.

/// Numbers beyond this are this (RFC 9111 §1.2.2).
const SECONDS_MAX: u32 = 1 << 31;

/// The directives of a message, of requests and responses alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    pub(crate) no_store: bool,
    /// With field names too: to hold such fields back is more than anybody asks for.
    pub(crate) no_cache: bool,
    /// Likewise.
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) max_age: Option<u32>,
    pub(crate) s_maxage: Option<u32>,
    pub(crate) min_fresh: Option<u32>,
    /// RFC 5861 §3.
    pub(crate) stale_while_revalidate: Option<u32>,
    /// RFC 5861 §4.
    pub(crate) stale_if_error: Option<u32>,
    /// There was a line, whatever it said.
    pub(crate) is_said: bool,
}

impl Directives {
    /// Reads one line.
    pub(crate) fn read(&mut self, value: &[u8]) {
        self.is_said = true;
        for (name, argument) in directives(value) {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("no-store") {
                self.no_store = true;
            } else if is("no-cache") {
                self.no_cache = true;
            } else if is("private") {
                self.private = true;
            } else if is("public") {
                self.public = true;
            } else if is("must-revalidate") {
                self.must_revalidate = true;
            } else if is("proxy-revalidate") {
                self.proxy_revalidate = true;
            } else if is("max-age") {
                lower(&mut self.max_age, argument);
            } else if is("s-maxage") {
                lower(&mut self.s_maxage, argument);
            } else if is("min-fresh") {
                self.min_fresh = self.min_fresh.max(Some(seconds(argument)));
            } else if is("stale-while-revalidate") {
                lower(&mut self.stale_while_revalidate, argument);
            } else if is("stale-if-error") {
                lower(&mut self.stale_if_error, argument);
            }
        }
    }
}

fn lower(place: &mut Option<u32>, argument: &[u8]) {
    let seconds = seconds(argument);
    *place = Some(place.map_or(seconds, |before| before.min(seconds)));
}

/// A number of seconds, in quotes or not. One that is none is zero: RFC 9111 §4.2.1 would rather
/// have such an answer stale.
pub(crate) fn seconds(text: &[u8]) -> u32 {
    let text = text.trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    let add = |sum: u32, digit: &u8| {
        sum.saturating_mul(10).saturating_add(u32::from(digit - b'0')).min(SECONDS_MAX)
    };
    text.iter().fold(0, add)
}

/// The directives of a line with their arguments, those without quotes. A comma in quotes does not
/// end one; quotes that do not end reach to the end of the line.
fn directives(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = value;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (mut quoted, mut escaped) = (false, false);
            let end = rest.iter().position(|byte| match byte {
                _ if std::mem::take(&mut escaped) => false,
                b'\\' if quoted => {
                    escaped = true;
                    false
                }
                b'"' => {
                    quoted = !quoted;
                    false
                }
                byte => *byte == b',' && !quoted,
            });
            let (one, after) = match end {
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None => (rest, &rest[rest.len()..]),
            };
            rest = after;
            let equals = one.iter().position(|byte| *byte == b'=').unwrap_or(one.len());
            let name = one[..equals].trim_ascii();
            if !name.is_empty() {
                let argument = one.get(equals + 1..).unwrap_or_default().trim_ascii();
                let bare = argument.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
                return Some((name, bare.unwrap_or(argument)));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[&str]) -> Directives {
        let mut directives = Directives::default();
        lines.iter().for_each(|line| directives.read(line.as_bytes()));
        directives
    }

    #[test]
    fn directives_are_read_in_any_case_and_over_several_lines() {
        let all = read(&["No-Store , PUBLIC,max-age=5", "s-maxage=\"7\",must-revalidate"]);
        let expected = Directives {
            no_store: true,
            public: true,
            must_revalidate: true,
            max_age: Some(5),
            s_maxage: Some(7),
            is_said: true,
            ..Directives::default()
        };
        assert_eq!(all, expected);
        assert_eq!(read(&[]), Directives::default());
        assert!(read(&["x"]).is_said);
    }

    #[test]
    fn with_field_names_they_count_as_without() {
        assert!(read(&["private=\"set-cookie, x\", max-age=5"]).private);
        assert_eq!(read(&["private=\"set-cookie, x\", max-age=5"]).max_age, Some(5));
        assert!(read(&["no-cache=\"a\""]).no_cache);
        // What is in quotes is no directive.
        assert!(!read(&["ext=\"a, no-store\", public"]).no_store);
        assert!(read(&["ext=\"a\\\", no-store\", public"]).public);
    }

    #[test]
    fn of_two_the_stricter_counts_and_what_is_no_number_is_zero() {
        assert_eq!(read(&["max-age=9, max-age=5", "max-age=7"]).max_age, Some(5));
        for bad in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=x", "max-age=5s"] {
            assert_eq!(read(&[bad]).max_age, Some(0), "{bad}");
        }
        assert_eq!(read(&["max-age=99999999999999999999"]).max_age, Some(SECONDS_MAX));
        assert_eq!(read(&["max-age = 5"]).max_age, Some(5));
        assert_eq!(read(&["min-fresh=5,min-fresh=9"]).min_fresh, Some(9));
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in prop::collection::vec(any::<u8>(), 0..64)) {
            Directives::default().read(&line);
        }
    }
}
