//! Who may call: whoever has the token, or, without one, whoever is on this machine and does
//! not come through a web page.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::{ApiError, Context};

/// Shorter tokens can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// A file with more is not one.
const TOKEN_BYTES_MAX: usize = 4096;

/// What every call must carry as `Authorization: Bearer`. Is never shown.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why a file has no token in it.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token")]
    Io(#[source] std::io::Error),
    /// The token is too short, too long or has blanks in it.
    #[error("a token is {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} visible characters on one line")]
    Form,
}

impl Token {
    /// Reads the token that is all of the file at `path`.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        Self::parse(&std::fs::read(path).map_err(TokenError::Io)?)
    }

    fn parse(text: &[u8]) -> Result<Self, TokenError> {
        let text = text.trim_ascii();
        let fits = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&text.len())
            && text.iter().all(u8::is_ascii_graphic);
        if fits { Ok(Self(text.into())) } else { Err(TokenError::Form) }
    }

    /// Whether `text` is the token, in a time that does not tell how much of it is right.
    fn is(&self, text: &[u8]) -> bool {
        let differs = self.0.iter().zip(text).fold(0, |sum, (a, b)| sum | (a ^ b));
        text.len() == self.0.len() && std::hint::black_box(differs) == 0
    }
}

/// Lets a call through, or says why not.
pub(super) async fn check(
    State(context): State<Arc<Context>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    allowed(context.token.as_ref(), request.headers())?;
    Ok(next.run(request).await)
}

fn allowed(token: Option<&Token>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(token) = token else {
        // A page of a stranger's site can be made to resolve to this address; its name betrays it.
        let host = headers.get(HOST).map_or("", |host| host.to_str().unwrap_or(""));
        return if is_local(host) {
            Ok(())
        } else {
            Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "unauthorized",
                format!("without admin.token_file, calls to host \"{host}\" are refused"),
                "call it by a loopback address, or set admin.token_file",
            ))
        };
    };
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    if token.is(given) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "the call carries no valid token".to_owned(),
        "send Authorization: Bearer with the text of admin.token_file; the CLI takes --token-file",
    ))
}

fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|addr| addr.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, authorization: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn without_a_token_only_local_names_are_let_through() {
        for host in ["127.0.0.1:7070", "localhost:7070", "localhost", "[::1]:7070", "127.1.2.3"] {
            assert!(allowed(None, &headers(host, None)).is_ok(), "{host}");
        }
        for host in ["evil.test:7070", "192.0.2.1", "", "localhost.evil.test"] {
            assert!(allowed(None, &headers(host, None)).is_err(), "{host}");
        }
    }

    #[test]
    fn with_a_token_nothing_else_counts() {
        let token = Token::parse(b"0123456789abcdef\n").unwrap();
        let good = Some("Bearer 0123456789abcdef");
        assert!(allowed(Some(&token), &headers("any.test", good)).is_ok());
        for bad in [
            None,
            Some("Bearer 0123456789abcdeX"),
            Some("Bearer 0123456789abcdef0"),
            Some("Bearer 0123456789"),
            Some("Bearer "),
            Some("0123456789abcdef"),
        ] {
            assert!(allowed(Some(&token), &headers("127.0.0.1", bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_long_enough_and_never_shown() {
        assert!(Token::parse(b"short").is_err());
        assert!(Token::parse(b"with blanks in the middle").is_err());
        assert!(Token::parse(&[b'a'; TOKEN_BYTES_MAX + 1]).is_err());
        let token = Token::parse(b"0123456789abcdef").unwrap();
        assert!(!format!("{token:?}").contains("0123"));
    }
}
