//! Ports for stages that no other test gets, of this process or another that runs on the machine.
//!
//! They are asked for by name, not by binding them: another test may be starting a program at that
//! moment, and until that program runs it has a copy of all our sockets.

use std::fs;
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// Below the kernel's ephemeral range, so that no client of another test gets one first.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// The jobs of one stage have room in it.
const BLOCK: u16 = 40;

/// Some ports in a row. They belong to whoever holds this; the name of an abstract socket, which
/// ends with its process, is the claim.
#[derive(Debug)]
pub struct Block {
    first: u16,
    _claim: UnixListener,
}

impl Block {
    /// A block that nobody else has.
    pub fn claim() -> Self {
        let blocks = (PORTS.end - PORTS.start) / BLOCK;
        // Another process begins elsewhere: what one has let go of, the other does not take at once.
        let begin = u16::try_from(std::process::id() % u32::from(blocks)).unwrap();
        let mut order = (begin..blocks).chain(0..begin).map(|block| PORTS.start + block * BLOCK);
        order.find_map(Self::at).expect("a block of ports is free")
    }

    fn at(first: u16) -> Option<Self> {
        let name = format!("portolan-test-ports-{first}");
        let claim = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).ok()?;
        Some(Self { first, _claim: claim })
    }

    pub fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.first + BLOCK - 1
    }
}

/// A port that nobody listens on, by TCP and UDP, and that no other stage gets while this process
/// runs.
pub fn free_port() -> u16 {
    static LEFT: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    static CLAIMED: Mutex<Vec<Block>> = Mutex::new(Vec::new());
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        while let Some(port) = left.pop() {
            if is_free(port) {
                return port;
            }
        }
        let block = Block::claim();
        left.extend(block.ports().rev());
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }
}

/// Whether no socket of this machine has the port, but for ends of connections that are over.
fn is_free(port: u16) -> bool {
    const TIME_WAIT: &str = "06";
    let of_port = format!(":{port:04X}");
    ["tcp", "tcp6", "udp", "udp6"].iter().all(|kind| {
        let sockets = fs::read_to_string(format!("/proc/net/{kind}")).unwrap_or_default();
        !sockets.lines().skip(1).any(|socket| {
            let mut words = socket.split_ascii_whitespace().skip(1);
            let (local, state) = (words.next(), words.nth(1));
            local.is_some_and(|local| local.ends_with(&of_port)) && state != Some(TIME_WAIT)
        })
    })
}
