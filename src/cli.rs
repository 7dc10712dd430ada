//! The command line: what each command asks for and prints. `up` starts the mesh, all others
//! call the API of a running one.

mod args;
mod ask;
mod authority;
mod cache;
mod certs;
mod change;
mod client;
mod start;
mod table;
mod upgrade;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use portolan_agent::job::shim;

use args::{Args, Command, Global, RouteCommand};
use client::Client;

/// The exit code of a wrong command line or configuration (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;
/// The exit code when what was asked for was not done.
pub const EXIT_FAILED: u8 = 1;

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    // The shim is small on purpose: no runtime, no parser.
    if words.get(1).is_some_and(|word| word == "shim") {
        return shim::main(words.into_iter().skip(2));
    }
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match args.command {
        Command::Up(up) => start::up(&up),
        Command::Check(check) => start::check(&check, args.global.json),
        Command::Stop { file } => start::stop(&file),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Args::command(),
                "portolan",
                &mut std::io::stdout(),
            );
            ExitCode::SUCCESS
        }
        Command::Reference => {
            table::text(&crate::config::reference::page());
            ExitCode::SUCCESS
        }
        Command::Whoami { bind } => start::whoami(bind),
        Command::Ca { command } => authority::run(command),
        command => ask_running(command, &args.global),
    }
}

fn ask_running(command: Command, global: &Global) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(dispatch(command, global)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&*error),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn dispatch(command: Command, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global.api, global.token_file.as_deref())?;
    let json = global.json;
    match command {
        Command::Status => ask::status(&client, json).await,
        Command::Services { service } => ask::services(&client, json, service).await,
        Command::Instances { service, state } => {
            ask::instances(&client, json, service, state).await
        }
        Command::Routes => ask::routes(&client, json).await,
        Command::Route { command: RouteCommand::Explain(explain) } => {
            ask::explain(&client, json, &explain).await
        }
        Command::Cache { command } => cache::run(&client, json, command).await,
        Command::Certs { command } => certs::run(&client, json, command).await,
        Command::Nodes => ask::nodes(&client, json).await,
        Command::Apps { app: None } => ask::apps(&client, json).await,
        Command::Apps { app: Some(app) } => ask::app(&client, json, &app).await,
        Command::Ps { app } => ask::jobs(&client, json, app).await,
        Command::Logs { job, follow, lines } => ask::logs(&client, json, &job, follow, lines).await,
        Command::Events { after } => ask::events(&client, json, after).await,
        Command::Deploy(deploy) => change::deploy(&client, json, deploy).await,
        Command::Rollback { app, to, wait } => {
            change::rollback(&client, json, &app, to, wait).await
        }
        Command::Scale { app, counts, wait } => {
            change::scale(&client, json, &app, counts, wait).await
        }
        Command::Drain { scope, reason, lasting, undo } => {
            change::drain(&client, json, &scope, reason, lasting, undo).await
        }
        Command::Wait(wait) => change::wait(&client, json, wait).await,
        Command::Upgrade { timeout, wait } => upgrade::upgrade(&client, json, timeout, wait).await,
        Command::Up(_)
        | Command::Check(_)
        | Command::Stop { .. }
        | Command::Whoami { .. }
        | Command::Ca { .. }
        | Command::Completions { .. }
        | Command::Reference
        | Command::Shim { .. } => unreachable!("`main` does these itself"),
    }
}

/// Prints what went wrong, with its causes.
fn failed(error: &dyn std::error::Error) -> ExitCode {
    let mut text = format!("portolan: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    eprintln!("{text}");
    EXIT_FAILED.into()
}
