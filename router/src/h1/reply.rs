//! Replies of the router itself.

use super::reason::Reason;
use super::request::RequestFacts;

/// The interim response that lets a client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What the form of a local reply depends on.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The request, if its head was understood.
    pub request: Option<RequestFacts>,
    /// The connection stays open after the reply.
    pub keep_alive: bool,
    /// The cached `Date`.
    pub date: &'a [u8; 29],
    /// `X-Request-Id`, if there is one.
    pub request_id: Option<&'a str>,
}

/// A complete reply with a text body.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// Seconds for `Retry-After`.
    pub retry_after_s: Option<u32>,
    /// The text; not sent in answer to HEAD.
    pub text: &'a str,
}

/// Appends a complete reply that names the reason.
pub fn write_error(reason: Reason, client: &Client<'_>, out: &mut Vec<u8>) {
    todo!()
}

/// Appends a complete reply.
pub fn write_reply(reply: &Reply<'_>, client: &Client<'_>, out: &mut Vec<u8>) {
    todo!()
}
