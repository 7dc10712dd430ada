//! A resolver in this process, on ports of its own, and clients for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use portolan_dns::{Config, Dns, Upstreams};
use prometheus::Registry;

use crate::fixture::Fixture;
use crate::message::{Ask, read};

/// Nothing here takes longer, even on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A resolver that answers.
pub struct Live {
    pub dns: Dns,
    pub addr: SocketAddr,
    pub registry: Registry,
}

/// The configuration of every test: loopback, any port, two threads.
pub fn config(upstreams: &[SocketAddr]) -> Config {
    Config {
        bind: vec!["127.0.0.1:0".parse().unwrap()],
        upstreams: Upstreams::Static(upstreams.to_vec()),
        workers: NonZeroUsize::new(2).unwrap(),
        ..Config::default()
    }
}

impl Live {
    pub fn start(upstreams: &[SocketAddr]) -> Self {
        Self::with(config(upstreams), &Fixture::parse("instance web a 10.0.0.1:80"))
    }

    pub fn with(config: Config, fixture: &Fixture) -> Self {
        let registry = Registry::new();
        let bound = Dns::bind(config, &registry).unwrap();
        let addr = bound.local_addrs()[0];
        Self { dns: bound.start(fixture.zone()).unwrap(), addr, registry }
    }

    /// Asks by UDP for the addresses of `name`.
    pub fn ask(&self, name: &str) -> Message {
        ask(self.addr, &Ask::new(name, RecordType::A))
    }

    pub fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection { stream }
    }

    /// A counter's or gauge's value; `labels` are those that must be there.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let of = |metric: &prometheus::proto::Metric| {
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        let has = |metric: &&prometheus::proto::Metric| {
            labels.iter().all(|(label, value)| {
                metric
                    .get_label()
                    .iter()
                    .any(|pair| pair.name() == *label && pair.value() == *value)
            })
        };
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        metrics.iter().filter(has).map(of).sum::<f64>() as i64
    }

    pub fn stop(self) {
        block_on(self.dns.stop());
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Waits until `ready` says so.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = now();
    while !ready() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[expect(clippy::disallowed_methods, reason = "tests of real sockets measure real time")]
pub fn now() -> Instant {
    Instant::now()
}

pub fn client(addr: SocketAddr) -> UdpSocket {
    let local = if addr.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(addr).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The bytes of the next reply.
pub fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("a reply in time");
    buffer[..length].to_vec()
}

/// Asks by UDP; the reply has the id and the question, letter by letter.
pub fn ask(addr: SocketAddr, ask: &Ask) -> Message {
    let socket = client(addr);
    socket.send(&ask.bytes()).unwrap();
    let reply = receive(&socket);
    let message = read(&reply);
    assert_eq!(message.metadata.id, ask.id);
    assert!(reply[12..].starts_with(&ask.question()), "{}", reply.escape_ascii());
    message
}

/// A connection by TCP.
pub struct Connection {
    pub stream: TcpStream,
}

impl Connection {
    pub fn send(&mut self, asks: &[Ask]) {
        let mut bytes = Vec::new();
        for ask in asks {
            let query = ask.bytes();
            bytes.extend_from_slice(&u16::try_from(query.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&query);
        }
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn receive(&mut self) -> std::io::Result<Message> {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length)?;
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        self.stream.read_exact(&mut reply)?;
        Ok(read(&reply))
    }

    pub fn ask(&mut self, ask: &Ask) -> Message {
        self.send(std::slice::from_ref(ask));
        self.receive().unwrap()
    }
}

/// The response code as a number.
pub fn code(message: &Message) -> u16 {
    message.metadata.response_code.into()
}
