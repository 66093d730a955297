//! What the settings say of clusters.

use std::fmt;

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
    has_failover: bool,
    /// The own service, where a zone asks for its instances.
    caller: Option<ClusterKey>,
}

/// Where settings of a cluster are. Displays as their key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SettingsPlace {
    /// In the upstream with this number.
    Upstream(usize),
    /// In documents alone: in the service with this number.
    Tuned(usize),
    Defaults,
}

impl fmt::Display for SettingsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(at) => write!(f, "upstreams[{at}]"),
            Self::Tuned(at) => write!(f, "x-services[{at}]"),
            Self::Defaults => f.write_str("defaults"),
        }
    }
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
            caller: config.services.first().map(|service| ClusterKey::new(&service.name, None, &[])),
            has_failover: config
                .upstreams
                .iter()
                .map(|upstream| &upstream.traffic)
                .chain(config.tuned.iter().map(|tuned| &tuned.traffic))
                .any(|rules| rules.failover.is_some() || rules.zone.is_some()),
        }
    }

    pub(super) fn find_declared(&self, key: &ClusterKey) -> Option<&config::Upstream> {
        self.upstreams.iter().find(|upstream| upstream_key(upstream) == *key)
    }

    /// The traffic rules. Those of an upstream hold for what it declares, and for no other form of the service; those of documents hold
    /// for the service as a whole, where no upstream is about it.
    pub(super) fn rules_for(&self, key: &ClusterKey) -> &config::TrafficRules {
        self.rules_at(self.rules_place(key)).unwrap_or(&self.no_rules)
    }

    fn rules_at(&self, place: SettingsPlace) -> Option<&config::TrafficRules> {
        match place {
            SettingsPlace::Upstream(at) => Some(&self.upstreams.get(at)?.traffic),
            SettingsPlace::Tuned(at) => Some(&self.tuned.get(at)?.traffic),
            SettingsPlace::Defaults => None,
        }
    }

    /// Where the traffic rules of a cluster are.
    pub(super) fn rules_place(&self, key: &ClusterKey) -> SettingsPlace {
        let is_whole = key.tags.is_empty() && key.datacenter.is_none();
        let declared = self.upstreams.iter().position(|upstream| upstream_key(upstream) == *key);
        let tuned = || self.tuned_place(key).filter(|_| is_whole);
        declared.map(SettingsPlace::Upstream).or_else(tuned).unwrap_or(SettingsPlace::Defaults)
    }

    fn tuned_place(&self, key: &ClusterKey) -> Option<SettingsPlace> {
        let tuned = self.tuned.iter().position(|tuned| tuned.service.eq_ignore_ascii_case(&key.service));
        tuned.map(SettingsPlace::Tuned)
    }

    /// Whether any service has a failover, or zones.
    pub(super) fn has_failover(&self) -> bool {
        self.has_failover
    }

    /// The clusters to which the requests of a cluster may go by its failover, in the order of use.
    pub(super) fn targets_of(&self, key: &ClusterKey) -> Vec<ClusterKey> {
        if !self.has_failover {
            return Vec::new();
        }
        let failover = self.rules_for(key).failover.as_ref();
        let mut out: Vec<ClusterKey> = Vec::new();
        for target in failover.into_iter().flat_map(|failover| &failover.targets) {
            let datacenter = target.datacenter.as_deref();
            let target = match &target.service {
                None => ClusterKey { datacenter: datacenter.map(Into::into), ..key.clone() },
                Some(service) if datacenter.is_some() => ClusterKey::new(service, datacenter, &[]),
                Some(service) => self.key_of_name(service),
            };
            if target != *key && !out.contains(&target) {
                out.push(target);
            }
        }
        out
    }

    /// The cluster of the instances that call a cluster, where zones count.
    pub(super) fn caller_of(&self, key: &ClusterKey) -> Option<&ClusterKey> {
        self.caller.as_ref().filter(|_| self.rules_for(key).zone.is_some())
    }

    /// The clusters that are watched as long as this one is.
    pub(super) fn watched_with(&self, key: &ClusterKey) -> Vec<ClusterKey> {
        let mut out = self.targets_of(key);
        out.extend(self.caller_of(key).filter(|caller| *caller != key).cloned());
        out
    }

    /// The cluster that the name of a service alone means: a form that is declared, if there is one.
    fn key_of_name(&self, service: &str) -> ClusterKey {
        let mut forms = self.upstreams.iter().filter(|one| one.service.eq_ignore_ascii_case(service));
        let first = forms.clone().find(|one| one.is_whole_service()).or_else(|| forms.next());
        first.map_or_else(|| ClusterKey::new(service, None, &[]), upstream_key)
    }

    /// An undeclared form of a declared service has the policy of that service.
    pub(super) fn policy_for(&self, key: &ClusterKey) -> &config::Policy {
        let found = match self.policy_place(key) {
            SettingsPlace::Upstream(at) => self.upstreams.get(at).map(|upstream| &upstream.policy),
            SettingsPlace::Tuned(at) => self.tuned.get(at).map(|tuned| &tuned.policy),
            SettingsPlace::Defaults => None,
        };
        found.unwrap_or(&self.defaults)
    }

    /// Where the policy of a cluster is.
    pub(super) fn policy_place(&self, key: &ClusterKey) -> SettingsPlace {
        let same = |upstream: &config::Upstream| upstream.service.eq_ignore_ascii_case(&key.service);
        let declared = self.upstreams.iter().position(|upstream| upstream_key(upstream) == *key);
        let declared = declared.or_else(|| self.upstreams.iter().position(same));
        let place = declared.map(SettingsPlace::Upstream).or_else(|| self.tuned_place(key));
        place.unwrap_or(SettingsPlace::Defaults)
    }
}

/// The cluster key of an upstream.
pub(crate) fn upstream_key(upstream: &config::Upstream) -> ClusterKey {
    ClusterKey::new(&upstream.service, upstream.datacenter.as_deref(), &upstream.tags)
}
