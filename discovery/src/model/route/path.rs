//! The patterns of paths that routes are for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::pattern::{Pattern, PatternError};

/// The longest path of a rule, in bytes.
pub const PATH_BYTES_MAX: usize = 1024;

/// Which paths a route is for. Compared with the normalised path of the request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PathPattern {
    /// This path and no other: `=/login`.
    Exact(String),
    /// This path and all below it, by whole segments: `/api` takes `/api` and `/api/x` but not
    /// `/apis`. Has no trailing slash; `/` takes every path.
    Prefix(String),
    /// Every path in which this is found, anywhere unless it says where: `~^/users/[0-9]+$`.
    Regex(Arc<Pattern>),
}

/// Why a text is not a path pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is neither a prefix nor an exact path.
    #[error(
        "\"{0}\" is no path: expected a prefix such as /api, =/login for one exact path, or ~^/users/[0-9]+$ for a regular expression; prefixes and exact paths are visible ASCII without ? # * or empty, . and .. segments"
    )]
    Form(String),
    /// It is no regular expression.
    #[error(transparent)]
    Regex(#[from] PatternError),
}

impl PathPattern {
    /// Every path.
    pub fn all() -> Self {
        Self::Prefix("/".to_owned())
    }

    /// The path or the expression, without the sign for what it is.
    pub fn path(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
            Self::Regex(pattern) => pattern.as_str(),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "={path}"),
            Self::Prefix(path) => f.write_str(path),
            Self::Regex(pattern) => write!(f, "~{}", pattern.as_str()),
        }
    }
}

impl FromStr for PathPattern {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        if let Some(regex) = text.strip_prefix('~') {
            return Ok(Self::Regex(Arc::new(Pattern::parse(regex)?)));
        }
        let (exact, path) = match text.strip_prefix('=') {
            Some(path) => (true, path),
            None => (false, text),
        };
        let path = if exact || path == "/" { path } else { path.strip_suffix('/').unwrap_or(path) };
        if !is_path(path, exact) || text.contains("//") {
            return Err(PathError::Form(text.to_owned()));
        }
        Ok(if exact { Self::Exact(path.to_owned()) } else { Self::Prefix(path.to_owned()) })
    }
}

/// Whether it can be the normalised path of a request; an exact one may end in a slash.
fn is_path(path: &str, exact: bool) -> bool {
    let segments_fit = path == "/"
        || path.strip_prefix('/').is_some_and(|rest| {
            let rest = if exact { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
            rest.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
        });
    segments_fit
        && path.len() <= PATH_BYTES_MAX
        && path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*'))
}

impl TryFrom<String> for PathPattern {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> String {
        pattern.to_string()
    }
}

/// What takes the place of a matched prefix: as a prefix pattern, `/` for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPrefix(String);

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no prefix: expected a path such as /api, or / to take the prefix away")]
pub struct PrefixError(pub String);

impl PathPrefix {
    /// The prefix, without a slash at its end; `/` for nothing.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PathPrefix {
    type Err = PrefixError;
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        match text.parse() {
            Ok(PathPattern::Prefix(path)) => Ok(Self(path)),
            _ => Err(PrefixError(text.to_owned())),
        }
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PathPrefix {
    type Error = PrefixError;
    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<PathPrefix> for String {
    fn from(prefix: PathPrefix) -> String {
        prefix.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_pattern_reads_as_it_is_written() {
        for (text, shown) in [
            ("/", "/"),
            ("/api", "/api"),
            ("/api/", "/api"),
            ("=/a/b", "=/a/b"),
            ("=/a/", "=/a/"),
            ("~^/x/[0-9]+$", "~^/x/[0-9]+$"),
            ("~/a//b", "~/a//b"),
        ] {
            assert_eq!(text.parse::<PathPattern>().unwrap().to_string(), shown);
        }
        for bad in [
            "", "api", "=", "/a//b", "/a/../b", "/a b", "/a?b", "/a#b", "/é", "//", "~", "~(",
            "=~/a",
        ] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_prefix_takes_the_place_of_a_prefix() {
        for (text, shown) in [("/", Some("/")), ("/b/", Some("/b")), ("=/b", None), ("~b", None)] {
            assert_eq!(text.parse().ok().map(|prefix: PathPrefix| prefix.0).as_deref(), shown);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_reads_back_as_it_is_shown(text in "[=~]?[ -~/.é]{0,12}") {
            if let Ok(pattern) = text.parse::<PathPattern>() {
                prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
            }
        }
    }
}
