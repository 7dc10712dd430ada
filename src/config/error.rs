//! What is wrong with a configuration, where, and what would be right.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where in a file something is wrong; lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// One thing that is wrong: `FILE:LINE:COLUMN: what`, and below it what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Where in it; none when the whole file is meant.
    pub place: Option<Place>,
    /// What is wrong.
    pub what: String,
    /// What would be right; may be empty when `what` says it.
    pub hint: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.what)?;
        if !self.hint.is_empty() {
            write!(f, "\n  {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    pub(super) fn read(path: &Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "name an existing file; examples/ has some to begin with",
            io::ErrorKind::InvalidData => "a configuration is UTF-8 text",
            _ => "",
        };
        Self {
            path: path.to_owned(),
            place: None,
            what: format!("cannot read the configuration: {error}"),
            hint: hint.to_owned(),
        }
    }

    pub(super) fn too_large(path: &Path, length: u64) -> Self {
        Self {
            path: path.to_owned(),
            place: None,
            what: format!("the file has {length} bytes"),
            hint: format!("expected at most {}", super::FILE_BYTES_MAX),
        }
    }
}

/// The text of a configuration, to find places in.
pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text }
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    }

    fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or(self.text);
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Place { line: self.line(at), column }
    }

    /// An error at a span of the text.
    pub(super) fn at(
        &self,
        span: Range<usize>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> ConfigError {
        ConfigError {
            path: self.path.to_owned(),
            place: Some(self.place(span.start)),
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// An error of the whole file.
    pub(super) fn whole(&self, what: &str, hint: &str) -> ConfigError {
        ConfigError {
            path: self.path.to_owned(),
            place: None,
            what: what.to_owned(),
            hint: hint.to_owned(),
        }
    }

    /// The parser's own error; it names the accepted values itself.
    pub(super) fn toml(&self, error: &toml::de::Error) -> ConfigError {
        ConfigError {
            path: self.path.to_owned(),
            place: error.span().map(|span| self.place(span.start)),
            what: error.message().trim_end().to_owned(),
            hint: String::new(),
        }
    }
}
