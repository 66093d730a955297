//! Puts a new list of instances in force.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use outrigger_registry::Instance;
use tracing::{debug, info};

use super::{changes::record_changes, context::WatchContext};
use crate::{Snapshot, service::Service};

/// Publishes `instances`, sorted by identity. Only the task of the watcher calls this.
pub(super) fn publish(
    context: &WatchContext,
    service: &Arc<Service>,
    instances: Arc<[Instance]>,
    now: Instant,
) {
    let (was_known, before) = (service.ever_had_instances(), service.snapshot());
    service.accepted.fetch_add(1, Relaxed);
    let snapshot = service.publish(instances, now);
    if !was_known && service.ever_had_instances() {
        context.services.mark_known(&service.query);
    }
    if let Some(cache) = &context.cache {
        cache.record_change(service);
    }
    log_change(service, &snapshot);
    // Whether an instance is in the part that a filter selects is no news of the instance.
    if service.query.filter.is_none() {
        record_changes(&context.events, &service.query, &before.instances, &snapshot.instances);
    }
}

fn log_change(service: &Service, snapshot: &Snapshot) {
    let query = &service.query;
    if !service.ever_had_instances() {
        debug!(service = %query, "the registry knows no such service");
        return;
    }
    let counts = snapshot.counts();
    info!(
        service = %query,
        version = snapshot.version,
        passing = counts.passing,
        warning = counts.warning,
        critical = counts.critical,
        maintenance = counts.maintenance,
        "service changed"
    );
}
