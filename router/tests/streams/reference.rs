//! A second opinion on where a message ends: heads by httparse, framing written from RFC 9112 as
//! plainly as it can be, on whole messages only. It shares nothing with the router's codec.

/// A message as the reference reads it.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Where the next one begins.
    pub end: usize,
    /// The content without framing.
    pub content: Vec<u8>,
    /// The next response is one to the same request.
    pub is_interim: bool,
}

/// What the reference says of the bytes at the start of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everybody has to take this, and to end it here.
    Must(Message),
    /// The RFC leaves it open, or it is a matter of policy or size; whoever takes it ends it here.
    May(Message),
    /// The content goes on until the connection ends.
    UntilClose,
    /// A response that is either refused or repaired; where it ends nobody can say.
    Unclear,
    /// Nobody may take this.
    Refuse,
    /// It may become a message.
    Incomplete,
}

const FIELDS_MAX: usize = 256;
// Above these a router may refuse what is well formed.
const FIELDS_SURE: usize = 100;
const HEAD_BYTES_SURE: usize = 30_000;
const TARGET_BYTES_SURE: usize = 8_000;
const EXTENSION_BYTES_SURE: usize = 200;
const TRAILER_BYTES_SURE: usize = 8_000;

/// The end of a body, its content, and whether there is a doubt about taking it.
type Body = Result<(usize, Vec<u8>, bool), Verdict>;

/// Reads the request at the start of `bytes`.
pub fn request(bytes: &[u8]) -> Verdict {
    read_request(bytes).unwrap_or_else(|verdict| verdict)
}

fn read_request(bytes: &[u8]) -> Result<Verdict, Verdict> {
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") {
        start += 2;
    }
    // One empty line is to be skipped, more of them may be (§2.2).
    let mut doubt = start > 2;
    match bytes.get(start..start + 1) {
        None | Some(b"\r") if bytes.len() <= start + 1 => return Err(Verdict::Incomplete),
        Some(b"\r" | b"\n") => return Err(Verdict::Refuse),
        _ => {}
    }
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut room);
    let len = complete(parsed.parse(&bytes[start..]))?;
    let head = &bytes[start..start + len];
    if !is_crlf_only(head) {
        return Err(Verdict::Refuse);
    }
    let fields = Fields(parsed.headers);
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    let current = parsed.version == Some(1);
    doubt |= len > HEAD_BYTES_SURE || fields.0.len() > FIELDS_SURE;
    doubt |= method == "CONNECT" || target.len() > TARGET_BYTES_SURE;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'?' | b'=');
    doubt |= !target.starts_with('/') || !target.bytes().all(plain);
    // Not framing, and refused for reasons of their own.
    doubt |= ["upgrade", "expect", "connection"].iter().any(|name| fields.has(name));
    let hosts: Vec<&[u8]> = fields.all("host").collect();
    if hosts.len() > 1 || (current && hosts.is_empty()) {
        return Err(Verdict::Refuse);
    }
    doubt |= hosts.iter().any(|host| {
        host.is_empty() || host.len() > 200 || !host.iter().all(u8::is_ascii_alphanumeric)
    });
    let length = fields.length(&mut doubt)?;
    let body = start + len;
    let (end, content, unsure) = match (fields.codings(), length) {
        (None, None) => (body, Vec::new(), false),
        (None, Some(length)) => counted(bytes, body, length)?,
        (Some(_), Some(_)) => return Err(Verdict::Refuse),
        (Some(_), None) if !current => return Err(Verdict::Refuse),
        (Some(codings), None) => match codings.split_last() {
            Some((last, before))
                if is_chunked(last) && !before.iter().any(|one| is_chunked(one)) =>
            {
                // Another coding need not be known, and some doubt any way to write this one.
                let exact = head
                    .windows(28)
                    .any(|w| w.eq_ignore_ascii_case(b"\nTransfer-Encoding: chunked\r"));
                doubt |= codings.len() > 1 || fields.all("transfer-encoding").count() > 1 || !exact;
                chunked(bytes, body)?
            }
            _ => return Err(Verdict::Refuse),
        },
    };
    Ok(verdict(Message { end, content, is_interim: false }, doubt | unsure))
}

