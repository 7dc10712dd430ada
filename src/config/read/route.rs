//! The routes of the file: what each takes, where it leads, and a name for one that has none.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::ops::Range;

use portolan_discovery::model::route::{Mirror, Percent};
use portolan_discovery::model::{
    Backend, CacheRule, CompressRule, HostPattern, HttpRule, HttpsRule, ListenerName, NodeName,
    Origin, PathPattern, Predicates, Protocol, RetryRule, Rewrite, Route, RouteName, RouteTimeouts,
    Rule, ServiceName, TlsRule, Weight,
};
use toml::Spanned;

use super::{Reader, tls};
use crate::config::Listener;
use crate::config::cache::CacheFile;
use crate::config::compress::CompressFile;
use crate::config::error::ConfigError;
use crate::config::file::{BackendFile, HstsFile, MirrorFile, RetryFile, RewriteFile, RouteFile};

/// The routes read so far, so that each is held against few: a file may have hundreds of thousands.
#[derive(Default)]
struct Seen {
    /// Where in the file each is.
    starts: Vec<usize>,
    by_name: HashMap<RouteName, usize>,
    /// By listener, host and path; those of one key may still differ in what else they ask.
    by_place: HashMap<(Option<ListenerName>, String), Vec<usize>>,
}

/// What an earlier route has in common with one, and where in the file it is.
enum Twin {
    Rule(usize),
    Name(usize),
}

impl Seen {
    /// Notes a route that begins at `start`, or finds the one that it repeats among `routes`.
    fn add(&mut self, route: &Route, start: usize, routes: &[Route]) -> Option<Twin> {
        let place = match &route.rule {
            Rule::Http(rule) => format!("{} {}", rule.host, rule.path),
            Rule::Tls(rule) => rule.host.to_string(),
            Rule::Tcp | Rule::Udp => String::new(),
        };
        let near = self.by_place.entry((route.listener.clone(), place)).or_default();
        if let Some(twin) = near.iter().find(|index| routes[**index].rule == route.rule) {
            return Some(Twin::Rule(self.starts[*twin]));
        }
        if let Some(twin) = self.by_name.get(&route.name) {
            return Some(Twin::Name(self.starts[*twin]));
        }
        near.push(routes.len());
        self.by_name.insert(route.name.clone(), routes.len());
        self.starts.push(start);
        None
    }
}

