//! The settings of a cluster's requests.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use outrigger_config as config;
use outrigger_net::tls::ClientTls;

use crate::{
    metrics::{
        ServiceSeries,
        cells::{Block, ServiceCells},
    },
    upstream::{
        bulkhead::Bulkhead,
        subset::{LiveSubsets, Subset},
        traffic::Traffic,
    },
};

/// Most settings that differ from those of a cluster by a route: that many routes an upstream has.
const MAX_DERIVED: usize = 256;

/// The settings of every request to a cluster, until the next View.
#[derive(Debug)]
pub(crate) struct ClusterSettings {
    pub(crate) policy: config::Policy,
    pub(crate) series: Arc<ServiceSeries>,
    /// `None`: requests in flight are not limited.
    pub(crate) bulkhead: Option<Arc<Bulkhead>>,
    /// `None`: instances are called without TLS.
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// `None`: every request may go to every instance.
    pub(crate) traffic: Option<Arc<Traffic>>,
    /// The key of the route that the policy is of. `None`: it is that of the service.
    pub(crate) route: Option<Box<str>>,
    /// The same with the policies of routes that have come by.
    derived: DerivedSettings,
    /// The subsets of the cluster that are in use.
    pub(crate) live_subsets: Arc<LiveSubsets>,
}

/// Settings that differ from others by what a route says alone.
#[derive(Debug, Default)]
struct DerivedSettings(ArcSwap<Vec<(DerivedPolicy, Arc<ClusterSettings>)>>);

/// What a route says of the policy. Compared by addresses, which it keeps alive.
#[derive(Debug, Clone)]
enum DerivedPolicy {
    Whole(Arc<config::Policy>),
    Tuned(Option<Arc<config::PolicyTuning>>, Option<Duration>),
}

/// The policy that follows from `base` by what a chain of the registry says.
pub(crate) fn tune_policy(
    base: &config::Policy,
    tuning: Option<&config::PolicyTuning>,
    connect_timeout: Option<Duration>,
) -> config::Policy {
    let mut policy = base.clone();
    policy.connect_timeout = connect_timeout.unwrap_or(policy.connect_timeout);
    let Some(tuning) = tuning else { return policy };
    policy.timeout = tuning.timeout.unwrap_or(policy.timeout);
    policy.per_try_timeout = policy.per_try_timeout.map(|time| time.min(policy.timeout));
    policy.retry.max_retries = tuning.max_retries.unwrap_or(policy.retry.max_retries);
    if let Some(statuses) = &tuning.statuses {
        policy.retry.statuses.clone_from(statuses);
    }
    policy
}

impl DerivedPolicy {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => Arc::ptr_eq(one, other),
            (Self::Tuned(one, connect), Self::Tuned(other, other_connect)) => {
                one.as_ref().map(Arc::as_ptr) == other.as_ref().map(Arc::as_ptr) && connect == other_connect
            }
            _ => false,
        }
    }

    fn over(&self, base: &config::Policy) -> config::Policy {
        match self {
            Self::Whole(policy) => (**policy).clone(),
            Self::Tuned(tuning, connect_timeout) => tune_policy(base, tuning.as_deref(), *connect_timeout),
        }
    }
}

impl ClusterSettings {
    pub(crate) fn new(
        policy: config::Policy,
        rules: &config::TrafficRules,
        series: Arc<ServiceSeries>,
    ) -> Self {
        let live_subsets = Arc::<LiveSubsets>::default();
        let traffic = Traffic::new(rules, policy.balance, &live_subsets, None);
        Self {
            bulkhead: Bulkhead::new(&policy),
            policy,
            series,
            tls: None,
            traffic,
            route: None,
            derived: DerivedSettings::default(),
            live_subsets,
        }
    }

    /// The settings that follow these. A bulkhead with the same limits keeps its slots, and a subset that stays its endpoints.
    pub(crate) fn changed(
        &self,
        policy: config::Policy,
        rules: &config::TrafficRules,
        series: Arc<ServiceSeries>,
    ) -> Self {
        let live_subsets = self.live_subsets.clone();
        let traffic = Traffic::new(rules, policy.balance, &live_subsets, self.traffic.as_ref());
        let bulkhead = self.bulkhead_for(&policy);
        Self {
            bulkhead,
            policy,
            series,
            tls: self.tls.clone(),
            traffic,
            route: None,
            derived: DerivedSettings::default(),
            live_subsets,
        }
    }

    /// The same settings with TLS to the instances, or without it.
    pub(crate) fn with_tls(self, tls: Option<Arc<ClientTls>>) -> Self {
        Self { tls, ..self }
    }

    /// The same settings with the policy of a route, which has this key.
    pub(crate) fn with_policy(
        &self,
        policy: &Arc<config::Policy>,
        key: impl FnOnce() -> Box<str>,
    ) -> Arc<Self> {
        self.derive(DerivedPolicy::Whole(policy.clone()), key)
    }

    /// The same settings with what a chain of the registry says of the policy.
    pub(crate) fn tuned(
        &self,
        tuning: Option<&Arc<config::PolicyTuning>>,
        connect_timeout: Option<Duration>,
    ) -> Arc<Self> {
        self.derive(DerivedPolicy::Tuned(tuning.cloned(), connect_timeout), || config::CHAIN_KEY.into())
    }

