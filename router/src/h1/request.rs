//! Request heads: parsing, and every rule by which one is refused.
//! It must leave no room for a second reading: what is accepted here has one meaning to any
//! upstream, because a difference is a request smuggled past the route that was chosen.

use super::body::BodyFraming;
use super::field::{Field, decimal, members};
use super::head::{HeadScratch, Options, TooManyOptions};
use super::limits::{HEADERS_HARD_MAX, Limits};
use super::method::{Method, Upgrade, Version};
use super::plain::{self, PlainRequest};
use super::reason::Reason;
use super::target::{Target, TargetForm, normalise_path, parse_authority};
use std::mem::MaybeUninit;

mod diagnose;

use diagnose::{diagnose, diagnose_size};

/// What the connection must remember of a request once its head has been sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The method.
    pub method: Method,
    /// The client's version.
    pub version: Version,
    /// How the end of the body is found.
    pub body: BodyFraming,
    /// The client wants to send another request on this connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub expect_continue: bool,
    /// The protocol the client asks to switch to.
    pub upgrade: Option<Upgrade>,
    /// `Max-Forwards` of a TRACE or OPTIONS; at 0 it must be answered here (RFC 9110 §7.6.2).
    pub max_forwards: Option<u64>,
}

/// A parsed request head, borrowed from the buffer it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub(super) scratch: &'a HeadScratch,
    /// The head without a line break before it.
    pub(super) head: &'a [u8],
    pub(super) facts: RequestFacts,
    pub(super) target: Target<'a>,
    /// As sent: of the absolute form, else the `Host`.
    pub(super) authority: Option<&'a [u8]>,
    /// The client speaks the trailer section (`TE: trailers`).
    pub(super) takes_trailers: bool,
    /// Somebody has passed it on before and says so.
    pub(super) has_via: bool,
    head_len: usize,
    method: &'a str,
    target_text: &'a str,
    port: Option<u16>,
    path_changed: bool,
    request_id: Option<&'a str>,
}

/// Parses the head at the start of `buf`; `None` means that more bytes are needed.
///
/// After an error the connection has to be closed: where the next request begins is unknown.
pub fn parse_request<'a>(
    buf: &'a [u8],
    scratch: &'a mut HeadScratch,
    limits: &Limits,
) -> Result<Option<Request<'a>>, Reason> {
    let Some(start) = skip_line_break(buf)? else { return Ok(None) };
    let window = &buf[start..buf.len().min(start + limits.head_bytes_max)];
    let lines_max = limits.headers_max.min(HEADERS_HARD_MAX);
    let read = match plain::request(window, lines_max, scratch) {
        None => read_with_care(window, scratch, limits)?,
        plain => plain,
    };
    let Some(PlainRequest { method, target, minor, len }) = read else { return Ok(None) };
    let head = &window[..len];
    if target.len() > limits.target_bytes_max {
        return Err(Reason::UriTooLong);
    }
    let version = if minor == 0 { Version::V10 } else { Version::V11 };
    let kind = Method::of(method.as_bytes());
    let parts = Target::parse(kind, target)?;
    let fields = Fields::gather(scratch, head)?;
    let facts = fields.facts(kind, version, limits)?;
    let authority = fields.authority(&parts, version, &mut scratch.host)?;
    scratch.host.clear();
    let port = match authority {
        Some(authority) => parse_authority(authority, &mut scratch.host)?,
        None => None,
    };
    let absolute_root = parts.path.is_empty() || parts.form == TargetForm::Asterisk;
    let path_changed = !absolute_root && normalise_path(parts.path, &mut scratch.path)?;
    Ok(Some(Request {
        scratch,
        head,
        facts,
        target: parts,
        authority,
        takes_trailers: fields.takes_trailers,
        has_via: fields.has_via,
        head_len: start + head.len(),
        method,
        target_text: target,
        port,
        path_changed,
        request_id: fields.request_id,
    }))
}

