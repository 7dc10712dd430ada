//! The commands that change something, and those that wait for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use portolan_discovery::model::{AppName, ProcessName, Scope};

use super::Failure;
use super::args::{Deploy, Wait, WaitFor};
use super::client::Client;
use super::table::{self, say};
use crate::api::view::{
    AppView, DeployCall, DeploymentView, DoneView, JobView, OverrideView, RollbackCall, ScaleCall,
    WaitView,
};
use crate::clock;
use crate::config::Config;

/// How often a wait looks.
const POLL: Duration = Duration::from_millis(200);
/// The longest part of a wait that is one call.
const WAIT_CALL: Duration = Duration::from_secs(20);

pub(super) async fn deploy(client: &Client, json: bool, deploy: Deploy) -> Result<(), Failure> {
    let mut call = match &deploy.file {
        Some(file) => from_file(file, &deploy.app)?,
        None if deploy.env.is_empty() => {
            return Err("nothing to deploy: name a configuration with --file, or change the current release with --env NAME=VALUE".into());
        }
        None => DeployCall::default(),
    };
    call.env = deploy.env.into_iter().collect();
    let view: DeploymentView =
        client.post(&format!("/v1/apps/{}/deploy", deploy.app), &call).await?;
    follow(client, json, view, deploy.wait).await
}

/// The app of this name in a configuration.
fn from_file(file: &Path, name: &AppName) -> Result<DeployCall, Failure> {
    let config = Config::load(file)?;
    let app = config.apps.iter().find(|app| app.name == *name).ok_or_else(|| {
        let names: Vec<_> = config.apps.iter().map(|app| app.name.as_str()).collect();
        format!("{} has no app \"{name}\"; it has: {}", file.display(), names.join(", "))
    })?;
    Ok(DeployCall {
        processes: Some(
            app.processes.iter().map(|(n, (job, _))| (n.to_string(), job.clone())).collect(),
        ),
        counts: app.processes.iter().map(|(n, (_, count))| (n.to_string(), *count)).collect(),
        env: BTreeMap::new(),
        progress_deadline_ms: u64::try_from(app.progress_deadline.as_millis()).ok(),
    })
}

pub(super) async fn rollback(
    client: &Client,
    json: bool,
    app: &AppName,
    to: Option<String>,
    wait: Wait,
) -> Result<(), Failure> {
    let view: DeploymentView =
        client.post(&format!("/v1/apps/{app}/rollback"), &RollbackCall { to }).await?;
    follow(client, json, view, wait).await
}

/// Waits for the end of a deployment, telling how it goes.
async fn follow(
    client: &Client,
    json: bool,
    first: DeploymentView,
    wait: Wait,
) -> Result<(), Failure> {
    let deadline = clock::now() + wait.timeout;
    let mut view = first;
    let mut told = String::new();
    while !view.over && !wait.no_wait {
        if clock::now() > deadline {
            return Err(format!(
                "deployment {} of {} is still {} after {:?}; `portolan apps {}` tells how it goes",
                view.id, view.app, view.state, wait.timeout, view.app
            )
            .into());
        }
        let line = progress(client, &view).await?;
        if line != told && !json {
            eprintln!("{line}");
        }
        told = line;
        tokio::time::sleep(POLL).await;
        let all: Vec<DeploymentView> =
            client.get(&format!("/v1/apps/{}/deployments", view.app)).await?;
        if let Some(now) = all.into_iter().find(|deployment| deployment.id == view.id) {
            view = now;
        }
    }
    if json {
        table::json(&view);
    }
    match view.state.as_str() {
        "running" | "done" => {
            if !json {
                let verb = if view.over { "serves" } else { "is being deployed:" };
                say!("{} {verb} {}", view.app, view.to);
            }
            Ok(())
        }
        state => {
            let cause = view.cause.unwrap_or_default();
            let hint = format!("`portolan ps {}` and `portolan logs JOB` tell more", view.app);
            Err(format!("deployment {} of {} is {state}: {cause}\n  {hint}", view.id, view.app)
                .into())
        }
    }
}

