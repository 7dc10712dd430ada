//! Values as people write them in the configuration: durations, sizes, cores, ranges of ports.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portolan_discovery::model::PortRange;
use serde::{Deserialize, Deserializer, de};

/// A duration such as `500ms`, `5s` or `2m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a duration such as \"500ms\", \"5s\" or \"2m\"";
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|_| de::Error::invalid_value(de::Unexpected::Str(&text), &EXPECTED))
    }
}

/// A size in bytes such as `512`, `"64KiB"`, `"10MiB"` or `"1GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a size such as 512, \"64KiB\", \"10MiB\" or \"1GiB\"";
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(from)
            .map_err(|_| de::Error::custom(format!("expected {EXPECTED}")))?
        {
            Form::Number(bytes) => Ok(Self(bytes)),
            Form::Text(text) => parse_size(&text)
                .map(Self)
                .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &EXPECTED)),
        }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Cores as a number such as `1` or `0.25`, kept in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores(pub(crate) u64);

/// More cores than any machine has.
const CORES_MAX: f64 = 65_536.0;

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a number of cores such as 1 or 0.25";
        let cores = f64::deserialize(from)?;
        if !(0.0..=CORES_MAX).contains(&cores) {
            return Err(de::Error::invalid_value(de::Unexpected::Float(cores), &EXPECTED));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in 0..=65,536,000"
        )]
        Ok(Self((cores * 1000.0).round() as u64))
    }
}

/// Whether connections begin with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProxyHeader {
    Off,
    Optional,
    Required,
}

/// What a client gets that names a host without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnknownNameWord {
    Default,
    Refuse,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum VersionWord {
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}

/// Whether clients need a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientWord {
    Optional,
    Required,
}

/// A range of ports such as `20000-29999`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports(pub(crate) PortRange);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a range of ports such as \"20000-29999\"";
        let text = String::deserialize(from)?;
        let range = text.split_once('-').and_then(|(first, last)| {
            let range =
                PortRange { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
            (range.first > 0 && range.first <= range.last).then_some(range)
        });
        range
            .map(Self)
            .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &EXPECTED))
    }
}

/// A range of ports of one address, such as `"0.0.0.0:30000-30099"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortsAt {
    pub(crate) ip: IpAddr,
    pub(crate) ports: PortRange,
}

impl<'de> Deserialize<'de> for PortsAt {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "an address and ports such as \"0.0.0.0:30000-30099\"";
        let text = String::deserialize(from)?;
        let read = || {
            let (rest, last) = text.rsplit_once('-')?;
            let first: SocketAddr = rest.trim().parse().ok()?;
            let ports = PortRange { first: first.port(), last: last.trim().parse().ok()? };
            let is_range = ports.first > 0 && ports.first <= ports.last;
            is_range.then_some(Self { ip: first.ip(), ports })
        };
        read().ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &EXPECTED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct One<T> {
        value: T,
    }

    fn read<T: de::DeserializeOwned>(text: &str) -> Option<T> {
        toml::from_str::<One<T>>(&format!("value = {text}")).ok().map(|one| one.value)
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!(read("\"500ms\""), Some(Span(Duration::from_millis(500))));
        assert_eq!(read("\"2m\""), Some(Span(Duration::from_secs(120))));
        assert_eq!(read("512"), Some(Size(512)));
        assert_eq!(read("\"64KiB\""), Some(Size(65_536)));
        assert_eq!(read("\"10 MiB\""), Some(Size(10 << 20)));
        assert_eq!(read("0.25"), Some(Cores(250)));
        assert_eq!(read("2"), Some(Cores(2000)));
        assert_eq!(read("\"80-90\""), Some(Ports(PortRange { first: 80, last: 90 })));
    }

    #[test]
    fn ports_of_an_address_are_read() {
        for (text, ip) in [("0.0.0.0:80-90", "0.0.0.0"), ("[::1]:80-90", "::1")] {
            let ports = PortRange { first: 80, last: 90 };
            let expected = PortsAt { ip: ip.parse().unwrap(), ports };
            assert_eq!(read(&format!("\"{text}\"")), Some(expected));
        }
        for bad in ["80-90", "0.0.0.0:80", "0.0.0.0:0-5", "0.0.0.0:90-80", "::1:80-90-", "a:1-2"] {
            assert_eq!(read::<PortsAt>(&format!("\"{bad}\"")), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        assert_eq!(read::<Span>("\"soon\""), None);
        assert_eq!(read::<Span>("5"), None);
        for bad in ["\"10MB\"", "-1", "\"99999999999GiB\"", "\"\""] {
            assert_eq!(read::<Size>(bad), None, "{bad}");
        }
        assert_eq!(read::<Cores>("-1"), None);
        assert_eq!(read::<Cores>("nan"), None);
        for bad in ["\"90-80\"", "\"80\"", "\"0-5\"", "\"1-99999\""] {
            assert_eq!(read::<Ports>(bad), None, "{bad}");
        }
    }
}
