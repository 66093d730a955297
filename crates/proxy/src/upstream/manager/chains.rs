//! What the registry says of the requests of services: followed for each cluster of which the file and documents say nothing of that.
//!
//! Other rules come into effect when the endpoints that they name are there: what they name is opened first, then waited for, and
//! then requests are sent by the rules.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use outrigger_config::{self as config, Failover as FailoverRule, Subset as SubsetRule};
use outrigger_discovery::{ChainNews, ChainRules};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::info;

use super::{
    ClusterManager, ClusterTable, MAX_FIRST_ANSWER_WAIT, ManagedCluster,
    settings::{ManagerSettings, is_whole, place_key},
};
use crate::upstream::{
    chain_state::ChainState,
    cluster::{Cluster, ClusterKey},
    exact::LinkedTarget,
    failover::{ExactSet, ExactTargets, Failover, FailoverTarget},
    over::LinkedFailover,
    subset::Subset,
};

impl ClusterManager {
    /// Follows the chain of a cluster, as long as it counts.
    pub(super) async fn follow_chain(manager: Weak<Self>, cluster: Arc<Cluster>) {
        if !is_whole(&cluster.key) {
            return;
        }
        let Some(mut routing) = manager.upgrade().map(|manager| manager.routing.subscribe()) else { return };
        let mut follower = None;
        loop {
            let Some(this) = manager.upgrade() else { return };
            routing.borrow_and_update();
            let settings = this.settings.load_full();
            if !settings.wants_chain(&cluster.key) {
                follower = None;
                let is_ignored = settings.may_have_chain(&cluster.key);
                cluster.chain.store(is_ignored.then(|| Arc::new(ChainState::Ignored)));
                this.set_chain(&cluster, None).await;
                drop(this);
                if routing.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if follower.is_none() {
                cluster.chain.store(Some(Arc::new(ChainState::Unasked)));
            }
            let following =
                follower.get_or_insert_with(|| this.discovery.follow_chain(cluster.key.service.clone()));
            drop((this, settings));
            let news = tokio::select! {
                news = following.next() => news,
                changed = routing.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let Some(this) = manager.upgrade() else { return };
            match news {
                ChainNews::Changed(rules) => this.set_chain(&cluster, Some(rules)).await,
                ChainNews::Unavailable(why) => {
                    cluster.chain.store(Some(Arc::new(ChainState::Unavailable(why))));
                    cluster.is_routed.send_replace(true);
                }
            }
        }
    }

    /// Puts the rules of a chain in place. Returns when the next request reads them.
    async fn set_chain(&self, cluster: &Arc<Cluster>, chain: Option<Arc<ChainRules>>) {
        let service = &cluster.key.service;
        if chain.is_none() && !self.settings.load().chains.contains_key(service) {
            cluster.is_routed.send_replace(true);
            return;
        }
        let (fills, new) = {
            let mut table = self.table.lock();
            let before = self.settings.load_full();
            if before.chains.get(service) == chain.as_ref() {
                (Vec::new(), Vec::new())
            } else {
                let mut settings = (*before).clone();
                settings.set_chain(service, chain.clone());
                self.settings.store(Arc::new(settings));
                self.link_failovers(&mut table);
                self.publish_names(&table);
                self.fill_targets(&table, &cluster.key)
            }
        };
        let ready = async {
            wait_done(fills).await;
            // A cluster that has no answer itself takes no request yet.
            if cluster.has_answer() {
                for target in new {
                    target.wait_for_first_answer().await;
                }
                let sets = self.sets_of(&cluster.key);
                for set in sets.iter().filter(|set| set.asked_filter().is_some()) {
                    set.wait_until_listed().await;
                    let fills = self.fill_targets(&self.table.lock(), &cluster.key).0;
                    wait_done(fills).await;
                }
            }
        };
        let _ = timeout(MAX_FIRST_ANSWER_WAIT, ready).await;
        let pending = {
            let table = self.table.lock();
            self.show_chain(cluster, chain.as_ref());
            Self::apply_to_open(&table, &self.settings.load())
        };
        cluster.is_routed.send_replace(true);
        let _ = timeout(MAX_FIRST_ANSWER_WAIT, wait_done(pending)).await;
        if let Some(chain) = chain {
            let targets = chain.rules.exact_targets().len();
            info!(%service, routes = chain.rules.routes.len(), targets, "Consul's chain is in effect");
        }
    }

    /// Lets the clusters of a chain's targets give the subsets their endpoints. Those without an answer have none to give; they are
    /// returned beside.
    fn fill_targets(
        &self,
        table: &ClusterTable,
        key: &ClusterKey,
    ) -> (Vec<oneshot::Receiver<()>>, Vec<Arc<Cluster>>) {
        let settings = self.settings.load();
        let targets = settings.rules_for(key).exact_targets();
        let places =
            targets.into_iter().flat_map(|target| [&target.place].into_iter().chain(&target.failover));
        let managed = places.filter_map(|place| table.clusters.get(&place_key(place)));
        let (known, new): (Vec<_>, Vec<_>) = managed.partition(|managed| managed.cluster.has_answer());
        let fills = known.into_iter().map(ManagedCluster::fill_subsets).collect();
        (fills, new.into_iter().map(|managed| managed.cluster.clone()).collect())
    }

    /// The sets of what the chain of a cluster names.
    fn sets_of(&self, key: &ClusterKey) -> Vec<Arc<Subset>> {
        let chains = self.chains.load();
        let targets = chains.get(key).into_iter().flat_map(|all| all.iter());
        let sets = targets.flat_map(|target| {
            let failover = target.failover.iter().flat_map(|linked| &linked.failover.targets);
            [&target.set].into_iter().chain(failover.map(|target| &target.all))
        });
        sets.cloned().collect()
    }

    fn show_chain(&self, cluster: &Cluster, chain: Option<&Arc<ChainRules>>) {
        let Some(chain) = chain else { return };
        let linked = self.chains.load();
        let all = linked.get(&cluster.key);
        let known = chain.rules.exact_targets();
        let targets = all.into_iter().flat_map(|all| all.iter()).filter(|one| known.contains(&&one.rule));
        let targets = targets.map(|one| (one.rule.place.id.clone(), one.set.clone())).collect();
        cluster.chain.store(Some(Arc::new(ChainState::Known { chain: chain.clone(), targets })));
    }

    /// What a chain names, for a request to the service that the chain is of.
    pub(crate) fn exact_target(
        &self,
        own: &ClusterKey,
        rule: &Arc<config::ExactTarget>,
    ) -> Option<Arc<LinkedTarget>> {
        let chains = self.chains.load();
        let all = chains.get(own)?;
        let same = all.iter().find(|one| Arc::ptr_eq(&one.rule, rule));
        same.or_else(|| all.iter().find(|one| one.rule == *rule)).cloned()
    }

    /// Ties what the chains name to its clusters. What the rules of a View still name stays.
    pub(super) fn link_chains(&self, table: &ClusterTable, settings: &ManagerSettings) {
        let before = self.chains.load_full();
        let mut linked: HashMap<ClusterKey, Arc<[Arc<LinkedTarget>]>> = HashMap::new();
        for (key, managed) in &table.clusters {
            let view = managed.cluster.view.load();
            let used = view.settings.traffic.as_ref().map(|traffic| traffic.rules.exact_targets());
            let mut rules = settings.rules_for(key).exact_targets();
            rules.extend(used.into_iter().flatten());
            if rules.is_empty() {
                continue;
            }
            let known = before.get(key);
            let mut out: Vec<Arc<LinkedTarget>> = Vec::new();
            for rule in rules {
                if out.iter().any(|one| one.rule == *rule) {
                    continue;
                }
                let same = known.and_then(|known| known.iter().find(|one| one.rule == *rule));
                let is_current = |one: &Arc<LinkedTarget>| {
                    let failover = one.failover.iter().flat_map(|failover| failover.clusters.iter());
                    [&one.cluster].into_iter().chain(failover).all(|cluster| {
                        let now = table.clusters.get(&cluster.key);
                        now.is_some_and(|now| Arc::ptr_eq(&now.cluster, cluster))
                    })
                };
                let same = same.filter(|one| is_current(one)).cloned();
                let before =
                    known.and_then(|known| known.iter().find(|one| one.rule.place.id == rule.place.id));
                out.extend(same.or_else(|| link_target(table, rule, before.map(|one| &**one)).map(Arc::new)));
            }
            linked.insert(key.clone(), out.into());
        }
        if linked.is_empty() && before.is_empty() {
            return;
        }
        for (key, managed) in &table.clusters {
            let targets = linked.values().flat_map(|all| all.iter());
            let own = targets.filter(|target| target.cluster.key == *key).map(|target| ExactSet {
                set: target.set.clone(),
                failover: target.failover.as_ref().map(|linked| linked.failover.clone()),
            });
            let own: Vec<_> = own.collect();
            let own = (!own.is_empty()).then(|| Arc::new(ExactTargets(own)));
            managed.cluster.exact_targets.store(own);
            managed.cluster.check_failover(Instant::now());
        }
        self.chains.store(Arc::new(linked));
    }

    /// Forgets the chains of clusters that are gone, and what no rules name any more.
    pub(super) fn forget_chains(&self) {
        let settings = self.settings.load_full();
        if settings.chains.is_empty() && self.chains.load().is_empty() {
            return;
        }
        let table = self.table.lock();
        let is_open = |service: &Arc<str>| table.clusters.contains_key(&ClusterKey::new(service, None, &[]));
        let settings = self.settings.load_full();
        let gone: Vec<_> = settings.chains.keys().filter(|service| !is_open(service)).collect();
        if !gone.is_empty() {
            let mut new = (*settings).clone();
            gone.iter().for_each(|service| new.set_chain(service, None));
            self.settings.store(Arc::new(new));
        }
        self.link_chains(&table, &self.settings.load());
    }
}

/// Waits until the writers have done what was asked of them.
async fn wait_done(pending: Vec<oneshot::Receiver<()>>) {
    for one in pending {
        // An error: the cluster is gone.
        let _ = one.await;
    }
}

/// `before`: what it replaces. `None`: a cluster of it is not open.
fn link_target(
    table: &ClusterTable,
    rule: &Arc<config::ExactTarget>,
    before: Option<&LinkedTarget>,
) -> Option<LinkedTarget> {
    let find = |place: &config::ExactPlace| {
        let cluster = &table.clusters.get(&place_key(place))?.cluster;
        let balance = cluster.view.load().settings.policy.balance;
        let subset = place.subset.clone().unwrap_or_else(|| SubsetRule::of_all(""));
        Some((cluster.clone(), cluster.live_subsets.join(&subset, balance)))
    };
    let (cluster, set) = find(&rule.place)?;
    if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.cluster, &cluster)) {
        set.assume_same(&before.set, &cluster.view.load().snapshot.instances);
    }
    let (clusters, sets): (Vec<_>, Vec<_>) = rule.failover.iter().filter_map(find).unzip();
    let failover = (!clusters.is_empty()).then(|| {
        let targets = clusters.iter().zip(sets).map(|(cluster, all)| FailoverTarget {
            datacenter: None,
            is_reported: Arc::default(),
            label: cluster.label.clone(),
            all,
            subsets: Box::default(),
            attempts: Arc::default(),
        });
        let targets = targets.collect();
        let failover = Arc::new(Failover { return_after: FailoverRule::RETURN_AFTER, targets });
        Arc::new(LinkedFailover { failover, clusters: clusters.into() })
    });
    Some(LinkedTarget { rule: rule.clone(), cluster, set, failover })
}
