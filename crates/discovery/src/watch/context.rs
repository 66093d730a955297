//! What all watchers share.

use std::sync::Arc;

use outrigger_registry::Registry;

use super::outage::OutageTracker;
use crate::{cache::DiskCache, metrics::Metrics, services::Services, suspects::LivenessProber};

/// What all watchers share.
#[derive(Debug)]
pub(crate) struct WatchContext {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) services: Arc<Services>,
    pub(crate) metrics: Metrics,
    pub(crate) outage: OutageTracker,
    pub(crate) prober: LivenessProber,
    pub(crate) cache: Option<Arc<DiskCache>>,
}
