//! The commands that only ask.

use portolan_discovery::model::AppName;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Failure;
use super::args::Explain;
use super::client::Client;
use super::table::{self, ago, counts, or_dash, say};
use crate::api::view::{
    AppView, DeploymentView, EventView, ExplainView, InstanceView, JobView, LogView, MatchView,
    NodeView, ReleaseView, RouteView, ServiceView, StatusView, VirtualView,
};
use crate::clock;

pub(super) async fn status(client: &Client, json: bool) -> Result<(), Failure> {
    let view: StatusView = client.get("/v1/status").await?;
    if json {
        table::json(&view);
        return Ok(());
    }
    let store = match (&view.store.backend, &view.store.error) {
        (Some(backend), _) if view.store.connected => format!("{backend}, connected"),
        (Some(backend), _) => format!("{backend}, catching up"),
        (None, error) => format!("away: {}", or_dash(error.as_ref())),
    };
    say!("node       {} (portolan {}, process {})", view.node, view.version, view.pid);
    for one in &view.draining {
        let (pid, count) = (one.pid, one.connections);
        say!("draining   {count} connections in process {pid} (portolan {})", one.version);
    }
    say!("store      {store}");
    say!("revision   {} (every worker serves the table of {})", view.revision, view.acked);
    say!("table age  {} ms", view.table_age_ms);
    say!("leader     {}", or_dash(view.leader.as_ref()));
    say!("routes     {}", view.counts.routes);
    say!("services   {}", view.counts.services);
    say!("instances  {}", counts(&view.counts.instances));
    if let Some(virtuals) = &view.virtual_addresses {
        let range = or_dash(virtuals.range.as_ref());
        say!("virtual    {} addresses of {range} are listened at", virtuals.listening);
        for (service, cause) in &virtuals.failed {
            say!("virtual    {service} has no address here: {cause}");
        }
    }
    let not_ready = if view.not_ready.is_empty() {
        "yes".to_owned()
    } else {
        format!("no, waiting for {}", view.not_ready.join(", "))
    };
    say!("ready      {not_ready}");
    if view.rejected_records > 0 {
        say!("rejected   {} records could not be read; the log names them", view.rejected_records);
    }
    for line in &view.pending {
        say!("pending    {line}");
    }
    Ok(())
}

pub(super) async fn services(
    client: &Client,
    json: bool,
    service: Option<String>,
) -> Result<(), Failure> {
    if let Some(name) = service {
        let view: ServiceView = client.get(&format!("/v1/services/{}", escaped(&name))).await?;
        if json {
            table::json(&view);
        } else {
            let header = view.proxy_protocol.as_ref();
            let header = header.map(|version| format!(", PROXY {version}")).unwrap_or_default();
            let version = if view.http_version.is_some() { " in HTTP/2" } else { "" };
            let tls = if view.tls.is_some() { " by TLS" } else { "" };
            say!(
                "{} ({}{version}{tls}{header}): {}",
                view.name,
                view.protocol,
                counts(&view.states)
            );
            match &view.virtual_address {
                Some(VirtualView { addr: Some(addr), cause: None, .. }) => {
                    say!("reached at {addr}");
                }
                Some(VirtualView { addr, cause, .. }) => {
                    let cause = or_dash(cause.as_ref());
                    say!("not reached at a virtual address ({}): {cause}", or_dash(addr.as_ref()));
                }
                None => {}
            }
            print_instances(&view.instances);
        }
        return Ok(());
    }
    let head = ["SERVICE", "PROTOCOL", "VIRTUAL", "INSTANCES"];
    list(client, json, "/v1/services", head, |view: &ServiceView| {
        let own = view.virtual_address.as_ref().and_then(|own| own.addr.as_ref());
        [view.name.clone(), view.protocol.clone(), or_dash(own), counts(&view.states)]
    })
    .await?;
    Ok(())
}

/// Asks for a list and prints it, a row each, or as it came for programs: then nothing is returned.
pub(super) async fn list<V: Serialize + DeserializeOwned, const N: usize>(
    client: &Client,
    json: bool,
    path: &str,
    head: [&str; N],
    row: impl Fn(&V) -> [String; N],
) -> Result<Vec<V>, Failure> {
    let views: Vec<V> = client.get(path).await?;
    if json {
        table::json(&views);
        return Ok(Vec::new());
    }
    table::print(head, &views.iter().map(row).collect::<Vec<_>>());
    Ok(views)
}

pub(super) async fn instances(
    client: &Client,
    json: bool,
    service: Option<String>,
    state: Option<String>,
) -> Result<(), Failure> {
    let mut path = "/v1/instances?".to_owned();
    for (name, value) in [("service", service), ("state", state)] {
        if let Some(value) = value {
            path.push_str(&format!("{name}={}&", escaped(&value)));
        }
    }
    let views: Vec<InstanceView> = client.get(path.trim_end_matches(['?', '&'])).await?;
    if json {
        table::json(&views);
    } else {
        print_instances(&views);
    }
    Ok(())
}

