//! The wire format of RFC 1035 and RFC 6891: names, questions, records, replies.
//! Knows bytes only: no zone, no cache, no socket.

mod name;
mod query;
mod reply;
mod write;

pub(crate) use name::{NAME_BYTES_MAX, Name, WireError, read_name};
pub(crate) use query::{Edns, Query, Unreadable};
pub use reply::{Reply, ReplyFault};
pub(crate) use write::{Asked, Full, OWNER_OF_QUESTION, Section, Writer, header_only};

/// The header that each message begins with.
pub(crate) const HEADER_BYTES: usize = 12;
/// What a client without EDNS takes by UDP (RFC 1035 §4.2.1).
pub(crate) const UDP_BYTES_MIN: usize = 512;
/// The largest reply by UDP: it fits every path without fragments (DNS flag day 2020).
pub(crate) const UDP_BYTES_MAX: usize = 1232;
/// The largest message by TCP: its length is a 16-bit number.
pub(crate) const TCP_BYTES_MAX: usize = 65_535;
/// An OPT record without options.
pub(crate) const OPT_BYTES: usize = 11;

/// Record types, by the numbers of IANA.
pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const MX: u16 = 15;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const TKEY: u16 = 249;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

/// The one class that is served.
pub(crate) const CLASS_IN: u16 = 1;

/// The flags of the header's second word.
pub(crate) mod flag {
    pub(crate) const QR: u16 = 0x8000;
    pub(crate) const OPCODE: u16 = 0x7800;
    pub(crate) const AA: u16 = 0x0400;
    pub(crate) const TC: u16 = 0x0200;
    pub(crate) const RD: u16 = 0x0100;
    pub(crate) const RA: u16 = 0x0080;
    pub(crate) const CD: u16 = 0x0010;
    pub(crate) const RCODE: u16 = 0x000f;
}

/// A response code, with the upper bits that only EDNS can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rcode(pub u16);

impl Rcode {
    /// Here is the answer, or there is none of that type.
    pub const NOERROR: Self = Self(0);
    /// The query cannot be read.
    pub const FORMERR: Self = Self(1);
    /// No upstream has an answer.
    pub const SERVFAIL: Self = Self(2);
    /// There is no such name.
    pub const NXDOMAIN: Self = Self(3);
    /// This kind of query is not served.
    pub const NOTIMP: Self = Self(4);
    /// This query, or this client, is not served.
    pub const REFUSED: Self = Self(5);
    /// A version of EDNS that is not served (RFC 6891 §6.1.3).
    pub const BADVERS: Self = Self(16);

    /// The code's word in metrics; the rare ones share one.
    pub fn word(self) -> &'static str {
        match self {
            Self::NOERROR => "NOERROR",
            Self::FORMERR => "FORMERR",
            Self::SERVFAIL => "SERVFAIL",
            Self::NXDOMAIN => "NXDOMAIN",
            Self::NOTIMP => "NOTIMP",
            Self::REFUSED => "REFUSED",
            Self::BADVERS => "BADVERS",
            _ => "other",
        }
    }
}

/// A 16-bit number at `at`.
pub(crate) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// A 32-bit number at `at`.
pub(crate) fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?))
}
