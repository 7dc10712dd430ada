//! A node with a store, an agent's supervisor that can be killed, and what is said of its jobs.

use std::fs::{self, File};
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use portolan_agent::check::run::Checks;
use portolan_agent::job::{Config, ShimProgram, Supervisor};
use portolan_agent::metrics::Metrics;
use portolan_agent::register::Registrar;
use portolan_discovery::model::record::{decode, encode};
use portolan_discovery::model::{
    CheckKind, CheckSpec, Health, HttpCheck, Instance, InstanceId, JobId, JobSpec, JobState,
    JobStatus, Key, NodeName, Phase, Placement, PortRange, Resources, Revision, RouterAck,
    ServiceName, StatusRange, Wanted,
};
use portolan_discovery::store::{Store, Txn, Watch, WatchEvent};
use prometheus::Registry;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::process::{DEADLINE, fixture, kill, marked, until, with_argument};
use crate::shaky::{Mood, Shaky};

pub struct Node {
    pub dir: TempDir,
    pub store: Option<Arc<dyn Store>>,
    pub mood: Arc<Mood>,
    pub ports: PortRange,
    agent: Option<(CancellationToken, JoinHandle<()>)>,
    other: Option<Child>,
    _ports: File,
}

/// Ports of its own for each node: tests run side by side, in several processes.
fn ports() -> (PortRange, File) {
    const EACH: u16 = 20;
    for first in (20_000..29_980).step_by(EACH.into()) {
        let path = std::env::temp_dir().join(format!("portolan-test-ports-{first}"));
        let file = File::create(path).unwrap();
        if file.try_lock().is_ok() {
            return (PortRange { first, last: first + EACH - 1 }, file);
        }
    }
    panic!("more tests at once than there are ports");
}

pub fn job() -> JobId {
    JobId::parse("shop-web-1").unwrap()
}

pub fn service() -> ServiceName {
    ServiceName::parse("web").unwrap()
}

pub fn name() -> NodeName {
    NodeName::parse("n1").unwrap()
}

/// Asks until the answer is there.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let wait = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

