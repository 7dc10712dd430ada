//! Clients that want to wear the router out: each is sent away with a reason and a counter, and
//! others are served meanwhile.

use super::caller::Caller;
use super::frames::{
    ACK, CALM, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RESET,
    Raw, SETTINGS, WINDOW_UPDATE, asking, frame, get, text,
};
use super::instance::{Instance, ok};
use super::rig::{Rig, until, web};

/// More than any allowance.
const MANY: usize = 20_000;

struct Stage {
    rig: Rig,
    instance: Instance,
    honest: Caller,
}

impl Stage {
    async fn new() -> Self {
        Self::with(Instance::http(|_| ok("fine")).await).await
    }

    async fn with(instance: Instance) -> Self {
        let rig = Rig::with(&web(&[instance.addr]), |_| {});
        let honest = Caller::connect(rig.http).await;
        Self { rig, instance, honest }
    }

    fn floods(&self, kind: &str) -> f64 {
        self.rig.metric("portolan_router_h2_floods_total", &[("kind", kind)])
    }

    /// The client is told to calm down, and the honest one is served.
    async fn ends(&mut self, raw: Raw, kind: &str) {
        self.ends_for_one_of(raw, &[kind]).await;
    }

    async fn ends_for_one_of(&mut self, mut raw: Raw, kinds: &[&str]) {
        let goaway = raw.next_of(GOAWAY).await.expect("a goodbye");
        assert_eq!(goaway.code(), CALM, "{:?}", String::from_utf8_lossy(&goaway.payload[8..]));
        let counted = || kinds.iter().map(|kind| self.floods(kind)).sum::<f64>() == 1.0;
        until(kinds[0], counted).await;
        let code = [("code", "enhance_your_calm")];
        assert_eq!(self.rig.metric("portolan_router_h2_goaways_total", &code), 1.0);
        drop(raw);
        self.honest_is_served().await;
    }

    async fn honest_is_served(&mut self) {
        assert_eq!(self.honest.get("/").await.status(), 200);
        self.rig.settled("web").await;
        until("the end", || self.rig.router.connections() == 1).await;
    }
}

/// A connection that answers while it is flooded: half of it reads what comes.
async fn flooded(stage: &Stage, opening: &[u8], bytes: &[u8]) -> Raw {
    let mut raw = Raw::connect(stage.rig.http).await;
    raw.send(opening).await;
    let many: Vec<u8> = bytes.repeat((64 * 1024 / bytes.len()).max(1));
    raw.flood(&many, MANY * bytes.len() / many.len() + 1).await;
    raw
}

#[tokio::test]
async fn rapid_resets() {
    let mut stage = Stage::new().await;
    let mut raw = Raw::connect(stage.rig.http).await;
    for number in 0..3_000_u32 {
        let stream = 2 * number + 1;
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get());
        let pair = [head, frame(RESET, 0, stream, &8_u32.to_be_bytes())].concat();
        if !raw.0.try_send(pair).await {
            break;
        }
    }
    assert!(stage.instance.requests() < 1_000, "{}", stage.instance.requests());
    stage.ends(raw, "resets").await;
}

#[tokio::test]
async fn resets_that_a_client_makes_us_send() {
    let mut stage = Stage::new().await;
    let mut raw = Raw::connect(stage.rig.http).await;
    for number in 0..1_000_u32 {
        let stream = 2 * number + 1;
        let head = frame(HEADERS, END_HEADERS, stream, &asking("POST", &[]));
        // A window beyond what there can be.
        let pair = [head, frame(WINDOW_UPDATE, 0, stream, &(u32::MAX >> 1).to_be_bytes())].concat();
        if !raw.0.try_send(pair).await {
            break;
        }
    }
    // Some come in one piece, before anything is reset: then it is the updates that are too many, or
    // the requests under way.
    stage.ends_for_one_of(raw, &["faults", "resets", "idle"]).await;
}

#[tokio::test]
async fn requests_that_are_none() {
    let mut stage = Stage::new().await;
    let mut raw = Raw::connect(stage.rig.http).await;
    for number in 0..1_000_u32 {
        let block = asking("GET", &[("connection", "close")]);
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block);
        if !raw.0.try_send(head).await {
            break;
        }
    }
    stage.ends(raw, "faults").await;
    assert_eq!(stage.instance.requests(), 1, "only the honest one");
}

