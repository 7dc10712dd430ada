//! Response heads: parsing what an upstream sends, and how its body ends.
//! More lenient than for requests where RFC 9112 lets a proxy repair what it reads; whatever could
//! desynchronise a reused connection is an error or ends the reuse.

use super::body::BodyFraming;
use super::field::{Field, decimal, members};
use super::head::{HeadScratch, Options, TooManyOptions};
use super::limits::{HEADERS_HARD_MAX, Limits};
use super::method::{Method, Upgrade, Version};
use super::plain::{self, PlainResponse};
use super::reason::Reason;
use super::request::RequestFacts;
use std::mem::MaybeUninit;

/// What kind of response a head begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// 1xx other than 101: relay it and parse another head.
    Interim,
    /// The answer.
    Final,
    /// 101: what follows on both sides is a tunnel.
    Switch(Upgrade),
}

/// What the connection must remember of a response once its head has been sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFacts {
    /// The status code, 100..=999.
    pub status: u16,
    /// The kind of response.
    pub phase: Phase,
    /// How the end of the body is found.
    pub body: BodyFraming,
    /// The upstream connection may be reused once the body is done and nothing follows it.
    pub reusable: bool,
}

/// A parsed response head, borrowed from the buffer it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    pub(super) scratch: &'a HeadScratch,
    pub(super) head: &'a [u8],
    pub(super) facts: ResponseFacts,
    pub(super) reason: &'a str,
    /// The start line reads as ours would.
    pub(super) start_as_sent: bool,
    /// The length as a number, if the header holds.
    pub(super) length: Option<u64>,
    /// There are transfer codings beside `chunked`.
    pub(super) coded: bool,
    /// The upstream sent a `Date`.
    pub(super) dated: bool,
    version: Version,
}

/// Parses the head at the start of `buf`, an answer to `request`; `None` means that more bytes are
/// needed. After an error the upstream connection has to be closed.
pub fn parse_response<'a>(
    buf: &'a [u8],
    scratch: &'a mut HeadScratch,
    request: &RequestFacts,
    limits: &Limits,
) -> Result<Option<Response<'a>>, Reason> {
    // httparse steps over empty lines here, but nothing allows a server to send them.
    if matches!(buf.first(), Some(b'\r' | b'\n')) {
        return Err(Reason::UpstreamBadResponse);
    }
    let window = &buf[..buf.len().min(limits.head_bytes_max)];
    let lines_max = limits.headers_max.min(HEADERS_HARD_MAX);
    let read = match plain::response(window, lines_max, scratch) {
        None => read_with_care(window, scratch, limits)?,
        plain => plain,
    };
    let Some(PlainResponse { status, reason, minor, len }) = read else { return Ok(None) };
    let head = &window[..len];
    let fields = Fields::gather(scratch, head)?;
    let (facts, length) = fields.facts(status, minor == 1, request)?;
    let start = &head[..scratch.start_line_end()];
    // `HTTP/1.1 200 ` + reason + CRLF, nothing else.
    let start_as_sent = minor == 1 && start.len() == 15 + reason.len() && start.ends_with(b"\r\n");
    let (coded, dated) = (fields.coding.others, fields.dated);
    let version = if minor == 0 { Version::V10 } else { Version::V11 };
    Ok(Some(Response {
        scratch,
        head,
        facts,
        reason,
        start_as_sent,
        length,
        coded,
        dated,
        version,
    }))
}

/// Reads a head that is not plain, or not complete.
#[cold]
#[inline(never)]
fn read_with_care<'a>(
    window: &'a [u8],
    scratch: &mut HeadScratch,
    limits: &Limits,
) -> Result<Option<PlainResponse<'a>>, Reason> {
    let mut room = [const { MaybeUninit::uninit() }; HEADERS_HARD_MAX];
    let room = &mut room[..limits.headers_max.min(HEADERS_HARD_MAX)];
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    config.allow_obsolete_multiline_headers_in_responses(true);
    let len = match config.parse_response_with_uninit_headers(&mut parsed, window, room) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if window.len() >= limits.head_bytes_max => {
            return Err(Reason::UpstreamHeadTooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::UpstreamHeadTooLarge),
        Err(_) => return Err(Reason::UpstreamBadResponse),
    };
    let (Some(status @ 100..), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Reason::UpstreamBadResponse);
    };
    scratch.fill(&window[..len], parsed.headers);
    scratch.look_for_folds(&window[..len]);
    Ok(Some(PlainResponse { status, reason: parsed.reason.unwrap_or_default(), minor, len }))
}

/// The transfer codings of a message, in order.
#[derive(Clone, Copy, Debug, Default)]
struct Coding {
    /// `chunked` is the last one.
    chunked: bool,
    /// There are others; `identity` is none.
    others: bool,
    /// There is a header, even if it lists nothing.
    listed: bool,
}

