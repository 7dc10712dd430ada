//! Chunks: following a chunked body byte by byte, and writing chunks.
//! Lengths and line ends are taken strictly, since the bytes are relayed as they came: what this
//! machine and the next hop could read differently must not pass.

use super::trailer::{TrailerError, keep_safe_fields};
use std::ops::Range;

/// Ends the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Ends a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

// 16 hex digits are what u64 holds; more can only be padding or an overflow.
const SIZE_DIGITS_MAX: u8 = 16;

/// The line before the data of a chunk: data, then [`CHUNK_END`], follow.
#[derive(Clone, Copy, Debug)]
pub struct ChunkHead {
    bytes: [u8; SIZE_DIGITS_MAX as usize + 2],
    start: u8,
}

impl ChunkHead {
    /// The line for `len` bytes of data; `len` must not be 0, which would end the body.
    pub fn new(len: usize) -> ChunkHead {
        debug_assert!(len > 0, "a chunk of no bytes ends the body");
        let mut bytes = [0; SIZE_DIGITS_MAX as usize + 2];
        let mut start = SIZE_DIGITS_MAX as usize;
        bytes[start..].copy_from_slice(CHUNK_END);
        let mut rest = len;
        while rest > 0 {
            start -= 1;
            bytes[start] = b"0123456789abcdef"[rest & 15];
            rest >>= 4;
        }
        ChunkHead { bytes, start: start as u8 }
    }

    /// The bytes of the line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

/// What is wrong with a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkError {
    /// A chunk line or the end of a chunk is malformed, or has too many extensions.
    Chunk,
    /// The sizes add up to more than allowed.
    TooLarge,
    /// The trailer section is malformed or too large.
    Trailer(TrailerError),
}

/// What a body may cost, and how strict its chunk lines are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkRules {
    pub(super) extension_bytes_max: usize,
    pub(super) trailer_bytes_max: usize,
    pub(super) content_bytes_max: u64,
    /// White space may follow the size: old servers pad it to a fixed width.
    pub(super) padded: bool,
}

/// Where in the body the next byte lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In the size, behind so many of its digits.
    Size(u8),
    /// In white space behind the size.
    Padding,
    /// In the extensions, behind so many of their bytes.
    Extension(u32),
    /// At the LF of a chunk line.
    LineEnd,
    /// In data.
    Data,
    /// At the CR behind data.
    DataCr,
    /// At the LF behind data.
    DataLf,
    /// Behind the last chunk's line.
    Last,
    /// At the LF of the line that ends a body without trailers.
    LastLf,
    /// In the trailer section, which is held back.
    Trailer,
    /// Behind the body.
    Done,
}

/// What one call has covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The last piece of data.
    pub(super) data: Range<usize>,
    /// All bytes used up.
    pub(super) taken: usize,
    /// Of these, the first so many are not held back.
    pub(super) forward: usize,
}

/// Follows one chunked body.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    /// The size read so far, then the bytes of data still to come.
    left: u64,
    content: u64,
    rules: ChunkRules,
    trailer: Vec<u8>,
}

impl Chunks {
    pub(super) fn new(rules: ChunkRules) -> Chunks {
        Chunks { at: At::Size(0), left: 0, content: 0, rules, trailer: Vec::new() }
    }

    pub(super) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Bytes of data that the chunk lines so far have announced and that have come.
    pub(super) fn content_bytes(&self) -> u64 {
        self.content
    }

    /// What the held trailer section became; empty if there was none.
    pub(super) fn trailer(&self) -> &[u8] {
        if self.is_done() { &self.trailer } else { &[] }
    }

    /// Goes over `input` to its end or the body's; if `by_piece`, to the end of the next data.
    pub(super) fn step(&mut self, input: &[u8], by_piece: bool) -> Result<Step, ChunkError> {
        let mut step = Step { data: 0..0, taken: 0, forward: 0 };
        while step.taken < input.len() && self.at != At::Done {
            let rest = &input[step.taken..];
            match self.at {
                At::Data => {
                    let len = self.left.min(rest.len() as u64);
                    self.left -= len;
                    self.content += len;
                    step.data = step.taken..step.taken + len as usize;
                    step.taken += len as usize;
                    step.forward = step.taken;
                    if self.left == 0 {
                        self.at = At::DataCr;
                    }
                    if by_piece {
                        return Ok(step);
                    }
                }
                At::Trailer => step.taken += self.hold_trailer(rest)?,
                _ => {
                    self.at = self.after(rest[0])?;
                    if self.at != At::Trailer {
                        step.taken += 1;
                        step.forward = step.taken;
                    }
                }
            }
        }
        if by_piece {
            step.data = step.taken..step.taken;
        }
        Ok(step)
    }