impl Reader<'_> {
    pub(super) fn routes(
        &self,
        files: Vec<Spanned<RouteFile>>,
        listeners: &[(Listener, Range<usize>)],
        node: &NodeName,
    ) -> Result<Vec<Route>, ConfigError> {
        let mut routes = Vec::with_capacity(files.len());
        let mut seen = Seen::default();
        for file in files {
            let place = file.span();
            let route = Route {
                origin: Origin::Config(node.clone()),
                ..self.route(file.into_inner(), &place, listeners)?
            };
            if let Some(twin) = seen.add(&route, place.start, &routes) {
                let what = match twin {
                    Twin::Rule(at) => format!(
                        "the route takes the same requests as the one at line {}",
                        self.source.line(at)
                    ),
                    Twin::Name(at) => format!(
                        "route \"{}\" is there already, at line {}",
                        route.name,
                        self.source.line(at)
                    ),
                };
                return Err(self.source.at(
                    place,
                    what,
                    "change its name, host, path, listener or what else it asks, or give one route several backends",
                ));
            }
            routes.push(route);
        }
        Ok(routes)
    }

    fn route(
        &self,
        file: RouteFile,
        place: &Range<usize>,
        listeners: &[(Listener, Range<usize>)],
    ) -> Result<Route, ConfigError> {
        let protocol = self.protocol(file.listener.as_ref(), listeners)?;
        let backends = self.backends(file.service, file.backends, file.leader, place)?;
        let predicates = Predicates::new(file.methods, file.headers, file.query)
            .map_err(|error| self.source.at(place.clone(), error.to_string(), ""))?;
        let rule = self.rule(protocol, file.host, file.path, predicates, place)?;
        let https = self.https(file.redirect_https, file.hsts, &rule)?;
        let rewrite = file.rewrite.map(|rewrite| self.rewrite(rewrite, &rule)).transpose()?;
        let mirror = file.mirror.map(|mirror| self.mirror(mirror, &rule)).transpose()?;
        let retry = file.retry.map(|retry| self.retry(retry, &rule)).transpose()?;
        let compress = file.compress.map(|compress| self.compress(compress, &rule)).transpose()?;
        let cache = file.cache.map(|cache| self.cache(cache, &rule)).transpose()?;
        let listener = file.listener.map(Spanned::into_inner);
        Ok(Route {
            name: match file.name {
                Some(name) => name,
                None => route_name(listener.as_ref(), &rule),
            },
            listener,
            rule,
            backends,
            timeouts: RouteTimeouts {
                connect: file.connect_timeout.map(|span| span.0),
                first_byte: file.first_byte_timeout.map(|span| span.0),
                request: file.request_timeout.map(|span| span.0),
                body_idle: file.body_idle_timeout.map(|span| span.0),
                tunnel_idle: file.tunnel_idle_timeout.map(|span| span.0),
            },
            rewrite,
            mirror,
            retry,
            compress: compress.flatten(),
            cache: cache.flatten(),
            https,
            body_bytes_max: file.body_max.map(|size| size.0),
            error_pages: file.error_pages.map(Spanned::into_inner),
            origin: Origin::Api,
            created_ms: 0,
        })
    }

    /// What a route of a listener that speaks `protocol` takes.
    fn rule(
        &self,
        protocol: Protocol,
        host: Option<HostPattern>,
        path: Option<PathPattern>,
        predicates: Predicates,
        place: &Range<usize>,
    ) -> Result<Rule, ConfigError> {
        let has_path = path.is_some() || !predicates.is_empty();
        let is_http = host.is_some() || has_path;
        let what = match protocol {
            Protocol::Http => {
                return Ok(Rule::Http(HttpRule {
                    host: host.unwrap_or(HostPattern::Any),
                    path: path.unwrap_or_else(PathPattern::all),
                    predicates,
                }));
            }
            Protocol::Tcp if !is_http => return Ok(Rule::Tcp),
            Protocol::Udp if !is_http => return Ok(Rule::Udp),
            Protocol::Tls if !has_path => {
                return Ok(Rule::Tls(TlsRule { host: host.unwrap_or(HostPattern::Any) }));
            }
            Protocol::Tls => "a route of a listener of TLS has no path, methods, headers or query",
            Protocol::Tcp | Protocol::Udp => {
                "a route of a TCP or UDP listener has no host, path, methods, headers or query"
            }
        };
        Err(self.source.at(place.clone(), what, "remove them, or name an HTTP listener"))
    }

    /// What the listener of a route speaks.
    fn protocol(
        &self,
        listener: Option<&Spanned<ListenerName>>,
        listeners: &[(Listener, Range<usize>)],
    ) -> Result<Protocol, ConfigError> {
        let Some(name) = listener else { return Ok(Protocol::Http) };
        let known = listeners.iter().find(|(listener, _)| listener.name == *name.get_ref());
        known.map(|(listener, _)| listener.protocol).ok_or_else(|| {
            let names = listeners.iter().map(|(l, _)| l.name.as_str());
            let names: Vec<_> = names.filter(|name| !name.starts_with("port-")).collect();
            self.source.at(
                name.span(),
                format!("there is no listener \"{}\"", name.get_ref()),
                format!("expected one of: {}", names.join(", ")),
            )
        })
    }

    fn backends(
        &self,
        service: Option<ServiceName>,
        backends: Option<Vec<BackendFile>>,
        leader: Option<bool>,
        place: &Range<usize>,
    ) -> Result<Vec<Backend>, ConfigError> {
        match (service, backends) {
            (Some(service), None) => {
                let leader = leader.unwrap_or(false);
                Ok(vec![Backend { service, weight: Weight::DEFAULT, leader }])
            }
            (None, Some(_)) if leader.is_some() => Err(self.source.at(
                place.clone(),
                "the route has several backends and says leader for none of them".to_owned(),
                "expected backends = [{ service = \"NAME\", leader = true }, …]",
            )),
            (None, Some(backends)) if !backends.is_empty() => Ok(backends
                .into_iter()
                .map(|BackendFile { service, weight, leader }| Backend { service, weight, leader })
                .collect()),
            _ => Err(self.source.at(
                place.clone(),
                "the route does not say where it leads".to_owned(),
                "expected either service = \"NAME\" or backends = [{ service = \"NAME\", weight = 100 }, …]",
            )),
        }
    }

    fn mirror(&self, file: Spanned<MirrorFile>, rule: &Rule) -> Result<Box<Mirror>, ConfigError> {
        if !matches!(rule, Rule::Http(_)) {
            let what = "a route of a TCP, UDP or TLS listener mirrors nothing";
            return Err(self.source.at(file.span(), what, "remove it, or name an HTTP listener"));
        }
        let MirrorFile { service, percent } = file.into_inner();
        Ok(Box::new(Mirror { service, percent: percent.unwrap_or(Percent::ALL) }))
    }

    fn https(
        &self,
        redirect: Option<Spanned<NonZeroU16>>,
        hsts: Option<Spanned<HstsFile>>,
        rule: &Rule,
    ) -> Result<Option<Box<HttpsRule>>, ConfigError> {
        let place = redirect.as_ref().map(Spanned::span).or(hsts.as_ref().map(Spanned::span));
        let Some(place) = place else { return Ok(None) };
        if !matches!(rule, Rule::Http(_)) {
            let what = "a route of a TCP, UDP or TLS listener brings nobody to https";
            return Err(self.source.at(place, what, "remove it, or name an HTTP listener"));
        }
        Ok(Some(Box::new(HttpsRule {
            redirect: redirect.map(Spanned::into_inner),
            hsts: hsts.map(|hsts| tls::hsts(hsts.into_inner())),
        })))
    }

    fn retry(&self, file: Spanned<RetryFile>, rule: &Rule) -> Result<Box<RetryRule>, ConfigError> {
        let place = file.span();
        let RetryFile { attempts, statuses } = file.into_inner();
        let retry = match rule {
            Rule::Http(_) => RetryRule::new(attempts, statuses).map_err(|error| error.to_string()),
            Rule::Tcp | Rule::Udp | Rule::Tls(_) => {
                Err("what passes over TCP, UDP or TLS has no status".to_owned())
            }
        };
        retry.map(Box::new).map_err(|what| {
            self.source.at(
                place,
                what,
                "expected { attempts = 2, statuses = [502, 503, 504] } or a part of it",
            )
        })
    }

    fn compress(
        &self,
        file: Spanned<CompressFile>,
        rule: &Rule,
    ) -> Result<Option<Box<CompressRule>>, ConfigError> {
        let place = file.span();
        match file.into_inner().0 {
            Some(_) if !matches!(rule, Rule::Http(_)) => {
                let what = "a route of a TCP, UDP or TLS listener compresses nothing";
                Err(self.source.at(place, what, "remove it, or name an HTTP listener"))
            }
            wanted => Ok(wanted.map(Box::new)),
        }
    }

    fn cache(
        &self,
        file: Spanned<CacheFile>,
        rule: &Rule,
    ) -> Result<Option<Box<CacheRule>>, ConfigError> {
        let place = file.span();
        match file.into_inner().0 {
            Some(_) if !matches!(rule, Rule::Http(_)) => {
                let what = "a route of a TCP, UDP or TLS listener caches nothing";
                Err(self.source.at(place, what, "remove it, or name an HTTP listener"))
            }
            wanted => Ok(wanted.map(Box::new)),
        }
    }

    fn rewrite(
        &self,
        file: Spanned<RewriteFile>,
        rule: &Rule,
    ) -> Result<Box<Rewrite>, ConfigError> {
        let place = file.span();
        let RewriteFile { prefix, host } = file.into_inner();
        let rewrite = Rewrite { prefix, host };
        match rewrite.fits(rule) {
            Ok(()) => Ok(Box::new(rewrite)),
            Err(error) => Err(self.source.at(
                place,
                error.to_string(),
                "expected { prefix = \"/\" } to take the route's prefix away, { prefix = \"/other\" }, { host = \"NAME\" } or both",
            )),
        }
    }
}

