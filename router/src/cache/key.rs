//! What a kept answer is found by. Whatever an instance is told of a request, and may put in its
//! answer, is part of it or makes the request none for the cache.

use std::sync::Arc;

use crate::h1::{Request, Scheme};
use crate::table::Headers;

/// A longer one is not looked for: a target has up to 8 KiB, and nobody asks for such twice.
const KEY_BYTES_MAX: usize = 4 * 1024;

/// What a proxy in front says that an instance is told, beside the address of the client.
const TOLD: [&str; 3] = ["x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"];

/// A resource, and how it was come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// Scheme, authority in lower case without the scheme's own port, path and query as sent.
    pub(crate) uri: Arc<str>,
    /// The route with all it says, the listener, and what a trusted proxy told. What is kept of one
    /// is not served for another, but changes of the resource make all of them void.
    pub(crate) facet: Arc<[u8]>,
}

/// How a request came.
pub(crate) struct Came<'r> {
    /// By the connection itself.
    pub(crate) scheme: Scheme,
    /// Whether what the peer says is believed.
    pub(crate) trusted: bool,
    /// The listener.
    pub(crate) listener: &'r str,
    /// Tells routes apart, and a route from what it was before it was changed.
    pub(crate) mark: u64,
}

impl Key {
    /// The key of a request; none if it is too long, or names no host.
    pub(crate) fn of(request: &Request<'_>, came: &Came<'_>) -> Option<Self> {
        let facet = facet(request, came);
        let uri = uri(request, came)?;
        (uri.len() + facet.len() <= KEY_BYTES_MAX)
            .then(|| Self { uri: uri.into(), facet: facet.into() })
    }
}

/// The resource that a request is for.
fn uri(request: &Request<'_>, came: &Came<'_>) -> Option<String> {
    let mut scheme = came.scheme;
    if came.trusted {
        request.any("x-forwarded-proto", &mut |value| {
            if value.trim_ascii().eq_ignore_ascii_case(b"https") {
                scheme = Scheme::Https;
            }
            true
        });
    }
    let authority = str::from_utf8(request.authority()?).ok()?.to_ascii_lowercase();
    let port = if scheme == Scheme::Https { ":443" } else { ":80" };
    let authority = authority.strip_suffix(port).unwrap_or(&authority);
    if authority.is_empty() {
        return None;
    }
    let mut uri = format!("{}://{authority}{}", scheme.as_str(), request.sent_path());
    if let Some(query) = request.query() {
        uri.push('?');
        uri.push_str(query);
    }
    Some(uri)
}

fn facet(request: &Request<'_>, came: &Came<'_>) -> Vec<u8> {
    let mut facet = came.mark.to_le_bytes().to_vec();
    facet.extend_from_slice(came.listener.as_bytes());
    if came.trusted {
        for name in TOLD {
            // No value has this byte.
            facet.push(0);
            request.any(name, &mut |value| {
                facet.extend_from_slice(value);
                facet.push(1);
                false
            });
        }
    }
    facet
}

/// The resource on the same host that a `Location` or `Content-Location` of an answer names; none
/// for another host (RFC 9111 §4.4: whose word does not count there).
pub(crate) fn beside(uri: &str, location: &[u8]) -> Option<String> {
    let location = str::from_utf8(location).ok()?.trim();
    let origin = &uri[..origin_len(uri)];
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(format!("{origin}{}", without_fragment(location)));
    }
    let rest = location.get(origin.len()..)?;
    let is_same = location[..origin.len()].eq_ignore_ascii_case(origin) && rest.starts_with('/');
    is_same.then(|| format!("{origin}{}", without_fragment(rest)))
}

fn without_fragment(target: &str) -> &str {
    target.split('#').next().unwrap_or_default()
}

/// Where the path of such a URI begins.
fn origin_len(uri: &str) -> usize {
    let host = uri.find("://").map_or(0, |at| at + "://".len());
    uri[host..].find('/').map_or(uri.len(), |at| host + at)
}

