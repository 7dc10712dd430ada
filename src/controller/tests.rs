//! What the controller's tests share: records, a store in memory and a cluster around it.

mod addresses;
mod commands;
mod deploy;
mod memory;
mod reconcile;
mod simulation;
mod world;

use std::collections::BTreeMap;

use portolan_discovery::model::{Deployment, DeploymentState, JobSpec, Resources, ServiceName};

pub(crate) fn deployment() -> Deployment {
    Deployment {
        app: "shop".parse().unwrap(),
        id: "d1".parse().unwrap(),
        from: Some("v1".parse().unwrap()),
        to: "v2".parse().unwrap(),
        state: DeploymentState::Running,
        created_ms: 0,
        progress_ms: 0,
        since_ms: 0,
        progress_deadline_ms: 120_000,
        surge: 1,
    }
}

fn spec(service: Option<&str>, behaviour: &str, version: u64) -> JobSpec {
    JobSpec {
        command: vec!["serve".into()],
        env: BTreeMap::from([
            ("BEHAVIOUR".to_owned(), behaviour.to_owned()),
            ("VERSION".to_owned(), version.to_string()),
        ]),
        dir: None,
        service: service.map(|name| ServiceName::parse(name).unwrap()),
        port: None,
        checks: Vec::new(),
        resources: Resources { cpu_millis: 100, memory_mib: 100 },
        drain_timeout: JobSpec::DRAIN_TIMEOUT,
        kill_timeout: JobSpec::KILL_TIMEOUT,
    }
}
