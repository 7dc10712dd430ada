//! The name of a zone, in both its forms.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Room for the longest name below the zone: three labels of 63 bytes with their lengths.
const WIRE_BYTES_MAX: usize = crate::wire::NAME_BYTES_MAX - 3 * 64;

/// The same as text: without the first length and the root's zero.
const ZONE_BYTES_MAX: usize = WIRE_BYTES_MAX - 2;

/// A zone's name: lower-case labels of letters, digits and `-`, joined by dots.
#[derive(Clone, PartialEq, Eq)]
pub struct ZoneName {
    text: Arc<str>,
    wire: Arc<[u8]>,
}

/// Why a text is not the name of a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneNameError {
    /// A part between two dots is empty, too long or has a strange character.
    #[error("\"{zone}\" is no zone: \"{label}\" is not 1 to 63 letters, digits or '-'")]
    Label {
        /// The text as given.
        zone: String,
        /// The part.
        label: String,
    },
    /// No room would be left for the names in it.
    #[error("\"{0}\" is no zone: it is longer than {ZONE_BYTES_MAX} characters")]
    TooLong(String),
}

impl ZoneName {
    /// Reads a name such as `cluster.internal`; upper case and a dot at the end are taken too.
    pub fn parse(text: &str) -> Result<Self, ZoneNameError> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let mut wire = Vec::with_capacity(lower.len() + 2);
        for label in lower.split('.') {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
            let Some(length) = length.filter(|_| label.bytes().all(fits)) else {
                let label = label.to_owned();
                return Err(ZoneNameError::Label { zone: text.to_owned(), label });
            };
            wire.push(length);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        if wire.len() > WIRE_BYTES_MAX {
            return Err(ZoneNameError::TooLong(text.to_owned()));
        }
        Ok(Self { text: lower.into(), wire: wire.into() })
    }

    /// The name as text, without the dot at the end.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }
}

impl Default for ZoneName {
    /// `cluster.internal`: ICANN keeps `.internal` free for private use.
    fn default() -> Self {
        Self::parse("cluster.internal").expect("the text is two plain labels")
    }
}

impl FromStr for ZoneName {
    type Err = ZoneNameError;
    fn from_str(text: &str) -> Result<Self, ZoneNameError> {
        Self::parse(text)
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_read_from_plain_labels() {
        let zone = ZoneName::parse("Cluster.Internal.").unwrap();
        assert_eq!(zone.as_str(), "cluster.internal");
        assert_eq!(zone.wire(), b"\x07cluster\x08internal\x00");
        assert_eq!(zone, ZoneName::default());
        for bad in ["", ".", "a..b", "a_b", "a b", "ä", &"a".repeat(64), &["a"; 32].join(".")] {
            assert!(ZoneName::parse(bad).is_err(), "{bad}");
        }
    }
}
