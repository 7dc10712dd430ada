//! The registrar: compare-and-set, owners, outages.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use portolan_agent::metrics::Metrics;
use portolan_agent::register::{RegisterError, Registrar};
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{Health, JobId, Origin, Phase, Revision};
use portolan_discovery::store::Store;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::shaky::{Mood, Shaky};
use crate::{LONG, config, eventually, id, instance, key, node, service, stored, write};

struct Case {
    store: Arc<dyn Store>,
    mood: Arc<Mood>,
    registrar: Registrar,
    _dir: TempDir,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, mood) = Shaky::open(dir.path());
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let registrar = Registrar::new(store.clone(), node("n1"), metrics);
        Self { store, mood, registrar, _dir: dir }
    }

    async fn revision(&self) -> Revision {
        self.store.status().await.unwrap().revision
    }
}

#[tokio::test]
async fn a_record_follows_what_is_wanted_of_it() {
    let case = Case::new();
    let registrar = &case.registrar;
    let at = registrar.put(instance("a", Health::Starting)).await.unwrap();
    assert_eq!(at, case.revision().await);

    let cause = Some("tcp: connection refused".to_owned());
    registrar.set_health(&service(), &id("a"), Health::Down, cause.clone()).await.unwrap();
    let record = stored(&*case.store, "a").await.unwrap();
    assert_eq!((record.health, record.cause), (Health::Down, cause));
    assert!(record.since_ms > 1);

    let at = registrar.set_phase(&service(), &id("a"), Phase::Draining).await.unwrap();
    assert_eq!(at, case.revision().await);
    let record = stored(&*case.store, "a").await.unwrap();
    assert_eq!((record.health, record.phase), (Health::Down, Phase::Draining));

    registrar.remove(&service(), &id("a"), config()).await.unwrap();
    assert_eq!(stored(&*case.store, "a").await, None);
    assert_eq!(case.mood.writes(), 4);
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() {
    let case = Case::new();
    let registrar = &case.registrar;
    registrar.put(instance("a", Health::Starting)).await.unwrap();
    let up = registrar.set_health(&service(), &id("a"), Health::Up, None).await.unwrap();
    let writes = case.mood.writes();
    for _ in 0..10 {
        let again = registrar.set_health(&service(), &id("a"), Health::Up, None).await.unwrap();
        assert_eq!(again, up, "the revision of what is already so");
        registrar.set_phase(&service(), &id("a"), Phase::Active).await.unwrap();
        registrar.declare(instance("a", Health::Starting)).await.unwrap();
        registrar.compare_all();
    }
    registrar.declare(instance("a", Health::Starting)).await.unwrap();
    assert_eq!(case.mood.writes(), writes);
    assert_eq!(stored(&*case.store, "a").await.unwrap().health, Health::Up);
}

#[tokio::test]
async fn another_owner_s_record_is_an_error_that_names_the_owner() {
    let case = Case::new();
    let mut other_node = instance("a", Health::Up);
    other_node.node = node("n2");
    other_node.origin = Origin::Config(node("n2"));
    let mut other_origin = instance("b", Health::Up);
    other_origin.origin = Origin::Job(JobId::parse("shop-web-1").unwrap());
    for (record, owner) in
        [(other_node, "the configuration of node n2"), (other_origin, "job shop-web-1 of node n1")]
    {
        write(&*case.store, &record).await;
        let name = record.id.as_str();
        let error = case.registrar.put(instance(name, Health::Down)).await.unwrap_err();
        assert!(matches!(error, RegisterError::Owned { .. }));
        assert_eq!(error.to_string(), format!("{} belongs to {owner}", key(name)));
        let error = case.registrar.remove(&service(), &record.id, config()).await.unwrap_err();
        assert!(matches!(error, RegisterError::Owned { .. }));
        assert_eq!(stored(&*case.store, name).await, Some(record));
    }
}

#[tokio::test]
async fn what_was_never_registered_here_has_no_health() {
    let case = Case::new();
    write(&*case.store, &instance("a", Health::Up)).await;
    let error =
        case.registrar.set_health(&service(), &id("a"), Health::Down, None).await.unwrap_err();
    assert!(matches!(error, RegisterError::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn what_moves_from_configuration_to_a_file_is_changed_in_place() {
    let case = Case::new();
    write(&*case.store, &instance("a", Health::Up)).await;
    let mut moved = instance("a", Health::Starting);
    moved.origin = Origin::File("web.toml".to_owned());
    case.registrar.declare(moved).await.unwrap();
    let record = stored(&*case.store, "a").await.unwrap();
    assert_eq!(record.health, Health::Up);
    assert_eq!(record.origin, Origin::File("web.toml".to_owned()));
}

#[tokio::test]
async fn an_outage_loses_nothing_and_the_newest_wish_wins() {
    let case = Case::new();
    let registrar = &case.registrar;
    registrar.put(instance("a", Health::Starting)).await.unwrap();
    case.mood.go(true);
    let first = registrar.set_health(&service(), &id("a"), Health::Up, None);
    let second = registrar.set_health(&service(), &id("a"), Health::Down, Some("x".to_owned()));
    let drain = registrar.set_phase(&service(), &id("a"), Phase::Draining);
    let new = registrar.put(instance("b", Health::Up));
    let writes = case.mood.writes();
    let calls = case.mood.calls();
    eventually("it is tried again", || async { case.mood.calls() > calls + 3 }).await;
    assert_eq!(case.mood.writes(), writes);

    case.mood.go(false);
    for written in [first, second, drain, new] {
        timeout(LONG, written.stored()).await.unwrap().unwrap();
    }
    let record = stored(&*case.store, "a").await.unwrap();
    assert_eq!((record.health, record.phase), (Health::Down, Phase::Draining));
    assert!(stored(&*case.store, "b").await.is_some());
    assert_eq!(case.mood.writes(), writes + 2, "one write for all wishes of a record");
}

#[tokio::test]
async fn a_wish_goes_on_when_nobody_waits_for_it() {
    let case = Case::new();
    case.mood.go(true);
    drop(case.registrar.put(instance("a", Health::Up)));
    case.mood.go(false);
    eventually("the record is there", || async { stored(&*case.store, "a").await.is_some() }).await;
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_done_twice() {
    let case = Case::new();
    case.mood.loses_answers.store(true, Ordering::SeqCst);
    let written = case.registrar.put(instance("a", Health::Up));
    eventually("it is tried", || async { case.mood.writes() > 0 }).await;
    case.mood.loses_answers.store(false, Ordering::SeqCst);
    let at = timeout(LONG, written.stored()).await.unwrap().unwrap();
    assert_eq!(case.mood.writes(), 1);
    assert_eq!(at, case.revision().await);
}

#[tokio::test]
async fn a_wish_taken_back_after_a_lost_answer_is_written_back() {
    let case = Case::new();
    let health = |health| case.registrar.set_health(&service(), &id("a"), health, None);
    case.registrar.put(instance("a", Health::Up)).await.unwrap();
    case.mood.loses_answers.store(true, Ordering::SeqCst);
    drop(health(Health::Down));
    eventually("it is done", || async {
        stored(&*case.store, "a").await.unwrap().health == Health::Down
    })
    .await;
    let written = health(Health::Up);
    case.mood.loses_answers.store(false, Ordering::SeqCst);
    timeout(LONG, written.stored()).await.unwrap().unwrap();
    assert_eq!(stored(&*case.store, "a").await.unwrap().health, Health::Up);
}

#[tokio::test]
async fn a_record_that_changes_meanwhile_is_read_again() {
    let case = Case::new();
    case.registrar.put(instance("a", Health::Starting)).await.unwrap();
    let mut rival = instance("a", Health::Starting);
    rival.phase = Phase::Draining;
    *case.mood.rival.lock().unwrap() = Some((key("a"), encode(&rival)));
    case.registrar.set_health(&service(), &id("a"), Health::Up, None).await.unwrap();
    assert_eq!(stored(&*case.store, "a").await.unwrap().health, Health::Up);

    let mut thief = instance("a", Health::Up);
    thief.node = node("n2");
    *case.mood.rival.lock().unwrap() = Some((key("a"), encode(&thief)));
    let error =
        case.registrar.set_health(&service(), &id("a"), Health::Down, None).await.unwrap_err();
    assert!(matches!(error, RegisterError::Owned { .. }), "{error}");
    assert_eq!(stored(&*case.store, "a").await, Some(thief));
}

#[tokio::test]
async fn a_record_that_somebody_deleted_comes_back_as_it_was() {
    let case = Case::new();
    case.registrar.put(instance("a", Health::Starting)).await.unwrap();
    case.registrar.set_health(&service(), &id("a"), Health::Up, None).await.unwrap();
    let record = stored(&*case.store, "a").await;
    let delete = portolan_discovery::store::Txn::default().delete(key("a"));
    assert!(case.store.txn(delete).await.unwrap().done);
    case.registrar.compare_all();
    eventually("it is back", || async { stored(&*case.store, "a").await == record }).await;
}

#[tokio::test]
async fn the_end_waits_for_the_store_but_not_for_ever() {
    let case = Case::new();
    let written = case.registrar.put(instance("a", Health::Up));
    case.registrar.stop(LONG).await;
    written.stored().await.unwrap();

    let case = Case::new();
    case.mood.go(true);
    let written = case.registrar.put(instance("a", Health::Up));
    timeout(LONG, case.registrar.stop(std::time::Duration::from_millis(50))).await.unwrap();
    let error = timeout(LONG, written.stored()).await.unwrap().unwrap_err();
    assert!(matches!(error, RegisterError::Stopped { .. }), "{error}");
}
