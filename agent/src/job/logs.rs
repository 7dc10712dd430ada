//! Reads what jobs printed: the last lines, and those to come across rotations.
//!
//! Works on the files alone, so it does not matter whether job, shim or agent still run.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_discovery::model::JobId;
use serde::{Deserialize, Serialize};

use super::folder::LOGS;

/// The most lines that are given at once; who asks for more gets as many.
pub const LINES_MAX: usize = 10_000;
/// How often a follower looks for more.
const POLL: Duration = Duration::from_millis(100);
/// Read from a file at a time; more than the longest line.
const READ_BYTES: usize = 64 << 10;

/// Which stream of the job said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line of a job's output, or a piece of a line longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was read from the job: RFC 3339 in UTC.
    pub at: String,
    /// The stream.
    pub stream: Stream,
    /// The line without its end; bytes that are no UTF-8 are replaced.
    pub text: String,
}

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It never ran here, or it is over for so long that its output is gone.
    #[error("job {0} has no output on this node")]
    NoJob(JobId),
    /// The disk said no.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// The last `lines` lines of a job, oldest first. `jobs` is the folder of all jobs.
pub async fn tail(jobs: &Path, job: &JobId, lines: usize) -> Result<Vec<LogLine>, LogError> {
    let mut reader = open(jobs, job, lines).await?;
    Ok(std::mem::take(&mut reader.ready).into())
}

/// The last `lines` lines of a job, then those to come.
pub async fn follow(jobs: &Path, job: &JobId, lines: usize) -> Result<Follow, LogError> {
    let reader = open(jobs, job, lines).await?;
    Ok(Follow { reader: Arc::new(Mutex::new(reader)) })
}

async fn open(jobs: &Path, job: &JobId, lines: usize) -> Result<Reader, LogError> {
    let folder = jobs.join(job.as_str());
    if !folder.is_dir() {
        return Err(LogError::NoJob(job.clone()));
    }
    let dir = folder.join(LOGS);
    blocking(move || Reader::open(dir, lines.min(LINES_MAX))).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("reading does not panic and is never aborted")
}

/// The lines of a job, as they come.
pub struct Follow {
    reader: Arc<Mutex<Reader>>,
}

