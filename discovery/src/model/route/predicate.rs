//! What a rule asks of a request beside its host and path: method, header fields, parameters
//! of the query. Knows what they mean, not how a request is read.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::pattern::{Pattern, PatternError};

/// The most methods of one rule.
pub const METHODS_MAX: usize = 16;
/// The most header fields of one rule, and the most parameters: as in the Gateway API.
pub const MATCHES_MAX: usize = 16;
/// The longest name of a method, a header field or a parameter, in bytes.
pub const MATCH_NAME_BYTES_MAX: usize = 256;
/// The longest value that a rule asks for, in bytes.
pub const MATCH_VALUE_BYTES_MAX: usize = 4096;

/// Why a predicate is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PredicateError {
    /// Not a token in capitals.
    #[error("\"{0}\" is no method: expected capitals such as GET or POST")]
    Method(String),
    /// Not a token.
    #[error("\"{0}\" is no name of a header field: expected a name such as x-version")]
    Header(String),
    /// Empty, too long or with a control character.
    #[error("\"{0}\" is no name of a parameter of the query")]
    Parameter(String),
    /// Too long or with a control character.
    #[error("\"{0}\" is no value to compare with: it is too long or has a control character")]
    Value(String),
    /// Not a regular expression.
    #[error(transparent)]
    Regex(#[from] PatternError),
    /// Two conditions on one name; the second would have no effect.
    #[error("{0} is named twice")]
    Twice(String),
    /// More than a rule may have.
    #[error("{0} is more than the {1} that a rule may have")]
    TooMany(usize, usize),
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    (1..=MATCH_NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn method(text: &str) -> Result<Box<str>, PredicateError> {
    let fits = is_token(text) && !text.bytes().any(|b| b.is_ascii_lowercase());
    fits.then(|| text.into()).ok_or_else(|| PredicateError::Method(text.to_owned()))
}

fn header(text: &str) -> Result<Box<str>, PredicateError> {
    let fits = is_token(text);
    fits.then(|| text.to_ascii_lowercase().into())
        .ok_or_else(|| PredicateError::Header(text.to_owned()))
}

fn parameter(text: &str) -> Result<Box<str>, PredicateError> {
    let fits = (1..=MATCH_NAME_BYTES_MAX).contains(&text.len())
        && !text.bytes().any(|b| b.is_ascii_control());
    fits.then(|| text.into()).ok_or_else(|| PredicateError::Parameter(text.to_owned()))
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident by $check:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = PredicateError;
            fn from_str(text: &str) -> Result<Self, PredicateError> {
                $check(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = PredicateError;
            fn try_from(text: String) -> Result<Self, PredicateError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

names! {
    /// A method, compared as it is: `GET` does not take `HEAD`. In capitals, because one that is
    /// not is a slip.
    MethodName by method;
    /// The name of a header field, in lower case.
    HeaderName by header;
    /// The name of a parameter of the query, decoded.
    ParameterName by parameter;
}

/// What the value of a header field or a parameter has to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ValuePattern {
    /// Anything, as long as it is there: `true`.
    Present,
    /// This text: `"canary"`, or `"=~x"` for a text that begins with `~` or `=`.
    Exact(Box<str>),
    /// A text in which this is found: `"~^v[0-9]+$"`.
    Regex(Arc<Pattern>),
}

impl ValuePattern {
    /// Whether it takes a value.
    pub fn takes(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(pattern) => pattern.is_in(value),
        }
    }

    /// Whether it surely takes every value that `other` takes.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Regex(_), Self::Exact(text)) => self.takes(text.as_bytes()),
            _ => *self == Self::Present || self == other,
        }
    }

    /// Whether no value is taken by both, as far as that can be told.
    fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(text), any) | (any, Self::Exact(text)) => !any.takes(text.as_bytes()),
            _ => false,
        }
    }
}

impl FromStr for ValuePattern {
    type Err = PredicateError;

