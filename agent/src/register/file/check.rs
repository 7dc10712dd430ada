//! A check as it is written.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::ops::RangeInclusive;
use std::time::Duration;

use portolan_discovery::model::{CheckKind, CheckSpec, HttpCheck, StatusRange};
use serde::Deserialize;

use super::value::{Span, Status};

/// From one probe to the next.
const EVERY: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);
/// Until a probe has failed.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
/// Until failures count.
const START_PERIOD: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);

/// A check as `[[check]]`, or in `checks` of a service or a process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawCheck")]
pub struct CheckFile(pub CheckSpec);

impl From<CheckFile> for CheckSpec {
    fn from(file: CheckFile) -> Self {
        file.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Http,
    Https,
    Tcp,
    Exec,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Exec => "exec",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    kind: Kind,
    every: Option<Span>,
    timeout: Option<Span>,
    rise: Option<NonZeroU8>,
    fall: Option<NonZeroU8>,
    start_period: Option<Span>,
    path: Option<String>,
    host: Option<String>,
    method: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    status: Option<Vec<Status>>,
    body: Option<String>,
    verify: Option<bool>,
    ca_file: Option<String>,
    command: Option<Vec<String>>,
}

/// A check whose values do not fit together.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("a check of kind \"{}\" has no {key}: that is for {kinds}", .kind.word())]
    NotForKind { kind: Kind, key: &'static str, kinds: &'static str },
    #[error(
        "{key} is {}: expected {} to {}", humantime::format_duration(*.value),
        humantime::format_duration(*.range.start()), humantime::format_duration(*.range.end())
    )]
    Range { key: &'static str, value: Duration, range: RangeInclusive<Duration> },
    #[error("{key} is {value:?}: expected {expected}")]
    Value { key: &'static str, value: String, expected: &'static str },
    #[error("a check of kind \"exec\" needs a command such as [\"/usr/bin/true\"]")]
    NoCommand,
}

impl TryFrom<RawCheck> for CheckFile {
    type Error = CheckError;

    fn try_from(mut raw: RawCheck) -> Result<Self, CheckError> {
        refuse_strangers(&raw)?;
        let every = within("every", raw.every, CheckSpec::EVERY, EVERY)?;
        let timeout = within("timeout", raw.timeout, CheckSpec::TIMEOUT, TIMEOUT)?;
        let start_period =
            within("start_period", raw.start_period, CheckSpec::START_PERIOD, START_PERIOD)?;
        let rise = raw.rise.unwrap_or(CheckSpec::RISE);
        let fall = raw.fall.unwrap_or(CheckSpec::FALL);
        let kind = match raw.kind {
            Kind::Tcp => CheckKind::Tcp,
            Kind::Exec => CheckKind::Exec { command: command(raw.command.take())? },
            Kind::Http | Kind::Https => CheckKind::Http(http(raw)?),
        };
        Ok(Self(CheckSpec { kind, every, timeout, rise, fall, start_period }))
    }
}

/// Refuses keys that mean nothing for the kind.
fn refuse_strangers(raw: &RawCheck) -> Result<(), CheckError> {
    const HTTP: &str = "\"http\" and \"https\"";
    let is_http = matches!(raw.kind, Kind::Http | Kind::Https);
    let is_https = raw.kind == Kind::Https;
    for (is_set, key, fits, kinds) in [
        (raw.path.is_some(), "path", is_http, HTTP),
        (raw.host.is_some(), "host", is_http, HTTP),
        (raw.method.is_some(), "method", is_http, HTTP),
        (raw.headers.is_some(), "headers", is_http, HTTP),
        (raw.status.is_some(), "status", is_http, HTTP),
        (raw.body.is_some(), "body", is_http, HTTP),
        (raw.verify.is_some(), "verify", is_https, "\"https\""),
        (raw.ca_file.is_some(), "ca_file", is_https, "\"https\""),
        (raw.command.is_some(), "command", raw.kind == Kind::Exec, "\"exec\""),
    ] {
        if is_set && !fits {
            return Err(CheckError::NotForKind { kind: raw.kind, key, kinds });
        }
    }
    Ok(())
}

fn within(
    key: &'static str,
    span: Option<Span>,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Result<Duration, CheckError> {
    match span {
        None => Ok(default),
        Some(Span(value)) if range.contains(&value) => Ok(value),
        Some(Span(value)) => Err(CheckError::Range { key, value, range }),
    }
}

fn command(command: Option<Vec<String>>) -> Result<Vec<String>, CheckError> {
    match command {
        Some(command) if command.first().is_some_and(|program| !program.is_empty()) => {
            match command.iter().find(|word| word.contains('\0')) {
                None => Ok(command),
                Some(word) => Err(CheckError::Value {
                    key: "command",
                    value: word.clone(),
                    expected: "words without a NUL",
                }),
            }
        }
        _ => Err(CheckError::NoCommand),
    }
}

fn http(raw: RawCheck) -> Result<HttpCheck, CheckError> {
    let path = value("path", raw.path.unwrap_or_else(|| "/".to_owned()), PATH, |path| {
        path.starts_with('/') && !path.contains('#') && path.parse::<http::Uri>().is_ok()
    })?;
    let method =
        value("method", raw.method.unwrap_or_else(|| "GET".to_owned()), METHOD, |method| {
            method != "CONNECT" && http::Method::from_bytes(method.as_bytes()).is_ok()
        })?;
    let host = raw
        .host
        .map(|host| value("host", host, HOST, |host| host.parse::<http::uri::Authority>().is_ok()))
        .transpose()?;
    let headers = raw.headers.unwrap_or_default();
    for (name, text) in &headers {
        value("headers", name.clone(), "names of header fields", |name| {
            http::HeaderName::try_from(name).is_ok()
        })?;
        value("headers", text.clone(), "values of header fields in visible characters", |text| {
            http::HeaderValue::try_from(text).is_ok()
        })?;
    }
    let status = match raw.status {
        Some(status) if !status.is_empty() => status.into_iter().map(|Status(s)| s).collect(),
        Some(_) => {
            let expected = "at least one status such as 200 or \"200-299\"";
            return Err(CheckError::Value { key: "status", value: "[]".to_owned(), expected });
        }
        None => vec![StatusRange { first: 200, last: 399 }],
    };
    Ok(HttpCheck {
        tls: raw.kind == Kind::Https,
        verify: raw.verify.unwrap_or(true),
        ca_file: raw.ca_file,
        method,
        path,
        host,
        headers,
        status,
        body: raw.body,
    })
}

const PATH: &str = "a path such as \"/health\" or \"/health?deep=1\"";
const METHOD: &str = "a method such as \"GET\" or \"HEAD\"";
const HOST: &str = "a host such as \"www.example.org\", with a port or without";

fn value(
    key: &'static str,
    value: String,
    expected: &'static str,
    fits: impl FnOnce(&str) -> bool,
) -> Result<String, CheckError> {
    if fits(&value) { Ok(value) } else { Err(CheckError::Value { key, value, expected }) }
}
