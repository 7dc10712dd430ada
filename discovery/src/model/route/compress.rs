//! Which answers of a route are compressed on their way to the client, and how.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Shorter bodies are sent as they are where nothing is said: they fit one or two packets
/// anyway, and the head that says how they are coded takes a part of what is saved.
pub const COMPRESS_MIN_BYTES_DEFAULT: u64 = 1024;
/// The most media types of one rule.
pub const COMPRESS_TYPES_MAX: usize = 64;
/// The longest name of a media type, in bytes (RFC 6838 §4.2 has 127 on each side of the slash).
pub const MEDIA_RANGE_BYTES_MAX: usize = 255;

/// What is compressed where nothing is said: text, and what is text by another name. Not what is
/// compressed by its nature, such as most images; and not `text/event-stream`, of which every
/// event would be a piece of its own, and an encoder held for as long as the stream.
const USUAL_TYPES: [&str; 15] = [
    "text/*",
    "application/*+json",
    "application/*+xml",
    "application/javascript",
    "application/json",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/xml",
    "font/collection",
    "font/otf",
    "font/ttf",
    "image/svg+xml",
    "image/vnd.microsoft.icon",
    "image/x-icon",
];

/// A stream of events, which no pattern takes: only its own name.
const EVENT_STREAM: &str = "text/event-stream";

/// A content coding (RFC 9110 §8.4.1) that the router can apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// Zstandard (RFC 8878): the least work for what it saves.
    Zstd,
    /// Brotli (RFC 7932).
    Br,
    /// gzip (RFC 1952): every client knows it.
    Gzip,
}

impl Coding {
    /// All, in the order of preference where nothing is said.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Br, Self::Gzip];

    /// As it is written in fields and in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The levels that may be asked for. Beyond, time and memory grow much faster than what is
    /// saved, which pays for a file that is compressed once and not in a proxy.
    pub const fn levels(self) -> RangeInclusive<u8> {
        match self {
            Self::Zstd => 1..=4,
            Self::Br => 1..=5,
            Self::Gzip => 1..=9,
        }
    }

    /// The level where nothing is said.
    pub const fn level_default(self) -> u8 {
        match self {
            Self::Zstd | Self::Br => 3,
            Self::Gzip => 5,
        }
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The levels of a rule; none is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// Of Zstandard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zstd: Option<u8>,
    /// Of Brotli.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub br: Option<u8>,
    /// Of gzip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gzip: Option<u8>,
}

impl Levels {
    const NONE: Self = Self { zstd: None, br: None, gzip: None };

    fn of(self, coding: Coding) -> Option<u8> {
        match coding {
            Coding::Zstd => self.zstd,
            Coding::Br => self.br,
            Coding::Gzip => self.gzip,
        }
    }

    fn are_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// Media types: one by name, `text/*`, `application/*+json` or `*/*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MediaRange(Box<str>);

impl MediaRange {
    /// As text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MediaRange {
    type Err = CompressRuleError;

    fn from_str(text: &str) -> Result<Self, CompressRuleError> {
        let is_name = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        let is_pattern = |part: &str| match part.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => suffix.strip_prefix('+').is_some_and(is_name),
            None => is_name(part),
        };
        let fits = text.len() <= MEDIA_RANGE_BYTES_MAX
            && match text.split_once('/') {
                Some(("*", subtype)) => subtype == "*",
                Some((kind, subtype)) => is_name(kind) && is_pattern(subtype),
                None => false,
            };
        match fits {
            true => Ok(Self(text.to_ascii_lowercase().into())),
            false => Err(CompressRuleError::Type(text.to_owned())),
        }
    }
}

impl TryFrom<String> for MediaRange {
    type Error = CompressRuleError;

