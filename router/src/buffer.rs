//! Buffers that are borrowed from the thread while they hold something.
//!
//! A connection that waits holds none, so an idle client costs no buffer. The size follows the
//! traffic: a read that fills a buffer makes the next one big, a short one makes it small
//! again. What a thread has lent is counted: when that is much, only small buffers are lent and
//! what waits is moved to just the memory that it needs. Knows nothing of what is in the bytes.

use std::cell::{Cell, RefCell};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// Enough for almost every head, and for the body behind it.
pub(crate) const SMALL: usize = 16 * 1024;
/// While a body streams: a bigger one no longer saves system calls that cost anything.
pub(crate) const LARGE: usize = 256 * 1024;

/// Reads that one direction may do before others get their turn: a fast stream moves 2 MiB then.
pub(crate) const TURN_READS_MAX: usize = 8;

/// Buffers of a size that a thread keeps for the next borrower (4 MiB each).
const SMALL_KEPT_MAX: usize = 256;
const LARGE_KEPT_MAX: usize = 16;
/// This part of what a thread may lend goes to whoever asks. Beyond, it saves: 256 clients that
/// stopped reading may hold a large buffer each, and thousands more a small one.
const FREELY_LENT_PART: usize = 4;

/// Vectors for heads that a thread keeps, and the largest of them that is kept.
const HEADS_KEPT_MAX: usize = 256;
const HEAD_KEPT_BYTES_MAX: usize = 4 * 1024;

/// Up to here data is copied behind its head for one plain write; beyond, a vectored write is
/// cheaper.
const COPY_MAX: usize = 8 * 1024;

/// Bytes that one copy moves. The C library moves more than 2,112 with `rep movsb`, which takes AMD's
/// Zen 3 and 4 up to ten times as long where both sides begin at about the same place of a page
/// (glibc bug 30994), as buffers and what is made of them do.
pub(crate) const COPY_PIECE: usize = 2 * 1024;

#[derive(Default)]
struct Kept {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    heads: Vec<Vec<u8>>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
    /// Bytes of buffers that are held by somebody.
    static LENT: Cell<usize> = const { Cell::new(0) };
    /// What of them the gauge knows.
    static SHOWN: Cell<i64> = const { Cell::new(0) };
    static LENT_MAX: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Sets how many bytes this thread should have lent at most.
pub(crate) fn set_lent_max(bytes: usize) {
    LENT_MAX.set(bytes);
}

/// Whether so much is lent that nothing more should begin. What is under way gets what it needs.
pub(crate) fn is_exhausted() -> bool {
    !has_room_for(0)
}

/// Whether `bytes` more may be lent to something that has not begun.
pub(crate) fn has_room_for(bytes: usize) -> bool {
    LENT.get() + bytes < LENT_MAX.get()
}

/// Whether so much is lent that speed costs less than memory.
pub(crate) fn is_scarce() -> bool {
    LENT.get() >= LENT_MAX.get() / FREELY_LENT_PART
}

/// Brings a gauge that all threads share up to date.
pub(crate) fn show_lent(gauge: &IntGauge) {
    let lent = i64::try_from(LENT.get()).unwrap_or(i64::MAX);
    let change = lent - SHOWN.replace(lent);
    if change != 0 {
        gauge.add(change);
    }
}

/// Memory that counts as lent and is no buffer, given back when it is dropped. Stays on its thread.
#[derive(Debug)]
pub(crate) struct Lent(usize, PhantomData<*const ()>);

impl Lent {
    /// Counts `bytes`; none if then memory would be scarce.
    pub(crate) fn freely(bytes: usize) -> Option<Self> {
        let lent = LENT.get() + bytes;
        (lent < LENT_MAX.get() / FREELY_LENT_PART).then(|| {
            LENT.set(lent);
            Self(bytes, PhantomData)
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        LENT.set(LENT.get() - self.0);
    }
}

/// Memory that somebody else keeps for what is under way, counted as lent: whoever needs it gets
/// it, and what has not begun is shed. Stays on its thread.
#[derive(Debug, Default)]
pub(crate) struct Held(usize, PhantomData<*const ()>);

impl Held {
    /// From now on it is so much.
    pub(crate) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.0, bytes);
        LENT.set(LENT.get() - before + bytes);
    }