impl Follow {
    /// The next line; nothing more comes when the job's folder is gone. Safe to drop and call
    /// again: no line is lost.
    pub async fn next(&mut self) -> Result<Option<LogLine>, LogError> {
        loop {
            if let Some(line) = lock(&self.reader).ready.pop_front() {
                return Ok(Some(line));
            }
            let reader = Arc::clone(&self.reader);
            let is_gone = blocking(move || lock(&reader).fill()).await?;
            if is_gone {
                return Ok(None);
            }
            if lock(&self.reader).ready.is_empty() {
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

fn lock(reader: &Mutex<Reader>) -> MutexGuard<'_, Reader> {
    reader.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the files, and what was read before it.
struct Reader {
    dir: PathBuf,
    ready: VecDeque<LogLine>,
    /// The open file, held so that what it has is read though it may be deleted meanwhile.
    file: Option<File>,
    number: u64,
    offset: u64,
}

impl Reader {
    /// Behind the last line there is, with the last `lines` of them ready.
    fn open(dir: PathBuf, lines: usize) -> Result<Self, LogError> {
        let mut reader = Self { dir, ready: VecDeque::new(), file: None, number: 0, offset: 0 };
        for number in files(&reader.dir).into_iter().rev() {
            let path = reader.dir.join(file_name(number));
            let file = match File::open(&path) {
                Ok(file) => file,
                // Rotated away since it was listed; what is older is gone too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(source) => return Err(LogError::Io { path, source }),
            };
            let missing = lines - reader.ready.len();
            let (found, end) = last(&file, missing)
                .map_err(|source| LogError::Io { path: path.clone(), source })?;
            for line in found.into_iter().rev() {
                reader.ready.push_front(line);
            }
            if reader.file.is_none() {
                (reader.file, reader.number, reader.offset) = (Some(file), number, end);
            }
            if reader.ready.len() == lines {
                break;
            }
        }
        Ok(reader)
    }

    /// Reads on; true when there is no folder any more.
    fn fill(&mut self) -> Result<bool, LogError> {
        loop {
            // Listed before it is read: the writer leaves a file before it begins the next.
            let later = files(&self.dir).into_iter().find(|number| *number > self.number);
            let read = self.read().map_err(|source| self.error(self.number, source))?;
            if read > 0 {
                return Ok(false);
            }
            let Some(later) = later else {
                return Ok(!self.dir.parent().is_some_and(Path::is_dir));
            };
            match File::open(self.dir.join(file_name(later))) {
                Ok(file) => (self.file, self.number, self.offset) = (Some(file), later, 0),
                // Rotated away since it was listed: a later one is there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(self.error(later, source)),
            }
        }
    }

    fn error(&self, number: u64, source: io::Error) -> LogError {
        LogError::Io { path: self.dir.join(file_name(number)), source }
    }

    /// Moves on by the whole lines that are there and says by how many bytes.
    fn read(&mut self) -> io::Result<usize> {
        let Some(file) = &self.file else { return Ok(0) };
        let mut buffer = vec![0; READ_BYTES];
        let length = file.read_at(&mut buffer, self.offset)?;
        let mut whole = buffer[..length].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        if whole == 0 && length == READ_BYTES {
            // No line of ours is that long.
            whole = length;
        }
        self.ready.extend(buffer[..whole].split(|b| *b == b'\n').filter_map(parse));
        self.offset += whole as u64;
        Ok(whole)
    }
}

/// The last `lines` whole lines of a file, and where they end.
fn last(file: &File, lines: usize) -> io::Result<(Vec<LogLine>, u64)> {
    let length = file.metadata()?.len();
    let mut text = Vec::new();
    let mut start = length;
    // One more end than lines: that of the line before the first.
    while start > 0 && text.iter().filter(|b| **b == b'\n').count() <= lines {
        let step = start.min((READ_BYTES as u64).max(text.len() as u64));
        let mut block = vec![0; usize::try_from(step).expect("a file of ours fits into memory")];
        file.read_exact_at(&mut block, start - step)?;
        block.extend_from_slice(&text);
        text = block;
        start -= step;
    }
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let mut found: Vec<LogLine> =
        text[..whole].rsplit(|b| *b == b'\n').filter_map(parse).take(lines).collect();
    found.reverse();
    Ok((found, start + whole as u64))
}

/// Reads a line as the shim writes it; what is none is passed over.
fn parse(line: &[u8]) -> Option<LogLine> {
    let space = line.iter().position(|b| *b == b' ')?;
    let at = std::str::from_utf8(&line[..space]).ok()?;
    let stream = match line.get(space + 1..space + 3)? {
        b"O " => Stream::Out,
        b"E " => Stream::Err,
        _ => return None,
    };
    let text = String::from_utf8_lossy(&line[space + 3..]).into_owned();
    Some(LogLine { at: at.to_owned(), stream, text })
}

/// The numbers of the files in the folder, oldest first.
pub(super) fn files(dir: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut numbers: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// The name of a file by its number.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:08}.log")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_line_or_none(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&line);
        }

        #[test]
        fn a_line_reads_as_it_was_written(text in "[^\n]{0,40}") {
            let line = parse(format!("2026-11-25T00:00:00.000Z E {text}").as_bytes()).unwrap();
            prop_assert_eq!(line.text, text);
            prop_assert_eq!(line.stream, Stream::Err);
        }
    }

    fn write(dir: &Path, number: u64, lines: std::ops::Range<u32>) {
        fs::create_dir_all(dir).unwrap();
        let text: String = lines.map(|i| format!("2026-11-25T00:00:00.000Z O {i}\n")).collect();
        fs::write(dir.join(file_name(number)), text).unwrap();
    }

    fn texts(lines: &[LogLine]) -> Vec<u32> {
        lines.iter().map(|line| line.text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn the_last_lines_are_found_across_files_and_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobId::parse("a").unwrap();
        let logs = dir.path().join("a").join(LOGS);
        write(&logs, 3, 0..9_000);
        write(&logs, 4, 9_000..9_005);
        for lines in [0, 1, 5, 6, 4_000] {
            let found = tail(dir.path(), &job, lines).await.unwrap();
            let expected: Vec<u32> = (9_005 - u32::try_from(lines).unwrap()..9_005).collect();
            assert_eq!(texts(&found), expected);
        }
        assert_eq!(tail(dir.path(), &job, usize::MAX).await.unwrap().len(), 9_005);
        let stranger = JobId::parse("b").unwrap();
        assert!(matches!(tail(dir.path(), &stranger, 1).await, Err(LogError::NoJob(_))));
    }

    #[tokio::test]
    async fn a_follower_that_was_overtaken_goes_on_with_the_oldest_file_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobId::parse("a").unwrap();
        let logs = dir.path().join("a").join(LOGS);
        write(&logs, 1, 0..10);
        let mut follow = follow(dir.path(), &job, 2).await.unwrap();
        write(&logs, 1, 0..12);
        fs::remove_file(logs.join(file_name(1))).unwrap();
        write(&logs, 5, 50..51);
        write(&logs, 6, 60..61);
        let mut seen = Vec::new();
        while seen.last() != Some(&60) {
            let line = follow.next().await.unwrap().unwrap();
            seen.push(line.text.parse::<u32>().unwrap());
        }
        assert_eq!(seen, [8, 9, 10, 11, 50, 60]);
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        assert_eq!(follow.next().await.unwrap(), None);
    }
}