    fn try_from(text: String) -> Result<Self, CompressRuleError> {
        text.parse()
    }
}

impl From<MediaRange> for String {
    fn from(range: MediaRange) -> String {
        range.0.into()
    }
}

/// Whether `pattern`, in lower case, takes a type without parameters, in whatever case.
fn takes(pattern: &str, essence: &[u8]) -> bool {
    let (pattern, is) =
        (pattern.as_bytes(), |known: &str| essence.eq_ignore_ascii_case(known.as_bytes()));
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else {
        return essence.eq_ignore_ascii_case(pattern);
    };
    if is(EVENT_STREAM) {
        return false;
    }
    if pattern == b"*/*" {
        return true;
    }
    let (start, end) = (&pattern[..star], &pattern[star + 1..]);
    essence.len() > start.len() + end.len()
        && essence[..start.len()].eq_ignore_ascii_case(start)
        && essence[essence.len() - end.len()..].eq_ignore_ascii_case(end)
}

/// Why a rule makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressRuleError {
    /// A rule of nothing.
    #[error("codings are zstd, br and gzip, each at most once and at least one of them")]
    Codings,
    /// Nothing would be compressed, or each answer be held against a long list.
    #[error("types are 1 to {COMPRESS_TYPES_MAX} media types")]
    Types,
    /// No media type and no pattern.
    #[error(
        "\"{0}\" is no media type: expected one such as text/css, text/*, application/*+json or */*"
    )]
    Type(String),
    /// Out of what makes sense in a proxy.
    #[error("the level of {0} is {first} to {last}", first = .0.levels().start(), last = .0.levels().end())]
    Level(Coding),
}

/// A rule for answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct CompressRule {
    #[serde(skip_serializing_if = "are_all")]
    codings: Box<[Coding]>,
    min_bytes: u64,
    /// None are the usual ones, so that they are not kept for each route.
    #[serde(skip_serializing_if = "Option::is_none")]
    types: Option<Box<[MediaRange]>>,
    #[serde(skip_serializing_if = "Levels::are_none")]
    level: Levels,
}

fn are_all(codings: &[Coding]) -> bool {
    codings == Coding::ALL
}

#[derive(Deserialize)]
struct Stored {
    codings: Option<Vec<Coding>>,
    min_bytes: Option<u64>,
    types: Option<Vec<MediaRange>>,
    #[serde(default)]
    level: Levels,
}

impl CompressRule {
    /// A rule; what is not said is the default.
    pub fn new(
        codings: Option<Vec<Coding>>,
        min_bytes: Option<u64>,
        types: Option<Vec<MediaRange>>,
        level: Levels,
    ) -> Result<Self, CompressRuleError> {
        let codings = codings.unwrap_or_else(|| Coding::ALL.to_vec());
        let is_twice = |(at, coding): (usize, &Coding)| codings[..at].contains(coding);
        if codings.is_empty() || codings.iter().enumerate().any(is_twice) {
            return Err(CompressRuleError::Codings);
        }
        if types.as_ref().is_some_and(|types| !(1..=COMPRESS_TYPES_MAX).contains(&types.len())) {
            return Err(CompressRuleError::Types);
        }
        let is_out = |coding: &Coding| {
            level.of(*coding).is_some_and(|level| !coding.levels().contains(&level))
        };
        if let Some(coding) = Coding::ALL.into_iter().find(is_out) {
            return Err(CompressRuleError::Level(coding));
        }
        Ok(Self {
            codings: codings.into(),
            min_bytes: min_bytes.unwrap_or(COMPRESS_MIN_BYTES_DEFAULT),
            types: types.map(Into::into),
            level,
        })
    }

    /// A rule of which nothing is said.
    pub fn usual() -> Self {
        Self::new(None, None, None, Levels::NONE).expect("the defaults make a rule")
    }

    /// The codings, the one that is preferred first.
    pub fn codings(&self) -> &[Coding] {
        &self.codings
    }

    /// The shortest body that is compressed, in bytes; one of which the length is not known is.
    pub fn min_bytes(&self) -> u64 {
        self.min_bytes
    }

    /// The media types as text.
    pub fn types(&self) -> Vec<&str> {
        match &self.types {
            Some(types) => types.iter().map(MediaRange::as_str).collect(),
            None => USUAL_TYPES.to_vec(),
        }
    }

