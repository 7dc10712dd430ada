//! Who the router is on the way of a message: `Via` (RFC 9110 §7.6.3), by which it knows its own
//! traffic again, and the name that `Proxy-Status` speaks for (RFC 9209).
//! Knows nothing of listeners or configuration: names come in as text.

use super::field::{Field, members};
use super::method::Version;
use super::request::Request;

/// Characters of a [`ViaName`]: it is sent with each message.
pub const VIA_NAME_CHARS_MAX: usize = 64;

/// The name of a router as others read it in `Via` and `Proxy-Status`.
///
/// Both headers take a token; `Proxy-Status` wants it to begin with a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViaName(Box<str>);

/// The text is no name for `Via`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a letter, then letters, digits, \"-\", \"_\" or \".\", {VIA_NAME_CHARS_MAX} in all"
)]
pub struct ViaNameError;

impl ViaName {
    /// The name when nobody gives another.
    pub fn product() -> Self {
        Self("portolan".into())
    }

    /// Takes a name that a person has chosen.
    pub fn parse(text: &str) -> Result<Self, ViaNameError> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let valid = text.len() <= VIA_NAME_CHARS_MAX
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(safe);
        if valid { Ok(Self(text.into())) } else { Err(ViaNameError) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The protocol that a message came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// HTTP/1.0
    V10,
    /// HTTP/1.1
    V11,
    /// HTTP/2
    V20,
}

impl From<Version> for Received {
    fn from(version: Version) -> Self {
        match version {
            Version::V10 => Self::V10,
            Version::V11 => Self::V11,
        }
    }
}

/// One router as messages name it, its lines made once.
#[derive(Debug, Clone)]
pub struct Via {
    pseudonym: Box<str>,
    lines: [Box<[u8]>; 3],
}

impl Via {
    /// The router of this name whose process drew `tag`.
    ///
    /// The name alone would not do: from the edge to an internal router and on is no loop, though
    /// both have the same name. The same process twice is one.
    pub fn new(name: &ViaName, tag: u64) -> Self {
        // 48 bits: two of a thousand routers share a tag once in a billion clusters.
        let pseudonym = format!("{}-{:012x}", name.as_str(), tag & 0xffff_ffff_ffff);
        let line =
            |version| format!("Via: {version} {pseudonym}\r\n").into_bytes().into_boxed_slice();
        Self { lines: ["1.0", "1.1", "2.0"].map(line), pseudonym: pseudonym.into_boxed_str() }
    }

    /// The name that no other router has.
    pub fn pseudonym(&self) -> &str {
        &self.pseudonym
    }

    /// The line to add to a message that came by this protocol.
    pub fn line(&self, received: Received) -> &[u8] {
        match received {
            Received::V10 => &self.lines[0],
            Received::V11 => &self.lines[1],
            Received::V20 => &self.lines[2],
        }
    }

    /// Whether a request has been here before.
    pub fn is_on(&self, request: &Request<'_>) -> bool {
        request.has_via && request.vias().any(|value| self.is_in(value))
    }

    /// A comment may hold what looks like a member; only who knows our tag can write one.
    fn is_in(&self, value: &[u8]) -> bool {
        members(value).any(|member| {
            let mut words = member
                .split(|byte| matches!(byte, b' ' | b'\t'))
                .filter(|word| !word.is_empty())
                .skip(1);
            words.next().is_some_and(|by| by.eq_ignore_ascii_case(self.pseudonym.as_bytes()))
        })
    }
}

impl<'a> Request<'a> {
    fn vias(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let head = self.head;
        let lines = self.scratch.lines.iter().filter(|line| line.field == Field::Via);
        lines.map(move |line| line.value(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadScratch, Limits, parse_request};

    fn via() -> Via {
        Via::new(&ViaName::product(), 0xffff_0123_4567_89ab)
    }

    #[test]
    fn a_name_is_a_token_that_begins_with_a_letter() {
        for name in ["portolan", "edge-1.example_a", "x", &"a".repeat(64)] {
            assert_eq!(ViaName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "1a", "-a", "a b", "a,b", "a\r\n", "a;b", "é", &"a".repeat(65)] {
            assert_eq!(ViaName::parse(name), Err(ViaNameError), "{name:?}");
        }
    }

    #[test]
    fn the_line_says_how_the_message_came() {
        assert_eq!(via().pseudonym(), "portolan-0123456789ab");
        assert_eq!(via().line(Version::V11.into()), b"Via: 1.1 portolan-0123456789ab\r\n");
        assert_eq!(via().line(Version::V10.into()), b"Via: 1.0 portolan-0123456789ab\r\n");
        assert_eq!(via().line(Received::V20), b"Via: 2.0 portolan-0123456789ab\r\n");
    }

    #[test]
    fn a_router_knows_its_own_name_and_no_other() {
        for (lines, expected) in [
            ("", false),
            ("Via: 1.1 portolan-0123456789ab\r\n", true),
            ("via: 1.0 fred, 1.1\tPORTOLAN-0123456789AB (x)\r\n", true),
            ("Via: 1.1 a\r\nX: y\r\nVIA: HTTP/1.1 portolan-0123456789ab\r\n", true),
            ("Via: 1.1 portolan-0123456789ac\r\n", false),
            ("Via: 1.1 portolan\r\n", false),
            ("Via: portolan-0123456789ab\r\n", false),
            ("Via: 1.1 x-portolan-0123456789ab, 1.1 portolan-0123456789abc\r\n", false),
            ("X-Via: 1.1 portolan-0123456789ab\r\n", false),
            ("Connection: Via\r\nVia: 1.1 portolan-0123456789ab\r\n", true),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let mut scratch = HeadScratch::new();
            let request = parse_request(head.as_bytes(), &mut scratch, &Limits::DEFAULT);
            assert_eq!(via().is_on(&request.unwrap().unwrap()), expected, "{lines}");
        }
    }
}
