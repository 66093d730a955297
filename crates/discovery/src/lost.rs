//! Instances that were believed gone by the registry's word alone, while they still answered.
//!
//! The word may have been a mistake that lasted: they are told of in errors and on pages, and outlive
//! a restart for a while, so that a sidecar that starts in the middle of such a mistake doubts it
//! again instead of knowing nobody. They take no traffic.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_registry::{Instance, InstanceId};

/// How long they are spoken of and kept. A mistake of the registry's that nobody has mended by then is
/// not mended by us, and an address does not become somebody else's that fast.
pub(crate) const PRESUMED_GONE_TTL: Duration = Duration::from_secs(600);

/// The instances that a service has lost so.
#[derive(Debug, Clone)]
pub(crate) struct PresumedGone {
    /// As they were last listed, sorted.
    pub(crate) instances: Arc<[Instance]>,
    /// The registry's index when it last listed them; of several, the lowest.
    pub(crate) index: u64,
    /// When the last of them was believed gone.
    pub(crate) at: Instant,
}

impl PresumedGone {
    /// With `more`, last listed at `index` and lost now, beside those that were lost a while ago.
    pub(crate) fn merge(before: Option<&Self>, more: Vec<Instance>, index: u64, now: Instant) -> Self {
        let before = before.filter(|lost| lost.is_fresh(now));
        let index = before.map_or(index, |lost| lost.index.min(index));
        let older = before.map_or(&[][..], |lost| &lost.instances);
        Self { instances: union(&more, older), index, at: now }
    }

    /// Without those that `listed` speaks of again; nobody may be left.
    pub(crate) fn without(&self, listed: &[Instance]) -> Option<Self> {
        let left: Arc<[_]> =
            self.instances.iter().filter(|one| !contains_id(listed, &one.id)).cloned().collect();
        (!left.is_empty()).then(|| Self { instances: left, ..self.clone() })
    }

    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= PRESUMED_GONE_TTL
    }
}

/// `first`, and of `second` whom it does not hold. The result is sorted; `first` has to be.
pub(crate) fn union(first: &[Instance], second: &[Instance]) -> Arc<[Instance]> {
    let more = second.iter().filter(|one| !contains_id(first, &one.id));
    let mut all: Vec<_> = first.iter().chain(more).cloned().collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all.into()
}

fn contains_id(sorted: &[Instance], id: &InstanceId) -> bool {
    sorted.binary_search_by(|one| one.id.cmp(id)).is_ok()
}
