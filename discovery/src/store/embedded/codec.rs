//! The bytes of a record in the file. Each begins with its version.
//!
//! Our own, not the database's: the meaning of its typed tables changes between its versions.

use std::time::Duration;

use bytes::Bytes;

use crate::model::{Kv, LeaseId, Revision};

const KV_VERSION: u8 = 1;
const KV_HEAD_BYTES: usize = 1 + 8 + 8 + 8;
const LEASE_VERSION: u8 = 1;

/// A key's record: version, revision made, revision changed, lease (0: none), value.
pub(super) fn encode_kv(kv: &Kv) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(KV_HEAD_BYTES + kv.value.len());
    bytes.push(KV_VERSION);
    bytes.extend_from_slice(&kv.created.0.to_le_bytes());
    bytes.extend_from_slice(&kv.modified.0.to_le_bytes());
    bytes.extend_from_slice(&kv.lease.map_or(0, |lease| lease.0).to_le_bytes());
    bytes.extend_from_slice(&kv.value);
    bytes
}

/// Reads a key's record.
pub(super) fn decode_kv(key: &[u8], bytes: &[u8]) -> Result<Kv, String> {
    let key = std::str::from_utf8(key).map_err(|_| format!("the key {key:?} is no text"))?;
    let (head, value) = bytes
        .split_at_checked(KV_HEAD_BYTES)
        .ok_or_else(|| format!("the record of {key} has {} bytes", bytes.len()))?;
    if head[0] != KV_VERSION {
        return Err(format!("the record of {key} has version {}", head[0]));
    }
    let number = |at: usize| {
        u64::from_le_bytes(head[at..at + 8].try_into().expect("the head has three numbers"))
    };
    Ok(Kv {
        key: key.to_owned(),
        created: Revision(number(1)),
        modified: Revision(number(9)),
        lease: Some(number(17)).filter(|lease| *lease != 0).map(LeaseId),
        value: Bytes::copy_from_slice(value),
    })
}

/// A lease's record: version, time to live in milliseconds.
pub(super) fn encode_lease(ttl: Duration) -> Vec<u8> {
    let mut bytes = vec![LEASE_VERSION];
    bytes.extend_from_slice(&u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
    bytes
}

/// The key of a lease's record.
pub(super) fn encode_lease_id(lease: LeaseId) -> [u8; 8] {
    lease.0.to_be_bytes()
}

/// Reads a lease's key and record.
pub(super) fn decode_lease(key: &[u8], bytes: &[u8]) -> Result<(LeaseId, Duration), String> {
    let id = key.try_into().map_err(|_| format!("the lease {key:?} has no number"))?;
    let id = LeaseId(u64::from_be_bytes(id));
    match bytes.split_first() {
        Some((&LEASE_VERSION, ttl)) => {
            let ttl = decode_number(ttl).map_err(|cause| format!("lease {}: {cause}", id.0))?;
            Ok((id, Duration::from_millis(ttl)))
        }
        _ => Err(format!("the record of lease {} is not of version {LEASE_VERSION}", id.0)),
    }
}

/// Reads a number that lies alone.
pub(super) fn decode_number(bytes: &[u8]) -> Result<u64, String> {
    let bytes = bytes.try_into().map_err(|_| format!("a number has {} bytes", bytes.len()))?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_reads_as_it_was_written(
            key in ".{1,20}",
            value in proptest::collection::vec(any::<u8>(), 0..64),
            created: u64,
            modified: u64,
            lease in proptest::option::of(1..u64::MAX),
        ) {
            let kv = Kv {
                key,
                value: value.into(),
                created: Revision(created),
                modified: Revision(modified),
                lease: lease.map(LeaseId),
            };
            prop_assert_eq!(decode_kv(kv.key.as_bytes(), &encode_kv(&kv)), Ok(kv));
        }

        #[test]
        fn a_lease_reads_as_it_was_written(id: u64, ttl_ms: u64) {
            let (id, ttl) = (LeaseId(id), Duration::from_millis(ttl_ms));
            prop_assert_eq!(decode_lease(&encode_lease_id(id), &encode_lease(ttl)), Ok((id, ttl)));
        }

        #[test]
        fn strange_bytes_are_an_error_not_a_panic(
            key in proptest::collection::vec(any::<u8>(), 0..12),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = decode_kv(&key, &bytes);
            let _ = decode_lease(&key, &bytes);
            let _ = decode_number(&bytes);
        }
    }
}
