//! The head of a response of which the representation changes on the way: it is put in a content
//! coding, or could have been. Knows no codings: only what heads and trailers say of them.

use super::body::BodyFraming;
use super::deliver::{ADDED_BYTES, Deliver, Delivery, Relay};
use super::field::Field;
use super::head::{Copier, push_line};
use super::method::Version;
use super::reason::Reason;
use super::response::{Phase, Response};

/// What the head says of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recode {
    /// The coding that the body will be in.
    pub coding: Option<&'static str>,
    /// `Vary: Accept-Encoding` is added.
    pub vary: bool,
    /// Strong entity tags become weak.
    pub weaken: bool,
}

impl Recode {
    /// Nothing changes.
    pub const NONE: Self = Self { coding: None, vary: false, weaken: false };

    /// Whether the head is the same without it.
    pub fn is_none(&self) -> bool {
        self.coding.is_none() && !self.vary && !self.weaken
    }
}

/// What is true of the bytes as the upstream sends them and of no others: ranges are counted in
/// them, and digests are taken over them (RFC 9530 §2, §3; RFC 3230 and RFC 1864 before it).
const OF_THE_BYTES: [&[u8]; 5] =
    [b"accept-ranges", b"content-digest", b"repr-digest", b"digest", b"content-md5"];

fn is_of_the_bytes(name: &[u8]) -> bool {
    OF_THE_BYTES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

impl Response<'_> {
    /// The length that the head announces.
    pub fn content_length(&self) -> Option<u64> {
        self.length
    }

    /// Whether the body is in a transfer coding beside chunks, which only its receiver undoes.
    pub fn has_transfer_coding(&self) -> bool {
        self.coded
    }

    /// [`Response::write_client`] of a response that changes.
    pub fn write_recoded(
        &self,
        deliver: &Deliver<'_>,
        recode: &Recode,
        out: &mut Vec<u8>,
    ) -> Result<Delivery, Reason> {
        debug_assert!(self.facts.phase == Phase::Final, "only an answer has a representation");
        debug_assert!(recode.coding.is_none() || !self.coded, "its content is not at hand");
        let delivery = match recode.coding {
            Some(_) => self.plan_recoded(deliver),
            None => self.plan(deliver)?,
        };
        out.reserve(self.head.len() + ADDED_BYTES);
        let mut copier = Copier::new(self.scratch, self.head, out);
        self.write_start(&mut copier);
        for (index, line) in self.scratch.lines.iter().enumerate() {
            let keep = !line.dropped
                && match line.field {
                    Field::ContentLength => {
                        recode.coding.is_none() && self.write_length(&mut copier, index)
                    }
                    Field::Other => self.write_other(recode, &mut copier, index),
                    field => deliver.passes(field),
                };
            if keep {
                copier.line(index);
            }
        }
        let out = copier.out();
        if let Some(coding) = recode.coding {
            push_line(out, b"Content-Encoding", coding.as_bytes());
        }
        if recode.vary {
            out.extend_from_slice(b"Vary: Accept-Encoding\r\n");
        }
        self.write_added(deliver, delivery, out);
        out.extend_from_slice(b"\r\n");
        Ok(delivery)
    }

    fn plan_recoded(&self, deliver: &Deliver<'_>) -> Delivery {
        let chunked = deliver.request.version == Version::V11;
        let relay = match self.facts.body {
            BodyFraming::None => Relay::None,
            _ => Relay::Compress { chunked },
        };
        let is_delimited = relay != Relay::Compress { chunked: false };
        Delivery { relay, keep_alive: deliver.keep_alive && is_delimited }
    }

    /// Writes a line that may not be true of the new representation; true if it may be copied.
    fn write_other(&self, recode: &Recode, copier: &mut Copier<'_, '_>, index: usize) -> bool {
        let line = &self.scratch.lines[index];
        let name = line.name(self.head);
        if recode.weaken && name.eq_ignore_ascii_case(b"etag") {
            let value = line.value(self.head);
            if value.starts_with(b"\"") {
                let out = copier.out();
                out.extend_from_slice(b"ETag: W/");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
            // What is no strong tag is a weak one already, or none at all.
            return value.starts_with(b"W/");
        }
        recode.coding.is_none() || !is_of_the_bytes(name)
    }
}

/// Appends a trailer section with its empty line, without what is not true of the new
/// representation.
pub fn write_recoded_trailer(section: &[u8], out: &mut Vec<u8>) {
    for line in section.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !is_of_the_bytes(name) && !name.eq_ignore_ascii_case(b"etag") {
            out.extend_from_slice(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::response::tests::asked;
    use crate::h1::{HeadScratch, Limits, parse_response};

    const GZIP: Recode = Recode { coding: Some("gzip"), vary: true, weaken: true };
    const VARY: Recode = Recode { vary: true, ..Recode::NONE };

    /// The head and the plan; lines are joined by `|` on both sides.
    #[track_caller]
    fn check(request: &str, head: &str, recode: &Recode, expected: &str, plan: (Relay, bool)) {
        let request = asked(request);
        let head = head.replace('|', "\r\n") + "\r\n\r\n";
        let mut scratch = HeadScratch::new();
        let response = parse_response(head.as_bytes(), &mut scratch, &request, &Limits::DEFAULT);
        let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
        let deliver = Deliver {
            request,
            keep_alive: request.keep_alive,
            date,
            request_id: None,
            via: b"",
            line: b"",
        };
        let mut out = Vec::new();
        let delivery =
            response.unwrap().unwrap().write_recoded(&deliver, recode, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.trim_end_matches("\r\n").replace("\r\n", "|"), expected);
        assert_eq!((delivery.relay, delivery.keep_alive), plan);
    }

    const NOW: &str = "GET / HTTP/1.1\r\nHost: a";
    const OLD: &str = "GET / HTTP/1.0\r\nConnection: keep-alive";
    const PLAIN: &str = "HTTP/1.1 200 OK|Date: x|Connection: keep-alive|Content-Length: 9|ETag: \"a\"|accept-ranges: bytes|X: 1";

    #[test]
    fn a_coded_body_has_another_head_and_no_length() {
        let coded = "HTTP/1.1 200 OK|Date: x|ETag: W/\"a\"|X: 1|Content-Encoding: gzip|Vary: Accept-Encoding";
        let chunked = format!("{coded}|Transfer-Encoding: chunked");
        check(NOW, PLAIN, &GZIP, &chunked, (Relay::Compress { chunked: true }, true));
        let closed = format!("{coded}|Connection: close");
        check(OLD, PLAIN, &GZIP, &closed, (Relay::Compress { chunked: false }, false));
        check("HEAD / HTTP/1.1\r\nHost: a", PLAIN, &GZIP, coded, (Relay::None, true));
    }

    #[test]
    fn what_is_not_coded_keeps_all_that_it_says() {
        let head = "HTTP/1.1 200 OK|Date: x|Content-Length: 9|ETag: \"a\"|accept-ranges: bytes|X: 1|Vary: Accept-Encoding";
        check(NOW, PLAIN, &VARY, head, (Relay::Raw, true));
    }

    #[test]
    fn a_tag_that_is_weak_stays_and_one_that_is_none_goes() {
        let weaken = Recode { weaken: true, ..Recode::NONE };
        for (before, after) in [("W/\"a\"", "|ETag: W/\"a\""), ("\"\"", "|ETag: W/\"\""), ("a", "")]
        {
            let head = format!("HTTP/1.1 304 A|Date: x|ETag: {before}");
            check(
                NOW,
                &head,
                &weaken,
                &format!("HTTP/1.1 304 A|Date: x{after}"),
                (Relay::None, true),
            );
        }
    }

    #[test]
    fn a_trailer_keeps_what_does_not_speak_of_the_bytes() {
        let mut out = Vec::new();
        write_recoded_trailer(b"A: 1\r\nRepr-Digest: x\r\netag: \"a\"\r\nB: 2\r\n\r\n", &mut out);
        assert_eq!(out, b"A: 1\r\nB: 2\r\n\r\n");
    }
}
