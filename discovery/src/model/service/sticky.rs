//! How a client is kept with the instance that served it first: by a cookie.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name of a cookie.
pub const COOKIE_NAME_BYTES_MAX: usize = 64;

/// The name of a cookie: a token (RFC 6265 §4.1.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CookieName(Box<str>);

/// Why a text is no name of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CookieNameError {
    /// Empty, too long, or with a byte that ends a name.
    #[error("the name of a cookie is 1 to 64 letters, digits or one of !#$%&'*+-.^_`|~")]
    NoToken,
    /// RFC 6265bis §4.1.3: browsers take these only with attributes that ours does not always have.
    #[error("the name of a cookie does not begin with __Host- or __Secure-")]
    Prefix,
}

impl CookieName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CookieName {
    type Err = CookieNameError;

    fn from_str(text: &str) -> Result<Self, CookieNameError> {
        let is_token_byte =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !(1..=COOKIE_NAME_BYTES_MAX).contains(&text.len()) || !text.bytes().all(is_token_byte) {
            return Err(CookieNameError::NoToken);
        }
        let begins = |prefix: &str| {
            text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if begins("__Host-") || begins("__Secure-") {
            return Err(CookieNameError::Prefix);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for CookieName {
    type Error = CookieNameError;

    fn try_from(text: String) -> Result<Self, CookieNameError> {
        text.parse()
    }
}

impl From<CookieName> for String {
    fn from(name: CookieName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for CookieName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cookie that names the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sticky {
    /// Its name.
    pub cookie: CookieName,
    /// How long a browser keeps it, in seconds; none is until it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<NonZeroU32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_token_that_browsers_take() {
        for good in ["a", "PORTOLAN", "web-session_1.x", "__host", "__Hostel"] {
            assert_eq!(good.parse::<CookieName>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a=b", "a;", "a,b", "\u{e9}", "a\r\n", "\"a\""] {
            assert_eq!(bad.parse::<CookieName>(), Err(CookieNameError::NoToken), "{bad}");
        }
        for bad in ["__Host-a", "__secure-a"] {
            assert_eq!(bad.parse::<CookieName>(), Err(CookieNameError::Prefix), "{bad}");
        }
        let longest = "x".repeat(COOKIE_NAME_BYTES_MAX);
        assert!(longest.parse::<CookieName>().is_ok());
        assert!(format!("{longest}x").parse::<CookieName>().is_err());
    }

    #[test]
    fn a_stored_one_is_checked_when_it_is_read() {
        let read = |text: &str| serde_json::from_str::<Sticky>(text).is_ok();
        assert!(read(r#"{"cookie":"a"}"#) && read(r#"{"cookie":"a","max_age_s":1}"#));
        assert!(!read(r#"{"cookie":"a;b"}"#) && !read(r#"{"cookie":"a","max_age_s":0}"#));
    }
}
