//! What all watchers share.

use std::sync::Arc;

use outrigger_events::{Event, EventKind, Events};
use outrigger_registry::{Query, Registry};

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
    pub(crate) events: Events,
}

impl WatchContext {
    /// Records a decision about a service.
    pub(super) fn record_event(&self, kind: EventKind, service: &Query, reason: impl AsRef<str>) {
        self.events.record(Event::new(kind, reason).of_service(service.to_string()));
    }
}
