//! What is known of a prefix, and how old it is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_registry::KvEntry;
use tokio::time::Instant;

/// Entries by their whole keys.
pub type KvEntries = BTreeMap<String, Arc<KvEntry>>;

/// What is known of a prefix.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PrefixView {
    /// The entries that count: also those that have been gone for less than a second, because programs that replace a tree delete it
    /// first. `None`: nothing is known, neither from the registry nor from an earlier run.
    pub entries: Option<Arc<KvEntries>>,
    /// The entries of the last answer of the registry. `None`: it has not answered in this run.
    pub answered: Option<Arc<KvEntries>>,
    /// The index of the registry that the entries have; 0: not known.
    pub index: u64,
    /// When the registry last confirmed the entries.
    pub confirmed: Option<ConfirmedAt>,
    /// Why the last question failed. `None`: it was answered, or there was none yet.
    pub failure: Option<Arc<str>>,
}

/// A time that may be before the start of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmedAt {
    since: Instant,
    /// The age at `since`.
    before: Duration,
}

impl ConfirmedAt {
    /// `age` ago.
    pub(crate) fn ago(age: Duration, now: Instant) -> Self {
        Self { since: now, before: age }
    }
}

impl PrefixView {
    /// How long ago the registry confirmed the entries. `None`: never.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.confirmed.map(|at| at.before + now.saturating_duration_since(at.since))
    }

    /// The registry is not heard now: the entries are those of the last good answer.
    pub fn is_stale(&self) -> bool {
        self.failure.is_some() || self.answered.is_none()
    }
}
