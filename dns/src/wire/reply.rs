//! An upstream's reply: checked, and kept in a form that any client's reply is made from.
//!
//! Everything after the question is kept byte for byte, so that types nobody here knows pass
//! through. A client's question is as long as the one that was asked, so pointers stay right.

use std::time::Duration;

use super::{
    Asked, CLASS_IN, Full, HEADER_BYTES, Name, Rcode, Section, WireError, Writer, flag, read_name,
    rtype, u16_at, u32_at,
};

/// Why an upstream's message is not taken for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// Another id or another question: not an answer to this query, perhaps a forged one.
    #[error("it does not belong to the question")]
    Foreign,
    /// The answer is longer than the message; TCP has all of it.
    #[error("it is truncated")]
    Truncated,
    /// It cannot be read.
    #[error("it is malformed: {0}")]
    Malformed(#[from] WireError),
    /// The upstream does not know OPT.
    #[error("the upstream does not know EDNS")]
    NoEdns,
    /// The upstream has no answer, another may have one.
    #[error("it says {}", .0.word())]
    Failed(Rcode),
}

/// A reply without header, question and OPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    rcode: Rcode,
    counts: [u16; 3],
    /// The records.
    tail: Box<[u8]>,
    /// Where in `tail` the TTLs are.
    ttls: Box<[u16]>,
    lifetime: Option<Duration>,
    negative: bool,
    question_bytes: u16,
}

/// Whether two questions are the same: the name in any case, type and class exactly.
fn same(one: &[u8], other: &[u8]) -> bool {
    match (one.split_last_chunk::<4>(), other.split_last_chunk::<4>()) {
        (Some((name, kind)), Some((other_name, other_kind))) => {
            kind == other_kind && name.eq_ignore_ascii_case(other_name)
        }
        _ => false,
    }
}

/// What is learned from walking through the records.
#[derive(Default)]
struct Walk {
    counts: [u16; 3],
    end: usize,
    ttls: Vec<u16>,
    ttl_min: Option<u32>,
    /// The smaller of a SOA's TTL and its minimum, in the authority section.
    soa: Option<u32>,
    soa_ttl_at: Option<usize>,
    has_type: bool,
    rcode_high: u16,
}

impl Reply {
    /// Reads `message` as the answer to `question` (name, type, class) asked under `id`.
    pub fn read(message: &[u8], id: u16, question: &[u8]) -> Result<Self, ReplyFault> {
        let header = message.get(..HEADER_BYTES).ok_or(ReplyFault::Foreign)?;
        let flags = u16::from_be_bytes([header[2], header[3]]);
        if header[..2] != id.to_be_bytes() || flags & flag::QR == 0 || flags & flag::OPCODE != 0 {
            return Err(ReplyFault::Foreign);
        }
        let rcode = Rcode(flags & flag::RCODE);
        let end = HEADER_BYTES + question.len();
        let is_asked = u16_at(message, 4) == Some(1)
            && message.get(HEADER_BYTES..end).is_some_and(|echoed| same(echoed, question));
        if !is_asked {
            // Some servers send nothing but a header when they refuse.
            let is_bare = u16_at(message, 4) == Some(0) && message.len() == HEADER_BYTES;
            return match rcode {
                Rcode::FORMERR | Rcode::NOTIMP if is_bare => Err(ReplyFault::NoEdns),
                Rcode::SERVFAIL | Rcode::REFUSED if is_bare => Err(ReplyFault::Failed(rcode)),
                _ => Err(ReplyFault::Foreign),
            };
        }
        if flags & flag::TC != 0 {
            return Err(ReplyFault::Truncated);
        }
        let qtype = u16_at(question, question.len().saturating_sub(4)).unwrap_or(0);
        let walk = walk(message, end, qtype)?;
        match Rcode(rcode.0 | walk.rcode_high << 4) {
            Rcode::NOERROR | Rcode::NXDOMAIN => {}
            Rcode::FORMERR | Rcode::NOTIMP | Rcode::BADVERS => return Err(ReplyFault::NoEdns),
            other => return Err(ReplyFault::Failed(other)),
        }
        let (lifetime, negative) = (walk.lifetime(rcode), !walk.is_positive(rcode));
        let mut tail: Box<[u8]> = message[end..walk.end].into();
        // RFC 2308 §5: a negative answer lives for the smaller of the SOA's TTL and its
        // minimum, and says so to who caches it next.
        if let (Some(at), Some(ttl)) = (walk.soa_ttl_at, walk.soa) {
            tail[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        let question_bytes = u16::try_from(question.len()).map_err(|_| ReplyFault::Foreign)?;
        Ok(Self {
            rcode,
            counts: walk.counts,
            tail,
            ttls: walk.ttls.into(),
            lifetime,
            negative,
            question_bytes,
        })
    }

    /// The response code.
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// How long it may be kept; `None` is not at all.
    pub fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }

    /// Whether it says that there is no such name, or nothing of that type.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// The memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.tail.len() + size_of_val(&*self.ttls)
    }

