//! The framing of one body as a state machine, and how far its bytes may be relayed.
//! Knows nothing of buffers: bytes are looked at where they lie, and only trailers are held.

use super::chunk::{ChunkError, ChunkRules, Chunks};
use super::limits::Limits;
use super::reason::Reason;
use super::trailer::TrailerError;
use std::ops::Range;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// Exactly so many bytes; never 0.
    Length(u64),
    /// Chunks, a last chunk and a trailer section.
    Chunked,
    /// Until the sender closes; responses only.
    Close,
}

/// What [`BodyState::feed`] made of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Send `input[..forward]` as it is; then, if `done`, [`BodyState::tail`].
    pub forward: usize,
    /// Bytes used up, at least `forward`; what lies behind them belongs to the next message.
    pub taken: usize,
    /// The body has ended.
    pub done: bool,
}

/// What [`BodyState::decode`] made of its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Where in the input the content lies, without framing; may be empty.
    pub data: Range<usize>,
    /// Bytes used up; call again with the rest until it is empty or `done`.
    pub taken: usize,
    /// The body has ended.
    pub done: bool,
}

/// Follows one body from its first byte to its last.
///
/// Bytes that arrive behind the end of a response's body belong to no response: the upstream
/// connection must then not be reused.
#[derive(Debug)]
pub struct BodyState {
    side: Side,
    state: State,
    content: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

#[derive(Debug)]
enum State {
    Done,
    Length(u64),
    Chunked(Chunks),
    Close,
}

impl BodyState {
    /// Follows the body of a request; its errors are those of the client.
    pub fn request(framing: BodyFraming, limits: &Limits) -> BodyState {
        debug_assert!(framing != BodyFraming::Close, "a request never ends with its connection");
        BodyState::new(Side::Request, framing, limits)
    }

    /// Follows the body of a response; its errors are `Upstream...`, and the client is cut.
    pub fn response(framing: BodyFraming, limits: &Limits) -> BodyState {
        BodyState::new(Side::Response, framing, limits)
    }

    fn new(side: Side, framing: BodyFraming, limits: &Limits) -> BodyState {
        let state = match framing {
            BodyFraming::None | BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(len) => State::Length(len),
            BodyFraming::Chunked => State::Chunked(Chunks::new(ChunkRules {
                extension_bytes_max: limits.chunk_extension_bytes_max,
                trailer_bytes_max: limits.trailer_bytes_max,
                content_bytes_max: match side {
                    Side::Request => limits.body_bytes_max,
                    Side::Response => u64::MAX,
                },
                padded: side == Side::Response,
            })),
            BodyFraming::Close => State::Close,
        };
        BodyState { side, state, content: 0 }
    }

    /// Checks the next bytes and says how many may be relayed unchanged.
    pub fn feed(&mut self, input: &[u8]) -> Result<Progress, Reason> {
        let (forward, taken) = match &mut self.state {
            State::Chunked(chunks) => {
                let step = chunks.step(input, false).map_err(|error| self.side.reason(error))?;
                (step.forward, step.taken)
            }
            _ => {
                let len = self.count(input.len());
                (len, len)
            }
        };
        Ok(Progress { forward, taken, done: self.is_done() })
    }

    /// Like `feed`, but yields the content without its framing, one piece a call.
    pub fn decode(&mut self, input: &[u8]) -> Result<Payload, Reason> {
        let (data, taken) = match &mut self.state {
            State::Chunked(chunks) => {
                let step = chunks.step(input, true).map_err(|error| self.side.reason(error))?;
                (step.data, step.taken)
            }
            _ => {
                let len = self.count(input.len());
                (0..len, len)
            }
        };
        Ok(Payload { data, taken, done: self.is_done() })
    }

    /// Goes over framing, to the next content or the end of the body; the bytes used up.
    pub(crate) fn framing(&mut self, input: &[u8]) -> Result<usize, Reason> {
        match &mut self.state {
            State::Chunked(chunks) => {
                chunks.framing(input).map_err(|error| self.side.reason(error))
            }
            _ => Ok(0),
        }
    }

    /// Bytes of content that follow at once.
    pub(crate) fn content_left(&self) -> u64 {
        match &self.state {
            State::Done => 0,
            State::Length(left) => *left,
            State::Chunked(chunks) => chunks.data_left(),
            State::Close => u64::MAX,
        }
    }

    /// Counts bytes of a body without chunks, and says how many of `len` belong to it.
    fn count(&mut self, len: usize) -> usize {
        let taken = match &mut self.state {
            State::Length(left) => {
                let taken = (*left).min(len as u64);
                *left -= taken;
                if *left == 0 {
                    self.state = State::Done;
                }
                taken as usize
            }
            State::Close => len,
            State::Done | State::Chunked(_) => 0,
        };
        self.content += taken as u64;
        taken
    }

    /// The sender closed: the end of a `Close` body, an error in any other that is not done.
    pub fn close(&mut self) -> Result<(), Reason> {
        if matches!(self.state, State::Close) {
            self.state = State::Done;
        }
        match self.side {
            _ if self.is_done() => Ok(()),
            Side::Request => Err(Reason::ClientBodyCut),
            Side::Response => Err(Reason::UpstreamBodyCut),
        }
    }