impl Coding {
    fn add(&mut self, value: &[u8]) -> Result<(), Reason> {
        self.listed = true;
        for member in members(value).filter(|member| !member.is_empty()) {
            // Chunks that are coded again are no framing, and nobody sends them.
            if self.chunked {
                return Err(Reason::UpstreamBadResponse);
            }
            self.chunked = member.eq_ignore_ascii_case(b"chunked");
            self.others |= is_other_coding(member);
        }
        Ok(())
    }
}

/// A coding that the body is in, beside being cut into chunks.
pub(super) fn is_other_coding(member: &[u8]) -> bool {
    !member.is_empty()
        && !member.eq_ignore_ascii_case(b"chunked")
        && !member.eq_ignore_ascii_case(b"identity")
}

/// What the header lines say about the message itself.
#[derive(Default)]
struct Fields {
    options: Options,
    length: Option<u64>,
    coding: Coding,
    upgrade: Option<Upgrade>,
    dated: bool,
}

impl Fields {
    fn gather(scratch: &mut HeadScratch, head: &[u8]) -> Result<Fields, Reason> {
        let mut fields = Fields::default();
        for index in 0..scratch.lines.len() {
            let line = scratch.lines[index];
            let value = line.value(head);
            let folded = || scratch.folded && memchr::memchr(b'\n', value).is_some();
            match line.field {
                Field::ContentLength => {
                    // The same number again is harmless (RFC 9112 §6.3); one line is sent on.
                    let again = fields.length.is_some();
                    for member in members(value) {
                        let number = decimal(member).ok_or(Reason::UpstreamBadLength)?;
                        if fields.length.replace(number).is_some_and(|before| before != number) {
                            return Err(Reason::UpstreamBadLength);
                        }
                    }
                    scratch.lines[index].dropped = again;
                }
                Field::TransferEncoding | Field::Connection if folded() => {
                    return Err(Reason::UpstreamBadResponse);
                }
                Field::TransferEncoding => fields.coding.add(value)?,
                Field::Connection => scratch
                    .note_options(head, value, &mut fields.options)
                    .map_err(|TooManyOptions| Reason::UpstreamBadResponse)?,
                Field::Upgrade => {
                    fields.upgrade = fields.upgrade.or(members(value).find_map(Upgrade::of));
                }
                Field::Date if fields.dated => scratch.lines[index].dropped = true,
                Field::Date => fields.dated = true,
                _ => {}
            }
        }
        scratch.drop_options(head);
        Ok(fields)
    }

    /// The facts, and the length to announce.
    fn facts(
        &self,
        status: u16,
        current: bool,
        request: &RequestFacts,
    ) -> Result<(ResponseFacts, Option<u64>), Reason> {
        let phase = self.phase(status, request)?;
        let bodiless =
            phase != Phase::Final || matches!(status, 204 | 304) || request.method == Method::Head;
        let body = match self.length {
            _ if bodiless => BodyFraming::None,
            _ if self.coding.chunked => BodyFraming::Chunked,
            _ if self.coding.others => BodyFraming::Close,
            Some(0) => BodyFraming::None,
            Some(len) => BodyFraming::Length(len),
            None => BodyFraming::Close,
        };
        // A length beside a coding, and a coding in HTTP/1.0, are signs of a confused or hostile
        // sender (RFC 9112 §6.1, §6.3): the message is read, the connection is not used again.
        let framed_well = !self.coding.listed || (self.length.is_none() && current);
        let reusable = framed_well
            && body != BodyFraming::Close
            && !matches!(phase, Phase::Switch(_))
            && !self.options.close
            && (current || self.options.keep_alive);
        // Neither 1xx nor 204 have a length (RFC 9110 §8.6).
        let coded = self.coding.chunked || self.coding.others;
        let announced = phase == Phase::Final && status != 204 && !coded;
        let length = self.length.filter(|_| announced);
        Ok((ResponseFacts { status, phase, body, reusable }, length))
    }

    fn phase(&self, status: u16, request: &RequestFacts) -> Result<Phase, Reason> {
        match status {
            101 => match self.upgrade {
                Some(upgrade) if self.options.upgrade && request.upgrade == Some(upgrade) => {
                    Ok(Phase::Switch(upgrade))
                }
                _ => Err(Reason::UpstreamBadUpgrade),
            },
            100..=199 => Ok(Phase::Interim),
            _ => Ok(Phase::Final),
        }
    }
}

impl<'a> Response<'a> {
    /// Bytes of the buffer that the head occupies; the body follows.
    pub fn head_len(&self) -> usize {
        self.head.len()
    }

    /// The facts to keep.
    pub fn facts(&self) -> ResponseFacts {
        self.facts
    }

    /// The version that the upstream speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.scratch.find(self.head, name)
    }

    /// The headers as sent, in order; a folded value has its line breaks.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let head = self.head;
        let lines = self.scratch.lines.iter().filter(|line| !line.dropped);
        lines.map(move |line| (line.name(head), line.value(head)))
    }
}

#[cfg(test)]
pub(super) mod tests;
