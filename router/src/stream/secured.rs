//! TLS over a connection, in the buffers of rustls. Owns how bytes pass through a session; knows
//! nothing of certificates.
//!
//! The session is fed from a buffer of the thread, so a connection that waits holds no more than
//! the session's own state and the part of a record that has come.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::News;
use crate::buffer;
use crate::tls::Certificate;

/// What one system call reads: from enough for any head up to two records.
const RECEIVE_MIN: usize = 4 * 1024;
const RECEIVE_MAX: usize = 32 * 1024;

/// Parts of which a session takes bytes at a time: as many as it holds, which are 64 KiB, and what
/// stands around them.
const PARTS_MAX: usize = 36;

/// What is taken of a piece at a time while memory is scarce: one record, which the session holds
/// until the socket takes it.
const SCARCE_WRITE_MAX: usize = 16 * 1024;

thread_local! {
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVE_MAX].into_boxed_slice());
}

/// What is known of the other side of a connection since its handshake.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// The name that the client asked for.
    pub(crate) name: Option<Box<str>>,
    /// The certificate that it was shown.
    pub(crate) shown: Option<Arc<Certificate>>,
    /// The lines that tell an instance of the client's own certificate; empty if it has none.
    pub(crate) client_lines: Box<[u8]>,
}

/// A connection with a session.
#[derive(Debug)]
pub(crate) struct Secured {
    tcp: TcpStream,
    session: Connection,
    /// Read from the socket, and not taken by the session: it had something for us first.
    held: Vec<u8>,
    says_goodbye: bool,
    met: Met,
}

