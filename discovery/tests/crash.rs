//! Kills a writing process many times: nothing that was acknowledged is lost, nothing is torn.
//!
//! The child is this test binary again. It says each write on its standard output only when the
//! store has answered.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use portolan_discovery::model::{LeaseId, Revision};
use portolan_discovery::store::embedded::{Create, Embedded};
use portolan_discovery::store::{Compare, Op, Store, Txn};

const ROUNDS: usize = 500;
const WRITERS: usize = 3;
/// How long a child lives, from before it has opened the store.
const LIFE_MS: std::ops::Range<u64> = 8..55;
/// So many children that did not get to open the store show a slow machine: the next live longer.
const STILLBORN_MAX: usize = 4;
const LONGER: Duration = Duration::from_millis(5);
/// Old values that each writer keeps, so that the file has something to free.
const KEPT: u64 = 17;
/// Every so many writes a value fills several pages.
const LARGE_EVERY: u64 = 11;
const LEASE_EVERY: u64 = 8;

const FILE: &str = "PORTOLAN_CRASH_FILE";
const CHILD: &str = "the_child_writes_until_it_is_killed";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What the children said.
#[derive(Default)]
struct Heard {
    revision: u64,
    numbers: [u64; WRITERS],
    leases: BTreeSet<u64>,
    writes: usize,
    openings: usize,
}

impl Heard {
    fn hear(&mut self, output: &str) {
        // The last line may be cut off.
        let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("the child says numbers");
            match words[0] {
                "open" => {
                    assert!(number(1) >= self.revision, "the revision went back: {line}");
                    self.revision = number(1);
                    self.openings += 1;
                }
                "wrote" => {
                    let writer = usize::try_from(number(1)).expect("a small number");
                    assert!(number(2) > self.numbers[writer], "an old number again: {line}");
                    self.numbers[writer] = number(2);
                    self.revision = self.revision.max(number(3));
                    self.writes += 1;
                }
                "lease" => drop(self.leases.insert(number(1))),
                _ => {}
            }
        }
    }
}

#[test]
fn a_killed_store_loses_nothing_that_was_acknowledged() {
    let rounds = number_of("PORTOLAN_CRASH_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    let seed = number_of("PORTOLAN_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PORTOLAN_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let identity = runtime().block_on(async {
        Embedded::open(&path, Create::IfMissing).unwrap().status().await.unwrap().identity
    });
    let mut heard = Heard::default();
    let (mut longer, mut stillborn) = (Duration::ZERO, 0);
    for round in 0..rounds {
        let life = Duration::from_millis(random.u64(LIFE_MS));
        let openings = heard.openings;
        heard.hear(&live_and_die(&path, life + longer));
        stillborn = if heard.openings > openings { 0 } else { stillborn + 1 };
        if stillborn >= STILLBORN_MAX {
            longer += LONGER;
        }
        // Else the next child finds what this one left, and may be killed while it repairs.
        if random.bool() || round + 1 == rounds {
            runtime().block_on(look(&path, &identity, &mut heard));
        }
    }
    println!("{} writes by {} children in {rounds} rounds", heard.writes, heard.openings);
    assert!(heard.writes > rounds, "too few writes to say anything: {}", heard.writes);
}

fn live_and_die(path: &Path, life: Duration) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "--exact", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(life);
    child.kill().unwrap();
    let (mut output, mut errors) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the child ended by itself: {output}{errors}");
    output
}

async fn look(path: &Path, identity: &str, heard: &mut Heard) {
    let store = Embedded::open(path, Create::Never).expect("the store opens after a crash");
    let status = store.status().await.unwrap();
    assert_eq!(status.identity, identity);
    assert!(status.revision >= Revision(heard.revision), "the revision went back");
    heard.revision = status.revision.0;
    for (writer, acknowledged) in heard.numbers.iter().enumerate() {
        let get = async |name: String| store.get(&name).await.unwrap();
        let Some(first) = get(format!("/w/{writer}/first")).await else {
            assert_eq!(*acknowledged, 0, "all of writer {writer} is lost");
            continue;
        };
        let number: u64 = String::from_utf8(first.value.to_vec()).unwrap().parse().unwrap();
        assert!(number >= *acknowledged, "writer {writer}: {acknowledged} is lost");
        let last = get(format!("/w/{writer}/last")).await.expect("a write is whole");
        assert_eq!((&last.value, last.modified), (&first.value, first.modified));
        let kept = get(format!("/w/{writer}/kept/{}", number % KEPT)).await.expect("it is whole");
        assert_eq!((kept.value, kept.modified), (payload(number), first.modified));
        let gone = get(format!("/w/{writer}/kept/{}", (number + KEPT / 2) % KEPT)).await;
        assert_eq!(gone, None, "a write is whole");
    }
    for lease in std::mem::take(&mut heard.leases) {
        store.lease_keepalive(LeaseId(lease)).await.expect("an acknowledged lease is there");
        store.lease_revoke(LeaseId(lease)).await.unwrap();
    }
}

fn payload(number: u64) -> Bytes {
    let pages = if number.is_multiple_of(LARGE_EVERY) { 2000 } else { 3 };
    Bytes::from(number.to_string().repeat(pages))
}

#[test]
#[ignore = "the process that the crash test kills; alone it would never end"]
fn the_child_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let store = Embedded::open(Path::new(&path), Create::Never).unwrap();
    let opened = runtime().block_on(store.status()).unwrap().revision;
    say(&format!("open {opened}"));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || runtime().block_on(write(store, writer)));
        }
    });
}

fn say(line: &str) {
    // One write each, so that a line of one thread is not cut by another's.
    let mut output = std::io::stdout().lock();
    output.write_all(format!("{line}\n").as_bytes()).unwrap();
    output.flush().unwrap();
}

async fn write(store: &Embedded, writer: usize) {
    let key = |name: &str| format!("/w/{writer}/{name}");
    loop {
        let before = store.get(&key("first")).await.unwrap();
        let number = before
            .as_ref()
            .map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap())
            + 1;
        let same = match before {
            Some(kv) => Compare::Unchanged(kv.key, kv.modified),
            None => Compare::Absent(key("first")),
        };
        let value = Bytes::from(number.to_string());
        let txn = Txn::default()
            .when(same)
            .put(key("first"), value.clone())
            .put(key(&format!("kept/{}", number % KEPT)), payload(number))
            .delete(key(&format!("kept/{}", (number + KEPT / 2) % KEPT)))
            .put(key("last"), value);
        let outcome = store.txn(txn).await.unwrap();
        assert!(outcome.done, "nobody else writes here");
        say(&format!("wrote {writer} {number} {}", outcome.revision));
        if number.is_multiple_of(LEASE_EVERY) {
            let lease = store.lease_grant(Duration::from_secs(3600)).await.unwrap();
            let put = Op::Put { key: key("leased"), value: Bytes::new(), lease: Some(lease) };
            store.txn(Txn::of(vec![put])).await.unwrap();
            say(&format!("lease {}", lease.0));
        }
    }
}
