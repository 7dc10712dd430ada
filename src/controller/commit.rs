//! Changes of records, and how they are packed into transactions.

use bytes::Bytes;
use portolan_discovery::model::record::encode;
use portolan_discovery::model::{Key, NodeName, Revision};
use portolan_discovery::store::{Compare, Op, TXN_BYTES_MAX, TXN_OPS_MAX, Txn};
use serde::Serialize;

/// Changes that are done together or not at all, each guarded by what it was decided from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The node whose changes may share a transaction; a change without one has its own.
    pub(crate) node: Option<NodeName>,
    compares: Vec<Compare>,
    ops: Vec<Op>,
}

impl Change {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn on(node: &NodeName) -> Self {
        Self { node: Some(node.clone()), ..Self::default() }
    }

    /// Makes a record that must not be there.
    pub(crate) fn make<T: Serialize>(self, key: &Key, record: &T) -> Self {
        self.when_absent(key).put(key, record)
    }

    /// Changes a record that was last changed at `seen`.
    pub(crate) fn change<T: Serialize>(self, key: &Key, seen: Revision, record: &T) -> Self {
        self.when(key, seen).put(key, record)
    }

    /// Makes or changes a record, as `seen` says.
    pub(crate) fn set<T: Serialize>(self, key: &Key, seen: Option<Revision>, record: &T) -> Self {
        match seen {
            Some(seen) => self.change(key, seen, record),
            None => self.make(key, record),
        }
    }

    /// Deletes a record that was last changed at `seen`.
    pub(crate) fn delete(mut self, key: &Key, seen: Revision) -> Self {
        self.ops.push(Op::Delete(key.to_string()));
        self.when(key, seen)
    }

    /// Is done only if the record was last changed at `seen`.
    pub(crate) fn when(mut self, key: &Key, seen: Revision) -> Self {
        self.compares.push(Compare::Unchanged(key.to_string(), seen));
        self
    }

    /// Is done only if there is no such record.
    pub(crate) fn when_absent(mut self, key: &Key) -> Self {
        self.compares.push(Compare::Absent(key.to_string()));
        self
    }

    fn put<T: Serialize>(mut self, key: &Key, record: &T) -> Self {
        self.ops.push(Op::Put { key: key.to_string(), value: encode(record), lease: None });
        self
    }

    /// The bytes of the largest value, for those who want to say what is too large.
    pub(crate) fn value_bytes_max(&self) -> usize {
        let values = self.ops.iter().map(|op| match op {
            Op::Put { value, .. } => Bytes::len(value),
            Op::Delete(_) => 0,
        });
        values.max().unwrap_or(0)
    }

    /// The transaction that does it, under no fence.
    pub(crate) fn into_txn(self) -> Txn {
        Txn { compares: self.compares, ops: self.ops }
    }
}

/// Packs `changes` into transactions that are done only while `fence` holds. Changes of one
/// node that follow one another share transactions, as far as the store's limits allow.
pub(crate) fn pack(changes: Vec<Change>, fence: &Compare) -> Vec<Txn> {
    let mut txns: Vec<(Option<NodeName>, Txn)> = Vec::new();
    for change in changes {
        match txns.last_mut() {
            Some((node, txn)) if *node == change.node && shares(txn, &change) => {
                txn.compares.extend(change.compares);
                txn.ops.extend(change.ops);
            }
            _ => {
                let node = change.node.clone();
                let mut txn = Txn::default().when(fence.clone());
                txn.compares.extend(change.compares);
                txn.ops.extend(change.ops);
                txns.push((node, txn));
            }
        }
    }
    txns.into_iter().map(|(_, txn)| txn).collect()
}

fn shares(txn: &Txn, change: &Change) -> bool {
    let bytes = |txn: &Txn| txn.bytes();
    let more = Txn { compares: change.compares.clone(), ops: change.ops.clone() };
    change.node.is_some()
        && txn.compares.len() + change.compares.len() <= TXN_OPS_MAX
        && txn.ops.len() + change.ops.len() <= TXN_OPS_MAX
        && bytes(txn) + bytes(&more) <= TXN_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(node: &str, job: usize, bytes: usize) -> Change {
        let node = NodeName::parse(node).unwrap();
        let key = Key::Placement(node.clone(), format!("job-{job}").parse().unwrap());
        Change::on(&node).make(&key, &"x".repeat(bytes))
    }

    #[test]
    fn changes_of_one_node_share_transactions_within_the_limits() {
        let fence = Compare::Unchanged("lead".into(), Revision(7));
        let many: Vec<Change> = (0..300).map(|job| placement("a", job, 10)).collect();
        let more = vec![placement("b", 0, 10), Change::new(), Change::new()];
        let txns = pack(many.into_iter().chain(more).collect(), &fence);
        let sizes: Vec<usize> = txns.iter().map(|txn| txn.ops.len()).collect();
        assert_eq!(sizes, [127, 127, 46, 1, 0, 0]);
        for txn in &txns {
            txn.check().unwrap();
            assert_eq!(txn.compares[0], fence);
        }
        let large: Vec<Change> = (0..4).map(|job| placement("a", job, 600_000)).collect();
        let txns = pack(large, &fence);
        assert_eq!(txns.len(), 2);
        assert!(txns.iter().all(|txn| txn.check().is_ok()));
    }
}
