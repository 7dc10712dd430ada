//! The head of a request as it is sent to the upstream.
//! It names no instance, so that a retry on another one sends the same bytes.

use super::field::{Field, push_decimal};
use super::head::{Copier, push_line};
use super::method::Version;
use super::request::Request;
use super::target::TargetForm;

/// The scheme the client used on this listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// The scheme as it is written in a URI.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What the route changes in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite<'a> {
    /// The prefix that the path matched and what takes its place, both without a slash at
    /// their end: nothing for the root.
    pub prefix: Option<(&'a str, &'a str)>,
    /// Sent as `Host`.
    pub host: Option<&'a str>,
}

impl Rewrite<'_> {
    /// The request is sent on as it came.
    pub const NONE: Self = Self { prefix: None, host: None };
}

/// What the connection and the route add to a request.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The client's address as text, without port or brackets; made once a connection.
    pub peer: &'a str,
    /// The peer is a proxy whose `Forwarded` and `X-Forwarded-*` are to be believed.
    pub peer_trusted: bool,
    /// For `X-Forwarded-Proto`.
    pub scheme: Scheme,
    /// For `X-Forwarded-Port`: the port the client connected to.
    pub port: u16,
    /// For `X-Request-Id`: [`Request::request_id`] or a new one.
    pub request_id: &'a [u8],
    /// For `X-Request-Start`: when the request came, in milliseconds of Unix time; none adds none
    /// and leaves the client's.
    pub request_start_ms: Option<u64>,
    /// For `Host` when an HTTP/1.0 client names none: the address it connected to.
    pub authority_fallback: &'a str,
    /// The [`Via`](super::Via) line for the client's version, whole; empty adds none.
    pub via: &'a [u8],
    /// The lines about the client's certificate, whole; empty adds none.
    pub client_lines: &'a [u8],
    /// What the route changes; mostly nothing.
    pub rewrite: Rewrite<'a>,
}

// What we add to a typical head, so that the output grows at most once.
const ADDED_BYTES: usize = 256;

/// Which headers of a trusted peer were passed on, and need not be made.
#[derive(Default)]
struct Passed {
    host: bool,
    proto: bool,
    port: bool,
    start: bool,
    /// Headers to which the peer is to be appended.
    forwarded: bool,
    forwarded_for: bool,
}

