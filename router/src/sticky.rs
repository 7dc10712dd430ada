//! Cookies that keep a client with the instance that served it. What a cookie says depends on
//! the names of service and instance alone, so every router gives the same one, after a restart
//! too. It tells neither name nor address. Knows nothing of balancing.

use std::num::NonZeroU64;
use std::sync::Arc;

use portolan_discovery::model::{InstanceId, ServiceName, Sticky};
use sha2::{Digest, Sha256};

use crate::cookie::values;
use crate::endpoint::Endpoint;
use crate::table::RequestView;

/// Tells our digests from others of the same names.
const LABEL: &[u8] = b"portolan sticky 1";

/// Digits of a token as it is sent.
const DIGITS: usize = 16;

/// What a cookie says: which instance of its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(NonZeroU64);

impl Token {
    fn of(service: &ServiceName, instance: &InstanceId) -> Self {
        let mut digest = Sha256::new_with_prefix(LABEL);
        for name in [service.as_str(), instance.as_str()] {
            // No name has this byte.
            digest.update([0]);
            digest.update(name);
        }
        let first = digest.finalize().first_chunk().copied().unwrap_or_default();
        Self(NonZeroU64::new(u64::from_be_bytes(first)).unwrap_or(NonZeroU64::MIN))
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let digits: &[u8; DIGITS] = value.try_into().ok()?;
        let number = digits.iter().try_fold(0, |sum, digit| {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            Some(sum << 4 | u64::from(digit))
        });
        NonZeroU64::new(number?).map(Self)
    }
}

/// The cookie of one endpoint.
#[derive(Debug)]
pub struct Cookie {
    token: Token,
    /// The whole line of a response.
    line: Box<[u8]>,
    /// The same for a client that came by https.
    secure_line: Box<[u8]>,
}

impl Cookie {
    pub(crate) fn new(sticky: &Sticky, service: &ServiceName, instance: &InstanceId) -> Self {
        let token = Token::of(service, instance);
        let age = sticky.max_age_s.map(|seconds| format!("; Max-Age={seconds}"));
        let start = format!(
            "Set-Cookie: {}={:0width$x}; Path=/; HttpOnly; SameSite=Lax{}",
            sticky.cookie,
            token.0,
            age.unwrap_or_default(),
            width = DIGITS,
        );
        let line = |end: &str| format!("{start}{end}").into_bytes().into_boxed_slice();
        Self { token, line: line("\r\n"), secure_line: line("; Secure\r\n") }
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// The line that gives it to a client.
    pub(crate) fn line(&self, is_secure: bool) -> &[u8] {
        if is_secure { &self.secure_line } else { &self.line }
    }
}

/// The endpoints of a service that take traffic, by what their cookies say.
#[derive(Debug)]
pub(crate) struct Tokens {
    name: Box<str>,
    endpoints: Box<[(Token, Arc<Endpoint>)]>,
}

impl Tokens {
    pub(crate) fn new<'e>(
        sticky: &Sticky,
        endpoints: impl Iterator<Item = &'e Arc<Endpoint>>,
    ) -> Self {
        let mut endpoints: Box<[_]> = endpoints
            .filter_map(|endpoint| Some((endpoint.cookie.as_ref()?.token, Arc::clone(endpoint))))
            .collect();
        endpoints.sort_unstable_by_key(|(token, _)| *token);
        Self { name: sticky.cookie.as_str().into(), endpoints }
    }

    /// The endpoint of a token, if it takes traffic.
    pub(crate) fn endpoint(&self, token: Token) -> Option<&Arc<Endpoint>> {
        let place = self.endpoints.binary_search_by_key(&token, |(token, _)| *token).ok()?;
        Some(&self.endpoints[place].1)
    }

    /// The endpoint that a cookie of the request names, if it takes traffic. Of several cookies
    /// with our name, as they come from other paths and hosts, the first that does counts.
    pub(crate) fn named(&self, request: &RequestView<'_>) -> Option<&Arc<Endpoint>> {
        let mut found = None;
        request.headers.any("cookie", &mut |value| {
            found = values(value, self.name.as_bytes())
                .find_map(|value| self.endpoint(Token::parse(value)?));
            found.is_some()
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sticky(max_age_s: u32) -> Sticky {
        Sticky { cookie: "ID".parse().unwrap(), max_age_s: max_age_s.try_into().ok() }
    }

    fn cookie(max_age_s: u32, service: &str, instance: &str) -> Cookie {
        let (service, instance) = (service.parse().unwrap(), instance.parse().unwrap());
        Cookie::new(&sticky(max_age_s), &service, &instance)
    }

    #[test]
    fn a_cookie_is_the_same_in_every_router_for_ever() {
        let line = |max_age_s, secure| {
            let cookie = cookie(max_age_s, "web", "a");
            String::from_utf8(cookie.line(secure).to_vec()).unwrap()
        };
        // Changing this would move every client once.
        let start = "Set-Cookie: ID=66a7c3e96eeef9f7; Path=/; HttpOnly; SameSite=Lax";
        assert_eq!(line(0, false), format!("{start}\r\n"));
        assert_eq!(line(0, true), format!("{start}; Secure\r\n"));
        assert_eq!(line(60, true), format!("{start}; Max-Age=60; Secure\r\n"));
    }

    #[test]
    fn no_two_instances_share_a_cookie() {
        let token = |service, instance| cookie(0, service, instance).token;
        let all = [token("web", "a"), token("web", "b"), token("weba", "a"), token("we", "ba")];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[..place].contains(one));
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_name() {
        let found = |line: &str| -> Vec<String> {
            let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
            values(line.as_bytes(), b"ID").map(text).collect()
        };
        for (line, all) in [
            ("ID=1", &["1"][..]),
            ("a=b; ID=1; c=d", &["1"]),
            ("a=b;ID=1;c", &["1"]),
            ("ID=1; ID=2", &["1", "2"]),
            ("ID=\"1\"", &["1"]),
            ("ID=", &[""]),
            ("id=1; XID=2; IDX=3; a=ID=4; ID", &[]),
            ("", &[]),
        ] {
            assert_eq!(found(line), all, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_can_be_read(line: Vec<u8>, value: Vec<u8>) {
            let _ = values(&line, b"ID").filter_map(Token::parse).count();
            if let Some(Token(token)) = Token::parse(&value) {
                prop_assert_eq!(format!("{token:016x}").into_bytes(), value);
            }
        }

        #[test]
        fn what_was_written_is_read(token: NonZeroU64) {
            let text = format!("{token:016x}");
            prop_assert_eq!(Token::parse(text.as_bytes()), Some(Token(token)));
        }
    }
}
