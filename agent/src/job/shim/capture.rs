//! The job's output: cut into lines, stamped, and kept in a bounded number of files.
//!
//! A line in a file is `TIME S TEXT`: RFC 3339 in UTC, `O` or `E` for the stream, and the bytes
//! as the job wrote them. Files are numbered, and a number is never used again, so that a
//! reader that was overtaken finds its way.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use super::super::folder::{self, LogLimits};
use super::super::logs::{file_name, files};
use crate::clock;

/// A longer line is kept in pieces of this size.
pub(super) const PIECE_BYTES_MAX: usize = 16 << 10;
/// Read from the job at a time: what a pipe holds.
const READ_BYTES: usize = 64 << 10;

/// Cuts what a stream says into lines.
#[derive(Default)]
pub(super) struct Splitter {
    rest: Vec<u8>,
}

impl Splitter {
    pub(super) fn feed(&mut self, mut chunk: &[u8], mut line: impl FnMut(&[u8])) {
        while !chunk.is_empty() {
            let room = PIECE_BYTES_MAX - self.rest.len();
            match chunk.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(end) if self.rest.is_empty() => {
                    line(&chunk[..end]);
                    chunk = &chunk[end + 1..];
                }
                Some(end) => {
                    self.rest.extend_from_slice(&chunk[..end]);
                    line(&self.rest);
                    self.rest.clear();
                    chunk = &chunk[end + 1..];
                }
                None if chunk.len() > room => {
                    self.rest.extend_from_slice(&chunk[..room]);
                    line(&self.rest);
                    self.rest.clear();
                    chunk = &chunk[room..];
                }
                None => {
                    self.rest.extend_from_slice(chunk);
                    return;
                }
            }
        }
    }

    /// The last line, if it has no end.
    pub(super) fn finish(&mut self, line: impl FnOnce(&[u8])) {
        if !self.rest.is_empty() {
            line(&self.rest);
            self.rest.clear();
        }
    }
}

/// The files. Output that cannot be kept is counted and let go: a full disk stops no job.
pub(super) struct Sink {
    dir: PathBuf,
    limits: LogLimits,
    number: u64,
    file: Option<File>,
    bytes: u64,
    lost: u64,
}

impl Sink {
    /// Goes on in the newest file.
    pub(super) fn open(dir: &Path, limits: LogLimits) -> Self {
        let number = files(dir).last().copied().unwrap_or(1);
        let mut sink = Self { dir: dir.to_owned(), limits, number, file: None, bytes: 0, lost: 0 };
        if let Err(error) = sink.open_file() {
            eprintln!("output cannot be kept: {error}");
        }
        sink
    }

    /// Lines that were read at one time.
    fn batch(&mut self, stream: u8, now_ms: u64) -> Batch<'_> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
        let stamp = humantime::format_rfc3339_millis(now).to_string();
        let mut batch = Batch { stamp, stream, text: Vec::new(), lines: 0, sink: self };
        if batch.sink.lost > 0 {
            let lost = batch.sink.lost;
            let note = format!("{lost} lines of output were lost: they could not be written");
            compose(&mut batch.text, &batch.stamp, b'E', note.as_bytes());
        }
        batch
    }

    fn write(&mut self, batch: &[u8], lines: u64) {
        match self.try_write(batch) {
            Ok(()) => {
                self.bytes += batch.len() as u64;
                self.lost = 0;
            }
            Err(error) => {
                if self.lost == 0 {
                    eprintln!("output is lost: {error}");
                }
                self.lost += lines;
                // Half a line must not stay; where even that fails, a new file is begun.
                let cut = self.file.as_ref().map(|file| file.set_len(self.bytes));
                if !matches!(cut, Some(Ok(()))) {
                    self.next();
                }
            }
        }
    }

    fn try_write(&mut self, batch: &[u8]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.open_file()?;
        }
        self.file.as_mut().expect("it was opened above").write_all(batch)
    }

    fn open_file(&mut self) -> io::Result<()> {
        folder::make(&self.dir)?;
        let path = self.dir.join(file_name(self.number));
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        self.bytes = file.seek(SeekFrom::End(0))?;
        // A shim that was killed may have left half a line, or a full file.
        let mut last = [b'\n'];
        if self.bytes > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != *b"\n" {
            file.write_all(b"\n")?;
            self.bytes += 1;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Begins the next file and deletes those that are too many.
    fn next(&mut self) {
        self.file = None;
        self.bytes = 0;
        self.number += 1;
        let oldest = (self.number + 1).saturating_sub(self.limits.files_max.max(1));
        for number in files(&self.dir) {
            if number < oldest {
                let _ = folder::remove(&self.dir.join(file_name(number)));
            }
        }
    }
}

/// Lines on their way into a file; dropping it writes them.
struct Batch<'a> {
    stamp: String,
    stream: u8,
    text: Vec<u8>,
    lines: u64,
    sink: &'a mut Sink,
}

