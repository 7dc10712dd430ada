//! The head of a response as a cache keeps it (RFC 9111 §3.1): as the upstream sent it, without
//! what is of one connection or one request. It is text again, so that what is kept is read and
//! sent on by the code that does so with any response. Knows nothing of when and how long.

use super::field::{Field, push_decimal};
use super::head::{Copier, push_line};
use super::response::Response;

impl Response<'_> {
    /// Appends the head as it is kept, without length and empty line, which
    /// [`end_kept`] appends when the body is there. `date` is for one that has no `Date`.
    pub fn write_kept(&self, date: &[u8; 29], out: &mut Vec<u8>) {
        out.reserve(self.head.len());
        let mut copier = Copier::new(self.scratch, self.head, out);
        self.write_start(&mut copier);
        self.write_kept_lines(&mut copier, |_| true);
        let out = copier.out();
        if !self.dated {
            push_line(out, b"Date", date);
        }
    }

    /// Appends the head of this kept response as a 304 of now changes it (RFC 9111 §3.2), likewise
    /// without length and empty line.
    pub fn write_refreshed(&self, by: &Response<'_>, date: &[u8; 29], out: &mut Vec<u8>) {
        let is_changed = |name: &[u8]| {
            by.headers().any(|(own, _)| own.eq_ignore_ascii_case(name))
                || !by.dated && name.eq_ignore_ascii_case(b"date")
        };
        let mut copier = Copier::new(self.scratch, self.head, out);
        self.write_start(&mut copier);
        self.write_kept_lines(&mut copier, |name| !is_changed(name) || is_of_content(name));
        copier.out();
        let mut copier = Copier::new(by.scratch, by.head, out);
        by.write_kept_lines(&mut copier, |name| !is_of_content(name));
        let out = copier.out();
        if !by.dated {
            push_line(out, b"Date", date);
        }
    }

    /// Appends the head of a 304 that stands for this kept response (RFC 9110 §15.4.5), whole.
    pub fn write_not_modified(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 304 Not Modified\r\n");
        let mut copier = Copier::new(self.scratch, self.head, out);
        self.write_kept_lines(&mut copier, |name| !is_of_content(name));
        copier.out().extend_from_slice(b"\r\n");
    }

    fn write_kept_lines(&self, copier: &mut Copier<'_, '_>, mut wanted: impl FnMut(&[u8]) -> bool) {
        for (index, line) in self.scratch.lines.iter().enumerate() {
            let name = line.name(self.head);
            let keep = !line.dropped
                && match line.field {
                    Field::Connection | Field::Hop | Field::Te | Field::Upgrade => false,
                    Field::TransferEncoding | Field::ContentLength | Field::RequestId => false,
                    _ => !is_of_message(name) && wanted(name),
                };
            if keep {
                copier.line(index);
            }
        }
    }
}

/// Appends what a kept head lacks: the length of its body, if its status may have one.
pub fn end_kept(status: u16, length: usize, out: &mut Vec<u8>) {
    if status != 204 {
        out.extend_from_slice(b"Content-Length: ");
        push_decimal(out, length as u64);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Of this transfer and not of what is kept: the age is told anew each time, and a trailer section
/// is not kept.
fn is_of_message(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"age") || name.eq_ignore_ascii_case(b"trailer")
}

/// What a 304 must not change, because the body stays (RFC 9111 §3.2), and does not have.
fn is_of_content(name: &[u8]) -> bool {
    [&b"content-encoding"[..], b"content-type", b"content-range", b"content-language"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadScratch, Limits, parse_request, parse_response};

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn with(head: &str, scratch: &mut HeadScratch, test: impl FnOnce(&Response<'_>)) {
        let asked = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let limits = Limits::DEFAULT;
        let asked = parse_request(asked, scratch, &limits).unwrap().unwrap().facts();
        let head = format!("{}\n\n", head.trim()).replace('\n', "\r\n");
        test(&parse_response(head.as_bytes(), scratch, &asked, &limits).unwrap().unwrap());
    }

    fn kept(head: &str) -> String {
        let mut out = Vec::new();
        with(head, &mut HeadScratch::new(), |response| response.write_kept(DATE, &mut out));
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    }

    fn refreshed(old: &str, by: &str) -> String {
        let mut out = Vec::new();
        with(old, &mut HeadScratch::new(), |old| {
            with(by, &mut HeadScratch::new(), |by| old.write_refreshed(by, DATE, &mut out));
        });
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn what_is_of_one_connection_or_request_is_not_kept() {
        let head = "HTTP/1.1 200 Fine\nA: 1\nConnection: b, close\nB: 2\nKeep-Alive: timeout=5\n\
            Transfer-Encoding: chunked\nTrailer: C\nAge: 7\nX-Request-Id: 12345678901234567890\n\
            Date: Mon, 07 Nov 1994 08:49:37 GMT\nD: 3";
        assert_eq!(
            kept(head),
            "HTTP/1.1 200 Fine\nA: 1\nDate: Mon, 07 Nov 1994 08:49:37 GMT\nD: 3\n"
        );
        let dated = format!("HTTP/1.1 404 No\nDate: {}\n", str::from_utf8(DATE).unwrap());
        assert_eq!(kept("HTTP/1.0 404 No\nContent-Length: 5"), dated);
    }

    #[test]
    fn it_ends_with_the_length_of_its_body() {
        let mut out = Vec::new();
        end_kept(200, 7, &mut out);
        end_kept(204, 0, &mut out);
        assert_eq!(out, b"Content-Length: 7\r\n\r\n\r\n");
    }

    #[test]
    fn a_304_changes_all_but_what_is_of_the_body() {
        let old = "HTTP/1.1 200 OK\nA: 1\nETag: \"x\"\nContent-Type: a/b\nCache-Control: max-age=1\n\
            Date: Mon, 07 Nov 1994 08:49:37 GMT\nContent-Length: 5\nB: 1";
        let by = "HTTP/1.1 304 Not Modified\nb: 2\nCache-Control: max-age=9\nContent-Type: c/d\n\
            Content-Length: 9\nConnection: close\nC: 3";
        assert_eq!(
            refreshed(old, by),
            "HTTP/1.1 200 OK\nA: 1\nETag: \"x\"\nContent-Type: a/b\nb: 2\n\
             Cache-Control: max-age=9\nC: 3\nDate: Sun, 06 Nov 1994 08:49:37 GMT\n"
        );
    }

    #[test]
    fn a_304_of_ours_has_what_the_answer_has_but_its_content() {
        let head = "HTTP/1.1 200 OK\nETag: \"x\"\nContent-Type: a/b\nContent-Length: 5\nVary: A\n\
            Content-Encoding: gzip\nCache-Control: max-age=1";
        let mut out = Vec::new();
        with(head, &mut HeadScratch::new(), |kept| kept.write_not_modified(&mut out));
        let text = "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nVary: A\r\n\
            Cache-Control: max-age=1\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
