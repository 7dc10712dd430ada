//! The embedded store from outside: the conformance suite, what a restart keeps, how an open
//! fails, and a plain map beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portolan_discovery::model::{Kv, Revision};
use portolan_discovery::store::embedded::{Create, Embedded, OpenError};
use portolan_discovery::store::{Compare, Op, Store, StoreError, Txn, WatchEvent, conformance};
use proptest::prelude::*;
use tempfile::TempDir;

fn open(path: &Path) -> Embedded {
    Embedded::open(path, Create::IfMissing).expect("the store opens")
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("store.redb");
    (folder, path)
}

fn put(key: &str, value: &str) -> Txn {
    Txn::default().put(key, Bytes::copy_from_slice(value.as_bytes()))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_conforms() {
    let (folder, _) = folder();
    let made = std::sync::atomic::AtomicU32::new(0);
    let make = || async {
        let number = made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(open(&folder.path().join(number.to_string()))) as Arc<dyn Store>
    };
    conformance::run_all(8, make).await;
}

#[tokio::test]
async fn a_restart_keeps_everything_but_the_past() {
    let (_folder, path) = folder();
    let store = open(&path);
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap();
    store.txn(put("/a", "1")).await.unwrap();
    store.txn(put("/b", "2")).await.unwrap();
    let leased =
        Op::Put { key: "/c".to_owned(), value: Bytes::from_static(b"3"), lease: Some(lease) };
    store.txn(Txn::of(vec![leased, Op::Delete("/b".to_owned())])).await.unwrap();
    let revoked = store.lease_grant(Duration::from_secs(60)).await.unwrap();
    store.lease_revoke(revoked).await.unwrap();
    let before = (store.snapshot("").await.unwrap(), store.status().await.unwrap());
    drop(store);

    let store = open(&path);
    let (content, status) = before;
    assert_eq!(store.snapshot("").await.unwrap(), content);
    assert_eq!(store.status().await.unwrap(), status);
    store.lease_keepalive(lease).await.unwrap();
    let gone = store.lease_keepalive(revoked).await;
    assert!(matches!(gone, Err(StoreError::NoLease(id)) if id == revoked));
    let mut old = store.watch("", Revision(status.revision.0 - 1)).await.unwrap();
    assert_eq!(old.next().await, WatchEvent::Compacted { oldest: status.revision });
    let mut new = store.watch("", status.revision).await.unwrap();
    assert_eq!(new.next().await, WatchEvent::Progress(status.revision));
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(store.get("/c").await.unwrap(), None);
    assert_ne!(store.lease_grant(Duration::from_secs(60)).await.unwrap(), lease);
}

#[tokio::test]
async fn a_lease_has_its_whole_time_after_a_start_and_then_ends() {
    let (_folder, path) = folder();
    let ttl = Duration::from_secs(2);
    let store = open(&path);
    let lease = store.lease_grant(ttl).await.unwrap();
    let leased = Op::Put { key: "/a".to_owned(), value: Bytes::new(), lease: Some(lease) };
    let after = store.txn(Txn::of(vec![leased])).await.unwrap().revision;
    tokio::time::sleep(ttl / 2).await;
    drop(store);
    let store = open(&path);
    let opened = tokio::time::Instant::now();
    let mut watch = store.watch("", after).await.unwrap();
    while !matches!(watch.next().await, WatchEvent::Batch { .. }) {
        assert!(opened.elapsed() < 3 * ttl, "it never ends");
    }
    assert!(opened.elapsed() > ttl - Duration::from_millis(50), "not before its time");
    assert!(store.get("/a").await.unwrap().is_none());
}

#[tokio::test]
async fn the_end_of_the_store_ends_its_watches() {
    let (_folder, path) = folder();
    let store = open(&path);
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    store.txn(put("/a", "1")).await.unwrap();
    drop(store);
    assert_eq!(watch.next().await, WatchEvent::Progress(Revision(0)));
    assert!(matches!(watch.next().await, WatchEvent::Batch { .. }));
    assert_eq!(watch.next().await, WatchEvent::Lost("the store was closed".to_owned()));
    assert!(matches!(watch.next().await, WatchEvent::Lost(_)));
}

#[tokio::test]
async fn a_revision_from_the_future_is_of_another_store() {
    let (_folder, path) = folder();
    let store = open(&path);
    let mut watch = store.watch("", Revision(9)).await.unwrap();
    assert_eq!(watch.next().await, WatchEvent::Compacted { oldest: Revision(0) });
}

#[test]
fn a_missing_file_is_made_only_when_that_was_asked_for() {
    let (_folder, path) = folder();
    let missing = Embedded::open(&path, Create::Never).err().unwrap();
    assert!(matches!(missing, OpenError::Missing { .. }), "{missing}");
    assert!(!path.exists());
    drop(open(&path));
    drop(Embedded::open(&path, Create::Never).unwrap());
    let beside = path.parent().unwrap().read_dir().unwrap().count();
    assert_eq!(beside, 1, "nothing but the store is left");
    let nowhere = Embedded::open(&path.join("below"), Create::IfMissing).err().unwrap();
    assert!(matches!(nowhere, OpenError::Io { .. }), "{nowhere}");
    let nowhere = path.with_file_name("none").join("store");
    let nowhere = Embedded::open(&nowhere, Create::IfMissing).err().unwrap();
    assert!(matches!(nowhere, OpenError::Io { .. }), "{nowhere}");
}

#[test]
fn a_store_is_open_once() {
    let (_folder, path) = folder();
    let first = open(&path);
    let second = Embedded::open(&path, Create::IfMissing).err().unwrap();
    assert!(matches!(second, OpenError::Locked { .. }), "{second}");
    drop(first);
    drop(open(&path));
}

#[test]
fn what_is_no_store_is_left_as_it_is() {
    let (_folder, path) = folder();
    for content in [&b""[..], b"hello", &[0; 4096], &[0x55; 100_000]] {
        std::fs::write(&path, content).unwrap();
        let error = Embedded::open(&path, Create::IfMissing).err().unwrap();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    std::fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    let error = Embedded::open(&path, Create::IfMissing).err().unwrap();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

/// Cuts and flips: the store opens with what was written, or says that it is damaged.
#[test]
fn a_damaged_file_is_found_and_never_panics() {
    let (_folder, path) = folder();
    let runtime = runtime();
    let expected = runtime.block_on(async {
        let store = open(&path);
        for number in 0..40 {
            store.txn(put(&format!("/{number}"), &"x".repeat(number * 7))).await.unwrap();
        }
        store.snapshot("").await.unwrap()
    });
    let whole = std::fs::read(&path).unwrap();
    let seed = std::env::var("PORTOLAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("PORTOLAN_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..150 {
        let mut bytes = whole.clone();
        if round % 5 == 0 {
            bytes.truncate(random.usize(..whole.len()));
        } else {
            // The head is small and says the most: it gets every second flip.
            let end = if round % 2 == 0 { 512 } else { whole.len() };
            for _ in 0..random.usize(1..4) {
                bytes[random.usize(..end)] ^= 1 << random.u8(..8);
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        match Embedded::open(&path, Create::Never) {
            Ok(store) => {
                let found = runtime.block_on(store.snapshot("")).unwrap();
                assert_eq!(found, expected, "round {round} of seed {seed}");
            }
            Err(OpenError::Damaged { .. }) => {}
            Err(error) => panic!("round {round} of seed {seed}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_failed_condition_is_answered_in_its_turn() {
    let (_folder, path) = folder();
    let store = open(&path);
    let make = |value: &str| put("/a", value).when(Compare::Absent("/a".to_owned()));
    // All are in the queue before the writer has done the first.
    let (first, second, third, fourth) = tokio::join!(
        store.txn(make("1")),
        store.txn(make("2")),
        store.txn(Txn::default().delete("/a")),
        store.txn(make("4")),
    );
    let outcomes = [first, second, third, fourth].map(|outcome| {
        let outcome = outcome.unwrap();
        (outcome.done, outcome.revision.0)
    });
    assert_eq!(outcomes, [(true, 1), (false, 1), (true, 2), (true, 3)]);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Swap { key: u8, value: u8, is_fresh: bool },
    Make(u8, u8),
    Pair(u8, u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..6_u8;
    prop_oneof![
        4 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key.clone().prop_map(Step::Delete),
        3 => (key.clone(), any::<u8>(), any::<bool>())
            .prop_map(|(key, value, is_fresh)| Step::Swap { key, value, is_fresh }),
        2 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Make(key, value)),
        2 => (key.clone(), key).prop_map(|(put, delete)| Step::Pair(put, delete)),
        1 => Just(Step::Reopen),
    ]
}

/// A map and a counter, as plain as they can be.
#[derive(Default)]
struct Plain {
    kvs: BTreeMap<String, Kv>,
    revision: u64,
}

impl Plain {
    fn put(&mut self, key: &str, value: &[u8]) {
        let revision = Revision(self.revision);
        let created = self.kvs.get(key).map_or(revision, |kv| kv.created);
        let value = Bytes::copy_from_slice(value);
        let kv = Kv { key: key.to_owned(), value, created, modified: revision, lease: None };
        self.kvs.insert(key.to_owned(), kv);
    }

    fn txn(&mut self, txn: &Txn) -> bool {
        let holds = |compare: &Compare| match compare {
            Compare::Absent(key) => !self.kvs.contains_key(key),
            Compare::Present(key) => self.kvs.contains_key(key),
            Compare::Unchanged(key, at) => self.kvs.get(key).is_some_and(|kv| kv.modified == *at),
        };
        if !txn.compares.iter().all(holds) {
            return false;
        }
        let changes = |op: &Op| matches!(op, Op::Put { .. }) || self.kvs.contains_key(op.key());
        self.revision += u64::from(txn.ops.iter().any(changes));
        for op in &txn.ops {
            match op {
                Op::Put { key, value, .. } => self.put(key, value),
                Op::Delete(key) => drop(self.kvs.remove(key)),
            }
        }
        true
    }

    fn txn_of(&self, step: &Step) -> Txn {
        let key = |key: &u8| format!("/{key}");
        let value = |value: &u8| Bytes::from(vec![*value; usize::from(*value)]);
        match step {
            Step::Put(k, v) => Txn::default().put(key(k), value(v)),
            Step::Delete(k) => Txn::default().delete(key(k)),
            Step::Make(k, v) => Txn::default().put(key(k), value(v)).when(Compare::Absent(key(k))),
            Step::Swap { key: k, value: v, is_fresh } => {
                let at = self.kvs.get(&key(k)).map_or(0, |kv| kv.modified.0);
                let at = Revision(if *is_fresh { at } else { at.saturating_sub(1) });
                Txn::default().put(key(k), value(v)).when(Compare::Unchanged(key(k), at))
            }
            Step::Pair(k, d) if k == d => Txn::default().when(Compare::Present(key(k))),
            Step::Pair(k, d) => Txn::default().put(key(k), value(k)).delete(key(d)),
            Step::Reopen => Txn::default(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_store_does_what_a_plain_map_does(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let (_folder, path) = folder();
        let runtime = runtime();
        let mut store = Some(open(&path));
        let mut plain = Plain::default();
        for step in steps {
            if matches!(step, Step::Reopen) {
                store = None;
                store = Some(open(&path)).or(store);
            }
            let at = store.as_ref().expect("it is open");
            let txn = plain.txn_of(&step);
            let outcome = runtime.block_on(at.txn(txn.clone())).unwrap();
            prop_assert_eq!(outcome.done, plain.txn(&txn), "{:?}", step);
            prop_assert_eq!(outcome.revision.0, plain.revision);
            let (kvs, revision) = runtime.block_on(at.snapshot("")).unwrap();
            prop_assert_eq!(revision.0, plain.revision);
            prop_assert!(kvs.iter().eq(plain.kvs.values()), "{kvs:?} {:?}", plain.kvs);
        }
    }
}

/// A figure for people: `cargo test -- --nocapture`.
#[test]
fn a_put_is_durable_in_little_time() {
    let (_folder, path) = folder();
    let runtime = runtime();
    let store = open(&path);
    let mut took: Vec<_> = (0..300)
        .map(|number| {
            let start = tokio::time::Instant::now();
            let txn = put("/key", &number.to_string());
            runtime.block_on(store.txn(txn)).unwrap();
            start.elapsed()
        })
        .collect();
    took.sort();
    println!("durable put: p50 {:?}, p99 {:?}", took[150], took[297]);
    // Two clock ticks of a slow disk; what is above has not been committed at once.
    assert!(took[150] < Duration::from_millis(100), "{:?}", took[150]);
}

#[tokio::test]
async fn a_store_that_was_closed_can_be_opened_by_another_while_somebody_still_holds_it() {
    let (_folder, path) = folder();
    let held = Arc::new(open(&path));
    held.txn(put("/a", "1")).await.unwrap();
    let mut watch = held.watch("", Revision(1)).await.unwrap();
    let again = held.clone();
    tokio::task::spawn_blocking(move || again.close()).await.unwrap();
    let next = open(&path);
    assert_eq!(next.get("/a").await.unwrap().unwrap().value, "1");
    // Nobody reads what may be old by now, and nothing is written twice.
    assert!(held.get("/a").await.unwrap_err().is_retryable());
    assert!(held.txn(put("/a", "2")).await.unwrap_err().is_retryable());
    while !matches!(watch.next().await, WatchEvent::Lost(_)) {}
    drop(held);
    next.txn(put("/a", "3")).await.unwrap();
}
