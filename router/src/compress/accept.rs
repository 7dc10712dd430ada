//! What a client accepts (RFC 9110 §12.5.3), and what else of a request decides on compression.

use portolan_discovery::model::{Coding, CompressRule};

use crate::h1::{members, weight};
use crate::table::Headers;

/// What a request to a route that compresses asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The best of the route's codings that it accepts; none if it would rather have none, if it
    /// asks for a part or if it forbids changes.
    pub(crate) coding: Option<Coding>,
    /// It does not accept an answer that is not encoded.
    pub(crate) must: bool,
    /// It knows an answer by a weak entity tag, as an encoded one has it.
    pub(crate) has_weak_tag: bool,
}

impl Wish {
    /// Reads the fields of a request.
    pub(crate) fn of(rule: &CompressRule, headers: &dyn Headers) -> Self {
        let mut accepted = Accepted::default();
        headers.any("accept-encoding", &mut |value| {
            accepted.read(value);
            false
        });
        let is_no_transform = |value: &[u8]| {
            members(value).any(|member| member.eq_ignore_ascii_case(b"no-transform"))
        };
        let as_is = headers.any("range", &mut |_| true)
            || headers.any("cache-control", &mut |value| is_no_transform(value));
        let is_weak = |value: &[u8]| {
            value.starts_with(b"W/") || memchr::memmem::find(value, b" W/").is_some()
        };
        Self {
            coding: accepted.best(rule.codings()).filter(|_| !as_is),
            must: accepted.forbids_identity(),
            has_weak_tag: headers.any("if-none-match", &mut |value| is_weak(value)),
        }
    }
}

/// The weights of a request, in thousandths; none for what it does not name.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Accepted {
    codings: [Option<u16>; Coding::ALL.len()],
    identity: Option<u16>,
    /// Of `*`: whatever is not named.
    others: Option<u16>,
}

impl Accepted {
    /// Reads one line. A member without a readable weight counts for nothing; of one that is
    /// there twice the better counts.
    fn read(&mut self, value: &[u8]) {
        for member in members(value) {
            let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let Some(weight) = weight(parts) else { continue };
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            let place = if is("identity") {
                &mut self.identity
            } else if is("*") {
                &mut self.others
            } else if is("gzip") || is("x-gzip") {
                // RFC 9110 §8.4.1.3: the same by an old name.
                &mut self.codings[Coding::Gzip as usize]
            } else if is("br") {
                &mut self.codings[Coding::Br as usize]
            } else if is("zstd") {
                &mut self.codings[Coding::Zstd as usize]
            } else {
                continue;
            };
            *place = (*place).max(Some(weight));
        }
    }

    /// The one with the highest weight, of those the first; none if an answer without coding is
    /// named and more welcome. A request that names nothing accepts anything, but says nothing of
    /// what it can read: it gets what every client can.
    fn best(&self, codings: &[Coding]) -> Option<Coding> {
        let weight = |coding: Coding| self.codings[coding as usize].or(self.others).unwrap_or(0);
        let mut best = (None, self.identity.map_or(0, |weight| weight.saturating_sub(1)));
        for coding in codings {
            if weight(*coding) > best.1 {
                best = (Some(*coding), weight(*coding));
            }
        }
        best.0
    }

    fn forbids_identity(&self) -> bool {
        self.identity.or(self.others) == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(fields: &[(&str, &str)]) -> Wish {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Wish::of(&CompressRule::usual(), &fields)
    }

    fn best(accept: &str) -> Option<Coding> {
        wish(&[("Accept-Encoding", accept)]).coding
    }

    #[test]
    fn the_best_coding_that_is_accepted_is_taken_and_of_equals_the_routes_first() {
        use Coding::{Br, Gzip, Zstd};
        for (accept, expected) in [
            ("", None),
            ("gzip", Some(Gzip)),
            ("GZip", Some(Gzip)),
            ("x-gzip", Some(Gzip)),
            ("deflate, compress", None),
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("gzip, deflate, br", Some(Br)),
            ("gzip;q=1.0, br;q=0.5", Some(Gzip)),
            ("gzip;q=0.5, br;q=0.501", Some(Br)),
            ("gzip;q=0", None),
            ("gzip;q=0, *", Some(Zstd)),
            ("*;q=0", None),
            ("*;q=0.1, zstd;q=0", Some(Br)),
            ("*", Some(Zstd)),
            ("identity", None),
            ("gzip, identity", Some(Gzip)),
            ("gzip;q=0.5, identity", None),
            ("gzip;q=0.5, identity;q=0.4", Some(Gzip)),
            ("identity;q=0, gzip;q=0.001", Some(Gzip)),
            ("identity;q=0", None),
            ("gzip;q=2, br;q=x", None),
            ("gzip ; q=0.5 , br;q=0.1", Some(Gzip)),
            (",,gzip,,", Some(Gzip)),
        ] {
            assert_eq!(best(accept), expected, "{accept}");
        }
        assert_eq!(wish(&[]).coding, None);
        let lines = [("accept-encoding", "gzip;q=0.5"), ("Accept-Encoding", "br;q=0.6")];
        assert_eq!(wish(&lines).coding, Some(Br));
    }

    #[test]
    fn a_client_may_refuse_what_is_not_encoded() {
        for (accept, expected) in [
            ("gzip, identity;q=0", true),
            ("gzip, *;q=0", true),
            ("gzip, *;q=0, identity", false),
            ("gzip", false),
            ("*", false),
        ] {
            assert_eq!(wish(&[("Accept-Encoding", accept)]).must, expected, "{accept}");
        }
    }

    #[test]
    fn a_part_and_what_must_not_be_changed_is_asked_for_as_it_is() {
        let gzip = ("Accept-Encoding", "gzip");
        assert_eq!(wish(&[gzip, ("Range", "bytes=0-1")]).coding, None);
        assert_eq!(wish(&[gzip, ("Cache-Control", "no-cache, no-transform")]).coding, None);
        assert_eq!(wish(&[gzip, ("Cache-Control", "no-cache")]).coding, Some(Coding::Gzip));
    }

    #[test]
    fn a_weak_tag_is_seen_wherever_it_stands() {
        for (tags, expected) in
            [("\"a\"", false), ("W/\"a\"", true), ("\"a\", W/\"b\"", true), ("*", false)]
        {
            assert_eq!(wish(&[("If-None-Match", tags)]).has_weak_tag, expected, "{tags}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_read(accept in "[a-z*;,=q0-9. ]{0,60}") {
            if let Some(coding) = best(&accept) {
                let is_named = accept.contains(coding.as_str()) || accept.contains('*');
                prop_assert!(is_named, "{accept}");
            }
        }
    }
}