    /// The level of a coding.
    pub fn level(&self, coding: Coding) -> u8 {
        self.level.of(coding).unwrap_or(coding.level_default())
    }

    /// Whether answers with this `Content-Type` are compressed.
    pub fn takes_type(&self, content_type: &[u8]) -> bool {
        let end = content_type.iter().position(|byte| *byte == b';');
        let essence = content_type[..end.unwrap_or(content_type.len())].trim_ascii();
        match &self.types {
            Some(types) => types.iter().any(|range| takes(&range.0, essence)),
            None => USUAL_TYPES.iter().any(|range| takes(range, essence)),
        }
    }
}

impl TryFrom<Stored> for CompressRule {
    type Error = CompressRuleError;

    fn try_from(stored: Stored) -> Result<Self, CompressRuleError> {
        let Stored { codings, min_bytes, types, level } = stored;
        Self::new(codings, min_bytes, types, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_types(types: &[&str]) -> Result<CompressRule, CompressRuleError> {
        let types = types.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        CompressRule::new(None, None, Some(types), Levels::NONE)
    }

    #[test]
    fn text_is_compressed_by_default_and_what_is_compressed_already_is_not() {
        let rule = CompressRule::usual();
        for (content_type, expected) in [
            ("text/html; charset=utf-8", true),
            ("TEXT/CSS", true),
            ("application/json", true),
            ("application/problem+json;charset=x", true),
            ("application/xhtml+xml", true),
            ("image/svg+xml", true),
            ("image/png", false),
            ("application/octet-stream", false),
            ("text/event-stream", false),
            ("Text/Event-Stream; charset=utf-8", false),
            ("text/", false),
            ("application/+json", false),
            ("text", false),
            ("", false),
        ] {
            assert_eq!(rule.takes_type(content_type.as_bytes()), expected, "{content_type}");
        }
    }

    #[test]
    fn types_are_names_and_patterns_and_a_stream_of_events_has_to_be_named() {
        let rule = with_types(&["image/*", "application/*+cbor", "x/y"]).unwrap();
        for (content_type, expected) in
            [("image/bmp", true), ("application/a+cbor", true), ("X/Y", true), ("text/html", false)]
        {
            assert_eq!(rule.takes_type(content_type.as_bytes()), expected, "{content_type}");
        }
        assert!(!with_types(&["*/*"]).unwrap().takes_type(b"text/event-stream"));
        assert!(with_types(&["text/event-stream"]).unwrap().takes_type(b"text/event-stream"));
        for bad in ["text", "text/", "/x", "*/x", "a/b*", "a/*b", "a/*+", "a b/c", "a/b;q=1", ""] {
            assert!(with_types(&[bad]).is_err(), "{bad}");
        }
        assert_eq!(with_types(&[]), Err(CompressRuleError::Types));
    }

    #[test]
    fn codings_and_levels_are_checked_when_they_are_read() {
        let read = |text: &str| serde_json::from_str::<CompressRule>(text);
        let rule = read("{}").unwrap();
        assert_eq!(rule, CompressRule::usual());
        assert_eq!(serde_json::to_string(&rule).unwrap(), r#"{"min_bytes":1024}"#);
        let rule = read(r#"{"codings":["gzip","br"],"min_bytes":0,"level":{"gzip":9}}"#).unwrap();
        assert_eq!(rule.codings(), [Coding::Gzip, Coding::Br]);
        assert_eq!((rule.level(Coding::Gzip), rule.level(Coding::Br)), (9, 3));
        assert_eq!(read(&serde_json::to_string(&rule).unwrap()).unwrap(), rule);
        for bad in [
            r#"{"codings":[]}"#,
            r#"{"codings":["gzip","gzip"]}"#,
            r#"{"codings":["deflate"]}"#,
            r#"{"level":{"zstd":5}}"#,
            r#"{"level":{"br":0}}"#,
            r#"{"types":["x"]}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let error = read(r#"{"level":{"gzip":10}}"#).unwrap_err().to_string();
        assert!(error.contains("the level of gzip is 1 to 9"), "{error}");
    }
}
