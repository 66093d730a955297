//! The clusters, changed under a lock.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use outrigger_config as config;
use outrigger_net::tls::ClientTls;
use outrigger_registry::Query;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::quota::{EvictionRank, Quota};
use crate::upstream::{
    cluster::{Cluster, ClusterKey},
    reconcile::SettingsUpdate,
};

/// The clusters, changed under a lock.
#[derive(Debug, Default)]
pub(super) struct ClusterTable {
    pub(super) clusters: HashMap<ClusterKey, ManagedCluster>,
    pub(super) closed: bool,
}

/// A cluster with its one writer.
#[derive(Debug)]
pub(super) struct ManagedCluster {
    pub(super) cluster: Arc<Cluster>,
    pub(super) task: JoinHandle<()>,
    pub(super) updates: mpsc::UnboundedSender<SettingsUpdate>,
}

impl ManagedCluster {
    /// Sends new settings to the writer; the receiver resolves when they are in effect. `None`: no change.
    pub(super) fn apply_settings(
        &self,
        policy: &config::Policy,
        rules: &config::TrafficRules,
        tls: Option<&Arc<ClientTls>>,
        declared: bool,
    ) -> Option<oneshot::Receiver<()>> {
        let differs = self.cluster.view.load().settings.differs(policy, rules, tls);
        if !differs && self.cluster.is_declared() == declared {
            return None;
        }
        self.cluster.set_declared(declared);
        let (applied, done) = oneshot::channel();
        // An error: the writer has ended with its cluster.
        let change = Some((policy.clone(), rules.clone(), tls.cloned()));
        let _ = self.updates.send(SettingsUpdate { change, applied });
        Some(done)
    }

    /// Lets the writer give each subset its endpoints; the receiver resolves when they have them.
    pub(super) fn fill_subsets(&self) -> oneshot::Receiver<()> {
        let (applied, done) = oneshot::channel();
        let _ = self.updates.send(SettingsUpdate { change: None, applied });
        done
    }
}

impl ClusterTable {
    /// The quota that leaves no room for `query`. Discovery counts watched services, declared ones included; here every cluster on
    /// demand counts too, because each costs a task and an endpoint per instance, and tags can be invented as easily as names.
    pub(super) fn reached_quota(&self, query: &Query, settings: &config::DiscoverySettings) -> Option<Quota> {
        let on_demand = || self.clusters.values().map(|one| &one.cluster).filter(|one| !one.is_declared());
        let watched: HashSet<_> = self.clusters.values().map(|one| one.cluster.query()).collect();
        let is_watched = watched.contains(query);
        if on_demand().count() >= settings.max_services
            || !is_watched && watched.len() >= settings.max_services
        {
            return Some(Quota::Services);
        }
        let unknown = on_demand().filter(|one| EvictionRank::of(one) == EvictionRank::NeverListed).count();
        (unknown >= settings.max_unknown).then_some(Quota::Unknown)
    }

    /// The cluster on demand that makes room in a quota: one that never had an instance before others, then the one with the
    /// oldest last request; those with requests in flight come last.
    pub(super) fn oldest_on_demand(&self, quota: Quota) -> Option<ClusterKey> {
        let ranked = self.clusters.iter().filter(|(_, one)| !one.cluster.is_declared()).map(|(key, one)| {
            let cluster = &one.cluster;
            let used = (cluster.is_in_use(), cluster.last_used_at(), cluster.opened_at);
            ((EvictionRank::of(cluster), used), key)
        });
        let is_in_quota = |rank: EvictionRank| quota == Quota::Services || rank == EvictionRank::NeverListed;
        let oldest = ranked.filter(|((rank, _), _)| is_in_quota(*rank)).min_by_key(|(age, _)| *age);
        oldest.map(|(_, key)| key.clone())
    }
}

impl Drop for ClusterTable {
    fn drop(&mut self) {
        for managed in self.clusters.values() {
            managed.task.abort();
        }
    }
}
