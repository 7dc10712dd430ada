//! Pages that people see when the router answers itself: by status or class of them, held in
//! memory, with a few places that are filled in. Knows no files, sockets or routes.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use portolan_discovery::model::PageSetName;

use crate::h1::{Reason, phrase};

/// The largest page: each client that is sent one costs that much memory until it has taken it.
pub const PAGE_BYTES_MAX: usize = 64 * 1024;
/// The most places of one page: filling them in must not make it much larger.
pub const PLACES_MAX: usize = 16;

/// What a page is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageFor {
    /// One status.
    Status(u16),
    /// All from 400 on, or all from 500 on, that have no page of their own.
    Class(u8),
}

/// The text names no status that the router answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a status from \"400\" to \"599\", \"4xx\" or \"5xx\"")]
pub struct PageForError;

impl FromStr for PageFor {
    type Err = PageForError;

    fn from_str(text: &str) -> Result<Self, PageForError> {
        match (text, text.parse()) {
            ("4xx", _) => Ok(Self::Class(4)),
            ("5xx", _) => Ok(Self::Class(5)),
            (_, Ok(status @ 400..=599)) if text.len() == 3 => Ok(Self::Status(status)),
            _ => Err(PageForError),
        }
    }
}

/// What a page is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// HTML; what is filled in is escaped.
    Html,
    /// XML; what is filled in is escaped.
    Xml,
    /// JSON, in which places stand between quotes.
    Json,
    /// Plain text.
    Text,
}

impl PageKind {
    /// What a file with this extension is.
    pub fn of_extension(extension: &str) -> Option<Self> {
        match extension {
            "html" | "htm" => Some(Self::Html),
            "xml" => Some(Self::Xml),
            "json" => Some(Self::Json),
            "txt" => Some(Self::Text),
            _ => None,
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Xml => "application/xml; charset=utf-8",
            Self::Json => JSON,
            Self::Text => "text/plain; charset=utf-8",
        }
    }
}

/// RFC 8259 §11: there is no other encoding to name.
const JSON: &str = "application/json";

/// A place of a page that is filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Status,
    Phrase,
    Reason,
    RequestId,
}

impl Place {
    fn of(word: &str) -> Option<Self> {
        match word {
            "status" => Some(Self::Status),
            "phrase" => Some(Self::Phrase),
            "reason" => Some(Self::Reason),
            "request_id" => Some(Self::RequestId),
            _ => None,
        }
    }
}

/// Why a text is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Larger than a page may be.
    #[error("the page has {0} bytes: at most {PAGE_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// A place that nothing is known for.
    #[error(
        "{{{{{0}}}}} is unknown: there are {{{{status}}}}, {{{{phrase}}}}, {{{{reason}}}} and {{{{request_id}}}}"
    )]
    UnknownPlace(String),
    /// More places than a page may have.
    #[error("the page has more than {PLACES_MAX} places to fill in")]
    TooManyPlaces,
}

/// A page, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    kind: PageKind,
    text: Box<str>,
    /// Places with the text that each takes the room of.
    places: Box<[(Range<usize>, Place)]>,
}

impl ErrorPage {
    /// Finds the places of a page: `{{status}}`, `{{phrase}}`, `{{reason}}`, `{{request_id}}`.
    /// Braces around anything but a plain word are left as they are.
    pub fn parse(kind: PageKind, text: &str) -> Result<Self, PageError> {
        if text.len() > PAGE_BYTES_MAX {
            return Err(PageError::TooLarge(text.len()));
        }
        let mut places = Vec::new();
        let mut at = 0;
        while let Some(start) = text[at..].find("{{").map(|found| at + found) {
            let inside = start + "{{".len();
            let Some(length) = text[inside..].find("}}") else { break };
            let word = text[inside..inside + length].trim();
            let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            if word.is_empty() || !word.bytes().all(is_word) {
                // Braces may overlap: `{{{reason}}` has its place one byte further on.
                at = start + 1;
                continue;
            }
            let place = Place::of(word).ok_or_else(|| PageError::UnknownPlace(word.to_owned()))?;
            if places.len() == PLACES_MAX {
                return Err(PageError::TooManyPlaces);
            }
            at = inside + length + "}}".len();
            places.push((start..at, place));
        }
        Ok(Self { kind, text: text.into(), places: places.into() })
    }

