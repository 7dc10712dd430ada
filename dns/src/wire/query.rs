//! A client's query, read strictly.

use super::{HEADER_BYTES, Name, Rcode, WireError, flag, read_name, rtype, u16_at};

/// What a client says of itself in its OPT record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The largest reply it takes by UDP.
    pub(crate) payload: u16,
    /// The version of EDNS; only 0 exists.
    pub(crate) version: u8,
    /// Whether it wants the records of DNSSEC.
    pub(crate) dnssec_ok: bool,
}

/// A query with one question.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    /// The question as it was asked: name, type, class.
    pub(crate) question: &'a [u8],
    /// The name in lower case.
    pub(crate) name: Name,
    pub(crate) qtype: u16,
    pub(crate) qclass: u16,
    pub(crate) edns: Option<Edns>,
}

/// Why there is no query in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// No header: nobody to answer.
    Short,
    /// An answer: to answer it would begin a loop.
    Response,
    /// Answered with this code and nothing but the header.
    Fault { id: u16, flags: u16, rcode: Rcode },
}

impl<'a> Query<'a> {
    /// Reads `message`. Nothing may follow the last record, and a name in the question is plain.
    pub(crate) fn read(message: &'a [u8]) -> Result<Self, Unreadable> {
        let (Some(id), Some(flags), Some(_)) =
            (u16_at(message, 0), u16_at(message, 2), message.get(..HEADER_BYTES))
        else {
            return Err(Unreadable::Short);
        };
        if flags & flag::QR != 0 {
            return Err(Unreadable::Response);
        }
        let fault = |rcode| Unreadable::Fault { id, flags, rcode };
        if flags & flag::OPCODE != 0 {
            return Err(fault(Rcode::NOTIMP));
        }
        Self::read_sections(message, id, flags).map_err(|_| fault(Rcode::FORMERR))
    }

    fn read_sections(message: &'a [u8], id: u16, flags: u16) -> Result<Self, Malformed> {
        let count = |at| u16_at(message, at).ok_or(Malformed);
        if count(4)? != 1 {
            return Err(Malformed);
        }
        let mut name = Name::empty();
        let end = read_name(message, HEADER_BYTES, &mut name)?;
        if end - HEADER_BYTES != name.wire().len() {
            return Err(Malformed);
        }
        let qtype = u16_at(message, end).ok_or(Malformed)?;
        let qclass = u16_at(message, end + 2).ok_or(Malformed)?;
        let question = &message[HEADER_BYTES..end + 4];
        // OPT is a property of a message, never a type to ask for.
        if qtype == rtype::OPT {
            return Err(Malformed);
        }
        let before = u32::from(count(6)?) + u32::from(count(8)?);
        let edns = read_records(message, end + 4, before, u32::from(count(10)?))?;
        Ok(Self { id, flags, question, name, qtype, qclass, edns })
    }
}

struct Malformed;

impl From<WireError> for Malformed {
    fn from(_: WireError) -> Self {
        Self
    }
}

/// Passes over `before` records, looks for OPT in the `additional` ones after them.
fn read_records(
    message: &[u8],
    mut at: usize,
    before: u32,
    additional: u32,
) -> Result<Option<Edns>, Malformed> {
    let mut edns = None;
    let mut owner = Name::empty();
    for index in 0..before + additional {
        let fields = read_name(message, at, &mut owner)?;
        let rtype = u16_at(message, fields).ok_or(Malformed)?;
        let length = usize::from(u16_at(message, fields + 8).ok_or(Malformed)?);
        let end = fields + 10 + length;
        let rdata = message.get(fields + 10..end).ok_or(Malformed)?;
        if rtype == rtype::OPT {
            // RFC 6891 §6.1.1: one, in the additional section, of the root.
            if index < before || edns.is_some() || owner.wire() != [0] || !options_fit(rdata) {
                return Err(Malformed);
            }
            edns = Some(Edns {
                payload: u16_at(message, fields + 2).ok_or(Malformed)?,
                version: message[fields + 5],
                dnssec_ok: message[fields + 6] & 0x80 != 0,
            });
        }
        at = end;
    }
    if at == message.len() { Ok(edns) } else { Err(Malformed) }
}

fn options_fit(mut options: &[u8]) -> bool {
    while !options.is_empty() {
        let Some(length) = u16_at(options, 2) else { return false };
        let Some(rest) = options.get(4 + usize::from(length)..) else { return false };
        options = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\
        \x03wEb\x00\x00\x01\x00\x01\
        \x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x05\x00\x0a\x00\x01x";

    #[test]
    fn a_query_is_read_with_its_options() {
        let query = Query::read(QUERY).unwrap();
        assert_eq!((query.id, query.qtype, query.qclass), (0x1234, rtype::A, 1));
        assert_eq!(query.name.wire(), b"\x03web\x00");
        assert_eq!(query.question, b"\x03wEb\x00\x00\x01\x00\x01");
        assert_eq!(query.edns, Some(Edns { payload: 4096, version: 0, dnssec_ok: true }));
    }

    #[test]
    fn a_query_cut_anywhere_is_silence_or_formerr() {
        for length in 0..QUERY.len() {
            let expected = if length < HEADER_BYTES {
                Unreadable::Short
            } else {
                Unreadable::Fault { id: 0x1234, flags: 0x0100, rcode: Rcode::FORMERR }
            };
            assert_eq!(Query::read(&QUERY[..length]).unwrap_err(), expected, "cut at {length}");
        }
        let longer = [QUERY, b"x"].concat();
        assert!(matches!(Query::read(&longer), Err(Unreadable::Fault { .. })));
    }

    #[test]
    fn what_is_no_query_says_which_answer_it_gets() {
        let formerr = Some(Rcode::FORMERR);
        for (what, at, bytes, expected) in [
            ("a response", 2, &b"\x81"[..], None),
            ("opcode STATUS", 2, b"\x10", Some(Rcode::NOTIMP)),
            ("opcode NOTIFY", 2, b"\x20", Some(Rcode::NOTIMP)),
            ("opcode UPDATE", 2, b"\x28", Some(Rcode::NOTIMP)),
            ("no question", 4, b"\x00\x00", formerr),
            ("two questions", 4, b"\x00\x02", formerr),
            ("a record that is not there", 6, b"\x00\x01", formerr),
            ("a pointer as the name", 12, b"\xc0\x0c", formerr),
            ("a pointer into the header", 12, b"\xc0\x00", formerr),
            ("OPT asked for", 17, b"\x00\x29", formerr),
            ("OPT of a name", 21, b"\x01", formerr),
            ("an option beyond its record", 34, b"\x00\x02", formerr),
        ] {
            let mut message = QUERY.to_vec();
            message[at..at + bytes.len()].copy_from_slice(bytes);
            match (Query::read(&message).unwrap_err(), expected) {
                (Unreadable::Response, None) => {}
                (Unreadable::Fault { rcode, .. }, Some(expected)) if rcode == expected => {}
                (other, _) => panic!("{what}: {other:?}"),
            }
        }
    }

    #[test]
    fn two_opt_records_are_one_too_many() {
        let opt = &QUERY[21..];
        let mut message = [QUERY, opt].concat();
        message[11] = 2;
        assert!(matches!(Query::read(&message), Err(Unreadable::Fault { .. })));
    }
}