fn print_instances(views: &[InstanceView]) {
    let now = clock::unix_ms();
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            [
                view.service.clone(),
                view.id.clone(),
                view.node.clone(),
                view.addr.clone(),
                view.weight.to_string(),
                view.state.clone(),
                ago(view.since_ms, now),
                view.cause.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let head = ["SERVICE", "INSTANCE", "NODE", "ADDRESS", "WEIGHT", "STATE", "SINCE", "CAUSE"];
    table::print(head, &rows);
}

pub(super) async fn routes(client: &Client, json: bool) -> Result<(), Failure> {
    let head = ["LISTENER", "HOST", "PATH", "ASKS", "LEADS TO", "NAME", "FROM"];
    let views = list(client, json, "/v1/routes", head, |view: &RouteView| {
        let backends: Vec<_> = if view.backends.len() == 1 {
            vec![view.backends[0].service.clone()]
        } else {
            view.backends.iter().map(|b| format!("{}:{}", b.service, b.weight)).collect()
        };
        [
            or_dash(view.listener.as_ref()),
            or_dash(view.host.as_ref()),
            or_dash(view.path.as_ref()),
            asked(view),
            backends.join(" "),
            view.name.clone(),
            view.origin.clone(),
        ]
    })
    .await?;
    for warning in views.iter().flat_map(|view| &view.warnings) {
        say!("warning: {warning}");
    }
    Ok(())
}

/// What a route asks beside host and path, as `GET|POST x-env=canary ?v=~^2`.
fn asked(view: &RouteView) -> String {
    let value = |view: &MatchView| match view {
        MatchView::Present(_) => String::new(),
        MatchView::Text(text) => format!("={text}"),
    };
    let mut words = Vec::new();
    if !view.methods.is_empty() {
        words.push(view.methods.join("|"));
    }
    words.extend(view.headers.iter().map(|(name, view)| format!("{name}{}", value(view))));
    words.extend(view.query.iter().map(|(name, view)| format!("?{name}{}", value(view))));
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

pub(super) async fn explain(client: &Client, json: bool, asked: &Explain) -> Result<(), Failure> {
    let mut path =
        format!("/v1/explain?method={}&url={}", escaped(&asked.method), escaped(&asked.url));
    if let Some(listener) = &asked.listener {
        path.push_str(&format!("&listener={}", escaped(listener)));
    }
    if let Some(source) = asked.source {
        path.push_str(&format!("&source={}", escaped(&source.to_string())));
    }
    for header in &asked.headers {
        path.push_str(&format!("&header={}", escaped(header)));
    }
    let view: ExplainView = client.get(&path).await?;
    if json {
        table::json(&view);
        return Ok(());
    }
    say!("{} {} at host {}", view.method, view.path, view.host);
    say!("{}", view.verdict);
    for line in &view.settings {
        say!("  {line}");
    }
    if !view.candidates.is_empty() {
        say!("\nroutes, the winner first:");
        let rows: Vec<_> = view
            .candidates
            .iter()
            .map(|c| {
                let asks = if c.asks.is_empty() { "-" } else { &c.asks };
                [&*c.route, &*c.host, &*c.path, asks, &*c.outcome].map(str::to_owned)
            })
            .collect();
        table::print(["  ROUTE", "HOST", "PATH", "ASKS", "OUTCOME"], &indented(rows));
    }
    if !view.instances.is_empty() {
        say!("\ninstances:");
        let rows: Vec<_> = view
            .instances
            .iter()
            .map(|i| {
                [
                    i.service.clone(),
                    i.id.clone(),
                    i.addr.clone(),
                    i.in_flight.to_string(),
                    i.outcome.clone(),
                ]
            })
            .collect();
        table::print(["  SERVICE", "INSTANCE", "ADDRESS", "IN FLIGHT", "OUTCOME"], &indented(rows));
    }
    if let Some(picked) = &view.picked {
        say!("\npicked this time: {picked}");
    }
    Ok(())
}

fn indented<const N: usize>(mut rows: Vec<[String; N]>) -> Vec<[String; N]> {
    for row in &mut rows {
        row[0].insert_str(0, "  ");
    }
    rows
}

pub(super) async fn nodes(client: &Client, json: bool) -> Result<(), Failure> {
    let now = clock::unix_ms();
    let head = ["NODE", "ADDRESS", "ZONE", "CORES", "MEMORY", "JOBS", "VERSION", "SINCE"];
    list(client, json, "/v1/nodes", head, |view: &NodeView| {
        let jobs = match (view.runs_jobs, view.cordoned) {
            (false, _) => "none",
            (true, true) => "cordoned",
            (true, false) => "yes",
        };
        [
            view.name.clone(),
            view.addr.clone(),
            or_dash(view.zone.as_ref()),
            format!("{}", view.cpu_millis as f64 / 1000.0),
            format!("{} MiB", view.memory_mib),
            jobs.to_owned(),
            view.version.clone(),
            ago(view.since_ms, now),
        ]
    })
    .await?;
    Ok(())
}

pub(super) async fn apps(client: &Client, json: bool) -> Result<(), Failure> {
    let head = ["APP", "RELEASE", "RUNNING/WANTED", "DEPLOYMENT", "CAUSE"];
    list(client, json, "/v1/apps", head, |view: &AppView| {
        let running = |name: &String| view.running.get(name).copied().unwrap_or(0);
        let counts: Vec<_> = view
            .wanted
            .iter()
            .map(|(name, wanted)| format!("{name} {}/{wanted}", running(name)))
            .collect();
        let deployment = view.deployment.as_ref();
        [
            view.name.clone(),
            view.release.clone(),
            counts.join(" "),
            or_dash(deployment.map(|d| format!("{} {}", d.id, d.state))),
            deployment.and_then(|d| d.cause.clone()).unwrap_or_default(),
        ]
    })
    .await?;
    Ok(())
}

pub(super) async fn app(client: &Client, json: bool, app: &AppName) -> Result<(), Failure> {
    let view: AppView = client.get(&format!("/v1/apps/{app}")).await?;
    let releases: Vec<ReleaseView> = client.get(&format!("/v1/apps/{app}/releases")).await?;
    let deployments: Vec<DeploymentView> =
        client.get(&format!("/v1/apps/{app}/deployments")).await?;
    if json {
        table::json(&serde_json::json!({
            "app": view, "releases": releases, "deployments": deployments,
        }));
        return Ok(());
    }
    let now = clock::unix_ms();
    say!("{} serves {}; wants {}\n", view.name, view.release, counts(&view.wanted));
    let rows: Vec<_> = releases
        .iter()
        .map(|release| {
            let commands: Vec<_> = release
                .commands
                .iter()
                .map(|(name, command)| format!("{name}: {}", command.join(" ")))
                .collect();
            let marker = if release.id == view.release { "*" } else { "" };
            [
                format!("{}{marker}", release.id),
                ago(release.created_ms, now),
                release.digest.chars().take(12).collect(),
                commands.join("; "),
            ]
        })
        .collect();
    table::print(["RELEASE", "AGE", "DIGEST", "COMMANDS"], &rows);
    say!("");
    let rows: Vec<_> = deployments
        .iter()
        .map(|d| {
            [
                d.id.clone(),
                or_dash(d.from.as_ref()),
                d.to.clone(),
                d.state.clone(),
                ago(d.created_ms, now),
                d.cause.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table::print(["DEPLOYMENT", "FROM", "TO", "STATE", "AGE", "CAUSE"], &rows);
    Ok(())
}

pub(super) async fn jobs(client: &Client, json: bool, app: Option<AppName>) -> Result<(), Failure> {
    let query = app.map_or_else(String::new, |app| format!("?app={app}"));
    let now = clock::unix_ms();
    let head =
        ["JOB", "RELEASE", "NODE", "STATE", "PID", "ADDRESS", "RESTARTS", "SINCE", "LAST EXIT"];
    list(client, json, &format!("/v1/jobs{query}"), head, |view: &JobView| {
        let why = view.cause.clone().or_else(|| view.last_exit.clone()).unwrap_or_default();
        [
            view.id.clone(),
            view.release.clone(),
            view.node.clone(),
            view.state.clone(),
            or_dash(view.pid),
            or_dash(view.addr.as_ref()),
            view.restarts.to_string(),
            ago(view.since_ms, now),
            why,
        ]
    })
    .await?;
    Ok(())
}

pub(super) async fn logs(
    client: &Client,
    json: bool,
    job: &str,
    follow: bool,
    lines: usize,
) -> Result<(), Failure> {
    let path = format!("/v1/jobs/{}/logs?lines={lines}&follow={follow}", escaped(job));
    let mut events = client.events(&path).await?;
    while let Some(event) = events.next().await {
        if event.kind != "line" {
            return Err(event.data.into());
        }
        if json {
            say!("{}", event.data);
        } else {
            let line: LogView = serde_json::from_str(&event.data)?;
            say!("{} {} {}", line.at, line.stream, line.text);
        }
    }
    Ok(())
}

pub(super) async fn events(client: &Client, json: bool, after: Option<u64>) -> Result<(), Failure> {
    let query = after.map_or_else(String::new, |after| format!("?after={after}"));
    let mut events = client.events(&format!("/v1/events{query}")).await?;
    while let Some(event) = events.next().await {
        if matches!(event.kind.as_str(), "compacted" | "lost") {
            return Err(format!("the stream has ended: {}", event.data).into());
        }
        if json {
            say!("{}", event.data);
        } else {
            let view: EventView = serde_json::from_str(&event.data)?;
            say!("{:>6} {} {} {}", view.revision, view.kind, view.name, view.text);
        }
    }
    Ok(())
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub(super) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
