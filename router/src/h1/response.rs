//! Response heads.

use super::body::BodyFraming;
use super::head::HeadScratch;
use super::limits::Limits;
use super::method::Upgrade;
use super::reason::Reason;
use super::request::RequestFacts;

/// What kind of response a head begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// 1xx other than 101: relay it and parse another head.
    Interim,
    /// The answer.
    Final,
    /// 101: what follows on both sides is a tunnel.
    Switch(Upgrade),
}

/// What the connection must remember of a response once its head has been sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFacts {
    /// The status code, 100..=999.
    pub status: u16,
    /// The kind of response.
    pub phase: Phase,
    /// How the end of the body is found.
    pub body: BodyFraming,
    /// The upstream connection may be reused once the body is done and nothing follows it.
    pub reusable: bool,
}

/// A parsed response head, borrowed from the buffer it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    scratch: &'a HeadScratch,
    buf: &'a [u8],
    facts: ResponseFacts,
}

/// Parses the head at the start of `buf`, the answer to `request`; `None` means that more bytes are needed.
pub fn parse_response<'a>(
    buf: &'a [u8],
    scratch: &'a mut HeadScratch,
    request: &RequestFacts,
    limits: &Limits,
) -> Result<Option<Response<'a>>, Reason> {
    todo!()
}

impl<'a> Response<'a> {
    /// Bytes of the buffer that the head occupies; the body follows.
    pub fn head_len(&self) -> usize {
        todo!()
    }
    /// The facts to keep.
    pub fn facts(&self) -> ResponseFacts {
        self.facts
    }
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        todo!()
    }
    /// All headers as sent, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        std::iter::empty()
    }
}