    /// How much it is.
    pub(crate) fn bytes(&self) -> usize {
        self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        LENT.set(LENT.get() - self.0);
    }
}

fn count_lent(bytes: Box<[u8]>) -> Box<[u8]> {
    LENT.set(LENT.get() + bytes.len());
    bytes
}

/// The size of the next buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Size {
    #[default]
    Small,
    Large,
}

impl Size {
    fn bytes(self) -> usize {
        match self {
            Self::Small => SMALL,
            Self::Large => LARGE,
        }
    }

    fn take(self) -> Box<[u8]> {
        let kept = KEPT.with_borrow_mut(|kept| match self {
            Self::Small => kept.small.pop(),
            Self::Large => kept.large.pop(),
        });
        count_lent(kept.unwrap_or_else(|| zeroed(self.bytes())))
    }
}

fn zeroed(bytes: usize) -> Box<[u8]> {
    vec![0; bytes].into_boxed_slice()
}

fn give_back(bytes: Box<[u8]>) {
    if bytes.is_empty() {
        return;
    }
    LENT.set(LENT.get() - bytes.len());
    // At the thread's end its store may be gone already: then the bytes are just freed.
    let _ = KEPT.try_with(|kept| {
        let kept = &mut *kept.borrow_mut();
        let (store, kept_max) = match bytes.len() {
            SMALL => (&mut kept.small, SMALL_KEPT_MAX),
            LARGE => (&mut kept.large, LARGE_KEPT_MAX),
            _ => return,
        };
        if store.len() < kept_max {
            store.push(bytes);
        }
    });
}

/// An empty vector for a head, with the room that earlier heads needed.
pub(crate) fn head() -> Vec<u8> {
    KEPT.with_borrow_mut(|kept| kept.heads.pop()).unwrap_or_default()
}

/// Keeps the room of a head for the next one.
pub(crate) fn give_back_head(mut head: Vec<u8>) {
    if (1..=HEAD_KEPT_BYTES_MAX).contains(&head.capacity()) {
        head.clear();
        let _ = KEPT.try_with(|kept| {
            let heads = &mut kept.borrow_mut().heads;
            if heads.len() < HEADS_KEPT_MAX {
                heads.push(head);
            }
        });
    }
}

/// Bytes on their way from a socket. Holds no memory while it is empty and nothing is read.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    size: Size,
    /// However fast the stream is.
    stays_small: bool,
}

impl Buffer {
    /// A buffer that no stream makes large: one of many that may all wait for the same reader.
    pub(crate) fn small() -> Self {
        Self { bytes: Box::default(), start: 0, end: 0, size: Size::Small, stays_small: true }
    }

    /// A buffer that holds these bytes, which are counted as lent.
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        let bytes = count_lent(bytes.into_boxed_slice());
        Self { start: 0, end: bytes.len(), bytes, size: Size::Small, stays_small: false }
    }

    /// What has been read and not consumed.
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Bytes that have been read and not consumed.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether the next read has room without giving up anything.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() < SMALL || self.start > 0 || self.end < self.bytes.len()
    }

    /// Lets the first `count` bytes go, and the memory with the last of them.
    pub(crate) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len(), "only what was read can be consumed");
        self.start += count.min(self.len());
        if self.is_empty() {
            self.release();
        }
    }

    /// Makes the next buffer big: a body of at least this many bytes is announced.
    pub(crate) fn expect(&mut self, bytes: u64) {
        if bytes > SMALL as u64 {
            self.size = Size::Large;
        }
    }

    /// Gives a full buffer twice its room; false if it is large already, or if nobody gets
    /// more now.
    pub(crate) fn grow(&mut self) -> bool {
        if self.bytes.len() >= LARGE || is_exhausted() {
            return false;
        }
        self.move_to(count_lent(zeroed((2 * self.bytes.len()).min(LARGE))));
        true
    }

    fn move_to(&mut self, mut bytes: Box<[u8]>) {
        let len = self.len();
        bytes[..len].copy_from_slice(self.data());
        give_back(std::mem::replace(&mut self.bytes, bytes));
        (self.start, self.end) = (0, len);
    }

    /// Reads once into the free room; 0 is the end of the stream. While nothing comes and
    /// nothing is held, no memory is held either. Needs [`Buffer::has_room`].
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        let size = room.capacity();
        let result = Pin::new(stream).poll_read(cx, &mut room);
        let count = room.filled().len();
        match result {
            Poll::Ready(Ok(())) if count > 0 => {
                self.end += count;
                self.size = match self.size {
                    _ if count == size => Size::Large,
                    _ if count < SMALL / 2 => Size::Small,
                    same => same,
                };
                Poll::Ready(Ok(count))
            }
            other => {
                if self.is_empty() {
                    self.release();
                } else if is_scarce() {
                    self.fit();
                }
                other.map_ok(|()| 0)
            }
        }
    }

    /// Moves what waits for more to just the memory that it needs. Whoever sends a byte a second
    /// makes us copy a little each second; that is cheaper than to hold a buffer for each.
    fn fit(&mut self) {
        if self.len() < self.bytes.len() {
            self.move_to(count_lent(zeroed(self.len())));
        }
    }

    fn make_room(&mut self) {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
            let small = self.stays_small || is_scarce();
            let size = if small { Size::Small } else { self.size };
            if self.bytes.len() != size.bytes() {
                give_back(std::mem::replace(&mut self.bytes, size.take()));
            }
        } else if self.bytes.len() < SMALL {
            self.move_to(Size::Small.take());
        } else if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= std::mem::take(&mut self.start);
        }
        debug_assert!(self.end < self.bytes.len(), "a full buffer cannot be filled");
    }

    fn release(&mut self) {
        give_back(std::mem::take(&mut self.bytes));
        (self.start, self.end) = (0, 0);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

/// What is to be written next: a head, then data that lies in a buffer, then a tail; all three
/// in one system call if the socket takes them.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    head: Vec<u8>,
    head_at: usize,
    /// Where the data lies in the `data` of the buffer that is flushed.
    data: Range<usize>,
    tail: Vec<u8>,
    /// The stream has taken everything, and the socket has not.
    is_unsent: bool,
}

