//! Keys, revisions, transactions and snapshots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::{done, put, revision, value};
use crate::model::Revision;
use crate::store::{
    Compare, KEY_BYTES_MAX, Store, StoreError, TXN_BYTES_MAX, TXN_OPS_MAX, Txn, VALUE_BYTES_MAX,
};

pub(super) async fn every_commit_has_a_later_revision(store: Arc<dyn Store>) {
    let mut last = revision(&*store).await;
    for number in 0..20 {
        let at = done(&*store, put("/c/key", number)).await;
        assert!(at > last, "{at} after {last}");
        let kv = store.get("/c/key").await.unwrap().unwrap();
        assert_eq!((kv.modified, &*kv.value), (at, number.to_string().as_bytes()));
        assert_eq!(revision(&*store).await, at);
        last = at;
    }
}

pub(super) async fn a_condition_decides_whether_a_transaction_is_done(store: Arc<dyn Store>) {
    let old = done(&*store, put("/c/there", "1")).await;
    let now = done(&*store, put("/c/there", "2")).await;
    let there = || "/c/there".to_owned();
    let gone = || "/c/gone".to_owned();
    for (compares, expected) in [
        (vec![], true),
        (vec![Compare::Absent(gone())], true),
        (vec![Compare::Absent(there())], false),
        (vec![Compare::Present(there())], true),
        (vec![Compare::Present(gone())], false),
        (vec![Compare::Unchanged(there(), now)], true),
        (vec![Compare::Unchanged(there(), old)], false),
        (vec![Compare::Unchanged(there(), Revision(now.0 + 1))], false),
        (vec![Compare::Unchanged(gone(), now)], false),
        (vec![Compare::Unchanged(gone(), Revision(0))], false),
        (vec![Compare::Present(there()), Compare::Absent(gone())], true),
        (vec![Compare::Present(there()), Compare::Absent(there())], false),
        (vec![Compare::Absent(there()), Compare::Present(there())], false),
    ] {
        let before = revision(&*store).await;
        let text = format!("{compares:?}");
        let outcome = store.txn(Txn { compares, ..put("/c/mark", &text) }).await.unwrap();
        assert_eq!(outcome.done, expected, "{text}");
        assert_eq!(outcome.revision > before, expected, "{text}");
        assert_eq!(outcome.revision, revision(&*store).await, "{text}");
        assert_eq!(value(&*store, "/c/mark").await == Some(text.clone()), expected, "{text}");
    }
}

pub(super) async fn a_transaction_is_done_whole_or_not_at_all(store: Arc<dyn Store>) {
    done(&*store, put("/c/a", "1")).await;
    let all = || put("/c/b", "2").put("/c/c", Bytes::from_static(b"3")).delete("/c/a");
    let refused = store.txn(all().when(Compare::Absent("/c/a".to_owned()))).await.unwrap();
    assert!(!refused.done);
    assert_eq!(store.snapshot("/c/").await.unwrap().0.len(), 1);
    let at = done(&*store, all().when(Compare::Present("/c/a".to_owned()))).await;
    let (kvs, revision) = store.snapshot("/c/").await.unwrap();
    assert_eq!(revision, at);
    let found: Vec<_> = kvs.iter().map(|kv| (kv.key.as_str(), kv.modified)).collect();
    assert_eq!(found, [("/c/b", at), ("/c/c", at)]);
}

pub(super) async fn a_transaction_without_effect_makes_no_revision(store: Arc<dyn Store>) {
    let at = done(&*store, put("/c/a", "1")).await;
    for nothing in [
        Txn::default(),
        Txn::default().delete("/c/never"),
        Txn::default().when(Compare::Present("/c/a".to_owned())),
    ] {
        assert_eq!(done(&*store, nothing).await, at);
    }
    assert_eq!(revision(&*store).await, at);
    // The same value again is an effect: the writer wants it to be seen.
    assert!(done(&*store, put("/c/a", "1")).await > at);
}

pub(super) async fn a_key_twice_is_refused(store: Arc<dyn Store>) {
    let at = done(&*store, put("/c/a", "1")).await;
    for twice in [put("/c/a", "2").delete("/c/a"), put("/c/b", "2").put("/c/b", Bytes::new())] {
        assert!(matches!(store.txn(twice).await, Err(StoreError::Refused(_))));
    }
    assert_eq!(revision(&*store).await, at);
}

