//! The settings of a cluster's requests.

use std::sync::Arc;

use outrigger_config as config;

use crate::{
    metrics::{
        ServiceSeries,
        cells::{Block, ServiceCells},
    },
    upstream::bulkhead::Bulkhead,
};

/// The settings of every request to a cluster, until the next View.
#[derive(Debug)]
pub(crate) struct ClusterSettings {
    pub(crate) policy: config::Policy,
    pub(crate) series: Arc<ServiceSeries>,
    /// `None`: requests in flight are not limited.
    pub(crate) bulkhead: Option<Arc<Bulkhead>>,
}

impl ClusterSettings {
    pub(crate) fn new(policy: config::Policy, series: Arc<ServiceSeries>) -> Self {
        Self { bulkhead: Bulkhead::new(&policy), policy, series }
    }

    /// The settings with another policy. A bulkhead with the same limits keeps its slots.
    pub(crate) fn with_policy(&self, policy: config::Policy, series: Arc<ServiceSeries>) -> Self {
        let numbers = |one: &config::Policy| (one.max_in_flight, one.max_pending, one.pending_timeout);
        if numbers(&self.policy) == numbers(&policy) {
            return Self { bulkhead: self.bulkhead.clone(), policy, series };
        }
        Self::new(policy, series)
    }

    /// The cells in which `worker` counts for the service.
    pub(crate) fn cells(&self, worker: usize) -> &Block<ServiceCells> {
        self.series.cells.at(worker)
    }

    /// The same settings with other series.
    pub(crate) fn with_series(&self, series: Arc<ServiceSeries>) -> Self {
        Self { policy: self.policy.clone(), series, bulkhead: self.bulkhead.clone() }
    }
}
