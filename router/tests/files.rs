//! A process that has run out of file descriptors. A test target of its own: the limit is the
//! whole process's.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "proxy/instance.rs"]
#[expect(dead_code, reason = "this test needs little of it")]
mod instance;
#[path = "proxy/peer.rs"]
#[expect(dead_code, reason = "this test needs little of it")]
mod peer;
#[path = "proxy/rig.rs"]
#[expect(dead_code, reason = "this test needs little of it")]
mod rig;

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpSocket;
use tokio::time::Instant;

use instance::Instance;
use peer::{Peer, within};
use rig::{Rig, until};

const WAITING: usize = 8;

fn allow_files(count: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).unwrap();
}

/// As many as there are open now: no more can be opened.
fn forbid_more_files() -> u64 {
    let before = getrlimit(Resource::Nofile).current.unwrap();
    let highest = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().parse::<u64>().unwrap())
        .max()
        .unwrap();
    // The highest may be that of the folder that was just read; it is closed again.
    allow_files(highest);
    before
}

/// Takes the free numbers below the limit.
fn fill_gaps() -> Vec<std::fs::File> {
    std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect()
}

async fn connect(socket: TcpSocket, to: SocketAddr) -> Peer {
    Peer::of(within("a connection", socket.connect(to)).await.unwrap())
}

#[tokio::test]
async fn without_files_who_is_served_stays_served_and_who_waits_is_served_later() {
    let instance = Instance::named("a").await;
    let rig = Rig::web(&[instance.addr]);
    let mut served = rig.client().await;
    assert_eq!(served.get("/").await.text(), "a");
    // Sockets that are there already can still be connected.
    let sockets: Vec<_> = (0..WAITING).map(|_| TcpSocket::new_v4().unwrap()).collect();
    let before = forbid_more_files();
    let gaps = fill_gaps();
    let mut waiting = Vec::new();
    for socket in sockets {
        let mut client = connect(socket, rig.http).await;
        client.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
        waiting.push(client);
    }
    let errors = || rig.metric("portolan_router_accept_errors_total", &[]);
    until("an accept that fails", || errors() > 0.0).await;
    let began = Instant::now();
    let errors_before = errors();
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(served.get("/").await.text(), "a", "on the connections that there are");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One listener that tries every 50 ms; a machine that is slow makes it fewer.
    let (errors, seconds) = (errors() - errors_before, began.elapsed().as_secs_f64());
    assert!(errors <= 25.0 * seconds, "{errors} tries in {seconds} s are a spin");
    drop(gaps);
    allow_files(before);
    for client in &mut waiting {
        assert_eq!(client.response().await.text(), "a", "the kernel has kept it");
    }
}
