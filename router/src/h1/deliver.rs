//! The head of a response as it is sent to the client, and how its body follows.

use super::reason::Reason;
use super::request::RequestFacts;
use super::response::Response;

/// What the connection adds to a response.
#[derive(Clone, Copy, Debug)]
pub struct Deliver<'a> {
    /// The request that is answered.
    pub request: RequestFacts,
    /// The connection may stay open: the request's `keep_alive`, unless draining or its body was cut short.
    pub keep_alive: bool,
    /// `Date` if the upstream sent none, as in `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub date: &'a [u8; 29],
    /// `X-Request-Id` to answer with, in place of the upstream's.
    pub request_id: Option<&'a str>,
}

/// How the body goes from the upstream to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// No body follows.
    None,
    /// Bytes as [`BodyState::feed`](super::BodyState::feed) passes them; they carry their own framing.
    Raw,
    /// Each piece of the close-delimited body becomes a chunk, its end the last chunk.
    Encode,
    /// The content that [`BodyState::decode`](super::BodyState::decode) yields, then close.
    Decode,
    /// Bytes as they are until the upstream closes, then close.
    UntilClose,
    /// Both directions become a tunnel.
    Tunnel,
}

/// What was promised to the client with the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How the body goes on.
    pub relay: Relay,
    /// The client's connection stays open after this response.
    pub keep_alive: bool,
}

impl Response<'_> {
    /// Appends the head to send to the client (nothing, if it is an interim one and the client speaks HTTP/1.0).
    pub fn write_client(
        &self,
        deliver: &Deliver<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Delivery, Reason> {
        todo!()
    }
}
