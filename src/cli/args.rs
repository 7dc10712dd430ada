//! The command line: every command and option, with what it does.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use portolan_discovery::model::{AppName, CertificateName, ProcessName, Scope};

/// The configuration when none is named.
pub(super) const CONFIG_FILE: &str = "portolan.toml";

/// Edge router, resolver, health agent and deploy controller of a cluster, in one binary.
///
/// `portolan up FILE` runs everything on one machine. The other commands ask a running one.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Global {
    /// The admin listener of a running Portolan.
    #[arg(
        long,
        global = true,
        env = "PORTOLAN_API",
        default_value = "127.0.0.1:7070",
        value_name = "ADDR:PORT"
    )]
    pub(super) api: SocketAddr,
    /// A file with the token of the admin listener.
    #[arg(long, global = true, env = "PORTOLAN_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Print JSON for programs instead of tables for people.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run router, resolver, agent and controller in this process, until SIGTERM or Ctrl-C.
    ///
    /// Jobs outlive it: the next `up` finds and adopts them. `portolan stop` ends them.
    Up(Up),
    /// Check a configuration: exit 0 when it is good, 64 when it is not.
    Check(Check),
    /// End the jobs that a stopped `up` left running on this machine.
    Stop {
        /// The configuration.
        #[arg(default_value = CONFIG_FILE)]
        file: PathBuf,
    },
    /// What the node is doing: revision, store, counts, what is pending and why.
    Status,
    /// List services with their instances by state.
    Services {
        /// Show one service with its instances.
        service: Option<String>,
    },
    /// List instances: state, address, and why one is not up.
    Instances {
        /// Only those of this service.
        #[arg(long)]
        service: Option<String>,
        /// Only those in this state: up, starting, down, draining, admin-down.
        #[arg(long)]
        state: Option<String>,
    },
    /// List routes.
    Routes,
    /// Questions about routes.
    Route {
        #[command(subcommand)]
        command: RouteCommand,
    },
    /// The answers that the router of the node keeps.
    Cache {
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// List nodes.
    Nodes,
    /// List apps, or show one with its releases and deployments.
    Apps {
        /// Show this one.
        app: Option<AppName>,
    },
    /// Deploy a new release of an app.
    Deploy(Deploy),
    /// Go back to an earlier release.
    Rollback {
        /// The app.
        app: AppName,
        /// The release to go back to; the one before the current by default.
        #[arg(long, value_name = "RELEASE")]
        to: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Change how many jobs of a process type run.
    Scale {
        /// The app.
        app: AppName,
        /// The counts, such as web=5.
        #[arg(required = true, value_parser = count, value_name = "PROCESS=COUNT")]
        counts: Vec<(ProcessName, u32)>,
        #[command(flatten)]
        wait: Wait,
    },
    /// List jobs.
    Ps {
        /// Only those of this app.
        app: Option<AppName>,
    },
    /// Print what a job printed.
    Logs {
        /// The job, as `portolan ps` lists it.
        job: String,
        /// Go on as it prints more.
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines to begin with, at most 10,000.
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
    },
    /// List the certificates that the node shows: names, source, days left, listeners.
    ///
    /// Those of files are the configuration's; those of the store are added and removed here, and
    /// every node shows them.
    #[command(args_conflicts_with_subcommands = true)]
    Certs {
        #[command(subcommand)]
        command: Option<CertsCommand>,
    },
    /// A local authority, for trying TLS out and between machines of one's own.
    Ca {
        #[command(subcommand)]
        command: CaCommand,
    },
    /// Follow what happens in the cluster.
    Events {
        /// Begin after this revision instead of now.
        #[arg(long)]
        after: Option<u64>,
    },
    /// Take an instance, a service or a node out of new work, with a reason.
    Drain {
        /// node/NAME, service/NAME or instance/SERVICE/ID.
        scope: Scope,
        /// Why; others will read it.
        #[arg(long, required_unless_present = "undo")]
        reason: Option<String>,
        /// End by itself after this long, such as 30m.
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        lasting: Option<std::time::Duration>,
        /// Give the word back to the checks.
        #[arg(long, conflicts_with_all = ["reason", "lasting"])]
        undo: bool,
    },
    /// Wait until a revision is live on the node, or a deployment is over.
    Wait(WaitFor),
    /// Let the program's new file take over from the running process, without losing a request.
    ///
    /// The new process gets the listening sockets, then store and jobs; the old one ends what it
    /// has begun. When the new one cannot, the old one serves on, and the exit code is 1.
    /// SIGUSR2 to the running process does the same.
    Upgrade {
        /// How long the new process may take to begin, and again to serve.
        #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
        timeout: std::time::Duration,
        /// Return only when the old process has no connection any more.
        #[arg(long)]
        wait: bool,
    },
    /// Serve a small HTTP and WebSocket app that tells what it was asked: for tours and examples.
    Whoami {
        /// Where to listen; `PORTOLAN_ADDR`, or else 127.0.0.1 and `PORT`, by default.
        #[arg(long, value_name = "ADDR:PORT")]
        bind: Option<SocketAddr>,
    },
    /// Print a script that completes commands in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print every key of the configuration with its default and unit.
    Reference,
    /// Supervises one job; started by the agent.
    #[command(hide = true, disable_help_flag = true)]
    Shim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct Up {
    /// The configuration.
    #[arg(default_value = CONFIG_FILE)]
    pub(super) file: PathBuf,
    /// Begin with an empty store although a saved table says that there was another.
    #[arg(long)]
    pub(super) new_store: bool,
    /// How logs are written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "PORTOLAN_LOG_FORMAT")]
    pub(super) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    Text,
    /// JSON lines for programs.
    Json,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Check {
    /// The configuration.
    #[arg(default_value = CONFIG_FILE)]
    pub(super) file: PathBuf,
    /// Do not ask the resolvers that the file names whether they answer.
    #[arg(long)]
    pub(super) offline: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum CertsCommand {
    /// Put a certificate into the store, or a new one in the place of one that is there.
    ///
    /// Every node shows it from then on; connections go on. What has expired, does not fit or is
    /// for nobody is refused. A name that the configuration file uses is the file's.
    Add {
        /// The name, such as shop.
        name: CertificateName,
        /// The certificate as PEM and those that lead to its authority, at most 256 KiB.
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
        /// Its private key as PEM, without a pass phrase, at most 64 KiB.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Remove a certificate from the store; no node shows it any more.
    Remove {
        /// The name.
        name: CertificateName,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make an authority: DIR/ca.pem for those who are to trust it, DIR/ca.key for nobody.
    Init {
        /// The folder; it is made.
        dir: PathBuf,
    },
    /// Issue a certificate and put it and its key beside the authority: DIR/NAME.pem, DIR/NAME.key.
    Issue {
        /// The folder of the authority.
        dir: PathBuf,
        /// The hosts and addresses that it is for, such as shop.test, *.shop.test or 127.0.0.1.
        #[arg(required = true)]
        names: Vec<String>,
        /// How many days it holds.
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// For a client, which shows it to a listener or an instance that asks.
        #[arg(long)]
        client: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Forget answers: all of them, or those for which all that is named holds.
    ///
    /// Of the node that is asked only; what is being fetched meanwhile is not kept either.
    Clear {
        /// Those of this route.
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// Those for this host, whatever scheme and port.
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// Those for this path, as requests spell it, whatever the query.
        #[arg(long, value_name = "PATH")]
        path: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RouteCommand {
    /// Tell which route and instances a request would take, and why the others lost.
    Explain(Explain),
}

#[derive(Debug, ClapArgs)]
pub(super) struct Explain {
    /// The method.
    pub(super) method: String,
    /// The URL, such as http://shop.test/api.
    pub(super) url: String,
    /// A header field of the request; may be given several times. `Host` wins over the URL.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(super) headers: Vec<String>,
    /// The listener that the request comes to; all HTTP listeners' common routes by default.
    #[arg(long)]
    pub(super) listener: Option<String>,
    /// The address that the request comes from; 127.0.0.1 by default.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) source: Option<IpAddr>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Deploy {
    /// The app.
    pub(super) app: AppName,
    /// Take the app from this configuration file; the current release is changed by default.
    #[arg(short, long)]
    pub(super) file: Option<PathBuf>,
    /// Set a variable of the environment; may be given several times.
    #[arg(short, long, value_parser = variable, value_name = "NAME=VALUE")]
    pub(super) env: Vec<(String, String)>,
    #[command(flatten)]
    pub(super) wait: Wait,
}

#[derive(Debug, Clone, Copy, ClapArgs)]
pub(super) struct Wait {
    /// Return at once instead of waiting for the end.
    #[arg(long)]
    pub(super) no_wait: bool,
    /// The longest wait.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(super) timeout: std::time::Duration,
}

#[derive(Debug, ClapArgs)]
pub(super) struct WaitFor {
    /// Until this revision is live.
    #[arg(long, required_unless_present = "app", conflicts_with = "app")]
    pub(super) revision: Option<u64>,
    /// Until the newest deployment of this app is over and its wanted count runs.
    #[arg(long)]
    pub(super) app: Option<AppName>,
    /// The longest wait.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(super) timeout: std::time::Duration,
}

fn count(text: &str) -> Result<(ProcessName, u32), String> {
    let (name, count) = text.split_once('=').ok_or("expected PROCESS=COUNT, such as web=5")?;
    let name = ProcessName::parse(name).map_err(|error| error.to_string())?;
    let count = count.parse().map_err(|_| format!("\"{count}\" is no count"))?;
    Ok((name, count))
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Args::command().debug_assert();
    }
}
