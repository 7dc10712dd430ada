//! Which fields of a request an answer depends on (RFC 9111 §4.1), and whether a request has them
//! as the one had that it answered.

use crate::h1::{Response, members};
use crate::table::Headers;

/// Names that `Vary` may list; an answer that depends on more is not kept.
const NAMES_MAX: usize = 8;
/// The longest values, all together, of the fields that it lists.
const VALUES_BYTES_MAX: usize = 4 * 1024;

/// No value has these bytes.
const END_OF_LINE: u8 = 1;
const END_OF_FIELD: u8 = 0;

/// Fields that an instance gets from us, whatever the client sent: two clients that send the same
/// may look different to it.
const OURS: [&str; 14] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "x-request-start",
    "via",
    "client-cert",
    "client-cert-chain",
    "connection",
    "te",
    "upgrade",
];

/// Names of fields, and the values that they had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vary {
    names: Box<[Box<str>]>,
    values: Box<[u8]>,
}

impl Vary {
    /// The names that a response lists, in lower case and in order; none if they cannot be told
    /// from what a client sends.
    pub(crate) fn names(response: &Response<'_>) -> Option<Vec<Box<str>>> {
        let mut names = Vec::new();
        let is_vary = |(name, _): &(&[u8], &[u8])| name.eq_ignore_ascii_case(b"vary");
        for member in response.headers().filter(is_vary).flat_map(|(_, value)| members(value)) {
            if member.is_empty() {
                continue;
            }
            let name = str::from_utf8(member).ok()?.to_ascii_lowercase();
            let is_ours = OURS.contains(&name.as_str()) || name.starts_with("x-forwarded-");
            if name == "*" || is_ours || names.len() == NAMES_MAX {
                return None;
            }
            names.push(name.into_boxed_str());
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }

    /// The values of these fields in a request; none if they are too long to be kept.
    pub(crate) fn of(names: Vec<Box<str>>, request: &dyn Headers) -> Option<Self> {
        let mut values = Vec::new();
        for name in &names {
            request.any(name, &mut |value| {
                values.extend_from_slice(value.trim_ascii());
                values.push(END_OF_LINE);
                values.len() > VALUES_BYTES_MAX
            });
            values.push(END_OF_FIELD);
        }
        let fits = values.len() <= VALUES_BYTES_MAX;
        fits.then(|| Self { names: names.into(), values: values.into() })
    }

    /// Whether a request has the same. Copies nothing.
    pub(crate) fn takes(&self, request: &dyn Headers) -> bool {
        let mut rest = &self.values[..];
        let mut skip = |part: &[u8], end: u8| {
            let after = rest.strip_prefix(part).and_then(|rest| rest.strip_prefix(&[end]));
            after.map(|after| rest = after).is_some()
        };
        self.names.iter().all(|name| {
            let differs = request.any(name, &mut |value| !skip(value.trim_ascii(), END_OF_LINE));
            !differs && skip(b"", END_OF_FIELD)
        })
    }

    /// The same names with the values of another request, as far as that can be.
    pub(crate) fn values_of(&self, request: &dyn Headers) -> Option<Self> {
        Self::of(self.names.to_vec(), request)
    }

    /// What tells values apart.
    pub(crate) fn values(&self) -> &[u8] {
        &self.values
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.values.len() + self.names.iter().map(|name| name.len() + 16).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::h1::{HeadScratch, Limits, parse_request, parse_response};

    fn names(fields: &str) -> Option<Vec<Box<str>>> {
        let mut scratch = HeadScratch::new();
        let asked = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let asked = parse_request(asked, &mut scratch, &Limits::DEFAULT).unwrap().unwrap().facts();
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let parsed = parse_response(head.as_bytes(), &mut scratch, &asked, &Limits::DEFAULT);
        Vary::names(&parsed.unwrap().unwrap())
    }

    fn request(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn names_are_one_sorted_list_in_lower_case() {
        let all = names("Vary: Cookie, accept\r\nvary: ,Accept,\r\n").unwrap();
        assert_eq!(all, [Box::from("accept"), Box::from("cookie")]);
        assert_eq!(names(""), Some(Vec::new()));
    }

    #[test]
    fn what_no_request_can_have_alike_is_not_kept() {
        for vary in
            ["*", "Accept, *", "X-Forwarded-For", "Via", "X-Forwarded-New", "a,b,c,d,e,f,g,h,i"]
        {
            assert_eq!(names(&format!("Vary: {vary}\r\n")), None, "{vary}");
        }
        let long = request(&[("a", &"x".repeat(VALUES_BYTES_MAX))]);
        assert_eq!(Vary::of(vec!["a".into()], &long), None);
    }

    #[test]
    fn a_request_is_taken_that_has_the_same_values_in_the_same_order() {
        let names = || vec!["a".into(), "b".into()];
        let vary = Vary::of(names(), &request(&[("A", "1"), ("a", " 2 "), ("x", "9")])).unwrap();
        for (fields, taken) in [
            (&[("a", "1"), ("A", "2")][..], true),
            (&[("a", "1"), ("a", "2"), ("x", "7")], true),
            (&[("a", "2"), ("a", "1")], false),
            (&[("a", "1")], false),
            (&[("a", "1"), ("a", "2"), ("a", "3")], false),
            (&[("a", "12")], false),
            (&[("a", "1"), ("a", "2"), ("b", "")], false),
            (&[], false),
        ] {
            assert_eq!(vary.takes(&request(fields)), taken, "{fields:?}");
        }
        assert!(Vary::of(names(), &request(&[])).unwrap().takes(&request(&[("c", "1")])));
    }

    proptest! {
        #[test]
        fn it_takes_what_has_the_same_values_and_nothing_else(
            one in prop::collection::vec(("[ab]", "[xy]{0,2}"), 0..4),
            other in prop::collection::vec(("[ab]", "[xy]{0,2}"), 0..4),
        ) {
            let names = || vec!["a".into(), "b".into()];
            let vary = Vary::of(names(), &one).unwrap();
            prop_assert!(vary.takes(&one));
            prop_assert_eq!(vary.takes(&other), vary == Vary::of(names(), &other).unwrap());
        }
    }
}
