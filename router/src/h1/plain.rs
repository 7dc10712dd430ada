//! Heads as almost everybody writes them, read in one pass: `Name: value` and CRLF, names of
//! letters, digits and `-`, values of printable ASCII, one space. Whatever is written otherwise, or is not complete, is left to httparse and
//! the rules behind it: this reader never refuses and never repairs, it only gives up.
//!
//! What it takes, it must take as httparse does; a property holds the two together.

use super::field::{Field, is_token_byte};
use super::head::{HeadScratch, Line};

/// A request head of which every line is plain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlainRequest<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) minor: u8,
    /// Bytes of the head with its empty line.
    pub(super) len: usize,
}

/// A response head of which every line is plain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlainResponse<'a> {
    pub(super) status: u16,
    pub(super) reason: &'a str,
    pub(super) minor: u8,
    /// Bytes of the head with its empty line.
    pub(super) len: usize,
}

/// Reads the request head at the start of `bytes`, and its lines into `scratch`. A head with more
/// lines than `lines_max` is not plain.
pub(super) fn request<'a>(
    bytes: &'a [u8],
    lines_max: usize,
    scratch: &mut HeadScratch,
) -> Option<PlainRequest<'a>> {
    let method_end = until(bytes, |byte| !is_token_byte(byte))?;
    let rest = bytes[method_end..].strip_prefix(b" ")?;
    let target_end = until(rest, |byte| !byte.is_ascii_graphic())?;
    let minor = match rest[target_end..].first_chunk()? {
        b" HTTP/1.1\r\n" => 1,
        b" HTTP/1.0\r\n" => 0,
        _ => return None,
    };
    if method_end == 0 || target_end == 0 {
        return None;
    }
    let start_line = method_end + 1 + target_end + b" HTTP/1.1\r\n".len();
    let len = lines(bytes, start_line, lines_max, scratch)?;
    let method = str::from_utf8(&bytes[..method_end]).ok()?;
    let target = str::from_utf8(&rest[..target_end]).ok()?;
    Some(PlainRequest { method, target, minor, len })
}

/// Reads the response head at the start of `bytes`, and its lines into `scratch`.
pub(super) fn response<'a>(
    bytes: &'a [u8],
    lines_max: usize,
    scratch: &mut HeadScratch,
) -> Option<PlainResponse<'a>> {
    let (start, rest) = bytes.split_first_chunk::<13>()?;
    let minor = match start.first_chunk()? {
        b"HTTP/1.1 " => 1,
        b"HTTP/1.0 " => 0,
        _ => return None,
    };
    let [.., a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' '] = start else {
        return None;
    };
    let status = [a, b, c].into_iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let reason_end = text_len(rest);
    rest[reason_end..].strip_prefix(b"\r\n")?;
    let len = lines(bytes, start.len() + reason_end + 2, lines_max, scratch)?;
    let reason = str::from_utf8(&rest[..reason_end]).ok()?;
    Some(PlainResponse { status, reason, minor, len })
}

/// Reads the lines from `at` to the empty one; the length of the head.
fn lines(head: &[u8], mut at: usize, lines_max: usize, scratch: &mut HeadScratch) -> Option<usize> {
    scratch.begin();
    loop {
        let rest = &head[at..];
        let name_len = name_len(rest);
        if name_len == 0 {
            rest.strip_prefix(b"\r\n")?;
            scratch.end_plain(at);
            return Some(at + 2);
        }
        let value = rest[name_len..].strip_prefix(b": ")?;
        let value_len = text_len(value);
        value[value_len..].strip_prefix(b"\r\n")?;
        let text = &value[..value_len];
        if text.first() == Some(&b' ') || text.last() == Some(&b' ') {
            return None;
        }
        if scratch.lines.len() == lines_max {
            return None;
        }
        let field = Field::of(&rest[..name_len]);
        scratch.lines.push(Line::plain(at, name_len, value_len, field));
        at += name_len + value_len + ": \r\n".len();
    }
}

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// Eight bytes at once, the first one lowest.
type Word = u64;

/// The high bit of each byte that is at least `bound`. Only for bytes below 0x80: then no sum of
/// one byte reaches the next.
const fn at_least(word: Word, bound: u8) -> Word {
    word + ONES * (0x80 - bound as u64)
}

/// The high bit of each byte that is no letter, digit or `-`: names with other bytes are not plain.
fn ends_name(word: Word) -> Word {
    let ascii = word & !HIGHS;
    let lower = ascii | (ONES * 0x20);
    let letter = at_least(lower, b'a') & !at_least(lower, b'z' + 1);
    let digit = at_least(ascii, b'0') & !at_least(ascii, b'9' + 1);
    let other = at_least(ascii ^ (ONES * b'-' as u64), 1);
    (word | (!(letter | digit) & other)) & HIGHS
}

/// The high bit of each byte that is not printable ASCII or a space.
fn ends_text(word: Word) -> Word {
    let ascii = word & !HIGHS;
    (word | !at_least(ascii, b' ') | at_least(ascii, 0x7f)) & HIGHS
}

/// The length of a name at the start.
fn name_len(bytes: &[u8]) -> usize {
    run(bytes, ends_name)
}

/// How many bytes at the start are printable ASCII or spaces.
fn text_len(bytes: &[u8]) -> usize {
    run(bytes, ends_text)
}

/// The bytes before the first that `ends` marks.
#[inline(always)]
fn run(bytes: &[u8], ends: impl Fn(Word) -> Word) -> usize {
    let (words, rest) = bytes.as_chunks();
    for (index, word) in words.iter().enumerate() {
        let marks = ends(Word::from_le_bytes(*word));
        if marks != 0 {
            return index * size_of::<Word>() + (marks.trailing_zeros() / u8::BITS) as usize;
        }
    }
    let ended = rest.iter().position(|byte| ends(Word::from(*byte)) & 0x80 != 0);
    bytes.len() - rest.len() + ended.unwrap_or(rest.len())
}

