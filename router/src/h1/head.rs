//! The lines of a parsed head as offsets, and copying them in the fewest pieces.
//! Knows lines and what their names mean, not what a request or a response is.

use super::field::{Field, is_odd_name, members};

// A peer that lists more options than this in `Connection` is not honest: RFC 9110 names six.
const OPTIONS_MAX: usize = 32;

/// Room for one parsed head, reused from message to message; one a thread is enough.
#[derive(Debug, Default)]
pub struct HeadScratch {
    /// The header lines in order.
    pub(super) lines: Vec<Line>,
    /// Where the empty line that ends the head begins.
    pub(super) end: usize,
    /// Every line ends in CRLF, the empty one too.
    pub(super) ends_in_crlf: bool,
    /// Some value is folded over several lines; responses only.
    pub(super) folded: bool,
    /// Names listed by `Connection` that mean nothing to us, as offsets.
    options: Vec<(u32, u32)>,
    /// The host to match on.
    pub(super) host: String,
    /// The path to match on, if it differs from the one sent.
    pub(super) path: String,
}

/// One header line, as offsets into the head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    name: u32,
    name_end: u32,
    value: u32,
    value_end: u32,
    /// Behind the line end.
    end: u32,
    pub(super) field: Field,
    /// It reads `Name: value` and CRLF, without other white space.
    plain: bool,
    /// Not to be sent on, whatever its field.
    pub(super) dropped: bool,
}

impl Line {
    /// A line that reads `Name: value` and CRLF, with its name at `at`.
    pub(super) fn plain(at: usize, name_len: usize, value_len: usize, field: Field) -> Line {
        let name_end = at + name_len;
        let value = name_end + ": ".len();
        let value_end = value + value_len;
        Line {
            name: at as u32,
            name_end: name_end as u32,
            value: value as u32,
            value_end: value_end as u32,
            end: (value_end + "\r\n".len()) as u32,
            field,
            plain: true,
            dropped: false,
        }
    }

    pub(super) fn name<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.name as usize..self.name_end as usize]
    }

    pub(super) fn value<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        &head[self.value as usize..self.value_end as usize]
    }
}

/// What the `Connection` headers of a message say of the connection itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

/// More connection options than we keep.
#[derive(Debug)]
pub(super) struct TooManyOptions;

impl HeadScratch {
    /// Empty scratch; it grows to what the largest head so far needed.
    pub fn new() -> HeadScratch {
        HeadScratch::default()
    }

    /// Forgets the head of before.
    pub(super) fn begin(&mut self) {
        self.lines.clear();
        self.options.clear();
        self.folded = false;
    }

    /// All lines are in, each of them plain; the empty one is at `end`.
    pub(super) fn end_plain(&mut self, end: usize) {
        self.end = end;
        self.ends_in_crlf = true;
    }

