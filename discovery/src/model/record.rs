//! What a store holds: keys with values at revisions, and the events between them.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Key;

/// The store's counter: every commit has the next one. 0 is "before the first commit".
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease, as the store numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

/// A key with its value and the revisions of its life. Values that hold secrets are in no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Kv {
    /// The key, as [`super::Key`] spells it.
    pub key: String,
    /// The stored form of the record.
    pub value: Bytes,
    /// The revision that made the key.
    pub created: Revision,
    /// The revision of the last change.
    pub modified: Revision,
    /// The lease whose end deletes the key.
    pub lease: Option<LeaseId>,
}

impl fmt::Debug for Kv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kv")
            .field("key", &self.key)
            .field("value", &shown(&self.key, &self.value))
            .field("created", &self.created)
            .field("modified", &self.modified)
            .field("lease", &self.lease)
            .finish()
    }
}

/// A value as `Debug` may show it.
pub(crate) fn shown(key: &str, value: &Bytes) -> Bytes {
    match Key::is_secret(key) {
        true => Bytes::from_static(b"<secret>"),
        false => value.clone(),
    }
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was made or changed.
    Put(Kv),
    /// The key is gone.
    Delete {
        /// The key.
        key: String,
        /// The revision that deleted it.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// The stored form of a record: JSON, so that any store's own tools can show it.
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(record).expect("records have string keys and finite numbers"))
}

/// Reads the stored form; fields that a later version added are passed over.
pub fn decode<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_without_secrets_are_shown() {
        let shown = |key: &str| {
            let value = Bytes::from_static(b"content");
            let (created, modified) = (Revision(1), Revision(2));
            format!("{:?}", Kv { key: key.into(), value, created, modified, lease: None })
        };
        assert!(shown("/portolan/v1/d/r/web").contains("content"));
        assert!(!shown("/portolan/v1/d/cert/web").contains("content"));
        assert!(!shown("/portolan/v1/d/cert/N O N E").contains("content"));
        assert!(!shown("/portolan/v1/d/tickets").contains("content"));
    }
}
