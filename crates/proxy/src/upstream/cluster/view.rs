//! What a request reads of a cluster.

use std::sync::Arc;

use outrigger_discovery::Snapshot;
use outrigger_registry::{InstanceId, LastResort};

use super::settings::ClusterSettings;
use crate::upstream::{endpoint::Endpoint, pick_set::PickSet};

/// What a request reads, replaced as a whole.
#[derive(Debug)]
pub(crate) struct View {
    /// Every endpoint that a request may pick.
    pub(crate) set: PickSet,
    /// Endpoints that are not usable now: they keep their load and series, and their idle connections age. Sorted by identity.
    pub(crate) not_serving: Box<[Arc<Endpoint>]>,
    /// Instances at the address of another one, which gives its id to their endpoint. Sorted by identity.
    pub(crate) aliases: Box<[(InstanceId, Arc<Endpoint>)]>,
    /// Instances at addresses that this sidecar listens on: without an endpoint, because it would call itself.
    pub(crate) own: Vec<InstanceId>,
    pub(crate) settings: Arc<ClusterSettings>,
    /// The snapshot that the View shows.
    pub(crate) snapshot: Arc<Snapshot>,
}

impl View {
    /// Every endpoint of the cluster.
    pub(crate) fn all_endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.set.endpoints.iter().chain(&self.not_serving)
    }

    /// The endpoint of an instance.
    pub(crate) fn endpoint_of(&self, id: &InstanceId) -> Option<&Arc<Endpoint>> {
        // All keep the order of the snapshot, which is sorted by identity.
        let listed = [&self.set.endpoints, &self.not_serving].into_iter().find_map(|sorted| {
            let at = sorted.binary_search_by(|one| one.id.cmp(id)).ok()?;
            sorted.get(at)
        });
        listed.or_else(|| {
            let at = self.aliases.binary_search_by(|(alias, _)| alias.cmp(id)).ok()?;
            self.aliases.get(at).map(|(_, endpoint)| endpoint)
        })
    }
}

/// What a last resort is, in texts.
pub(crate) fn last_resort_label(kind: LastResort) -> &'static str {
    match kind {
        LastResort::Draining => "draining",
        LastResort::NodeLost => "critical by its node alone",
    }
}