    /// Made at the first request that needs them. `key`: where the policy is.
    fn derive(&self, policy: DerivedPolicy, key: impl FnOnce() -> Box<str>) -> Arc<Self> {
        let known = self.derived.0.load();
        if let Some((_, derived)) = known.iter().find(|(one, _)| one.is(&policy)) {
            return derived.clone();
        }
        let derived = Arc::new(Self {
            policy: policy.over(&self.policy),
            series: self.series.clone(),
            tls: self.tls.clone(),
            // The limit is that of the service, whichever way a request comes.
            bulkhead: self.bulkhead.clone(),
            traffic: self.traffic.clone(),
            route: Some(key()),
            derived: DerivedSettings::default(),
            live_subsets: self.live_subsets.clone(),
        });
        // Another worker may have made the same: then there are two for the rest of this View. Chains that change leave some behind.
        self.derived.0.rcu(|all| {
            let new = (policy.clone(), derived.clone());
            let kept = all.iter().skip(all.len().saturating_sub(MAX_DERIVED)).cloned();
            kept.chain([new]).collect::<Vec<_>>()
        });
        derived
    }

    fn bulkhead_for(&self, policy: &config::Policy) -> Option<Arc<Bulkhead>> {
        let numbers = |one: &config::Policy| (one.max_in_flight, one.max_pending, one.pending_timeout);
        if numbers(&self.policy) == numbers(policy) { self.bulkhead.clone() } else { Bulkhead::new(policy) }
    }

    /// The subsets, in the order of the settings.
    pub(crate) fn subsets(&self) -> &[Arc<Subset>] {
        self.traffic.as_ref().map_or(&[], |traffic| &traffic.subsets)
    }

    /// How requests stay in a zone. `None`: zones do not count.
    pub(crate) fn zone(&self) -> Option<&config::ZoneRouting> {
        self.traffic.as_ref()?.rules.zone.as_ref()
    }

    /// Whether a cluster with these settings is to have others.
    pub(crate) fn differs(
        &self,
        policy: &config::Policy,
        rules: &config::TrafficRules,
        tls: Option<&Arc<ClientTls>>,
    ) -> bool {
        let same_rules = match &self.traffic {
            Some(traffic) => traffic.rules == *rules,
            None => *rules == config::TrafficRules::default(),
        };
        let same_tls = self.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr);
        self.policy != *policy || !same_rules || !same_tls
    }

    /// The cells in which `worker` counts for the service.
    pub(crate) fn cells(&self, worker: usize) -> &Block<ServiceCells> {
        self.series.cells.at(worker)
    }

    /// The same settings with other series.
    pub(crate) fn with_series(&self, series: Arc<ServiceSeries>) -> Self {
        let (bulkhead, traffic) = (self.bulkhead.clone(), self.traffic.clone());
        let live_subsets = self.live_subsets.clone();
        let derived = DerivedSettings::default();
        let (policy, tls) = (self.policy.clone(), self.tls.clone());
        Self { policy, series, tls, bulkhead, traffic, route: None, derived, live_subsets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn what_a_chain_says_takes_the_place_of_some_settings() {
        let mut base = config::Policy::default();
        (base.timeout, base.per_try_timeout, base.connect_timeout) =
            (millis(5000), Some(millis(2000)), millis(700));
        base.retry.statuses = vec![502, 503];
        let none = config::PolicyTuning::default();
        assert_eq!(tune_policy(&base, None, None), base);
        assert_eq!(tune_policy(&base, Some(&none), None), base);
        let tuning = config::PolicyTuning {
            timeout: Some(millis(1000)),
            max_retries: Some(0),
            statuses: Some(Vec::new()),
        };
        let tuned = tune_policy(&base, Some(&tuning), Some(millis(250)));
        let mut expected = base.clone();
        (expected.timeout, expected.connect_timeout) = (millis(1000), millis(250));
        // One attempt has not longer than all of them.
        expected.per_try_timeout = Some(millis(1000));
        (expected.retry.max_retries, expected.retry.statuses) = (0, Vec::new());
        assert_eq!(tuned, expected);
        let longer = config::PolicyTuning { timeout: Some(millis(60_000)), ..none };
        assert_eq!(tune_policy(&base, Some(&longer), None).per_try_timeout, base.per_try_timeout);
    }

    #[test]
    fn tuned_settings_are_made_once_and_those_of_old_chains_are_forgotten() {
        let rules = config::TrafficRules::default();
        let series = Metrics::new(1).unwrap().service_series(None);
        let settings = ClusterSettings::new(config::Policy::default(), &rules, series);
        let tuning = |count| {
            Arc::new(config::PolicyTuning { max_retries: Some(count), ..config::PolicyTuning::default() })
        };
        let one = tuning(1);
        let made = settings.tuned(Some(&one), None);
        assert_eq!(made.policy.retry.max_retries, 1);
        assert!(Arc::ptr_eq(&made, &settings.tuned(Some(&one), None)));
        let quick = settings.tuned(Some(&one), Some(millis(10)));
        assert_eq!((quick.policy.retry.max_retries, quick.policy.connect_timeout), (1, millis(10)));
        // The bulkhead is that of the service.
        assert_eq!(made.bulkhead.as_ref().map(Arc::as_ptr), settings.bulkhead.as_ref().map(Arc::as_ptr));
        for count in 0..MAX_DERIVED + 10 {
            settings.tuned(Some(&tuning(u32::try_from(count).unwrap())), None);
        }
        assert!(settings.derived.0.load().len() <= MAX_DERIVED + 1);
    }
}
