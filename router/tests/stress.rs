//! A thousand changes a second under load: routes added, changed and removed, weights, instances
//! up, down, draining, gone and back. No request fails, no WebSocket and no TCP tunnel ends.
//!
//! Ten seconds by default; `PORTOLAN_STRESS_SECONDS=60` makes it sixty. Half of the time the
//! table rests, in windows of a second that alternate with busy ones, so that both see the same
//! machine. Latency is what a noisy machine changes most, so the test compares medians over the
//! windows of their 99th percentiles, and a busy median is too slow only if it is above all of:
//! one and a half times the quiet median, every single quiet window, and a floor that stands for
//! what two cores share with the compiles and the load itself in an unoptimised build. Even then
//! the measuring is repeated, and only the last of several fails the test. What must never
//! happen, a lost request or tunnel, fails it at once.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "stress/changes.rs"]
mod changes;
#[path = "proxy/instance.rs"]
#[expect(dead_code, reason = "this test needs little of it")]
mod instance;
#[path = "stress/load.rs"]
mod load;
#[path = "proxy/peer.rs"]
#[expect(dead_code, reason = "this test needs little of it")]
mod peer;
#[path = "proxy/rig.rs"]
#[expect(dead_code, reason = "this test needs little of it")]
mod rig;

use std::time::Duration;

use portolan_discovery::model::Event;
use tokio::time::Instant;

use changes::Changes;
use instance::Instance;
use load::{Load, percentile_99};
use peer::within;
use rig::{Rig, instance as up, listener, route, routed, service, until};

const CHANGES_PER_S: u64 = 1_000;
const WINDOW: Duration = Duration::from_secs(1);
/// A busy p99 below this is fine whatever the quiet one was.
const FLOOR: Duration = Duration::from_millis(20);
const MEASURINGS: usize = 3;

/// The instances of each service; all of them live as long as the test.
struct World {
    web: Vec<Instance>,
    ws: Vec<Instance>,
    echo: Vec<Instance>,
}

impl World {
    async fn new() -> Self {
        let mut world = Self { web: Vec::new(), ws: Vec::new(), echo: Vec::new() };
        for _ in 0..6 {
            world.web.push(Instance::named("ok").await);
        }
        for _ in 0..3 {
            world.ws.push(load::switching().await);
            world.echo.push(load::echoing().await);
        }
        world
    }

    fn records(&self) -> Vec<Event> {
        let mut records = Vec::new();
        for (name, instances) in [("web", &self.web), ("ws", &self.ws), ("echo", &self.echo)] {
            records.push(service(name, true));
            let ids = (0..).map(|number| format!("i{number}"));
            records.extend(instances.iter().zip(ids).map(|(i, id)| up(name, &id, i.addr)));
        }
        records.push(routed(&route("/", "web")));
        records.push(routed(&route("/ws", "ws")));
        let mut tcp = route("/", "echo");
        tcp.listener = Some(listener("tcp"));
        tcp.rule = portolan_discovery::model::Rule::Tcp;
        records.push(routed(&tcp));
        records
    }
}

/// Changes the table for one window, as fast as [`CHANGES_PER_S`] says: one by one, or a few at
/// once when it is late, as whoever follows a store does.
async fn change(rig: &mut Rig, changes: &mut Changes, window: Duration) -> (u64, u64) {
    let began = Instant::now();
    let (mut made, mut tables) = (0, 0);
    while began.elapsed() < window {
        let due = (began.elapsed().as_micros() as u64 * CHANGES_PER_S / 1_000_000).max(1);
        let batch: Vec<Event> = (made..due).map(|_| changes.next()).collect();
        if !batch.is_empty() {
            (made, tables) = (due, tables + 1);
            rig.apply(&batch);
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    (made, tables)
}

fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_a_second_lose_no_request_and_no_tunnel() {
    let seconds = std::env::var("PORTOLAN_STRESS_SECONDS")
        .map_or(10, |seconds| seconds.parse().expect("PORTOLAN_STRESS_SECONDS is a number"));
    let world = World::new().await;
    let mut rig = Rig::with(&world.records(), |config| {
        config.workers = 2;
        // Whatever connects anew does so because of a change, not of its age.
        config.timeouts.upstream_idle = Duration::from_secs(3_600);
    });
    let mut changes = Changes::new(&world.web, &world.ws, &world.echo);
    let mut load = Load::start(rig.http, rig.tcp).await;
    let mut is_quick = false;
    for measuring in 0..MEASURINGS {
        let (mut quiet, mut busy) = (Vec::new(), Vec::new());
        let (mut made, mut tables) = (0, 0);
        for _ in 0..seconds / 2 {
            load.next_window();
            tokio::time::sleep(WINDOW).await;
            quiet.push(percentile_99(load.next_window()));
            let (these, their_tables) = change(&mut rig, &mut changes, WINDOW).await;
            (made, tables) = (made + these, tables + their_tables);
            busy.push(percentile_99(load.next_window()));
        }
        let (quiet_p99, busy_p99) = (median(&quiet), median(&busy));
        let worst_quiet = quiet.iter().max().copied().unwrap_or_default();
        println!(
            "measuring {measuring}: {made} changes in {tables} tables; p99 quiet {quiet_p99:?} (worst {worst_quiet:?}), \
             busy {busy_p99:?}: {:.2} x",
            busy_p99.as_secs_f64() / quiet_p99.as_secs_f64(),
        );
        is_quick = busy_p99 <= (quiet_p99 * 3 / 2).max(worst_quiet).max(FLOOR);
        load.assert_unharmed();
        if is_quick {
            break;
        }
    }
    let ended = load.end().await;
    println!("{ended:?}");
    assert!(ended.requests > 1_000 && ended.messages > 1_000, "{ended:?}");
    let newest = rig.router.table().revision();
    within("the last table", rig.router.wait_acked(newest)).await;
    until("nothing under way", || {
        ["web", "ws", "echo"].into_iter().all(|name| rig.in_flight(name) == 0)
    })
    .await;
    let freed = rig.metric("portolan_router_tables_freed_by_workers_total", &[]);
    assert_eq!(freed, 0.0, "a worker freed a table");
    // An instance that no change is about is connected to once for each that is under way.
    assert!(world.web[0].connections() <= load::CLIENTS, "{}", world.web[0].connections());
    assert!(is_quick, "p99 suffers from changes of the table, each time it was measured");
}