/// Reads a head that is not plain, or not complete.
#[cold]
#[inline(never)]
fn read_with_care<'a>(
    window: &'a [u8],
    scratch: &mut HeadScratch,
    limits: &Limits,
) -> Result<Option<PlainRequest<'a>>, Reason> {
    let mut room = [const { MaybeUninit::uninit() }; HEADERS_HARD_MAX];
    let room = &mut room[..limits.headers_max.min(HEADERS_HARD_MAX)];
    let mut parsed = httparse::Request::new(&mut []);
    let len = match parsed.parse_with_uninit_headers(window, room) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return diagnose_size(window, limits).map(|()| None),
        Err(error) => return Err(diagnose(window, error)),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Reason::BadRequestLine);
    };
    scratch.fill(&window[..len], parsed.headers);
    if !scratch.ends_in_crlf {
        // A target that is too long is the clearer reason.
        let too_long = target.len() > limits.target_bytes_max;
        return Err(if too_long { Reason::UriTooLong } else { Reason::BadLineEnd });
    }
    if !limits.odd_names {
        scratch.drop_odd_names(&window[..len]);
    }
    Ok(Some(PlainRequest { method, target, minor, len }))
}

/// Steps over the one line break that old clients send behind a body (RFC 9112 §2.2).
fn skip_line_break(buf: &[u8]) -> Result<Option<usize>, Reason> {
    let start = match buf {
        [] | [b'\r'] => return Ok(None),
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => return Err(Reason::BadLineEnd),
        _ => 0,
    };
    match buf.get(start) {
        Some(b'\r' | b'\n') => Err(Reason::BadRequestLine),
        Some(_) => Ok(Some(start)),
        None => Ok(None),
    }
}

/// What the header lines say about the message itself.
#[derive(Default)]
struct Fields<'a> {
    options: Options,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    expect_continue: bool,
    upgrade: Option<Upgrade>,
    takes_trailers: bool,
    has_via: bool,
    max_forwards: Option<u64>,
    request_ids: usize,
    request_id: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn gather(scratch: &mut HeadScratch, head: &'a [u8]) -> Result<Fields<'a>, Reason> {
        let mut fields = Fields::default();
        for index in 0..scratch.lines.len() {
            let line = scratch.lines[index];
            let value = line.value(head);
            match line.field {
                Field::Host if fields.host.is_some() => return Err(Reason::RepeatedHost),
                Field::Host => fields.host = Some(value),
                Field::ContentLength if fields.length.is_some() => {
                    return Err(Reason::RepeatedContentLength);
                }
                Field::ContentLength => {
                    fields.length = Some(decimal(value).ok_or(Reason::BadContentLength)?);
                }
                Field::TransferEncoding => {
                    let exact = !fields.chunked && scratch.is_tight(head, index);
                    check_coding(value, exact)?;
                    fields.chunked = true;
                }
                Field::Connection => scratch
                    .note_options(head, value, &mut fields.options)
                    .map_err(|TooManyOptions| Reason::TooManyOptions)?,
                Field::Expect if value.eq_ignore_ascii_case(b"100-continue") => {
                    fields.expect_continue = true;
                }
                Field::Expect => return Err(Reason::UnknownExpectation),
                Field::Upgrade => {
                    fields.upgrade = fields.upgrade.or(members(value).find_map(Upgrade::of));
                }
                Field::Te => fields.takes_trailers |= lists_trailers(value),
                Field::Via => fields.has_via = true,
                Field::MaxForwards => fields.max_forwards = decimal(value),
                Field::RequestId => {
                    fields.request_ids += 1;
                    fields.request_id = safe_id(value).filter(|_| fields.request_ids == 1);
                }
                _ => {}
            }
        }
        scratch.drop_options(head);
        Ok(fields)
    }

    fn facts(
        &self,
        method: Method,
        version: Version,
        limits: &Limits,
    ) -> Result<RequestFacts, Reason> {
        let body = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Reason::LengthAndChunked),
            (true, None) if version == Version::V10 => return Err(Reason::ChunkedInOldVersion),
            (true, None) => BodyFraming::Chunked,
            (false, Some(len)) if len > limits.body_bytes_max => return Err(Reason::BodyTooLarge),
            (false, Some(len)) if len > 0 => BodyFraming::Length(len),
            (false, _) => BodyFraming::None,
        };
        let current = version == Version::V11;
        // An Upgrade without the option, or from HTTP/1.0, is ignored (RFC 9110 §7.8).
        let upgrade = self.upgrade.filter(|_| self.options.upgrade && current);
        if upgrade.is_some() && body != BodyFraming::None {
            return Err(Reason::UpgradeWithBody);
        }
        Ok(RequestFacts {
            method,
            version,
            body,
            keep_alive: !self.options.close && (current || self.options.keep_alive),
            // A 1.0 client cannot mean it (RFC 9110 §10.1.1).
            expect_continue: self.expect_continue && current,
            upgrade,
            max_forwards: self
                .max_forwards
                .filter(|_| matches!(method, Method::Trace | Method::Options)),
        })
    }

    /// The authority as sent: the target's, if it has one, wins over `Host` (RFC 9112 §3.2.2).
    fn authority(
        &self,
        target: &Target<'a>,
        version: Version,
        room: &mut String,
    ) -> Result<Option<&'a [u8]>, Reason> {
        match (self.host, target.authority) {
            (None, _) if version == Version::V11 => Err(Reason::MissingHost),
            (Some(host), Some(authority)) => {
                // It loses, but an invalid one is still refused.
                parse_authority(host, room)?;
                Ok(Some(authority.as_bytes()))
            }
            (None, Some(authority)) => Ok(Some(authority.as_bytes())),
            (host, None) => Ok(host),
        }
    }
}