impl Request<'_> {
    /// Appends the head to send to the upstream.
    pub fn write_upstream(&self, forward: &Forward<'_>, out: &mut Vec<u8>) {
        out.reserve(self.head.len() + ADDED_BYTES);
        let mut copier = Copier::new(self.scratch, self.head, out);
        let is_absolute = self.target.form == TargetForm::Absolute;
        let host_follows =
            !is_absolute && self.authority.is_some() && forward.rewrite.host.is_none();
        let as_sent = host_follows && forward.rewrite.prefix.is_none();
        if as_sent && self.facts.version == Version::V11 {
            copier.range(0, self.scratch.start_line_end());
        } else {
            self.write_start(host_follows, forward, copier.out());
        }
        let mut passed = Passed::default();
        for (index, line) in self.scratch.lines.iter().enumerate() {
            let believed = forward.peer_trusted;
            let keep = !line.dropped
                && match line.field {
                    Field::Other | Field::Protected | Field::Date | Field::ContentLength => true,
                    Field::TransferEncoding | Field::Via => true,
                    Field::Host => host_follows,
                    Field::Expect => self.facts.expect_continue,
                    Field::MaxForwards => {
                        self.write_max_forwards(&mut copier, index);
                        false
                    }
                    Field::ForwardedOther => believed,
                    // Of two, nobody could tell which one is ours.
                    Field::ClientCert => believed && forward.client_lines.is_empty(),
                    Field::ForwardedHost => note(&mut passed.host, believed),
                    Field::ForwardedProto => note(&mut passed.proto, believed),
                    Field::ForwardedPort => note(&mut passed.port, believed),
                    // Joined with our own entry below.
                    Field::ForwardedFor => {
                        passed.forwarded_for |= believed;
                        false
                    }
                    Field::Forwarded => {
                        passed.forwarded |= believed;
                        false
                    }
                    Field::RequestStart => {
                        forward.request_start_ms.is_none() || note(&mut passed.start, believed)
                    }
                    Field::RequestId | Field::Connection | Field::Hop => false,
                    Field::Te | Field::Upgrade => false,
                };
            if keep {
                copier.line(index);
            }
        }
        let out = copier.out();
        out.extend_from_slice(forward.via);
        out.extend_from_slice(forward.client_lines);
        self.write_forwarded(forward, &passed, out);
        push_line(out, b"X-Request-Id", forward.request_id);
        if let Some(start_ms) = forward.request_start_ms.filter(|_| !passed.start) {
            write_request_start(start_ms, out);
        }
        self.write_connection(out);
        out.extend_from_slice(b"\r\n");
    }

    /// The start line of a target or version that is not sent on as it came, and the `Host` if it
    /// is not among the lines.
    fn write_start(&self, host_follows: bool, forward: &Forward<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method().as_bytes());
        out.push(b' ');
        let (path, query) = (self.target.path, self.target.query);
        // An absolute OPTIONS without a path asks about the server itself (RFC 9112 §3.2.4).
        let whole = self.method() == "OPTIONS" && query.is_none();
        match (path, forward.rewrite.prefix) {
            ("*", _) => out.push(b'*'),
            ("", _) if whole => out.push(b'*'),
            (_, Some(prefix)) => write_rewritten(self.path(), prefix, out),
            ("", None) => out.push(b'/'),
            (path, None) => out.extend_from_slice(path.as_bytes()),
        }
        if let Some(query) = query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if !host_follows {
            let rewritten = forward.rewrite.host.map(str::as_bytes);
            let authority = rewritten.or(self.authority);
            push_line(out, b"Host", authority.unwrap_or(forward.authority_fallback.as_bytes()));
        }
    }

    /// Copies the line, counted down if this hop counts.
    fn write_max_forwards(&self, copier: &mut Copier<'_, '_>, index: usize) {
        match self.facts.max_forwards {
            None => copier.line(index),
            Some(left) => {
                let out = copier.out();
                out.extend_from_slice(b"Max-Forwards: ");
                push_decimal(out, left.saturating_sub(1));
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn write_forwarded(&self, forward: &Forward<'_>, passed: &Passed, out: &mut Vec<u8>) {
        out.extend_from_slice(b"X-Forwarded-For: ");
        if passed.forwarded_for {
            self.write_list(Field::ForwardedFor, out);
        }
        out.extend_from_slice(forward.peer.as_bytes());
        out.extend_from_slice(b"\r\n");
        if let Some(authority) = self.authority.filter(|_| !passed.host) {
            push_line(out, b"X-Forwarded-Host", authority);
        }
        if !passed.proto {
            push_line(out, b"X-Forwarded-Proto", forward.scheme.as_str().as_bytes());
        }
        // A proxy that names the scheme means that scheme's port, not ours.
        if !passed.port && !passed.proto {
            out.extend_from_slice(b"X-Forwarded-Port: ");
            push_decimal(out, u64::from(forward.port));
            out.extend_from_slice(b"\r\n");
        }
        if passed.forwarded {
            out.extend_from_slice(b"Forwarded: ");
            self.write_list(Field::Forwarded, out);
            // An IPv6 address stands in brackets and quotes (RFC 7239 §6).
            let is_v6 = forward.peer.contains(':');
            out.extend_from_slice(if is_v6 { b"for=\"[" } else { b"for=" });
            out.extend_from_slice(forward.peer.as_bytes());
            out.extend_from_slice(if is_v6 { b"]\";proto=" } else { b";proto=" });
            out.extend_from_slice(forward.scheme.as_str().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The values of a repeated header in order, with a comma behind each.
    fn write_list(&self, field: Field, out: &mut Vec<u8>) {
        for line in self.scratch.lines.iter().filter(|line| line.field == field) {
            let value = line.value(self.head);
            if !value.is_empty() {
                out.extend_from_slice(value);
                out.extend_from_slice(b", ");
            }
        }
    }

    /// What is asked of the next hop only, made anew.
    fn write_connection(&self, out: &mut Vec<u8>) {
        match (self.facts.upgrade, self.takes_trailers) {
            (None, false) => return,
            (Some(_), false) => out.extend_from_slice(b"Connection: upgrade\r\n"),
            (None, true) => out.extend_from_slice(b"Connection: TE\r\n"),
            (Some(_), true) => out.extend_from_slice(b"Connection: upgrade, TE\r\n"),
        }
        if let Some(upgrade) = self.facts.upgrade {
            push_line(out, b"Upgrade", upgrade.token().as_bytes());
        }
        if self.takes_trailers {
            out.extend_from_slice(b"TE: trailers\r\n");
        }
    }
}

/// Writes the path with another prefix. It is the path that was matched, not the one sent: in
/// that the prefix may be spelled in many ways. Where the two parts meet there is one slash, so
/// that what is left of `/a//b.test/` without `/a` is not taken for an authority.
fn write_rewritten(path: &str, (matched, replacement): (&str, &str), out: &mut Vec<u8>) {
    debug_assert!(path.starts_with(matched), "the route was chosen for its prefix");
    let rest = path.strip_prefix(matched).unwrap_or(path);
    let below = rest.trim_start_matches('/');
    out.extend_from_slice(replacement.as_bytes());
    if replacement.is_empty() || below.len() < rest.len() {
        out.push(b'/');
    }
    out.extend_from_slice(below.as_bytes());
}

/// In the form of nginx and Heroku, which servers that tell how long a request waited read.
fn write_request_start(start_ms: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Request-Start: t=");
    push_decimal(out, start_ms);
    out.extend_from_slice(b"\r\n");
}

/// Sets the mark if the header is believed, and says whether it is.
fn note(mark: &mut bool, believed: bool) -> bool {
    *mark |= believed;
    believed
}

#[cfg(test)]
mod tests;
