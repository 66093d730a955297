//! The settings of a cluster's requests.

use std::sync::Arc;

use outrigger_config as config;

use crate::{
    metrics::{
        ServiceSeries,
        cells::{Block, ServiceCells},
    },
    upstream::{
        bulkhead::Bulkhead,
        traffic::{Subset, Traffic},
    },
};

/// The settings of every request to a cluster, until the next View.
#[derive(Debug)]
pub(crate) struct ClusterSettings {
    pub(crate) policy: config::Policy,
    pub(crate) series: Arc<ServiceSeries>,
    /// `None`: requests in flight are not limited.
    pub(crate) bulkhead: Option<Arc<Bulkhead>>,
    /// `None`: every request may go to every instance.
    pub(crate) traffic: Option<Arc<Traffic>>,
}

impl ClusterSettings {
    pub(crate) fn new(
        policy: config::Policy,
        rules: &config::TrafficRules,
        series: Arc<ServiceSeries>,
    ) -> Self {
        let traffic = Traffic::new(rules, policy.balance, None);
        Self { bulkhead: Bulkhead::new(&policy), policy, series, traffic }
    }

    /// The settings that follow these. A bulkhead with the same limits keeps its slots, and a subset that stays its endpoints.
    pub(crate) fn changed(
        &self,
        policy: config::Policy,
        rules: &config::TrafficRules,
        series: Arc<ServiceSeries>,
    ) -> Self {
        let traffic = Traffic::new(rules, policy.balance, self.traffic.as_ref());
        Self { bulkhead: self.bulkhead_for(&policy), policy, series, traffic }
    }

    /// The same settings with the policy of a route.
    pub(crate) fn with_policy(&self, policy: config::Policy) -> Self {
        let (series, traffic) = (self.series.clone(), self.traffic.clone());
        // The limit is that of the service, whichever way a request comes.
        Self { bulkhead: self.bulkhead.clone(), policy, series, traffic }
    }

    fn bulkhead_for(&self, policy: &config::Policy) -> Option<Arc<Bulkhead>> {
        let numbers = |one: &config::Policy| (one.max_in_flight, one.max_pending, one.pending_timeout);
        if numbers(&self.policy) == numbers(policy) { self.bulkhead.clone() } else { Bulkhead::new(policy) }
    }

    /// The subsets, in the order of the settings.
    pub(crate) fn subsets(&self) -> &[Arc<Subset>] {
        self.traffic.as_ref().map_or(&[], |traffic| &traffic.subsets)
    }

    /// Whether a cluster with these settings is to have others.
    pub(crate) fn differs(&self, policy: &config::Policy, rules: &config::TrafficRules) -> bool {
        let same_rules = match &self.traffic {
            Some(traffic) => traffic.rules == *rules,
            None => *rules == config::TrafficRules::default(),
        };
        self.policy != *policy || !same_rules
    }

    /// The cells in which `worker` counts for the service.
    pub(crate) fn cells(&self, worker: usize) -> &Block<ServiceCells> {
        self.series.cells.at(worker)
    }

    /// The same settings with other series.
    pub(crate) fn with_series(&self, series: Arc<ServiceSeries>) -> Self {
        let (bulkhead, traffic) = (self.bulkhead.clone(), self.traffic.clone());
        Self { policy: self.policy.clone(), series, bulkhead, traffic }
    }
}