    fn filled_in(&self, reason: Reason, id: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len() + self.places.len() * id.len());
        let mut at = 0;
        for (room, place) in &self.places {
            out.extend_from_slice(&self.text.as_bytes()[at..room.start]);
            match place {
                Place::Status => out.extend_from_slice(reason.status().to_string().as_bytes()),
                Place::Phrase => self.push(phrase(reason.status()), &mut out),
                Place::Reason => self.push(reason.as_str(), &mut out),
                Place::RequestId => self.push(id, &mut out),
            }
            at = room.end;
        }
        out.extend_from_slice(&self.text.as_bytes()[at..]);
        out
    }

    /// An id that came from outside is made of letters, digits and `-_.=+/`, so that only markup
    /// needs care: there a value may stand without quotes.
    fn push(&self, value: &str, out: &mut Vec<u8>) {
        let is_markup = matches!(self.kind, PageKind::Html | PageKind::Xml);
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b' ' => {
                    out.push(byte);
                }
                _ if is_markup => out.extend_from_slice(format!("&#{byte};").as_bytes()),
                _ => out.push(byte),
            }
        }
    }
}

/// Pages by what they are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet(BTreeMap<PageFor, ErrorPage>);

impl PageSet {
    /// Takes a page in, in the place of one that was there for the same.
    pub fn insert(&mut self, is_for: PageFor, page: ErrorPage) {
        self.0.insert(is_for, page);
    }

    fn page(&self, status: u16) -> Option<&ErrorPage> {
        let class = PageFor::Class((status / 100) as u8);
        self.0.get(&PageFor::Status(status)).or_else(|| self.0.get(&class))
    }
}

/// All pages of a router.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorPages {
    /// For all routes that have none of their own.
    pub default: PageSet,
    /// For routes that name them.
    pub named: BTreeMap<PageSetName, PageSet>,
    /// Clients that would rather have JSON get that.
    pub json: bool,
}

/// What is sent in the place of the router's short text.
pub(crate) struct Content {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.bytes.len(), self.media_type)
    }
}

impl ErrorPages {
    /// Whether there is neither a page nor JSON.
    pub fn is_empty(&self) -> bool {
        !self.json && self.default.0.is_empty() && self.named.values().all(|set| set.0.is_empty())
    }

