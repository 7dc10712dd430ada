//! Small datagrams: a server that sends back what it gets, and clients of which each has one
//! datagram under way at a time.

use std::io::{ErrorKind, Result};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

const BYTES: usize = 64;
/// After this a datagram is lost and another one is sent.
const LOST: Duration = Duration::from_millis(200);
const EVENTS_MAX: usize = 1024;

/// Serves until it is killed.
pub fn echo(addr: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(addr)?;
    let mut room = [0; 2048];
    loop {
        let (count, peer) = socket.recv_from(&mut room)?;
        // What the kernel has no room for is lost, as on any way.
        let _ = socket.send_to(&room[..count], peer);
    }
}

struct Client {
    socket: mio::net::UdpSocket,
    sent: Instant,
}

/// Asks for so long, and prints how many answers came and how many datagrams were lost.
pub fn ask(addr: SocketAddr, clients: usize, lasts: Duration) -> Result<()> {
    let mut poll = Poll::new()?;
    let question = [b'q'; BYTES];
    let start = Instant::now();
    let mut all = Vec::with_capacity(clients);
    for index in 0..clients {
        let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(addr)?;
        socket.set_nonblocking(true)?;
        let mut socket = mio::net::UdpSocket::from_std(socket);
        poll.registry().register(&mut socket, Token(index), Interest::READABLE)?;
        socket.send(&question)?;
        all.push(Client { socket, sent: start });
    }
    let (mut answers, mut lost) = (0u64, 0u64);
    let mut events = Events::with_capacity(EVENTS_MAX);
    let mut room = [0; 2048];
    while start.elapsed() < lasts {
        match poll.poll(&mut events, Some(LOST)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        let now = Instant::now();
        for event in &events {
            let client = &mut all[event.token().0];
            // An answer to a datagram that was given up is as good as one to the next.
            while client.socket.recv(&mut room).is_ok() {
                answers += 1;
                client.sent = now;
                let _ = client.socket.send(&question);
            }
        }
        for client in all.iter_mut().filter(|client| now - client.sent > LOST) {
            lost += 1;
            client.sent = now;
            let _ = client.socket.send(&question);
        }
    }
    println!("{answers} {lost}");
    Ok(())
}
