//! Both ends of the comparison: the backends that all proxies share, and the kinds of load that
//! `wrk` does not make: a fixed rate, clients that wait, plain bytes, and datagrams.

mod bulk;
mod datagrams;
mod idle;
mod rate;
mod serve;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: compare-ends serve ADDRESS
       compare-ends rate ADDRESS PATH CONNECTIONS REQUESTS_PER_SECOND SECONDS
       compare-ends idle ADDRESS PATH CONNECTIONS
       compare-ends source ADDRESS
       compare-ends sink ADDRESS CONNECTIONS SECONDS
       compare-ends echo ADDRESS
       compare-ends ask ADDRESS CLIENTS SECONDS

serve  answers /small /64k /1m /chunked from memory, on one thread
rate   sends at a fixed rate whatever comes back, and prints: sent failed p50_us p99_us p999_us,
       each latency from the moment the request was due
idle   opens keep-alive connections, sends one request on each, prints \"ready\", and holds them
       until its input ends
source writes to every connection for as long as somebody reads
sink   reads from a source and prints how many bytes came
echo   sends datagrams back
ask    sends datagrams of 64 bytes, one under way for each client, and prints: answers lost";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("compare-ends: {error}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(64)
        }
    }
}

fn run(args: &[&str]) -> Option<std::io::Result<()>> {
    let addr = |text: &str| text.parse::<SocketAddr>().ok();
    let lasts = |text: &str| text.parse().ok().map(Duration::from_secs);
    Some(match *args {
        ["serve", at] => serve::run(addr(at)?),
        ["rate", at, path, connections, rate, seconds] => {
            let load = rate::Load {
                addr: addr(at)?,
                path,
                connections: connections.parse().ok()?,
                per_second: rate.parse().ok()?,
                lasts: lasts(seconds)?,
            };
            rate::run(&load)
        }
        ["idle", at, path, connections] => idle::run(addr(at)?, path, connections.parse().ok()?),
        ["source", at] => bulk::source(addr(at)?),
        ["sink", at, connections, seconds] => {
            bulk::sink(addr(at)?, connections.parse().ok()?, lasts(seconds)?)
        }
        ["echo", at] => datagrams::echo(addr(at)?),
        ["ask", at, clients, seconds] => {
            datagrams::ask(addr(at)?, clients.parse().ok()?, lasts(seconds)?)
        }
        _ => return None,
    })
}

/// A request with the headers that browsers send, about 400 bytes.
fn request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: web.test\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
         Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n\
         Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n"
    )
    .into_bytes()
}

/// The bytes of the response at the start of `bytes`, if it has a length and is whole.
fn response_len(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let length: usize = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())?;
    (bytes.len() >= head + length).then_some(head + length)
}
