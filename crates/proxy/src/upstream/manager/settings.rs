//! What the settings say of clusters.

use std::{collections::HashMap, fmt, sync::Arc};

use outrigger_config as config;
use outrigger_discovery::ChainRules;
use outrigger_net::tls::{ClientTls, TlsError};
use outrigger_registry::Query;

use crate::{
    host::HostNames,
    transport::streams::{ALPN_HTTP1, ALPN_HTTP2},
    upstream::cluster::ClusterKey,
};

/// The settings until the next reload. A copy is cheap: a chain that changes makes one.
#[derive(Debug, Clone)]
pub(super) struct ManagerSettings {
    pub(super) discovery: config::DiscoverySettings,
    defaults: Arc<config::Policy>,
    pub(super) upstreams: Arc<[config::Upstream]>,
    /// TLS to the instances of each upstream.
    tls: Arc<[Option<Arc<ClientTls>>]>,
    tuned: Arc<[config::TunedService]>,
    pub(super) names: Arc<HostNames>,
    no_rules: Arc<config::TrafficRules>,
    has_failover: bool,
    /// The registry's chains count.
    has_routing: bool,
    /// What the registry says of the requests of services that are open.
    pub(super) chains: HashMap<Arc<str>, Arc<ChainRules>>,
    /// The rules that hold by these.
    chained: HashMap<Arc<str>, Arc<config::TrafficRules>>,
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
    /// In what the registry says of the service.
    Chain,
    Defaults,
}

impl fmt::Display for SettingsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(at) => write!(f, "upstreams[{at}]"),
            Self::Tuned(at) => write!(f, "x-services[{at}]"),
            Self::Chain => f.write_str(config::CHAIN_KEY),
            Self::Defaults => f.write_str("defaults"),
        }
    }
}

impl ManagerSettings {
    pub(super) fn new(config: &config::Config) -> Self {
        Self {
            discovery: config.discovery,
            defaults: Arc::new(config.defaults.clone()),
            upstreams: config.upstreams.clone().into(),
            tls: config.upstreams.iter().map(client_tls).collect(),
            tuned: config.tuned.clone().into(),
            names: Arc::new(HostNames::new(config)),
            no_rules: Arc::default(),
            has_routing: config.routing.consul && matches!(config.registry, config::Registry::Consul(_)),
            chains: HashMap::new(),
            chained: HashMap::new(),
            caller: config.services.first().map(|service| ClusterKey::new(&service.name, None, &[])),
            has_failover: config
                .upstreams
                .iter()
                .map(|upstream| &upstream.traffic)
                .chain(config.tuned.iter().map(|tuned| &tuned.traffic))
                .any(|rules| rules.failover.is_some() || rules.zone.is_some()),
        }
    }

    /// The same settings; TLS that is as in `before` is the same, with what it has read.
    pub(super) fn with_tls_of(mut self, before: &Self) -> Self {
        let same = |new: &Arc<ClientTls>| {
            let old = before.tls.iter().flatten();
            old.clone().find(|old| old.settings() == new.settings() && old.alpn() == new.alpn()).cloned()
        };
        self.tls =
            self.tls.iter().map(|new| new.as_ref().map(|new| same(new).unwrap_or(new.clone()))).collect();
        self
    }

    /// The same settings with these chains.
    pub(super) fn with_chains(mut self, chains: &HashMap<Arc<str>, Arc<ChainRules>>) -> Self {
        for (service, chain) in chains {
            self.set_chain(service, Some(chain.clone()));
        }
        self
    }

    /// Replaces the chain of a service.
    pub(super) fn set_chain(&mut self, service: &Arc<str>, chain: Option<Arc<ChainRules>>) {
        self.chained.remove(service);
        let Some(chain) = chain else {
            self.chains.remove(service);
            return;
        };
        let key = ClusterKey::new(service, None, &[]);
        if self.wants_chain(&key) && chain.rules != *self.no_rules {
            // The file says what a chain does not.
            let config::TrafficRules { mirror, zone, .. } = self.own_rules_for(&key).clone();
            let rules = config::TrafficRules { mirror, zone, ..chain.rules.clone() };
            self.chained.insert(service.clone(), Arc::new(rules));
        }
        self.chains.insert(service.clone(), chain);
    }

    /// Whether what the registry says of the requests of a cluster counts.
    pub(super) fn wants_chain(&self, key: &ClusterKey) -> bool {
        self.may_have_chain(key) && !self.own_rules_for(key).choose_instances()
    }

    /// Whether it would, without rules of its own.
    pub(super) fn may_have_chain(&self, key: &ClusterKey) -> bool {
        self.has_routing && is_whole(key)
    }

    pub(super) fn find_declared(&self, key: &ClusterKey) -> Option<&config::Upstream> {
        self.upstreams.iter().find(|upstream| upstream_key(upstream) == *key)
    }

    /// The traffic rules: those of the chain, or else its own.
    pub(super) fn rules_for(&self, key: &ClusterKey) -> &config::TrafficRules {
        self.chained_for(key).unwrap_or_else(|| self.own_rules_for(key))
    }

