//! The commands that start something: the mesh, a check of a configuration, the sample app.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use portolan_agent::job;
use portolan_discovery::model::JobSpec;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::args::{Check, LogFormat, Up};
use super::table::say;
use super::{EXIT_FAILED, EXIT_USAGE, failed};
use crate::config::Config;
use crate::handover::{self, Main, Offer};
use crate::live::{UPGRADE_TIMEOUT, Upgrades};
use crate::mesh::{self, Mesh, Orders};
use crate::whoami;

/// Threads for store, API, checks and jobs; the data workers are beside them.
const CONTROL_THREADS: usize = 2;

/// Runs everything until told to stop.
pub(super) fn up(up: &Up) -> ExitCode {
    // Before anything is opened: what the service manager passes is known by its numbers.
    let offer = Offer::activated();
    let predecessor = handover::predecessor();
    let config = match Config::load(&up.file) {
        Ok(config) => config,
        Err(error) => {
            if let Some(line) = predecessor {
                handover::refuse(line, &error.to_string());
            }
            return wrong(&error);
        }
    };
    logging(up.log_format);
    raise_file_limit();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let result = runtime.block_on(async {
        let orders = Orders::new().map_err(mesh::StartError::Program)?;
        let told = Told {
            stop: orders.stop.clone(),
            main: orders.main.clone(),
            upgrades: Some(orders.upgrades.clone()),
        };
        tokio::spawn(told.listen());
        let mesh = match predecessor {
            // The user has been greeted; the log tells the rest.
            Some(line) => Mesh::take_over(config, up.new_store, line).await?,
            None => {
                let mesh = Mesh::bind(config, up.new_store, offer).await?;
                greet(&mesh.greeting(&up.file));
                mesh
            }
        };
        mesh.run(orders).await
    });
    // A blocking call that hangs must not keep the process from ending.
    runtime.shutdown_timeout(mesh::SHUTDOWN_TIMEOUT);
    match result {
        Ok(ended) => {
            greet(&ended.farewell);
            ended.code.into()
        }
        Err(error) => failed(&error),
    }
}

/// Tells the user; a process whose output nobody reads runs all the same.
fn greet(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Each connection needs a file or two, and shells begin with 1,024: what the hard limit allows
/// is taken.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
}

/// What signals are to do.
struct Told {
    /// SIGTERM and Ctrl-C.
    stop: CancellationToken,
    /// Gets all of them when it leads.
    main: Arc<Main>,
    /// SIGUSR2.
    upgrades: Option<Upgrades>,
}

impl Told {
    async fn listen(self) {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut user)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::user_defined2()),
        ) else {
            tracing::error!("signals cannot be watched; only SIGKILL ends this process");
            return;
        };
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => Signal::TERM,
                _ = interrupt.recv() => Signal::INT,
                _ = user.recv() => Signal::USR2,
            };
            let is_forwarded = self.main.forward(signal);
            match signal {
                Signal::USR2 if is_forwarded => {}
                Signal::USR2 => self.upgrade(),
                // Who asks twice means it; the process that leads says when that is.
                _ if self.stop.is_cancelled() && !is_forwarded => {
                    tracing::warn!("told to stop a second time: ending without a drain");
                    std::process::exit(i32::from(EXIT_FAILED));
                }
                _ => self.stop.cancel(),
            }
        }
    }

    fn upgrade(&self) {
        match self.upgrades.as_ref().map(|upgrades| upgrades.ask(UPGRADE_TIMEOUT)) {
            // The log tells how it goes.
            Some(Ok(_)) => {}
            Some(Err(error)) => tracing::warn!(%error, "no upgrade is begun"),
            None => tracing::warn!("this program cannot be upgraded while it runs"),
        }
    }
}

fn logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("PORTOLAN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

fn wrong(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("portolan: {error}");
    EXIT_USAGE.into()
}

/// Tells what is wrong with a configuration, without starting anything.
pub(super) fn check(check: &Check, json: bool) -> ExitCode {
    let config = match Config::load(&check.file) {
        Ok(config) => config,
        Err(error) if json => {
            let place = error.place.as_ref();
            super::table::json(&serde_json::json!({
                "ok": false,
                "file": error.path,
                "line": place.map(|place| place.line),
                "column": place.map(|place| place.column),
                "what": error.what,
                "hint": error.hint,
            }));
            return EXIT_USAGE.into();
        }
        Err(error) => return wrong(&error),
    };
    let troubles = if check.offline { Vec::new() } else { mesh::probe(&config) };
    let warnings = mesh::warnings(&config);
    if json {
        let ok = troubles.is_empty();
        super::table::json(
            &serde_json::json!({ "ok": ok, "troubles": troubles, "warnings": warnings }),
        );
    } else {
        for warning in &warnings {
            eprintln!("portolan: {}: warning: {warning}", check.file.display());
        }
        for trouble in &troubles {
            eprintln!("portolan: {}: {trouble}", check.file.display());
        }
        if troubles.is_empty() {
            say!(
                "{} is good: {} listeners, {} routes, {} services, {} apps",
                check.file.display(),
                config.listeners.len(),
                config.routes.len(),
                config.services.len(),
                config.apps.len()
            );
        }
    }
    if troubles.is_empty() { ExitCode::SUCCESS } else { EXIT_FAILED.into() }
}

/// Ends the jobs that a stopped `up` left running.
pub(super) fn stop(file: &Path) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => return wrong(&error),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let jobs = mesh::jobs_dir(&config.node.data_dir);
    match runtime.block_on(job::stop_all(&jobs, JobSpec::KILL_TIMEOUT)) {
        Ok(0) => say!("no job was running"),
        Ok(count) => say!("{count} jobs were stopped"),
        Err(error) => return failed(&error),
    }
    ExitCode::SUCCESS
}

/// Serves the sample app until told to stop.
pub(super) fn whoami(bind: Option<SocketAddr>) -> ExitCode {
    let from_env = || {
        let addr = std::env::var("PORTOLAN_ADDR").ok().and_then(|addr| addr.parse().ok());
        let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok());
        addr.or_else(|| Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port?)))
    };
    let Some(bind) = bind.or_else(from_env) else {
        eprintln!("portolan: no address to listen at: give --bind ADDR:PORT, or set PORT");
        return EXIT_USAGE.into();
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let result = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(bind).await?;
        say!("whoami listens at {}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let told = Told { stop: stop.clone(), main: Arc::default(), upgrades: None };
        tokio::spawn(told.listen());
        whoami::serve(listener, stop).await
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portolan: cannot serve at {bind}: {error}");
            EXIT_FAILED.into()
        }
    }
}
