//! What is known about a service at one moment: immutable, replaced as a whole.

use std::{sync::Arc, time::Instant};

use outrigger_registry::{HealthStatus, Instance};

/// One accepted answer; by default, what is known before the first. It holds the facts that must agree, behind one swap. Facts that change while the
/// instances stay (the time of the last answer, the last error) are in
/// [`ServiceStatus`](crate::ServiceStatus), so that an unchanged answer swaps nothing.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Whether the registry has answered: before that, an empty list means nothing.
    pub knowledge: Knowledge,
    /// Every instance that the registry lists, including critical ones, sorted by identity, each identity
    /// once; and the suspects, which it no longer lists and which are not accepted as lost yet
    /// ([`ServiceStatus::suspects`](crate::ServiceStatus::suspects)).
    pub instances: Arc<[Instance]>,
    /// 0 while unasked, then one more with each change. Comparable within one watch only: a service that
    /// was dropped and is followed again starts at 0.
    pub version: u64,
    /// When the registry gave these instances. `None` while unasked, and of a cached answer of unknown age.
    pub learned_at: Option<Instant>,
}

/// Whether the registry has answered about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Knowledge {
    /// No answer yet.
    #[default]
    Unasked,
    /// No answer since the process started; the instances are from the cache and are served while the
    /// registry is silent.
    Remembered,
    /// At least one answer; an empty list means that there is no such service.
    Answered,
}

impl Knowledge {
    /// The label on admin pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Remembered => "remembered",
            Self::Answered => "answered",
        }
    }
}

impl Snapshot {
    /// The next snapshot, from an answer at `now`.
    pub(crate) fn next(&self, instances: Arc<[Instance]>, now: Instant) -> Self {
        Self { knowledge: Knowledge::Answered, instances, version: self.version + 1, learned_at: Some(now) }
    }

    /// The next snapshot, from a cached answer of `learned_at`.
    pub(crate) fn remembered(&self, instances: Arc<[Instance]>, learned_at: Option<Instant>) -> Self {
        Self { knowledge: Knowledge::Remembered, instances, version: self.version + 1, learned_at }
    }

    /// Counts the instances by health.
    pub fn counts(&self) -> InstanceCounts {
        self.instances.iter().fold(InstanceCounts::default(), |mut counts, instance| {
            *counts.count_mut(instance.status) += 1;
            counts.unusable += usize::from(instance.addr.is_err());
            counts
        })
    }
}

/// Instances by health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InstanceCounts {
    /// Passing every check.
    pub passing: usize,
    /// With a warning as their worst check.
    pub warning: usize,
    /// With a critical check.
    pub critical: usize,
    /// Taken out by hand.
    pub maintenance: usize,
    /// Of all the above: instances without a usable address.
    pub unusable: usize,
}

impl InstanceCounts {
    /// All of them.
    pub fn total(&self) -> usize {
        self.passing + self.warning + self.critical + self.maintenance
    }

    /// Each health status with its count.
    pub fn by_status(&self) -> [(HealthStatus, usize); 4] {
        [
            (HealthStatus::Passing, self.passing),
            (HealthStatus::Warning, self.warning),
            (HealthStatus::Critical, self.critical),
            (HealthStatus::Maintenance, self.maintenance),
        ]
    }

    fn count_mut(&mut self, status: HealthStatus) -> &mut usize {
        match status {
            HealthStatus::Passing => &mut self.passing,
            HealthStatus::Warning => &mut self.warning,
            HealthStatus::Critical => &mut self.critical,
            HealthStatus::Maintenance => &mut self.maintenance,
        }
    }
}