/// Takes `chunked` and nothing else. Any variation is a message that some other parser frames
/// otherwise, so even white space is refused.
fn check_coding(value: &[u8], exact: bool) -> Result<(), Reason> {
    if exact && value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let chunked = |member: &[u8]| member.eq_ignore_ascii_case(b"chunked");
    let mut codings = members(value).collect::<Vec<_>>();
    let last = codings.pop().is_some_and(chunked);
    let others = codings.iter().all(|coding| !coding.is_empty() && !chunked(coding));
    if last && others && !codings.is_empty() {
        Err(Reason::UnknownTransferCoding)
    } else {
        Err(Reason::BadTransferEncoding)
    }
}

fn lists_trailers(value: &[u8]) -> bool {
    members(value).any(|member| member.eq_ignore_ascii_case(b"trailers"))
}

const REQUEST_ID_CHARS: std::ops::RangeInclusive<usize> = 20..=200;

/// An id that may go to logs and upstreams as it is.
fn safe_id(value: &[u8]) -> Option<&str> {
    let safe = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'=' | b'+' | b'/')
    };
    (REQUEST_ID_CHARS.contains(&value.len()) && value.iter().all(safe))
        .then(|| str::from_utf8(value).ok())
        .flatten()
}

impl<'a> Request<'a> {
    /// Bytes of the buffer that the head occupies; the body follows.
    pub fn head_len(&self) -> usize {
        self.head_len
    }

    /// The facts to keep.
    pub fn facts(&self) -> RequestFacts {
        self.facts
    }

    /// The method as sent.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The form of the target.
    pub fn form(&self) -> TargetForm {
        self.target.form
    }

    /// The target as sent, for logs.
    pub fn target(&self) -> &'a str {
        self.target_text
    }

    /// The host to match on: lower case, no port, no dot at its end, IPv6 canonical in brackets;
    /// empty if an HTTP/1.0 request names none.
    pub fn host(&self) -> &'a str {
        &self.scratch.host
    }

    /// The port of the authority, if it names one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The path to match on: unreserved bytes decoded, dot segments resolved; `/` for `*`.
    pub fn path(&self) -> &'a str {
        if self.path_changed {
            &self.scratch.path
        } else if self.target.path.starts_with('/') {
            self.target.path
        } else {
            "/"
        }
    }

    /// The authority as sent, the target's or else `Host`.
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.authority
    }

    /// The path as sent, `/` for none; also `*`.
    pub fn sent_path(&self) -> &'a str {
        if self.target.path.is_empty() { "/" } else { self.target.path }
    }

    /// The query as sent, without its `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.target.query
    }

    /// The client's `X-Request-Id`, if it is one to keep: 20 to 200 characters, each safe.
    pub fn request_id(&self) -> Option<&'a str> {
        self.request_id
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.scratch.find(self.head, name)
    }

    /// The headers as sent, in order, without those dropped for their names.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let head = self.head;
        let lines = self.scratch.lines.iter().filter(|line| !line.dropped);
        lines.map(move |line| (line.name(head), line.value(head)))
    }
}

#[cfg(test)]
mod tests;