impl Secured {
    /// A session over a connection. `received` has come already.
    pub(crate) fn new(tcp: TcpStream, session: impl Into<Connection>, received: &[u8]) -> Self {
        let held = received.to_vec();
        Self { tcp, session: session.into(), held, says_goodbye: true, met: Met::default() }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(crate) fn session(&self) -> &Connection {
        &self.session
    }

    pub(crate) fn met(&self) -> &Met {
        &self.met
    }

    pub(crate) fn set_met(&mut self, met: Met) {
        self.met = met;
    }

    pub(crate) fn take_met(&mut self) -> Met {
        std::mem::take(&mut self.met)
    }

    /// Leaves the other side without the word that everything was sent.
    pub(crate) fn forget_farewell(&mut self) {
        self.says_goodbye = false;
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.session.wants_write()
    }

    /// Shakes hands. `seen` grows by what came for it.
    pub(crate) fn poll_shake(
        &mut self,
        cx: &mut Context<'_>,
        seen: &mut usize,
    ) -> Poll<io::Result<()>> {
        // Takes what comes behind the handshake only when there is somebody to give it to.
        let mut none = ReadBuf::new(&mut []);
        loop {
            let sent = self.poll_send(cx)?;
            if !self.session.is_handshaking() {
                return sent.map(Ok);
            }
            if !self.held.is_empty() {
                self.feed_held(&mut none)?;
                continue;
            }
            let received = ready!(self.poll_receive(cx, &mut none))?;
            *seen += received;
            if received == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads until `room` is full or there is nothing more just now. An end without the other
    /// side's word for it is an error: it may be somebody else's doing.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        let mut may_have_more = true;
        loop {
            if self.drain(room)? || room.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !self.held.is_empty() {
                self.feed_held(room)?;
                continue;
            }
            let has_some = room.filled().len() > before;
            if has_some && !may_have_more {
                return Poll::Ready(Ok(()));
            }
            let asked = asked_for(room);
            match self.poll_receive(cx, room) {
                Poll::Ready(received) => may_have_more = received? == asked,
                Poll::Pending if has_some => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    // What the session has to say for itself, such as a change of keys.
                    let _ = self.poll_send(cx)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Moves plain bytes from the session to `room`; true at their end.
    fn drain(&mut self, room: &mut ReadBuf<'_>) -> io::Result<bool> {
        while room.remaining() > 0 {
            let piece = room.remaining().min(buffer::COPY_PIECE);
            match self.session.reader().read(room.initialize_unfilled_to(piece)) {
                Ok(0) => return Ok(true),
                Ok(count) => room.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // What came before it is delivered; the next read ends here again.
                Err(_) if !room.filled().is_empty() => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Reads once from the socket; what of it the session does not take is held. Returns how much
    /// it was; 0 is the end.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let size = asked_for(room);
        RECEIVED.with_borrow_mut(|received| {
            let mut read = ReadBuf::new(&mut received[..size]);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut read))?;
            Poll::Ready(self.receive(read.filled(), room))
        })
    }

    fn receive(&mut self, bytes: &[u8], room: &mut ReadBuf<'_>) -> io::Result<usize> {
        if bytes.is_empty() {
            self.session.read_tls(&mut io::empty())?;
            self.process()?;
            return Ok(0);
        }
        let taken = self.feed(bytes, room)?;
        self.held.extend_from_slice(&bytes[taken..]);
        Ok(bytes.len())
    }

    fn feed_held(&mut self, room: &mut ReadBuf<'_>) -> io::Result<()> {
        let mut held = std::mem::take(&mut self.held);
        let taken = self.feed(&held, room)?;
        if taken < held.len() {
            held.drain(..taken);
            self.held = held;
        }
        Ok(())
    }

    /// Gives the session bytes until it has more for us than there is room for. It takes little
    /// at a time, so what it holds is bounded.
    fn feed(&mut self, bytes: &[u8], room: &mut ReadBuf<'_>) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let has_ended = self.session.read_tls(&mut rest)? == 0;
            let state = self.process()?;
            if has_ended || self.drain(room)? {
                // What follows the end is nobody's.
                return Ok(bytes.len());
            }
            if room.remaining() == 0 && state > 0 {
                break;
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Returns how many plain bytes there are to read.
    fn process(&mut self) -> io::Result<usize> {
        match self.session.process_new_packets() {
            Ok(state) => Ok(state.plaintext_bytes_to_read()),
            Err(error) => {
                self.says_goodbye = false;
                // The alert, as far as the socket takes it now.
                let _ = self.session.write_tls(&mut Now(&self.tcp));
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Takes bytes once all earlier ones are with the socket; [`Secured::has_unsent`] tells
    /// whether these are, too.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let mut writer = self.session.writer();
        let count = match parts {
            _ if buffer::is_scarce() => {
                let part = parts.iter().find(|part| !part.is_empty());
                let part = part.map_or(&[][..], |part| &part[..part.len().min(SCARCE_WRITE_MAX)]);
                writer.write(part)?
            }
            [one] if one.len() <= buffer::COPY_PIECE => writer.write(one)?,
            several => {
                let mut pieces = [IoSlice::new(&[]); PARTS_MAX];
                let count = cut(several, &mut pieces);
                writer.write_vectored(&pieces[..count])?
            }
        };
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    /// Gives the socket all that the session has for it.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Waiting { tcp: &mut self.tcp, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says that everything was sent, and closes the sending side.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.says_goodbye) {
            self.session.send_close_notify();
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    /// Nothing has come but what was for the session, such as a ticket.
    pub(crate) fn is_quiet(&mut self) -> bool {
        loop {
            if self.news().is_some() {
                return false;
            }
            let read = RECEIVED.with_borrow_mut(|received| {
                let count = self.tcp.try_read(&mut received[..RECEIVE_MIN])?;
                self.receive(&received[..count], &mut ReadBuf::new(&mut []))
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Ok(1..) => {}
                Ok(0) | Err(_) => return false,
            }
        }
    }

    pub(crate) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        loop {
            if let Some(news) = self.news() {
                return Poll::Ready(news);
            }
            match ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut []))) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(News::Closed),
            }
        }
    }

    fn news(&mut self) -> Option<News> {
        match self.session.process_new_packets() {
            Err(_) => Some(News::Closed),
            Ok(state) if state.plaintext_bytes_to_read() > 0 => Some(News::More),
            Ok(state) if state.peer_has_closed() => Some(News::Closed),
            Ok(_) if !self.held.is_empty() => Some(News::More),
            Ok(_) => None,
        }
    }
}

/// Cuts parts into pieces that are copied fast, as many as there is room for. Returns how many.
fn cut<'p>(parts: &'p [IoSlice<'_>], pieces: &mut [IoSlice<'p>]) -> usize {
    let all = parts.iter().flat_map(|part| part.chunks(buffer::COPY_PIECE));
    pieces.iter_mut().zip(all).map(|(piece, part)| *piece = IoSlice::new(part)).count()
}

impl Drop for Secured {
    fn drop(&mut self) {
        if self.says_goodbye {
            self.session.send_close_notify();
            // A socket that takes nothing now belongs to somebody who does not listen.
            let _ = self.session.write_tls(&mut Now(&self.tcp));
        }
    }
}

/// How much is read at once for so much room.
fn asked_for(room: &ReadBuf<'_>) -> usize {
    room.remaining().clamp(RECEIVE_MIN, RECEIVE_MAX)
}

/// The socket for a writer who comes back when it takes more.
struct Waiting<'s, 'cx, 'w> {
    tcp: &'s mut TcpStream,
    cx: &'cx mut Context<'w>,
}

impl Write for Waiting<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut *self.tcp).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        now(Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, parts))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket for what is sent now or never.
struct Now<'s>(&'s TcpStream);

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_and_say_the_same() {
        let bytes: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
        for ends in [&[40_000][..], &[0, 1, 2_048, 2_049, 40_000], &[100, 39_998, 40_000]] {
            let mut from = 0;
            let part = |&to: &usize| IoSlice::new(&bytes[std::mem::replace(&mut from, to)..to]);
            let parts: Vec<IoSlice<'_>> = ends.iter().map(part).collect();
            let mut pieces = [IoSlice::new(&[]); PARTS_MAX];
            let count = cut(&parts, &mut pieces);
            assert!(pieces[..count].iter().all(|piece| piece.len() <= buffer::COPY_PIECE));
            let said: Vec<u8> = pieces[..count].iter().flat_map(|piece| piece.to_vec()).collect();
            assert_eq!(said, bytes);
        }
    }

    #[test]
    fn there_are_no_more_pieces_than_there_is_room_for() {
        let bytes = vec![0; 256 * 1024];
        let mut pieces = [IoSlice::new(&[]); PARTS_MAX];
        assert_eq!(cut(&[IoSlice::new(&bytes)], &mut pieces), PARTS_MAX);
    }
}
