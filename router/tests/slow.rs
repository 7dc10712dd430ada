//! Ten thousand clients that send a byte a second or read nothing, beside honest ones.
//!
//! The crowd and its instance are a process of their own, this test program run again, so that
//! each of the two has enough file descriptors and the memory measured here is the router's.
//! Where fewer files are allowed the crowd is as large as the router's own limit of connections
//! lets it be.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "slow/crowd.rs"]
mod crowd;
#[path = "proxy/instance.rs"]
#[expect(dead_code, reason = "this test needs little of it")]
mod instance;
#[path = "proxy/peer.rs"]
#[expect(dead_code, reason = "this test needs little of it")]
mod peer;
#[path = "proxy/rig.rs"]
#[expect(dead_code, reason = "this test needs little of it")]
mod rig;

use std::time::Duration;

use portolan_router::h1;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crowd::{Crowd, Shape};
use peer::Peer;
use rig::{Rig, web};

const CROWD: usize = 10_000;
/// Each of the waits that end a slow client here, long enough for the whole crowd to come; the
/// next one is for a machine on which it was not.
const PATIENCE: [Duration; 2] = [Duration::from_secs(16), Duration::from_secs(120)];
/// The longest wait of this test for the crowd: for it to go after its time.
const CROWD_DEADLINE: Duration = Duration::from_secs(240);
const HONEST: usize = 16;
/// What the allocator, the task, its entry in the wheel and the socket's in the runtime may come
/// to, beside at most one small buffer for who reads nothing.
const BYTES_EACH_MAX: usize = 12 * 1024;

fn allow_all_files() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(1 << 20)
}

/// As many as one worker takes with so many files, less the honest ones.
fn shape(files: u64) -> Shape {
    let connections = usize::try_from(files.saturating_sub(256 + 64) / 2).unwrap();
    let all = CROWD.min(connections.saturating_sub(4 * HONEST));
    let (bodies, readers) = (all / 4, all / 8);
    Shape { heads: all - bodies - readers, bodies, readers }
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
}

async fn crowd_is(mut is_so: impl FnMut() -> bool, wait: Duration) -> bool {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(wait, waiting).await.is_ok()
}

/// Honest clients, each with a kept connection and a new one in turn; the slowest request.
async fn honest(rig: &Rig, time: Duration) -> (usize, Duration) {
    let (addr, until) = (rig.http, Instant::now() + time);
    let mut clients = JoinSet::new();
    for _ in 0..HONEST {
        clients.spawn(async move {
            let mut kept = Peer::connect(addr).await;
            let (mut count, mut slowest) = (0, Duration::ZERO);
            while Instant::now() < until {
                let began = Instant::now();
                assert_eq!(kept.get("/").await.status(), 200);
                assert_eq!(Peer::connect(addr).await.get("/").await.status(), 200);
                slowest = slowest.max(began.elapsed());
                count += 2;
            }
            (count, slowest)
        });
    }
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while let Some(ended) = clients.join_next().await {
        let (one, its_slowest) = ended.expect("no honest client fails");
        (count, slowest) = (count + one, slowest.max(its_slowest));
    }
    (count, slowest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn honest_clients_are_served_beside_ten_thousand_slow_ones() {
    let shape = shape(allow_all_files());
    for patience in PATIENCE {
        if beside_a_crowd(shape, patience).await {
            return;
        }
    }
    panic!("the crowd did not come");
}

/// False if the crowd did not come in time.
async fn beside_a_crowd(shape: Shape, patience: Duration) -> bool {
    let mut crowd = Crowd::start(shape);
    let rig = Rig::with(&web(&[crowd.instance]), |config| {
        config.timeouts.connect = patience;
        config.timeouts.client_header = patience;
        config.timeouts.client_write = patience;
        config.timeouts.client_body_grace = patience;
        // Nobody tunnels here, and pipes would take files from the crowd.
        config.limits.pipes_max = 0;
    });
    let open = || rig.metric("portolan_router_connections_open", &[("listener", "http")]);
    let held = || rig.metric("portolan_router_buffer_bytes", &[]);
    honest(&rig, Duration::from_millis(500)).await;
    let (resident, before) = (resident_bytes(), Instant::now());
    crowd.come(rig.http);
    if !crowd_is(|| open() >= shape.all() as f64, patience / 2).await {
        return false;
    }
    let came = before.elapsed();
    let (requests, slowest) = honest(&rig, patience / 3).await;
    let each = resident_bytes().saturating_sub(resident) / shape.all();
    let buffers = held() as usize;
    println!(
        "{shape:?} came in {came:?}; {requests} honest requests beside them, the slowest two in \
         {slowest:?}; {each} bytes of memory each, {buffers} in buffers",
    );
    assert!(each <= BYTES_EACH_MAX, "{each} bytes each");
    assert!(buffers <= 64 * 1024 * 1024 + shape.readers * 16 * 1024, "{buffers} in buffers");
    assert!(crowd_is(|| open() == 0.0, CROWD_DEADLINE).await, "the crowd is not ended");
    let ended: Vec<_> = h1::Reason::ALL
        .iter()
        .map(|reason| (reason.as_str(), rig.ended(reason.as_str()) as usize))
        .filter(|(_, count)| *count > 0)
        .collect();
    let expected = [
        ("request_timeout", shape.heads),
        ("body_timeout", shape.bodies),
        ("client_write_timeout", shape.readers),
    ];
    assert_eq!(ended, expected, "each by its deadline");
    honest(&rig, Duration::from_millis(500)).await;
    true
}
