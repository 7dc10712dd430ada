//! A body that comes by HTTP/2, read as HTTP/1.1 writes it.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::HeaderMap;
use smallvec::SmallVec;
use tokio::io::ReadBuf;

use super::broken;
use super::request::write_trailers;
use crate::h1::{CHUNK_END, ChunkHead, LAST_CHUNK};

/// A body, and what is read before it.
#[derive(Debug)]
pub(super) struct Intake {
    body: RecvStream,
    /// What has come of it and is not read.
    data: Bytes,
    /// Bytes that are read before `data`: a head, or framing.
    rest: SmallVec<[u8; 32]>,
    is_chunked: bool,
    is_over: bool,
}

impl Intake {
    /// Without a body it is over after its head.
    pub(super) fn new(body: RecvStream, is_chunked: bool, is_over: bool) -> Self {
        Self { body, data: Bytes::new(), rest: SmallVec::new(), is_chunked, is_over }
    }

    /// Reads a head into `room`; what it has no room for is read later.
    pub(super) fn put(&mut self, head: &[u8], room: &mut ReadBuf<'_>) {
        let count = head.len().min(room.remaining());
        room.put_slice(&head[..count]);
        self.rest.extend_from_slice(&head[count..]);
    }

    /// Nothing more is read.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }

    /// Reads what there is, until `room` is full.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
        has_some: bool,
    ) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        loop {
            let count = self.rest.len().min(room.remaining());
            if count > 0 {
                room.put_slice(&self.rest[..count]);
                self.rest.drain(..count);
            }
            if room.remaining() == 0 || (self.rest.is_empty() && self.is_over) {
                return Poll::Ready(Ok(()));
            }
            if !self.data.is_empty() {
                self.read_data(room);
                continue;
            }
            match self.poll_data(cx) {
                Poll::Ready(more) => more?,
                Poll::Pending if has_some || room.filled().len() > before => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What is taken may be sent again: so the other side never has more under way than we hold.
    fn read_data(&mut self, room: &mut ReadBuf<'_>) {
        let count = self.data.len().min(room.remaining());
        room.put_slice(&self.data[..count]);
        self.data.advance(count);
        // Fails only for more than has come.
        let _ = self.body.flow_control().release_capacity(count);
        if self.data.is_empty() && self.is_chunked {
            self.rest.extend_from_slice(CHUNK_END);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.body.poll_data(cx)) {
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => {
                if self.is_chunked {
                    self.rest.extend_from_slice(ChunkHead::new(data.len()).as_bytes());
                }
                self.data = data;
            }
            Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            None => {
                let trailers = ready!(self.body.poll_trailers(cx)).map_err(broken)?;
                if self.is_chunked {
                    self.read_end(trailers);
                }
                self.is_over = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn read_end(&mut self, trailers: Option<HeaderMap>) {
        let Some(trailers) = trailers else {
            return self.rest.extend_from_slice(LAST_CHUNK);
        };
        let mut section = b"0\r\n".to_vec();
        write_trailers(&trailers, &mut section);
        self.rest.extend_from_slice(&section);
    }
}
