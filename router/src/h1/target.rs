//! Request targets, hosts and paths: what a request asks for, in the form that routes are matched on.
//! Knows nothing of routes; it must never give two spellings of one resource two results.

use super::field::decimal;
use super::method::Method;
use super::reason::Reason;
use std::fmt::Write;
use std::net::Ipv6Addr;

/// The form of a request target (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`
    Origin,
    /// `http://host/path?query`
    Absolute,
    /// `*`, with OPTIONS only.
    Asterisk,
}

/// A target in its parts, as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) form: TargetForm,
    /// Of the absolute form.
    pub(super) authority: Option<&'a str>,
    /// Starts with `/`, except that it is `*` or empty.
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Takes a target apart. CONNECT is refused here: its authority form exists for it alone.
    pub(super) fn parse(method: Method, target: &'a str) -> Result<Target<'a>, Reason> {
        if memchr::memchr(b'#', target.as_bytes()).is_some() {
            return Err(Reason::FragmentInTarget);
        }
        if method == Method::Connect {
            let port = split_host(target).and_then(|(_, port)| port);
            let valid = port.and_then(|port| decimal(port.as_bytes())).is_some();
            return Err(if valid { Reason::ConnectRefused } else { Reason::BadTarget });
        }
        if target.starts_with('/') {
            let (path, query) = split_query(target);
            return Ok(Target { form: TargetForm::Origin, authority: None, path, query });
        }
        if target == "*" && method == Method::Options {
            let form = TargetForm::Asterisk;
            return Ok(Target { form, authority: None, path: target, query: None });
        }
        let rest = after_scheme(target).ok_or(Reason::BadTarget)?;
        let end = memchr::memchr2(b'/', b'?', rest.as_bytes()).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (path, query) = split_query(rest);
        Ok(Target { form: TargetForm::Absolute, authority: Some(authority), path, query })
    }
}

fn split_query(target: &str) -> (&str, Option<&str>) {
    match memchr::memchr(b'?', target.as_bytes()) {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

/// What follows `http://` or `https://`; no other scheme is served here.
fn after_scheme(target: &str) -> Option<&str> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| &target[scheme.len()..])
    })
}

// RFC 1035 §2.3.4: 255 bytes on the wire are 253 characters of text.
const HOST_CHARS_MAX: usize = 253;

/// Writes the host to match on, and returns the port that the authority names.
pub(super) fn parse_authority(authority: &[u8], host: &mut String) -> Result<Option<u16>, Reason> {
    let authority = str::from_utf8(authority).map_err(|_| Reason::BadHost)?;
    let (name, port) = split_host(authority).ok_or(Reason::BadHost)?;
    host.clear();
    match name.strip_prefix('[') {
        // The canonical text of the address: one address has many spellings.
        Some(rest) => {
            let inner = rest.strip_suffix(']').ok_or(Reason::BadHost)?;
            let address: Ipv6Addr = inner.parse().map_err(|_| Reason::BadHost)?;
            write!(host, "[{address}]").map_err(|_| Reason::BadHost)?;
        }
        None => push_name(name, host)?,
    }
    match port {
        None | Some("") => Ok(None),
        Some(digits) if digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map(Some).map_err(|_| Reason::BadHost)
        }
        Some(_) => Err(Reason::BadHost),
    }
}

/// Host, with brackets, and what follows the colon behind it.
fn split_host(authority: &str) -> Option<(&str, Option<&str>)> {
    let host_end = match authority.strip_prefix('[') {
        Some(_) => memchr::memchr(b']', authority.as_bytes())? + 1,
        None => memchr::memchr(b':', authority.as_bytes()).unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(host_end);
    match rest.strip_prefix(':') {
        Some(port) => Some((host, Some(port))),
        None if rest.is_empty() => Some((host, None)),
        None => None,
    }
}

/// Letters, digits, `-`, `_` and `.` make a name: an internationalised one comes as its A-labels.
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        byte += 1;
    }
    table
};

/// Appends a name in lower case, without one dot at its end.
fn push_name(name: &str, host: &mut String) -> Result<(), Reason> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut valid = !name.is_empty() && name.len() <= HOST_CHARS_MAX;
    let mut before = b'.';
    for byte in name.bytes() {
        valid &= IN_NAME[usize::from(byte)] & ((before != b'.') | (byte != b'.'));
        before = byte;
    }
    if !valid || before == b'.' {
        return Err(Reason::BadHost);
    }
    host.push_str(name);
    host.make_ascii_lowercase();
    Ok(())
}