    /// Goes over what is not data, to the next data or the end of the body; the bytes used up.
    pub(super) fn framing(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        let mut taken = 0;
        while taken < input.len() && !matches!(self.at, At::Data | At::Done) {
            let rest = &input[taken..];
            match self.at {
                At::Trailer => taken += self.hold_trailer(rest)?,
                _ => {
                    self.at = self.after(rest[0])?;
                    taken += usize::from(self.at != At::Trailer);
                }
            }
        }
        Ok(taken)
    }

    /// Bytes of data that follow at once.
    pub(super) fn data_left(&self) -> u64 {
        if self.at == At::Data { self.left } else { 0 }
    }

    /// The state behind one byte that is neither data nor in a trailer.
    // Two loops call it for each byte, and a call costs more than it does.
    #[inline(always)]
    fn after(&mut self, byte: u8) -> Result<At, ChunkError> {
        Ok(match (self.at, byte) {
            (At::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F')
                if digits < SIZE_DIGITS_MAX =>
            {
                let digit = char::from(byte).to_digit(16).ok_or(ChunkError::Chunk)?;
                self.left = self.left << 4 | u64::from(digit);
                At::Size(digits + 1)
            }
            (At::Size(1..) | At::Padding | At::Extension(_), b'\r') => At::LineEnd,
            (At::Size(1..) | At::Padding, b';') => At::Extension(0),
            (At::Size(1..) | At::Padding, b' ' | b'\t') if self.rules.padded => At::Padding,
            (At::Extension(len), b'\t' | b' '..=b'~' | 0x80..)
                if (len as usize) < self.rules.extension_bytes_max =>
            {
                At::Extension(len + 1)
            }
            (At::LineEnd, b'\n') if self.left == 0 => At::Last,
            (At::LineEnd, b'\n') => {
                let room = self.rules.content_bytes_max.saturating_sub(self.content);
                if self.left > room {
                    return Err(ChunkError::TooLarge);
                }
                At::Data
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size(0),
            (At::Last, b'\r') => At::LastLf,
            (At::Last, _) => At::Trailer,
            (At::LastLf, b'\n') => At::Done,
            _ => return Err(ChunkError::Chunk),
        })
    }

    /// Takes bytes of the trailer section up to a line end, and all of it once it is complete.
    fn hold_trailer(&mut self, rest: &[u8]) -> Result<usize, ChunkError> {
        let len = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        if self.trailer.len() + len > self.rules.trailer_bytes_max {
            return Err(ChunkError::Trailer(TrailerError::TooLarge));
        }
        self.trailer.extend_from_slice(&rest[..len]);
        if self.trailer.ends_with(b"\r\n\r\n") {
            keep_safe_fields(&mut self.trailer).map_err(ChunkError::Trailer)?;
            self.at = At::Done;
        } else if self.trailer.ends_with(b"\n") && !self.trailer.ends_with(b"\r\n") {
            return Err(ChunkError::Trailer(TrailerError::Malformed));
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: ChunkRules = ChunkRules {
        extension_bytes_max: 8,
        trailer_bytes_max: 64,
        content_bytes_max: 1 << 40,
        padded: false,
    };

    /// Data, taken, forwarded bytes and trailer of a body that comes whole, then byte by byte.
    fn read(rules: ChunkRules, body: &[u8]) -> Result<(Vec<u8>, Vec<u8>, usize, bool), ChunkError> {
        let whole = read_in(rules, body, body.len().max(1));
        let single = read_in(rules, body, 1);
        assert_eq!(whole, single, "{:?}", String::from_utf8_lossy(body));
        whole
    }

    fn read_in(
        rules: ChunkRules,
        body: &[u8],
        size: usize,
    ) -> Result<(Vec<u8>, Vec<u8>, usize, bool), ChunkError> {
        let (mut raw, mut by_piece) = (Chunks::new(rules), Chunks::new(rules));
        let (mut sent, mut data, mut taken) = (Vec::new(), Vec::new(), 0);
        for part in body.chunks(size) {
            let step = raw.step(part, false)?;
            sent.extend_from_slice(&part[..step.forward]);
            taken += step.taken;
            let mut rest = part;
            while !rest.is_empty() && !by_piece.is_done() {
                let step = by_piece.step(rest, true)?;
                assert!(step.taken > 0);
                data.extend_from_slice(&rest[step.data.clone()]);
                rest = &rest[step.taken..];
            }
        }
        sent.extend_from_slice(raw.trailer());
        assert_eq!(raw.is_done(), by_piece.is_done());
        assert_eq!(raw.content_bytes(), data.len() as u64);
        Ok((data, sent, taken, raw.is_done()))
    }

    #[test]
    fn data_is_found_and_the_body_passes_unchanged() {
        for (body, data) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("5\r\nhello\r\n6\r\n world\r\n000\r\n\r\n", "hello world"),
            ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
            ("0000000000000001\r\nx\r\n0\r\n\r\n", "x"),
            ("1;a=b\r\nx\r\n0;c\r\n\r\n", "x"),
            ("1;a=\"; \"\r\nx\r\n0\r\n\r\n", "x"),
            ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
            ("1\r\nx\r\n0\r\nGrpc-Status: 0\r\nX: \r\n\r\n", "x"),
        ] {
            let sent = body.as_bytes().to_vec();
            let expected = (data.as_bytes().to_vec(), sent, body.len(), true);
            assert_eq!(read(RULES, body.as_bytes()), Ok(expected), "{body:?}");
        }
    }

    #[test]
    fn bytes_behind_the_body_are_left() {
        let (data, sent, taken, done) = read(RULES, b"1\r\nx\r\n0\r\n\r\nGET /").unwrap();
        assert_eq!(
            (data, sent, taken, done),
            (b"x".to_vec(), b"1\r\nx\r\n0\r\n\r\n".to_vec(), 11, true)
        );
        let (_, _, taken, done) = read(RULES, b"0\r\nA: b\r\n\r\n\r\n").unwrap();
        assert_eq!((taken, done), (11, true));
    }

    #[test]
    fn a_body_that_ends_early_is_not_done() {
        let body = b"5\r\nhello\r\n0\r\nA: b\r\n\r\n";
        for end in 0..body.len() {
            assert!(!read(RULES, &body[..end]).unwrap().3, "{end}");
        }
    }

    #[test]
    fn a_malformed_chunk_is_refused() {
        for body in [
            "\r\n",
            "x\r\n",
            " 5\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            "5 \r\n",
            "5\t;a\r\n",
            "5\n",
            "5\rx",
            "5\r\r\n",
            ";a\r\n",
            "1\r\nx\n",
            "1\r\nxy",
            "1\r\nx\rz",
            "1\r\nx0\r\n\r\n",
            "1;a\nb",
            "1;a\0\r\n",
            "1;a\x7f\r\n",
            "1;123456789\r\n",
            "0\r\n\rx",
            "0\n",
            "00000000000000001\r\n",
            "10000000000000000\r\n",
            "g\r\n",
            "5 5\r\n",
        ] {
            let body = body.as_bytes();
            let refused = read(RULES, body);
            assert_eq!(refused, Err(ChunkError::Chunk), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn padding_behind_a_size_is_taken_from_servers() {
        let rules = ChunkRules { padded: true, ..RULES };
        let body = b"1  \r\nx\r\n1 \t;a\r\ny\r\n0   \r\n\r\n";
        assert_eq!(read(rules, body).unwrap().0, b"xy");
        assert_eq!(read(rules, b"1 1\r\n"), Err(ChunkError::Chunk));
        assert_eq!(read(rules, b" 1\r\n"), Err(ChunkError::Chunk));
    }

    #[test]
    fn a_size_beyond_the_limit_is_refused_before_its_data() {
        let rules = ChunkRules { content_bytes_max: 4, ..RULES };
        assert!(read(rules, b"4\r\nabcd\r\n0\r\n\r\n").is_ok());
        assert_eq!(read(rules, b"5\r\n"), Err(ChunkError::TooLarge));
        assert_eq!(read(rules, b"4\r\nabcd\r\n1\r\n"), Err(ChunkError::TooLarge));
        assert_eq!(read(RULES, b"ffffffffffffffff\r\n"), Err(ChunkError::TooLarge));
    }

    #[test]
    fn trailers_are_held_back_and_checked() {
        let body = b"0\r\nA: 1\r\nContent-Length: 5\r\nB: 2\r\n\r\n";
        let (_, sent, ..) = read(RULES, body).unwrap();
        assert_eq!(sent, b"0\r\nA: 1\r\nB: 2\r\n\r\n");
        let mut raw = Chunks::new(RULES);
        let step = raw.step(b"0\r\nA: 1", false).unwrap();
        assert_eq!((step.forward, step.taken), (3, 7));
        assert_eq!(raw.trailer(), b"");
        let malformed = Err(ChunkError::Trailer(TrailerError::Malformed));
        for body in ["0\r\nA: 1\n\r\n", "0\r\n: 1\r\n\r\n", "0\r\nA : 1\r\n\r\n", "0\r\n\n\r\n"] {
            assert_eq!(read(RULES, body.as_bytes()), malformed, "{body:?}");
        }
        let large = format!("0\r\nA: {}\r\n\r\n", "x".repeat(64));
        let too_large = Err(ChunkError::Trailer(TrailerError::TooLarge));
        assert_eq!(read(RULES, large.as_bytes()), too_large);
    }

    #[test]
    fn a_chunk_head_is_the_length_in_hex() {
        for len in [1, 9, 10, 15, 16, 255, 16384, usize::MAX] {
            assert_eq!(ChunkHead::new(len).as_bytes(), format!("{len:x}\r\n").as_bytes());
        }
    }
}
