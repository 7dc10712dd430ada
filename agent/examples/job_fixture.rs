//! What the tests of jobs start: the shim without the rest of the binary, and small jobs.
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|word| word.to_str()) {
        Some("shim") => portolan_agent::job::shim::main(args),
        _ => ExitCode::from(64),
    }
}