async fn progress(client: &Client, view: &DeploymentView) -> Result<String, Failure> {
    let jobs: Vec<JobView> = client.get(&format!("/v1/jobs?app={}", view.app)).await?;
    let count = |release: &str, state: Option<&str>| {
        jobs.iter()
            .filter(|job| job.release == release && state.is_none_or(|state| job.state == state))
            .count()
    };
    let mut line = format!(
        "{}: {} has {} running of {}",
        view.id,
        view.to,
        count(&view.to, Some("running")),
        count(&view.to, None),
    );
    if let Some(from) = view.from.as_ref().filter(|from| **from != view.to) {
        line.push_str(&format!("; {from} has {} left", count(from, None)));
    }
    Ok(line)
}

pub(super) async fn scale(
    client: &Client,
    json: bool,
    app: &AppName,
    counts: Vec<(ProcessName, u32)>,
    wait: Wait,
) -> Result<(), Failure> {
    let mut done = None;
    for (process, count) in counts {
        let call = ScaleCall { process: process.to_string(), count };
        done = Some(client.post::<DoneView>(&format!("/v1/apps/{app}/scale"), &call).await?);
    }
    let until = clock::now() + wait.timeout;
    if !wait.no_wait {
        settled(client, app, until, wait.timeout).await?;
    }
    match done {
        Some(done) if json => table::json(&done),
        _ => {
            let view: AppView = client.get(&format!("/v1/apps/{app}")).await?;
            say!("{app} runs {}", table::counts(&view.running));
        }
    }
    Ok(())
}

/// Waits until the newest deployment is over and just the wanted jobs are there and run.
async fn settled(
    client: &Client,
    app: &AppName,
    until: Instant,
    timeout: Duration,
) -> Result<(), Failure> {
    loop {
        let view: AppView = client.get(&format!("/v1/apps/{app}")).await?;
        let jobs: Vec<JobView> = client.get(&format!("/v1/jobs?app={app}")).await?;
        let over = view.deployment.as_ref().is_none_or(|deployment| deployment.over);
        let counted = view.wanted.iter().all(|(process, wanted)| {
            let of_process = jobs.iter().filter(|job| job.process == *process);
            let running = of_process.clone().filter(|job| job.state == "running").count();
            running == *wanted as usize && of_process.count() == running
        });
        if over && counted {
            return Ok(());
        }
        if clock::now() > until {
            let hint = format!("`portolan ps {app}` and `portolan status` tell why");
            return Err(format!("{app} has not settled after {timeout:?}\n  {hint}").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

pub(super) async fn drain(
    client: &Client,
    json: bool,
    scope: &Scope,
    reason: Option<String>,
    lasting: Option<Duration>,
    undo: bool,
) -> Result<(), Failure> {
    let done: DoneView = if undo {
        client.delete(&format!("/v1/overrides/{scope}")).await?
    } else {
        let now = clock::unix_ms();
        let until = lasting.map(|lasting| {
            now.saturating_add(u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX))
        });
        let call = OverrideView {
            scope: scope.to_string(),
            word: "drain".to_owned(),
            reason: reason.unwrap_or_default(),
            by: std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned()),
            since_ms: now,
            until_ms: until,
        };
        client.post("/v1/overrides", &call).await?
    };
    let _: WaitView = client.get(&format!("/v1/wait?revision={}", done.revision)).await?;
    if json {
        table::json(&done);
    } else if undo {
        say!("{scope} is judged by its checks again");
    } else {
        say!("{scope} takes no new work; `portolan instances` shows it draining");
    }
    Ok(())
}

pub(super) async fn wait(client: &Client, json: bool, wait: WaitFor) -> Result<(), Failure> {
    let until = clock::now() + wait.timeout;
    if let Some(app) = wait.app {
        settled(client, &app, until, wait.timeout).await?;
        let view: AppView = client.get(&format!("/v1/apps/{app}")).await?;
        if json {
            table::json(&view);
        } else {
            say!("{app} runs {}", table::counts(&view.running));
        }
        return Ok(());
    }
    let revision = wait.revision.expect("the command line requires one of the two");
    loop {
        let left = until.saturating_duration_since(clock::now());
        let part = left.min(WAIT_CALL);
        let path = format!("/v1/wait?revision={revision}&timeout_ms={}", part.as_millis());
        match client.get::<WaitView>(&path).await {
            Ok(view) if json => table::json(&view),
            Ok(view) => say!("revision {revision} is live; the node serves {}", view.revision),
            Err(error) if left <= part => return Err(error.into()),
            Err(super::client::ClientError::Refused(body)) if body.code == "timeout" => continue,
            Err(error) => return Err(error.into()),
        }
        return Ok(());
    }
}