impl Outbox {
    /// An outbox whose head is written already.
    pub(crate) fn with_head(head: Vec<u8>) -> Self {
        Self { head, ..Self::default() }
    }

    /// Whether everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.head_at == self.head.len()
            && self.data.is_empty()
            && self.tail.is_empty()
            && !self.is_unsent
    }

    /// The head that is written first; more may be appended while nothing else is queued.
    pub(crate) fn head(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.takes_data(), "a head comes first");
        if self.head.capacity() == 0 {
            self.head = head();
        }
        &mut self.head
    }

    /// Whether a piece may be queued.
    pub(crate) fn takes_data(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty()
    }

    /// Queues a piece of the buffer behind the head.
    pub(crate) fn push_data(&mut self, data: Range<usize>) {
        debug_assert!(self.takes_data(), "one piece at a time");
        self.data = data;
    }

    /// Queues bytes behind the data.
    pub(crate) fn push_tail(&mut self, tail: &[u8]) {
        self.tail.extend_from_slice(tail);
    }

    /// Makes the first `head_len` bytes of the head due again and forgets the rest.
    pub(crate) fn rewind(&mut self, head_len: usize) {
        self.head.truncate(head_len);
        self.head_at = 0;
        self.data = 0..0;
        self.tail.clear();
        self.is_unsent = false;
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        give_back_head(std::mem::take(&mut self.head));
        self.head_at = 0;
        self.data = 0..0;
        self.tail = Vec::new();
        self.is_unsent = false;
    }

    /// Writes until everything is taken; the head is kept until [`Outbox::clear`], so that it
    /// can be sent again. `written` grows by what the socket took.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        base: &[u8],
        written: &mut u64,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            if self.is_unsent && self.takes_data() && self.head_at == self.head.len() {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                self.is_unsent = false;
                break;
            }
            let count = ready!(self.poll_write(cx, stream, base))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += count as u64;
            self.advance(count);
            self.is_unsent = stream.has_unsent();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        base: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        let has_head = self.head_at < self.head.len();
        if !has_head && self.tail.is_empty() {
            return stream.poll_write(cx, &base[self.data.clone()]);
        }
        if self.data.len() <= COPY_MAX {
            let head = &mut self.head;
            head.extend_from_slice(&base[std::mem::take(&mut self.data)]);
            head.append(&mut self.tail);
            return stream.poll_write(cx, &head[self.head_at..]);
        }
        let parts = [&self.head[self.head_at..], &base[self.data.clone()], &self.tail[..]];
        stream.poll_write_vectored(cx, &parts.map(io::IoSlice::new))
    }

    fn advance(&mut self, mut count: usize) {
        let from_head = count.min(self.head.len() - self.head_at);
        self.head_at += from_head;
        count -= from_head;
        let from_data = count.min(self.data.len());
        self.data.start += from_data;
        count -= from_data;
        self.tail.drain(..count);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near.into(), listener.accept().await.unwrap().0)
    }

    #[test]
    fn what_is_held_is_counted_until_it_is_let_go() {
        let before = LENT.get();
        let held = Buffer::holding(b"page".to_vec());
        assert_eq!((held.data(), LENT.get()), (&b"page"[..], before + 4));
        drop(held);
        assert_eq!(LENT.get(), before);
    }

    #[test]
    fn other_memory_is_lent_until_memory_is_scarce() {
        let before = LENT_MAX.replace(4_000);
        assert!(Lent::freely(1_000).is_none());
        let (first, second) = (Lent::freely(600), Lent::freely(600));
        assert!(first.is_some() && second.is_none());
        drop(first);
        assert!(Lent::freely(600).is_some());
        LENT_MAX.set(before);
    }

    #[tokio::test]
    async fn a_buffer_that_waits_holds_no_memory() {
        let (mut near, mut far) = pair().await;
        let mut buffer = Buffer::default();
        let pending = poll_fn(|cx| Poll::Ready(buffer.poll_fill(cx, &mut near).is_pending())).await;
        assert!(pending);
        assert_eq!(buffer.bytes.len(), 0);
        far.write_all(b"abc").await.unwrap();
        assert_eq!(poll_fn(|cx| buffer.poll_fill(cx, &mut near)).await.unwrap(), 3);
        assert_eq!((buffer.data(), buffer.bytes.len()), (&b"abc"[..], SMALL));
        buffer.consume(3);
        assert_eq!(buffer.bytes.len(), 0);
    }

    #[tokio::test]
    async fn a_stream_makes_buffers_large_and_a_trickle_small() {
        let (mut near, mut far) = pair().await;
        let mut buffer = Buffer::default();
        let writer = tokio::spawn(async move {
            far.write_all(&vec![7; 4 * LARGE]).await.unwrap();
            far
        });
        let (mut total, mut largest) = (0, 0);
        while total < 4 * LARGE {
            total += poll_fn(|cx| buffer.poll_fill(cx, &mut near)).await.unwrap();
            largest = largest.max(buffer.bytes.len());
            buffer.consume(buffer.len());
        }
        assert_eq!(largest, LARGE);
        writer.await.unwrap().write_all(b"x").await.unwrap();
        for _ in 0..2 {
            if buffer.is_empty() {
                poll_fn(|cx| buffer.poll_fill(cx, &mut near)).await.unwrap();
            }
        }
        buffer.consume(1);
        assert_eq!(buffer.size, Size::Small);
    }

    #[tokio::test]
    async fn a_full_buffer_grows_and_keeps_what_it_has() {
        let (mut near, mut far) = pair().await;
        let mut buffer = Buffer::default();
        let sent: Vec<u8> = (0..SMALL + 100).map(|n| (n % 251) as u8).collect();
        far.write_all(&sent).await.unwrap();
        while buffer.len() < sent.len() {
            if !buffer.has_room() {
                assert!(buffer.grow());
            }
            poll_fn(|cx| buffer.poll_fill(cx, &mut near)).await.unwrap();
        }
        assert_eq!(buffer.data(), sent);
    }

    #[tokio::test]
    async fn an_outbox_writes_its_parts_in_order_whatever_the_socket_takes() {
        for data_bytes in [0, 1, COPY_MAX, COPY_MAX + 1, 3_000_000] {
            let (mut near, mut far) = pair().await;
            let data: Vec<u8> = (0..data_bytes).map(|n| (n % 253) as u8).collect();
            let mut outbox = Outbox::default();
            outbox.head().extend_from_slice(b"head");
            outbox.push_data(0..data.len());
            outbox.push_tail(b"tail");
            let expected = [b"head", &data[..], b"tail"].concat();
            let reader = tokio::spawn(async move {
                let mut got = Vec::new();
                far.read_to_end(&mut got).await.unwrap();
                got
            });
            let mut written = 0;
            poll_fn(|cx| outbox.poll_flush(cx, &mut near, &data, &mut written)).await.unwrap();
            assert_eq!(written, expected.len() as u64);
            outbox.rewind(4);
            poll_fn(|cx| outbox.poll_flush(cx, &mut near, &data, &mut written)).await.unwrap();
            drop(near);
            assert_eq!(reader.await.unwrap(), [&expected[..], b"head"].concat());
        }
    }
}
