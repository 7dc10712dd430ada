//! Clients that wait between two requests.

use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpStream};

/// Holds `connections` that have had one response each, until the input ends.
pub fn run(addr: SocketAddr, path: &str, connections: usize) -> Result<()> {
    let request = crate::request(path);
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = TcpStream::connect(addr)?;
        stream.write_all(&request)?;
        let mut got = Vec::new();
        let mut room = [0; 4096];
        while crate::response_len(&got).is_none() {
            match stream.read(&mut room)? {
                0 => return Err(std::io::Error::other("closed before its response was whole")),
                count => got.extend_from_slice(&room[..count]),
            }
        }
        held.push(stream);
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
