//! A response of HTTP/1.1, as the exchange has written it, for HTTP/2. The exchange writes lines of
//! `Name: value` and nothing else, so little can be wrong with them; what is ends the stream.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::h1::BodyFraming;

/// Room for the fields of most heads.
pub(super) const FIELDS_USUAL: usize = 16;

/// A head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: BodyFraming,
}

/// What was written is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbled;

/// Where the head at the start of `bytes` ends, if all of it is there.
pub(super) fn head_len(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find(|at| bytes[..*at].ends_with(b"\r\n\r")).map(|at| at + 1)
}

/// Reads a whole head.
pub(super) fn head(bytes: &[u8]) -> Result<Head, Garbled> {
    // One copy for all values.
    let shared = Bytes::copy_from_slice(bytes);
    let start = memchr::memchr(b'\n', bytes).ok_or(Garbled)? + 1;
    let status = bytes.get(b"HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3)).ok_or(Garbled)?;
    let status = StatusCode::from_bytes(status).map_err(|_| Garbled)?;
    let mut headers = HeaderMap::with_capacity(FIELDS_USUAL);
    let mut framing = BodyFraming::Close;
    for line in lines(&shared, start) {
        let (name, value) = line?;
        if name == TRANSFER_ENCODING {
            framing = BodyFraming::Chunked;
        } else if name == CONTENT_LENGTH {
            framing = framing_of(&value)?;
            headers.append(name, value);
        } else if name != CONNECTION && name != UPGRADE && !is_for_one_hop(&name) {
            headers.append(name, value);
        }
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(Head { response, framing })
}

/// The framing of a message with this `content-length`.
pub(super) fn framing_of(length: &HeaderValue) -> Result<BodyFraming, Garbled> {
    let length = length.to_str().ok().and_then(|length| length.parse().ok());
    Ok(match length.ok_or(Garbled)? {
        0 => BodyFraming::None,
        length => BodyFraming::Length(length),
    })
}

/// Whether HTTP/2 has no such field, beside those that say how a message is framed.
fn is_for_one_hop(name: &HeaderName) -> bool {
    matches!(name.as_str(), "keep-alive" | "proxy-connection" | "sec-websocket-accept")
}

/// Reads a trailer section, with or without the empty line that ends it.
pub(super) fn trailers(section: &[u8]) -> Result<HeaderMap, Garbled> {
    let shared = Bytes::copy_from_slice(section);
    let mut trailers = HeaderMap::new();
    for line in lines(&shared, 0) {
        let (name, value) = line?;
        trailers.append(name, value);
    }
    Ok(trailers)
}

/// The fields from `at` to an empty line or the end.
pub(super) fn lines(
    shared: &Bytes,
    mut at: usize,
) -> impl Iterator<Item = Result<(HeaderName, HeaderValue), Garbled>> {
    std::iter::from_fn(move || {
        let rest = &shared[at..];
        let end = memchr::memchr(b'\n', rest)?;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        let from = at;
        at += end + 1;
        (!line.is_empty()).then(|| field(shared, from, line))
    })
}

fn field(shared: &Bytes, from: usize, line: &[u8]) -> Result<(HeaderName, HeaderValue), Garbled> {
    let colon = memchr::memchr(b':', line).ok_or(Garbled)?;
    let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Garbled)?;
    let value = &line[colon + 1..];
    let text = value.trim_ascii();
    let start = from + colon + 1 + (value.len() - value.trim_ascii_start().len());
    let start = if text.is_empty() { from } else { start };
    let value = HeaderValue::from_maybe_shared(shared.slice(start..start + text.len()));
    let mut value = value.map_err(|_| Garbled)?;
    value.set_sensitive(is_unlike_others(&name));
    Ok((name, value))
}

/// Whether no two messages have the same value, so that it is not for the tables of HPACK: there it
/// would drive out what is, and be compared with every other one of its name.
fn is_unlike_others(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "x-request-id" | "x-request-start" | "traceparent" | "x-b3-traceid" | "x-amzn-trace-id"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(headers: &HeaderMap) -> String {
        headers
            .iter()
            .map(|(name, value)| format!("{name}={}\n", String::from_utf8_lossy(value.as_bytes())))
            .collect()
    }

    #[test]
    fn a_head_is_read_without_what_is_for_one_hop() {
        let bytes = b"HTTP/1.1 207 Multi\r\nX-A: b c\r\nContent-Length: 12\r\nset-cookie: 1\r\n\
                      Connection: close\r\nKeep-Alive: x\r\nSet-Cookie: 2\r\nEmpty: \r\n\r\nbody";
        let len = head_len(bytes).unwrap();
        let head = head(&bytes[..len]).unwrap();
        assert_eq!(head.response.status(), 207);
        assert_eq!(head.framing, BodyFraming::Length(12));
        let expected = "x-a=b c\ncontent-length=12\nset-cookie=1\nset-cookie=2\nempty=\n";
        assert_eq!(shown(head.response.headers()), expected);
    }

    #[test]
    fn what_differs_in_each_message_is_not_for_the_tables_of_hpack() {
        let bytes = b"HTTP/1.1 200 OK\r\nX-Request-Id: 1\r\nServer: a\r\n\r\n";
        let head = head(bytes).unwrap();
        let is_kept_out = |name| head.response.headers()[name].is_sensitive();
        assert!(is_kept_out("x-request-id") && !is_kept_out("server"));
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        let bytes = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        for end in 0..bytes.len() {
            assert_eq!(head_len(&bytes[..end]), None);
        }
        assert_eq!(head_len(bytes), Some(bytes.len()));
        assert_eq!(head(bytes).unwrap().framing, BodyFraming::Close);
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(head(chunked).unwrap().framing, BodyFraming::Chunked);
    }

    #[test]
    fn trailers_are_fields() {
        let read = trailers(b"Grpc-Status: 0\r\ngrpc-message:\r\n\r\n").unwrap();
        assert_eq!(shown(&read), "grpc-status=0\ngrpc-message=\n");
        assert_eq!(trailers(b"no field\r\n").unwrap_err(), Garbled);
        assert_eq!(head(b"HTTP/1.1 2x0 OK\r\n\r\n").unwrap_err(), Garbled);
    }
}
