//! Checks that run: what they say together, and when.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portolan_agent::check::run::{Checks, HealthWatch, Target};
use portolan_agent::metrics::{self, Metrics};
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{
    CheckKind, CheckSpec, Event, Health, InstanceId, Key, Kv, ProxyVersion, Revision, Service,
    ServiceName,
};
use portolan_discovery::snapshot::Snapshot;
use prometheus::Registry;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

fn target(addr: SocketAddr) -> Target {
    let service = ServiceName::parse("web").unwrap();
    Target { service, id: InstanceId::parse("a").unwrap(), addr, proxy_protocol: None }
}

fn checks() -> Checks {
    Checks::new(Metrics::register(&Registry::new()).unwrap())
}

fn often(kind: CheckKind) -> CheckSpec {
    CheckSpec {
        every: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        ..CheckSpec::of(kind)
    }
}

fn hasty(kind: CheckKind) -> CheckSpec {
    CheckSpec { start_period: Duration::ZERO, ..often(kind) }
}

/// A check that passes while the file is there.
fn file_check(path: &Path) -> CheckKind {
    CheckKind::Exec {
        command: vec!["test".to_owned(), "-e".to_owned(), path.display().to_string()],
    }
}

async fn until(watch: &mut HealthWatch, health: Health) -> Option<String> {
    let wait = async {
        loop {
            let (now, cause) = watch.current();
            if now == health {
                return cause;
            }
            watch.changed().await;
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("it does not become {health:?}"))
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

struct Switch {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Switch {
    fn new(on: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let switch = Self { path: dir.path().join("on"), _dir: dir };
        switch.set(on);
        switch
    }

    fn set(&self, on: bool) {
        if on {
            fs::write(&self.path, "").unwrap();
        } else {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn any() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

#[tokio::test]
async fn an_instance_without_checks_is_up_at_once() {
    let watch = checks().spawn(target(any()), Vec::new());
    assert_eq!(watch.current(), (Health::Up, None));
    assert_eq!(watch.results(), []);
}

#[tokio::test]
async fn the_first_success_of_a_new_instance_is_up_without_delay() {
    let (_listener, addr) = listener().await;
    let spec = CheckSpec { every: Duration::from_secs(3600), ..CheckSpec::of(CheckKind::Tcp) };
    let mut watch = checks().spawn(target(addr), vec![spec]);
    assert_eq!(watch.current().0, Health::Starting);
    assert_eq!(until(&mut watch, Health::Up).await, None);
    let results = watch.results();
    assert_eq!((results[0].kind, results[0].ok), ("tcp", true));
    assert_eq!(results[0].detail, "connected");
}

#[tokio::test]
async fn an_instance_that_starts_late_is_up_soon_after() {
    let (first, addr) = listener().await;
    drop(first);
    let spec = CheckSpec { every: Duration::from_secs(3600), ..CheckSpec::of(CheckKind::Tcp) };
    let checks = checks();
    let mut watch = checks.spawn(target(addr), vec![spec]);
    let service = ServiceName::parse("web").unwrap();
    let id = InstanceId::parse("a").unwrap();
    let failed = async {
        while checks.results(&service, &id).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, failed).await.unwrap();
    assert_eq!(watch.current(), (Health::Starting, None), "a failure in the start period");
    let _listener = TcpListener::bind(addr).await.unwrap();
    until(&mut watch, Health::Up).await;
}

#[tokio::test]
async fn down_names_the_check_that_fails() {
    let (listener, addr) = listener().await;
    let switch = Switch::new(true);
    let specs = vec![hasty(CheckKind::Tcp), hasty(file_check(&switch.path))];
    let mut watch = checks().spawn(target(addr), specs);
    until(&mut watch, Health::Up).await;
    switch.set(false);
    assert_eq!(until(&mut watch, Health::Down).await.unwrap(), "exec: exit status 1");
    switch.set(true);
    until(&mut watch, Health::Up).await;
    drop(listener);
    let cause = until(&mut watch, Health::Down).await.unwrap();
    assert_eq!(cause, "tcp: connect: connection refused");
}

#[tokio::test]
async fn nothing_is_said_before_all_checks_have_decided() {
    let (_listener, addr) = listener().await;
    let switch = Switch::new(false);
    let specs = vec![hasty(CheckKind::Tcp), often(file_check(&switch.path))];
    let mut watch = checks().spawn(target(addr), specs);
    let both = async {
        while watch.results().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, both).await.unwrap();
    assert_eq!(watch.current().0, Health::Starting);
    switch.set(true);
    until(&mut watch, Health::Up).await;
}

#[tokio::test]
async fn a_known_health_holds_until_there_is_evidence() {
    let switch = Switch::new(true);
    let spec = hasty(file_check(&switch.path));
    let mut watch = checks().resume(target(any()), vec![spec.clone()], Health::Up, None);
    assert_eq!(watch.current(), (Health::Up, None));
    switch.set(false);
    until(&mut watch, Health::Down).await;

    let cause = Some("tcp: connect: connection refused".to_owned());
    let mut watch = checks().resume(target(any()), vec![spec], Health::Down, cause.clone());
    assert_eq!(watch.current(), (Health::Down, cause));
    switch.set(true);
    assert_eq!(until(&mut watch, Health::Up).await, None);
}

#[tokio::test]
async fn other_checks_take_over_without_a_gap() {
    let (_listener, addr) = listener().await;
    let switch = Switch::new(true);
    let mut watch = checks().spawn(target(addr), vec![hasty(CheckKind::Tcp)]);
    until(&mut watch, Health::Up).await;

    // The new check passes: nothing is said at all.
    let replaced = vec![hasty(CheckKind::Tcp), hasty(file_check(&switch.path))];
    watch.replace(replaced);
    let quiet = timeout(Duration::from_millis(1500), watch.changed()).await;
    assert!(quiet.is_err(), "{:?}", watch.current());
    assert_eq!(watch.results().len(), 2);

    // The new check fails: the old health holds until `fall` failures in a row.
    let missing = Path::new("/nonexistent/on");
    watch.replace(vec![hasty(file_check(missing))]);
    assert_eq!(watch.current(), (Health::Up, None));
    assert_eq!(until(&mut watch, Health::Down).await.unwrap(), "exec: exit status 1");
    watch.replace(Vec::new());
    assert_eq!(watch.current(), (Health::Up, None));
}

#[tokio::test]
async fn a_check_that_flaps_within_the_rule_says_nothing() {
    // Fails twice, then passes, and so on; `fall` is 3.
    let dir = tempfile::tempdir().unwrap();
    let count = dir.path().join("count");
    let script = format!(
        "n=$(cat {0} 2>/dev/null || echo 0); echo $((n + 1)) > {0}; [ $((n % 3)) = 0 ]",
        count.display()
    );
    let kind = CheckKind::Exec { command: vec!["sh".to_owned(), "-c".to_owned(), script] };
    let spec = CheckSpec { fall: NonZeroU8::new(3).unwrap(), ..hasty(kind) };
    let mut watch = checks().spawn(target(any()), vec![spec]);
    until(&mut watch, Health::Up).await;
    let twelve = async {
        while fs::read_to_string(&count).unwrap_or_default().trim().parse::<u32>().unwrap_or(0) < 12
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = timeout(LONG, twelve) => done.unwrap(),
        () = watch.changed() => panic!("it says {:?}", watch.current()),
    }
}

#[tokio::test]
async fn a_command_never_runs_twice_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, log) = (dir.path().join("lock"), dir.path().join("log"));
    let script = format!(
        "mkdir {0} || {{ echo twice >> {1}; exit 1; }}; sleep 0.05; rmdir {0}; echo once >> {1}",
        lock.display(),
        log.display()
    );
    let kind = CheckKind::Exec { command: vec!["sh".to_owned(), "-c".to_owned(), script] };
    let spec = CheckSpec { every: Duration::from_millis(10), ..often(kind) };
    let watch = checks().spawn(target(any()), vec![spec]);
    let runs = async {
        while fs::read_to_string(&log).unwrap_or_default().lines().count() < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, runs).await.unwrap();
    drop(watch);
    assert!(!fs::read_to_string(&log).unwrap().contains("twice"));
}

#[tokio::test]
async fn dropping_the_watch_stops_the_checks() {
    let (listener, addr) = listener().await;
    let checks = checks();
    let mut watch = checks.spawn(target(addr), vec![often(CheckKind::Tcp)]);
    until(&mut watch, Health::Up).await;
    let Target { service, id, .. } = target(addr);
    assert!(checks.results(&service, &id).is_some());
    drop(watch);
    assert_eq!(checks.results(&service, &id), None);
    // What was under way arrives; then nobody comes any more.
    let began = tokio::time::Instant::now();
    while timeout(Duration::from_millis(300), listener.accept()).await.is_ok() {
        assert!(began.elapsed() < LONG, "probes go on");
    }
}

#[tokio::test]
async fn probes_are_counted_by_kind_and_result() {
    let registry = Registry::new();
    let checks = Checks::new(Metrics::register(&registry).unwrap());
    let (_listener, addr) = listener().await;
    let specs = vec![often(CheckKind::Tcp), hasty(file_check(Path::new("/nonexistent/on")))];
    let mut watch = checks.spawn(target(addr), specs);
    until(&mut watch, Health::Down).await;
    let families = registry.gather();
    let probes = families.iter().find(|family| family.name() == metrics::PROBES).unwrap();
    let counted = |kind: &str, result: &str| {
        probes.get_metric().iter().any(|metric| {
            let labels: Vec<_> = metric.get_label().iter().map(|label| label.value()).collect();
            labels == [kind, result] && metric.get_counter().get_value() > 0.0
        })
    };
    assert!(counted("tcp", "pass") && counted("exec", "fail"));
    assert!(!counted("tcp", "fail"));
}

/// The records of a service that asks for this header.
fn records(proxy_protocol: Option<ProxyVersion>) -> Arc<Snapshot> {
    let service = Service { proxy_protocol, ..Service::named(ServiceName::parse("web").unwrap()) };
    let (key, revision) = (Key::Service(service.name.clone()).to_string(), Revision(1));
    let value = encode(&service);
    let put = Event::Put(Kv { key, value, created: revision, modified: revision, lease: None });
    Arc::new(Snapshot::default().apply(&[put], revision).0)
}

/// What the next probe sends.
async fn probed(listener: &TcpListener) -> Vec<u8> {
    let mut all = Vec::new();
    let (mut stream, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    timeout(LONG, stream.read_to_end(&mut all)).await.unwrap().unwrap();
    all
}

#[tokio::test]
async fn probes_begin_with_the_header_that_the_service_asks_for_now() {
    let (listener, addr) = listener().await;
    let (served, records_of) = watch::channel(Arc::default());
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let checks = Checks::following(metrics, records_of);
    let declared = Target { proxy_protocol: Some(ProxyVersion::V1), ..target(addr) };
    let _watch = checks.spawn(declared, vec![often(CheckKind::Tcp)]);
    assert_eq!(probed(&listener).await, ProxyVersion::V1.of_our_own(), "as it is declared");
    for header in [Some(ProxyVersion::V2), None] {
        served.send_replace(records(header));
        let expected = header.map_or(&b""[..], ProxyVersion::of_our_own);
        let seen = async { while probed(&listener).await != expected {} };
        timeout(LONG, seen).await.expect("the record counts once it is there");
    }
}
