//! Instances that were accepted as lost because the registry insisted, while they still answered.
//!
//! The registry may have been wrong for a long time. Errors and admin pages therefore name these
//! instances, and the cache keeps them: a sidecar that starts while the registry is wrong treats
//! them as suspects again, instead of knowing no instances. They take no traffic.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_registry::Instance;

use crate::instances::{find, union};

/// How long they are kept and named. A mistake that is not corrected by then is not corrected by keeping
/// them longer, and an address is not reused within that time.
pub(crate) const PRESUMED_GONE_TTL: Duration = Duration::from_secs(600);

/// The instances of a service that are presumed gone.
#[derive(Debug, Clone)]
pub(crate) struct PresumedGone {
    /// As they were last listed, sorted.
    pub(crate) instances: Arc<[Instance]>,
    /// The registry's index when it last listed them; the lowest of several.
    pub(crate) index: u64,
    /// When the last of them was presumed gone.
    pub(crate) at: Instant,
}

impl PresumedGone {
    /// Adds `more`, last listed at `index` and lost at `now`, to those of `before` that are still fresh.
    pub(crate) fn merge(before: Option<&Self>, more: Vec<Instance>, index: u64, now: Instant) -> Self {
        let before = before.filter(|lost| lost.is_fresh(now));
        let index = before.map_or(index, |lost| lost.index.min(index));
        let older = before.map_or(&[][..], |lost| &lost.instances);
        Self { instances: union(&more, older), index, at: now }
    }

    /// Without the instances of `listed`; `None` when no instance is left.
    pub(crate) fn without(&self, listed: &[Instance]) -> Option<Self> {
        let left: Arc<[_]> =
            self.instances.iter().filter(|one| find(listed, &one.id).is_none()).cloned().collect();
        (!left.is_empty()).then(|| Self { instances: left, ..self.clone() })
    }

    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= PRESUMED_GONE_TTL
    }
}
