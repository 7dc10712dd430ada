//! The head of a response as it is sent to the client, and how its body follows.

use super::body::BodyFraming;
use super::field::{Field, members, push_decimal};
use super::head::{Copier, push_line};
use super::method::Version;
use super::reason::Reason;
use super::request::RequestFacts;
use super::response::{Phase, Response, is_other_coding};

/// What the connection adds to a response.
#[derive(Clone, Copy, Debug)]
pub struct Deliver<'a> {
    /// The request that is answered.
    pub request: RequestFacts,
    /// The connection may stay open: the request's `keep_alive`, unless the router drains or gives
    /// up on the rest of the request's body.
    pub keep_alive: bool,
    /// `Date` if the upstream sent none, as in `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub date: &'a [u8; 29],
    /// `X-Request-Id` to answer with, in place of the upstream's.
    pub request_id: Option<&'a [u8]>,
    /// The [`Via`](super::Via) line for the upstream's version, whole; empty adds none. Interim
    /// responses go without: a gateway may choose, and they are to be small and early.
    pub via: &'a [u8],
    /// A line more, whole, such as the cookie of a sticky service; empty adds none.
    pub line: &'a [u8],
}

/// How the body goes from the upstream to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// No body follows.
    None,
    /// Bytes as [`BodyState::feed`](super::BodyState::feed) passes them: they have a framing that
    /// the client reads.
    Raw,
    /// Each piece of the close-delimited body becomes a chunk, its end the last chunk.
    Encode,
    /// The content that [`BodyState::decode`](super::BodyState::decode) yields, then close.
    Decode,
    /// Bytes as they are until the upstream closes, then close.
    UntilClose,
    /// The content in a content coding, as chunks or until we close.
    Compress {
        /// The client reads chunks.
        chunked: bool,
    },
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

impl Deliver<'_> {
    /// Whether a field other than the length goes to the client.
    #[inline]
    pub(super) fn passes(&self, field: Field) -> bool {
        match field {
            Field::RequestId => self.request_id.is_none(),
            Field::Connection | Field::Hop | Field::Te | Field::Upgrade => false,
            Field::TransferEncoding => false,
            _ => true,
        }
    }
}

// What we add to a typical head, so that the output grows at most once.
pub(super) const ADDED_BYTES: usize = 128;

impl Response<'_> {
    /// Appends the head to send to the client: nothing, if it is an interim one and the client
    /// speaks HTTP/1.0, which has none.
    pub fn write_client(
        &self,
        deliver: &Deliver<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Delivery, Reason> {
        let delivery = self.plan(deliver)?;
        let is_final = self.facts.phase == Phase::Final;
        if self.facts.phase == Phase::Interim && deliver.request.version == Version::V10 {
            return Ok(delivery);
        }
        out.reserve(self.head.len() + ADDED_BYTES);
        let mut copier = Copier::new(self.scratch, self.head, out);
        self.write_start(&mut copier);
        for (index, line) in self.scratch.lines.iter().enumerate() {
            let keep = !line.dropped
                && match line.field {
                    Field::ContentLength => self.write_length(&mut copier, index),
                    field => deliver.passes(field),
                };
            if keep {
                copier.line(index);
            }
        }
        let out = copier.out();
        if is_final {
            self.write_added(deliver, delivery, out);
        } else if let Phase::Switch(upgrade) = self.facts.phase {
            out.extend_from_slice(b"Connection: upgrade\r\n");
            push_line(out, b"Upgrade", upgrade.token().as_bytes());
            out.extend_from_slice(deliver.via);
            out.extend_from_slice(deliver.line);
        }
        out.extend_from_slice(b"\r\n");
        Ok(delivery)
    }

    pub(super) fn plan(&self, deliver: &Deliver<'_>) -> Result<Delivery, Reason> {
        let current = deliver.request.version == Version::V11;
        let coded = self.coded && self.facts.body != BodyFraming::None;
        if coded && !current {
            return Err(Reason::UpstreamBadCoding);
        }
        let relay = match (self.facts.phase, self.facts.body) {
            (Phase::Switch(_), _) => Relay::Tunnel,
            (_, BodyFraming::None) => Relay::None,
            (_, BodyFraming::Length(_)) => Relay::Raw,
            (_, BodyFraming::Chunked) if current => Relay::Raw,
            (_, BodyFraming::Chunked) => Relay::Decode,
            (_, BodyFraming::Close) if current => Relay::Encode,
            (_, BodyFraming::Close) => Relay::UntilClose,
        };
        let delimited = matches!(relay, Relay::None | Relay::Raw | Relay::Encode);
        Ok(Delivery { relay, keep_alive: deliver.keep_alive && delimited })
    }

    pub(super) fn write_start(&self, copier: &mut Copier<'_, '_>) {
        if self.start_as_sent {
            return copier.range(0, self.scratch.start_line_end());
        }
        let out = copier.out();
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(out, u64::from(self.facts.status));
        out.push(b' ');
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the length once and as one number; true if the line may be copied instead.
    pub(super) fn write_length(&self, copier: &mut Copier<'_, '_>, index: usize) -> bool {
        let Some(length) = self.length else { return false };
        let value = self.scratch.lines[index].value(self.head);
        if value.iter().all(u8::is_ascii_digit) {
            return true;
        }
        let out = copier.out();
        out.extend_from_slice(b"Content-Length: ");
        push_decimal(out, length);
        out.extend_from_slice(b"\r\n");
        false
    }

    pub(super) fn write_added(&self, deliver: &Deliver<'_>, delivery: Delivery, out: &mut Vec<u8>) {
        let chunked = match delivery.relay {
            Relay::Raw => self.facts.body == BodyFraming::Chunked,
            relay => matches!(relay, Relay::Encode | Relay::Compress { chunked: true }),
        };
        if chunked {
            out.extend_from_slice(b"Transfer-Encoding: ");
            if self.coded {
                self.write_codings(out);
            }
            out.extend_from_slice(b"chunked\r\n");
        }
        out.extend_from_slice(deliver.via);
        out.extend_from_slice(deliver.line);
        if !self.dated {
            push_line(out, b"Date", deliver.date);
        }
        if let Some(id) = deliver.request_id {
            push_line(out, b"X-Request-Id", id);
        }
        out.extend_from_slice(persistence(deliver.request.version, delivery.keep_alive));
    }

    /// The codings beside `chunked`, with a comma behind each.
    fn write_codings(&self, out: &mut Vec<u8>) {
        let lines = self.scratch.lines.iter();
        for line in lines.filter(|line| line.field == Field::TransferEncoding) {
            for coding in members(line.value(self.head)).filter(|member| is_other_coding(member)) {
                out.extend_from_slice(coding);
                out.extend_from_slice(b", ");
            }
        }
    }
}

/// The `Connection` line to a client, where its version does not say it by itself.
pub(super) fn persistence(version: Version, keep_alive: bool) -> &'static [u8] {
    match (version, keep_alive) {
        (_, false) => b"Connection: close\r\n",
        (Version::V10, true) => b"Connection: keep-alive\r\n",
        (Version::V11, true) => b"",
    }
}

#[cfg(test)]
mod tests;
