//! What services and routes say beside who they are: forms of the API, and their records.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use portolan_discovery::model::route::Levels;
use portolan_discovery::model::{
    CacheRule, CacheWish, Coding, CompressRule, Concurrency, Hsts, RetryRule, Sticky,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A cookie that keeps a client with the instance that served it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyView {
    /// The name of the cookie.
    pub cookie: String,
    /// How long a browser keeps it, in seconds; until it is closed when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<u32>,
}

impl From<&Sticky> for StickyView {
    fn from(sticky: &Sticky) -> Self {
        let max_age_s = sticky.max_age_s.map(NonZeroU32::get);
        Self { cookie: sticky.cookie.to_string(), max_age_s }
    }
}

impl StickyView {
    /// The record, or what is wrong.
    pub fn record(&self) -> Result<Sticky, String> {
        let cookie = self.cookie.parse().map_err(|error| format!("{error}"))?;
        let positive = |seconds| NonZeroU32::new(seconds).ok_or("a max_age_s of 0");
        Ok(Sticky { cookie, max_age_s: self.max_age_s.map(positive).transpose()? })
    }
}

/// `Strict-Transport-Security`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HstsView {
    /// For how many seconds; 0 takes back what browsers were told.
    pub max_age_s: u64,
    /// For all hosts below, too.
    #[serde(default)]
    pub subdomains: bool,
    /// Browsers may know without having been here.
    #[serde(default)]
    pub preload: bool,
}

impl From<Hsts> for HstsView {
    fn from(hsts: Hsts) -> Self {
        let Hsts { max_age_s, subdomains, preload } = hsts;
        Self { max_age_s, subdomains, preload }
    }
}

impl HstsView {
    /// The record.
    pub fn record(&self) -> Hsts {
        let Self { max_age_s, subdomains, preload } = *self;
        Hsts { max_age_s, subdomains, preload }
    }
}

/// How much one instance does at a time, and how many requests wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyView {
    /// The most requests and tunnels that one router has under way on one instance.
    pub in_flight_max: u32,
    /// The most requests of one router that wait; 1,024 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_max: Option<u32>,
    /// How long they wait, in milliseconds; 5,000 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_wait_ms: Option<u64>,
}

impl From<&Concurrency> for ConcurrencyView {
    fn from(limit: &Concurrency) -> Self {
        Self {
            in_flight_max: limit.in_flight_max().get(),
            queue_max: Some(limit.queue_max()),
            queue_wait_ms: super::millis(Some(limit.queue_wait())),
        }
    }
}

impl ConcurrencyView {
    /// The record, or what is wrong.
    pub fn record(&self) -> Result<Concurrency, String> {
        let max = NonZeroU32::new(self.in_flight_max).ok_or("an in_flight_max of 0")?;
        let wait = self.queue_wait_ms.map(Duration::from_millis);
        Concurrency::new(max, self.queue_max, wait).map_err(|error| error.to_string())
    }
}

/// Which answers are tried on another instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryView {
    /// The most attempts, the first included: 2 to 4; 2 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u8>,
    /// The statuses, 400 to 599; 502, 503 and 504 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<u16>>,
}

impl From<&RetryRule> for RetryView {
    fn from(rule: &RetryRule) -> Self {
        Self { attempts: Some(rule.attempts()), statuses: Some(rule.statuses().to_vec()) }
    }
}

impl RetryView {
    /// The record, or what is wrong.
    pub fn record(&self) -> Result<RetryRule, String> {
        RetryRule::new(self.attempts, self.statuses.clone()).map_err(|error| error.to_string())
    }
}

/// Which answers are compressed, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompressView {
    /// `zstd`, `br` and `gzip`, the one that is preferred first; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codings: Option<Vec<String>>,
    /// The shortest body that is compressed, in bytes; 1,024 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
    /// Media types such as `text/css`, `text/*` or `application/*+json`; what is text when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// The level by coding: zstd 1 to 4, br 1 to 5, gzip 1 to 9.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub level: BTreeMap<String, u8>,
}

impl From<&CompressRule> for CompressView {
    fn from(rule: &CompressRule) -> Self {
        let codings = rule.codings().iter();
        Self {
            level: codings.clone().map(|c| (c.to_string(), rule.level(*c))).collect(),
            codings: Some(codings.map(ToString::to_string).collect()),
            min_bytes: Some(rule.min_bytes()),
            types: Some(rule.types().into_iter().map(ToOwned::to_owned).collect()),
        }
    }
}