impl Node {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, mood) = Shaky::open(dir.path());
        let (ports, held) = ports();
        Self { dir, store: Some(store), mood, ports, agent: None, other: None, _ports: held }
    }

    pub fn with_agent() -> Self {
        let mut node = Self::new();
        node.start();
        node
    }

    pub fn jobs(&self) -> PathBuf {
        self.dir.path().join("jobs")
    }

    pub fn folder(&self) -> PathBuf {
        self.jobs().join(job().as_str())
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        self.store.as_ref().unwrap()
    }

    pub fn config(&self) -> Config {
        Config {
            addr: IpAddr::from([127, 0, 0, 1]),
            ports: self.ports,
            dir: self.jobs(),
            shim: ShimProgram { program: fixture(), args: vec!["shim".into()] },
        }
    }

    pub fn supervisor(&self) -> Result<Supervisor, portolan_agent::job::BindError> {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let registrar = Registrar::new(self.store().clone(), name(), metrics.clone());
        Supervisor::bind(self.config(), registrar, Checks::new(metrics.clone()), metrics)
    }

    pub fn start(&mut self) {
        let stop = CancellationToken::new();
        let supervisor = self.supervisor().unwrap();
        let task = tokio::spawn(supervisor.run(stop.clone()));
        self.agent = Some((stop, task));
    }

    /// Ends the agent as an upgrade does.
    pub async fn stop(&mut self) {
        let (stop, task) = self.agent.take().unwrap();
        stop.cancel();
        timeout(DEADLINE, task).await.unwrap().unwrap();
    }

    /// An agent in a process of its own; it has the store's file.
    pub fn start_other(&mut self) {
        self.store = None;
        let child = Command::new(fixture())
            .arg("agent")
            .arg(self.dir.path())
            .args([self.ports.first.to_string(), self.ports.last.to_string()])
            .stdin(Stdio::null())
            .spawn();
        self.other = Some(child.unwrap());
    }

    pub fn kill_other(&mut self) {
        let mut child = self.other.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let (store, mood) = Shaky::open(self.dir.path());
        self.store = Some(store);
        self.mood = mood;
    }

    pub async fn put<T: serde::Serialize>(&self, key: Key, record: &T) -> Revision {
        let txn = Txn::default().put(key.to_string(), encode(record));
        self.store().txn(txn).await.unwrap().revision
    }

    pub async fn delete(&self, key: Key) {
        self.store().txn(Txn::default().delete(key.to_string())).await.unwrap();
    }

    /// What an agent of this node is to run as [`job`].
    pub fn placement(&self, spec: JobSpec, wanted: Wanted) -> Placement {
        let mut spec = spec;
        spec.env.insert("MARK".into(), self.dir.path().display().to_string());
        Placement {
            job: job(),
            node: name(),
            app: "shop".parse().unwrap(),
            process: "web".parse().unwrap(),
            release: "v1".parse().unwrap(),
            wanted,
            spec,
            since_ms: 1,
        }
    }

    pub async fn place(&self, spec: JobSpec, wanted: Wanted) {
        self.put(Key::Placement(name(), job()), &self.placement(spec, wanted)).await;
    }

    pub async fn unplace(&self) {
        self.delete(Key::Placement(name(), job())).await;
    }

    /// A router's word: its revision and what it has in flight on the job's instance.
    pub async fn ack(&self, revision: Revision, in_flight: u64) {
        let id = InstanceId::parse(job().as_str()).unwrap();
        let draining = [(service(), [(id, in_flight)].into())].into();
        let ack = RouterAck { router: "r1".parse().unwrap(), revision, draining };
        self.put(Key::Ack("r1".parse().unwrap()), &ack).await;
    }

    pub async fn status(&self) -> Option<JobStatus> {
        let key = Key::Job(name(), job()).to_string();
        let kv = self.store().get(&key).await.ok()??;
        Some(decode(&kv.value).unwrap())
    }

    pub async fn instance(&self) -> Option<(Instance, Revision)> {
        let id = InstanceId::parse(job().as_str()).unwrap();
        let key = Key::Instance(service(), id).to_string();
        let kv = self.store().get(&key).await.ok()??;
        Some((decode(&kv.value).unwrap(), kv.modified))
    }

    pub async fn is(&self, what: &str, ask: impl Fn(&JobStatus) -> bool) -> JobStatus {
        eventually(what, || async { self.status().await.filter(|status| ask(status)) }).await
    }

    pub async fn is_running(&self) -> JobStatus {
        self.is("running", |status| status.state == JobState::Running).await
    }

    pub async fn is_up(&self) -> (Instance, Revision) {
        self.instance_is("up", |instance| instance.health == Health::Up).await
    }

    pub async fn is_stopped(&self) -> JobStatus {
        self.is("stopped", |status| status.state == JobState::Stopped).await
    }

    pub async fn is_draining(&self) -> Revision {
        self.is("draining", |status| status.state == JobState::Draining).await;
        self.instance_is("draining", |instance| instance.phase == Phase::Draining).await.1
    }

    pub async fn instance_is(
        &self,
        what: &str,
        ask: impl Fn(&Instance) -> bool,
    ) -> (Instance, Revision) {
        let ask = &ask;
        eventually(what, || async { self.instance().await.filter(|(it, _)| ask(it)) }).await
    }

    /// The processes of the job, its shim not counted.
    pub fn processes(&self) -> Vec<u32> {
        marked(&format!("MARK={}", self.dir.path().display()))
    }

    pub fn shims(&self) -> Vec<u32> {
        let dir = self.jobs().canonicalize().unwrap_or_else(|_| self.jobs());
        with_argument(&dir.join(job().as_str()).display().to_string())
    }

    pub async fn watch(&self, key: Key) -> Watch {
        let revision = self.store().status().await.unwrap().revision;
        self.store().watch(&key.to_string(), revision).await.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((_, task)) = self.agent.take() {
            task.abort();
        }
        if let Some(mut child) = self.other.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // A start may be under way; whoever it brings is found in the next round.
        until("nothing to be left", || {
            let left = [self.shims(), self.processes()].concat();
            left.iter().for_each(|pid| kill(*pid, Signal::KILL));
            left.is_empty().then_some(())
        });
        fs::remove_dir_all(self.jobs()).ok();
    }
}

/// The next batch of a watch.
pub async fn next(watch: &mut Watch) -> Vec<portolan_discovery::model::Event> {
    loop {
        match timeout(DEADLINE, watch.next()).await.expect("the watch goes on") {
            WatchEvent::Batch { events, .. } => return events,
            WatchEvent::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn spec(command: Vec<String>) -> JobSpec {
    JobSpec {
        command,
        env: Default::default(),
        dir: None,
        service: None,
        port: None,
        checks: Vec::new(),
        resources: Resources::default(),
        drain_timeout: DEADLINE,
        kill_timeout: DEADLINE,
    }
}

/// A worker without an address.
pub fn worker(script: &str) -> JobSpec {
    spec(vec!["/bin/sh".into(), "-c".into(), script.into()])
}

/// A server, started by a shell that runs `script` first.
pub fn server_after(script: &str) -> JobSpec {
    let serve = format!("{script}\nexec {} serve", fixture().display());
    JobSpec { service: Some(service()), checks: vec![fast(http())], ..worker(&serve) }
}

pub fn server() -> JobSpec {
    server_after("")
}

fn http() -> CheckKind {
    CheckKind::Http(HttpCheck {
        tls: false,
        verify: true,
        ca_file: None,
        method: "GET".into(),
        path: "/".into(),
        host: None,
        headers: Default::default(),
        status: vec![StatusRange { first: 200, last: 200 }],
        body: None,
    })
}

/// A check that makes up its mind quickly.
pub fn fast(kind: CheckKind) -> CheckSpec {
    CheckSpec {
        every: Duration::from_millis(20),
        rise: 1.try_into().unwrap(),
        fall: 1.try_into().unwrap(),
        ..CheckSpec::of(kind)
    }
}