/// Whether a URI has this host, whatever its scheme and port.
pub(crate) fn has_host(uri: &str, host: &str) -> bool {
    let host_at = uri.find("://").map_or(0, |at| at + "://".len());
    let rest = &uri[host_at..];
    let rest = rest.get(..host.len()).filter(|own| own.eq_ignore_ascii_case(host));
    let after = uri.as_bytes().get(host_at + host.len());
    rest.is_some() && matches!(after, Some(b'/' | b':') | None)
}

/// Whether a URI has this path, whatever its query.
pub(crate) fn has_path(uri: &str, path: &str) -> bool {
    uri[origin_len(uri)..].split('?').next() == Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{HeadScratch, Limits, parse_request};

    const CAME: Came<'static> =
        Came { scheme: Scheme::Http, trusted: false, listener: "http", mark: 7 };

    fn key(head: &str, came: &Came<'_>) -> Option<Key> {
        let mut scratch = HeadScratch::new();
        let head = format!("{head}\r\n\r\n").replace('\n', "\r\n").replace("\r\r", "\r");
        let request = parse_request(head.as_bytes(), &mut scratch, &Limits::DEFAULT).unwrap();
        Key::of(&request.unwrap(), came)
    }

    fn uri(head: &str) -> String {
        key(head, &CAME).unwrap().uri.to_string()
    }

    #[test]
    fn the_resource_is_what_the_instance_is_asked_for() {
        assert_eq!(uri("GET /a?b=c HTTP/1.1\nHost: Shop.Test"), "http://shop.test/a?b=c");
        assert_eq!(uri("GET /a? HTTP/1.1\nHost: shop.test:80"), "http://shop.test/a?");
        // It may be in what the instance writes.
        assert_eq!(uri("GET / HTTP/1.1\nHost: shop.test:81"), "http://shop.test:81/");
        assert_eq!(uri("GET /%61/../A HTTP/1.1\nHost: a"), "http://a/%61/../A");
        assert_eq!(uri("GET http://b.test?x HTTP/1.1\nHost: a"), "http://b.test/?x");
        let long = format!("GET /{} HTTP/1.1\nHost: a", "x".repeat(KEY_BYTES_MAX));
        assert_eq!(key(&long, &CAME), None);
        assert_eq!(key("GET / HTTP/1.0", &CAME), None);
    }

    #[test]
    fn only_a_trusted_proxy_can_say_how_it_was_come_to() {
        let head = "GET / HTTP/1.1\nHost: a\nX-Forwarded-Proto: https\nX-Forwarded-Host: evil";
        assert_eq!(key(head, &CAME), key("GET / HTTP/1.1\nHost: a", &CAME));
        let trusting = Came { trusted: true, ..CAME };
        let told = key(head, &trusting).unwrap();
        assert_eq!(&*told.uri, "https://a/");
        let other = key(&head.replace("evil", "good"), &trusting).unwrap();
        assert!(told.uri == other.uri && told.facet != other.facet);
    }

    #[test]
    fn another_route_listener_or_scheme_is_another_key() {
        let head = "GET / HTTP/1.1\nHost: a";
        let all = [
            CAME,
            Came { mark: 8, ..CAME },
            Came { listener: "other", ..CAME },
            Came { scheme: Scheme::Https, ..CAME },
        ]
        .map(|came| key(head, &came).unwrap());
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{one:?}");
        }
    }

    #[test]
    fn a_location_counts_on_the_same_host_only() {
        let uri = "http://a.test:81/x?y";
        for (location, expected) in [
            ("/z#top", Some("http://a.test:81/z")),
            ("HTTP://A.test:81/z?q", Some("http://a.test:81/z?q")),
            ("http://a.test/z", None),
            ("http://a.test:81.evil/z", None),
            ("//evil/z", None),
            ("z", None),
            ("https://a.test:81/z", None),
        ] {
            assert_eq!(beside(uri, location.as_bytes()).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn what_is_cleared_is_named_by_host_and_path() {
        let uri = "https://a.test:81/x/y?z";
        assert!(has_host(uri, "A.test") && has_path(uri, "/x/y"));
        assert!(!has_host(uri, "a.tes") && !has_host(uri, "test") && !has_host(uri, "a.test."));
        assert!(!has_path(uri, "/x") && !has_path(uri, "/x/y?z"));
        assert!(has_path("http://a/", "/"));
    }
}
