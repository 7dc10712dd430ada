//! The slow clients, and the instance that they and others are sent to: a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Names the number of each kind to the process that is the crowd.
const SHAPE: &str = "PORTOLAN_TEST_CROWD";
const ADDRESS: &str = "crowd's instance: ";
/// Connections that are opened at once.
const AT_ONCE: usize = 64;
/// The instance's part of the crowd may come at once.
const BACKLOG: u32 = 4096;
const PAUSE: Duration = Duration::from_secs(1);

/// How many clients there are of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Send their head a byte a second.
    pub heads: usize,
    /// Send their body a byte a second.
    pub bodies: usize,
    /// Read nothing of a large response.
    pub readers: usize,
}

impl Shape {
    pub fn all(self) -> usize {
        self.heads + self.bodies + self.readers
    }
}

/// The other process. It ends when this is dropped.
pub struct Crowd {
    child: Child,
    /// Open for what the test harness says of a test that runs for long.
    _output: BufReader<ChildStdout>,
    pub instance: SocketAddr,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may have ended with a panic already, which the test has seen as a missing crowd.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Crowd {
    pub fn start(shape: Shape) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "crowd::is_the_crowd", "--nocapture"])
            .env(SHAPE, format!("{} {} {}", shape.heads, shape.bodies, shape.readers))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let instance = (&mut output)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once(ADDRESS)?.1.parse().ok())
            .expect("the crowd names its instance");
        Self { child, _output: output, instance }
    }

    /// Lets it connect to the router.
    pub fn come(&mut self, router: SocketAddr) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{router}").unwrap();
    }
}

#[test]
#[ignore = "the other process of the test of slow clients, which starts it"]
fn is_the_crowd() {
    let Ok(shape) = std::env::var(SHAPE) else { return };
    let mut counts = shape.split(' ').map(|count| count.parse().unwrap());
    let mut next = || counts.next().unwrap();
    let shape = Shape { heads: next(), bodies: next(), readers: next() };
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(crowd(shape));
}

async fn crowd(shape: Shape) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(BACKLOG).unwrap();
    println!("{ADDRESS}{}", listener.local_addr().unwrap());
    tokio::spawn(instance(listener));
    // Read by a thread: the end of it is the end of us.
    let router = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        line.trim().parse::<SocketAddr>().unwrap()
    })
    .await
    .unwrap();
    let kinds = [
        (shape.heads, "GET / HTTP/1.1\r\nHost: web.test\r\nX-Slow: "),
        (shape.bodies, "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 100000\r\n\r\n"),
        (shape.readers, "GET /large HTTP/1.1\r\nHost: web.test\r\n\r\n"),
    ];
    let at_once = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    for (kind, (count, begin)) in kinds.into_iter().enumerate() {
        for _ in 0..count {
            let permit = std::sync::Arc::clone(&at_once).acquire_owned().await.unwrap();
            tokio::spawn(async move {
                let stream = connect(router, kind == 2).await;
                drop(permit);
                client(stream, begin, kind == 2).await;
            });
        }
    }
    std::future::pending::<()>().await;
}

async fn connect(router: SocketAddr, reads_nothing: bool) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if reads_nothing {
        // What the kernel queues for it is then tens of KiB and not megabytes.
        socket.set_recv_buffer_size(1).unwrap();
        SockRef::from(&socket).set_tcp_mss(536).unwrap();
    }
    socket.connect(router).await.unwrap()
}

async fn client(mut stream: TcpStream, begin: &str, reads_nothing: bool) {
    if stream.write_all(begin.as_bytes()).await.is_err() {
        return;
    }
    if reads_nothing {
        std::future::pending::<()>().await;
    }
    let mut answer = [0; 1024];
    loop {
        tokio::select! {
            // Only after the router has ended it.
            _ = stream.read(&mut answer) => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        if stream.write_all(b"x").await.is_err() {
            return;
        }
    }
}

/// Answers one path with more than anybody takes and others at once; reads bodies to the end.
async fn instance(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        SockRef::from(&stream).set_send_buffer_size(16 * 1024).unwrap();
        tokio::spawn(async move {
            let mut stream = tokio::io::BufReader::with_capacity(1024, stream);
            while let Some(start) = head(&mut stream).await {
                let sent = match start.split(' ').next() {
                    Some("POST") => tokio::io::copy(&mut stream, &mut tokio::io::sink()).await,
                    _ if start.contains("/large") => {
                        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
                        let mut all = head.chain(tokio::io::repeat(b'x'));
                        tokio::io::copy_buf(
                            &mut tokio::io::BufReader::with_capacity(4096, &mut all),
                            &mut stream,
                        )
                        .await
                    }
                    _ => {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(answer).await.map(|()| 0)
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
    }
}

/// Reads a head and returns its first line.
async fn head(stream: &mut tokio::io::BufReader<TcpStream>) -> Option<String> {
    let mut start = None;
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(1..) if line == "\r\n" => return start,
            Ok(1..) => start.get_or_insert(line),
            _ => return None,
        };
    }
}
