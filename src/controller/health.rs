//! What the records say of one job: how far it is, and what it still waits for.

use portolan_discovery::model::{InstanceId, JobState, JobStatus, Key, Placement, Wanted};
use portolan_discovery::snapshot::State;

use super::view::View;
use crate::scheduler::Standing;

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) standing: Standing,
    /// Why it is not ready, in a few words.
    pub(crate) why: Option<String>,
}

impl Condition {
    fn of(standing: Standing, why: impl Into<String>) -> Self {
        Self { standing, why: Some(why.into()) }
    }
}

/// Weighs the agent's word on the job, the state of its instance and what the routers know.
pub(crate) fn condition(
    view: &View,
    placement: &Placement,
    status: Option<&JobStatus>,
) -> Condition {
    let Some(status) = status else {
        return Condition::of(Standing::Pending, "its agent has not taken it up");
    };
    match &status.state {
        JobState::Starting => Condition::of(Standing::Pending, waits_for_checks(view, placement)),
        JobState::Running => running(view, placement),
        JobState::Backoff { cause, .. } => Condition::of(Standing::Failing, cause.clone()),
        JobState::Draining => Condition::of(Standing::Leaving, "it drains"),
        JobState::Stopping => Condition::of(Standing::Ending, "it stops"),
        // The agent starts a stopped job again when it is wanted again.
        JobState::Stopped if placement.wanted == Wanted::Run => {
            Condition::of(Standing::Pending, "it starts again")
        }
        JobState::Stopped => Condition::of(Standing::Ended, "it has ended"),
    }
}

/// Ready is what takes traffic everywhere: up, and known as up to every router that lives. A
/// router that is gone has no record, for the record carries its lease.
fn running(view: &View, placement: &Placement) -> Condition {
    let Some(service) = &placement.spec.service else {
        return Condition { standing: Standing::Ready, why: None };
    };
    let id = InstanceId::parse(placement.job.as_str()).expect("both are labels");
    let member = view.data.service(service.as_str()).and_then(|entry| entry.members.get(&id));
    // The agent registers the instance as up before it says that the job runs.
    let Some(member) = member.filter(|member| member.state != State::Starting) else {
        return Condition::of(Standing::Unseen, format!("it is not registered at {service} yet"));
    };
    if member.state != State::Up {
        let cause = member.instance.cause.as_deref().map(|cause| format!(": {cause}"));
        let text = format!("its instance is {}{}", member.state.word(), cause.unwrap_or_default());
        return Condition::of(Standing::Unready, text);
    }
    let modified = view.modified(&Key::Instance(service.clone(), id));
    let behind = view.acks.values().find(|ack| Some(ack.record.revision) < modified);
    match behind {
        Some(ack) => Condition::of(
            Standing::Unseen,
            format!("the router of {} does not know of it yet", ack.record.router),
        ),
        None => Condition { standing: Standing::Ready, why: None },
    }
}

fn waits_for_checks(view: &View, placement: &Placement) -> String {
    let service = placement.spec.service.as_ref();
    let cause = service
        .and_then(|service| view.data.service(service.as_str()))
        .and_then(|entry| entry.members.get(placement.job.as_str()))
        .and_then(|member| member.instance.cause.as_deref());
    match cause {
        Some(cause) => format!("its checks have not passed: {cause}"),
        None => "its checks have not passed".to_owned(),
    }
}
