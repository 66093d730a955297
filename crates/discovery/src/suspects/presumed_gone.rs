//! Instances that were accepted as lost because the registry insisted, while they still answered.
//!
//! The registry may have been wrong for a long time. Errors and admin pages therefore name these
//! instances, and the cache keeps them: a sidecar that starts while the registry is wrong treats
//! them as suspects again, instead of knowing no instances. They take no traffic.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_registry::{Instance, InstanceId};

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
    /// When each of them was, so that one loss after the other does not keep the first ones for ever.
    since: Arc<BTreeMap<InstanceId, Instant>>,
}

impl PresumedGone {
    /// Adds `more`, last listed at `index` and lost at `now`, to those of `before` that are still fresh.
    pub(crate) fn merge(before: Option<&Self>, more: Vec<Instance>, index: u64, now: Instant) -> Self {
        let is_fresh = |at: Instant| now.saturating_duration_since(at) <= PRESUMED_GONE_TTL;
        let mut since: BTreeMap<_, _> = before
            .map(|lost| &*lost.since)
            .into_iter()
            .flatten()
            .filter(|(_, at)| is_fresh(**at))
            .map(|(id, at)| (id.clone(), *at))
            .collect();
        let older = before.map_or(&[][..], |lost| &lost.instances);
        let older: Vec<_> = older.iter().filter(|one| since.contains_key(&one.id)).cloned().collect();
        let index = before.filter(|_| !older.is_empty()).map_or(index, |lost| lost.index.min(index));
        since.extend(more.iter().map(|one| (one.id.clone(), now)));
        Self { instances: union(&more, &older), index, at: now, since: Arc::new(since) }
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

#[cfg(test)]
mod tests {
    use outrigger_registry::{HealthStatus, testing::instance};

    use super::*;

    #[test]
    fn one_loss_after_the_other_keeps_each_for_its_own_time() {
        let start = tokio::time::Instant::now().into_std();
        let lose = |before: Option<&PresumedGone>, n: u32| {
            let one = instance("n1", &format!("a{n:03}"), HealthStatus::Passing);
            PresumedGone::merge(before, vec![one], u64::from(n), start + PRESUMED_GONE_TTL / 4 * n)
        };
        let mut lost = lose(None, 1);
        for n in 2..100 {
            lost = lose(Some(&lost), n);
            assert!(lost.instances.len() <= 5, "{} after {n} losses", lost.instances.len());
        }
        assert_eq!((lost.instances.len(), lost.since.len()), (5, 5), "those of the last 10 minutes");
        assert!(lost.index <= 95, "{}", lost.index);
    }
}
