//! Methods and versions, as far as they change how a message is framed, retried or answered.

/// The request method; the bytes of an unlisted one are in the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: the response has no body.
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// `PATCH`
    Patch,
    /// `TRACE`
    Trace,
    /// `CONNECT`
    Connect,
    /// Any other token: neither safe nor idempotent as far as we know.
    Other,
}

impl Method {
    /// The method of a token; methods are case-sensitive (RFC 9110 §9.1).
    pub fn of(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"TRACE" => Method::Trace,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }

    /// A proxy may send it again on its own (RFC 9110 §9.2.2).
    pub const fn is_idempotent(self) -> bool {
        !matches!(self, Method::Post | Method::Patch | Method::Connect | Method::Other)
    }

    /// It asks for nothing to be changed (RFC 9110 §9.2.1).
    pub const fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }
}

/// The version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: one request a connection unless asked otherwise, no chunks, no 1xx.
    V10,
    /// HTTP/1.1
    V11,
}

/// A protocol that a connection may be upgraded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upgrade {
    /// `websocket` (RFC 6455), the only token that is let through.
    Websocket,
}

impl Upgrade {
    /// The token as it is written on both sides.
    pub const fn token(self) -> &'static str {
        match self {
            Upgrade::Websocket => "websocket",
        }
    }

    /// The protocol of a token, if it may be forwarded.
    pub fn of(token: &[u8]) -> Option<Upgrade> {
        token.eq_ignore_ascii_case(b"websocket").then_some(Upgrade::Websocket)
    }
}
