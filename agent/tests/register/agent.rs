//! A whole agent: declarations come and go, and the store follows.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portolan_agent::check::run::Checks;
use portolan_agent::job::{self, ShimProgram};
use portolan_agent::metrics::{Metrics, STORE_PENDING};
use portolan_agent::register::{
    Declared, DeclaredInstance, Parts, Registrar, Registration, Unknown,
};
use portolan_agent::{Agent, AgentConfig};
use portolan_discovery::model::{
    CheckKind, CheckSpec, Event, Health, Instance, Key, Origin, PortRange, Revision, Service,
    Weight,
};
use portolan_discovery::store::{Store, Watch, WatchEvent};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::shaky::{Mood, Shaky};
use crate::{LONG, config, eventually, id, instance, key, node, service, stored, write};

struct Case {
    store: Arc<dyn Store>,
    mood: Arc<Mood>,
    declared: watch::Sender<Vec<Declared>>,
    files: PathBuf,
    dir: TempDir,
}

struct Running {
    cancel: CancellationToken,
    task: JoinHandle<()>,
    registry: prometheus::Registry,
}

impl Running {
    /// How many records wait for the store.
    fn pending(&self) -> i64 {
        let families = self.registry.gather();
        let pending = families.iter().find(|family| family.name() == STORE_PENDING).unwrap();
        pending.get_metric()[0].get_gauge().get_value() as i64
    }

    async fn stop(self) {
        self.cancel.cancel();
        timeout(LONG, self.task).await.unwrap().unwrap();
    }
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, mood) = Shaky::open(dir.path());
        let files = dir.path().join("services");
        fs::create_dir(&files).unwrap();
        Self { store, mood, declared: watch::Sender::new(Vec::new()), files, dir }
    }

    fn start(&self) -> Running {
        let config = AgentConfig {
            node: node("n1"),
            services_dir: Some(self.files.clone()),
            declared: self.declared.subscribe(),
            records: watch::channel(Default::default()).1,
            jobs: job::Config {
                addr: "127.0.0.1".parse().unwrap(),
                ports: PortRange::DEFAULT,
                dir: self.dir.path().join("jobs"),
                // No job is placed here, and so no shim is started.
                shim: ShimProgram { program: "/nonexistent/shim".into(), args: Vec::new() },
            },
        };
        let registry = prometheus::Registry::new();
        let agent = Agent::bind(config, self.store.clone(), &registry).unwrap();
        let cancel = CancellationToken::new();
        Running { task: tokio::spawn(agent.run(cancel.clone())), cancel, registry }
    }

    fn declare(&self, instances: Vec<DeclaredInstance>) {
        let service = Service::named(service());
        self.declared.send_replace(vec![Declared { service, instances, origin: config() }]);
    }

    fn write_file(&self, name: &str, text: &str) {
        // As editors do: whole files only.
        let next = self.files.join(".next");
        fs::write(&next, text).unwrap();
        fs::rename(next, self.files.join(name)).unwrap();
    }

    async fn health(&self, of: &str) -> Option<Health> {
        stored(&*self.store, of).await.map(|record| record.health)
    }

    async fn is(&self, of: &str, health: Option<Health>) {
        eventually(&format!("{of} is {health:?}"), || async { self.health(of).await == health })
            .await;
    }

    async fn has_service(&self) -> bool {
        self.store.get(&Key::Service(service()).to_string()).await.unwrap().is_some()
    }

    async fn watch(&self) -> Watch {
        let revision = self.store.status().await.unwrap().revision;
        self.store.watch(portolan_discovery::model::key::DATA, revision).await.unwrap()
    }

    /// How many writes are tried within `time`.
    async fn writes_in(&self, time: Duration) -> u64 {
        let before = self.mood.tries();
        tokio::time::sleep(time).await;
        self.mood.tries() - before
    }
}

fn declared(of: &str, addr: SocketAddr, check: Option<CheckSpec>) -> DeclaredInstance {
    DeclaredInstance {
        id: id(of),
        addr,
        weight: Weight::DEFAULT,
        checks: check.into_iter().collect(),
        labels: BTreeMap::new(),
    }
}

