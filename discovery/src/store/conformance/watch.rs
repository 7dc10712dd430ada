//! Watches: order, prefixes, coming back, progress and the two ways to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::{PATIENCE, batch, done, next, put, revision, said};
use crate::model::{Event, Revision};
use crate::store::{
    Compare, Store, TXN_OPS_MAX, Txn, WATCH_BATCHES_MAX, WATCH_PROGRESS_EVERY, WatchEvent,
};

pub(super) async fn a_watch_says_exactly_the_later_changes(store: Arc<dyn Store>) {
    let first = done(&*store, put("/c/a", "old")).await;
    let back = done(&*store, put("/c/a", "1").put("/c/b", Bytes::from_static(b"2"))).await;
    let mut watch = store.watch("/c/", first).await.unwrap();
    let forward = done(&*store, put("/c/z", "3").delete("/c/a").delete("/c/never")).await;
    // Neither is a change.
    done(&*store, Txn::default().delete("/c/never")).await;
    store.txn(put("/c/no", "").when(Compare::Absent("/c/b".to_owned()))).await.unwrap();
    let last = done(&*store, put("/c/a", "4")).await;
    for (at, expected) in [
        (back, &["+/c/a=1", "+/c/b=2"][..]),
        (forward, &["+/c/z=3", "-/c/a"]),
        (last, &["+/c/a=4"]),
    ] {
        let (revision, events) = batch(&mut watch).await;
        assert_eq!(
            (revision, said(&events)),
            (at, expected.iter().map(|s| s.to_string()).collect())
        );
        for event in events {
            match event {
                Event::Put(kv) => assert_eq!(kv.modified, at),
                Event::Delete { revision, .. } => assert_eq!(revision, at),
            }
        }
    }
    // A key that was deleted in between is new.
    let kv = store.get("/c/a").await.unwrap().unwrap();
    assert_eq!(kv.created, last);
}

pub(super) async fn a_watch_goes_on_where_another_stopped(store: Arc<dyn Store>) {
    let mut after = revision(&*store).await;
    let mut heard = Vec::new();
    for number in 0..30 {
        done(&*store, put("/c/a", number)).await;
        if number % 3 == 2 {
            // Some words stay unread in the watch that is dropped.
            let mut watch = store.watch("/c/", after).await.unwrap();
            for _ in 0..2 {
                let (revision, events) = batch(&mut watch).await;
                heard.extend(said(&events));
                after = revision;
            }
        }
    }
    let mut watch = store.watch("/c/", after).await.unwrap();
    while heard.len() < 30 {
        heard.extend(said(&batch(&mut watch).await.1));
    }
    let expected: Vec<_> = (0..30).map(|number| format!("+/c/a={number}")).collect();
    assert_eq!(heard, expected);
}

pub(super) async fn a_watch_says_nothing_from_beside_its_prefix(store: Arc<dyn Store>) {
    let after = revision(&*store).await;
    let all = ["/c/b", "/c/b/1", "/c/bc", "/c/b0", "/c", "/d/c/b/1"];
    let txn = || all.iter().fold(Txn::default(), |txn, key| txn.put(*key, Bytes::new()));
    done(&*store, txn()).await;
    let mut slash = store.watch("/c/b/", after).await.unwrap();
    let mut open = store.watch("/c/b", after).await.unwrap();
    let mut every = store.watch("", after).await.unwrap();
    done(&*store, all.iter().fold(Txn::default(), |txn, key| txn.delete(*key))).await;
    for _ in 0..2 {
        let keys = |events: Vec<Event>| -> Vec<String> {
            events.iter().map(|event| event.key().to_owned()).collect()
        };
        assert_eq!(keys(batch(&mut slash).await.1), ["/c/b/1"]);
        assert_eq!(keys(batch(&mut open).await.1), ["/c/b", "/c/b/1", "/c/bc", "/c/b0"]);
        assert_eq!(keys(batch(&mut every).await.1), all);
    }
}

pub(super) async fn a_watch_says_how_far_it_is(store: Arc<dyn Store>) {
    let start = revision(&*store).await;
    let back = done(&*store, put("/c/a", "1")).await;
    let beside = done(&*store, put("/d/a", "1")).await;
    let mut watch = store.watch("/c/", start).await.unwrap();
    assert!(
        matches!(next(&mut watch).await, WatchEvent::Batch { revision, .. } if revision == back)
    );
    let soon = timeout(WATCH_PROGRESS_EVERY / 2, watch.next()).await;
    assert_eq!(soon, Ok(WatchEvent::Progress(beside)), "when it has caught up");
    let beside = done(&*store, put("/d/a", "2")).await;
    let soon = timeout(WATCH_PROGRESS_EVERY / 2, watch.next()).await;
    assert_eq!(soon, Ok(WatchEvent::Progress(beside)), "soon after a change elsewhere");
    let silent = timeout(WATCH_PROGRESS_EVERY * 5 / 2, watch.next()).await;
    assert_eq!(silent, Ok(WatchEvent::Progress(beside)), "in silence");
    let here = done(&*store, put("/c/a", "2")).await;
    loop {
        match next(&mut watch).await {
            WatchEvent::Batch { revision, .. } => break assert_eq!(revision, here),
            word => assert_eq!(word, WatchEvent::Progress(beside), "never ahead of a change"),
        }
    }
}

