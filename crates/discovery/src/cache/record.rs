//! What the cache keeps of one service.

use std::{sync::Arc, time::Duration};

use outrigger_registry::{Instance, Query};

use crate::{instances::union, suspects::PRESUMED_GONE_TTL};

/// The last good answer for one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceRecord {
    pub(super) query: Query,
    pub(super) instances: Arc<[Instance]>,
    pub(super) index: u64,
    /// When the registry last confirmed it: time since 1970.
    pub(super) confirmed: Duration,
    /// Instances that were presumed gone.
    pub(super) presumed_gone: Option<PresumedGoneRecord>,
}

/// See [`PresumedGone`](crate::suspects::PresumedGone).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PresumedGoneRecord {
    pub(super) instances: Arc<[Instance]>,
    /// The index of the last answer that listed them.
    pub(super) index: u64,
    /// When the last of them was presumed gone: time since 1970.
    pub(super) at: Duration,
}

impl ServiceRecord {
    /// Whether any instance is left to serve at `unix_now`.
    pub(super) fn lists_any(&self, unix_now: Duration) -> bool {
        !self.instances.is_empty() || self.fresh_presumed_gone(unix_now).is_some()
    }

    /// How long ago the registry last confirmed it. `None`: its time lies in the future, because a clock was set, so the age is
    /// not known.
    pub(super) fn age(&self, unix_now: Duration) -> Option<Duration> {
        unix_now.checked_sub(self.confirmed)
    }

    /// The instances, together with those presumed gone in the last
    /// [`PRESUMED_GONE_TTL`], and an index at which the registry listed all of them.
    pub(super) fn instances_to_serve(&self, unix_now: Duration) -> (Arc<[Instance]>, u64) {
        match self.fresh_presumed_gone(unix_now) {
            Some(lost) => (union(&self.instances, &lost.instances), self.index.min(lost.index)),
            None => (self.instances.clone(), self.index),
        }
    }

    fn fresh_presumed_gone(&self, unix_now: Duration) -> Option<&PresumedGoneRecord> {
        // Of an unknown age: not fresh.
        let is_fresh = |lost: &&PresumedGoneRecord| {
            unix_now.checked_sub(lost.at).is_some_and(|age| age <= PRESUMED_GONE_TTL)
        };
        self.presumed_gone.as_ref().filter(is_fresh)
    }
}