/// Reads the response at the start of `bytes`; `to_head` if it answers HEAD.
pub fn response(bytes: &[u8], to_head: bool) -> Verdict {
    read_response(bytes, to_head).unwrap_or_else(|verdict| verdict)
}

fn read_response(bytes: &[u8], to_head: bool) -> Result<Verdict, Verdict> {
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(Verdict::Refuse);
    }
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut room);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    config.allow_obsolete_multiline_headers_in_responses(true);
    let len = complete(config.parse_response(&mut parsed, bytes))?;
    let fields = Fields(parsed.headers);
    let current = parsed.version == Some(1);
    let status = parsed.code.unwrap_or_default();
    if status < 100 {
        return Err(Verdict::Refuse);
    }
    let is_folded = fields.0.iter().any(|field| field.value.contains(&b'\n'));
    let mut doubt = len > HEAD_BYTES_SURE || fields.0.len() > FIELDS_SURE || is_folded;
    doubt |= !is_crlf_only(&bytes[..len]) || fields.has("connection");
    let length = fields.length(&mut doubt)?;
    let codings = fields.codings();
    // Codings that change nothing are of an older RFC; a switch needs a request for it.
    let odd = |codings: &[&[u8]]| {
        codings.is_empty() || codings.iter().any(|one| one.eq_ignore_ascii_case(b"identity"))
    };
    if status == 101 || codings.as_deref().is_some_and(odd) {
        return Err(Verdict::Unclear);
    }
    let is_interim = status < 200;
    let (end, content, unsure) = match (codings, length) {
        (codings, _) if to_head || is_interim || matches!(status, 204 | 304) => {
            (len, Vec::new(), codings.is_some())
        }
        (Some(codings), _) => match codings.iter().position(|one| is_chunked(one)) {
            Some(at) if at + 1 == codings.len() => {
                doubt |= codings.len() > 1 || !current || length.is_some();
                chunked(bytes, len)?
            }
            Some(_) => return Err(Verdict::Unclear),
            None => return Err(Verdict::UntilClose),
        },
        (None, Some(length)) => counted(bytes, len, length)?,
        (None, None) => return Err(Verdict::UntilClose),
    };
    Ok(verdict(Message { end, content, is_interim }, doubt | unsure))
}

fn verdict(message: Message, doubt: bool) -> Verdict {
    if doubt { Verdict::May(message) } else { Verdict::Must(message) }
}

fn complete(parsed: httparse::Result<usize>) -> Result<usize, Verdict> {
    match parsed {
        Ok(httparse::Status::Complete(len)) => Ok(len),
        Ok(httparse::Status::Partial) => Err(Verdict::Incomplete),
        // More lines than there is room for.
        Err(httparse::Error::TooManyHeaders) => Err(Verdict::Unclear),
        Err(_) => Err(Verdict::Refuse),
    }
}

fn is_crlf_only(head: &[u8]) -> bool {
    (0..head.len()).all(|at| match head[at] {
        b'\r' => head.get(at + 1) == Some(&b'\n'),
        b'\n' => at > 0 && head[at - 1] == b'\r',
        _ => true,
    })
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}

struct Fields<'h>(&'h [httparse::Header<'h>]);

impl<'h> Fields<'h> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'h [u8]> {
        let fields = self.0.iter();
        fields.filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The members of a list over all its lines.
    fn list(&self, name: &str) -> Vec<&'h [u8]> {
        self.all(name).flat_map(|value| value.split(|byte| *byte == b',')).map(trimmed).collect()
    }

    /// The one length; the same one again is open (RFC 9112 §6.3).
    fn length(&self, doubt: &mut bool) -> Result<Option<u64>, Verdict> {
        let members = self.list("content-length");
        *doubt |= members.len() > 1;
        let mut length = None;
        for member in members {
            if member.is_empty() || !member.iter().all(u8::is_ascii_digit) {
                return Err(Verdict::Refuse);
            }
            let text = std::str::from_utf8(member).map_err(|_| Verdict::Refuse)?;
            let number = text.parse().map_err(|_| Verdict::Refuse)?;
            if length.is_some_and(|before: u64| before != number) {
                return Err(Verdict::Refuse);
            }
            length = Some(number);
        }
        Ok(length)
    }

    /// The codings, without the empty members that a list may have; none without the field.
    fn codings(&self) -> Option<Vec<&'h [u8]>> {
        let name = "transfer-encoding";
        let filled = |list: Vec<&'h [u8]>| list.into_iter().filter(|one| !one.is_empty()).collect();
        self.has(name).then(|| filled(self.list(name)))
    }
}

