//! `compress` of a route: a switch, or a table of what differs from the defaults.

use std::fmt;

use portolan_discovery::model::route::{Coding, CompressRule, Levels, MediaRange};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::value::Size;

/// The rule that is asked for; none for `false`.
#[derive(Debug)]
pub(super) struct CompressFile(pub(super) Option<CompressRule>);

impl<'de> Deserialize<'de> for CompressFile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(CompressVisitor).map(Self)
    }
}

struct CompressVisitor;

impl<'de> Visitor<'de> for CompressVisitor {
    type Value = Option<CompressRule>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or a table such as { codings = [\"gzip\"], min_bytes = \"1KiB\" }")
    }

    fn visit_bool<E: Error>(self, wanted: bool) -> Result<Self::Value, E> {
        Ok(wanted.then(CompressRule::usual))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            codings: Option<Vec<Coding>>,
            min_bytes: Option<Size>,
            types: Option<Vec<MediaRange>>,
            #[serde(default)]
            level: Levels,
        }
        let Raw { codings, min_bytes, types, level } =
            Raw::deserialize(MapAccessDeserializer::new(map))?;
        let min_bytes = min_bytes.map(|size| size.0);
        CompressRule::new(codings, min_bytes, types, level).map(Some).map_err(Error::custom)
    }
}
