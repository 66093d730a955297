//! What a pick reads of a cluster.

use std::{collections::HashSet, sync::Arc};

use outrigger_discovery::Snapshot;
use outrigger_policy::{LoadBalancer, outlier_detection::EjectionState};
use outrigger_registry::{InstanceId, LastResort};

use super::settings::ClusterSettings;
use crate::upstream::endpoint::Endpoint;

/// What a pick reads, replaced as a whole.
#[derive(Debug)]
pub(crate) struct View {
    /// The usable endpoints, in the balancer's order.
    pub(crate) endpoints: Box<[Arc<Endpoint>]>,
    /// Endpoints that are not usable now: they keep their load and series, and their idle connections age.
    pub(crate) not_serving: Box<[Arc<Endpoint>]>,
    /// Instances at the address of another one, which gives its id to their endpoint. Sorted by identity.
    pub(crate) aliases: Box<[(InstanceId, Arc<Endpoint>)]>,
    /// Instances at addresses that this sidecar listens on: without an endpoint, because it would call itself.
    pub(crate) own: Vec<InstanceId>,
    pub(crate) balancer: LoadBalancer,
    /// Those of `not_serving` that may be picked where no endpoint is healthy; in the order of use, none is empty.
    pub(crate) last_resorts: Box<[LastResorts]>,
    pub(crate) settings: Arc<ClusterSettings>,
    /// The snapshot that the View shows.
    pub(crate) snapshot: Arc<Snapshot>,
}

/// Endpoints that may be picked where no endpoint is healthy, for one reason.
#[derive(Debug)]
pub(crate) struct LastResorts {
    pub(crate) kind: LastResort,
    /// In the balancer's order.
    pub(crate) endpoints: Box<[Arc<Endpoint>]>,
    pub(crate) balancer: LoadBalancer,
}

impl View {
    /// The endpoint of an instance.
    pub(crate) fn endpoint_of(&self, id: &InstanceId) -> Option<&Arc<Endpoint>> {
        // All keep the order of the snapshot, which is sorted by identity.
        let listed = [&self.endpoints, &self.not_serving].into_iter().find_map(|sorted| {
            let at = sorted.binary_search_by(|one| one.id.cmp(id)).ok()?;
            sorted.get(at)
        });
        listed.or_else(|| {
            let at = self.aliases.binary_search_by(|(alias, _)| alias.cmp(id)).ok()?;
            self.aliases.get(at).map(|(_, endpoint)| endpoint)
        })
    }

    /// The last resorts that are picked now: of several kinds, the first with a usable endpoint.
    pub(crate) fn last_resort_in_use(&self) -> Option<LastResort> {
        if self.endpoints.iter().any(|one| is_healthy(one, true)) {
            return None;
        }
        let is_usable =
            |one: &&LastResorts| one.endpoints.iter().any(|one| one.is_usable_as_last_resort(true));
        self.last_resorts.iter().find(is_usable).map(|one| one.kind)
    }

    /// The last resorts of this kind.
    fn last_resorts_of(&self, kind: LastResort) -> &[Arc<Endpoint>] {
        self.last_resorts.iter().find(|one| one.kind == kind).map_or(&[], |one| &one.endpoints)
    }

    /// The endpoints that stand for the service: those in service, or, where there is none, those of lost nodes.
    pub(super) fn standing(&self) -> &[Arc<Endpoint>] {
        if self.endpoints.is_empty() { self.last_resorts_of(LastResort::NodeLost) } else { &self.endpoints }
    }

    /// Whether an endpoint stands for the service here that does not in `other`.
    pub(super) fn has_new_endpoint(&self, other: &Self) -> bool {
        let before: HashSet<_> = other.standing().iter().map(Arc::as_ptr).collect();
        self.standing().iter().any(|one| !before.contains(&Arc::as_ptr(one)))
    }
}

/// Whether a pick may take the endpoint, and not only because panic mode lets it take any.
pub(super) fn is_healthy(one: &Endpoint, retryable: bool) -> bool {
    one.is_usable(retryable) && one.stats.ejection_state() != EjectionState::Panic
}

/// What a last resort is, in texts.
pub(crate) fn last_resort_label(kind: LastResort) -> &'static str {
    match kind {
        LastResort::Draining => "draining",
        LastResort::NodeLost => "critical by its node alone",
    }
}
