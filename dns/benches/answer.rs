//! One decision about one query: budget 300 ns at 1,000 names, 800 ns at 100,000.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use portolan_discovery::model::{Event, Key, Kv, Revision};
use portolan_discovery::snapshot::Snapshot;
use portolan_dns::{Cache, Client, View, Zone, ZoneConfig, answer};

/// A snapshot with `services` services of three instances each.
fn snapshot(services: usize) -> Snapshot {
    let mut events = Vec::new();
    for service in 0..services {
        for id in 0..3 {
            let key = format!("/portolan/v1/d/i/s{service}/i{id}");
            let addr = format!("10.{}.{}.{id}:80", service / 250 % 250, service % 250);
            let value = format!(
                r#"{{"service":"s{service}","id":"i{id}","node":"n1","addr":"{addr}",
                "health":"up","origin":"api","since_ms":0}}"#
            );
            debug_assert!(key.parse::<Key>().is_ok());
            events.push(Event::Put(Kv {
                key,
                value: value.into(),
                created: Revision(1),
                modified: Revision(1),
                lease: None,
            }));
        }
    }
    let (snapshot, rejected) = Snapshot::default().apply(&events, Revision(1));
    assert!(rejected.is_empty(), "{rejected:?}");
    snapshot
}

fn query(name: &str, qtype: u16) -> Vec<u8> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("the labels here are short"));
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&qtype.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query
}

/// Each round asks for another name, so that no cache line stays warm by chance.
fn decide(c: &mut Criterion) {
    for services in [1_000, 100_000] {
        let zone = Zone::compile(&snapshot(services), None, &ZoneConfig::default());
        let cache = Cache::unobserved(32 << 20);
        let view = View { zone: &zone, cache: &cache, now: Duration::ZERO };
        let client = Client { by_tcp: false, allowed: true };
        let mut rng = fastrand::Rng::with_seed(7);
        let mut out = Vec::with_capacity(1232);
        for (what, prefix, suffix, qtype) in [
            ("A", "s", ".cluster.internal", 1),
            ("AAAA-nodata", "s", ".cluster.internal", 28),
            ("nxdomain", "x", ".cluster.internal", 1),
            ("instances", "s", ".inst.cluster.internal", 1),
            ("miss", "s", ".example.org", 1),
        ] {
            let queries: Vec<Vec<u8>> = (0..services)
                .map(|n| query(&format!("{prefix}{}{suffix}", n * 7919 % services), qtype))
                .collect();
            let mut next = queries.iter().cycle();
            c.bench_function(&format!("answer/{what}/{services}"), |b| {
                b.iter(|| {
                    let query = next.next().expect("a cycle does not end");
                    black_box(answer(query, client, &view, &mut rng, &mut out))
                });
            });
        }
    }
}

/// One instance of one service changes.
fn compile(c: &mut Criterion) {
    let before = snapshot(100_000);
    let config = ZoneConfig::default();
    let zone = Zone::compile(&before, None, &config);
    let key = "/portolan/v1/d/i/s5/i0".to_owned();
    let gone = Event::Delete { key, revision: Revision(2) };
    let (after, _) = before.apply(&[gone], Revision(2));
    c.bench_function("compile/one change of 100000", |b| {
        b.iter_batched(
            || zone.clone(),
            |zone| Zone::compile(&after, Some(&zone), &config),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, decide, compile);
criterion_main!(benches);