    /// Takes over the lines that httparse found in `head`.
    pub(super) fn fill(&mut self, head: &[u8], headers: &[httparse::Header<'_>]) {
        self.begin();
        self.end = head.len() - if head.ends_with(b"\r\n") { 2 } else { 1 };
        let base = head.as_ptr() as usize;
        let start_of = |index: usize| match headers.get(index) {
            Some(header) => header.name.as_ptr() as usize - base,
            None => self.end,
        };
        let mut name = start_of(0);
        // httparse takes a lone LF for a line end and has refused a lone CR, so the two bytes
        // before each line tell how the one before it ended.
        self.ends_in_crlf = head.ends_with(b"\r\n") && head[..name].ends_with(b"\r\n");
        for (index, header) in headers.iter().enumerate() {
            let name_end = name + header.name.len();
            let value = header.value.as_ptr() as usize - base;
            let value_end = value + header.value.len();
            let end = start_of(index + 1);
            debug_assert!(name < value && value_end < end && end < head.len());
            let crlf = head[..end].ends_with(b"\r\n");
            self.ends_in_crlf &= crlf;
            self.lines.push(Line {
                name: name as u32,
                name_end: name_end as u32,
                value: value as u32,
                value_end: value_end as u32,
                end: end as u32,
                field: Field::of(header.name.as_bytes()),
                plain: crlf && value_end + 2 == end && head[name_end..value] == *b": ",
                dropped: false,
            });
            name = end;
        }
    }

    /// Finds out whether a value is folded: then there are more line ends than lines.
    pub(super) fn look_for_folds(&mut self, head: &[u8]) {
        self.folded = memchr::memchr_iter(b'\n', head).count() > self.lines.len() + 2;
    }

    /// The offset behind the start line.
    pub(super) fn start_line_end(&self) -> usize {
        self.lines.first().map_or(self.end, |line| line.name as usize)
    }

    /// No white space but one space before it stands around the value of a line.
    pub(super) fn is_tight(&self, head: &[u8], index: usize) -> bool {
        let line = &self.lines[index];
        let bare = line.name_end + 1 == line.value && line.value_end + 2 == line.end;
        line.plain || (bare && head[..line.end as usize].ends_with(b"\r\n"))
    }

    /// Notes what a `Connection` value lists. Names that we own or that belong to the recipient
    /// are not options, whatever the sender says: taking them out would let it undo our work.
    pub(super) fn note_options(
        &mut self,
        head: &[u8],
        value: &[u8],
        options: &mut Options,
    ) -> Result<(), TooManyOptions> {
        // The only one that most clients send.
        if value.eq_ignore_ascii_case(b"keep-alive") {
            options.keep_alive = true;
            return Ok(());
        }
        for option in members(value) {
            let is = |known: &[u8]| option.eq_ignore_ascii_case(known);
            if is(b"keep-alive") {
                options.keep_alive = true;
            } else if is(b"close") {
                options.close = true;
            } else if is(b"upgrade") {
                options.upgrade = true;
            } else if !option.is_empty() && Field::of(option) == Field::Other {
                if self.options.len() == OPTIONS_MAX {
                    return Err(TooManyOptions);
                }
                let at = (option.as_ptr() as usize - head.as_ptr() as usize) as u32;
                self.options.push((at, at + option.len() as u32));
            }
        }
        Ok(())
    }

    /// Drops the lines that the noted options name.
    pub(super) fn drop_options(&mut self, head: &[u8]) {
        if self.options.is_empty() {
            return;
        }
        for line in self.lines.iter_mut().filter(|line| line.field == Field::Other) {
            let name = line.name(head);
            line.dropped |= self
                .options
                .iter()
                .any(|(from, to)| name.eq_ignore_ascii_case(&head[*from as usize..*to as usize]));
        }
    }

    /// Drops the lines whose name has `_` or `.`; no known name has one.
    pub(super) fn drop_odd_names(&mut self, head: &[u8]) {
        for line in &mut self.lines {
            line.dropped |= line.field == Field::Other && is_odd_name(line.name(head));
        }
    }

    /// The first line of this name that is not dropped.
    pub(super) fn find<'a>(&self, head: &'a [u8], name: &str) -> Option<&'a [u8]> {
        self.lines
            .iter()
            .find(|line| !line.dropped && line.name(head).eq_ignore_ascii_case(name.as_bytes()))
            .map(|line| line.value(head))
    }
}

/// Copies lines of a head to an output; neighbours go in one piece.
pub(super) struct Copier<'a, 'o> {
    scratch: &'a HeadScratch,
    head: &'a [u8],
    out: &'o mut Vec<u8>,
    from: usize,
    to: usize,
}

impl<'a, 'o> Copier<'a, 'o> {
    pub(super) fn new(scratch: &'a HeadScratch, head: &'a [u8], out: &'o mut Vec<u8>) -> Self {
        Copier { scratch, head, out, from: 0, to: 0 }
    }

    /// Copies `head[from..to]`.
    pub(super) fn range(&mut self, from: usize, to: usize) {
        if from != self.to {
            self.flush();
            self.from = from;
        }
        self.to = to;
    }

    /// Copies a header line, in its plain form if it is not in it.
    pub(super) fn line(&mut self, index: usize) {
        let line = &self.scratch.lines[index];
        if line.plain && !self.scratch.folded {
            return self.range(line.name as usize, line.end as usize);
        }
        let (name, value) = (line.name(self.head), line.value(self.head));
        let out = self.out();
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        push_unfolded(out, value);
        out.extend_from_slice(b"\r\n");
    }

    /// The output, with everything copied so far in it.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        self.flush();
        self.out
    }

    fn flush(&mut self) {
        self.out.extend_from_slice(&self.head[self.from..self.to]);
        self.from = self.to;
    }
}

