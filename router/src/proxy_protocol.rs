//! The PROXY protocol, versions 1 and 2: who the client is, said by a proxy in front before the
//! first byte of the connection. Bytes in, bytes out: whom to believe is somebody else's matter.
//!
//! The specification is HAProxy's `proxy-protocol.txt`. Of version 2 the addresses and the
//! checksum are read; all other extensions (TLVs) are skipped. Written are those that are known. Addresses of UDP and of UNIX
//! sockets say nothing that a TCP connection could have for a client: they count as none.

mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

use portolan_discovery::model::ProxyVersion;

/// The ends of the connection that the proxy in front has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its bytes; what follows is the client's.
    pub len: usize,
    /// None if the connection is the proxy's own (a check, say), or of an unknown kind.
    pub ends: Option<Ends>,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// It takes more of them to tell.
    More,
    /// No header at all.
    Absent,
    /// A header.
    Header(Header),
}

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// A line of version 1 that is not as the specification has it.
    #[error("the line is malformed")]
    Line,
    /// A version or command of version 2 that does not exist.
    #[error("version or command is unknown")]
    Version,
    /// An address family or transport of version 2 that does not exist.
    #[error("address family or transport is unknown")]
    Family,
    /// A length of version 2 that its parts do not fit in, or that is beyond what is taken.
    #[error("the length is too small or too large")]
    Length,
    /// A checksum of version 2 that is not that of the header.
    #[error("the checksum is wrong")]
    Checksum,
}

/// The largest header that is taken; version 1 has at most 107 bytes.
pub const HEADER_BYTES_MAX: usize = 16 + v2::REST_BYTES_MAX;

/// Reads the header at the start of a connection.
///
/// # Errors
/// When it begins as a header and is none. The connection cannot be used then.
pub fn parse(bytes: &[u8]) -> Result<Parsed, BadHeader> {
    for (signature, parse) in [
        (v1::SIGNATURE, v1::parse as fn(&[u8]) -> Result<Parsed, BadHeader>),
        (v2::SIGNATURE, v2::parse),
    ] {
        if bytes.starts_with(signature) {
            return parse(bytes);
        }
        if signature.starts_with(bytes) {
            return Ok(Parsed::More);
        }
    }
    Ok(Parsed::Absent)
}

/// What a header says of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction<'a> {
    /// Its connection. Ends of two families are both written as IPv6.
    pub ends: Ends,
    /// The host that it asked for before it said anything else (SNI). Only in version 2.
    pub authority: Option<&'a str>,
    /// The protocol that was agreed on (ALPN). Only in version 2.
    pub alpn: Option<&'a [u8]>,
}

impl Introduction<'_> {
    /// Only the ends are known.
    pub fn of(ends: Ends) -> Self {
        Self { ends, authority: None, alpn: None }
    }
}

/// Appends a header; that of version 2 has a checksum.
pub fn write(version: ProxyVersion, of: &Introduction<'_>, out: &mut Vec<u8>) {
    let of = Introduction { ends: same_family(of.ends), ..*of };
    match version {
        ProxyVersion::V1 => v1::write(&of.ends, out),
        ProxyVersion::V2 => v2::write(&of, out),
    }
}

fn same_family(ends: Ends) -> Ends {
    let v6 = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port()),
        IpAddr::V6(_) => addr,
    };
    if ends.source.is_ipv4() == ends.destination.is_ipv4() {
        return ends;
    }
    Ends { source: v6(ends.source), destination: v6(ends.destination) }
}

#[cfg(test)]
mod tests;
