//! Transactions: several operations on keys, all of them or none.

use std::time::Instant;

use super::{
    kv::{KvFailure, KvOp, KvRecord, KvVerb},
    state::Store,
};

/// An operation of a transaction.
#[derive(Debug, Clone)]
pub(crate) enum TxnOp {
    Kv(KvOp),
    /// A verb that does not exist.
    UnknownVerb {
        verb: String,
        key: String,
    },
}

impl TxnOp {
    /// Whether the operation may change the store.
    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Self::Kv(op) if op.verb.is_write())
    }
}

/// What a transaction shows, or why nothing was changed.
pub(crate) type TxnResult = Result<Vec<KvRecord>, Vec<TxnError>>;

/// A failed operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TxnError {
    /// Which operation, from 0.
    pub(crate) op_index: usize,
    pub(crate) what: String,
}

impl Store {
    /// Carries out all operations, or none if one fails. Each operation sees what those before it wrote.
    pub(crate) fn transact(&mut self, ops: Vec<TxnOp>, now: Instant) -> TxnResult {
        let refused: Vec<TxnError> = ops
            .iter()
            .enumerate()
            .filter_map(|(op_index, op)| Some(TxnError { op_index, what: self.refuse_early(op, now)? }))
            .collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        let writes = ops.iter().any(TxnOp::is_write);
        // An operation that fails changes nothing, so that a single one has nothing to undo.
        let before = (writes && ops.len() > 1).then(|| self.kv.clone());
        let at = if writes { self.next_index() } else { 0 };
        let (mut shown, mut failed) = (Vec::new(), Vec::new());
        for (op_index, op) in ops.into_iter().enumerate() {
            match self.apply_op(op, at, now) {
                Ok(records) => shown.extend(records),
                Err(what) => failed.push(TxnError { op_index, what }),
            }
        }
        if failed.is_empty() {
            return Ok(shown);
        }
        if let Some(before) = before {
            self.kv = before;
        }
        Err(failed)
    }

    /// Why an operation is refused before any is carried out.
    fn refuse_early(&self, op: &TxnOp, now: Instant) -> Option<String> {
        let (key, needs_key) = match op {
            TxnOp::Kv(op) => (&op.key, op.verb != KvVerb::DeleteTree),
            TxnOp::UnknownVerb { key, .. } => (key, true),
        };
        if key.is_empty() && needs_key {
            return Some("Must provide key".to_owned());
        }
        match op {
            TxnOp::Kv(op) if self.is_lock_delayed(op, now) => {
                Some(format!("failed to lock key {key:?} due to lock delay"))
            }
            TxnOp::Kv(_) | TxnOp::UnknownVerb { .. } => None,
        }
    }

    fn apply_op(&mut self, op: TxnOp, at: u64, now: Instant) -> Result<Vec<KvRecord>, String> {
        match op {
            TxnOp::Kv(op) => {
                let keeps_value = matches!(op.verb, KvVerb::Get | KvVerb::GetTree);
                let records = self.kv_apply(op, at, now);
                let mut records =
                    records.map_err(|(KvFailure::Unmet(what) | KvFailure::Invalid(what))| what)?;
                if !keeps_value {
                    records.iter_mut().for_each(|(_, entry)| entry.value.clear());
                }
                Ok(records)
            }
            TxnOp::UnknownVerb { verb, .. } => Err(format!("unknown KV verb {verb:?}")),
        }
    }
}
