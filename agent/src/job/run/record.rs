//! The instance that a job is: its record and its checks.

use std::net::SocketAddr;

use portolan_discovery::model::{
    CheckKind, CheckSpec, Health, Instance, InstanceId, JobId, Origin, Phase, Placement, Protocol,
    ServiceName, Weight,
};

use super::Run;
use crate::check::run::Target;
use crate::clock;

impl Run {
    /// The instance that the job is, if it serves anything.
    pub(super) fn name(&self) -> Option<(ServiceName, InstanceId)> {
        let service = self.memory.placement.as_ref()?.spec.service.clone()?;
        Some((service, instance_id(&self.job)))
    }

    pub(super) fn record(&self, placement: &Placement, health: Health) -> Option<Instance> {
        let labels = [
            ("app", placement.app.as_str()),
            ("process", placement.process.as_str()),
            ("release", placement.release.as_str()),
        ];
        Some(Instance {
            service: placement.spec.service.clone()?,
            id: instance_id(&self.job),
            node: self.context.registrar.node().clone(),
            addr: self.memory.addr?,
            weight: Weight::DEFAULT,
            health,
            cause: None,
            phase: Phase::Active,
            origin: Origin::Job(self.job.clone()),
            since_ms: clock::unix_ms(),
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        })
    }

    /// What is checked, if anything is. A job that serves but names no check is up once it
    /// takes connections: before that every request to it would fail.
    pub(super) fn checks(&self, placement: &Placement) -> Option<(Target, Vec<CheckSpec>)> {
        let spec = &placement.spec;
        let specs = match (spec.checks.is_empty(), &spec.service) {
            (false, _) => spec.checks.clone(),
            // Nobody can tell whether somebody takes datagrams.
            (true, Some(service))
                if self.context.checks.protocol(service) == Some(Protocol::Udp) =>
            {
                return None;
            }
            (true, Some(_)) => vec![CheckSpec::of(CheckKind::Tcp)],
            (true, None) => return None,
        };
        // A worker's checks are commands that look at something else.
        let nowhere = SocketAddr::new(self.context.addr, 0);
        let name = placement.process.as_str();
        let target = Target {
            service: spec
                .service
                .clone()
                .unwrap_or_else(|| ServiceName::parse(name).expect("all names are spelled alike")),
            id: instance_id(&self.job),
            addr: self.memory.addr.unwrap_or(nowhere),
            // Nothing is declared of it beside the service's record.
            proxy_protocol: None,
        };
        Some((target, specs))
    }
}

fn instance_id(job: &JobId) -> InstanceId {
    InstanceId::parse(job.as_str()).expect("all names are spelled alike")
}
