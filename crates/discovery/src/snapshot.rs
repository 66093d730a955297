//! What is known about a service at one moment: never changed, only replaced.

use std::{sync::Arc, time::Instant};

use outrigger_registry::{HealthStatus, Instance};

/// One accepted answer. Facts that must agree sit in one of these, behind one swap; facts that move
/// while the content stays (when the registry was last heard, its last error) are in
/// [`ServiceStatus`](crate::ServiceStatus), so that an unchanged answer swaps nothing.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Whether the registry has answered at all: without it, no instances means nothing.
    pub knowledge: Knowledge,
    /// Every instance that the registry lists, critical ones too, each identity once, sorted by it;
    /// and those that it no longer lists but whose loss is not believed yet
    /// ([`ServiceStatus::suspects`](crate::ServiceStatus::suspects)).
    pub instances: Arc<[Instance]>,
    /// 0 while unasked, then one more with each change. Compares only within one watch: a service
    /// that was dropped and is followed again starts over.
    pub version: u64,
    /// When this content was learned. `None` while unasked.
    pub learned_at: Option<Instant>,
}

/// Whether the registry has answered about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// No answer yet.
    Unasked,
    /// No answer in this life of the process; what is known was learned before it was restarted, and
    /// serves while the registry is silent.
    Remembered,
    /// At least one; an empty list then means that there is no such service.
    Answered,
}

impl Knowledge {
    /// The word for pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Remembered => "remembered",
            Self::Answered => "answered",
        }
    }
}

impl Snapshot {
    /// What is known before the first answer.
    pub(crate) fn unasked() -> Self {
        Self { knowledge: Knowledge::Unasked, instances: Arc::from([]), version: 0, learned_at: None }
    }

    /// The next one, with content learned at `now`.
    pub(crate) fn next(&self, instances: Arc<[Instance]>, now: Instant) -> Self {
        Self { knowledge: Knowledge::Answered, instances, version: self.version + 1, learned_at: Some(now) }
    }

    /// The next one, with content that an earlier life of the process learned at `learned_at`.
    pub(crate) fn remembered(&self, instances: Arc<[Instance]>, learned_at: Instant) -> Self {
        Self { knowledge: Knowledge::Remembered, ..self.next(instances, learned_at) }
    }

    /// Its instances, counted by health.
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
    /// Of all the above: those without an address that can be called.
    pub unusable: usize,
}

impl InstanceCounts {
    /// All of them.
    pub fn total(&self) -> usize {
        self.passing + self.warning + self.critical + self.maintenance
    }

    /// Each health with its count, for a page or a metric.
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
