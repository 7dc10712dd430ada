//! A line between two processes: messages as JSON, one a line, and open files beside them.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Files that go with one message. The kernel's limit is 253.
pub const FILES_MAX: usize = 64;
/// Files that wait for the message they belong to: every socket of the largest configuration.
const FILES_WAITING_MAX: usize = 65_536;
/// A longer message is not one of ours: it could hold a whole table, which has at most as much.
const LINE_BYTES_MAX: usize = 1 << 30;
const READ_BYTES: usize = 64 << 10;

/// Why nothing was heard.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other process has ended, or wants no more of it.
    #[error("it has closed the line")]
    Closed,
    /// The line is broken.
    #[error("the line is broken: {0}")]
    Io(#[from] io::Error),
    /// The other process says something else than we do.
    #[error("it says what cannot be understood: {0}")]
    Garbled(#[from] serde_json::Error),
    /// A message without end, or without the files that it speaks of.
    #[error("it says what cannot be right: {0}")]
    Wrong(&'static str),
}

/// Both directions.
#[derive(Debug)]
pub struct Channel {
    /// What is said.
    pub to: Sender,
    /// What is heard.
    pub from: Receiver,
}

/// Says messages; one at a time, so that they do not mix.
#[derive(Debug)]
pub struct Sender {
    stream: Arc<UnixStream>,
}

/// Hears messages.
#[derive(Debug)]
pub struct Receiver {
    stream: Arc<UnixStream>,
    room: Box<[u8]>,
    inbox: Vec<u8>,
    /// So much of the inbox has no end of a message in it.
    looked_at: usize,
    files: VecDeque<OwnedFd>,
}

impl Channel {
    /// A line over `stream`. Needs a runtime.
    pub fn new(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = Arc::new(UnixStream::from_std(stream)?);
        let from = Receiver {
            stream: stream.clone(),
            room: vec![0; READ_BYTES].into(),
            inbox: Vec::new(),
            looked_at: 0,
            files: VecDeque::new(),
        };
        Ok(Self { to: Sender { stream }, from })
    }
}

impl Sender {
    /// Says `message`; at most [`FILES_MAX`] files go with it. Not safe to drop while it waits.
    pub async fn send(
        &mut self,
        message: &impl Serialize,
        files: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut sent = 0;
        while sent < line.len() {
            // They belong to the first byte.
            let files = if sent == 0 { files } else { &[] };
            let rest = &line[sent..];
            let send = || send_once(&self.stream, rest, files);
            sent += self.stream.async_io(Interest::WRITABLE, send).await?;
        }
        Ok(())
    }
}

fn send_once(stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files for one message"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags)?)
}

impl Receiver {
    /// The next message. Safe to drop and call again.
    pub async fn receive<M: DeserializeOwned>(&mut self) -> Result<M, ChannelError> {
        loop {
            let end = self.inbox[self.looked_at..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let end = self.looked_at + end;
                let message = serde_json::from_slice(&self.inbox[..end]);
                self.inbox.drain(..=end);
                self.looked_at = 0;
                return Ok(message?);
            }
            self.looked_at = self.inbox.len();
            if self.looked_at > LINE_BYTES_MAX || self.files.len() > FILES_WAITING_MAX {
                return Err(ChannelError::Wrong("a message without end"));
            }
            let Self { stream, room, inbox, files, .. } = self;
            let read = || receive_once(stream, room, inbox, files);
            if stream.async_io(Interest::READABLE, read).await? == 0 {
                return Err(ChannelError::Closed);
            }
        }
    }

    /// The next `count` files. They come before the message that speaks of them is whole.
    pub fn files(&mut self, count: usize) -> Result<Vec<OwnedFd>, ChannelError> {
        if self.files.len() < count {
            return Err(ChannelError::Wrong("files are missing"));
        }
        Ok(self.files.drain(..count).collect())
    }
}

fn receive_once(
    stream: &UnixStream,
    room: &mut [u8],
    inbox: &mut Vec<u8>,
    files: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    /// The most that the kernel passes at once: with less room some would be lost.
    const AT_ONCE: usize = 253;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = recvmsg(stream, &mut [IoSliceMut::new(room)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            files.extend(passed);
        }
    }
    inbox.extend_from_slice(&room[..got.bytes]);
    Ok(got.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (a, b) = StdStream::pair().unwrap();
        (Channel::new(a).unwrap(), Channel::new(b).unwrap())
    }

    #[tokio::test]
    async fn messages_and_files_arrive_whole_and_in_order() {
        let (mut a, mut b) = pair();
        let sockets: Vec<_> =
            (0..FILES_MAX + 3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addrs: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        let long = "x".repeat(3 << 20);
        let say = async {
            for chunk in sockets.chunks(FILES_MAX) {
                let files: Vec<_> = chunk.iter().map(AsFd::as_fd).collect();
                a.to.send(&files.len(), &files).await.unwrap();
            }
            a.to.send(&long, &[]).await.unwrap();
            a.to.send(&"end", &[]).await.unwrap();
        };
        let hear = async {
            let mut got = Vec::new();
            while got.len() < addrs.len() {
                let count: usize = b.from.receive().await.unwrap();
                got.extend(b.from.files(count).unwrap());
            }
            assert_eq!(b.from.receive::<String>().await.unwrap().len(), 3 << 20);
            assert_eq!(b.from.receive::<String>().await.unwrap(), "end");
            got
        };
        let ((), got) = tokio::join!(say, hear);
        let got: Vec<_> =
            got.into_iter().map(|fd| TcpListener::from(fd).local_addr().unwrap()).collect();
        assert_eq!(got, addrs);
    }

    #[tokio::test]
    async fn an_end_and_nonsense_are_told_apart() {
        let (a, b) = StdStream::pair().unwrap();
        let mut b = Channel::new(b).unwrap();
        (&a).write_all(b"{]\n").unwrap();
        let heard = b.from.receive::<String>().await;
        assert!(matches!(heard, Err(ChannelError::Garbled(_))), "{heard:?}");
        assert!(matches!(b.from.files(1), Err(ChannelError::Wrong(_))));
        drop(a);
        let heard = b.from.receive::<String>().await;
        assert!(matches!(heard, Err(ChannelError::Closed)), "{heard:?}");
    }
}
