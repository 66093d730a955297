//! Ties a cluster to the targets of its failover.

use std::sync::Arc;

use outrigger_config as config;

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
            all: target.live_subsets.join(&everything(), balance),
            subsets: pairs.collect(),
            attempts: known.map(|known| known.attempts.clone()).unwrap_or_default(),
        }
    });
    let failover = Failover { return_after: rule.return_after, targets: links.collect() };
    Some(Arc::new(LinkedFailover { failover: Arc::new(failover), clusters: targets.into() }))
}

/// The subset that has every endpoint.
fn everything() -> config::Subset {
    config::Subset::of_all("")
}
