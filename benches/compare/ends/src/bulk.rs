//! Bytes and nothing else, through a TCP proxy: a source that writes for as long as somebody
//! reads, and readers that throw away what comes without copying it, so that both ends together
//! cost less than the proxy.

use std::io::{Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

const PIECE: usize = 256 * 1024;

/// Serves until it is killed.
pub fn source(addr: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(addr)?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || {
            let piece = vec![b'x'; PIECE];
            // Until the reader has gone.
            while stream.write_all(&piece).is_ok() {}
        });
    }
    Ok(())
}

/// Reads over so many connections at once, and prints how many bytes came.
pub fn sink(addr: SocketAddr, connections: usize, lasts: Duration) -> Result<()> {
    let end = Instant::now() + lasts;
    let readers: Vec<_> =
        (0..connections).map(|_| std::thread::spawn(move || read(addr, end))).collect();
    let mut bytes = 0;
    for reader in readers {
        bytes += reader.join().expect("a reader that does not panic")?;
    }
    println!("{bytes}");
    Ok(())
}

fn read(addr: SocketAddr, end: Instant) -> Result<u64> {
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut room = vec![0; PIECE];
    let mut bytes = 0;
    while Instant::now() < end {
        // TRUNC: the kernel drops the bytes (tcp(7)).
        let (_, count) = recv(stream.as_fd(), &mut room[..], RecvFlags::TRUNC)?;
        if count == 0 {
            return Err(std::io::Error::other("the source ended"));
        }
        bytes += count as u64;
    }
    Ok(bytes)
}
