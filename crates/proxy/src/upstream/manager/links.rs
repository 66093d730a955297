//! Ties a cluster to the targets of its failover.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use outrigger_config as config;
use tracing::warn;

use crate::upstream::{
    cluster::Cluster,
    failover::{Failover, FailoverTarget, SubsetPair},
    over::LinkedFailover,
};

/// The failover of a cluster with these rules. `before`: what it replaces, of which the counts go on.
pub(super) fn link(
    cluster: &Arc<Cluster>,
    rules: &config::TrafficRules,
    targets: Vec<Arc<Cluster>>,
    before: Option<&Arc<LinkedFailover>>,
) -> Option<Arc<LinkedFailover>> {
    let rule = rules.failover.as_ref().filter(|_| !targets.is_empty())?;
    let own = cluster.view.load().settings.policy.balance;
    let links = targets.iter().map(|target| {
        let balance = target.view.load().settings.policy.balance;
        // Another service has other metadata and tags: all its endpoints take the place of each subset.
        let is_same = target.key.service == cluster.key.service;
        let pairs = rules.subsets.iter().filter(|_| is_same).map(|rule| SubsetPair {
            own: cluster.live_subsets.get(rule, own),
            target: target.live_subsets.join(rule, balance),
        });
        let known = before.iter().flat_map(|before| &before.failover.targets);
        let known = known.clone().find(|known| known.label == target.label);
        FailoverTarget {
            label: target.label.clone(),
            datacenter: target
                .key
                .datacenter
                .clone()
                .filter(|_| is_same && target.key.tags == cluster.key.tags),
            is_reported: known.map(|known| known.is_reported.clone()).unwrap_or_default(),
            all: target.live_subsets.join(&everything(), balance),
            subsets: pairs.collect(),
            attempts: known.map(|known| known.attempts.clone()).unwrap_or_default(),
        }
    });
    let failover = Failover { return_after: rule.return_after, targets: links.collect() };
    Some(Arc::new(LinkedFailover { failover: Arc::new(failover), clusters: targets.into() }))
}

/// Says once of each target that it is the cluster's own datacenter, which is known once an instance is.
pub(super) fn report_own_datacenter(cluster: &Cluster) {
    let failover = cluster.failover.load();
    let Some(failover) = &*failover else { return };
    let Some(own) = cluster.datacenter() else { return };
    for target in failover.targets.iter().filter(|target| target.is_in(&own)) {
        if !target.is_reported.swap(true, Relaxed) {
            warn!(
                service = %cluster.label, target = %target.label,
                "this failover target is the service's own datacenter: no other instances are there"
            );
        }
    }
}

/// The subset that has every endpoint.
fn everything() -> config::Subset {
    config::Subset::of_all("")
}
