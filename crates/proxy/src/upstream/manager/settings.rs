//! What the settings say of clusters.

use outrigger_config as config;

use crate::{host::HostNames, upstream::cluster::ClusterKey};

/// The settings until the next reload.
#[derive(Debug)]
pub(super) struct ManagerSettings {
    pub(super) discovery: config::DiscoverySettings,
    defaults: config::Policy,
    pub(super) upstreams: Vec<config::Upstream>,
    tuned: Vec<config::TunedService>,
    pub(super) names: HostNames,
    no_rules: config::TrafficRules,
}

impl ManagerSettings {
    pub(super) fn new(config: &config::Config) -> Self {
        Self {
            discovery: config.discovery,
            defaults: config.defaults.clone(),
            upstreams: config.upstreams.clone(),
            tuned: config.tuned.clone(),
            names: HostNames::new(config),
            no_rules: config::TrafficRules::default(),
        }
    }

    pub(super) fn find_declared(&self, key: &ClusterKey) -> Option<&config::Upstream> {
        self.upstreams.iter().find(|upstream| upstream_key(upstream) == *key)
    }

    /// The traffic rules. Those of an upstream hold for what it declares, and for no other form of the service; those of documents hold
    /// for the service as a whole, where no upstream is about it.
    pub(super) fn rules_for(&self, key: &ClusterKey) -> &config::TrafficRules {
        let is_whole = key.tags.is_empty() && key.datacenter.is_none();
        let tuned = || self.tuned.iter().find(|tuned| tuned.service.eq_ignore_ascii_case(&key.service));
        let declared = self.find_declared(key).map(|upstream| &upstream.traffic);
        let rules = declared.or_else(|| tuned().filter(|_| is_whole).map(|tuned| &tuned.traffic));
        rules.unwrap_or(&self.no_rules)
    }

    /// An undeclared form of a declared service has the policy of that service.
    pub(super) fn policy_for(&self, key: &ClusterKey) -> &config::Policy {
        let same = |upstream: &&config::Upstream| upstream.service.eq_ignore_ascii_case(&key.service);
        let declared = self.find_declared(key).or_else(|| self.upstreams.iter().find(same));
        let tuned = || self.tuned.iter().find(|tuned| tuned.service.eq_ignore_ascii_case(&key.service));
        let policy = declared.map(|upstream| &upstream.policy);
        policy.or_else(|| tuned().map(|tuned| &tuned.policy)).unwrap_or(&self.defaults)
    }
}

/// The cluster key of an upstream.
pub(crate) fn upstream_key(upstream: &config::Upstream) -> ClusterKey {
    ClusterKey::new(&upstream.service, upstream.datacenter.as_deref(), &upstream.tags)
}
