//! The store on a disk that fails.

mod drive;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::timeout;

use self::drive::{Drive, Fault};
use super::{Create, Embedded};
use crate::model::{Kv, Revision};
use crate::store::{Op, Outcome, Store, StoreError, Txn, WatchEvent};

const PATIENCE: Duration = Duration::from_secs(20);

/// A store with `/a` = `0` on a drive. The file stands for the drive and is not looked at.
async fn store_on_drive() -> (TempDir, PathBuf, Drive) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    put(&Embedded::open(&path, Create::IfMissing).unwrap(), "/a", "0").await.unwrap();
    let drive = Drive::with(std::fs::read(&path).unwrap());
    (folder, path, drive)
}

async fn put(store: &Embedded, key: &str, value: &str) -> Result<Outcome, StoreError> {
    store.txn(Txn::default().put(key, Bytes::copy_from_slice(value.as_bytes()))).await
}

async fn put_when_it_goes(store: &Embedded, key: &str, value: &str) -> Revision {
    let done = async {
        loop {
            match put(store, key, value).await {
                Ok(outcome) => break outcome.revision,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, done).await.expect("the store comes back")
}

async fn content(store: &Embedded) -> (Vec<Kv>, Revision) {
    store.snapshot("").await.unwrap()
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_is_left_behind_when_it_has_room() {
    let (_folder, path, drive) = store_on_drive().await;
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    let before = content(&store).await;
    let mut watch = store.watch("", before.1).await.unwrap();
    drive.set_fault(Some(Fault::Full));
    for _ in 0..3 {
        let refused = put(&store, "/a", "1").await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
        assert_eq!(content(&store).await, before);
    }
    assert!(store.lease_grant(Duration::from_secs(9)).await.is_err());
    assert_eq!(store.status().await.unwrap().revision, before.1);
    drive.set_fault(None);
    let at = put_when_it_goes(&store, "/a", "2").await;
    assert_eq!(at, before.1.next());
    loop {
        match watch.next().await {
            WatchEvent::Progress(at) => assert_eq!(at, before.1),
            WatchEvent::Batch { revision, .. } => break assert_eq!(revision, at),
            end => panic!("{end:?}"),
        }
    }
    let after = content(&store).await;
    drop(store);
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    assert_eq!(content(&store).await, after);
}

#[tokio::test]
async fn a_commit_that_nobody_knows_of_is_there_whole_or_not_at_all() {
    let (_folder, path, drive) = store_on_drive().await;
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    let (_, before) = content(&store).await;
    let mut watch = store.watch("", before).await.unwrap();
    assert_eq!(watch.next().await, WatchEvent::Progress(before));
    let file = std::fs::read(&path).unwrap();
    drive.set_fault(Some(Fault::SyncOnce));
    let unknown = put(&store, "/a", "1").await.unwrap_err();
    assert!(unknown.is_retryable(), "{unknown}");
    // One fault, so the very next write goes.
    let at = put(&store, "/b", "2").await.unwrap().revision;
    let after = content(&store).await;
    assert!(at > before && after.1 == at);
    assert_eq!(std::fs::read(&path).unwrap(), file, "it was written again as it was");
    // The reader hears of it as an event, or is told to look for itself.
    match watch.next().await {
        WatchEvent::Batch { revision, .. } => assert_eq!(revision, before.next()),
        WatchEvent::Lost(_) => {
            let mut again = store.watch("", before).await.unwrap();
            assert!(matches!(again.next().await, WatchEvent::Compacted { .. }));
        }
        word => panic!("{word:?}"),
    }
    drop(store);
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    assert_eq!(content(&store).await, after);
}

#[tokio::test]
async fn a_lease_that_nobody_knows_of_binds_no_key_for_ever() {
    let (_folder, path, drive) = store_on_drive().await;
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap();
    drive.set_fault(Some(Fault::SyncOnce));
    assert!(store.lease_revoke(lease).await.unwrap_err().is_retryable());
    let leased = Op::Put { key: "/leased".to_owned(), value: Bytes::new(), lease: Some(lease) };
    let is_bound = store.txn(Txn::of(vec![leased])).await.is_ok();
    drop(store);
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    assert_eq!(store.get("/leased").await.unwrap().is_some(), is_bound);
    assert_eq!(store.lease_keepalive(lease).await.is_ok(), is_bound);
}

#[tokio::test]
async fn a_panic_of_the_database_costs_one_commit() {
    let (_folder, path, drive) = store_on_drive().await;
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    let before = content(&store).await;
    drive.set_fault(Some(Fault::PanicOnce));
    assert!(put(&store, "/a", "1").await.unwrap_err().is_retryable());
    assert_eq!(content(&store).await, before);
    put_when_it_goes(&store, "/a", "2").await;
    let after = content(&store).await;
    drop(store);
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    assert_eq!(content(&store).await, after);
}

#[tokio::test]
async fn a_disk_that_comes_back_with_something_else_is_not_written() {
    let (_folder, path, drive) = store_on_drive().await;
    let (_other_folder, _, other) = store_on_drive().await;
    let older = drive.bytes();
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    put(&store, "/a", "1").await.unwrap();
    let before = content(&store).await;
    let good = drive.bytes();
    // Dead until something else is there: nothing of the write lands, and nothing is read again.
    drive.set_fault(Some(Fault::DeadAfter(0)));
    put(&store, "/a", "2").await.unwrap_err();
    for (bytes, word) in [(other.bytes(), "another store"), (older, "older copy")] {
        drive.set_bytes(bytes);
        drive.set_fault(None);
        let refused = async {
            loop {
                let refused = put(&store, "/a", "3").await.unwrap_err().to_string();
                if refused.contains(word) {
                    return;
                }
            }
        };
        timeout(PATIENCE, refused).await.expect(word);
        assert_eq!(content(&store).await, before);
    }
    drive.set_bytes(good);
    let at = put_when_it_goes(&store, "/a", "4").await;
    assert_eq!(at, before.1.next());
}

#[tokio::test]
async fn a_lease_does_not_end_while_the_disk_fails() {
    let (_folder, path, drive) = store_on_drive().await;
    let store = Embedded::open_on(&path, Create::Never, drive.opener()).unwrap();
    let ttl = Duration::from_secs(1);
    let lease = store.lease_grant(ttl).await.unwrap();
    let leased = Op::Put { key: "/leased".to_owned(), value: Bytes::new(), lease: Some(lease) };
    let after = store.txn(Txn::of(vec![leased])).await.unwrap().revision;
    drive.set_fault(Some(Fault::Full));
    put(&store, "/a", "1").await.unwrap_err();
    tokio::time::sleep(ttl * 3 / 2).await;
    assert!(store.get("/leased").await.unwrap().is_some());
    store.lease_keepalive(lease).await.unwrap();
    drive.set_fault(None);
    let mut watch = store.watch("/leased", after).await.unwrap();
    let ended = async { while !matches!(watch.next().await, WatchEvent::Batch { .. }) {} };
    timeout(PATIENCE, ended).await.expect("it ends when the disk is back");
    assert!(store.get("/leased").await.unwrap().is_none());
}

/// Cuts the power at every kind of moment, also while the store repairs itself.
#[tokio::test]
async fn a_power_loss_takes_nothing_that_was_acknowledged() {
    let seed = std::env::var("PORTOLAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("PORTOLAN_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (_folder, path, drive) = store_on_drive().await;
    let (mut bytes, mut acknowledged, mut revision) = (drive.bytes(), 0_u64, Revision(1));
    for _ in 0..120 {
        let drive = Drive::with(bytes);
        drive.set_fault(Some(Fault::DeadAfter(random.usize(..60))));
        if let Ok(store) = Embedded::open_on(&path, Create::Never, drive.opener()) {
            let (kvs, at) = content(&store).await;
            let found: u64 = String::from_utf8(kvs[0].value.to_vec()).unwrap().parse().unwrap();
            assert!(found >= acknowledged && at >= revision, "{found} {acknowledged} {at}");
            assert!(kvs.iter().skip(1).all(|kv| kv.value == kvs[0].value), "a torn write");
            (acknowledged, revision) = (found, at);
            loop {
                let value = Bytes::from((acknowledged + 1).to_string());
                let keys = ["/a", "/b", "/c"].into_iter();
                let txn = keys.fold(Txn::default(), |txn, key| txn.put(key, value.clone()));
                let Ok(outcome) = store.txn(txn).await else { break };
                (acknowledged, revision) = (acknowledged + 1, outcome.revision);
            }
        }
        bytes = drive.after_power_loss(&mut random);
        let good = Drive::with(bytes.clone());
        drop(Embedded::open_on(&path, Create::Never, good.opener()).expect("it opens"));
    }
    assert!(acknowledged > 100, "too few writes to say anything: {acknowledged}");
}
