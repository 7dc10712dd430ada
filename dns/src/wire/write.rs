//! Writes replies: whole records or none, with the question as it was asked.

use super::{
    CLASS_IN, Edns, HEADER_BYTES, OPT_BYTES, Query, Rcode, TCP_BYTES_MAX, UDP_BYTES_MAX,
    UDP_BYTES_MIN, flag, rtype,
};

/// A pointer to the name of the question, which follows the header.
pub(crate) const OWNER_OF_QUESTION: [u8; 2] = [0xc0, 0x0c];

/// What a client asked, as far as the reply's form depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<Q> {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) edns: Option<Edns>,
    pub(crate) by_tcp: bool,
    /// Name, type and class, in the client's spelling.
    pub(crate) question: Q,
}

impl<'a> Asked<&'a [u8]> {
    pub(crate) fn of(query: &Query<'a>, by_tcp: bool) -> Self {
        Self {
            id: query.id,
            flags: query.flags,
            edns: query.edns,
            by_tcp,
            question: query.question,
        }
    }
}

impl<Q: AsRef<[u8]>> Asked<Q> {
    /// The largest reply that the client takes.
    pub(crate) fn bytes_max(&self) -> usize {
        match self.edns {
            _ if self.by_tcp => TCP_BYTES_MAX,
            Some(edns) => usize::from(edns.payload).clamp(UDP_BYTES_MIN, UDP_BYTES_MAX),
            None => UDP_BYTES_MIN,
        }
    }

    /// The type that was asked for.
    pub(crate) fn qtype(&self) -> u16 {
        let question = self.question.as_ref();
        question.len().checked_sub(4).and_then(|at| super::u16_at(question, at)).unwrap_or(0)
    }
}

/// The record does not fit the client's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The three sections of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// Where a writer can be taken back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    length: usize,
    counts: [u16; 3],
}

/// Writes one reply into a buffer that is used again for the next one.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Room for OPT is kept aside.
    bytes_max: usize,
    counts: [u16; 3],
    after_question: usize,
}

impl<'a> Writer<'a> {
    /// Begins the reply to `asked`.
    pub(crate) fn begin<Q: AsRef<[u8]>>(asked: &Asked<Q>, out: &'a mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&asked.id.to_be_bytes());
        out.extend_from_slice(&[0; HEADER_BYTES - 2]);
        out[5] = 1;
        out.extend_from_slice(asked.question.as_ref());
        let opt = if asked.edns.is_some() { OPT_BYTES } else { 0 };
        Self {
            after_question: out.len(),
            bytes_max: asked.bytes_max().saturating_sub(opt),
            counts: [0; 3],
            out,
        }
    }

    /// Where the next byte goes, as a pointer's target.
    pub(crate) fn position(&self) -> usize {
        self.out.len()
    }

    /// Appends `bytes` if they fit.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if self.out.len() + bytes.len() > self.bytes_max {
            return Err(Full);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Counts `count` records that [`Self::put`] has written whole.
    pub(crate) fn count(&mut self, section: Section, count: u16) {
        self.counts[section as usize] += count;
    }

    /// How many records a section has.
    pub(crate) fn records(&self, section: Section) -> u16 {
        self.counts[section as usize]
    }

    /// Appends one record; `rdata` writes what is specific to its type. On [`Full`] nothing
    /// of it is left.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: &[u8],
        rtype: u16,
        ttl_s: u32,
        rdata: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        let mark = self.mark();
        let written = self.record_parts(owner, rtype, ttl_s, rdata);
        match written {
            Ok(()) => self.count(section, 1),
            Err(Full) => self.rewind(mark),
        }
        written
    }

    fn record_parts(
        &mut self,
        owner: &[u8],
        rtype: u16,
        ttl_s: u32,
        rdata: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        self.put(owner)?;
        let mut fields = [0; 10];
        fields[..2].copy_from_slice(&rtype.to_be_bytes());
        fields[2..4].copy_from_slice(&CLASS_IN.to_be_bytes());
        fields[4..8].copy_from_slice(&ttl_s.to_be_bytes());
        self.put(&fields)?;
        let start = self.out.len();
        rdata(self)?;
        let length = u16::try_from(self.out.len() - start).map_err(|_| Full)?;
        self.out[start - 2..start].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Where it stands.
    pub(crate) fn mark(&self) -> Mark {
        Mark { length: self.out.len(), counts: self.counts }
    }

    /// Takes back everything since `mark`.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.out.truncate(mark.length);
        self.counts = mark.counts;
    }

    /// Writes over the 32-bit number at `at`, which lies after the question.
    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        debug_assert!(at >= self.after_question);
        if let Some(space) = self.out.get_mut(at..at + 4) {
            space.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Takes back all records: the client is told to come by TCP.
    pub(crate) fn truncate(&mut self) {
        self.out.truncate(self.after_question);
        self.counts = [0; 3];
    }

    /// Ends the reply with its OPT record and its header.
    pub(crate) fn finish<Q>(self, asked: &Asked<Q>, rcode: Rcode, flags: u16) {
        let mut additional = self.counts[2];
        if let Some(edns) = asked.edns {
            additional += 1;
            let mut opt = [0; OPT_BYTES];
            opt[1..3].copy_from_slice(&rtype::OPT.to_be_bytes());
            // The cast is exact: 1232 is below 65,536.
            opt[3..5].copy_from_slice(&(UDP_BYTES_MAX as u16).to_be_bytes());
            opt[5] = rcode.0.to_be_bytes()[0] << 4 | rcode.0.to_be_bytes()[1] >> 4;
            opt[7] = u8::from(edns.dnssec_ok) << 7;
            self.out.extend_from_slice(&opt);
        }
        let kept = asked.flags & (flag::RD | flag::CD);
        let word = flag::QR | flag::RA | kept | flags | (rcode.0 & flag::RCODE);
        self.out[2..4].copy_from_slice(&word.to_be_bytes());
        self.out[6..8].copy_from_slice(&self.counts[0].to_be_bytes());
        self.out[8..10].copy_from_slice(&self.counts[1].to_be_bytes());
        self.out[10..12].copy_from_slice(&additional.to_be_bytes());
    }
}

/// The reply to what has no question to repeat: a header with `rcode`.
pub(crate) fn header_only(id: u16, flags: u16, rcode: Rcode, out: &mut Vec<u8>) {
    let kept = flags & (flag::OPCODE | flag::RD | flag::CD);
    let word = flag::QR | flag::RA | kept | (rcode.0 & flag::RCODE);
    out.clear();
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&word.to_be_bytes());
    out.extend_from_slice(&[0; HEADER_BYTES - 4]);
}