    /// Writes the reply to `asked`, `age_s` after it was received.
    pub(crate) fn write<Q: AsRef<[u8]>>(&self, asked: &Asked<Q>, age_s: u32, out: &mut Vec<u8>) {
        debug_assert_eq!(asked.question.as_ref().len(), usize::from(self.question_bytes));
        let mut writer = Writer::begin(asked, out);
        let start = writer.position();
        let truncated = match writer.put(&self.tail) {
            Ok(()) => {
                for at in &self.ttls {
                    let at = usize::from(*at);
                    let ttl = u32_at(&self.tail, at).unwrap_or(0);
                    writer.set_u32(start + at, ttl.saturating_sub(age_s));
                }
                for section in [Section::Answer, Section::Authority, Section::Additional] {
                    writer.count(section, self.counts[section as usize]);
                }
                0
            }
            Err(Full) => flag::TC,
        };
        writer.finish(asked, self.rcode, truncated);
    }
}

impl Walk {
    fn is_positive(&self, rcode: Rcode) -> bool {
        rcode == Rcode::NOERROR && self.has_type
    }

    fn lifetime(&self, rcode: Rcode) -> Option<Duration> {
        // RFC 2308 §5: a negative answer without a SOA is not to be cached.
        if !self.is_positive(rcode) && self.soa.is_none() {
            return None;
        }
        self.ttl_min.filter(|ttl| *ttl > 0).map(|ttl| Duration::from_secs(ttl.into()))
    }
}

fn walk(message: &[u8], start: usize, qtype: u16) -> Result<Walk, WireError> {
    let mut walk = Walk { end: start, ..Walk::default() };
    let mut owner = Name::empty();
    let mut at = start;
    let mut kept = true;
    for section in 0..3 {
        for _ in 0..u16_at(message, 6 + 2 * section).ok_or(WireError::Short)? {
            let fields = read_name(message, at, &mut owner)?;
            let length = usize::from(u16_at(message, fields + 8).ok_or(WireError::Short)?);
            let end = fields + 10 + length;
            if end > message.len() {
                return Err(WireError::Short);
            }
            at = end;
            if u16_at(message, fields) == Some(rtype::OPT) {
                walk.rcode_high = u16::from(message[fields + 4]);
                // What follows OPT is left out with it, so that no pointer's target moves.
                kept = false;
            } else if kept {
                walk.take(message, (start, fields, end), section, qtype)?;
            }
        }
    }
    Ok(walk)
}

impl Walk {
    fn take(
        &mut self,
        message: &[u8],
        (start, fields, end): (usize, usize, usize),
        section: usize,
        qtype: u16,
    ) -> Result<(), WireError> {
        let rtype = u16_at(message, fields).ok_or(WireError::Short)?;
        let ttl = u32_at(message, fields + 4).ok_or(WireError::Short)?;
        // RFC 2181 §8: a TTL with the highest bit set is zero.
        let mut ttl = if ttl >> 31 == 0 { ttl } else { 0 };
        let at = fields + 4 - start;
        self.ttls.push(u16::try_from(at).map_err(|_| WireError::Long)?);
        self.counts[section] += 1;
        self.end = end;
        let is_in = u16_at(message, fields + 2) == Some(CLASS_IN);
        self.has_type |= section == 0 && is_in && (rtype == qtype || qtype == rtype::ANY);
        if section == 1 && rtype == rtype::SOA && self.soa.is_none() {
            let minimum = end.checked_sub(4).filter(|at| *at >= fields + 10);
            let minimum = minimum.and_then(|at| u32_at(message, at)).ok_or(WireError::Short)?;
            ttl = ttl.min(minimum);
            self.soa = Some(ttl);
            self.soa_ttl_at = Some(at);
        }
        self.ttl_min = Some(self.ttl_min.map_or(ttl, |min| min.min(ttl)));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
