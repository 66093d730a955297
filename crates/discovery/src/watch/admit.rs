//! Decides whether an answer replaces the current snapshot. Pure: no clock, no I/O, no state.
//!
//! Every answer passes through here before it is published. Whether a mass loss is believed is decided
//! by the caller's `screen` (`suspects/`).

use std::sync::Arc;

use outrigger_registry::Instance;

use crate::{Knowledge, Snapshot, instances::sort_and_dedup};

/// The current snapshot and its index.
#[derive(Debug)]
pub(crate) struct Current<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) index: u64,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) instances: Vec<Instance>,
    pub(crate) index: u64,
    /// Any server may have given it, including one that has fallen behind.
    pub(crate) stale: bool,
}

/// What to do with a [`Candidate`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It equals the current snapshot: nothing is swapped, no follower wakes.
    Unchanged,
    /// It is older than the current snapshot.
    Behind,
    /// These instances replace the current ones; sorted by identity, each identity once.
    Accept(Arc<[Instance]>),
}

/// Judges one answer. `screen` gets the sorted instances and may return others to publish instead.
pub(crate) fn admit(
    current: &Current<'_>,
    candidate: Candidate,
    screen: impl FnOnce(&[Instance]) -> Option<Arc<[Instance]>>,
) -> Verdict {
    let answered = current.snapshot.knowledge == Knowledge::Answered;
    let known = current.snapshot.knowledge != Knowledge::Unasked;
    // A stale read must not restore an older state. Another read may: an index that went back then means
    // that the registry itself started over.
    if known && candidate.stale && candidate.index < current.index {
        return Verdict::Behind;
    }
    let instances = sort_and_dedup(candidate.instances);
    let kept = screen(&instances);
    let same = kept.as_deref().unwrap_or(&instances) == &*current.snapshot.instances;
    if answered && same {
        return Verdict::Unchanged;
    }
    Verdict::Accept(kept.unwrap_or_else(|| instances.into()))
}

#[cfg(test)]
mod tests;
