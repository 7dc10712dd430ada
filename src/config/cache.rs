//! `cache` of a route: a switch, or a table of what differs from the defaults.

use std::fmt;

use portolan_discovery::model::{CacheRule, CacheWish};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::value::{Size, Span};

/// The rule that is asked for; none for `false`.
#[derive(Debug)]
pub(super) struct CacheFile(pub(super) Option<CacheRule>);

impl<'de> Deserialize<'de> for CacheFile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(CacheVisitor).map(Self)
    }
}

struct CacheVisitor;

impl<'de> Visitor<'de> for CacheVisitor {
    type Value = Option<CacheRule>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or a table such as { default_ttl = \"10s\" }")
    }

    fn visit_bool<E: Error>(self, wanted: bool) -> Result<Self::Value, E> {
        Ok(wanted.then(CacheRule::usual))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            object_bytes_max: Option<Size>,
            default_ttl: Option<Span>,
            heuristic: Option<bool>,
            stale_while_revalidate: Option<Span>,
            stale_if_error: Option<Span>,
            wait: Option<Span>,
            obey_requests: Option<bool>,
        }
        let raw = Raw::deserialize(MapAccessDeserializer::new(map))?;
        let span = |value: Option<Span>| value.map(|span| span.0);
        let wish = CacheWish {
            object_bytes_max: raw.object_bytes_max.map(|size| size.0),
            default_ttl: span(raw.default_ttl),
            heuristic: raw.heuristic,
            stale_while_revalidate: span(raw.stale_while_revalidate),
            stale_if_error: span(raw.stale_if_error),
            wait: span(raw.wait),
            obey_requests: raw.obey_requests,
        };
        CacheRule::new(&wish).map(Some).map_err(Error::custom)
    }
}
