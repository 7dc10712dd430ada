//! The head of a request as it is sent to the upstream.

use super::request::Request;

/// The scheme the client used on this listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// What the connection adds to a request.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The client's address as text, without port or brackets; made once a connection.
    pub peer: &'a str,
    /// The peer is a proxy whose `Forwarded` and `X-Forwarded-*` are to be believed.
    pub peer_trusted: bool,
    /// For `X-Forwarded-Proto`.
    pub scheme: Scheme,
    /// For `X-Forwarded-Port`: the port the client connected to.
    pub port: u16,
    /// For `X-Request-Id`: [`Request::request_id`] or a new one.
    pub request_id: &'a str,
    /// For `Host` when an HTTP/1.0 client names none: the address it connected to.
    pub authority_fallback: &'a str,
}

impl Request<'_> {
    /// Appends the head to send to the upstream. It names no instance, so a retry sends the same bytes.
    pub fn write_upstream(&self, forward: &Forward<'_>, out: &mut Vec<u8>) {
        todo!()
    }
}
