//! Upstreams that do what real ones do: answer, be slow, be silent, fail, be cut, be forged.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How an upstream treats a query by UDP. By TCP it always answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Answer,
    Slow(Duration),
    Silent,
    Code(u8),
    /// Says that the answer is cut.
    Cut,
    /// Sends forgeries first: another id, another name, another type. Then the answer.
    Forged,
    /// Does not know OPT.
    NoEdns,
    /// Spells the question in lower case.
    Lower,
    /// Half an answer.
    Broken,
}

#[derive(Debug)]
struct State {
    manner: Mutex<Manner>,
    asked: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// An upstream on a port of its own, by UDP and TCP.
#[derive(Debug)]
pub struct Fake {
    pub addr: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

impl Fake {
    pub fn start(manner: Manner) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().unwrap();
        let state = Arc::new(State {
            manner: Mutex::new(manner),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (by_udp, by_tcp) = (state.clone(), state.clone());
        let threads = vec![
            std::thread::spawn(move || serve_udp(&udp, &by_udp)),
            std::thread::spawn(move || serve_tcp(&tcp, &by_tcp)),
        ];
        Self { addr, state, threads }
    }

    pub fn set(&self, manner: Manner) {
        *self.state.manner.lock().unwrap() = manner;
    }

    /// The names it was asked for, in lower case, by either transport.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    /// How often it was asked for `name`.
    pub fn count(&self, name: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == name).count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn serve_udp(socket: &UdpSocket, state: &State) {
    let mut buffer = [0; 4096];
    while !state.stop.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let query = buffer[..length].to_vec();
        state.asked.lock().unwrap().push(name_of(&query));
        let manner = *state.manner.lock().unwrap();
        let socket = socket.try_clone().unwrap();
        // Slow answers must not hold up others.
        let send = move || {
            for reply in replies(&query, manner) {
                // Who asked may be gone.
                let _ = socket.send_to(&reply, peer);
            }
        };
        match manner {
            Manner::Slow(after) => drop(std::thread::spawn(move || {
                std::thread::sleep(after);
                send();
            })),
            _ => send(),
        }
    }
}

fn serve_tcp(listener: &TcpListener, state: &State) {
    while !state.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                // Who asked may be gone.
                let _ = serve_connection(stream, state);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn serve_connection(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut query)?;
    state.asked.lock().unwrap().push(name_of(&query));
    let reply = answer(&query);
    stream.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes())?;
    stream.write_all(&reply)
}

fn replies(query: &[u8], manner: Manner) -> Vec<Vec<u8>> {
    let good = answer(query);
    let changed = |at: usize, byte: u8| {
        let mut reply = good.clone();
        reply[at] = byte;
        reply
    };
    match manner {
        Manner::Answer | Manner::Slow(_) => vec![good],
        Manner::Silent => vec![],
        Manner::Code(code) => vec![with_code(query, code)],
        Manner::NoEdns if query[11] > 0 => vec![with_code(query, 1)],
        Manner::NoEdns => vec![good],
        Manner::Cut => {
            let mut reply = with_code(query, 0);
            reply[2] |= 0x02;
            vec![reply]
        }
        Manner::Forged => {
            let id = good[1].wrapping_add(1);
            let last_of_type = question_end(query) - 3;
            let forged = [changed(1, id), changed(13, b'x'), changed(last_of_type, 99)];
            // In a forgery the address is another one, so that a test can tell.
            let mut forged: Vec<Vec<u8>> = forged.into();
            for reply in &mut forged {
                if let Some(last) = reply.last_mut() {
                    *last = 66;
                }
            }
            [forged, vec![good]].concat()
        }
        Manner::Lower => {
            let mut reply = good;
            let end = question_end(query) - 4;
            reply[12..end].make_ascii_lowercase();
            vec![reply]
        }
        Manner::Broken => vec![good[..good.len() - 3].to_vec()],
    }
}

fn question_end(query: &[u8]) -> usize {
    let mut at = 12;
    while query[at] > 0 {
        at += 1 + usize::from(query[at]);
    }
    at + 5
}

fn name_of(query: &[u8]) -> String {
    let mut name = String::new();
    let mut at = 12;
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    name
}

fn with_code(query: &[u8], code: u8) -> Vec<u8> {
    let mut reply = query[..question_end(query)].to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80 | code;
    reply[6..12].fill(0);
    reply
}

/// What there is under a name is in its first letters: `nx`, `nodata`, `many`, else an address.
fn answer(query: &[u8]) -> Vec<u8> {
    let name = name_of(query);
    let end = question_end(query);
    let qtype = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let mut reply = with_code(query, if name.starts_with("nx") { 3 } else { 0 });
    let mut add = |section: usize, rtype: u16, ttl: u32, rdata: &[u8]| {
        reply[section] += 1;
        reply.extend_from_slice(&[0xc0, 0x0c]);
        reply.extend_from_slice(&rtype.to_be_bytes());
        reply.extend_from_slice(&[0, 1]);
        reply.extend_from_slice(&ttl.to_be_bytes());
        reply.extend_from_slice(&u16::try_from(rdata.len()).unwrap().to_be_bytes());
        reply.extend_from_slice(rdata);
    };
    let soa = [&[0_u8, 0][..], &[0; 16], &30_u32.to_be_bytes()].concat();
    match qtype {
        _ if name.starts_with("nx") || name.starts_with("nodata") => add(9, 6, 60, &soa),
        1 if name.starts_with("many") => (0..60).for_each(|n| add(7, 1, 60, &[192, 0, 2, n])),
        1 => add(7, 1, 60, &[192, 0, 2, 1]),
        2 => add(7, 2, 60, &[1, b'x', 0]),
        other => add(7, other, 60, &(0..=255).collect::<Vec<u8>>()),
    }
    if query[11] > 0 {
        reply[11] = 1;
        reply.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    reply
}
