//! Decides whether an answer may replace what is held. Pure: no clock, no I/O, no memory.
//!
//! Every answer passes through here before it is seen by anybody. What is too bad to be believed at
//! once (all instances gone, more than half gone) is for [`crate::guard`] to say, which is asked on
//! the way.

use std::sync::Arc;

use outrigger_registry::Instance;

use crate::{Knowledge, Snapshot, instances::sort_and_dedup};

/// What is held, with the index it was learned at.
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
    /// Any server may have given it, also one that has fallen behind.
    pub(crate) stale: bool,
}

/// What to do with an [`Candidate`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It says what is held already: swap nothing, wake nobody.
    Unchanged,
    /// It is older than what is held: no news.
    Behind,
    /// It replaces what is held; each identity once, sorted by it.
    Accept(Arc<[Instance]>),
}

/// Judges one answer. `screen` is shown its instances in order, and may say what is to be known
/// instead of just these.
pub(crate) fn admit(
    current: &Current<'_>,
    candidate: Candidate,
    screen: impl FnOnce(&[Instance]) -> Option<Arc<[Instance]>>,
) -> Verdict {
    let answered = current.snapshot.knowledge == Knowledge::Answered;
    let known = current.snapshot.knowledge != Knowledge::Unasked;
    // A stale read must not turn the table back to a state that it has moved on from. A current one
    // may: there an index that went back means that the registry itself started over.
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
