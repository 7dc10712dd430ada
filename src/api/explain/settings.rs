//! What else a route and its services say, a line each: what a request may go through beside
//! its way to an instance.

use portolan_discovery::model::{CacheRule, Coding, CompressRule, HttpVersion, RetryRule, Route};
use portolan_router::{BackendView, Explanation};

/// All of it, the route's first.
pub(super) fn lines(explanation: &Explanation) -> Vec<String> {
    let route = explanation.record.as_deref().map(of_route).unwrap_or_default();
    let compress = explanation.record.as_deref().and_then(|route| route.compress.as_deref());
    let compress = compress.map(|rule| of_compress(rule, explanation.coding));
    route
        .into_iter()
        .chain(compress)
        .chain(explanation.backends.iter().flat_map(of_service))
        .collect()
}

fn of_route(route: &Route) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(mirror) = &route.mirror {
        let percent = u8::from(mirror.percent);
        lines.push(format!("copies of {percent} % of its requests go to {}", mirror.service));
    }
    if let Some(port) = route.https.as_ref().and_then(|https| https.redirect) {
        lines.push(format!("requests without TLS are sent to https on port {port}"));
    }
    if let Some(hsts) = route.https.as_ref().and_then(|https| https.hsts) {
        let seconds = hsts.max_age_s;
        lines.push(format!("clients of https are told to come by it only, for {seconds} s"));
    }
    if let Some(pages) = &route.error_pages {
        lines.push(format!("errors have the pages {pages}"));
    }
    if let Some(retry) = &route.retry {
        lines.push(of_retry(retry));
    }
    if let Some(cache) = &route.cache {
        lines.push(of_cache(cache));
    }
    lines
}

fn of_retry(retry: &RetryRule) -> String {
    let statuses: Vec<_> = retry.statuses().iter().map(ToString::to_string).collect();
    format!(
        "answers with {} are tried on another instance, {} attempts in all",
        statuses.join(", "),
        retry.attempts()
    )
}

fn of_cache(cache: &CacheRule) -> String {
    let life = match cache.default_ttl() {
        Some(ttl) => format!(", or {} if they do not", humantime::format_duration(ttl)),
        None => String::new(),
    };
    let bytes = cache.object_bytes_max();
    format!("answers up to {bytes} bytes are cached for as long as they say{life}")
}

fn of_compress(rule: &CompressRule, coding: Option<Coding>) -> String {
    match coding {
        Some(coding) => format!("its answer is compressed with {coding}, if type and length fit"),
        None => {
            let codings: Vec<_> = rule.codings().iter().map(|coding| coding.as_str()).collect();
            let codings = codings.join(", ");
            format!(
                "its answer is not compressed: this request accepts no coding of {codings}, or asks for a part"
            )
        }
    }
}

fn of_service(backend: &BackendView) -> Vec<String> {
    let service = &backend.service;
    let mut lines = Vec::new();
    if let Some(limit) = &backend.limit {
        lines.push(format!(
            "an instance of {service} has at most {} requests under way; {} of at most {} wait, for up to {}",
            limit.in_flight_max(),
            backend.waiting,
            limit.queue_max(),
            humantime::format_duration(limit.queue_wait()),
        ));
    }
    if let Some(tls) = &backend.tls {
        let name = tls.name.as_ref().map_or_else(|| "its address".to_owned(), ToString::to_string);
        let held = match tls.verify {
            true => format!("an instance needs a certificate for {name}"),
            false => "no certificate is verified".to_owned(),
        };
        lines.push(format!("connections to {service} are TLS: {held}"));
    }
    if backend.http_version == HttpVersion::H2 {
        lines.push(format!("{service} is spoken to in HTTP/2: connections are shared by requests"));
    }
    if let Some(version) = backend.proxy_protocol {
        lines.push(format!("connections to {service} begin with a PROXY header {version}"));
    }
    lines
}