/// Appends a value with each fold (a line break and the white space around it) as one space
/// (RFC 9112 §5.2).
fn push_unfolded(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value;
    while let Some(at) = memchr::memchr(b'\n', rest) {
        out.extend_from_slice(rest[..at].trim_ascii_end());
        out.push(b' ');
        rest = rest[at + 1..].trim_ascii_start();
    }
    out.extend_from_slice(rest);
}

/// Appends `Name: value` as a line.
pub(super) fn push_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(head: &[u8]) -> HeadScratch {
        let mut scratch = HeadScratch::new();
        let mut room = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut room);
        let mut config = httparse::ParserConfig::default();
        config.allow_obsolete_multiline_headers_in_responses(true);
        config.allow_spaces_after_header_name_in_responses(true);
        let parsed = config.parse_response(&mut response, head).unwrap();
        assert_eq!(parsed.unwrap(), head.len());
        scratch.fill(head, response.headers);
        scratch.look_for_folds(head);
        scratch
    }

    fn copied(head: &[u8]) -> String {
        let scratch = filled(head);
        let mut out = Vec::new();
        let mut copier = Copier::new(&scratch, head, &mut out);
        copier.range(0, scratch.start_line_end());
        for index in 0..scratch.lines.len() {
            copier.line(index);
        }
        copier.flush();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_lines_are_copied_as_they_are() {
        let head = b"HTTP/1.1 200 OK\r\nA: 1\r\nb-B: two words\r\n\r\n";
        assert_eq!(copied(head), "HTTP/1.1 200 OK\r\nA: 1\r\nb-B: two words\r\n");
    }

    #[test]
    fn white_space_and_folds_become_one_space() {
        let head = b"HTTP/1.1 200 OK\r\nA:1\r\nB :  2\t \r\nC: x \r\n \t y\r\n\tz\r\nD:\r\n\r\n";
        assert_eq!(copied(head), "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nC: x y z\r\nD: \r\n");
        let head = b"HTTP/1.1 200 OK\r\nA: 1 \nB: 2\nC: \n\n";
        assert_eq!(copied(head), "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nC: \r\n");
    }

    #[test]
    fn a_lone_line_feed_is_seen_wherever_it_stands() {
        for (head, clean) in [
            (&b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n\r\n"[..], true),
            (b"HTTP/1.1 200 OK\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\nA: 1\r\nB: 2\r\n\r\n", false),
            (b"HTTP/1.1 200 OK\r\nA: 1\nB: 2\r\n\r\n", false),
            (b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\n\r\n", false),
            (b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n\n", false),
            (b"HTTP/1.1 200 OK\n\n", false),
        ] {
            assert_eq!(filled(head).ends_in_crlf, clean, "{head:?}");
        }
    }

    #[test]
    fn an_option_drops_its_header_but_not_an_owned_or_end_to_end_one() {
        let head = b"HTTP/1.1 200 OK\r\nX-Mine: 1\r\nHost: a\r\nAuthorization: b\r\n\
            X-Forwarded-For: c\r\nx-kept: d\r\n\r\n";
        let mut scratch = filled(head);
        let mut options = Options::default();
        let list = b"HTTP/1.1 x-mine , close,, Host,authorization,X-Forwarded-For, content-length";
        // The option must lie in the head; here the names do.
        scratch.note_options(head, &head[17..23], &mut options).unwrap();
        scratch.note_options(list, &list[17..], &mut options).unwrap();
        assert!(options.close && !options.keep_alive && !options.upgrade);
        assert_eq!(scratch.options.len(), 1);
        scratch.drop_options(head);
        let dropped: Vec<bool> = scratch.lines.iter().map(|line| line.dropped).collect();
        assert_eq!(dropped, [true, false, false, false, false]);
    }

    #[test]
    fn options_are_bounded() {
        let list = vec!["x"; OPTIONS_MAX + 1].join(",");
        let mut scratch = HeadScratch::new();
        let full = &list.as_bytes()[..list.len() - 2];
        assert!(scratch.note_options(full, full, &mut Options::default()).is_ok());
        let mut scratch = HeadScratch::new();
        let over = list.as_bytes();
        assert!(scratch.note_options(over, over, &mut Options::default()).is_err());
    }
}