pub(super) async fn what_is_at_the_limit_goes_and_what_is_above_is_refused(store: Arc<dyn Store>) {
    let puts = |count: usize| {
        (0..count).fold(Txn::default(), |txn, n| txn.put(format!("/c/{n}"), Bytes::new()))
    };
    let compares = |count: usize| {
        (0..count).fold(put("/c/x", ""), |txn, n| txn.when(Compare::Absent(format!("/x/{n}"))))
    };
    let key = |bytes| put(&"k".repeat(bytes), "");
    let large = |bytes| Txn::default().put("/c/large", Bytes::from(vec![b'x'; bytes]));
    let total = |bytes| large(VALUE_BYTES_MAX).put("/c/l", Bytes::from(vec![b'x'; bytes]));
    let rest = TXN_BYTES_MAX - VALUE_BYTES_MAX - "/c/large/c/l".len();
    for (what, good, bad) in [
        ("operations", puts(TXN_OPS_MAX), puts(TXN_OPS_MAX + 1)),
        ("conditions", compares(TXN_OPS_MAX), compares(TXN_OPS_MAX + 1)),
        ("key", key(KEY_BYTES_MAX), key(KEY_BYTES_MAX + 1)),
        ("no key", key(1), key(0)),
        ("value", large(VALUE_BYTES_MAX), large(VALUE_BYTES_MAX + 1)),
        ("all", total(rest), total(rest + 1)),
        ("condition's key", put("/c/x", "1"), put("/c/x", "").when(Compare::Absent(String::new()))),
    ] {
        let at = done(&*store, good).await;
        assert!(matches!(store.txn(bad).await, Err(StoreError::Refused(_))), "{what}");
        assert_eq!(revision(&*store).await, at, "{what}");
    }
    let found = store.get("/c/large").await.unwrap().unwrap();
    assert_eq!(found.value.len(), VALUE_BYTES_MAX);
}

pub(super) async fn a_key_keeps_the_revision_that_made_it(store: Arc<dyn Store>) {
    let made = done(&*store, put("/c/a", "1")).await;
    let changed = done(&*store, put("/c/a", "")).await;
    let kv = store.get("/c/a").await.unwrap().unwrap();
    assert_eq!((kv.created, kv.modified, kv.value.len()), (made, changed, 0));
    done(&*store, Txn::default().delete("/c/a")).await;
    assert_eq!(store.get("/c/a").await.unwrap(), None);
    let again = done(&*store, put("/c/a", "3")).await;
    let kv = store.get("/c/a").await.unwrap().unwrap();
    assert_eq!((kv.created, kv.modified), (again, again));
}

pub(super) async fn a_snapshot_is_ordered_and_holds_its_prefix_only(store: Arc<dyn Store>) {
    for key in ["/c/b/2", "/c/bc", "/c/b/10", "/c/a", "/c/b/1", "/c/b", "/d"] {
        done(&*store, put(key, key)).await;
    }
    for (prefix, expected) in [
        ("/c/b/", &["/c/b/1", "/c/b/10", "/c/b/2"][..]),
        ("/c/b", &["/c/b", "/c/b/1", "/c/b/10", "/c/b/2", "/c/bc"]),
        ("/c/b/1", &["/c/b/1", "/c/b/10"]),
        ("/c/nothing", &[]),
        ("", &["/c/a", "/c/b", "/c/b/1", "/c/b/10", "/c/b/2", "/c/bc", "/d"]),
    ] {
        let (kvs, at) = store.snapshot(prefix).await.unwrap();
        let keys: Vec<_> = kvs.iter().map(|kv| kv.key.as_str()).collect();
        assert_eq!(keys, expected, "{prefix}");
        assert!(kvs.iter().all(|kv| *kv.value == *kv.key.as_bytes()));
        assert_eq!(at, revision(&*store).await);
    }
}

pub(super) async fn a_snapshot_is_of_one_revision(store: Arc<dyn Store>) {
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, is_over) = (store.clone(), is_over.clone());
        async move {
            for number in 0..200 {
                let txn = put("/c/a", number).put("/c/z", Bytes::from(number.to_string()));
                done(&*store, txn).await;
            }
            is_over.store(true, Ordering::Relaxed);
        }
    });
    while !is_over.load(Ordering::Relaxed) {
        let (kvs, at) = store.snapshot("/c/").await.unwrap();
        match &kvs[..] {
            [] => {}
            [a, z] => {
                assert_eq!((&a.value, a.modified), (&z.value, z.modified));
                assert_eq!(a.modified, at);
            }
            torn => panic!("half of a transaction: {torn:?}"),
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
}

pub(super) async fn increments_at_the_same_time_lose_nothing(store: Arc<dyn Store>) {
    const TASKS: u64 = 16;
    const ROUNDS: u64 = 20;
    done(&*store, put("/c/count", 0)).await;
    let increment = |store: Arc<dyn Store>| async move {
        loop {
            let kv = store.get("/c/count").await.unwrap().unwrap();
            let count: u64 = String::from_utf8(kv.value.to_vec()).unwrap().parse().unwrap();
            let txn = put("/c/count", count + 1);
            let txn = txn.when(Compare::Unchanged("/c/count".to_owned(), kv.modified));
            if store.txn(txn).await.unwrap().done {
                return;
            }
        }
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    increment(store.clone()).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(value(&*store, "/c/count").await, Some((TASKS * ROUNDS).to_string()));
}

pub(super) async fn the_identity_stays(store: Arc<dyn Store>) {
    let before = store.status().await.unwrap();
    done(&*store, put("/c/a", "1")).await;
    let after = store.status().await.unwrap();
    assert!(!before.identity.is_empty());
    assert_eq!((before.identity, before.backend), (after.identity, after.backend));
    assert!(after.revision > before.revision);
}
