//! What the table is told of a request, and what a rule asks of it beside host and path.
//! Borrowed from wherever the request was read: to be asked costs nothing.

use std::fmt;

use portolan_discovery::model::ListenerName;
use portolan_discovery::model::route::{HeaderName, ParameterName, Predicates, ValuePattern};
use smallvec::SmallVec;

use crate::h1::Request;

/// The header fields of a request.
pub trait Headers {
    /// Whether `test` holds for the value of one of the lines of `name`, in whatever case.
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// As they came, without those that are not sent on.
impl Headers for Request<'_> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.headers().any(|(own, value)| own.eq_ignore_ascii_case(name.as_bytes()) && test(value))
    }
}

/// Names and values.
impl Headers for Vec<(String, String)> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.iter().any(|(own, value)| own.eq_ignore_ascii_case(name) && test(value.as_bytes()))
    }
}

/// No fields.
impl Headers for () {
    fn any(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

/// A request as far as its route depends on it.
#[derive(Clone, Copy)]
pub struct RequestView<'r> {
    /// The listener that it came to.
    pub listener: &'r ListenerName,
    /// The host, lower-case, without port and trailing dot.
    pub host: &'r str,
    /// The path, normalised, without query.
    pub path: &'r str,
    /// The method.
    pub method: &'r str,
    /// The query as it came, without its `?`.
    pub query: Option<&'r str>,
    /// The header fields.
    pub headers: &'r dyn Headers,
}

impl fmt::Debug for RequestView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{} at {}", self.method, self.host, self.path, self.listener)
    }
}

impl<'r> RequestView<'r> {
    /// A GET without header fields and query.
    pub fn get(listener: &'r ListenerName, host: &'r str, path: &'r str) -> Self {
        Self { listener, host, path, method: "GET", query: None, headers: &() }
    }

    /// A request that was read.
    pub fn of(listener: &'r ListenerName, request: &'r Request<'_>) -> Self {
        Self {
            listener,
            host: request.host(),
            path: request.path(),
            method: request.method(),
            query: request.query(),
            headers: request,
        }
    }

    /// The first thing that predicates ask and the request does not have.
    pub(crate) fn lacks<'p>(&self, predicates: &'p Predicates) -> Option<Lack<'p>> {
        let methods = predicates.methods();
        if !methods.is_empty() && !methods.iter().any(|method| method.as_str() == self.method) {
            return Some(Lack::Method);
        }
        for (name, pattern) in predicates.headers() {
            let mut is_there = false;
            let mut test = |value: &[u8]| {
                is_there = true;
                pattern.takes(value)
            };
            if !self.headers.any(name.as_str(), &mut test) {
                return Some(Lack::Header { name, is_there });
            }
        }
        for (name, pattern) in predicates.query() {
            let value = self.query.and_then(|query| first_value(query, name.as_str()));
            if !value.is_some_and(|value| takes_encoded(pattern, value)) {
                return Some(Lack::Parameter { name, is_there: value.is_some() });
            }
        }
        None
    }
}

/// What a request does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack<'p> {
    /// One of the methods.
    Method,
    /// A header field, or the value of one that is there.
    Header { name: &'p HeaderName, is_there: bool },
    /// A parameter of the query, or the value of one that is there.
    Parameter { name: &'p ParameterName, is_there: bool },
}

/// The value of the first parameter of this name, encoded as it came. The Gateway API leaves the
/// others undefined; to look at one only is what servers behind us most often do.
fn first_value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
        Decoded(own.as_bytes()).eq(name.bytes()).then_some(value)
    })
}

/// The longest encoded value that is decoded without a piece of memory of its own.
const VALUE_BYTES_IN_PLACE: usize = 256;

fn takes_encoded(pattern: &ValuePattern, value: &str) -> bool {
    if memchr::memchr2(b'%', b'+', value.as_bytes()).is_none() {
        return pattern.takes(value.as_bytes());
    }
    let decoded: SmallVec<[u8; VALUE_BYTES_IN_PLACE]> = Decoded(value.as_bytes()).collect();
    pattern.takes(&decoded)
}

/// Reads a name or a value as forms write it: `%XX` is a byte, `+` a space. A `%` that begins
/// no byte is itself: whether that is an error is for the instance to say.
struct Decoded<'q>(&'q [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (byte, rest) = match *self.0 {
            [b'%', high, low, ref rest @ ..] => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => ((high * 16 + low) as u8, rest),
                _ => (b'%', &self.0[1..]),
            },
            [b'+', ref rest @ ..] => (b' ', rest),
            [byte, ref rest @ ..] => (byte, rest),
            [] => return None,
        };
        self.0 = rest;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(text: &str) -> String {
        String::from_utf8_lossy(&Decoded(text.as_bytes()).collect::<Vec<_>>()).into_owned()
    }

    #[test]
    fn a_parameter_is_read_as_forms_write_it() {
        for (text, read) in [
            ("a", "a"),
            ("a+b%20c", "a b c"),
            ("%C3%A9", "é"),
            ("%c3%a9", "é"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%%41", "%A"),
            ("", ""),
        ] {
            assert_eq!(decoded(text), read, "{text}");
        }
    }

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        for (query, name, value) in [
            ("a=1&b=2&a=3", "a", Some("1")),
            ("a=1&b=2&a=3", "b", Some("2")),
            ("a", "a", Some("")),
            ("a=", "a", Some("")),
            ("a=b=c", "a", Some("b=c")),
            ("&&a=1", "a", Some("1")),
            ("%61=1", "a", Some("1")),
            ("A=1", "a", None),
            ("ab=1", "a", None),
            ("", "a", None),
        ] {
            assert_eq!(first_value(query, name), value, "{query}");
        }
        let long = "%41".repeat(VALUE_BYTES_IN_PLACE + 1);
        assert!(takes_encoded(&"~^A+$".parse().unwrap(), &long));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(name in "[^\0]{1,8}", value in ".{0,12}", more in "[a-z&=%+0-9]{0,12}") {
            let encode = |text: &str| -> String {
                text.bytes().map(|byte| match byte {
                    b' ' => "+".to_owned(),
                    b'a'..=b'z' => char::from(byte).to_string(),
                    _ => format!("%{byte:02X}"),
                }).collect()
            };
            let query = format!("{}={}&{more}", encode(&name), encode(&value));
            let found = first_value(&query, &name).unwrap();
            prop_assert_eq!(decoded(found), value);
            let _ = first_value(&more, &name);
        }
    }
}
