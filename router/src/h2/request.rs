//! A request of HTTP/2 as HTTP/1.1 writes it (RFC 9113 §8.2, §8.3). What it says twice or not at
//! all is written so, and refused by the rules that hold for everybody.

use http::header::{CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method};

use h2::ext::Protocol;

/// How the end of the body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body.
    None,
    /// The length is in the head.
    Length,
    /// In chunks.
    Chunked,
    /// There is no end: it is a tunnel.
    Tunnel,
}

impl Framing {
    pub(super) fn of(parts: &Parts, has_ended: bool) -> Self {
        if asks_for_tunnel(parts) {
            return Self::Tunnel;
        }
        match parts.headers.contains_key(CONTENT_LENGTH) {
            true => Self::Length,
            false if has_ended => Self::None,
            false => Self::Chunked,
        }
    }
}

/// Whether it is one for a tunnel inside the connection (RFC 8441 §4).
fn asks_for_tunnel(parts: &Parts) -> bool {
    parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_some()
}

/// What cannot be written as HTTP/1.1: RFC 9113 §8.1.1 calls it malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Appends the head. `key` is for a tunnel: HTTP/2 has none (RFC 8441 §5).
pub(super) fn write_head(
    parts: &Parts,
    framing: Framing,
    key: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    write_start(parts, framing, out)?;
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    if let Some(authority) = authority {
        push(out, b"host", authority);
    }
    write_fields(&parts.headers, authority, framing, out)?;
    match framing {
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // Some servers will not take a request with such a method that does not say so.
        Framing::None if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) => {
            out.extend_from_slice(b"content-length: 0\r\n");
        }
        Framing::Tunnel => {
            let token = parts.extensions.get::<Protocol>().ok_or(Malformed)?;
            out.extend_from_slice(b"connection: upgrade\r\n");
            push(out, b"upgrade", token.as_str().as_bytes());
            push(out, b"sec-websocket-key", key);
        }
        Framing::None | Framing::Length => {}
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn write_start(parts: &Parts, framing: Framing, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let is_connect = parts.method == Method::CONNECT && framing != Framing::Tunnel;
    let method = if framing == Framing::Tunnel { "GET" } else { parts.method.as_str() };
    let target = match (is_connect, parts.uri.path_and_query(), parts.uri.authority()) {
        (true, _, Some(authority)) => authority.as_str(),
        (false, Some(path), _) => path.as_str(),
        // There is neither an authority to connect to nor a path.
        _ => return Err(Malformed),
    };
    let is_whole = target == "*" && parts.method == Method::OPTIONS;
    if !is_connect && !target.starts_with('/') && !is_whole {
        return Err(Malformed);
    }
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    Ok(())
}

fn write_fields(
    headers: &HeaderMap,
    authority: Option<&[u8]>,
    framing: Framing,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut cookies = 0;
    for (name, value) in headers {
        let value = value.as_bytes();
        if is_blank(value.first()) || is_blank(value.last()) {
            return Err(Malformed);
        }
        if *name == COOKIE {
            // In pieces, for the tables of HPACK; HTTP/1.1 has one line (RFC 9113 §8.2.3).
            cookies += 1;
            if cookies > 1 {
                out.truncate(out.len() - b"\r\n".len());
                out.extend_from_slice(b"; ");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
                continue;
            }
        } else if *name == HOST && authority.is_some_and(|own| own.eq_ignore_ascii_case(value)) {
            continue;
        } else if *name == TRANSFER_ENCODING
            || (framing == Framing::Tunnel && *name == CONTENT_LENGTH)
        {
            return Err(Malformed);
        } else if framing == Framing::Tunnel && name.as_str() == "sec-websocket-key" {
            continue;
        }
        push(out, name.as_str().as_bytes(), value);
    }
    Ok(())
}

fn is_blank(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b' ' | b'\t'))
}

/// Appends the trailer section, with the empty line that ends it.
pub(super) fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        push(out, name.as_str().as_bytes(), value.as_bytes().trim_ascii());
    }
    out.extend_from_slice(b"\r\n");
}

fn push(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn written(parts: &Parts, has_ended: bool) -> Result<String, Malformed> {
        let mut out = Vec::new();
        write_head(parts, Framing::of(parts, has_ended), b"key", &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_request_is_written_as_http_1_has_it() {
        for (parts, has_ended, expected) in [
            (
                parts("GET", "https://a.test:8443/x?y", &[("te", "trailers")]),
                true,
                "GET /x?y HTTP/1.1\r\nhost: a.test:8443\r\nte: trailers\r\n\r\n",
            ),
            (
                parts("POST", "https://a.test/", &[]),
                false,
                "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n",
            ),
            (
                parts("POST", "https://a.test/", &[("content-length", "3")]),
                false,
                "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 3\r\n\r\n",
            ),
            (
                parts("PUT", "https://a.test/", &[]),
                true,
                "PUT / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n",
            ),
            (
                parts("GET", "/", &[("cookie", "a=1"), ("x", "1"), ("cookie", "b=2")]),
                true,
                "GET / HTTP/1.1\r\ncookie: a=1; b=2\r\nx: 1\r\n\r\n",
            ),
            (
                parts("GET", "https://a.test/", &[("host", "A.test")]),
                true,
                "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n",
            ),
            // Two hosts are for the rules to refuse.
            (
                parts("GET", "https://a.test/", &[("host", "b.test")]),
                true,
                "GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n",
            ),
            (
                parts("CONNECT", "a.test:443", &[]),
                false,
                "CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n\
                 transfer-encoding: chunked\r\n\r\n",
            ),
        ] {
            assert_eq!(written(&parts, has_ended).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_tunnel_is_asked_for_by_an_upgrade() {
        let mut parts = parts("CONNECT", "https://a.test/chat", &[("sec-websocket-version", "13")]);
        parts.extensions.insert(Protocol::from("websocket"));
        let expected = "GET /chat HTTP/1.1\r\nhost: a.test\r\nsec-websocket-version: 13\r\n\
                        connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: key\r\n\r\n";
        assert_eq!(written(&parts, false).as_deref(), Ok(expected));
        parts.headers.insert(CONTENT_LENGTH, "1".parse().unwrap());
        assert_eq!(written(&parts, false), Err(Malformed));
    }

    #[test]
    fn what_http_1_would_read_otherwise_is_malformed() {
        for (method, uri, headers) in [
            ("GET", "a.test:80", &[][..]),
            ("GET", "https://a.test/", &[("x", " y")]),
            ("GET", "https://a.test/", &[("x", "y\t")]),
            ("GET", "https://a.test/", &[("transfer-encoding", "chunked")]),
        ] {
            assert_eq!(written(&parts(method, uri, headers), true), Err(Malformed), "{uri}");
        }
    }
}
