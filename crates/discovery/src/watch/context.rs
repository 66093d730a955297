//! What all watchers share.

use std::sync::Arc;

use outrigger_registry::Registry;

use super::outage::OutageTracker;
use crate::{cache::DiskCache, metrics::Metrics, services::Services, suspects::LivenessProber};

/// What all watchers share.
#[derive(Debug)]
pub(crate) struct WatchContext {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) services: Arc<Services>,
    pub(crate) metrics: Metrics,
    pub(super) outage: OutageTracker,
    pub(crate) prober: LivenessProber,
    pub(super) cache: Option<Arc<DiskCache>>,
}

impl WatchContext {
    pub(crate) fn new(
        registry: Arc<dyn Registry>,
        services: Arc<Services>,
        metrics: Metrics,
        cache: Option<Arc<DiskCache>>,
    ) -> Self {
        let probe_timeout = services.settings().mass_loss.unwrap_or_default().probe_timeout;
        let (outage, prober) = (OutageTracker::default(), LivenessProber::new(probe_timeout));
        Self { registry, services, metrics, outage, prober, cache }
    }
}
