//! Where the requests of a cluster go while its own endpoints cannot take them.
//!
//! A target is another cluster, of which only healthy endpoints are used: neither its rules nor its own failover count. Requests
//! for a subset go to the endpoints that the same rule selects, where the target is the same service elsewhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::upstream::subset::Subset;

/// The failover of a cluster.
#[derive(Debug)]
pub(crate) struct Failover {
    /// How long own endpoints have to be healthy without a break before requests return to them.
    pub(crate) return_after: Duration,
    /// In the order of use.
    pub(crate) targets: Box<[FailoverTarget]>,
}

/// One target.
#[derive(Debug)]
pub(crate) struct FailoverTarget {
    /// The label of its cluster.
    pub(crate) label: Arc<str>,
    /// The datacenter, where it is the same service there.
    pub(crate) datacenter: Option<Arc<str>>,
    /// Whether a warning says that this is the service's own datacenter.
    pub(crate) is_reported: Arc<AtomicBool>,
    /// All its endpoints.
    pub(crate) all: Arc<Subset>,
    /// What takes the place of each subset. A subset that is not here has all endpoints.
    pub(crate) subsets: Box<[SubsetPair]>,
    /// Attempts that went to it.
    pub(crate) attempts: Arc<AtomicU64>,
}

/// A subset, and what takes its place.
#[derive(Debug)]
pub(crate) struct SubsetPair {
    pub(crate) own: Arc<Subset>,
    pub(crate) target: Arc<Subset>,
}

impl FailoverTarget {
    /// What takes the place of a subset, or of all endpoints.
    pub(crate) fn of(&self, subset: Option<&Subset>) -> &Arc<Subset> {
        let pair = subset.and_then(|own| self.subsets.iter().find(|pair| std::ptr::eq(&*pair.own, own)));
        pair.map_or(&self.all, |pair| &pair.target)
    }

    /// Whether it has the instances of the service itself, which is in the datacenter `own`.
    pub(crate) fn is_in(&self, own: &str) -> bool {
        self.datacenter.as_ref().is_some_and(|datacenter| datacenter.eq_ignore_ascii_case(own))
    }

    /// Counts an attempt.
    pub(crate) fn count_attempt(&self) {
        self.attempts.fetch_add(1, Relaxed);
    }
}

impl Failover {
    /// Whether a target can take requests for a subset, or for all endpoints.
    pub(crate) fn has_healthy(&self, subset: Option<&Subset>) -> bool {
        self.targets.iter().any(|target| target.of(subset).set().has_healthy())
    }
}

/// What chains name of one cluster.
#[derive(Debug)]
pub(crate) struct ExactTargets(pub(crate) Vec<ExactSet>);

/// The endpoints of a target of a chain.
#[derive(Debug)]
pub(crate) struct ExactSet {
    pub(crate) set: Arc<Subset>,
    /// `None`: its requests go nowhere else.
    pub(crate) failover: Option<Arc<Failover>>,
}

impl ExactTargets {
    /// Whether the requests of every target have somewhere else to go.
    pub(crate) fn have_healthy(&self) -> bool {
        let has_healthy = |ExactSet { set, failover }: &ExactSet| {
            failover.as_ref().is_some_and(|one| one.has_healthy(Some(&**set)))
        };
        !self.0.is_empty() && self.0.iter().all(has_healthy)
    }
}