#[tokio::test]
async fn continuations() {
    let mut stage = Stage::new().await;
    let opening = frame(HEADERS, END_STREAM, 1, &get());
    let raw = flooded(&stage, &opening, &frame(CONTINUATION, 0, 1, &[])).await;
    stage.ends(raw, "continuations").await;
}

#[tokio::test]
async fn settings() {
    let mut stage = Stage::new().await;
    let raw = flooded(&stage, &[], &frame(SETTINGS, 0, 0, &[])).await;
    stage.ends(raw, "settings").await;
}

#[tokio::test]
async fn pings() {
    let mut stage = Stage::new().await;
    let raw = flooded(&stage, &[], &frame(PING, 0, 0, &[0; 8])).await;
    stage.ends(raw, "pings").await;
    let mut raw = flooded(&stage, &[], &frame(PING, ACK, 0, &[0; 8])).await;
    assert_eq!(raw.next_of(GOAWAY).await.expect("a goodbye").code(), CALM);
    until("both", || stage.floods("pings") == 2.0).await;
}

#[tokio::test]
async fn empty_data() {
    let mut stage = Stage::new().await;
    let opening = frame(HEADERS, END_HEADERS, 1, &asking("POST", &[]));
    let raw = flooded(&stage, &opening, &frame(DATA, 0, 1, &[])).await;
    stage.ends(raw, "empty_data").await;
}

#[tokio::test]
async fn windows_that_grow_by_a_byte() {
    let mut stage = Stage::new().await;
    let one = 1_u32.to_be_bytes();
    let raw = flooded(&stage, &[], &frame(WINDOW_UPDATE, 0, 0, &one)).await;
    stage.ends(raw, "windows").await;
}

#[tokio::test]
async fn an_answer_byte_by_byte() {
    let instance = Instance::http(|_| ok(vec![7; 100_000])).await;
    let mut stage = Stage::with(instance).await;
    // No window for any stream, and then a byte at a time.
    let mut raw = Raw::greeting(stage.rig.http, &[(4, 0)]).await;
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &get())).await;
    raw.flood(&frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()), 5_000).await;
    stage.ends(raw, "windows").await;
}

#[tokio::test]
async fn frames_that_say_nothing() {
    for bytes in [frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), frame(99, 0, 0, b"what")] {
        let mut stage = Stage::new().await;
        let raw = flooded(&stage, &[], &bytes).await;
        stage.ends(raw, "idle").await;
    }
}

/// A field in the table, then as often as a frame has room for it: a byte of it is 4 KiB of head.
#[tokio::test]
async fn heads_that_unfold() {
    let mut stage = Stage::new().await;
    let mut raw = Raw::connect(stage.rig.http).await;
    let value = "x".repeat(4_000);
    let entry = [get(), vec![0x40], text("a"), text(&value)].concat();
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &entry)).await;
    assert_eq!(raw.next_of(HEADERS).await.unwrap().payload[0], 0x88);
    let bomb = [get(), vec![0xbe; 16_000]].concat();
    raw.flood(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &bomb), 1).await;
    let goaway = raw.next_of(GOAWAY).await.expect("a goodbye");
    assert_eq!(goaway.code(), CALM);
    until("it", || stage.floods("memory") == 1.0).await;
    drop(raw);
    stage.honest_is_served().await;
    // A little too much each time: that is refused each time, until it is enough.
    let mut raw = Raw::connect(stage.rig.http).await;
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &entry)).await;
    assert_eq!(raw.next_of(HEADERS).await.unwrap().payload[0], 0x88);
    let large = [get(), vec![0xbe; 20]].concat();
    for number in 1..1_000 {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &large);
        if !raw.0.try_send(head).await {
            break;
        }
    }
    let goaway = raw.next_of(GOAWAY).await.expect("a goodbye");
    assert_eq!(goaway.code(), CALM, "{:?}", String::from_utf8_lossy(&goaway.payload[8..]));
    // The library answers it and refuses the rest of it.
    until("it", || stage.floods("resets") + stage.floods("faults") == 1.0).await;
    drop(raw);
    stage.honest_is_served().await;
    assert_eq!(stage.instance.requests(), 4, "two heads that were small, and two of the honest");
}
