//! The backend of the comparison: answers made before the first request, one thread, one read and
//! one write a request, so that what is left to differ is the proxy.
//!
//! `/small` 128 bytes, `/64k`, `/1m`, `/chunked` 1 KiB in four chunks, `/last` as `/small` on a
//! connection that ends with it. Any other path is a 404.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);
/// Larger than any head of the comparison.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const EVENTS_MAX: usize = 1024;

type Answers = HashMap<&'static [u8], Arc<[u8]>>;

fn answers() -> Answers {
    let sized = |bytes: usize, more: &str| -> Arc<[u8]> {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nServer: backend\r\n{more}Content-Type: text/plain\r\nContent-Length: {bytes}\r\n\r\n")
                .into_bytes();
        answer.resize(answer.len() + bytes, b'x');
        answer.into()
    };
    let mut chunked =
        b"HTTP/1.1 200 OK\r\nServer: backend\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..4 {
        chunked.extend_from_slice(b"100\r\n");
        chunked.extend_from_slice(&[b'x'; 256]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    HashMap::from([
        (&b"/small"[..], sized(128, "")),
        (b"/64k", sized(64 << 10, "")),
        (b"/1m", sized(1 << 20, "")),
        (b"/last", sized(128, "Connection: close\r\n")),
        (b"/chunked", chunked.into()),
    ])
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    /// What is being sent, and how much of it is.
    output: Option<(Arc<[u8]>, usize)>,
    /// The socket had no more than was read: the next byte comes with an event.
    drained: bool,
    close: bool,
}

impl Connection {
    /// Moves on as far as the socket lets it; false when it is over.
    fn turn(&mut self, answers: &Answers, missing: &Arc<[u8]>) -> bool {
        loop {
            if let Some((answer, at)) = &mut self.output {
                match self.stream.write(&answer[*at..]) {
                    Ok(count) => *at += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                    Err(_) => return false,
                }
                if *at < answer.len() {
                    continue;
                }
                self.output = None;
                if self.close {
                    return false;
                }
            }
            if self.input.is_empty() || !self.begin(answers, missing) {
                if self.drained {
                    return true;
                }
                let mut room = [0; HEAD_BYTES_MAX];
                match self.stream.read(&mut room) {
                    Ok(0) => return false,
                    Ok(count) => {
                        self.drained = count < room.len();
                        self.input.extend_from_slice(&room[..count]);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                    Err(_) => return false,
                }
                if self.input.len() > HEAD_BYTES_MAX || !self.begin(answers, missing) {
                    return self.input.len() <= HEAD_BYTES_MAX;
                }
            }
        }
    }

    /// Takes a whole head, if there is one, and makes its answer due.
    fn begin(&mut self, answers: &Answers, missing: &Arc<[u8]>) -> bool {
        let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") else {
            return false;
        };
        let path = self.input.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let answer = answers.get(path).unwrap_or(missing);
        let head = &self.input[..end];
        self.close = head.windows(17).any(|line| line.eq_ignore_ascii_case(b"connection: close"));
        self.output = Some((Arc::clone(answer), 0));
        self.input.drain(..end + 4);
        true
    }
}

/// Serves until it is killed.
pub fn run(addr: SocketAddr) -> std::io::Result<()> {
    let answers = answers();
    let missing: Arc<[u8]> = (*b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").into();
    let mut listener = TcpListener::bind(addr)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS_MAX);
    let mut connections = HashMap::new();
    let mut next = LISTENER.0;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() != LISTENER {
                let Some(connection): Option<&mut Connection> = connections.get_mut(&event.token())
                else {
                    continue;
                };
                connection.drained &= !event.is_readable();
                if !connection.turn(&answers, &missing) {
                    connections.remove(&event.token());
                }
                continue;
            }
            while let Ok((mut stream, _)) = listener.accept() {
                next += 1;
                let _ = stream.set_nodelay(true);
                poll.registry().register(
                    &mut stream,
                    Token(next),
                    Interest::READABLE | Interest::WRITABLE,
                )?;
                let connection =
                    Connection { stream, input: Vec::new(), output: None, drained: false, close: false };
                connections.insert(Token(next), connection);
            }
        }
    }
}
