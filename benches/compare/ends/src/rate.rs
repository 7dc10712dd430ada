//! Requests at a fixed rate, whatever comes back: the k-th is due k/rate seconds after the start,
//! and its latency counts from then, also when no connection was free (no coordinated omission).
//! What is due is looked at each millisecond, so requests come in small bursts.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

const EVENTS_MAX: usize = 1024;
const LOOK: Duration = Duration::from_millis(1);
/// How long late responses are waited for.
const GRACE: Duration = Duration::from_secs(2);

/// What is sent where.
pub struct Load<'a> {
    pub addr: SocketAddr,
    pub path: &'a str,
    pub connections: usize,
    pub per_second: f64,
    pub lasts: Duration,
}

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    /// When the request that is under way was due.
    due: Option<Instant>,
}

/// Sends, and prints what became of it.
pub fn run(load: &Load<'_>) -> Result<()> {
    let request = crate::request(load.path);
    let mut poll = Poll::new()?;
    let mut clients = Vec::with_capacity(load.connections);
    for index in 0..load.connections {
        let stream = std::net::TcpStream::connect(load.addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        clients.push(Client { stream, input: Vec::new(), due: None });
    }
    let mut free: VecDeque<usize> = (0..clients.len()).collect();
    let mut waiting = VecDeque::new();
    let mut latencies: Vec<u32> = Vec::new();
    let (mut scheduled, mut failed) = (0u64, 0u64);
    let total = (load.per_second * load.lasts.as_secs_f64()) as u64;
    let mut events = Events::with_capacity(EVENTS_MAX);
    let start = Instant::now();
    while (latencies.len() as u64 + failed) < total && start.elapsed() < load.lasts + GRACE {
        let due = ((start.elapsed().as_secs_f64() * load.per_second) as u64).min(total);
        for number in scheduled..due {
            waiting.push_back(start + Duration::from_secs_f64(number as f64 / load.per_second));
        }
        scheduled = due;
        while !waiting.is_empty() && !free.is_empty() {
            let (index, due) = (free.pop_front().unwrap_or(0), waiting.pop_front());
            let client = &mut clients[index];
            client.due = due;
            if client.stream.write(&request).ok() != Some(request.len()) {
                failed += 1;
            }
        }
        poll.poll(&mut events, Some(LOOK)).or_else(|error| match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        })?;
        for event in &events {
            let index = event.token().0;
            let client = &mut clients[index];
            match receive(client) {
                // It stays out of the queue: a connection that is gone serves no more.
                Err(_) => failed += u64::from(client.due.take().is_some()),
                Ok(false) => {}
                Ok(true) => {
                    if let Some(due) = client.due.take() {
                        latencies.push(due.elapsed().as_micros() as u32);
                        free.push_back(index);
                    }
                }
            }
        }
    }
    let failed = total - latencies.len() as u64;
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies.get(place.min(latencies.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    println!("{total} {failed} {} {} {}", at(0.5), at(0.99), at(0.999));
    Ok(())
}

/// Whether a response is whole now.
fn receive(client: &mut Client) -> Result<bool> {
    let mut room = [0; 16 * 1024];
    loop {
        match client.stream.read(&mut room) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => client.input.extend_from_slice(&room[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    let Some(len) = crate::response_len(&client.input) else { return Ok(false) };
    client.input.drain(..len);
    Ok(true)
}
