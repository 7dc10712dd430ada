//! Replies of the router itself, whole.

use super::deliver::persistence;
use super::field::push_decimal;
use super::head::push_line;
use super::method::{Method, Version};
use super::reason::Reason;
use super::request::RequestFacts;

/// The interim response that lets a client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What the form of a local reply depends on.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The request, if its head was understood.
    pub request: Option<RequestFacts>,
    /// The connection stays open after the reply.
    pub keep_alive: bool,
    /// The cached `Date`.
    pub date: &'a [u8; 29],
    /// `X-Request-Id`, if there is one.
    pub request_id: Option<&'a [u8]>,
    /// The router's [`Via::pseudonym`](super::Via::pseudonym), for `Proxy-Status`.
    pub pseudonym: &'a str,
    /// A line more, whole; empty adds none.
    pub line: &'a [u8],
}

/// A complete reply with a text body.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// Seconds for `Retry-After`.
    pub retry_after_s: Option<u32>,
    /// What `Proxy-Status` says, if there is something to explain.
    pub reason: Option<Reason>,
    /// Where the client is to go instead.
    pub location: Option<&'a str>,
    /// The lines of the text; not sent in answer to HEAD.
    pub text: &'a [&'a str],
}

/// Appends a complete reply that names the reason.
pub fn write_error(reason: Reason, client: &Client<'_>, out: &mut Vec<u8>) {
    let reply = Reply {
        status: reason.status(),
        retry_after_s: reason.retry_after_s(),
        reason: Some(reason),
        location: None,
        text: &[reason.as_str(), reason.explain()],
    };
    write_reply(&reply, client, out);
}

/// Appends the head of a reply that names the reason, for `length` bytes of content that the
/// caller has. Says whether they are to follow: not in answer to HEAD.
pub fn write_error_head(
    reason: Reason,
    media_type: &str,
    length: usize,
    client: &Client<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let head = Head {
        status: reason.status(),
        media_type,
        length,
        retry_after_s: reason.retry_after_s(),
        reason: Some(reason),
        location: None,
    };
    write_head(&head, client, out)
}

/// Appends a complete reply to a call of gRPC: its status is in the fields, and that of HTTP says only
/// that this is so.
pub fn write_grpc_error(reason: Reason, client: &Client<'_>, out: &mut Vec<u8>) {
    let head = Head {
        status: 200,
        media_type: "application/grpc",
        length: 0,
        retry_after_s: None,
        reason: Some(reason),
        location: None,
    };
    write_head(&head, client, out);
    // Behind them the empty line again.
    out.truncate(out.len() - b"\r\n".len());
    out.extend_from_slice(b"Grpc-Status: ");
    push_decimal(out, grpc_status(reason.status()));
    out.extend_from_slice(b"\r\n");
    push_line(out, b"Grpc-Message", reason.explain().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The status of a call for one of HTTP, as gRPC's own libraries have it
/// (`http-grpc-status-mapping.md`).
fn grpc_status(status: u16) -> u64 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Appends a complete reply.
pub fn write_reply(reply: &Reply<'_>, client: &Client<'_>, out: &mut Vec<u8>) {
    let head = Head {
        status: reply.status,
        media_type: "text/plain; charset=utf-8",
        length: reply.text.iter().map(|line| line.len() + 1).sum(),
        retry_after_s: reply.retry_after_s,
        reason: reply.reason,
        location: reply.location,
    };
    if write_head(&head, client, out) {
        for line in reply.text {
            out.extend_from_slice(line.as_bytes());
            out.push(b'\n');
        }
    }
}

struct Head<'a> {
    status: u16,
    media_type: &'a str,
    length: usize,
    retry_after_s: Option<u32>,
    reason: Option<Reason>,
    location: Option<&'a str>,
}

/// Appends a head, and says whether content follows it.
fn write_head(head: &Head<'_>, client: &Client<'_>, out: &mut Vec<u8>) -> bool {
    debug_assert!((200..1000).contains(&head.status) && !matches!(head.status, 204 | 304));
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(phrase(head.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    push_line(out, b"Content-Type", head.media_type.as_bytes());
    out.extend_from_slice(b"Content-Length: ");
    push_decimal(out, head.length as u64);
    out.extend_from_slice(b"\r\nCache-Control: no-store\r\n");
    push_line(out, b"Date", client.date);
    if let Some(location) = head.location {
        push_line(out, b"Location", location.as_bytes());
    }
    if let Some(seconds) = head.retry_after_s {
        out.extend_from_slice(b"Retry-After: ");
        push_decimal(out, u64::from(seconds));
        out.extend_from_slice(b"\r\n");
    }
    if let Some(reason) = head.reason {
        write_proxy_status(reason, client.pseudonym, out);
    }
    if let Some(id) = client.request_id {
        push_line(out, b"X-Request-Id", id);
    }
    out.extend_from_slice(client.line);
    let version = client.request.map_or(Version::V11, |request| request.version);
    out.extend_from_slice(persistence(version, client.keep_alive));
    out.extend_from_slice(b"\r\n");
    client.request.is_none_or(|request| request.method != Method::Head)
}

/// The line that tells a proxy or a person behind us what went wrong (RFC 9209): the registered
/// type, and the code and label that are in the log and the metrics.
fn write_proxy_status(reason: Reason, pseudonym: &str, out: &mut Vec<u8>) {
    for part in [
        "Proxy-Status: ",
        pseudonym,
        "; error=",
        reason.proxy_error(),
        "; details=\"",
        reason.code(),
        " ",
        reason.as_str(),
        "\"\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The phrase of a status that the router sends by itself.
pub(crate) const fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadScratch, Limits, parse_request};

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn reply_to(head: &str, keep_alive: bool, reason: Reason) -> String {
        let mut scratch = HeadScratch::new();
        let request = parse_request(head.as_bytes(), &mut scratch, &Limits::DEFAULT).unwrap();
        let client = Client {
            request: request.map(|request| request.facts()),
            keep_alive,
            date: DATE,
            request_id: Some(b"id-1"),
            pseudonym: "me-1",
            line: b"",
        };
        let mut out = Vec::new();
        write_error(reason, &client, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_error_names_its_reason_in_a_complete_response() {
        let text = reply_to("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true, Reason::NoRoute);
        assert_eq!(
            text,
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 45\r\nCache-Control: no-store\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Proxy-Status: me-1; error=destination_not_found; details=\"PR no_route\"\r\n\
             X-Request-Id: id-1\r\n\r\nno_route\nno route matches this host and path\n"
        );
    }

    #[test]
    fn the_form_of_a_reply_follows_the_request() {
        let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
        let text = reply_to(head, false, Reason::NoInstance);
        assert!(text.contains("\r\nContent-Length: 53\r\n"), "{text}");
        assert!(text.contains("\r\nRetry-After: 1\r\n"), "{text}");
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"), "{text}");
        let text = reply_to("GET / HTTP/1.0\r\n\r\n", true, Reason::NoRoute);
        assert!(text.contains("\r\nConnection: keep-alive\r\n\r\nno_route\n"), "{text}");
        let text = reply_to("", false, Reason::RequestTimeout);
        assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{text}");
        assert!(text.contains("\r\nConnection: close\r\n\r\nrequest_timeout\n"), "{text}");
    }

    #[test]
    fn every_reason_has_a_phrase_and_the_length_it_announces() {
        for reason in Reason::ALL.iter().filter(|reason| reason.status() != 499) {
            let text = reply_to("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true, *reason);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(!phrase(reason.status()).is_empty(), "{reason:?}");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        }
    }
}
