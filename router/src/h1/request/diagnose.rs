//! Why httparse stopped: it names the kind of byte, the client is told which rule it broke.
//! Runs only on a request that is refused, or on one that is not complete.

use crate::h1::field::is_token_byte;
use crate::h1::limits::Limits;
use crate::h1::reason::Reason;

/// The reason for an error in `window`, which may end before the head does.
pub(super) fn diagnose(window: &[u8], error: httparse::Error) -> Reason {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => Reason::TooManyHeaders,
        _ if has_lone_cr(window) => Reason::BadLineEnd,
        Error::Version | Error::NewLine => diagnose_version(window),
        Error::HeaderName => diagnose_name(window),
        Error::HeaderValue => Reason::BadHeaderValue,
        Error::Token | Error::Status => Reason::BadRequestLine,
    }
}

/// Refuses an incomplete head that is already too large.
pub(super) fn diagnose_size(window: &[u8], limits: &Limits) -> Result<(), Reason> {
    if window.len() > limits.target_bytes_max && target_len(window) > limits.target_bytes_max {
        return Err(Reason::UriTooLong);
    }
    if window.len() >= limits.head_bytes_max {
        return Err(Reason::HeadersTooLarge);
    }
    Ok(())
}

/// The length of the target, as far as it is there.
fn target_len(window: &[u8]) -> usize {
    let Some(start) = memchr::memchr(b' ', window) else { return 0 };
    let target = &window[start + 1..];
    memchr::memchr2(b' ', b'\r', target).unwrap_or(target.len())
}

/// A CR in the head before something else than LF.
fn has_lone_cr(window: &[u8]) -> bool {
    let end = memchr::memmem::find(window, b"\r\n\r\n").map_or(window.len(), |at| at + 4);
    memchr::memchr_iter(b'\r', &window[..end])
        .any(|at| window.get(at + 1).is_some_and(|next| *next != b'\n'))
}

fn diagnose_version(window: &[u8]) -> Reason {
    let line = lines(window).next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let version = words.next().unwrap_or_default();
    match version.strip_prefix(b"HTTP/") {
        Some([b'0'..=b'9'] | [b'0'..=b'9', b'.', b'0'..=b'9']) if words.next().is_none() => {
            Reason::UnsupportedVersion
        }
        _ => Reason::BadRequestLine,
    }
}

fn diagnose_name(window: &[u8]) -> Reason {
    for (index, line) in lines(window).skip(1).enumerate() {
        let name = line.iter().take_while(|byte| is_token_byte(**byte)).count();
        match line.get(name) {
            Some(b' ' | b'\t') if name == 0 && index == 0 => return Reason::SpaceBeforeHeader,
            Some(b' ' | b'\t') if name == 0 => return Reason::FoldedHeader,
            Some(b' ' | b'\t') if line[name..].trim_ascii_start().starts_with(b":") => {
                return Reason::SpaceBeforeColon;
            }
            Some(b':') if name > 0 => {}
            _ => return Reason::BadHeaderName,
        }
    }
    Reason::BadHeaderName
}

fn lines(window: &[u8]) -> impl Iterator<Item = &[u8]> {
    window.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}