    /// The rules of the chain. `None`: there are none, or they do not count.
    fn chained_for(&self, key: &ClusterKey) -> Option<&config::TrafficRules> {
        if self.chained.is_empty() || !is_whole(key) {
            None
        } else {
            self.chained.get(&key.service).map(|rules| &**rules)
        }
    }

    /// Those of an upstream hold for what it declares, and for no other form of the service; those of documents hold
    /// for the service as a whole, where no upstream is about it.
    fn own_rules_for(&self, key: &ClusterKey) -> &config::TrafficRules {
        self.rules_at(self.own_rules_place(key)).unwrap_or(&self.no_rules)
    }

    fn rules_at(&self, place: SettingsPlace) -> Option<&config::TrafficRules> {
        match place {
            SettingsPlace::Upstream(at) => Some(&self.upstreams.get(at)?.traffic),
            SettingsPlace::Tuned(at) => Some(&self.tuned.get(at)?.traffic),
            SettingsPlace::Defaults | SettingsPlace::Chain => None,
        }
    }

    /// Where the traffic rules of a cluster are, that say where requests go.
    pub(super) fn rules_place(&self, key: &ClusterKey) -> SettingsPlace {
        if self.chained_for(key).is_some() { SettingsPlace::Chain } else { self.own_rules_place(key) }
    }

    /// Where the traffic rules are that no chain has.
    pub(super) fn own_rules_place(&self, key: &ClusterKey) -> SettingsPlace {
        let declared = self.upstreams.iter().position(|upstream| upstream_key(upstream) == *key);
        let tuned = || self.tuned_place(key).filter(|_| is_whole(key));
        declared.map(SettingsPlace::Upstream).or_else(tuned).unwrap_or(SettingsPlace::Defaults)
    }

    fn tuned_place(&self, key: &ClusterKey) -> Option<SettingsPlace> {
        let tuned = self.tuned.iter().position(|tuned| tuned.service.eq_ignore_ascii_case(&key.service));
        tuned.map(SettingsPlace::Tuned)
    }

    /// Whether any service has a failover, or zones.
    pub(super) fn has_failover(&self) -> bool {
        self.has_failover || !self.chained.is_empty()
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
        let places = |target: &Arc<config::ExactTarget>| {
            let all = [&target.place].into_iter().chain(&target.failover);
            all.map(place_key).collect::<Vec<_>>()
        };
        let exact = || self.rules_for(key).exact_targets().into_iter().flat_map(places);
        if !self.chained.is_empty() {
            out.extend(exact().filter(|place| place != key));
        }
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
            SettingsPlace::Defaults | SettingsPlace::Chain => None,
        };
        found.unwrap_or(&self.defaults)
    }

    /// TLS to the instances of a cluster: that of an upstream holds for every form of its service. `None`: they are called without it.
    pub(super) fn tls_for(&self, key: &ClusterKey) -> Option<&Arc<ClientTls>> {
        match self.policy_place(key) {
            SettingsPlace::Upstream(at) => self.tls.get(at)?.as_ref(),
            SettingsPlace::Tuned(_) | SettingsPlace::Defaults | SettingsPlace::Chain => None,
        }
    }

    /// What the registry is asked for a cluster.
    pub(super) fn query_of(&self, key: &ClusterKey) -> Query {
        key.query(self.policy_for(key).address)
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

/// TLS to the instances of an upstream, which are offered the protocol that is spoken with them.
fn client_tls(upstream: &config::Upstream) -> Option<Arc<ClientTls>> {
    let alpn = match upstream.protocol {
        config::Protocol::Auto => vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()],
        config::Protocol::Http => vec![ALPN_HTTP1.to_vec()],
        config::Protocol::Http2 | config::Protocol::Grpc => vec![ALPN_HTTP2.to_vec()],
        config::Protocol::Tcp => Vec::new(),
    };
    Some(Arc::new(ClientTls::new(upstream.tls.clone()?, alpn)))
}

/// Checks that the TLS files of an upstream can be used now. Blocks the thread.
///
/// # Errors
/// When they cannot be used: names the file.
pub fn check_tls_files(upstream: &config::Upstream) -> Result<(), TlsError> {
    client_tls(upstream).map_or(Ok(()), |tls| tls.check_blocking(""))
}

/// Whether it is a service with all instances in the default datacenter.
pub(super) fn is_whole(key: &ClusterKey) -> bool {
    key.tags.is_empty() && key.datacenter.is_none()
}

/// The cluster of the instances that a chain names.
pub(super) fn place_key(place: &config::ExactPlace) -> ClusterKey {
    ClusterKey { service: place.service.clone(), datacenter: place.datacenter.clone(), tags: Arc::default() }
}

/// The cluster key of an upstream.
pub(crate) fn upstream_key(upstream: &config::Upstream) -> ClusterKey {
    ClusterKey::new(&upstream.service, upstream.datacenter.as_deref(), &upstream.tags)
}
