//! Leases: how they end, how they are kept, and whose keys they take along.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, interval};

use super::{batch, done, leased, put, revision, value};
use crate::model::{Event, LeaseId};
use crate::store::{LEASE_TTL_MAX, LEASE_TTL_MIN, Store, StoreError, Txn};

const UNKNOWN: LeaseId = LeaseId(u64::MAX >> 1);

pub(super) async fn the_end_of_a_lease_deletes_its_keys_at_one_revision(store: Arc<dyn Store>) {
    done(&*store, put("/c/free", "1")).await;
    let granted = Instant::now();
    let lease = store.lease_grant(LEASE_TTL_MIN).await.unwrap();
    let mut after = revision(&*store).await;
    for key in ["/c/a", "/c/b", "/c/c"] {
        after = done(&*store, leased(key, lease)).await;
    }
    assert_eq!(store.get("/c/a").await.unwrap().unwrap().lease, Some(lease));
    let mut watch = store.watch("/c/", after).await.unwrap();
    let (at, events) = batch(&mut watch).await;
    assert!(granted.elapsed() >= LEASE_TTL_MIN, "not before its time");
    let gone: BTreeSet<_> = events.iter().map(Event::key).collect();
    assert_eq!(gone, BTreeSet::from(["/c/a", "/c/b", "/c/c"]));
    for event in &events {
        assert!(matches!(event, Event::Delete { revision, .. } if *revision == at));
    }
    let (kvs, _) = store.snapshot("/c/").await.unwrap();
    assert_eq!(kvs.len(), 1, "a key without a lease stays");
    let ended = store.lease_keepalive(lease).await;
    assert!(matches!(ended, Err(StoreError::NoLease(id)) if id == lease));
}

pub(super) async fn a_lease_that_is_kept_alive_lives(store: Arc<dyn Store>) {
    const TTL: Duration = Duration::from_secs(2);
    let lease = store.lease_grant(TTL).await.unwrap();
    let after = done(&*store, leased("/c/a", lease)).await;
    let started = Instant::now();
    let mut ticks = interval(TTL / 8);
    while started.elapsed() < TTL * 3 / 2 {
        ticks.tick().await;
        store.lease_keepalive(lease).await.unwrap();
    }
    let kept = Instant::now();
    assert!(store.get("/c/a").await.unwrap().is_some());
    let mut watch = store.watch("/c/", after).await.unwrap();
    let (_, events) = batch(&mut watch).await;
    assert!(matches!(&events[..], [Event::Delete { key, .. }] if key == "/c/a"));
    // The last keep-alive was just before `kept`.
    assert!(kept.elapsed() >= TTL * 3 / 4, "not before its time");
}

pub(super) async fn a_revoked_lease_is_gone_with_its_keys(store: Arc<dyn Store>) {
    let lease = store.lease_grant(LEASE_TTL_MAX).await.unwrap();
    let other = store.lease_grant(LEASE_TTL_MAX).await.unwrap();
    assert_ne!(lease, other);
    done(&*store, leased("/c/a", lease)).await;
    done(&*store, leased("/c/b", lease)).await;
    let after = done(&*store, leased("/c/other", other)).await;
    let mut watch = store.watch("/c/", after).await.unwrap();
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(value(&*store, "/c/a").await, None);
    let (_, events) = batch(&mut watch).await;
    assert_eq!(events.len(), 2);
    assert!(value(&*store, "/c/other").await.is_some());
    for ended in [
        store.lease_revoke(lease).await,
        store.lease_keepalive(lease).await,
        store.txn(leased("/c/a", lease)).await.map(|_| ()),
    ] {
        assert!(matches!(ended, Err(StoreError::NoLease(id)) if id == lease));
    }
    store.lease_keepalive(other).await.unwrap();
}

pub(super) async fn a_put_changes_the_lease_of_a_key(store: Arc<dyn Store>) {
    let first = store.lease_grant(LEASE_TTL_MAX).await.unwrap();
    let second = store.lease_grant(LEASE_TTL_MAX).await.unwrap();
    for key in ["/c/moved", "/c/freed", "/c/again", "/c/remade"] {
        done(&*store, leased(key, first)).await;
    }
    done(&*store, leased("/c/moved", second)).await;
    done(&*store, put("/c/freed", "")).await;
    done(&*store, leased("/c/again", first)).await;
    done(&*store, Txn::default().delete("/c/remade")).await;
    done(&*store, put("/c/remade", "")).await;
    let keys = async || {
        let (kvs, _) = store.snapshot("/c/").await.unwrap();
        kvs.into_iter().map(|kv| (kv.key, kv.lease)).collect::<Vec<_>>()
    };
    let of = |key: &str, lease| (key.to_owned(), lease);
    store.lease_revoke(first).await.unwrap();
    let left = [of("/c/freed", None), of("/c/moved", Some(second)), of("/c/remade", None)];
    assert_eq!(keys().await, left);
    store.lease_revoke(second).await.unwrap();
    assert_eq!(keys().await, [of("/c/freed", None), of("/c/remade", None)]);
}

pub(super) async fn an_unknown_lease_is_refused(store: Arc<dyn Store>) {
    let before = done(&*store, put("/c/a", "1")).await;
    let txn = leased("/c/b", UNKNOWN).put("/c/a", Bytes::from_static(b"2"));
    for refused in [
        store.txn(txn).await.map(|_| ()),
        store.lease_keepalive(UNKNOWN).await,
        store.lease_revoke(UNKNOWN).await,
    ] {
        assert!(matches!(refused, Err(StoreError::NoLease(UNKNOWN))));
    }
    assert_eq!(revision(&*store).await, before);
    assert_eq!(value(&*store, "/c/a").await.as_deref(), Some("1"));
}

pub(super) async fn a_lease_outside_of_the_limits_is_refused(store: Arc<dyn Store>) {
    let tick = Duration::from_millis(1);
    for ttl in [Duration::ZERO, LEASE_TTL_MIN - tick, LEASE_TTL_MAX + tick] {
        assert!(matches!(store.lease_grant(ttl).await, Err(StoreError::Refused(_))), "{ttl:?}");
    }
}
