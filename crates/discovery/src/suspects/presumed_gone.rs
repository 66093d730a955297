//! Instances that were believed gone by the registry's word alone, while they still answered.
//!
//! The word may have been a mistake that lasted: they are told of in errors and on pages, and outlive
//! a restart for a while, so that a sidecar that starts in the middle of such a mistake doubts it
//! again instead of knowing nobody. They take no traffic.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_registry::Instance;

use crate::instances::{find, union};

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
            self.instances.iter().filter(|one| find(listed, &one.id).is_none()).cloned().collect();
        (!left.is_empty()).then(|| Self { instances: left, ..self.clone() })
    }

    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= PRESUMED_GONE_TTL
    }
}