    fn from_str(text: &str) -> Result<Self, PredicateError> {
        if let Some(regex) = text.strip_prefix('~') {
            return Ok(Self::Regex(Arc::new(Pattern::parse(regex)?)));
        }
        let exact = text.strip_prefix('=').unwrap_or(text);
        if exact.len() > MATCH_VALUE_BYTES_MAX || exact.bytes().any(|b| b.is_ascii_control()) {
            return Err(PredicateError::Value(text.to_owned()));
        }
        Ok(Self::Exact(exact.into()))
    }
}

/// As it is written; what only has to be there is `true`.
impl fmt::Display for ValuePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("true"),
            Self::Exact(text) if text.starts_with(['~', '=']) => write!(f, "={text}"),
            // Not the same as what is only there.
            Self::Exact(text) => f.write_str(text),
            Self::Regex(pattern) => write!(f, "~{}", pattern.as_str()),
        }
    }
}

impl Serialize for ValuePattern {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Present => to.serialize_bool(true),
            _ => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for ValuePattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = ValuePattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, \"~REGEX\", or true for any value")
            }

            fn visit_bool<E: de::Error>(self, is_there: bool) -> Result<ValuePattern, E> {
                if is_there {
                    return Ok(ValuePattern::Present);
                }
                Err(E::invalid_value(de::Unexpected::Bool(false), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ValuePattern, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Value)
    }
}

/// Names, each with what its value has to be; by name, and each name once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Matches<N>(Box<[(N, ValuePattern)]>);

impl<N: Ord + fmt::Display> Matches<N> {
    /// Puts them in order.
    pub fn new(
        matches: impl IntoIterator<Item = (N, ValuePattern)>,
    ) -> Result<Self, PredicateError> {
        let mut matches: Vec<_> = matches.into_iter().collect();
        if matches.len() > MATCHES_MAX {
            return Err(PredicateError::TooMany(matches.len(), MATCHES_MAX));
        }
        matches.sort_by(|a, b| a.0.cmp(&b.0));
        match matches.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(PredicateError::Twice(pair[0].0.to_string())),
            None => Ok(Self(matches.into())),
        }
    }

    fn of(&self, name: &N) -> Option<&ValuePattern> {
        let place = self.0.binary_search_by(|(own, _)| own.cmp(name)).ok()?;
        Some(&self.0[place].1)
    }

    fn covers(&self, other: &Self) -> bool {
        self.0.iter().all(|(name, ours)| other.of(name).is_some_and(|theirs| ours.covers(theirs)))
    }

    fn excludes(&self, other: &Self) -> bool {
        self.0.iter().any(|(name, ours)| other.of(name).is_some_and(|theirs| ours.excludes(theirs)))
    }
}

impl<N> Default for Matches<N> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<N> std::ops::Deref for Matches<N> {
    type Target = [(N, ValuePattern)];
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<N: Serialize> Serialize for Matches<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de, N: Deserialize<'de> + Ord + fmt::Display> Deserialize<'de> for Matches<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map<N>(PhantomData<N>);
        impl<'de, N: Deserialize<'de> + Ord + fmt::Display> Visitor<'de> for Map<N> {
            type Value = Matches<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names, each with a text, \"~REGEX\", or true for any value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Matches<N>, A::Error> {
                let mut matches = Vec::new();
                while let Some(next) = map.next_entry()? {
                    if matches.len() == MATCHES_MAX {
                        let error = PredicateError::TooMany(MATCHES_MAX + 1, MATCHES_MAX);
                        return Err(de::Error::custom(error));
                    }
                    matches.push(next);
                }
                Matches::new(matches).map_err(de::Error::custom)
            }
        }
        from.deserialize_map(Map(PhantomData))
    }
}

/// What a rule asks of a request beside host and path. Most ask nothing, so that is small.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Predicates(Option<Box<Lists>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lists {
    methods: Box<[MethodName]>,
    headers: Matches<HeaderName>,
    query: Matches<ParameterName>,
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Form {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    methods: Vec<MethodName>,
    #[serde(default = "Matches::default", skip_serializing_if = "is_empty")]
    headers: Matches<HeaderName>,
    #[serde(default = "Matches::default", skip_serializing_if = "is_empty")]
    query: Matches<ParameterName>,
}