impl CompressView {
    /// The record, or what is wrong.
    pub fn record(&self) -> Result<CompressRule, String> {
        let coding = |name: &str| {
            let mut known = Coding::ALL.into_iter();
            known
                .find(|coding| coding.as_str() == name)
                .ok_or_else(|| format!("there is no coding \"{name}\": expected zstd, br or gzip"))
        };
        let names = self.codings.iter().flatten();
        let codings = names.map(|name| coding(name)).collect::<Result<Vec<_>, _>>()?;
        let texts = self.types.iter().flatten();
        let types = texts.map(|text| text.parse()).collect::<Result<Vec<_>, _>>();
        let types = types.map_err(|error| format!("{error}"))?;
        let mut level = Levels::default();
        for (name, value) in &self.level {
            let place = match coding(name)? {
                Coding::Zstd => &mut level.zstd,
                Coding::Br => &mut level.br,
                Coding::Gzip => &mut level.gzip,
            };
            *place = Some(*value);
        }
        let codings = self.codings.is_some().then_some(codings);
        let types = self.types.is_some().then_some(types);
        CompressRule::new(codings, self.min_bytes, types, level).map_err(|error| error.to_string())
    }
}

/// Which answers are kept in the router's cache, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheView {
    /// The largest body that is kept, in bytes; 1 MiB when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_bytes_max: Option<u64>,
    /// How long answers are fresh that do not say so, in milliseconds; they are not kept when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_ttl_ms: Option<u64>,
    /// Whether a tenth of the time since its last change is how long an answer is fresh that does
    /// not say so; false when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heuristic: Option<bool>,
    /// How long stale answers are served while they are fetched again, in milliseconds; 0 when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_while_revalidate_ms: Option<u64>,
    /// How long stale answers are served when no instance answers, in milliseconds; 0 when left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_if_error_ms: Option<u64>,
    /// How long a request waits for the answer to another one like it, in milliseconds; 5,000 when
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Whether `Cache-Control` of requests counts; true when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obey_requests: Option<bool>,
}

impl From<&CacheRule> for CacheView {
    fn from(rule: &CacheRule) -> Self {
        Self {
            object_bytes_max: Some(rule.object_bytes_max()),
            default_ttl_ms: super::millis(rule.default_ttl()),
            heuristic: Some(rule.heuristic()),
            stale_while_revalidate_ms: super::millis(Some(rule.stale_while_revalidate())),
            stale_if_error_ms: super::millis(Some(rule.stale_if_error())),
            wait_ms: super::millis(Some(rule.wait())),
            obey_requests: Some(rule.obey_requests()),
        }
    }
}

impl CacheView {
    /// The record, or what is wrong.
    pub fn record(&self) -> Result<CacheRule, String> {
        let span = |millis: Option<u64>| millis.map(Duration::from_millis);
        let wish = CacheWish {
            object_bytes_max: self.object_bytes_max,
            default_ttl: span(self.default_ttl_ms),
            heuristic: self.heuristic,
            stale_while_revalidate: span(self.stale_while_revalidate_ms),
            stale_if_error: span(self.stale_if_error_ms),
            wait: span(self.wait_ms),
            obey_requests: self.obey_requests,
        };
        CacheRule::new(&wish).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_can_be_asked_for() {
        let sticky = Sticky { cookie: "ID".parse().unwrap(), max_age_s: NonZeroU32::new(5) };
        assert_eq!(StickyView::from(&sticky).record(), Ok(sticky));
        let limit = Concurrency::new(NonZeroU32::MIN, Some(7), None).unwrap();
        assert_eq!(ConcurrencyView::from(&limit).record(), Ok(limit));
        let rule = RetryRule::new(Some(3), Some(vec![503])).unwrap();
        assert_eq!(RetryView::from(&rule).record(), Ok(rule));
        let level = Levels { gzip: Some(9), ..Levels::default() };
        let types = Some(vec!["text/html".parse().unwrap()]);
        let rule = CompressRule::new(Some(vec![Coding::Gzip]), Some(5), types, level).unwrap();
        assert_eq!(CompressView::from(&rule).record(), Ok(rule));
        assert_eq!(CompressView::default().record(), Ok(CompressRule::usual()));
        let wish = CacheWish { default_ttl: Some(Duration::from_secs(9)), ..CacheWish::default() };
        let rule = CacheRule::new(&wish).unwrap();
        assert_eq!(CacheView::from(&rule).record(), Ok(rule));
        assert_eq!(CacheView::default().record(), Ok(CacheRule::usual()));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let sticky = StickyView { cookie: "a".to_owned(), max_age_s: Some(0) };
        assert!(sticky.record().is_err());
        let limit = ConcurrencyView { in_flight_max: 0, queue_max: None, queue_wait_ms: None };
        assert!(limit.record().is_err());
        let rule = RetryView { attempts: Some(1), statuses: None };
        assert!(rule.record().unwrap_err().contains("attempts are 2 to 4"));
        for (text, part) in [
            (r#"{"codings":["deflate"]}"#, "no coding \"deflate\""),
            (r#"{"level":{"br":11}}"#, "the level of br is 1 to 5"),
            (r#"{"types":["html"]}"#, "no media type"),
        ] {
            let error = serde_json::from_str::<CompressView>(text).unwrap().record().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let cache = CacheView { wait_ms: Some(90_000), ..CacheView::default() };
        assert!(cache.record().unwrap_err().contains("wait is at most 60 s"));
    }
}
