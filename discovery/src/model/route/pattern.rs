//! Regular expressions of rules: read, checked and compiled once, so that one that does not
//! compile, or is too large, has no spelling.
//!
//! The syntax is RE2's: no look-around and no back references, so that a match takes time in
//! proportion to the text whatever the expression. Classes such as `\d` are ASCII's, as in RE2.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use regex::bytes::{Regex, RegexBuilder};

/// The longest expression, in bytes of its text.
pub const REGEX_BYTES_MAX: usize = 1024;
/// The largest compiled expression, in bytes: a counted repetition multiplies what it repeats.
pub const REGEX_PROGRAM_BYTES_MAX: usize = 256 << 10;
/// What one thread keeps of one expression, in bytes, to match faster the next time.
const REGEX_CACHE_BYTES_MAX: usize = 256 << 10;

/// A compiled regular expression.
#[derive(Clone)]
pub struct Pattern(Regex);

/// Why a text is not a regular expression that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no regular expression: {cause}")]
pub struct PatternError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it.
    pub cause: String,
}

impl Pattern {
    /// Compiles an expression within the limits.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let error = |cause: String| PatternError { text: text.to_owned(), cause };
        if text.is_empty() {
            return Err(error("it is empty".to_owned()));
        }
        if text.len() > REGEX_BYTES_MAX {
            return Err(error(format!("it is longer than {REGEX_BYTES_MAX} bytes")));
        }
        let compiled = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(REGEX_PROGRAM_BYTES_MAX)
            .dfa_size_limit(REGEX_CACHE_BYTES_MAX)
            .build();
        match compiled {
            Ok(regex) => Ok(Self(regex)),
            Err(regex::Error::CompiledTooBig(max)) => {
                Err(error(format!("compiled it takes more than {max} bytes")))
            }
            Err(other) => {
                // A drawing of the place, and the cause in its last line.
                let text = other.to_string();
                let cause = text.lines().last().unwrap_or_default();
                Err(error(cause.strip_prefix("error: ").unwrap_or(cause).to_owned()))
            }
        }
    }

    /// The expression as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is found in `text`. The first match of a thread may allocate; none waits.
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_found_anywhere_unless_it_says_where() {
        for (regex, text, found) in [
            ("b", "abc", true),
            ("^b", "abc", false),
            ("^/x/[0-9]+$", "/x/17", true),
            ("^/x/[0-9]+$", "/x/17/y", false),
            (r"^/x/\d+$", "/x/٣", false),
            ("(?i)ABC", "abc", true),
            ("é", "café", true),
        ] {
            assert_eq!(Pattern::parse(regex).unwrap().is_in(text.as_bytes()), found, "{regex}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        for (regex, cause) in [
            ("", "empty"),
            ("(a", "unclosed group"),
            ("a{1000}{1000}", "more than 262144 bytes"),
            (r"(a)\1", "backreferences are not supported"),
            ("(?=a)", "look-around"),
            (&"a".repeat(REGEX_BYTES_MAX + 1), "longer than 1024 bytes"),
        ] {
            let error = Pattern::parse(regex).unwrap_err().to_string();
            assert!(error.contains(cause) && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_compiles_and_matches(regex in ".{0,40}", text in ".{0,40}") {
            if let Ok(pattern) = Pattern::parse(&regex) {
                pattern.is_in(text.as_bytes());
            }
        }
    }
}
