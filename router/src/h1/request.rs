//! Request heads.

use super::body::BodyFraming;
use super::head::HeadScratch;
use super::limits::Limits;
use super::method::{Method, Upgrade, Version};
use super::reason::Reason;
use super::target::TargetForm;

/// What the connection must remember of a request once its head has been sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The method.
    pub method: Method,
    /// The client's version.
    pub version: Version,
    /// How the end of the body is found.
    pub body: BodyFraming,
    /// The client wants to send another request on this connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub expect_continue: bool,
    /// The protocol the client asks to switch to.
    pub upgrade: Option<Upgrade>,
    /// `Max-Forwards` of a TRACE or OPTIONS; at 0 it must be answered here (RFC 9110 §7.6.2).
    pub max_forwards: Option<u32>,
}

/// A parsed request head, borrowed from the buffer it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    scratch: &'a HeadScratch,
    buf: &'a [u8],
    facts: RequestFacts,
}

/// Parses the head at the start of `buf`; `None` means that more bytes are needed.
///
/// After an error the connection has to be closed: where the next request begins is unknown.
pub fn parse_request<'a>(
    buf: &'a [u8],
    scratch: &'a mut HeadScratch,
    limits: &Limits,
) -> Result<Option<Request<'a>>, Reason> {
    todo!()
}

impl<'a> Request<'a> {
    /// Bytes of the buffer that the head occupies; the body follows.
    pub fn head_len(&self) -> usize {
        todo!()
    }
    /// The facts to keep.
    pub fn facts(&self) -> RequestFacts {
        self.facts
    }
    /// The method as sent.
    pub fn method(&self) -> &'a str {
        todo!()
    }
    /// The form of the target.
    pub fn form(&self) -> TargetForm {
        todo!()
    }
    /// The target as sent, for logs.
    pub fn target(&self) -> &'a str {
        todo!()
    }
    /// The host to match on: lower case, no port, no trailing dot, IPv6 in brackets and canonical;
    /// empty if an HTTP/1.0 request names none.
    pub fn host(&self) -> &'a str {
        todo!()
    }
    /// The port of the authority, if it names one.
    pub fn port(&self) -> Option<u16> {
        todo!()
    }
    /// The path to match on: unreserved bytes decoded, dot segments resolved; `/` for `*`.
    pub fn path(&self) -> &'a str {
        todo!()
    }
    /// The query as sent, without its `?`.
    pub fn query(&self) -> Option<&'a str> {
        todo!()
    }
    /// The client's `X-Request-Id`, if it is one to keep (20 to 200 safe characters).
    pub fn request_id(&self) -> Option<&'a str> {
        todo!()
    }
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        todo!()
    }
    /// All headers as sent, in order, without those dropped for their names.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        std::iter::empty()
    }
}