impl Batch<'_> {
    fn line(&mut self, text: &[u8]) {
        let at = self.sink.bytes + self.text.len() as u64;
        let grown = at + (self.stamp.len() + text.len() + 4) as u64;
        if at > 0 && grown > self.sink.limits.file_bytes_max {
            self.flush();
            self.sink.next();
        }
        compose(&mut self.text, &self.stamp, self.stream, text);
        self.lines += 1;
    }

    fn flush(&mut self) {
        self.sink.write(&self.text, self.lines);
        self.text.clear();
        self.lines = 0;
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

fn compose(batch: &mut Vec<u8>, stamp: &str, stream: u8, text: &[u8]) {
    batch.extend_from_slice(stamp.as_bytes());
    batch.extend_from_slice(&[b' ', stream, b' ']);
    batch.extend_from_slice(text);
    batch.push(b'\n');
}

/// A thread that moves one stream into the sink until it ends.
pub(super) struct Pump {
    ended: Receiver<()>,
}

impl Pump {
    pub(super) fn start(
        stream: u8,
        mut from: impl Read + Send + 'static,
        sink: &Arc<Mutex<Sink>>,
    ) -> Self {
        let (end, ended) = sync_channel(1);
        let sink = Arc::clone(sink);
        let pump = move || {
            let mut splitter = Splitter::default();
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let read = match from.read(&mut buffer) {
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                let mut batch = sink.batch(stream, clock::unix_ms());
                if read == 0 {
                    splitter.finish(|text| batch.line(text));
                    break;
                }
                splitter.feed(&buffer[..read], |text| batch.line(text));
            }
            let _ = end.send(());
        };
        // Without a thread nobody reads, the pipe breaks and the job is told so.
        if let Err(error) = thread::Builder::new().name("output".into()).spawn(pump) {
            eprintln!("output cannot be read: {error}");
        }
        Self { ended }
    }

    /// Waits for the stream's end; a process that could not be killed may hold it open.
    pub(super) fn finish(self, wait: Duration) {
        let _ = self.ended.recv_timeout(wait);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn a_line_longer_than_a_piece_is_kept_in_pieces() {
        let long = vec![b'x'; 2 * PIECE_BYTES_MAX + 1];
        let lens: Vec<usize> = lines_of(&[&long, b"\nshort\n"]).iter().map(Vec::len).collect();
        assert_eq!(lens, [PIECE_BYTES_MAX, PIECE_BYTES_MAX, 1, 5]);
        let exact = [&long[..PIECE_BYTES_MAX], b"\n"].concat();
        assert_eq!(lines_of(&[&exact]).len(), 1);
    }

    proptest! {
        #[test]
        fn how_the_pipe_cuts_the_output_does_not_matter(
            text in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400),
            cut in 0usize..400,
        ) {
            let cut = cut.min(text.len());
            let whole = lines_of(&[&text]);
            prop_assert_eq!(&whole, &lines_of(&[&text[..cut], &text[cut..]]));
            let mut joined = whole.join(&b'\n');
            if text.ends_with(b"\n") { joined.push(b'\n'); }
            prop_assert_eq!(joined, text);
        }
    }

    #[test]
    fn files_are_rotated_at_their_limit_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { file_bytes_max: 200, files_max: 3 };
        let mut sink = Sink::open(dir.path(), limits);
        for i in 0..40 {
            sink.batch(b'O', 0).line(format!("line {i:02}").as_bytes());
        }
        let kept = files(dir.path());
        assert_eq!(kept.len(), 3, "{kept:?}");
        let mut text = String::new();
        for number in kept {
            let file = fs::read_to_string(dir.path().join(file_name(number))).unwrap();
            assert!(file.len() <= 200, "{}", file.len());
            text.push_str(&file);
        }
        assert!(text.ends_with("1970-01-01T00:00:00.000Z O line 39\n"), "{text}");
        let numbers: Vec<&str> = text.lines().map(|line| &line[line.len() - 2..]).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }

    #[test]
    fn a_new_shim_goes_on_after_half_a_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(file_name(7)), "1970-01-01T00:00:00.000Z O hal").unwrap();
        let mut sink = Sink::open(dir.path(), LogLimits::DEFAULT);
        sink.batch(b'E', 1_000).line(b"next");
        let text = fs::read_to_string(dir.path().join(file_name(7))).unwrap();
        assert_eq!(text, "1970-01-01T00:00:00.000Z O hal\n1970-01-01T00:00:01.000Z E next\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        // A file where the folder of files should be: nothing can be written.
        let logs = dir.path().join("log");
        fs::write(&logs, "").unwrap();
        let mut sink = Sink::open(&logs, LogLimits::DEFAULT);
        for _ in 0..3 {
            sink.batch(b'O', 0).line(b"lost");
        }
        fs::remove_file(&logs).unwrap();
        sink.batch(b'O', 0).line(b"kept");
        let number = files(&logs)[0];
        let text = fs::read_to_string(logs.join(file_name(number))).unwrap();
        let texts: Vec<&str> = text.lines().map(|line| &line[27..]).collect();
        assert_eq!(texts, ["3 lines of output were lost: they could not be written", "kept"]);
    }
}