fn tcp() -> Option<CheckSpec> {
    let every = Duration::from_millis(20);
    Some(CheckSpec { every, start_period: Duration::ZERO, ..CheckSpec::of(CheckKind::Tcp) })
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// What happened to one instance up to now.
async fn history(watch: &mut Watch, of: &str, until: Revision) -> Vec<Option<Instance>> {
    let mut history = Vec::new();
    loop {
        match timeout(LONG, watch.next()).await.expect("the watch goes on") {
            WatchEvent::Batch { revision, events } => {
                for event in events.into_iter().filter(|event| event.key() == key(of)) {
                    history.push(match event {
                        Event::Put(kv) => Some(serde_json::from_slice(&kv.value).unwrap()),
                        Event::Delete { .. } => None,
                    });
                }
                if revision >= until {
                    return history;
                }
            }
            WatchEvent::Progress(revision) if revision >= until => return history,
            WatchEvent::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn now(case: &Case) -> Revision {
    case.store.status().await.unwrap().revision
}

#[tokio::test]
async fn an_instance_comes_follows_its_checks_and_goes_with_its_service() {
    let case = Case::new();
    let agent = case.start();
    let (listener, addr) = listener().await;
    case.declare(vec![declared("a", addr, tcp())]);
    case.is("a", Some(Health::Up)).await;
    assert!(case.has_service().await);

    drop(listener);
    case.is("a", Some(Health::Down)).await;
    let cause = stored(&*case.store, "a").await.unwrap().cause;
    assert_eq!(cause.as_deref(), Some("tcp: connect: connection refused"));
    let _again = TcpListener::bind(addr).await.unwrap();
    case.is("a", Some(Health::Up)).await;

    case.declared.send_replace(Vec::new());
    case.is("a", None).await;
    eventually("the service goes", || async { !case.has_service().await }).await;
    agent.stop().await;
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes_whatever_the_checks_do() {
    let case = Case::new();
    let agent = case.start();
    let (_listener, addr) = listener().await;
    case.declare(vec![declared("a", addr, tcp()), declared("b", addr, None)]);
    case.is("a", Some(Health::Up)).await;
    case.is("b", Some(Health::Up)).await;
    case.writes_in(Duration::from_millis(100)).await;
    assert_eq!(case.writes_in(Duration::from_millis(1500)).await, 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_restart_of_the_agent_changes_nothing() {
    let case = Case::new();
    let (_listener, addr) = listener().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    case.declare(vec![declared("a", addr, tcp()), declared("b", nobody, tcp())]);
    let agent = case.start();
    case.is("a", Some(Health::Up)).await;
    case.is("b", Some(Health::Down)).await;
    agent.stop().await;
    assert_eq!(case.health("a").await, Some(Health::Up), "that an agent is away says nothing");

    let writes = case.mood.writes();
    let agent = case.start();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(case.mood.writes(), writes);
    agent.stop().await;
}

#[tokio::test]
async fn what_vanished_while_the_agent_was_away_is_removed_and_nothing_else() {
    let case = Case::new();
    let mut of_a_job = instance("job", Health::Up);
    of_a_job.origin = Origin::Job("shop-web-1".parse().unwrap());
    let mut of_another_node = instance("far", Health::Up);
    of_another_node.node = node("n2");
    of_another_node.origin = Origin::Config(node("n2"));
    let mut of_the_api = instance("api", Health::Up);
    of_the_api.origin = Origin::Api;
    for record in [instance("old", Health::Up), of_a_job, of_another_node, of_the_api] {
        write(&*case.store, &record).await;
    }
    // The registration alone: a whole agent also clears up after jobs that it does not have.
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let registrar = Registrar::new(case.store.clone(), node("n1"), metrics.clone());
    let parts = Parts { registrar, checks: Checks::new(metrics.clone()), metrics };
    let mut registration = Registration::new(parts);
    registration.apply(Vec::new());
    registration.tend(&Unknown::default()).await;
    case.is("old", None).await;
    for other in ["job", "far", "api"] {
        assert_eq!(case.health(other).await, Some(Health::Up), "{other}");
    }
}

#[tokio::test]
async fn a_changed_instance_is_changed_in_place() {
    let case = Case::new();
    let agent = case.start();
    let (_listener, addr) = listener().await;
    case.declare(vec![declared("a", addr, tcp())]);
    case.is("a", Some(Health::Up)).await;

    let mut watch = case.watch().await;
    let mut changed = declared("a", addr, None);
    changed.weight = Weight(7.try_into().unwrap());
    changed.labels.insert("tier".to_owned(), "gold".to_owned());
    case.declare(vec![changed]);
    eventually("the weight changes", || async {
        stored(&*case.store, "a").await.is_some_and(|record| record.weight.0.get() == 7)
    })
    .await;
    let history = history(&mut watch, "a", now(&case).await).await;
    assert_eq!(history.len(), 1, "one write: {history:?}");
    assert!(history.iter().flatten().all(|record| record.health == Health::Up));
    agent.stop().await;
}

#[tokio::test]
async fn another_address_is_probed_before_it_takes_over() {
    let case = Case::new();
    let agent = case.start();
    let (_first, old) = listener().await;
    let (second, new) = listener().await;
    drop(second);
    case.declare(vec![declared("a", old, tcp())]);
    case.is("a", Some(Health::Up)).await;

    let mut watch = case.watch().await;
    let patient = tcp().map(|check| CheckSpec { start_period: LONG, ..check });
    case.declare(vec![declared("a", new, patient)]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stored(&*case.store, "a").await.unwrap().addr, old, "nobody listens there yet");
    let second = TcpListener::bind(new).await.unwrap();
    eventually("the address changes", || async {
        stored(&*case.store, "a").await.is_some_and(|record| record.addr == new)
    })
    .await;
    for record in history(&mut watch, "a", now(&case).await).await {
        assert_eq!(record.expect("it is never gone").health, Health::Up);
    }
    drop(second);
    case.is("a", Some(Health::Down)).await;
    agent.stop().await;
}

const FILE: &str = "[service]\nname = \"web\"\n[[instance]]\nid = \"f\"\naddr = \"127.0.0.1:9\"\n";

#[tokio::test]
async fn files_are_followed_and_a_bad_one_takes_nothing_away() {
    let case = Case::new();
    let agent = case.start();
    case.write_file("web.toml", FILE);
    case.is("f", Some(Health::Up)).await;
    let origin = stored(&*case.store, "f").await.unwrap().origin;
    assert_eq!(origin, Origin::File("web.toml".to_owned()));

    case.write_file("web.toml", "[service]\nname = \"web\"\nnonsense = 1\n");
    case.write_file("more.toml", &FILE.replace("\"f\"", "\"g\""));
    case.is("g", Some(Health::Up)).await;
    assert_eq!(case.health("f").await, Some(Health::Up));

    // Nor does it when the agent starts and has never seen it good.
    agent.stop().await;
    let agent = case.start();
    case.write_file("more.toml", &FILE.replace("\"f\"", "\"h\""));
    case.is("h", Some(Health::Up)).await;
    case.is("g", None).await;
    assert_eq!(case.health("f").await, Some(Health::Up));

    fs::remove_file(case.files.join("web.toml")).unwrap();
    case.is("f", None).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_instance_moves_from_the_configuration_to_a_file_in_place() {
    let case = Case::new();
    case.declare(vec![declared("f", "127.0.0.1:9".parse().unwrap(), None)]);
    let agent = case.start();
    case.is("f", Some(Health::Up)).await;
    let mut watch = case.watch().await;
    case.write_file("web.toml", FILE);
    case.write_file("mark.toml", &FILE.replace("\"f\"", "\"mark\""));
    case.is("mark", Some(Health::Up)).await;
    case.declared.send_replace(Vec::new());
    eventually("the file owns it", || async {
        let origin = stored(&*case.store, "f").await.unwrap().origin;
        origin == Origin::File("web.toml".to_owned())
    })
    .await;
    let history = history(&mut watch, "f", now(&case).await).await;
    assert!(history.iter().all(Option::is_some), "never gone: {history:?}");
    agent.stop().await;
}

#[tokio::test]
async fn an_outage_from_the_start_on_loses_nothing() {
    let case = Case::new();
    write(&*case.store, &instance("old", Health::Up)).await;
    case.mood.go(true);
    let (listener, addr) = listener().await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    case.declare(vec![declared("a", addr, tcp()), declared("b", dead, tcp())]);
    let agent = case.start();
    // The checks go on: somebody knocks.
    timeout(LONG, listener.accept()).await.unwrap().unwrap();
    let calls = case.mood.calls();
    eventually("it is tried again", || async { case.mood.calls() > calls + 5 }).await;
    case.mood.go(false);
    case.is("a", Some(Health::Up)).await;
    case.is("b", Some(Health::Down)).await;
    case.is("old", None).await;
    assert!(case.has_service().await);
    eventually("nothing waits", || async { agent.pending() == 0 }).await;

    // What changes while the store is away is there afterwards.
    case.mood.go(true);
    drop(listener);
    let _back = TcpListener::bind(dead).await.unwrap();
    eventually("two records wait", || async { agent.pending() == 2 }).await;
    case.mood.go(false);
    case.is("a", Some(Health::Down)).await;
    case.is("b", Some(Health::Up)).await;
    agent.stop().await;
}
