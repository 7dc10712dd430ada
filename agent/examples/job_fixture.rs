//! What the tests of jobs start: the shim without the rest of the binary, an agent that can be
//! killed, and small jobs.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use portolan_agent::check::run::Checks;
use portolan_agent::job::{Config, ShimProgram, Supervisor, shim};
use portolan_agent::metrics::Metrics;
use portolan_agent::register::Registrar;
use portolan_discovery::model::{Kv, NodeName, PortRange};
use portolan_discovery::store::Store;
use portolan_discovery::store::embedded::{Create, Embedded};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let word = args.next().unwrap_or_default();
    let done = match word.to_str() {
        Some("shim") => return shim::main(args),
        Some("agent") => agent(&args.collect::<Vec<_>>()),
        Some("serve") => serve(),
        Some("print") => print(args.next()),
        _ => Err("shim, agent, serve or print".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Supervises the jobs below a folder until it is killed: `agent DIR FIRST_PORT LAST_PORT`.
/// Once the store has it that all is well, there is a file `told`.
fn agent(args: &[OsString]) -> Result<(), Failure> {
    let [dir, first, last] = args else { return Err("agent DIR FIRST_PORT LAST_PORT".into()) };
    let dir = Path::new(dir);
    let port = |text: &OsString| text.to_str().unwrap_or_default().parse::<u16>();
    let config = Config {
        addr: IpAddr::from([127, 0, 0, 1]),
        ports: PortRange { first: port(first)?, last: port(last)? },
        dir: dir.join("jobs"),
        shim: ShimProgram::current()?,
    };
    let store: Arc<dyn Store> =
        Arc::new(Embedded::open(&dir.join("store.redb"), Create::IfMissing)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let metrics = Metrics::register(&prometheus::Registry::new())?;
        tokio::spawn(tell(store.clone(), dir.join("told")));
        let registrar = Registrar::new(store, NodeName::parse("n1")?, metrics.clone());
        let checks = Checks::new(metrics.clone());
        let supervisor = Supervisor::bind(config, registrar, checks, metrics)?;
        supervisor.run(CancellationToken::new()).await;
        Ok(())
    })
}

async fn tell(store: Arc<dyn Store>, told: PathBuf) {
    let has = |kvs: &[Kv], part: &str, words: &str| {
        kvs.iter()
            .filter(|kv| kv.key.contains(part))
            .all(|kv| String::from_utf8_lossy(&kv.value).contains(words))
    };
    loop {
        if let Ok((kvs, _)) = store.snapshot("/portolan/").await
            && kvs.iter().any(|kv| kv.key.contains("/job/"))
            && has(&kvs, "/job/", r#""state":"running""#)
            && has(&kvs, "/i/", r#""health":"up""#)
        {
            let _ = std::fs::write(&told, "");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers every request on `PORTOLAN_ADDR`: 200, or 503 while there is a file `sick`.
fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind(std::env::var("PORTOLAN_ADDR")?)?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut request = [0; 4096];
        // A check of the connection alone says nothing.
        if stream.read(&mut request).unwrap_or(0) == 0 {
            continue;
        }
        let status = if Path::new("sick").exists() { "503 Sick" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    }
    Ok(())
}

/// Prints so many numbered lines of 100 bytes, then waits to be killed.
fn print(lines: Option<OsString>) -> Result<(), Failure> {
    let lines: u32 = lines.ok_or("print LINES")?.to_str().unwrap_or_default().parse()?;
    let mut out = std::io::stdout().lock();
    for line in 0..lines {
        writeln!(out, "{line:099}")?;
    }
    out.flush()?;
    loop {
        std::thread::park();
    }
}