/// Writes the path to match on if it differs from the one sent, and says whether it does.
///
/// Unreserved bytes are decoded, dot segments resolved (RFC 3986 §6.2.2), everything else stays
/// encoded with upper-case digits: `%2F` is not a separator.
pub(super) fn normalise_path(path: &str, normal: &mut String) -> Result<bool, Reason> {
    if is_normal(path.as_bytes()) {
        return Ok(false);
    }
    normal.clear();
    let segments = path.strip_prefix('/').unwrap_or(path);
    let mut rest = Some(segments);
    while let Some(text) = rest {
        let (segment, next) = match memchr::memchr(b'/', text.as_bytes()) {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        rest = next;
        let mark = normal.len();
        normal.push('/');
        push_decoded(segment, normal)?;
        let keep = match &normal[mark + 1..] {
            "." => mark,
            // Above the root is the root.
            ".." => normal[..mark].rfind('/').unwrap_or(0),
            _ => continue,
        };
        normal.truncate(keep);
        if rest.is_none() {
            normal.push('/');
        }
    }
    Ok(true)
}

/// Nothing is encoded and no segment starts with a dot; the common case, found without a copy.
fn is_normal(path: &[u8]) -> bool {
    path.first() == Some(&b'/')
        && memchr::memchr2_iter(b'%', b'.', path).all(|at| path[at] == b'.' && path[at - 1] != b'/')
}

fn push_decoded(segment: &str, out: &mut String) -> Result<(), Reason> {
    let mut rest = segment;
    while let Some(at) = memchr::memchr(b'%', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let digits = rest.as_bytes().get(at + 1..at + 3).ok_or(Reason::BadPathEncoding)?;
        let high = char::from(digits[0]).to_digit(16).ok_or(Reason::BadPathEncoding)?;
        let low = char::from(digits[1]).to_digit(16).ok_or(Reason::BadPathEncoding)?;
        match (high * 16 + low) as u8 {
            0 => return Err(Reason::BadPathEncoding),
            byte @ (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~') => {
                out.push(char::from(byte));
            }
            _ => {
                out.push('%');
                out.push(char::from(digits[0]).to_ascii_uppercase());
                out.push(char::from(digits[1]).to_ascii_uppercase());
            }
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_target_is_taken_apart_by_its_form() {
        use TargetForm::{Absolute, Asterisk, Origin};
        let check = |method, target, expected| {
            let parts = Target::parse(method, target)
                .map(|parsed| (parsed.form, parsed.authority, parsed.path, parsed.query));
            assert_eq!(parts, expected, "{method:?} {target}");
        };
        let get = Method::Get;
        check(get, "/", Ok((Origin, None, "/", None)));
        check(get, "/a?b?c", Ok((Origin, None, "/a", Some("b?c"))));
        check(get, "/a?", Ok((Origin, None, "/a", Some(""))));
        check(get, "//a/b", Ok((Origin, None, "//a/b", None)));
        check(get, "/http://x/", Ok((Origin, None, "/http://x/", None)));
        check(get, "http://h/a?b", Ok((Absolute, Some("h"), "/a", Some("b"))));
        check(get, "HTTPS://h:1/", Ok((Absolute, Some("h:1"), "/", None)));
        check(get, "http://h", Ok((Absolute, Some("h"), "", None)));
        check(get, "http://h?q", Ok((Absolute, Some("h"), "", Some("q"))));
        check(get, "http://", Ok((Absolute, Some(""), "", None)));
        check(get, "ftp://h/", Err(Reason::BadTarget));
        check(get, "a/b", Err(Reason::BadTarget));
        check(get, "h:80", Err(Reason::BadTarget));
        check(get, "*", Err(Reason::BadTarget));
        check(get, "/a#b", Err(Reason::FragmentInTarget));
        check(get, "é", Err(Reason::BadTarget));
        check(Method::Options, "*", Ok((Asterisk, None, "*", None)));
        check(Method::Options, "**", Err(Reason::BadTarget));
        check(Method::Connect, "h.test:443", Err(Reason::ConnectRefused));
        check(Method::Connect, "[::1]:443", Err(Reason::ConnectRefused));
        check(Method::Connect, "h.test", Err(Reason::BadTarget));
        check(Method::Connect, "h.test:", Err(Reason::BadTarget));
        check(Method::Connect, "/", Err(Reason::BadTarget));
    }

    #[test]
    fn a_host_is_matched_in_lower_case_without_port_and_dot() {
        let check = |authority: &str, expected: Result<(&str, Option<u16>), Reason>| {
            let mut host = String::from("left over");
            let port = parse_authority(authority.as_bytes(), &mut host);
            assert_eq!(port.map(|port| (host.as_str(), port)), expected, "{authority}");
        };
        let bad = Err(Reason::BadHost);
        check("Example.ORG", Ok(("example.org", None)));
        check("example.org:8080", Ok(("example.org", Some(8080))));
        check("example.org.", Ok(("example.org", None)));
        check("example.org.:80", Ok(("example.org", Some(80))));
        check("example.org:", Ok(("example.org", None)));
        check("127.0.0.1:1", Ok(("127.0.0.1", Some(1))));
        check("a_b-c.test", Ok(("a_b-c.test", None)));
        check("xn--bcher-kva.test", Ok(("xn--bcher-kva.test", None)));
        check("[::1]", Ok(("[::1]", None)));
        check("[0:0::0001]:443", Ok(("[::1]", Some(443))));
        check("[FE80::A]", Ok(("[fe80::a]", None)));
        for authority in [
            "",
            ".",
            "..",
            "example.org..",
            ".example.org",
            "a..b",
            ":80",
            "a:b",
            "a:65536",
            "a:+80",
            "a:80:80",
            "a:000080",
            "a b",
            "a/b",
            "a@b",
            "u:p@b",
            "a%41",
            "a,b",
            "a?b",
            "bücher.test",
            "[::1",
            "::1",
            "[::1]x",
            "[::1%eth0]",
            "[1.2.3.4]",
            "[]",
            "[v1.x]",
            "a\tb",
            "a\\b",
            "*",
        ] {
            check(authority, bad);
        }
        check(&"a".repeat(253), Ok((&"a".repeat(253), None)));
        check(&"a".repeat(254), bad);
        let mut host = String::new();
        assert_eq!(parse_authority(b"a\xff", &mut host), bad.map(|(_, port)| port));
    }

    #[test]
    fn a_path_is_matched_decoded_and_without_dot_segments() {
        let check = |path: &str, expected: Result<&str, Reason>| {
            let mut normal = String::from("left over");
            let changed = normalise_path(path, &mut normal);
            let result = changed.map(|changed| if changed { normal.as_str() } else { path });
            assert_eq!(result, expected, "{path}");
        };
        let bad = Err(Reason::BadPathEncoding);
        check("/", Ok("/"));
        check("/a/b.js", Ok("/a/b.js"));
        check("/a..b/c...", Ok("/a..b/c..."));
        check("/.well-known/x", Ok("/.well-known/x"));
        check("/...", Ok("/..."));
        check("/a/./b", Ok("/a/b"));
        check("/a/../b", Ok("/b"));
        check("/a/b/..", Ok("/a/"));
        check("/a/b/.", Ok("/a/b/"));
        check("/..", Ok("/"));
        check("/../../a", Ok("/a"));
        check("/.", Ok("/"));
        check("//..", Ok("/"));
        check("//a//../b", Ok("//a/b"));
        check("/%61%2D%7e", Ok("/a-~"));
        check("/%2e%2E/a", Ok("/a"));
        check("/a/%2e./b", Ok("/b"));
        check("/a%2fb", Ok("/a%2Fb"));
        check("/a%5cb%20", Ok("/a%5Cb%20"));
        check("/a%2f..%2fb", Ok("/a%2F..%2Fb"));
        check("/%2561", Ok("/%2561"));
        check("/é%C3%a9", Ok("/é%C3%A9"));
        check("/a%00", bad);
        check("/a%", bad);
        check("/a%4", bad);
        check("/a%zz", bad);
        check("/a%é", bad);
        check("/%+1", bad);
    }

    proptest! {
        #[test]
        fn a_normal_path_stays_as_it_is(path in "/([a.~%/é]|%2[EeFf5]|%6[1f]|\\.\\./|\\./){0,12}") {
            let (mut once, mut twice) = (String::new(), String::new());
            if let Ok(changed) = normalise_path(&path, &mut once) {
                let once = if changed { once } else { path };
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."));
                if normalise_path(&once, &mut twice).unwrap() {
                    prop_assert_eq!(&once, &twice);
                }
            }
        }

        #[test]
        fn a_host_that_was_taken_is_taken_again(authority in "[a-zA-Z0-9.:_\\[\\]-]{0,20}") {
            let (mut once, mut twice) = (String::new(), String::new());
            if parse_authority(authority.as_bytes(), &mut once).is_ok() {
                prop_assert_eq!(parse_authority(once.as_bytes(), &mut twice), Ok(None));
                prop_assert_eq!(once, twice);
            }
        }
    }
}