/// A name for a route that has none, the same for the same rule.
fn route_name(listener: Option<&ListenerName>, rule: &Rule) -> RouteName {
    let text = match rule {
        Rule::Http(rule) => format!("{}{}{}", rule.host, rule.path, asked(&rule.predicates)),
        Rule::Tcp => "tcp".to_owned(),
        Rule::Udp => "udp".to_owned(),
        Rule::Tls(rule) => format!("tls {}", rule.host),
    };
    let listener = listener.map_or("", ListenerName::as_str);
    let mut label: String = format!("{listener}-{text}")
        .replace('*', "any")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(50)
        .collect();
    while label.contains("--") {
        label = label.replace("--", "-");
    }
    // Different rules can give the same letters; the sum tells them apart.
    let sum = u32::from_be_bytes(digest(&format!("{listener} {text}")));
    let label = label.trim_matches('-');
    let name = if label.is_empty() { format!("r-{sum:08x}") } else { format!("{label}-{sum:08x}") };
    RouteName::parse(&name).expect("letters, digits and inner hyphens, at most 59")
}

/// What a rule asks beside host and path; nothing for nothing.
fn asked(predicates: &Predicates) -> String {
    let methods = predicates.methods().iter().map(|method| format!(" {method}"));
    let headers = predicates.headers().iter().map(|(name, value)| format!(" {name}:{value:?}"));
    let query = predicates.query().iter().map(|(name, value)| format!(" {name}?{value:?}"));
    methods.chain(headers).chain(query).collect()
}

fn digest(text: &str) -> [u8; 4] {
    use sha2::Digest;
    let sum = sha2::Sha256::digest(text.as_bytes());
    [sum[0], sum[1], sum[2], sum[3]]
}