/// Whoever begins at any time ends with the same content.
pub(super) async fn a_snapshot_and_a_watch_make_a_whole(store: Arc<dyn Store>) {
    const FOLLOWERS: usize = 6;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..60 {
                    let key = |n: usize| format!("/c/{writer}/{}", n % 7);
                    let txn = Txn::default()
                        .put(key(number), Bytes::from(number.to_string()))
                        .delete(key(number + 3));
                    done(&*store, txn).await;
                }
            })
        })
        .collect();
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS {
        let store = store.clone();
        followers.push(tokio::spawn(async move { follow(&*store).await }));
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    done(&*store, put("/c/end", "")).await;
    let (kvs, _) = store.snapshot("/c/").await.unwrap();
    let expected: BTreeMap<_, _> = kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    for follower in followers {
        assert_eq!(timeout(PATIENCE, follower).await.unwrap().unwrap(), expected);
    }
}

async fn follow(store: &dyn Store) -> BTreeMap<String, crate::model::Kv> {
    let (kvs, mut at) = store.snapshot("/c/").await.unwrap();
    let mut content: BTreeMap<_, _> = kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    let mut watch = store.watch("/c/", at).await.unwrap();
    while !content.contains_key("/c/end") {
        match next(&mut watch).await {
            WatchEvent::Batch { revision, events } => {
                assert!(revision > at, "{revision} after {at}");
                at = revision;
                for event in events {
                    match event {
                        Event::Put(kv) => content.insert(kv.key.clone(), kv),
                        Event::Delete { key, .. } => content.remove(&key),
                    };
                }
            }
            WatchEvent::Progress(revision) => assert!(revision >= at),
            end => panic!("the watch ended: {end:?}"),
        }
    }
    content
}

/// A back end may remember as much as it likes, but it never leaves a gap.
pub(super) async fn a_forgotten_revision_is_said_to_be(store: Arc<dyn Store>) {
    let start = done(&*store, put("/c/first", "")).await;
    let second = done(&*store, put("/c/second", "")).await;
    for _ in 0..=16_384 / TXN_OPS_MAX {
        let keys = (0..TXN_OPS_MAX).map(|key| format!("/c/{key}"));
        done(&*store, keys.fold(Txn::default(), |txn, key| txn.put(key, Bytes::new()))).await;
    }
    let mut watch = store.watch("/c/", start).await.unwrap();
    match next(&mut watch).await {
        WatchEvent::Compacted { oldest } => {
            assert!(oldest > start);
            assert!(matches!(next(&mut watch).await, WatchEvent::Lost(_)), "after the last word");
            let mut watch = store.watch("/c/", oldest).await.unwrap();
            assert!(batch(&mut watch).await.0 > oldest);
        }
        WatchEvent::Batch { revision, .. } => assert_eq!(revision, second),
        word => panic!("neither the next change nor compacted: {word:?}"),
    }
    let (_, now) = store.snapshot("/c/").await.unwrap();
    let mut watch = store.watch("/c/", now).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::Progress(now));
}

pub(super) async fn a_slow_reader_is_cut_off_and_holds_up_nobody(store: Arc<dyn Store>) {
    const WRITERS: usize = 32;
    let after = revision(&*store).await;
    let mut slow = store.watch("/c/", after).await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..=WATCH_BATCHES_MAX / WRITERS + 1 {
                    done(&*store, put(&format!("/c/{writer}"), number)).await;
                }
            })
        })
        .collect();
    for writer in writers {
        timeout(PATIENCE, writer).await.expect("a slow reader holds up no writer").unwrap();
    }
    let mut last = after;
    let lost_at = loop {
        match next(&mut slow).await {
            WatchEvent::Batch { revision, events } => {
                assert!(revision > last && events.len() == 1);
                last = revision;
            }
            WatchEvent::Progress(_) => {}
            WatchEvent::Lost(_) => break last,
            word => panic!("neither a change nor lost: {word:?}"),
        }
    };
    assert!(lost_at < revision(&*store).await, "it missed something");
    // It can come back for what it missed.
    let mut again = store.watch("/c/", lost_at).await.unwrap();
    let (next_revision, _) = batch(&mut again).await;
    assert!(next_revision > lost_at && next_revision <= Revision(lost_at.0 + 1));
}
