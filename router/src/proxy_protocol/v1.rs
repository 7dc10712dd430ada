//! Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443` and CRLF.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{BadHeader, Ends, Header, Parsed};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The longest line with its end, of two full IPv6 addresses.
const LINE_BYTES_MAX: usize = 107;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, BadHeader> {
    let line = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() < LINE_BYTES_MAX { Ok(Parsed::More) } else { Err(BadHeader::Line) };
    };
    let text = line[SIGNATURE.len()..end].strip_suffix(b"\r").ok_or(BadHeader::Line)?;
    let text = std::str::from_utf8(text).map_err(|_| BadHeader::Line)?;
    let mut words = text.split(' ');
    let ends = match words.next() {
        // The rest of the line is to be ignored then.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(ends::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(ends::<Ipv6Addr>(words)?),
        _ => return Err(BadHeader::Line),
    };
    Ok(Parsed::Header(Header { len: end + 1, ends }))
}

fn ends<'w, A: FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'w str>,
) -> Result<Ends, BadHeader> {
    let mut word = || words.next().ok_or(BadHeader::Line);
    let addr = |text: &str| text.parse::<A>().map_err(|_| BadHeader::Line);
    let (source, destination) = (addr(word()?)?, addr(word()?)?);
    let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
    match words.next() {
        Some(_) => Err(BadHeader::Line),
        None => Ok(Ends {
            source: SocketAddr::new(source.into(), source_port),
            destination: SocketAddr::new(destination.into(), destination_port),
        }),
    }
}

/// Decimal, without a sign and without zeros in front.
fn port(text: &str) -> Result<u16, BadHeader> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_plain || (text.len() > 1 && text.starts_with('0')) {
        return Err(BadHeader::Line);
    }
    text.parse().map_err(|_| BadHeader::Line)
}

pub(super) fn write(ends: &Ends, out: &mut Vec<u8>) {
    let Ends { source, destination } = ends;
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    write!(
        out,
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    )
    .expect("a vector takes everything");
}