fn is_empty<N>(matches: &Matches<N>) -> bool {
    matches.is_empty()
}

impl Predicates {
    /// Nothing is asked.
    pub const NONE: Self = Self(None);

    /// One of `methods`, if there are any, and all of `headers` and `query`.
    pub fn new(
        mut methods: Vec<MethodName>,
        headers: Matches<HeaderName>,
        query: Matches<ParameterName>,
    ) -> Result<Self, PredicateError> {
        methods.sort_unstable();
        methods.dedup();
        if methods.len() > METHODS_MAX {
            return Err(PredicateError::TooMany(methods.len(), METHODS_MAX));
        }
        let lists = Lists { methods: methods.into(), headers, query };
        let asks =
            !lists.methods.is_empty() || !lists.headers.is_empty() || !lists.query.is_empty();
        Ok(Self(asks.then(|| Box::new(lists))))
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The methods, by name; none takes every method.
    pub fn methods(&self) -> &[MethodName] {
        self.0.as_ref().map_or(&[], |lists| &lists.methods)
    }

    /// The header fields, by name. Of a field that is there several times one line is enough.
    pub fn headers(&self) -> &[(HeaderName, ValuePattern)] {
        self.0.as_ref().map_or(&[], |lists| &lists.headers)
    }

    /// The parameters, by name. Of one that is there several times the first counts.
    pub fn query(&self) -> &[(ParameterName, ValuePattern)] {
        self.0.as_ref().map_or(&[], |lists| &lists.query)
    }

    /// How specific they are, as the Gateway API orders rules of one host and path: any method,
    /// then the number of header fields, then that of parameters. The greater comes first.
    pub fn rank(&self) -> (bool, usize, usize) {
        (!self.methods().is_empty(), self.headers().len(), self.query().len())
    }

    /// Whether they surely take every request that `other` takes.
    pub fn cover(&self, other: &Self) -> bool {
        let Some(ours) = &self.0 else { return true };
        let Some(theirs) = &other.0 else { return false };
        let methods = ours.methods.is_empty()
            || (!theirs.methods.is_empty()
                && theirs.methods.iter().all(|method| ours.methods.contains(method)));
        methods && ours.headers.covers(&theirs.headers) && ours.query.covers(&theirs.query)
    }

    /// Whether no request is taken by both, as far as that can be told. A field that is there
    /// twice with two values is not thought of.
    pub fn exclude(&self, other: &Self) -> bool {
        let (Some(ours), Some(theirs)) = (&self.0, &other.0) else { return false };
        let methods = !ours.methods.is_empty()
            && !theirs.methods.is_empty()
            && !ours.methods.iter().any(|method| theirs.methods.contains(method));
        methods || ours.headers.excludes(&theirs.headers) || ours.query.excludes(&theirs.query)
    }
}

/// `GET|POST x-env=canary x-debug ?v=~^2`; nothing for nothing.
impl fmt::Display for Predicates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |pattern: &ValuePattern| match pattern {
            ValuePattern::Present => String::new(),
            _ => format!("={pattern}"),
        };
        let methods: Vec<&str> = self.methods().iter().map(MethodName::as_str).collect();
        let mut words = Vec::new();
        words.extend((!methods.is_empty()).then(|| methods.join("|")));
        words.extend(self.headers().iter().map(|(name, v)| format!("{name}{}", value(v))));
        words.extend(self.query().iter().map(|(name, v)| format!("?{name}{}", value(v))));
        f.write_str(&words.join(" "))
    }
}

impl TryFrom<Form> for Predicates {
    type Error = PredicateError;
    fn try_from(form: Form) -> Result<Self, PredicateError> {
        Self::new(form.methods, form.headers, form.query)
    }
}

impl From<Predicates> for Form {
    fn from(predicates: Predicates) -> Self {
        match predicates.0 {
            Some(lists) => {
                Self { methods: lists.methods.into(), headers: lists.headers, query: lists.query }
            }
            None => {
                Self { methods: Vec::new(), headers: Matches::default(), query: Matches::default() }
            }
        }
    }
}

#[cfg(test)]
mod tests;