    /// Bytes to send behind the forwarded ones once a body fed with `feed` is done: its checked
    /// trailer section, and mostly nothing.
    pub fn tail(&self) -> &[u8] {
        match &self.state {
            State::Chunked(chunks) => chunks.trailer(),
            _ => &[],
        }
    }

    /// The body has ended.
    pub fn is_done(&self) -> bool {
        match &self.state {
            State::Done => true,
            State::Chunked(chunks) => chunks.is_done(),
            State::Length(_) | State::Close => false,
        }
    }

    /// Bytes of content so far, without framing.
    pub fn content_bytes(&self) -> u64 {
        match &self.state {
            State::Chunked(chunks) => chunks.content_bytes(),
            _ => self.content,
        }
    }
}

impl Side {
    fn reason(self, error: ChunkError) -> Reason {
        match (self, error) {
            (Side::Response, _) => Reason::UpstreamBadChunk,
            (Side::Request, ChunkError::Chunk) => Reason::BadChunk,
            (Side::Request, ChunkError::TooLarge) => Reason::BodyTooLarge,
            (Side::Request, ChunkError::Trailer(TrailerError::Malformed)) => Reason::BadTrailer,
            (Side::Request, ChunkError::Trailer(TrailerError::TooLarge)) => Reason::TrailerTooLarge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(forward: usize, taken: usize, done: bool) -> Result<Progress, Reason> {
        Ok(Progress { forward, taken, done })
    }

    #[test]
    fn a_body_with_a_length_ends_after_so_many_bytes() {
        let mut body = BodyState::request(BodyFraming::Length(5), &Limits::DEFAULT);
        assert_eq!(body.feed(b"abc"), progress(3, 3, false));
        assert_eq!(body.feed(b""), progress(0, 0, false));
        assert_eq!(body.close(), Err(Reason::ClientBodyCut));
        assert_eq!(body.feed(b"deGET /"), progress(2, 2, true));
        assert_eq!(body.feed(b"GET /"), progress(0, 0, true));
        assert_eq!((body.content_bytes(), body.close()), (5, Ok(())));
    }

    #[test]
    fn no_body_takes_nothing() {
        for framing in [BodyFraming::None, BodyFraming::Length(0)] {
            let mut body = BodyState::response(framing, &Limits::DEFAULT);
            assert!(body.is_done());
            assert_eq!(body.feed(b"x"), progress(0, 0, true));
            assert_eq!(body.decode(b"x"), Ok(Payload { data: 0..0, taken: 0, done: true }));
        }
    }

    #[test]
    fn only_a_close_delimited_body_ends_well_with_the_connection() {
        let mut body = BodyState::response(BodyFraming::Close, &Limits::DEFAULT);
        assert_eq!(body.feed(b"abc"), progress(3, 3, false));
        assert_eq!((body.close(), body.is_done()), (Ok(()), true));
        let mut body = BodyState::response(BodyFraming::Length(2), &Limits::DEFAULT);
        assert_eq!(body.feed(b"a"), progress(1, 1, false));
        assert_eq!(body.close(), Err(Reason::UpstreamBodyCut));
        let mut body = BodyState::response(BodyFraming::Chunked, &Limits::DEFAULT);
        assert_eq!(body.feed(b"1\r\na\r\n0\r\n"), progress(9, 9, false));
        assert_eq!(body.close(), Err(Reason::UpstreamBodyCut));
        assert_eq!(body.feed(b"\r\n"), progress(2, 2, true));
        assert_eq!(body.close(), Ok(()));
    }

    #[test]
    fn a_fault_is_blamed_on_the_side_that_sent_it() {
        let check = |bytes: &[u8], request, response| {
            let limits = Limits { body_bytes_max: 8, trailer_bytes_max: 16, ..Limits::DEFAULT };
            let mut body = BodyState::request(BodyFraming::Chunked, &limits);
            assert_eq!(body.feed(bytes).err(), request, "{bytes:?}");
            let mut body = BodyState::response(BodyFraming::Chunked, &limits);
            assert_eq!(body.feed(bytes).err(), response, "{bytes:?}");
        };
        let upstream = Some(Reason::UpstreamBadChunk);
        check(b"x\r\n", Some(Reason::BadChunk), upstream);
        check(b"0\r\nx\r\n\r\n", Some(Reason::BadTrailer), upstream);
        check(b"0\r\nx: 12345678901234\r\n", Some(Reason::TrailerTooLarge), upstream);
        check(b"9\r\n", Some(Reason::BodyTooLarge), None);
    }

    #[test]
    fn the_tail_is_the_checked_trailer_section() {
        let mut body = BodyState::request(BodyFraming::Chunked, &Limits::DEFAULT);
        assert_eq!(body.feed(b"0\r\nA: 1\r\nHo"), progress(3, 11, false));
        assert_eq!(body.tail(), b"");
        assert_eq!(body.feed(b"st: x\r\n\r\nGET"), progress(0, 9, true));
        assert_eq!(body.tail(), b"A: 1\r\n\r\n");
    }
}
