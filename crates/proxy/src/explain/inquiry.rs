//! What the parts of an explanation share: the request, the service that it reaches, and where that is.

use std::{sync::Arc, time::Duration};

use outrigger_config::{self as config, Origins, describe_origin};
use outrigger_policy::retry::RequestTraits;
use tokio::time::Instant;

use super::model::ExplainedRefusal;
use crate::{
    reason::Refusal,
    upstream::{
        cluster::{Cluster, ClusterKey},
        manager::{ClusterManager, PlacedSettings},
        over::LinkedFailover,
        subset::Subset,
        traffic::Traffic,
    },
};

/// The request, and what it is looked at with.
#[derive(Clone, Copy)]
pub(super) struct Inquiry<'a> {
    pub(super) origins: &'a Origins,
    pub(super) clusters: &'a ClusterManager,
    pub(super) now: Instant,
    pub(super) traits: RequestTraits,
    /// The time that the app itself allows.
    pub(super) own_deadline: Option<Duration>,
}

impl Way<'_> {
    /// The subset, unless it is one without a name, of all instances.
    pub(super) fn named_subset(&self) -> Option<&Subset> {
        self.subset.filter(|subset| !subset.name().is_empty())
    }
}

impl Inquiry<'_> {
    /// Where a rule comes from.
    pub(super) fn origin(&self, key: &str) -> String {
        describe_origin(self.origins, key)
    }
}

/// A service, open or not.
#[derive(Debug)]
pub(super) struct KnownService {
    pub(super) key: ClusterKey,
    /// `None`: it is not open.
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) placed: PlacedSettings,
    pub(super) traffic: Option<Arc<Traffic>>,
}

/// What a route, or a target of a chain, sets of the policy of the service.
#[derive(Debug)]
pub(super) struct RoutePolicy {
    /// The key of that.
    pub(super) key: String,
    pub(super) policy: Arc<config::Policy>,
    /// The settings that it changes.
    pub(super) base: PlacedSettings,
}

/// The end of a request's way.
pub(super) struct Way<'a> {
    pub(super) share: f64,
    pub(super) service: &'a KnownService,
    pub(super) subset: Option<&'a Subset>,
    pub(super) route: Option<&'a RoutePolicy>,
    pub(super) failover: Option<Arc<LinkedFailover>>,
    /// The key of what a chain names.
    pub(super) target: Option<&'a str>,
    /// Where the route sends the request while its target has no usable instance.
    pub(super) on_empty: Option<&'a str>,
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn describe_refusal(refusal: &Refusal) -> ExplainedRefusal {
    ExplainedRefusal {
        reason: refusal.reason.label(),
        status: refusal.reason.status(),
        detail: refusal.detail.clone(),
        retry_after_ms: refusal.retry_after.map(millis),
    }
}