fn trimmed(value: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let start = value.iter().position(|byte| !space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !space(byte)).map_or(start, |at| at + 1);
    &value[start..end]
}

fn counted(bytes: &[u8], body: usize, length: u64) -> Body {
    let left = (bytes.len() - body) as u64;
    if left < length {
        return Err(Verdict::Incomplete);
    }
    let end = body + length as usize;
    Ok((end, bytes[body..end].to_vec(), false))
}

/// The line at `at` without its CRLF, and what follows it.
fn line(bytes: &[u8], at: usize) -> Result<(&[u8], usize), Verdict> {
    let rest = &bytes[at..];
    let Some(len) = rest.iter().position(|byte| *byte == b'\n') else {
        return Err(Verdict::Incomplete);
    };
    let text = rest[..len].strip_suffix(b"\r").ok_or(Verdict::Refuse)?;
    if text.contains(&b'\r') { Err(Verdict::Refuse) } else { Ok((text, at + len + 1)) }
}

/// RFC 9112 §7.1.
fn chunked(bytes: &[u8], body: usize) -> Body {
    let (mut at, mut content, mut doubt) = (body, Vec::new(), false);
    loop {
        let (text, data) = line(bytes, at)?;
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = text.split_at(digits);
        doubt |= check_extension(extension)?;
        // Zeros in front are allowed, and an old way to hide a size.
        doubt |= digits > 16;
        let size = std::str::from_utf8(size).map_err(|_| Verdict::Refuse)?;
        let size = u64::from_str_radix(size, 16).map_err(|_| Verdict::Refuse)?;
        if size == 0 {
            let (end, unsure) = trailers(bytes, data)?;
            return Ok((end, content, doubt | unsure));
        }
        if ((bytes.len() - data) as u64) < size {
            return Err(Verdict::Incomplete);
        }
        let end = data + size as usize;
        content.extend_from_slice(&bytes[data..end]);
        match &bytes[end..bytes.len().min(end + 2)] {
            b"\r\n" => at = end + 2,
            b"\r" | b"" => return Err(Verdict::Incomplete),
            _ => return Err(Verdict::Refuse),
        }
    }
}

/// What stands behind a size: nothing, or extensions, which one need not like.
fn check_extension(text: &[u8]) -> Result<bool, Verdict> {
    let spaces = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let printable = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    match &text[spaces..] {
        [] => Ok(spaces > 0),
        [b';', rest @ ..] if rest.iter().all(printable) => {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'=';
            let sure = rest.len() <= EXTENSION_BYTES_SURE && rest.iter().all(plain);
            Ok(spaces > 0 || !sure)
        }
        _ => Err(Verdict::Refuse),
    }
}

/// RFC 9112 §7.1.2: fields and an empty line.
fn trailers(bytes: &[u8], at: usize) -> Result<(usize, bool), Verdict> {
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let (len, fields) = match httparse::parse_headers(&bytes[at..], &mut room) {
        Ok(httparse::Status::Complete((len, fields))) => (len, fields.len()),
        Ok(httparse::Status::Partial) => return Err(Verdict::Incomplete),
        Err(httparse::Error::TooManyHeaders) => return Err(Verdict::Unclear),
        Err(_) => return Err(Verdict::Refuse),
    };
    if !is_crlf_only(&bytes[at..at + len]) {
        return Err(Verdict::Refuse);
    }
    Ok((at + len, len > TRAILER_BYTES_SURE || fields > FIELDS_SURE))
}