    /// What to send for `reason` at a route with the pages `set`, if not the short text. A set
    /// that is not known here has no pages.
    pub(crate) fn content(
        &self,
        reason: Reason,
        set: Option<&PageSetName>,
        wants_json: bool,
        id: &str,
    ) -> Option<Content> {
        let status = reason.status();
        if self.json && wants_json {
            // No part of it has anything to escape.
            let reason = reason.as_str();
            let bytes = format!(
                "{{\"status\":{status},\"reason\":\"{reason}\",\"request_id\":\"{id}\"}}\n"
            );
            return Some(Content { media_type: JSON, bytes: bytes.into_bytes() });
        }
        let own = set.and_then(|name| self.named.get(name)).and_then(|set| set.page(status));
        let page = own.or_else(|| self.default.page(status))?;
        Some(Content { media_type: page.kind.media_type(), bytes: page.filled_in(reason, id) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn html(text: &str) -> Result<ErrorPage, PageError> {
        ErrorPage::parse(PageKind::Html, text)
    }

    fn filled(text: &str) -> String {
        let page = html(text).unwrap();
        String::from_utf8(page.filled_in(Reason::NoInstance, "a/b<'&x")).unwrap()
    }

    #[test]
    fn places_are_filled_in_and_escaped() {
        for (text, expected) in [
            ("", ""),
            ("plain {}} {{ } é", "plain {}} {{ } é"),
            ("{{status}} {{ phrase }}", "503 Service Unavailable"),
            ("<b>{{reason}}</b>{{status}}", "<b>no_instance</b>503"),
            ("{{request_id}}!", "a&#47;b&#60;&#39;&#38;x!"),
            ("{{{reason}}}", "{no_instance}"),
            ("{{a.b}} {{ X }} {{}} {{reason", "{{a.b}} {{ X }} {{}} {{reason"),
        ] {
            assert_eq!(filled(text), expected, "{text}");
        }
        let json = ErrorPage::parse(PageKind::Json, "{\"id\":\"{{request_id}}\"}").unwrap();
        assert_eq!(json.filled_in(Reason::NoRoute, "a/b="), b"{\"id\":\"a/b=\"}");
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let unknown = html("{{requestid}}").unwrap_err();
        assert!(unknown.to_string().starts_with("{{requestid}} is unknown: there are {{status}},"));
        assert_eq!(html(&"{{status}}".repeat(17)), Err(PageError::TooManyPlaces));
        assert!(html(&"{{status}}".repeat(16)).is_ok());
        assert!(html(&"x".repeat(PAGE_BYTES_MAX)).is_ok());
        let large = "x".repeat(PAGE_BYTES_MAX + 1);
        assert_eq!(html(&large), Err(PageError::TooLarge(large.len())));
    }

    #[test]
    fn a_status_comes_before_its_class_and_a_set_before_the_default() {
        for (text, read) in [
            ("503", Some(PageFor::Status(503))),
            ("5xx", Some(PageFor::Class(5))),
            ("4xx", Some(PageFor::Class(4))),
            ("399", None),
            ("600", None),
            ("+503", None),
            ("3xx", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), read, "{text}");
        }
        let set = |pages: &[&str]| {
            let mut set = PageSet::default();
            for is_for in pages {
                set.insert(
                    is_for.parse().unwrap(),
                    html(&format!("{is_for} {{{{status}}}}")).unwrap(),
                );
            }
            set
        };
        let shop = PageSetName::parse("shop").unwrap();
        let named = BTreeMap::from([(shop.clone(), set(&["5xx"]))]);
        let pages = ErrorPages { default: set(&["503", "4xx"]), named, json: true };
        let unknown = PageSetName::parse("unknown").unwrap();
        for (reason, of, expected) in [
            (Reason::NoInstance, None, Some("503 503")),
            (Reason::NoInstance, Some(&shop), Some("5xx 503")),
            (Reason::NoInstance, Some(&unknown), Some("503 503")),
            (Reason::NoRoute, Some(&shop), Some("4xx 404")),
            (Reason::UpstreamReset, Some(&shop), Some("5xx 502")),
            (Reason::UpstreamReset, None, None),
        ] {
            let content = pages.content(reason, of, false, "id");
            let text = content.map(|content| String::from_utf8(content.bytes).unwrap());
            assert_eq!(text.as_deref(), expected, "{reason:?} {of:?}");
        }
        let json = pages.content(Reason::UpstreamReset, None, true, "id").unwrap();
        let expected = "{\"status\":502,\"reason\":\"upstream_reset\",\"request_id\":\"id\"}\n";
        assert_eq!((json.media_type, &json.bytes[..]), (JSON, expected.as_bytes()));
        assert!(!pages.is_empty() && ErrorPages::default().is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_what_is_no_place_is_kept(text in "[{}a-z _é<]{0,40}") {
            if let Ok(page) = html(&text) {
                let text_bytes: usize = page.places.iter().map(|(room, _)| room.len()).sum();
                let filled = page.filled_in(Reason::NoRoute, "");
                prop_assert!(filled.len() >= text.len() - text_bytes);
                prop_assert!(!page.places.is_empty() || filled == text.as_bytes());
            }
        }
    }
}
