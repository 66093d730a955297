//! Decides whether an answer may replace what is held. Pure: no clock, no I/O, no memory.
//!
//! Every answer passes through here before it is seen by anybody, so this is the place for a guard
//! on answers that are too bad to be believed at once (all instances gone, more than half gone): it
//! becomes a further [`Verdict`], and the watcher the one that asks again.

use std::sync::Arc;

use outrigger_registry::Instance;

use crate::{Knowledge, Snapshot};

/// What is held, with the index it was learned at.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) index: u64,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) instances: Vec<Instance>,
    pub(crate) index: u64,
    /// Any server may have given it, also one that has fallen behind.
    pub(crate) stale: bool,
}

/// What to do with an [`Offer`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It says what is held already: swap nothing, wake nobody.
    Unchanged,
    /// It is older than what is held: no news.
    Behind,
    /// It replaces what is held; each identity once, sorted by it.
    Accept(Arc<[Instance]>),
}

/// Judges one answer.
pub(crate) fn admit(held: &Held<'_>, offer: Offer) -> Verdict {
    let answered = held.snapshot.knowledge == Knowledge::Answered;
    // A stale read must not turn the table back to a state that it has moved on from. A current one
    // may: there an index that went back means that the registry itself started over.
    if answered && offer.stale && offer.index < held.index {
        return Verdict::Behind;
    }
    let instances = in_order(offer.instances);
    if answered && *held.snapshot.instances == *instances {
        return Verdict::Unchanged;
    }
    Verdict::Accept(instances.into())
}

/// Registries list in any order; the same content must compare equal. Of entries that claim one
/// identity, which no sound registry sends, the first is taken: an identity has one place.
fn in_order(mut instances: Vec<Instance>) -> Vec<Instance> {
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.dedup_by(|later, kept| later.id == kept.id);
    instances
}
