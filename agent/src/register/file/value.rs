//! Single values as people write them.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use portolan_discovery::model::{
    CookieName, Ejection, Protocol, ProxyVersion, StatusRange, Sticky,
};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// An address with a port that is not 0.
pub(super) fn addr<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    const EXPECTED: &str = "an address with its port such as \"127.0.0.1:8080\" or \"[::1]:8080\"";
    let text = String::deserialize(from)?;
    match text.parse::<SocketAddr>() {
        Ok(addr) if addr.port() != 0 => Ok(addr),
        _ => Err(Error::invalid_value(Unexpected::Str(&text), &EXPECTED)),
    }
}

/// A duration such as `500ms`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a duration such as \"500ms\", \"5s\" or \"2m\"";
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|_| Error::invalid_value(Unexpected::Str(&text), &EXPECTED))
    }
}

/// Whether and when instances are ejected where nothing is said.
pub(super) fn usual_ejection() -> Option<Ejection> {
    Some(Ejection::DEFAULT)
}

/// `false` for never, or `{ errors = 5, time = "30s", share_max = 50 }`.
pub(super) fn ejection<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Ejection>, D::Error> {
    from.deserialize_any(EjectionVisitor)
}

struct EjectionVisitor;

impl<'de> Visitor<'de> for EjectionVisitor {
    type Value = Option<Ejection>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("false or a table such as { errors = 5, time = \"30s\", share_max = 50 }")
    }

    fn visit_bool<E: Error>(self, wanted: bool) -> Result<Self::Value, E> {
        Ok(wanted.then_some(Ejection::DEFAULT))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            errors: Option<NonZeroU32>,
            time: Option<Span>,
            share_max: Option<NonZeroU8>,
        }
        let Raw { errors, time, share_max } = Raw::deserialize(MapAccessDeserializer::new(map))?;
        Ejection::new(errors, time.map(|span| span.0), share_max).map(Some).map_err(Error::custom)
    }
}

/// A cookie: `{ cookie = "NAME", max_age = "1h" }`.
pub(super) fn sticky<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Sticky>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        cookie: CookieName,
        #[serde(default, deserialize_with = "max_age")]
        max_age: Option<NonZeroU32>,
    }
    let Raw { cookie, max_age: max_age_s } = Raw::deserialize(from)?;
    Ok(Some(Sticky { cookie, max_age_s }))
}

/// What instances speak: to them TLS that a router passes on is bytes.
pub(super) fn protocol<'de, D: Deserializer<'de>>(from: D) -> Result<Protocol, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Http,
        Tcp,
        Udp,
    }
    Ok(match Word::deserialize(from)? {
        Word::Http => Protocol::Http,
        Word::Tcp => Protocol::Tcp,
        Word::Udp => Protocol::Udp,
    })
}

/// `off`, or the version of the header.
pub(super) fn proxy_protocol<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<ProxyVersion>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Off,
        V1,
        V2,
    }
    Ok(match Word::deserialize(from)? {
        Word::Off => None,
        Word::V1 => Some(ProxyVersion::V1),
        Word::V2 => Some(ProxyVersion::V2),
    })
}

/// Whole seconds, as the attribute of a cookie has them.
fn max_age<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NonZeroU32>, D::Error> {
    let Span(age) = Span::deserialize(from)?;
    let seconds = u32::try_from(age.as_secs()).ok().and_then(NonZeroU32::new);
    match seconds {
        Some(_) if age.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(Error::custom("expected whole seconds from \"1s\" to 136 years")),
    }
}

/// A status or a range of them: `200` or `"200-299"`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status(pub(super) StatusRange);

/// RFC 9110 §15: three digits, the first 1 to 5; later ones are seen in the wild.
const STATUSES: std::ops::RangeInclusive<u16> = 100..=999;

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(StatusVisitor)
    }
}

struct StatusVisitor;

impl Visitor<'_> for StatusVisitor {
    type Value = Status;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a status such as 200 or a range such as \"200-299\"")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Status, E> {
        match u16::try_from(number) {
            Ok(code) if STATUSES.contains(&code) => {
                Ok(Status(StatusRange { first: code, last: code }))
            }
            _ => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Status, E> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last))
                if first <= last && STATUSES.contains(&first) && STATUSES.contains(&last) =>
            {
                Ok(Status(StatusRange { first, last }))
            }
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}