/// Where the first byte is that ends a word; none if it goes on.
fn until(bytes: &[u8], ends: impl Fn(u8) -> bool) -> Option<usize> {
    bytes.iter().position(|byte| ends(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES_MAX: usize = 8;

    fn check_request(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let mut scratch = HeadScratch::new();
        let Some(ours) = request(bytes, LINES_MAX, &mut scratch) else { return Ok(false) };
        let mut room = [httparse::EMPTY_HEADER; 8];
        let mut theirs = httparse::Request::new(&mut room);
        let len = theirs.parse(bytes);
        prop_assert_eq!(len, Ok(httparse::Status::Complete(ours.len)));
        prop_assert_eq!(theirs.method, Some(ours.method));
        prop_assert_eq!(theirs.path, Some(ours.target));
        prop_assert_eq!(theirs.version, Some(ours.minor));
        let mut expected = HeadScratch::new();
        expected.fill(&bytes[..ours.len], theirs.headers);
        expected.drop_odd_names(&bytes[..ours.len]);
        prop_assert_eq!(format!("{scratch:?}"), format!("{expected:?}"));
        Ok(true)
    }

    fn check_response(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let mut scratch = HeadScratch::new();
        let Some(ours) = response(bytes, LINES_MAX, &mut scratch) else { return Ok(false) };
        let mut room = [httparse::EMPTY_HEADER; 8];
        let mut theirs = httparse::Response::new(&mut room);
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        config.allow_obsolete_multiline_headers_in_responses(true);
        let len = config.parse_response(&mut theirs, bytes);
        prop_assert_eq!(len, Ok(httparse::Status::Complete(ours.len)));
        prop_assert_eq!(theirs.code, Some(ours.status));
        prop_assert_eq!(theirs.reason, Some(ours.reason));
        prop_assert_eq!(theirs.version, Some(ours.minor));
        let mut expected = HeadScratch::new();
        expected.fill(&bytes[..ours.len], theirs.headers);
        expected.look_for_folds(&bytes[..ours.len]);
        prop_assert_eq!(format!("{scratch:?}"), format!("{expected:?}"));
        Ok(true)
    }

    #[test]
    fn what_browsers_and_servers_send_is_plain() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "POST /x?y HTTP/1.0\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nX-1: v\r\nEmpty: \r\n\r\n",
            "M-SEARCH http://a/ HTTP/1.1\r\n\r\n",
        ] {
            assert!(check_request(head.as_bytes()).unwrap(), "{head:?}");
        }
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.0 404 Not Found\r\n\r\n",
            "HTTP/1.1 204 \r\nX-a: b\r\n\r\n",
        ] {
            assert!(check_response(head.as_bytes()).unwrap(), "{head:?}");
        }
    }

    #[test]
    fn a_run_ends_where_its_first_other_byte_stands() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                let mut bytes = [b'a'; 20];
                bytes[at] = byte;
                let plain = byte.is_ascii_alphanumeric() || byte == b'-';
                assert_eq!(name_len(&bytes), if plain { 20 } else { at }, "{byte} {at}");
                let plain = byte.is_ascii_graphic() || byte == b' ';
                assert_eq!(text_len(&bytes), if plain { 20 } else { at }, "{byte} {at}");
            }
        }
    }

    #[test]
    fn what_is_odd_or_not_complete_is_left_to_others() {
        let whole = "GET / HTTP/1.1\r\nHost: a.test\r\nA: b\r\n\r\n";
        for end in 0..whole.len() {
            assert!(!check_request(&whole.as_bytes()[..end]).unwrap(), "{end}");
        }
        for head in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost:a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:  a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n",
            "GET / HTTP/1.1\r\n: a\r\n\r\n",
            "GET / HTTP/1.1\r\nX_a: b\r\n\r\n",
            "GET / HTTP/1.1\r\nX.a: b\r\n\r\n",
            "GET / HTTP/1.1\r\nX!a: b\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\n\r\n",
            " / HTTP/1.1\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(!check_request(head.as_bytes()).unwrap(), "{head:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(9));
        assert!(!check_request(many.as_bytes()).unwrap());
        for head in [
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 99 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.1 200 OK\n\r\n",
        ] {
            assert!(!check_response(head.as_bytes()).unwrap(), "{head:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Mostly plain, with every odd byte anywhere.
        #[test]
        fn a_request_is_read_as_httparse_reads_it(
            start in "(GET|PO_ST|) ?(/[a-z%~]{0,20}|\\*) HTTP/1\\.[01]\r?\n",
            lines in "([A-Za-z0-9_.!-]{1,20}:[ \t]?[ -~\t\r\n\u{7f}\u{e9}]{0,40}\r\n){0,9}",
            end in "\r?\n[a-z]{0,3}",
        ) {
            check_request(format!("{start}{lines}{end}").as_bytes())?;
        }

        #[test]
        fn a_response_is_read_as_httparse_reads_it(
            start in "HTTP/1\\.[01] [0-9]{3} ?[ -~]{0,20}\r?\n",
            lines in "([A-Za-z0-9_.!-]{1,20} ?:[ \t]?[ -~\t\r\n\u{7f}\u{e9}]{0,40}\r\n){0,9}",
            end in "\r?\n[a-z]{0,3}",
        ) {
            check_response(format!("{start}{lines}{end}").as_bytes())?;
        }
    }
}
