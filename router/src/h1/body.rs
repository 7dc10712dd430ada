//! The framing of one body as a state machine, and how far its bytes may be relayed.

use super::limits::Limits;
use super::reason::Reason;
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
#[derive(Debug)]
pub struct BodyState {}

impl BodyState {
    /// A request body; its errors are 4xx.
    pub fn request(framing: BodyFraming, limits: &Limits) -> BodyState {
        todo!()
    }
    /// A response body; its errors are `Upstream...` and mean that the client is cut.
    pub fn response(framing: BodyFraming, limits: &Limits) -> BodyState {
        todo!()
    }
    /// Checks the next bytes and says how many may be relayed unchanged.
    pub fn feed(&mut self, input: &[u8]) -> Result<Progress, Reason> {
        todo!()
    }
    /// Like `feed`, but yields the content without its framing, one piece a call.
    pub fn decode(&mut self, input: &[u8]) -> Result<Payload, Reason> {
        todo!()
    }
    /// The sender closed: the end of a `Close` body, an error in any other that is not done.
    pub fn close(&mut self) -> Result<(), Reason> {
        todo!()
    }
    /// Bytes to send after the last forwarded ones once a fed body is done (the checked trailer section; usually empty).
    pub fn tail(&self) -> &[u8] {
        todo!()
    }
    /// The body has ended.
    pub fn is_done(&self) -> bool {
        todo!()
    }
    /// Bytes of content so far, without framing.
    pub fn content_bytes(&self) -> u64 {
        todo!()
    }
}
